//! Real processes beside each other on one repository, and SIGKILL at random: what was reported as committed comes back, and nobody stands in anybody's way.
//!
//! Each saver has a tree, a home and so a cache of its own; all have one key. Between its commands it changes its tree, and it alone lets its
//! snapshots go, so it knows what must be there. Dice decide what is done next and what is killed; how long a process lives until then is chance.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{long, roll, seed};
use crate::support::listing;
use crate::support::place::Place;
use crate::support::repo::noise;
use crate::support::scratch::roomy;
use crate::support::shipped::good;

const SAVERS: u64 = 3;

/// What is forgotten may go at once.
const PRUNE: [&str; 4] = ["prune", "--undo-window", "0s", "--yes"];

#[test]
fn processes_that_share_a_directory_lose_nothing() {
    let dir = roomy();
    let repository = dir.path().canonicalize().unwrap().join("repository");
    let place = Place { url: repository.to_str().unwrap().to_owned(), environment: Vec::new(), cloud: None };
    work_together(&place, &dir, Duration::from_secs(if long() { 180 } else { 10 }), 2);
}

#[test]
fn processes_that_share_a_bucket_lose_nothing() {
    // One collector: moto looks at a condition and then writes, so that of two that create one epoch both may win.
    work_together(&Place::moto(), &roomy(), Duration::from_secs(if long() { 180 } else { 15 }), 1);
}

fn work_together(place: &Place, dir: &tempfile::TempDir, time: Duration, pruners: u64) {
    let seed = seed();
    let root = dir.path().canonicalize().unwrap();
    let key = root.join("admin.key");
    let made = good(&mut place.lifeboat(&root, &["init", "--json", "--key-out", key.to_str().unwrap()]));
    assert!(made.contains("\"multi-writer\""), "{made}");
    let end = Instant::now() + time;
    let hand = |number: u64| {
        let home = root.join(format!("home-{number}"));
        fs::create_dir(&home).unwrap();
        let dice = (seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1);
        Hand { place, home, key: key.clone(), dice, usual: BTreeMap::new(), killed: 0, finished: 0 }
    };
    let mut savers: Vec<Saver> = std::thread::scope(|scope| {
        let savers: Vec<_> = (0..SAVERS)
            .map(|number| {
                let hand = hand(number);
                scope.spawn(move || {
                    let mut saver = Saver::new(hand, number);
                    while Instant::now() < end || saver.hand.killed == 0 {
                        saver.turn();
                    }
                    saver
                })
            })
            .collect();
        let verifier = hand(SAVERS);
        scope.spawn(move || {
            let mut hand = verifier;
            while Instant::now() < end {
                let level = if hand.roll(2) == 0 { "data" } else { "metadata" };
                hand.sometimes_killed(&["verify", "--level", level]);
            }
            assert!(hand.finished > 0, "no verify came to its end");
        });
        for number in 0..pruners {
            let mut hand = hand(SAVERS + 1 + number);
            scope.spawn(move || {
                while Instant::now() < end {
                    hand.sometimes_killed(&PRUNE);
                }
            });
        }
        savers.into_iter().map(|saver| saver.join().unwrap()).collect()
    });
    let (killed, finished) = savers.iter().fold((0, 0), |(k, f), s| (k + s.hand.killed, f + s.hand.finished));
    eprintln!("{}: {finished} commands finished, {killed} were killed", place.url);
    // Nobody has to mend anything.
    savers.iter_mut().for_each(Saver::save_whole);
    savers[0].hand.run(&PRUNE);
    let sound: Value = serde_json::from_str(&savers[0].hand.run(&["verify", "--level", "data", "--json"])).unwrap();
    assert_eq!(sound["sound"], true, "{sound}");
    let listed: Value = serde_json::from_str(&savers[0].hand.run(&["snapshots", "--json"])).unwrap();
    let listed: BTreeMap<&str, &str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["id"].as_str().unwrap(), row["paths"][0].as_str().unwrap()))
        .collect();
    std::thread::scope(|scope| {
        for saver in &savers {
            let listed = &listed;
            scope.spawn(move || saver.check(listed));
        }
    });
}

/// Runs the binary, and kills some of what it runs.
struct Hand<'a> {
    place: &'a Place,
    home: PathBuf,
    key: PathBuf,
    dice: u64,
    /// How long a command takes that is not killed, in milliseconds.
    usual: BTreeMap<String, u64>,
    killed: u32,
    finished: u32,
}

