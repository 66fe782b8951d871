//! A repository on disk and the shipped binary: there and back again, as a person would go.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::shipped::{good, lifeboat};

pub struct Journey {
    pub home: PathBuf,
}

impl Journey {
    /// A new repository, its key and the binary's cache, all in `home`, which is made.
    #[track_caller]
    pub fn begin(home: &Path) -> Self {
        fs::create_dir_all(home).unwrap();
        let journey = Self { home: home.to_owned() };
        good(&mut journey.command(["init", "--key-out", "key"]));
        journey
    }

    /// The binary, with what every command needs.
    pub fn command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = lifeboat(&self.home, arguments);
        command.env("LIFEBOAT_REPO", self.home.join("repository"));
        if self.home.join("key").exists() {
            command.env("LIFEBOAT_KEY", self.home.join("key"));
        }
        command
    }

    /// Saves `source` by default flags, as a whole.
    #[track_caller]
    pub fn save(&self, source: &Path) {
        good(self.command(["-q", "backup"]).arg(source));
    }

    /// Restores what `save` saved last of `source` into `to`, by default flags.
    pub fn bring(&self, source: &Path, to: &Path) -> Output {
        self.bringing(source, to).output().unwrap()
    }

    pub fn bringing(&self, source: &Path, to: &Path) -> Command {
        let mut place = OsString::from("latest:");
        place.push(std::ffi::OsStr::from_bytes(source.as_os_str().as_bytes()));
        let mut command = self.command(["restore"]);
        command.arg(place).arg("--to").arg(to);
        command
    }

    /// A restore that must leave nothing to be said.
    #[track_caller]
    pub fn bring_whole(&self, source: &Path, to: &Path) {
        let output = self.bring(source, to);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "a whole restore says nothing on standard error");
    }
}

pub fn told(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What rsync, which knows nothing of us, would still have to do to make `copy` like `original`; nanoseconds count.
#[track_caller]
pub fn rsync_differences(original: &Path, copy: &Path) -> String {
    let slash = |path: &Path| [path.as_os_str().as_bytes(), b"/"].concat();
    let mut command = Command::new("rsync");
    command.args(["-aHAXnc", "--delete", "--itemize-changes", "--modify-window=-1", "--"]);
    command.arg(std::ffi::OsStr::from_bytes(&slash(original))).arg(std::ffi::OsStr::from_bytes(&slash(copy)));
    let output = command.output().expect("rsync is there (package rsync)");
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
