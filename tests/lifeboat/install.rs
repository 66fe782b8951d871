//! `scripts/install` and `scripts/uninstall`, staged below a directory: what stands where afterwards, and what is left.
//!
//! Users, owners, a service manager and the package are tried by `scripts/package --check`, which needs root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::shipped::{good, lifeboat};

/// As much of the program as an installation asks for.
const STAND_IN: &str = "#!/bin/sh
case \"$1\" in
    --version) echo 'lifeboat 0.0.0' ;;
    completions) echo \"completions for $2\" ;;
    man) mkdir -p \"$3\" && echo page > \"$3/lifeboat.1\" && echo page > \"$3/lifeboat-restore.1\" ;;
esac
";
const CONFIG: &str = "etc/lifeboat/lifeboat.toml";

/// A copy of what the scripts install from, so that a test may ship another version of it, and a root to stage below.
struct Stage {
    home: TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { home: tempfile::tempdir().unwrap() };
        fs::create_dir(stage.source("")).unwrap();
        let mut copy = Command::new("cp");
        copy.args(["-R", "--parents", "scripts/install", "scripts/uninstall", "systemd", "policies"]);
        copy.args(["README.md", "LICENSE-APACHE", "LICENSE-MIT"]).arg(stage.source(""));
        good(copy.current_dir(env!("CARGO_MANIFEST_DIR")));
        stage.ship("stand-in", STAND_IN);
        fs::set_permissions(stage.source("stand-in"), fs::Permissions::from_mode(0o755)).unwrap();
        stage
    }

    fn source(&self, name: &str) -> PathBuf {
        self.home.path().join("source").join(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join("root").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn put(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// What the next installation brings as `name`.
    fn ship(&self, name: &str, text: &str) {
        fs::write(self.source(name), text).unwrap();
    }

    fn script(&self, name: &str, more: &[&str]) -> Command {
        let mut command = Command::new(self.source("scripts").join(name));
        command.arg("--root").arg(self.path("")).args(more);
        command
    }

    #[track_caller]
    fn install(&self, more: &[&str]) -> String {
        good(self.script("install", more).arg("--binary").arg(self.source("stand-in")))
    }

    #[track_caller]
    fn uninstall(&self, more: &[&str]) -> String {
        good(&mut self.script("uninstall", more))
    }

    /// Every path below the root that passes.
    fn paths(&self, pass: impl Fn(&fs::Metadata) -> bool) -> BTreeMap<String, fs::Metadata> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.path("")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let facts = fs::symlink_metadata(&path).unwrap();
                if facts.is_dir() {
                    folders.push(path.clone());
                }
                let name = path.strip_prefix(self.path("")).unwrap().to_str().unwrap().to_owned();
                found.extend(pass(&facts).then_some((name, facts)));
            }
        }
        found
    }

    fn files(&self) -> Vec<String> {
        self.paths(fs::Metadata::is_file).into_keys().collect()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::symlink_metadata(self.path(name)).unwrap().mode() & 0o7777
    }
}

fn ended(command: &mut Command, code: i32) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let told = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{told}");
    told
}

#[test]
fn an_installation_is_these_files_with_these_modes() {
    let stage = Stage::new();
    let told = stage.install(&["--prefix", "/usr/local"]);
    let expected = [
        ("etc/lifeboat/lifeboat.toml", 0o640),
        ("usr/local/bin/lifeboat", 0o755),
        ("usr/local/lib/systemd/system/lifeboat.service", 0o644),
        ("usr/local/lib/sysusers.d/lifeboat.conf", 0o644),
        ("usr/local/lib/tmpfiles.d/lifeboat.conf", 0o644),
        ("usr/local/share/bash-completion/completions/lifeboat", 0o644),
        ("usr/local/share/doc/lifeboat/LICENSE-APACHE", 0o644),
        ("usr/local/share/doc/lifeboat/LICENSE-MIT", 0o644),
        ("usr/local/share/doc/lifeboat/README.md", 0o644),
        ("usr/local/share/doc/lifeboat/examples/lifeboat.toml", 0o644),
        ("usr/local/share/doc/lifeboat/examples/policies/fileserver.toml", 0o644),
        ("usr/local/share/doc/lifeboat/examples/policies/homes.toml", 0o644),
        ("usr/local/share/doc/lifeboat/policies.md", 0o644),
        ("usr/local/share/fish/vendor_completions.d/lifeboat.fish", 0o644),
        ("usr/local/share/lifeboat/manifest", 0o644),
        ("usr/local/share/man/man1/lifeboat-restore.1", 0o644),
        ("usr/local/share/man/man1/lifeboat.1", 0o644),
        ("usr/local/share/zsh/site-functions/_lifeboat", 0o644),
    ];
    let found: Vec<(String, u32)> = stage.files().into_iter().map(|name| (name.clone(), stage.mode(&name))).collect();
    // Examples are whatever the source has; every one of them is shipped.
    let shipped = |name: &str| name.contains("/examples/policies/");
    let rest: Vec<_> =
        found.iter().filter(|(name, _)| !shipped(name)).map(|(name, mode)| (name.as_str(), *mode)).collect();
    assert_eq!(rest, expected.into_iter().filter(|(name, _)| !shipped(name)).collect::<Vec<_>>());
    let examples = fs::read_dir(stage.source("policies/examples/policies")).unwrap().count();
    assert_eq!(found.iter().filter(|(name, mode)| shipped(name) && *mode == 0o644).count(), examples);
    for (folder, mode) in [
        ("etc/lifeboat", 0o750),
        ("etc/lifeboat/policies", 0o750),
        ("var/lib/lifeboat", 0o700),
        ("var/cache/lifeboat", 0o700),
        ("usr/local/bin", 0o755),
    ] {
        assert_eq!(stage.mode(folder), mode, "{folder}");
    }
    assert_eq!(stage.read("usr/local/share/zsh/site-functions/_lifeboat"), "completions for zsh\n");
    for step in ["lifeboat init", "lifeboat config check", "systemctl enable --now lifeboat"] {
        assert!(told.contains(step), "{told}");
    }
}

