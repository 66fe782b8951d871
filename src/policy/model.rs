//! What a configuration means, once every word of it was checked.
//!
//! Owns the shapes that the daemon acts on. Refuses text and spans: whatever stands here has been proved by `check`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use jiff::tz::TimeZone;

use super::problem::Problems;
use crate::address::{Address, BucketAddress};
use crate::compression::Compression;
use crate::names::{NameError, PolicyName};
use crate::schedule::Schedule;
use crate::schedule::keep::Keep;
use crate::units::ByteCount;

/// A whole configuration directory, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub daemon: DaemonConfig,
    pub repositories: BTreeMap<RepositoryName, RepositoryConfig>,
    pub policies: BTreeMap<PolicyName, Policy>,
    /// What is no error and still deserves a look. Never holds an error.
    pub warnings: Problems,
}

/// `[daemon]` of `lifeboat.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Always a loopback address: anything else needs TLS, which this build does not speak.
    pub listen: SocketAddr,
    /// None: systemd's directories, else XDG's.
    pub state: Option<PathBuf>,
    pub cache: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    /// Whether the pages that name no secret answer without a token.
    pub open_status: bool,
    /// Values of the Host header that are good besides loopback: lower case, without a port.
    pub hosts: Vec<String>,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
            state: None,
            cache: None,
            socket: None,
            open_status: true,
            hosts: Vec::new(),
        }
    }
}

/// `[repository.ID]`, or a policy's `repo` URL with the `key` beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryConfig {
    pub url: RepositoryUrl,
    pub key: SecretRef,
    pub read_key: Option<SecretRef>,
    pub admin_key: Option<SecretRef>,
    pub store: StoreSettings,
}

/// How a bucket is spoken to, where that is not left to the environment. Without meaning for a directory, where none of it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSettings {
    /// A server's URL.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<bool>,
    /// Certificates that are trusted besides the system's; absolute.
    pub ca_file: Option<PathBuf>,
    pub allow_http: bool,
    /// Whether the machine's own credentials are asked for at the cloud's metadata address.
    pub metadata_credentials: bool,
    /// Of Azure.
    pub account: Option<String>,
    /// Credentials, by the names that their environment variables have.
    pub secrets: Vec<(&'static str, SecretRef)>,
    pub storage_class: Option<String>,
    pub metadata_storage_class: Option<String>,
    pub connections: Option<u32>,
    pub upload_rate: Option<ByteCount>,
    pub download_rate: Option<ByteCount>,
}

/// The id of a repository: written like a policy's, or the URL itself where a policy gave no other name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

impl RepositoryName {
    pub(super) fn of_url(url: &RepositoryUrl) -> Self {
        Self(url.as_str().to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse::<PolicyName>() {
            Ok(name) => Ok(Self(name.into())),
            Err(_) => Err(NameError { what: "a repository name (1 to 63 of a-z 0-9 . _ -)", text: text.to_owned() }),
        }
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a repository lies: an absolute path, or a bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryUrl {
    pub(super) text: String,
    pub(super) address: Address,
}

impl RepositoryUrl {
    /// As it was typed. It holds no secret.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where a secret stands; never the secret itself. Whoever opens a repository reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `file:/path`: an absolute path.
    File(PathBuf),
    /// `cred:NAME`: a file in systemd's `$CREDENTIALS_DIRECTORY`; the name has no `/`.
    Credential(String),
    /// `env:NAME`: an environment variable of the daemon.
    Env(String),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Credential(name) => write!(f, "cred:{name}"),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

/// `[policy.ID]`: what is saved, where, when, and how long it is to stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub name: PolicyName,
    pub source: Source,
    pub repository: RepositoryName,
    pub schedule: Schedule,
    /// The zone in which `schedule` is read; `zone.iana_name()` is always there.
    pub zone: TimeZone,
    /// Checked and shown; nothing is deleted by it in this build.
    pub keep: Keep,
    pub tags: Vec<String>,
    /// Whether a partial run is a recovery point.
    pub accept_partial: bool,
    /// Paths (gitignore patterns, as in `source.exclude`) that may be unreadable without making a run partial.
    pub allow_unreadable: Vec<String>,
    /// Of content.
    pub compression: Compression,
    pub drill: DrillConfig,
}

/// What is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Absolute, without `.` and `..`, none twice; at least one, or a bucket.
    pub paths: Vec<PathBuf>,
    /// None twice.
    pub buckets: Vec<BucketAddress>,
    /// How these are spoken to: not as the repository, which may lie in another cloud.
    pub store: StoreSettings,
    /// Whether objects are asked for their tags; then all buckets are S3's.
    pub object_tags: bool,
    /// Patterns with gitignore's meaning, each proved to compile.
    pub exclude: Vec<String>,
    /// Files of such patterns, absolute.
    pub exclude_files: Vec<PathBuf>,
    /// Whether directories marked by a `CACHEDIR.TAG` are left out.
    pub exclude_caches: bool,
    pub one_file_system: bool,
    /// Whether a changed inode number alone is no reason to read a file again.
    pub ignore_inode: bool,
}

/// The implicit sample drill of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrillConfig {
    /// How many files it restores: 1..=100 000.
    pub files: u32,
}

impl Default for DrillConfig {
    fn default() -> Self {
        Self { files: 60 }
    }
}
