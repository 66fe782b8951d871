//! Each shipped configuration file is a good one, as the shipped binary sees it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::shipped::{good, lifeboat, refused};

fn shipped(below: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(shipped(&path));
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            all.push(path);
        }
    }
    all.sort();
    all
}

#[test]
fn each_shipped_file_passes_the_check_without_a_warning() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let files = shipped(&root);
    assert!(files.len() >= 5, "{files:?}");
    let home = tempfile::tempdir().unwrap();
    let checked = |command: &mut std::process::Command| -> Value { serde_json::from_str(&good(command)).unwrap() };
    for file in &files {
        let answer = checked(lifeboat(home.path(), ["config", "check", "--json"]).arg(file));
        assert_eq!((&answer["valid"], &answer["warnings"]), (&true.into(), &0.into()), "{file:?}: {answer}");
    }
    let folders: Vec<&Path> =
        files.iter().filter(|file| file.ends_with("lifeboat.toml")).filter_map(|file| file.parent()).collect();
    assert!(!folders.is_empty());
    for folder in folders {
        let answer = checked(lifeboat(home.path(), ["config", "check", "--json", "--config"]).arg(folder));
        assert_eq!(answer["valid"], true, "{folder:?}: {answer}");
        assert!(answer["policies"].as_u64().is_some_and(|policies| policies > 0), "{folder:?}: {answer}");
    }
}

#[test]
fn each_shipped_policy_with_one_wrong_word_is_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut tried = 0;
    for file in shipped(&root).iter().filter(|file| file.parent().is_some_and(|folder| folder.ends_with("policies"))) {
        let copy = tempfile::tempdir().unwrap();
        let main = file.parent().and_then(Path::parent).unwrap().join("lifeboat.toml");
        fs::create_dir(copy.path().join("policies")).unwrap();
        fs::copy(&main, copy.path().join("lifeboat.toml")).unwrap();
        let wrong = format!("{}\nshedule = \"daily 02:00\"\n", fs::read_to_string(file).unwrap());
        fs::write(copy.path().join("policies/wrong.toml"), wrong).unwrap();
        refused(lifeboat(copy.path(), ["config", "check", "--config"]).arg(copy.path()), 5);
        tried += 1;
    }
    assert!(tried >= 3, "{tried}");
}
