//! What is left out of a backup.
//!
//! Owns the meaning of patterns. Refuses to walk: whoever descends asks for each name, and does not descend into what is out.
//!
//! Patterns are gitignore's, with one change that people who come from restic need: paths are those of the host.
//!
//! - `*.o`, `node_modules/`, `cache/tmp`: matches at any depth, whether or not it has a slash within. A slash at the end
//!   matches directories only.
//! - `/home/*/cache`: matches this absolute path of the host, whatever root is being saved.
//! - `./cache`: matches beneath the root that is being saved, there only.
//! - `!pattern` takes back what an earlier pattern left out; the last pattern that matches decides. Nothing comes back from
//!   within a directory that is left out itself, since nobody looks there: write `dir/*` and `!dir/keep` for that.
//! - In files, `#` begins a comment and empty lines mean nothing. In a list, `#` is a letter and an empty pattern a mistake.
//!
//! The root itself is never left out: it was asked for by name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::SourceError;

/// Patterns, ready to match. The default leaves nothing out.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    patterns: Option<Gitignore>,
    /// BLAKE3 of the patterns as they were understood.
    fingerprint: [u8; 32],
}

impl Excludes {
    /// Reads `patterns`, then the lines of each of `files`, in this order. `base` is the absolute root that `./` stands for;
    /// files are opened as given.
    pub fn new(base: &Path, patterns: &[String], files: &[PathBuf]) -> Result<Self, SourceError> {
        let mut builder = GitignoreBuilder::new("/");
        let mut hasher = blake3::Hasher::new();
        let mut note = |line: &str| {
            hasher.update(line.as_bytes()).update(b"\n");
        };
        for pattern in patterns {
            if pattern.trim().is_empty() {
                return Err(SourceError::EmptyPattern);
            }
            let literal = if pattern.starts_with('#') { format!("\\{pattern}") } else { pattern.clone() };
            let line = gitignore_line(base, &literal)?;
            note(&line);
            let added = builder.add_line(None, &line).map(|_| ());
            added.map_err(|cause| SourceError::Pattern { pattern: pattern.clone(), cause })?;
        }
        for path in files {
            let unreadable = |cause| SourceError::PatternFile { path: path.clone(), cause };
            let text = std::fs::read_to_string(path).map_err(unreadable)?;
            let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines();
            for (index, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
            {
                let line = gitignore_line(base, line)?;
                note(&line);
                let added = builder.add_line(None, &line).map(|_| ());
                added.map_err(|cause| SourceError::PatternLine { path: path.clone(), line: index + 1, cause })?;
            }
        }
        let built = builder.build().map_err(|cause| SourceError::Pattern { pattern: patterns.join(", "), cause })?;
        let fingerprint = *hasher.finalize().as_bytes();
        Ok(Self { patterns: (!built.is_empty()).then_some(built), fingerprint })
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_none()
    }

    /// The same for the same patterns in the same order.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Whether the host's absolute `path` is left out by itself; its parents are the walk's to ask about.
    pub fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        self.says(path, is_directory) == Some(true)
    }

    /// What the last pattern that matches says of `path` itself: that it is meant, or with `!` that it is not.
    pub fn says(&self, path: &[u8], is_directory: bool) -> Option<bool> {
        match self.patterns.as_ref()?.matched(Path::new(OsStr::from_bytes(path)), is_directory) {
            ignore::Match::None => None,
            ignore::Match::Ignore(_) => Some(true),
            ignore::Match::Whitelist(_) => Some(false),
        }
    }
}

/// One of our patterns in gitignore's words, seen from `/`.
fn gitignore_line(base: &Path, pattern: &str) -> Result<String, SourceError> {
    let (not, body) = match pattern.strip_prefix('!') {
        Some(body) => ("!", body),
        None => ("", pattern),
    };
    if let Some(beneath) = body.strip_prefix("./") {
        let Some(base_text) = base.to_str() else {
            let base = base.as_os_str().as_bytes().to_vec();
            return Err(SourceError::PatternBase { pattern: pattern.to_owned(), base });
        };
        let base_text = globset_escape(base_text.trim_end_matches('/'));
        return Ok(format!("{not}{base_text}/{beneath}"));
    }
    let within = body.trim_end().trim_end_matches('/');
    if body.starts_with('/') || !within.contains('/') {
        return Ok(pattern.to_owned());
    }
    Ok(format!("{not}**/{body}"))
}

