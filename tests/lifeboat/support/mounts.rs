//! File systems of our own: images behind loop devices, in a mount namespace of the test's own.
//!
//! The namespace makes sure that nothing is left: with the last process in it, killed or not, its mounts go, and with them
//! their loop devices, which detach themselves. What ends in order unmounts what it mounted besides.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::odd::is_root;

/// Tells the child which test it is.
const INSIDE: &str = "LIFEBOAT_TEST_NAMESPACE";

/// Runs the test called `name` (with its module) once more, in a mount namespace of its own. True: this is that run.
///
/// Root must be able to do so, or the test fails. A user is told that nothing was checked.
#[track_caller]
pub fn inside_a_namespace(name: &str) -> bool {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return true;
    }
    if !is_root() {
        let _ = writeln!(std::io::stderr(), "NOT CHECKED, since mounting needs root: {name}");
        return false;
    }
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(test).args(["--exact", name, "--nocapture"]);
    let output = command.env(INSIDE, name).output().expect("unshare is there (package util-linux)");
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success(), "in a mount namespace of its own, {name} ended with {}:\n{told}", output.status);
    assert!(told.contains("1 passed"), "no such test as {name}:\n{told}");
    false
}

/// A file system that goes with its value.
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// A new file system made by `mkfs` in an image of `size` bytes, mounted as `dir`/`name`.
    #[track_caller]
    pub fn image(dir: &Path, name: &str, mkfs: &[&str], size: u64) -> Self {
        let image = dir.join(format!("{name}.image"));
        File::create(&image).unwrap().set_len(size).unwrap();
        call(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image), "make a file system (is its package installed?)");
        Self::mount(dir, name, |command| command.args(["-o", "loop"]).arg(&image))
    }

    #[track_caller]
    pub fn memory(dir: &Path, name: &str) -> Self {
        Self::mount(dir, name, |command| command.args(["-t", "tmpfs", "-o", "size=1g", "tmpfs"]))
    }

    #[track_caller]
    fn mount(dir: &Path, name: &str, what: impl Fn(&mut Command) -> &mut Command) -> Self {
        let at = dir.join(name);
        fs::create_dir(&at).unwrap();
        call(what(&mut Command::new("mount")).arg(&at), "mount it (are there loop devices, and may we mount?)");
        Self { at }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg(&self.at).status();
        assert!(
            gone.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "{} stays mounted",
            self.at.display()
        );
    }
}

#[track_caller]
fn call(command: &mut Command, what: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot {what}: {command:?}: {error}"));
    assert!(output.status.success(), "cannot {what}: {command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