#[test]
fn the_shipped_program_brings_its_completions_and_a_page_for_each_command() {
    let stage = Stage::new();
    let binary = env!("CARGO_BIN_EXE_lifeboat");
    good(stage.script("install", &["--prefix", "/usr/local", "--binary"]).arg(binary));
    for (shell, mark) in [
        ("bash-completion/completions/lifeboat", "complete -F _lifeboat"),
        ("zsh/site-functions/_lifeboat", "#compdef lifeboat"),
        ("fish/vendor_completions.d/lifeboat.fish", "complete -c lifeboat"),
    ] {
        assert!(stage.read(&format!("usr/local/share/{shell}")).contains(mark), "{shell}");
    }
    for page in ["lifeboat.1", "lifeboat-restore.1", "lifeboat-key-export.1"] {
        assert!(stage.read(&format!("usr/local/share/man/man1/{page}")).contains(".TH lifeboat"), "{page}");
    }
}

#[test]
fn a_second_run_changes_nothing() {
    let stage = Stage::new();
    stage.install(&[]);
    let facts = |all: BTreeMap<String, fs::Metadata>| -> Vec<(String, u64, u32, i64, i64)> {
        all.into_iter()
            .map(|(name, facts)| (name, facts.ino(), facts.mode(), facts.mtime_nsec(), facts.ctime_nsec()))
            .collect()
    };
    let before = facts(stage.paths(|_| true));
    let told = stage.install(&[]);
    assert!(told.contains("nothing has changed"), "{told}");
    assert_eq!(facts(stage.paths(|_| true)), before);
}

