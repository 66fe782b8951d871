//! Reads the files of a configuration.
//!
//! Owns the only I/O of this module: names in, texts out. Refuses to understand them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::found::Found;
use super::quote::SourceFile;

/// No configuration written by hand comes near this; a pipe or a disk image does not fit.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `dir/lifeboat.toml`, if there is one, then `dir/policies/*.toml` by name. The rest of `dir` is not looked at.
pub(super) fn directory(dir: &Path, found: &mut Found) -> Vec<SourceFile> {
    let mut files = Vec::new();
    let main = dir.join("lifeboat.toml");
    let has_main = main.symlink_metadata().is_ok();
    if has_main {
        files.extend(file(&main, found));
    }
    let policies = dir.join("policies");
    match policy_files(&policies) {
        Ok(paths) => files.extend(paths.iter().filter_map(|path| file(path, found))),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound && has_main => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            let hint = "write DIR/lifeboat.toml and DIR/policies/NAME.toml, or give another place with --config DIR";
            found.whole("E101", dir.display().to_string(), "there is no configuration here", hint);
        }
        Err(cause) => found.whole("E101", policies.display().to_string(), format!("cannot list it: {cause}"), ""),
    }
    files
}

fn policy_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in dir.read_dir()? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// `files`, each once, after the `lifeboat.toml` they belong to.
pub(super) fn with_their_main(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for file in files {
        let dir = file.parent().unwrap_or(Path::new(""));
        let above = if dir.ends_with("policies") { dir.parent() } else { None };
        let mains = std::iter::once(dir).chain(above).map(|dir| dir.join("lifeboat.toml"));
        let main = mains.into_iter().find(|main| main.is_file());
        for path in main.into_iter().chain([file.clone()]) {
            if !all.contains(&path) {
                all.push(path);
            }
        }
    }
    all
}

/// One file. It is the main one by its name.
pub(super) fn file(path: &Path, found: &mut Found) -> Option<SourceFile> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(cause) = read {
        found.whole("E101", name, format!("cannot read it: {cause}"), "");
        return None;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        found.whole("E101", name, "it is larger than 1 MiB, which no configuration is", "");
        return None;
    }
    let Ok(text) = String::from_utf8(bytes) else {
        found.whole("E101", name, "it is not UTF-8 text", "");
        return None;
    };
    let is_main = path.file_name().is_some_and(|name| name == "lifeboat.toml");
    Some(SourceFile { name, text, is_main })
}
