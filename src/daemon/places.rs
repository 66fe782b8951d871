//! Where the daemon keeps what it keeps.
//!
//! Owns the order of precedence: the configuration, else systemd's directories, else those of the XDG. Refuses to create any.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::policy::DaemonConfig;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The catalog and its lock.
    pub state: PathBuf,
    /// Whatever can be lost.
    pub cache: PathBuf,
    /// The Unix socket of the API.
    pub socket: PathBuf,
}

/// No rule says where to keep something.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no place for the {what}: [daemon] {what} is not set, nor is {systemd}, {xdg} or HOME")]
pub struct PlaceError {
    pub what: &'static str,
    pub systemd: &'static str,
    pub xdg: &'static str,
}

impl Places {
    /// `env` gives an environment variable, as `std::env::var_os` does.
    pub fn find(config: &DaemonConfig, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, PlaceError> {
        // systemd gives a list with colons when a unit names several directories; ours is the first.
        let systemd = |name: &str| {
            let value = env(name)?.into_string().ok()?;
            value.split(':').next().map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let xdg = |name: &str, in_home: &str| {
            let absolute = |path: &PathBuf| path.is_absolute();
            env(name)
                .map(PathBuf::from)
                .filter(absolute)
                .or_else(|| Some(env("HOME").map(PathBuf::from).filter(absolute)?.join(in_home)))
                .map(|path| path.join("lifeboat"))
        };
        let place = |set: &Option<PathBuf>, what, unit: &'static str, base: &'static str, in_home: &str| {
            set.clone().or_else(|| systemd(unit)).or_else(|| xdg(base, in_home)).ok_or(PlaceError {
                what,
                systemd: unit,
                xdg: base,
            })
        };
        let state = place(&config.state, "state", "STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")?;
        let cache = place(&config.cache, "cache", "CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache")?;
        let runtime = || env("XDG_RUNTIME_DIR").map(|path| PathBuf::from(path).join("lifeboat"));
        let socket = config.socket.clone().unwrap_or_else(|| {
            systemd("RUNTIME_DIRECTORY")
                .or_else(|| runtime().filter(|path| path.is_absolute()))
                .unwrap_or_else(|| state.clone())
                .join("api.sock")
        });
        Ok(Self { state, cache, socket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(config: &DaemonConfig, env: &[(&str, &str)]) -> Result<Places, PlaceError> {
        Places::find(config, |name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_configuration_wins_over_systemd_and_systemd_over_home() {
        let systemd = [
            ("HOME", "/root"),
            ("STATE_DIRECTORY", "/var/lib/lifeboat:/var/lib/other"),
            ("CACHE_DIRECTORY", "/var/cache/lifeboat"),
            ("RUNTIME_DIRECTORY", "/run/lifeboat"),
        ];
        let set = DaemonConfig { state: Some("/srv/state".into()), ..DaemonConfig::default() };
        let places = find(&set, &systemd).unwrap();
        assert_eq!(places.state, PathBuf::from("/srv/state"));
        assert_eq!(places.cache, PathBuf::from("/var/cache/lifeboat"));
        assert_eq!(places.socket, PathBuf::from("/run/lifeboat/api.sock"));
        let places = find(&DaemonConfig::default(), &systemd).unwrap();
        assert_eq!(places.state, PathBuf::from("/var/lib/lifeboat"));
    }

    #[test]
    fn a_user_without_systemd_gets_places_at_home() {
        let places = find(&DaemonConfig::default(), &[("HOME", "/home/ada"), ("XDG_CACHE_HOME", "/tmp/c")]).unwrap();
        assert_eq!(places.state, PathBuf::from("/home/ada/.local/state/lifeboat"));
        assert_eq!(places.cache, PathBuf::from("/tmp/c/lifeboat"));
        assert_eq!(places.socket, PathBuf::from("/home/ada/.local/state/lifeboat/api.sock"));
    }

    #[test]
    fn nowhere_is_an_error_that_names_the_ways_out() {
        let error = find(&DaemonConfig::default(), &[]).unwrap_err().to_string();
        assert!(error.contains("STATE_DIRECTORY") && error.contains("[daemon] state"), "{error}");
    }
}