#[test]
fn an_installation_is_made_whole_again() {
    let stage = Stage::new();
    stage.install(&[]);
    let whole = stage.files();
    fs::remove_file(stage.path("usr/share/man/man1/lifeboat.1")).unwrap();
    fs::set_permissions(stage.path("usr/bin/lifeboat"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(stage.path("var/lib/lifeboat"), fs::Permissions::from_mode(0o755)).unwrap();
    stage.install(&[]);
    assert_eq!(stage.files(), whole);
    assert_eq!((stage.mode("usr/bin/lifeboat"), stage.mode("var/lib/lifeboat")), (0o755, 0o700));
}

#[test]
fn an_edited_configuration_is_kept_and_the_new_one_lies_beside_it() {
    let stage = Stage::new();
    stage.install(&[]);
    stage.put(CONFIG, "# mine\n");
    stage.ship("policies/examples/lifeboat.toml", "# the next version's\n");
    let told = stage.install(&[]);
    assert!(told.contains("lifeboat.toml was edited and stays"), "{told}");
    assert_eq!(stage.read(CONFIG), "# mine\n");
    assert_eq!(stage.read("etc/lifeboat/lifeboat.toml.new"), "# the next version's\n");
    assert_eq!(stage.mode("etc/lifeboat/lifeboat.toml.new"), 0o640);
}

#[test]
fn a_configuration_that_nobody_edited_follows_the_version() {
    let stage = Stage::new();
    stage.install(&[]);
    stage.ship("policies/examples/lifeboat.toml", "# the next version's\n");
    stage.install(&[]);
    assert_eq!(stage.read(CONFIG), "# the next version's\n");
    assert!(!stage.path("etc/lifeboat/lifeboat.toml.new").exists());
}

#[test]
fn what_a_version_no_longer_ships_goes() {
    let stage = Stage::new();
    stage.install(&[]);
    stage.ship("stand-in", &STAND_IN.replace("lifeboat-restore.1", "lifeboat-init.1"));
    stage.install(&[]);
    assert!(stage.path("usr/share/man/man1/lifeboat-init.1").exists());
    assert!(!stage.path("usr/share/man/man1/lifeboat-restore.1").exists());
}

#[test]
fn a_program_that_cannot_tell_of_itself_is_not_installed() {
    let stage = Stage::new();
    stage.ship("stand-in", &STAND_IN.replace("completions for", "").replace("esac", "esac; [ \"$1\" != man ]"));
    let told = ended(stage.script("install", &[]).arg("--binary").arg(stage.source("stand-in")), 1);
    assert!(told.contains("gives no man pages"), "{told}");
    assert_eq!(stage.files(), Vec::<String>::new());
}

#[test]
fn another_prefix_is_where_the_unit_finds_its_program() {
    let stage = Stage::new();
    stage.install(&["--prefix", "/opt/lifeboat"]);
    let unit = stage.read("etc/systemd/system/lifeboat.service");
    assert!(unit.contains("\nExecStart=/opt/lifeboat/bin/lifeboat daemon"), "{unit}");
    assert!(!unit.contains("/usr/bin/lifeboat"), "{unit}");
    stage.uninstall(&["--prefix", "/opt/lifeboat", "--purge", "--yes"]);
    assert_eq!(stage.paths(|_| true).into_keys().collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn uninstalling_leaves_the_configuration_and_what_somebody_else_put_there() {
    let stage = Stage::new();
    stage.put("usr/bin/other", "not ours");
    stage.install(&[]);
    stage.put("usr/share/doc/lifeboat/note", "not ours");
    stage.put("etc/lifeboat/policies/mine.toml", "# mine");
    stage.put("var/lib/lifeboat/lifeboat.db", "state");
    let told = stage.uninstall(&[]);
    assert!(told.contains("kept:") && told.contains("/var/lib/lifeboat"), "{told}");
    let left = [
        "etc/lifeboat/lifeboat.toml",
        "etc/lifeboat/policies/mine.toml",
        "usr/bin/other",
        "usr/share/doc/lifeboat/note",
    ];
    assert_eq!(stage.files(), [&left[..], &["var/lib/lifeboat/lifeboat.db"]].concat());
    assert!(stage.path("var/cache/lifeboat").is_dir() && !stage.path("usr/share/man").exists());
    let told = stage.uninstall(&[]);
    assert!(told.contains("nothing below"), "{told}");
}

#[test]
fn uninstalling_leaves_a_program_that_came_from_elsewhere_since() {
    let stage = Stage::new();
    stage.install(&[]);
    stage.put("usr/bin/lifeboat", "a package's");
    let told = stage.uninstall(&[]);
    assert!(told.contains("usr/bin/lifeboat is not what was installed, and stays"), "{told}");
    assert_eq!(stage.read("usr/bin/lifeboat"), "a package's");
}

#[test]
fn a_purge_names_the_keys_and_waits_for_a_yes() {
    let stage = Stage::new();
    stage.install(&[]);
    stage.put("etc/lifeboat/keys/admin", "lifeboat-key 1 admin\n");
    stage.put("elsewhere/admin.key", "lifeboat-key 1 admin\n");
    let before = stage.files();
    let told = ended(&mut stage.script("uninstall", &["--purge"]), 2);
    assert!(told.contains("/etc/lifeboat/keys/admin") && !told.contains("elsewhere"), "{told}");
    assert_eq!(stage.files(), before);
    stage.uninstall(&["--purge", "--yes"]);
    assert_eq!(stage.paths(|_| true).into_keys().collect::<Vec<_>>(), ["elsewhere", "elsewhere/admin.key"]);
}

#[test]
fn a_purge_is_refused_while_a_repository_lies_in_its_way() {
    let stage = Stage::new();
    stage.install(&[]);
    let repository = stage.path("var/lib/lifeboat/repository");
    let mut init = lifeboat(stage.home.path(), ["init", "--repo"]);
    good(init.arg(&repository).arg("--key-out").arg(stage.path("etc/lifeboat/admin.key")));
    let before = stage.files();
    let told = ended(&mut stage.script("uninstall", &["--purge", "--yes"]), 1);
    assert!(told.contains(repository.to_str().unwrap()), "{told}");
    assert_eq!(stage.files(), before);
}

#[test]
fn wrong_usage_ends_with_two_and_touches_nothing() {
    let stage = Stage::new();
    for (script, more) in [
        ("install", &["--prefix", "usr"][..]),
        ("install", &["--prefix", "/usr/../etc"]),
        ("install", &["--prefix", "/opt/a|b"]),
        ("install", &["--nonsense"]),
        ("uninstall", &["--yes"]),
        ("uninstall", &["--prefix"]),
    ] {
        ended(&mut stage.script(script, more), 2);
    }
    assert!(!Path::new(&stage.path("")).exists());
}
