//! How much memory the shipped binary takes: the data may be larger than the machine, its memory may not.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::repo::noise;
use crate::support::shipped::{good, lifeboat};

pub const PEAK_BYTES_MAX: u64 = 96 << 20;

/// Runs a command, then prints the most memory that it had at any time, in KiB (getrusage(2)).
const WRAPPER: &str = "
import resource, subprocess, sys
ended = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(ended.returncode)
";

/// The most memory that `lifeboat` had with these arguments. The repository and its key lie in `home`, which is also its home.
#[track_caller]
pub fn peak(home: &Path, arguments: &[&str]) -> u64 {
    let inner = lifeboat(home, arguments);
    let mut wrapped = Command::new("python3");
    wrapped.arg("-c").arg(WRAPPER).arg(inner.get_program()).args(inner.get_args()).current_dir(home);
    wrapped.env("HOME", home).env("LIFEBOAT_REPO", home.join("repository")).env("LIFEBOAT_KEY", home.join("admin.key"));
    good(&mut wrapped).trim().parse::<u64>().unwrap() << 10
}

#[test]
fn a_backup_and_a_restore_of_150_mib_stay_under_96_mib() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let tree = home.join("tree");
    fs::create_dir_all(tree.join("text")).unwrap();
    fs::write(tree.join("large"), noise(60 << 20, 0)).unwrap();
    for n in 0..30 {
        fs::write(tree.join(format!("noise-{n}")), noise(2 << 20, n + 1)).unwrap();
    }
    for n in 0..500 {
        let text = format!("line {n} of a file that compresses\n").repeat(1800);
        fs::write(tree.join(format!("text/{n}")), text).unwrap();
    }
    let key = home.join("admin.key");
    good(lifeboat(home, ["init", "--repo", "repository", "--key-out"]).arg(&key));
    let backup = peak(home, &["backup", "tree"]);
    let place = format!("latest:{}", tree.canonicalize().unwrap().display());
    let restore = peak(home, &["restore", &place, "--to", "out"]);
    eprintln!("peak of a backup: {} MiB, of a restore: {} MiB", backup >> 20, restore >> 20);
    assert!(fs::read(home.join("out/large")).unwrap() == fs::read(tree.join("large")).unwrap());
    assert!(backup < PEAK_BYTES_MAX, "the backup took {backup} bytes");
    assert!(restore < PEAK_BYTES_MAX, "the restore took {restore} bytes");
}
