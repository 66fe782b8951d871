//! Who this process is, so that a later one can tell whether its session still lives.
//!
//! Owns host, boot, process. Refuses names: what is stored is hashed under the repository key.

use std::fs;

use crate::pack::record::SessionRecord;
use crate::seal::key::Secret;

/// This process, as session records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Machine and process namespace: two containers on one machine are two hosts.
    pub host: [u8; 16],
    pub boot: [u8; 16],
    pub pid: u32,
    /// Start of the process, clock ticks since boot.
    pub started: u64,
}

fn hashed(key: &Secret, parts: &[&str]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)); 0 if the process is gone.
fn start_of(pid: u32) -> u64 {
    let stat = read(&format!("/proc/{pid}/stat"));
    // The second field is the name in parentheses, which may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

impl Process {
    pub fn this(key: &Secret) -> Self {
        let namespace = fs::read_link("/proc/self/ns/pid").map(|p| p.display().to_string()).unwrap_or_default();
        let machine = read("/etc/machine-id");
        let host_name = read("/proc/sys/kernel/hostname");
        let pid = std::process::id();
        Self {
            host: hashed(key, &["host", &machine, &host_name, &namespace]),
            boot: hashed(key, &["boot", &read("/proc/sys/kernel/random/boot_id")]),
            pid,
            started: start_of(pid),
        }
    }

    /// The one that a session's record names.
    pub fn of(record: &SessionRecord) -> Self {
        Self { host: *record.host, boot: *record.boot, pid: record.pid, started: record.started }
    }

    /// Whether `other`, seen from this process, cannot be running any more. Of other hosts nothing is known.
    pub fn knows_dead(&self, other: &Process) -> bool {
        self.host == other.host
            && (self.boot != other.boot || (other.started != 0 && start_of(other.pid) != other.started))
    }
}

/// The host's name, for people.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_is_not_dead_and_an_ended_one_is() {
        let key = Secret::new([1; 32]);
        let me = Process::this(&key);
        assert!(me.started > 0);
        assert!(!me.knows_dead(&me));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = Process { pid: child.id(), started: start_of(child.id()), ..me };
        assert!(!me.knows_dead(&other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(me.knows_dead(&other));
        assert!(!me.knows_dead(&Process { host: [0; 16], ..other }));
        assert!(me.knows_dead(&Process { boot: [0; 16], ..me }));
    }
}
