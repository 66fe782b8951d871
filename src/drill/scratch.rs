//! Scratch directories: made for one drill, removed after it, whatever happens.
//!
//! Owns their names and their end. One that a crash left is removed by the next drill: its name holds the process that made it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::names::hex;

const PREFIX: &str = "drill-";

#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the scratch directory {}", path.display())]
pub struct ScratchError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    cause: std::io::Error,
}

/// An empty directory of this process. Dropped without `remove`, it is removed as well, and what cannot be is logged.
#[derive(Debug)]
pub struct Scratch {
    path: Option<PathBuf>,
}

/// Of a process: its id and its start, so that a later one with the same id is not mistaken for it.
fn owner(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
    Some(format!("{pid}-{start}"))
}

impl Scratch {
    /// A new directory beneath `root`, which is made if it is missing. What dead processes left there is removed.
    pub fn make(root: &Path) -> Result<Self, ScratchError> {
        let fail = |verb, path: &Path| {
            let path = path.to_owned();
            move |cause| ScratchError { verb, path, cause }
        };
        let mut maker = fs::DirBuilder::new();
        maker.mode(0o700);
        maker.recursive(true).create(root).map_err(fail("make", root))?;
        for entry in fs::read_dir(root).map_err(fail("list", root))? {
            let entry = entry.map_err(fail("list", root))?;
            let name = entry.file_name();
            let Some(made_by) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let Some((made_by, _)) = made_by.rsplit_once('-') else { continue };
            let pid = made_by.split('-').next().and_then(|pid| pid.parse().ok());
            if pid.and_then(owner).as_deref() != Some(made_by) {
                remove(&entry.path()).map_err(fail("remove", &entry.path()))?;
            }
        }
        let me = owner(std::process::id()).unwrap_or_default();
        let path = root.join(format!("{PREFIX}{me}-{}", hex(&crate::seal::random::<8>())));
        maker.recursive(false).create(&path).map_err(fail("make", &path))?;
        Ok(Self { path: Some(path) })
    }

    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("/nonexistent"))
    }

    /// Removes the directory with all that is in it.
    pub fn remove(mut self) -> Result<(), ScratchError> {
        match self.path.take() {
            None => Ok(()),
            Some(path) => remove(&path).map_err(|cause| ScratchError { verb: "remove", path, cause }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = remove(path)
        {
            tracing::warn!(%error, path = %path.display(), "a scratch directory stays until the next drill");
        }
    }
}

/// Removes a tree, in which restored directories may be closed to their own owner.
fn remove(path: &Path) -> std::io::Result<()> {
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    open_up(path)?;
    fs::remove_dir_all(path)
}

fn open_up(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_gone_after_use_and_after_a_crash() {
        let root = tempfile::tempdir().unwrap();
        let mine = Scratch::make(root.path()).unwrap();
        let path = mine.path().to_owned();
        fs::create_dir(path.join("closed")).unwrap();
        fs::write(path.join("closed/file"), b"x").unwrap();
        fs::set_permissions(path.join("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        let dead = root.path().join("drill-4194304-7-00");
        fs::create_dir(&dead).unwrap();
        let other = root.path().join("somebody-elses");
        fs::create_dir(&other).unwrap();
        let second = Scratch::make(root.path()).unwrap();
        assert!(path.exists() && !dead.exists() && other.exists());
        mine.remove().unwrap();
        let kept = second.path().to_owned();
        drop(second);
        assert!(!path.exists() && !kept.exists());
    }
}
