//! Many names in one directory, and one enormous file: the road there and back in the memory that anything else takes.
//!
//! A hundred thousand names by default, a million with `LIFEBOAT_TEST_LONG=1` (the whole line: `at_scale_index`).

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{SeekFrom, seek};

use crate::at_scale_index::is_long;
use crate::memory::{PEAK_BYTES_MAX, peak};
use crate::support::repo::noise;
use crate::support::shipped::{good, lifeboat};

/// The shipped binary, once for its memory and its time.
#[track_caller]
fn step(home: &Path, arguments: &[&str], ceiling: u64) {
    let begun = Instant::now();
    let peak = peak(home, arguments);
    eprintln!("  {}: {} MiB, {:.1?}", arguments[0], peak >> 20, begun.elapsed());
    assert!(peak < ceiling, "{arguments:?} took {peak} bytes");
}

fn told(home: &Path, arguments: &[&str]) -> String {
    good(
        lifeboat(home, arguments)
            .env("LIFEBOAT_REPO", home.join("repository"))
            .env("LIFEBOAT_KEY", home.join("admin.key")),
    )
}

fn home() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tree")).unwrap();
    good(lifeboat(dir.path(), ["init", "--repo", "repository", "--key-out"]).arg(dir.path().join("admin.key")));
    dir
}

/// Names in no order that a file system would give them.
fn name(number: u64) -> String {
    format!("{:016x} of many", number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

#[test]
fn a_directory_of_many_names_goes_there_and_back_in_bounded_memory() {
    let count = if is_long() { 1_000_000 } else { 100_000 };
    // Each file is a chunk, and its leaves are few.
    let ceiling = PEAK_BYTES_MAX + count * 12 / 10;
    let dir = home();
    let home = dir.path();
    let many = home.join("tree/many");
    fs::create_dir(&many).unwrap();
    let begun = Instant::now();
    for number in 0..count {
        fs::write(many.join(name(number)), format!("{number}")).unwrap();
    }
    eprintln!("{count} names in one directory, made in {:.1?}", begun.elapsed());
    // What was changed too shortly before a backup is read once more by the next.
    std::thread::sleep(Duration::from_millis(200));
    step(home, &["backup", "tree"], ceiling);
    step(home, &["backup", "tree"], ceiling);
    step(home, &["ls", "latest"], ceiling);
    let listed = told(home, &["ls", "latest"]);
    let lines = listed.lines().filter(|line| line.contains("/many/")).collect::<Vec<_>>();
    assert_eq!(lines.len() as u64, count);
    assert!(lines.is_sorted());

    fs::remove_file(many.join(name(1))).unwrap();
    fs::write(many.join(name(2)), "another text").unwrap();
    fs::write(many.join("new"), "new").unwrap();
    step(home, &["backup", "tree"], ceiling);
    let snapshots: serde_json::Value = serde_json::from_str(&told(home, &["snapshots", "--json"])).unwrap();
    let id = |at: usize| snapshots[at]["short_id"].as_str().unwrap().to_owned();
    assert_eq!(snapshots[1]["files"].as_u64(), Some(count));
    step(home, &["diff", &id(1), &id(2)], ceiling);
    let diff = told(home, &["diff", &id(1), &id(2)]);
    for changed in [&name(1), &name(2), "new"] {
        assert!(diff.contains(changed), "{changed} is not in {diff}");
    }
    assert!(diff.lines().count() < 20, "{diff}");

    let place = format!("latest:{}", many.canonicalize().unwrap().display());
    step(home, &["restore", &place, "--to", "out"], ceiling);
    assert_eq!(fs::read_dir(home.join("out")).unwrap().count() as u64, count);
    for number in (3..count).step_by(997) {
        assert_eq!(fs::read_to_string(home.join("out").join(name(number))).unwrap(), format!("{number}"));
    }
    step(home, &["verify", "--level", "metadata"], ceiling);
}

/// Where data stands in a file.
fn data(file: &File, size: u64) -> Vec<(u64, u64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size
        && let Ok(start) = seek(file, SeekFrom::Data(at))
    {
        at = seek(file, SeekFrom::Hole(start)).unwrap();
        found.push((start, at));
    }
    found
}

#[test]
fn a_sparse_file_of_15_tib_goes_there_and_back_by_its_data_alone() {
    const SIZE: u64 = 15 << 40;
    let dir = home();
    let home = dir.path();
    let path = home.join("tree/huge");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE)
        .expect("TMPDIR must be able to hold a file of 15 TiB: tmpfs, XFS, Btrfs, or ext4 with blocks of 4 KiB");
    let places = [0, (SIZE / 2) + 12_345, SIZE - (1 << 20)];
    for (seed, place) in (0..).zip(places) {
        file.write_all_at(&noise(1 << 20, seed), place).unwrap();
    }
    eprintln!("a sparse file of 15 TiB");
    std::thread::sleep(Duration::from_millis(200));
    step(home, &["backup", "tree"], PEAK_BYTES_MAX);
    step(home, &["backup", "tree"], PEAK_BYTES_MAX);
    step(home, &["ls", "-l", "latest"], PEAK_BYTES_MAX);
    let listed = told(home, &["ls", "-l", "latest"]);
    assert!(listed.contains(&SIZE.to_string()), "{listed}");
    step(home, &["verify", "--level", "data"], PEAK_BYTES_MAX);
    let place = format!("latest:{}", path.canonicalize().unwrap().display());
    step(home, &["restore", &place, "--to", "out"], PEAK_BYTES_MAX);
    let back = File::open(home.join("out/huge")).unwrap();
    let metadata = back.metadata().unwrap();
    assert_eq!(metadata.len(), SIZE);
    assert!(metadata.blocks() * 512 < 8 << 20, "{} blocks", metadata.blocks());
    for (seed, place) in (0..).zip(places) {
        let mut bytes = vec![0; 1 << 20];
        back.read_exact_at(&mut bytes, place).unwrap();
        assert!(bytes == noise(1 << 20, seed), "what stands at {place} is not what stood there");
    }
    let before = File::open(&path).unwrap();
    assert_eq!(data(&back, SIZE), data(&before, SIZE));
}
