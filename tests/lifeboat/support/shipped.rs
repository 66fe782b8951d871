//! The shipped binary as a command, with nothing of the caller's environment.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `lifeboat` with these arguments; its home, and so its cache, lies in `home`.
pub fn lifeboat<S: AsRef<OsStr>>(home: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(arguments).current_dir(home).env_clear().env("HOME", home).env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs what must succeed; its standard output.
#[track_caller]
pub fn good(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must end with `code`.
#[track_caller]
pub fn refused(command: &mut Command, code: i32) {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", told(&output));
}

fn told(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
