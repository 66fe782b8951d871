//! A tree, a repository that holds snapshots of it, and copies of that repository, one for each trial.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat::store::Store;
use lifeboat::store::local::LocalStore;

use crate::support::listing;
use crate::support::repo::noise;
use crate::support::scratch::roomy;
use crate::support::shipped::{good, lifeboat};

/// A snapshot that was reported as committed, and the tree as it was then.
pub struct Saved {
    pub id: String,
    pub listing: String,
}

pub struct Scene {
    dir: tempfile::TempDir,
    /// What must come back, oldest first.
    pub saved: Vec<Saved>,
    /// Others that stand there, which only `verify` looks at.
    pub unchecked: Vec<String>,
}

impl Scene {
    /// A tree of a few dozen files, and an empty repository.
    pub fn new() -> Self {
        let scene = Self { dir: roomy(), saved: Vec::new(), unchecked: Vec::new() };
        let tree = scene.tree();
        for folder in ["docs", "docs/deep", "pictures", "none"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        for n in 0..12 {
            fs::write(tree.join(format!("docs/note-{n}")), format!("note {n}\n").repeat(n * n + 1)).unwrap();
            fs::write(tree.join(format!("pictures/{n}.raw")), noise(900 + 3100 * n, n as u64)).unwrap();
        }
        fs::write(tree.join("empty"), "").unwrap();
        fs::write(tree.join("big"), noise(3 << 20, 99)).unwrap();
        fs::hard_link(tree.join("docs/note-3"), tree.join("docs/deep/note-3-too")).unwrap();
        symlink("docs/note-4", tree.join("link")).unwrap();
        let sparse = fs::File::create(tree.join("sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        sparse.write_all_at(&noise(100_000, 7), 3 << 20).unwrap();
        fs::set_permissions(tree.join("docs/deep"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::create_dir(scene.template()).unwrap();
        let mut init = lifeboat(&scene.template(), ["init", "--repo", "repository", "--key-out", "key"]);
        good(&mut init);
        scene
    }

    fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub fn tree(&self) -> PathBuf {
        self.root().join("tree")
    }

    pub fn template(&self) -> PathBuf {
        self.root().join("template")
    }

    pub fn log(&self) -> PathBuf {
        self.root().join("strace.log")
    }

    /// Other bytes in old files, new files, one less.
    pub fn change(&self, round: usize) {
        let tree = self.tree();
        let seed = 1000 * (round as u64 + 1);
        let big = fs::File::options().write(true).open(tree.join("big")).unwrap();
        big.write_all_at(&noise(700_000, seed), (round as u64 * 300_000) % (2 << 20)).unwrap();
        for n in 0..4 {
            fs::write(tree.join(format!("pictures/new-{round}-{n}.raw")), noise(5000, seed + 1 + n)).unwrap();
        }
        fs::write(tree.join("docs/note-5"), format!("round {round}\n")).unwrap();
        let _ = fs::remove_file(tree.join(format!("docs/note-{}", 6 + round)));
    }

    /// Saves the tree into the template, to be checked after each trial.
    pub fn save(&mut self) {
        let id = self.backup();
        self.saved.push(Saved { id, listing: listing::of(&self.tree()) });
    }

    /// Changes and saves, until one more snapshot would make the writer merge its part of the index.
    pub fn save_until_it_would_merge(&mut self) {
        self.save();
        for round in 0..20 {
            self.change(round);
            let before = self.place("before");
            let id = self.backup();
            if self.template().join("repository/i/s").exists() {
                fs::remove_dir_all(self.template()).unwrap();
                fs::rename(before.home, self.template()).unwrap();
                return;
            }
            self.unchecked.push(id);
        }
        panic!("twenty backups merged nothing");
    }

    fn backup(&self) -> String {
        let tree = self.tree();
        good(&mut self.template_place().command(["-q", "backup", tree.to_str().unwrap()])).trim().to_owned()
    }

    /// Lets all go but the newest.
    pub fn forget(&mut self) {
        good(&mut self.template_place().command(["-q", "forget", "--keep-last", "1"]));
        let newest = self.saved.pop().expect("something was saved");
        self.unchecked.extend(self.saved.drain(..).map(|saved| saved.id));
        self.saved.push(newest);
    }

    pub fn template_place(&self) -> Place {
        Place { home: self.template() }
    }

    /// A copy of the template, gone when it is dropped.
    pub fn place(&self, name: &str) -> Place {
        let home = self.root().join(name);
        let _ = fs::remove_dir_all(&home);
        let copied = Command::new("cp").arg("-a").arg(self.template()).arg(&home).status().unwrap();
        assert!(copied.success());
        Place { home }
    }

    /// Paths of files, each with any content that a committed snapshot has there.
    pub fn contents(&self) -> BTreeSet<(String, String)> {
        self.saved.iter().flat_map(|saved| contents(&saved.listing)).collect()
    }
}

/// Paths of files with their contents, of a listing.
pub fn contents(listing: &str) -> impl Iterator<Item = (String, String)> {
    listing.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[0] == "file").then(|| (fields[7].to_owned(), fields[4].to_owned()))
    })
}

/// A repository with its key, the binary's home and so its cache, and room for what is restored.
pub struct Place {
    pub home: PathBuf,
}

impl Place {
    pub fn repository(&self) -> PathBuf {
        self.home.join("repository")
    }

    pub fn target(&self) -> PathBuf {
        self.home.join("out")
    }

    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = lifeboat(&self.home, arguments);
        command
            .env("LIFEBOAT_REPO", self.repository())
            .env("LIFEBOAT_KEY", self.home.join("key"))
            .env("TMPDIR", &self.home);
        command
    }

    /// What is stored in packs, in bytes.
    pub fn packed(&self) -> u64 {
        let packs =
            ["d", "m"].map(|kind| LocalStore::open(&self.repository()).unwrap().list(&format!("{kind}/")).unwrap());
        packs.iter().flatten().map(|pack| pack.size).sum()
    }

    pub fn is_cache(&self, path: &Path) -> bool {
        path.starts_with(self.home.join(".cache"))
    }
}