impl Hand<'_> {
    fn roll(&mut self, limit: u64) -> u64 {
        roll(&mut self.dice, limit)
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.place.lifeboat(&self.home, arguments);
        command.env("LIFEBOAT_KEY", &self.key);
        command
    }

    /// What must end well.
    fn run(&self, arguments: &[&str]) -> String {
        good(&mut self.command(arguments))
    }

    /// Its standard output, and whether it came to its end. A command that is not killed must end well.
    fn sometimes_killed(&mut self, arguments: &[&str]) -> (String, bool) {
        let began = Instant::now();
        let verb = arguments.iter().find(|word| !word.starts_with('-')).unwrap();
        let usual = self.usual.get(*verb).copied();
        let life = usual.filter(|_| self.roll(2) == 0).map(|usual| Duration::from_millis(self.roll(usual + usual / 2)));
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(life) = life {
            std::thread::sleep(life);
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(0) => {
                self.finished += 1;
                if life.is_none() {
                    self.usual.insert((*verb).to_owned(), began.elapsed().as_millis() as u64);
                }
            }
            // Somebody else's prune was first, or a backup has to be waited for.
            Some(7 | 75) if *verb == "prune" => {}
            None if life.is_some() => self.killed += 1,
            _ => panic!("{arguments:?}: {}: {out}{err}", output.status),
        }
        (out, output.status.success())
    }
}

struct Saver<'a> {
    hand: Hand<'a>,
    tree: PathBuf,
    round: u64,
    /// What was reported as committed, and not let go.
    kept: BTreeMap<String, String>,
    /// Every state of the tree that a backup was begun of.
    states: BTreeSet<String>,
}

impl<'a> Saver<'a> {
    fn new(hand: Hand<'a>, number: u64) -> Self {
        let tree = hand.home.join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        for n in 0..10 {
            fs::write(tree.join(format!("sub/{n}")), noise(500 + 2000 * n, number * 100 + n as u64)).unwrap();
        }
        // What all have alike, so that one finds the chunks of another.
        fs::write(tree.join("alike"), noise(400_000, 4711)).unwrap();
        fs::hard_link(tree.join("alike"), tree.join("alike-too")).unwrap();
        symlink("alike", tree.join("link")).unwrap();
        Self { hand, tree, round: 1000 * number, kept: BTreeMap::new(), states: BTreeSet::new() }
    }

    fn turn(&mut self) {
        match self.hand.roll(6) {
            0 => self.forget(),
            1 => self.restore(),
            _ => {
                self.change();
                self.save();
            }
        }
    }

    fn change(&mut self) {
        self.round += 1;
        let which = self.hand.roll(10);
        // Every saver comes to write every content: what one has just stored, another may find stored.
        let content = noise(150_000, self.hand.roll(40));
        fs::write(self.tree.join(format!("sub/{which}")), content).unwrap();
        fs::write(self.tree.join("round"), self.round.to_string()).unwrap();
    }

    fn save(&mut self) {
        let state = listing::of(&self.tree);
        self.states.insert(state.clone());
        let tree = self.tree.to_str().unwrap().to_owned();
        let (out, ended) = self.hand.sometimes_killed(&["-q", "backup", &tree]);
        // It may have been killed after it said so.
        match out.strip_suffix('\n') {
            Some(id) => drop(self.kept.insert(id.to_owned(), state)),
            None => assert!(!ended, "a backup ended well and named no snapshot: {out:?}"),
        }
    }

    fn save_whole(&mut self) {
        self.hand.usual.clear();
        self.change();
        self.save();
    }

    fn any_kept(&mut self) -> Option<String> {
        let at = self.hand.roll(self.kept.len() as u64) as usize;
        self.kept.keys().nth(at).cloned()
    }

    fn forget(&mut self) {
        let Some(id) = self.any_kept() else { return };
        // With or without an answer: who was told and killed may have done it.
        self.kept.remove(&id);
        self.hand.sometimes_killed(&["-q", "forget", &id]);
    }

    fn restore(&mut self) {
        let Some(id) = self.any_kept() else { return };
        self.assert_comes_back(&id, &self.kept[&id]);
    }

    fn assert_comes_back(&self, id: &str, state: &str) {
        assert_eq!(self.brought_back(id), state, "{id} of {}", self.tree.display());
    }

    fn brought_back(&self, id: &str) -> String {
        static RESTORES: AtomicU32 = AtomicU32::new(0);
        let to = self.hand.home.join(format!("restored-{}", RESTORES.fetch_add(1, Ordering::Relaxed)));
        let from = format!("{id}:{}", self.tree.display());
        self.hand.run(&["-q", "restore", &from, "--to", to.to_str().unwrap()]);
        let state = listing::of(&to);
        fs::remove_dir_all(&to).unwrap();
        state
    }

    /// `listed`: all snapshots that are not forgotten, with what they save.
    fn check(&self, listed: &BTreeMap<&str, &str>) {
        let tree = self.tree.to_str().unwrap();
        for (id, state) in &self.kept {
            assert_eq!(listed.get(id.as_str()), Some(&tree), "{id} is gone");
            self.assert_comes_back(id, state);
        }
        // A backup that was killed committed all of its tree, or nothing; and who was told to forget and killed may not have.
        let unsure = listed.iter().filter(|(id, path)| **path == tree && !self.kept.contains_key(**id));
        for (id, _) in unsure {
            let state = self.brought_back(id);
            assert!(self.states.contains(&state), "{id} was never so:\n{state}");
        }
    }
}
