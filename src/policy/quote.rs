//! The lines of a file, as far as they may be shown.
//!
//! Owns places and masks: a line leaves here without the values of secret-bearing and unknown keys, and without the user
//! part of a URL. Refuses to know what keys mean: `document` says which values are secret.

use std::ops::Range;

use super::problem::{Place, Quote};
use super::words::is_public_key;

const MASK: &str = "***";

/// At most so many bytes of a line are shown on either side of what is meant.
const SIDE_BYTES_MAX: usize = 160;

/// One file of a configuration.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// As people may see it: the path it was read from.
    pub name: String,
    pub text: String,
    /// Whether it is the `lifeboat.toml` that holds the daemon and the repositories.
    pub is_main: bool,
}

/// A file with what is needed to quote it.
pub(super) struct Page<'a> {
    pub file: &'a SourceFile,
    line_starts: Vec<usize>,
    /// Byte ranges of values that nobody may see. None: the file was not understood, and each line is masked by its look.
    pub secrets: Option<Vec<Range<usize>>>,
}

impl<'a> Page<'a> {
    pub fn new(file: &'a SourceFile) -> Self {
        let after_newline = file.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { file, line_starts: std::iter::once(0).chain(after_newline).collect(), secrets: None }
    }

    pub fn place(&self, at: usize) -> Place {
        let (line, start) = self.line_of(at);
        let col = self.file.text.get(start..at).map_or(0, |text| text.chars().count()) + 1;
        Place { file: self.file.name.clone(), line: line + 1, col }
    }

    fn line_of(&self, at: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= at).saturating_sub(1);
        (line, self.line_starts.get(line).copied().unwrap_or(0))
    }

    /// The line where `span` begins, masked.
    pub fn quote(&self, span: &Range<usize>) -> Quote {
        let text = &self.file.text;
        let (line, start) = self.line_of(span.start);
        let end = self.line_starts.get(line + 1).map_or(text.len(), |next| next - 1).max(start);
        let raw = text.get(start..end).unwrap_or_default().trim_end_matches('\r');
        let clip = |at: usize| floor_char(raw, at.saturating_sub(start).min(raw.len()));
        let mark = clip(span.start)..clip(span.end.max(span.start));

        let mut masks: Vec<Range<usize>> = match &self.secrets {
            Some(secrets) => {
                let touches = |secret: &&Range<usize>| secret.start < start + raw.len() && secret.end > start;
                secrets.iter().filter(touches).map(|secret| clip(secret.start)..clip(secret.end)).collect()
            }
            None => masks_by_look(raw).into_iter().collect(),
        };
        masks.extend(url_users(raw));
        masks.sort_by_key(|mask| (mask.start, mask.end));
        draw(raw, &mark, &masks)
    }
}

/// `raw` with each mask replaced, control characters made harmless, and cut to a length that fits a screen.
fn draw(raw: &str, mark: &Range<usize>, masks: &[Range<usize>]) -> Quote {
    let from = floor_char(raw, mark.start.saturating_sub(SIDE_BYTES_MAX));
    let to = floor_char(raw, (mark.start + 2 * SIDE_BYTES_MAX).min(raw.len()));
    let mut text = String::from(if from > 0 { "…" } else { "" });
    let mut drawn = Range { start: None, end: None };
    let mut masks = masks.iter().peekable();
    let mut mask_ends = 0;
    for (at, c) in raw.char_indices() {
        while masks.peek().is_some_and(|mask| mask.start <= at) {
            let Some(mask) = masks.next() else { break };
            if mask.end > at.max(mask_ends) {
                if at >= mask_ends && mask.end > from && at < to {
                    if mark.start >= at && mark.start < mask.end {
                        drawn.start = Some(text.len());
                    }
                    text.push_str(MASK);
                }
                mask_ends = mask.end;
            }
        }
        if at >= mark.end && drawn.end.is_none() && at >= mask_ends {
            drawn.end = Some(text.len());
        }
        if at < mask_ends || at < from || at >= to {
            continue;
        }
        if at >= mark.start && drawn.start.is_none() {
            drawn.start = Some(text.len());
        }
        // Control characters and those that reorder text would let a file draw on the terminal.
        let harmless = !c.is_control()
            && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        match c {
            '\t' => text.push_str("    "),
            _ => text.push(if harmless { c } else { char::REPLACEMENT_CHARACTER }),
        }
    }
    let full = text.len();
    if to < raw.len() {
        text.push('…');
    }
    let start = drawn.start.unwrap_or(full);
    Quote { mark: start..drawn.end.unwrap_or(full).max(start), text }
}

/// What stands between `://` and the last `@` (a password may hold any character), and whatever follows a `?`.
fn url_users(line: &str) -> Vec<Range<usize>> {
    let mut masks = Vec::new();
    for (at, marker) in line.match_indices("://") {
        let start = at + marker.len();
        let url = line[start..].split(['"', '\'']).next().unwrap_or_default();
        let user_end = url.rfind('@').unwrap_or(0);
        if user_end > 0 {
            masks.push(start..start + user_end);
        }
        if let Some(query) = url[user_end..].find('?').map(|query| user_end + query + 1).filter(|at| *at < url.len()) {
            masks.push(start + query..start + url.len());
        }
    }
    masks
}

