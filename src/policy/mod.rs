//! Text in, checked policies out.
//!
//! Owns TOML: only this module reads it. Refuses to act: no secret is opened, no store asked, and of the file system nothing
//! is read but the configuration's own files, in `load`. It speaks of `schedule`, its neighbour, and of nothing below.
//!
//! ```text
//! files → document (what was typed, with places) → check (what it means) → Config
//!              └───────── found ──────────┴→ quote (masked lines) → Problems → picture
//! ```

mod check;
mod cloud;
mod document;
mod found;
mod load;
mod model;
mod picture;
mod problem;
mod quote;
mod timing;
mod values;
mod words;

use std::path::{Path, PathBuf};

pub use model::*;
pub use picture::render;
pub use problem::*;
pub use quote::SourceFile;

use check::Names;
use found::Found;

/// Reads `dir/lifeboat.toml` (it may be absent) and `dir/policies/*.toml`. The problems hold at least one error.
pub fn load(dir: &Path) -> Result<Config, Problems> {
    let mut found = Found::default();
    let files = load::directory(dir, &mut found);
    let has_unread_files = found.has_errors();
    let (config, problems) = check::check(&files, if has_unread_files { Names::Unseen } else { Names::Known }, found);
    let mut config = config.ok_or(problems)?;
    if config.policies.is_empty() {
        let mut found = Found::default();
        let hint = "write a policy into policies/NAME.toml: its header, source, repo, schedule and keep";
        found.whole("W101", dir.display().to_string(), "there is no policy, so nothing is backed up", hint);
        config.warnings.list.extend(found.finish(&[]).list);
    }
    Ok(config)
}

/// Checks single files, together with the `lifeboat.toml` that stands beside them or above their `policies` directory.
/// Where there is none, the names of repositories cannot be known, and any will do.
pub fn check_files(files: &[PathBuf]) -> Problems {
    let mut found = Found::default();
    let files = load::with_their_main(files);
    let files: Vec<SourceFile> = files.iter().filter_map(|path| load::file(path, &mut found)).collect();
    let names = if files.iter().any(|file| file.is_main) && !found.has_errors() { Names::Known } else { Names::Unseen };
    check::check(&files, names, found).1
}

/// Checks texts that were read already, as a whole configuration.
pub fn check_texts(files: &[SourceFile]) -> Result<Config, Problems> {
    let (config, problems) = check::check(files, Names::Known, Found::default());
    config.ok_or(problems)
}

#[cfg(test)]
mod tests;
