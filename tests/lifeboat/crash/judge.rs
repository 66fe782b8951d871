//! What must hold after a fault, whatever it was: nothing that was committed is harmed, and the same command, given again, works.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lifeboat::store::local::LocalStore;
use serde_json::Value;

use super::points::{Fault, Point};
use super::scene::{Place, Scene, contents};
use super::trace::Ended;
use crate::support::listing;

type Verdict<T = ()> = Result<T, String>;

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A snapshot of the tree.
    Save,
    /// All snapshots but the newest are hidden.
    LetGo,
    /// Less stored, and all forgotten snapshots gone for good.
    Free,
    /// The newest snapshot in the target.
    BringBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Kept,
    Forgotten,
    /// For good.
    Gone,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    Met,
    Missed,
    /// It hit, in another thread too or instead, what the run reads: the source, a library. The run may end in any way that is documented, and leave a
    /// snapshot with losses.
    Astray,
}

pub struct Judge<'a> {
    pub scene: &'a Scene,
    pub purpose: Purpose,
    pub place: &'a Place,
    /// The tree as it is.
    pub tree: &'a str,
}

macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

impl Judge<'_> {
    /// How a run with a fault may end.
    pub fn end(&self, ended: &Ended, point: &Point, fault: Fault) -> Verdict<Hit> {
        ensure!(!ended.err.contains("panicked at") && ended.code != Some(101), "it panicked: {}", ended.err);
        if self.purpose == Purpose::BringBack && ended.err.contains("not empty") {
            // A restore that was stopped at its very end is done.
            return Ok(Hit::Missed);
        }
        if !fault.is_error() {
            ensure!(matches!(ended.code, None | Some(0)), "it ended with {:?}: {}", ended.code, ended.err);
            return Ok(if ended.code.is_none() { Hit::Met } else { Hit::Missed });
        }
        let hits: Vec<_> = ended.calls.iter().filter(|call| call.injected).collect();
        let shown = || hits.iter().map(|call| format!("{}({})", call.name, call.shown)).collect::<Vec<_>>().join("; ");
        let code = ended.code.ok_or_else(|| format!("a signal ended it: {}", shown()))?;
        if hits.is_empty() {
            ensure!(code == 0, "it ended with {code} and met no fault: {}", ended.err);
            return Ok(Hit::Missed);
        }
        if hits.iter().any(|call| call.paths.iter().any(|path| !path.starts_with(&self.place.home))) {
            ensure!([0, 1, 3].contains(&code), "it ended with {code}, after {}: {}", shown(), ended.err);
            return Ok(Hit::Astray);
        }
        let cached = hits.iter().all(|call| call.paths.iter().all(|path| self.place.is_cache(path)));
        // A name that stays behind is swept by a later run.
        let removes = point.call.starts_with("unlink");
        let slots = self.place.repository().join("s");
        let fences = hits.iter().all(|call| call.paths.iter().all(|path| path.starts_with(&slots)));
        let codes: &[i32] = match self.purpose {
            _ if cached => &[0],
            _ if removes => &[0, 1],
            // A prune commits nothing. That its session is over is said again by the next.
            Purpose::Free if fences => &[0, 1],
            Purpose::BringBack => &[1, 3],
            _ => &[1],
        };
        ensure!(codes.contains(&code), "it ended with {code}, after {}: {}", shown(), ended.err);
        ensure!(code == 0 || ended.err.contains("error:") || code == 3, "it said nothing: {:?}", ended.err);
        Ok(Hit::Met)
    }

    /// All that was committed before comes back.
    pub fn unharmed(&self) -> Verdict {
        let listed = self.listed()?;
        for saved in &self.scene.saved {
            ensure!(listed.contains_key(&saved.id), "the snapshot {} is gone", saved.id);
            ensure!(self.restored(&saved.id)? == saved.listing, "the snapshot {} is not as it was saved", saved.id);
        }
        self.sound()
    }

    /// What else a run left, before another one comes.
    /// `powered`: the power never went, so that no bytes were lost.
    pub fn remains(&self, ended: &Ended, point: &Point, powered: bool) -> Verdict {
        let done = ended.code == Some(0) || point.is_end();
        let listed = self.listed()?;
        let known =
            |id: &String| self.scene.unchecked.contains(id) || self.scene.saved.iter().any(|saved| saved.id == *id);
        for id in listed.keys().filter(|id| !known(id)) {
            ensure!(self.restored(id)? == self.tree, "the new snapshot {id} is not whole");
        }
        match self.purpose {
            Purpose::Save => {
                let told = ended.out.lines().next().filter(|_| ended.out.ends_with('\n'));
                ensure!(!done || told.is_some(), "it named no snapshot: {:?}", ended.out);
                ensure!(
                    told.is_none_or(|id| listed.contains_key(id)),
                    "it named a snapshot that is not there: {told:?}"
                );
            }
            Purpose::LetGo => ensure!(!done || self.only_newest(&listed), "it forgot too little: {listed:?}"),
            Purpose::Free => ensure!(!done || self.is_freed(&listed), "it freed nothing: {listed:?}"),
            Purpose::BringBack if done => self.brought_back()?,
            Purpose::BringBack if powered => self.no_half_files()?,
            Purpose::BringBack => {}
        }
        Ok(())
    }

    /// After the same command was given again, without a fault.
    pub fn recovery(&self, ended: &std::process::Output) -> Verdict {
        let err = String::from_utf8_lossy(&ended.stderr);
        let done = self.purpose == Purpose::BringBack && err.contains("not empty");
        ensure!(ended.status.success() || done, "given again, it ended with {}: {err}", ended.status);
        match self.purpose {
            Purpose::Save => {
                let id = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
                ensure!(self.restored(&id)? == self.tree, "given again, it saved something else");
                let left = LocalStore::open(&self.place.repository()).map(|store| store.leftovers());
                let mut left = left.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                // What small objects left is swept after a day.
                left.retain(|leftover| leftover.session().is_some());
                ensure!(left.is_empty(), "given again, it left {left:?}");
            }
            Purpose::LetGo => {
                let listed = self.listed()?;
                ensure!(self.only_newest(&listed), "given again, it forgot too little: {listed:?}");
            }
            Purpose::Free => {
                let listed = self.listed()?;
                ensure!(self.is_freed(&listed), "given again, it freed nothing: {listed:?}");
                self.unharmed()?;
            }
            Purpose::BringBack => self.brought_back()?,
        }
        self.sound()
    }

    fn is_freed(&self, listed: &BTreeMap<String, Standing>) -> bool {
        !listed.values().any(|standing| *standing == Standing::Forgotten)
            && self.place.packed() < self.scene.template_place().packed()
    }

    fn listed(&self) -> Verdict<BTreeMap<String, Standing>> {
        let list: Value = self.json(&["snapshots", "--all", "--json"])?;
        let standing = |row: &Value| match (row["forgotten"] == true, row["expired"] == true) {
            (_, true) => Standing::Gone,
            (true, false) => Standing::Forgotten,
            (false, false) => Standing::Kept,
        };
        let rows = list.as_array().into_iter().flatten();
        Ok(rows.map(|row| (row["id"].as_str().unwrap_or_default().to_owned(), standing(row))).collect())
    }

    fn only_newest(&self, listed: &BTreeMap<String, Standing>) -> bool {
        let newest = self.scene.saved.last().map(|saved| saved.id.as_str());
        listed.iter().all(|(id, standing)| (*standing == Standing::Kept) == (Some(id.as_str()) == newest))
    }

    fn sound(&self) -> Verdict {
        let report = self.json(&["verify", "--level", "data", "--json"])?;
        ensure!(report["sound"] == true, "verify: {report}");
        Ok(())
    }

    fn restored(&self, id: &str) -> Verdict<String> {
        let to = self.place.home.join("restored");
        let from = format!("{id}:{}", self.scene.tree().display());
        self.run(&["-q", "restore", &from, "--to", "restored"])?;
        let listing = listing::of(&to);
        fs::remove_dir_all(&to).map_err(|error| error.to_string())?;
        Ok(listing)
    }

    fn brought_back(&self) -> Verdict {
        let wanted = self.scene.saved.last().map(|saved| saved.listing.as_str());
        let found = listing::of(&self.place.target());
        ensure!(
            wanted == Some(&found),
            "the target is not as it was saved:\n{}",
            differing(wanted.unwrap_or(""), &found)
        );
        Ok(())
    }

    /// Under its own name a file is as some snapshot has it.
    fn no_half_files(&self) -> Verdict {
        let target = self.place.target();
        if !target.exists() {
            return Ok(());
        }
        let whole = self.scene.contents();
        for (path, content) in contents(&listing::of(&target)) {
            let name = Path::new(&path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let ours = name.starts_with(".lifeboat-");
            ensure!(ours || whole.contains(&(path.clone(), content)), "half a file stands at {path}");
        }
        Ok(())
    }

    fn json(&self, arguments: &[&str]) -> Verdict<Value> {
        serde_json::from_str(&self.run(arguments)?).map_err(|error| format!("{arguments:?}: {error}"))
    }

    fn run(&self, arguments: &[&str]) -> Verdict<String> {
        let output = self.place.command(arguments).output().map_err(|error| error.to_string())?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{arguments:?} ended with {}: {out}{err}", output.status);
        Ok(out.into_owned())
    }
}

/// The lines that only one of two listings has.
fn differing(one: &str, other: &str) -> String {
    let only = |a: &str, b: &str, sign| -> String {
        a.lines()
            .filter(|line| !b.lines().any(|theirs| theirs == *line))
            .map(|line| format!("{sign} {line}\n"))
            .collect()
    };
    only(one, other, '-') + &only(other, one, '+')
}