/// `text` with the user part of URLs masked.
pub(super) fn without_url_users(text: &str) -> String {
    let mut masked = text.to_owned();
    for mask in url_users(text).into_iter().rev() {
        masked.replace_range(mask, MASK);
    }
    masked
}

/// For a line of a file that is no TOML: everything from the first place on that could be a secret.
///
/// What may be seen is a table's header, and `key = value` as long as every key on the line is a public one.
fn masks_by_look(line: &str) -> Option<Range<usize>> {
    let body = line.trim_start();
    let indent = line.len() - body.len();
    let is_header = |c: char| c.is_ascii_alphanumeric() || "[]._-\"' ".contains(c);
    if body.is_empty() || (body.starts_with('[') && body.len() <= 100 && body.trim_end().chars().all(is_header)) {
        return None;
    }
    let mut keys_end = 0;
    for (at, _) in line.match_indices('=') {
        let key = line[keys_end..at].trim_end().trim_end_matches(['"', '\'']);
        let word = key.rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).map_or(key, |before| {
            let width = key[before..].chars().next().map_or(1, char::len_utf8);
            &key[before + width..]
        });
        if !is_public_key(word) {
            return Some(value_after(line, if keys_end == 0 { at + 1 } else { keys_end }));
        }
        keys_end = at + 1;
    }
    if keys_end == 0 { Some(indent..line.len()) } else { None }
}

/// From the first byte that is no space to the end of the line.
fn value_after(line: &str, at: usize) -> Range<usize> {
    let rest = &line[at..];
    at + rest.len() - rest.trim_start().len()..line.len()
}

fn floor_char(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quote_of(text: &str, span: Range<usize>, secrets: &[Range<usize>]) -> Quote {
        let file = SourceFile { name: "a.toml".into(), text: text.into(), is_main: true };
        let mut page = Page::new(&file);
        page.secrets = (!secrets.is_empty()).then(|| secrets.to_vec());
        page.quote(&span)
    }

    #[test]
    fn columns_are_characters_and_lines_count_from_one() {
        let file = SourceFile { name: "a.toml".into(), text: "a\r\nüü = 1\n".into(), is_main: true };
        let page = Page::new(&file);
        let at = file.text.find('=').unwrap();
        assert_eq!((page.place(at).line, page.place(at).col), (2, 4));
        assert_eq!((page.place(file.text.len()).line, page.place(file.text.len()).col), (3, 1));
    }

    #[test]
    fn a_mask_hides_the_length_of_what_it_hides() {
        let secret = 6..15;
        let quote = quote_of("key = \"hunter2\", url = 5", 23..24, std::slice::from_ref(&secret));
        assert_eq!((quote.text.as_str(), quote.mark), ("key = ***, url = 5", 17..18));
        let quote = quote_of("key = \"hunter2\"", 6..15, std::slice::from_ref(&secret));
        assert_eq!((quote.text.as_str(), quote.mark), ("key = ***", 6..9));
        let quote = quote_of("key = \"hunter2\"", 8..10, &[secret, 7..9]);
        assert_eq!((quote.text.as_str(), quote.mark), ("key = ***", 6..9));
    }

    #[test]
    fn the_user_part_of_a_url_is_masked() {
        assert_eq!(without_url_users("https://me:pw@host/x"), "https://***@host/x");
        assert_eq!(without_url_users("https://me:p/w@host/x"), "https://***@host/x");
        assert_eq!(without_url_users("https://me:p@/w?@host/x"), "https://***@host/x");
        assert_eq!(without_url_users("https://host/x?sig=hunter2"), "https://host/x?***");
        assert_eq!(without_url_users("file:///srv/a"), "file:///srv/a");
    }

    #[test]
    fn a_line_that_was_not_understood_shows_public_keys_only() {
        let shown = |line: &str| quote_of(line, 0..1, &[]).text;
        assert_eq!(shown("schedule = \"daily 02:00"), "schedule = \"daily 02:00");
        assert_eq!(shown("[policy.home"), "[policy.home");
        assert_eq!(shown("key = \"hunter2"), "key = ***");
        assert_eq!(shown("password = hunter2"), "password = ***");
        assert_eq!(shown("source = \"/a\", key = \"hunter2\""), "source = ***");
        assert_eq!(shown("hunter2\""), "***");
        assert_eq!(shown("  hunter2"), "  ***");
    }

    #[test]
    fn a_line_cannot_draw_on_the_terminal_nor_fill_it() {
        let text = format!("a = \"\u{1b}[2J{}\"", "x".repeat(5000));
        let quote = quote_of(&text, 0..1, &[]);
        assert!(quote.text.len() < 400 && !quote.text.contains('\u{1b}'));
    }
}