/// `text` as a pattern that matches nothing else.
fn globset_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '!' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(patterns: &[&str]) -> Excludes {
        let patterns: Vec<String> = patterns.iter().map(|p| p.to_string()).collect();
        Excludes::new(Path::new("/srv/da[t]a"), &patterns, &[]).unwrap()
    }

    #[test]
    fn a_leading_slash_means_a_path_of_the_host() {
        let out = excludes(&["/home/*/cache"]);
        assert!(out.excludes(b"/home/ann/cache", true));
        assert!(!out.excludes(b"/home/cache", true));
        assert!(!out.excludes(b"/srv/home/ann/cache", true));
        assert!(!out.excludes(b"/home/a/b/cache", true), "a star stops at a slash");
    }

    #[test]
    fn without_a_leading_slash_a_pattern_matches_at_any_depth() {
        let out = excludes(&["*.o", "cache/tmp", "**/deep/x"]);
        for path in [&b"/a.o"[..], b"/x/y/a.o", b"/cache/tmp", b"/x/y/cache/tmp", b"/q/deep/x", b"/n\xff\n/\xfe.o"] {
            assert!(out.excludes(path, false), "{path:?}");
        }
        assert!(!out.excludes(b"/x/tmp", false));
    }

    #[test]
    fn a_slash_at_the_end_means_directories_only() {
        let out = excludes(&["target/", "a/b/"]);
        assert!(out.excludes(b"/x/target", true) && out.excludes(b"/x/a/b", true));
        assert!(!out.excludes(b"/x/target", false) && !out.excludes(b"/x/a/b", false));
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let out = excludes(&["*.log", "!keep.log", "logs/*", "!logs/audit"]);
        assert!(out.excludes(b"/x/a.log", false));
        assert!(!out.excludes(b"/x/keep.log", false));
        assert!(out.excludes(b"/x/logs/keep.log", false));
        assert!(!out.excludes(b"/x/logs/audit", false));
    }

    #[test]
    fn a_dot_slash_means_beneath_the_root_even_if_it_looks_like_a_pattern() {
        let out = excludes(&["./cache"]);
        assert!(out.excludes(b"/srv/da[t]a/cache", true));
        assert!(!out.excludes(b"/srv/data/cache", true));
        assert!(!out.excludes(b"/srv/da[t]a/x/cache", true));
    }

    #[test]
    fn a_list_takes_hash_as_a_letter_and_a_file_as_a_comment() {
        assert!(excludes(&["#*#"]).excludes(b"/x/#a#", false));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("excludes");
        std::fs::write(&file, "\u{feff}# *.c\n\n*.h\n!keep.h\n").unwrap();
        let out = Excludes::new(Path::new("/srv"), &[], &[file]).unwrap();
        assert!(out.excludes(b"/x/a.h", false));
        assert!(!out.excludes(b"/x/a.c", false) && !out.excludes(b"/x/keep.h", false));
    }

    #[test]
    fn a_mistake_names_its_pattern_or_its_line() {
        let bad = Excludes::new(Path::new("/"), &["a{b".to_owned()], &[]).unwrap_err();
        assert_eq!(bad.to_string(), "\"a{b\" is not a pattern");
        assert!(matches!(Excludes::new(Path::new("/"), &[" ".into()], &[]), Err(SourceError::EmptyPattern)));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("excludes");
        std::fs::write(&file, "fine\na{b\n").unwrap();
        assert!(Excludes::new(Path::new("/"), &[], &[file]).unwrap_err().to_string().starts_with("line 2 of"));
        let missing = [dir.path().join("none")];
        assert!(matches!(Excludes::new(Path::new("/"), &[], &missing), Err(SourceError::PatternFile { .. })));
    }

    #[test]
    fn nothing_asked_is_nothing_left_out() {
        assert!(Excludes::default().is_empty());
        assert!(excludes(&[]).is_empty());
        assert!(!Excludes::default().excludes(b"/x", false));
    }
}
