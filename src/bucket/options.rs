//! How a cloud is spoken to: what the environment and the configuration say.
//!
//! Owns the names of options and their precedence: what a configuration gives wins over `LIFEBOAT_…`, which wins over the variables that
//! `object_store` documents (`AWS_…`, `GOOGLE_…`, `AZURE_…`). Refuses to show a secret: values are printed by nothing here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::units::ByteCount;

/// Requests under way at once.
const CONNECTIONS: usize = 32;

/// Which class of storage an object of a kind goes to, by the cloud's own names (`STANDARD_IA`, `COLDLINE`, `Cool`); none leaves it to the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageClasses {
    /// Packs of content: all but a few per cent of the bytes, read by restores and verifications only.
    pub data: Option<String>,
    /// Everything else, which every run reads.
    pub metadata: Option<String>,
}

/// Everything that a client is made of besides the address.
#[derive(Clone)]
pub struct Options {
    /// The server, as a URL.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Whether the bucket stands in the path of requests (true, the default), or in the name of the host.
    pub path_style: Option<bool>,
    /// A file of certificates (PEM) that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Plain HTTP, to loopback addresses only.
    pub allow_http: bool,
    /// Whether the machine's own credentials are asked for at the cloud's metadata address.
    pub metadata_credentials: bool,
    pub classes: StorageClasses,
    pub connections: usize,
    pub upload_rate: Option<ByteCount>,
    pub download_rate: Option<ByteCount>,
    pub timeouts: Timeouts,
    /// Names as in the environment, in lower case; secrets among the values.
    pub(super) settings: BTreeMap<String, Zeroizing<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// A whole request: 32 MiB at half a megabit per second.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), read: Duration::from_secs(30), request: Duration::from_secs(600) }
    }
}

impl Default for Options {
    /// Nothing from anywhere: no credentials, the clouds' own servers.
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: None,
            ca_file: None,
            allow_http: false,
            metadata_credentials: false,
            classes: StorageClasses::default(),
            connections: CONNECTIONS,
            upload_rate: None,
            download_rate: None,
            timeouts: Timeouts::default(),
            settings: BTreeMap::new(),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("region", &self.region)
            .field("allow_http", &self.allow_http)
            .field("metadata_credentials", &self.metadata_credentials)
            .finish_non_exhaustive()
    }
}

/// An option that cannot be what it says. No value is repeated: it may be a secret in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("{name} is not {what}")]
    Value { name: String, what: &'static str },
    #[error(
        "{name} would let anyone read along: certificates are always checked; give `ca_file` (LIFEBOAT_CA_FILE) for a private authority"
    )]
    Unchecked { name: String },
}

impl Options {
    /// What this process's environment says.
    pub fn from_environment() -> Result<Self, OptionError> {
        Self::from_variables(std::env::vars_os())
    }

    pub fn from_variables(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let mut own = Vec::new();
        for (name, value) in variables {
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
            if value.is_empty() {
                continue;
            }
            let lower = name.to_ascii_lowercase();
            if ["aws_", "google_", "azure_"].iter().any(|prefix| lower.starts_with(prefix)) {
                options.settings.insert(lower, Zeroizing::new(value.to_owned()));
            } else if let Some(key) = lower.strip_prefix("lifeboat_") {
                own.push((name.to_owned(), key.to_owned(), value.to_owned()));
            }
        }
        if let Some((name, _)) = options
            .settings
            .iter()
            .find(|(name, value)| name.ends_with("_allow_invalid_certificates") && is_true(value) != Some(false))
        {
            return Err(OptionError::Unchecked { name: name.to_ascii_uppercase() });
        }
        for name in ["aws_allow_http", "google_allow_http", "azure_allow_http"] {
            if let Some(value) = options.settings.remove(name) {
                options.allow_http |= is_true(&value).ok_or_else(|| wrong(name, "true or false"))?;
            }
        }
        for (name, key, value) in own {
            options.set(&name, &key, &value)?;
        }
        Ok(options)
    }

    /// Sets one of the options that have the same name in a configuration and, after `LIFEBOAT_`, in the environment.
    fn set(&mut self, name: &str, key: &str, value: &str) -> Result<(), OptionError> {
        let size = || value.parse::<ByteCount>().ok().filter(|rate| rate.0 > 0);
        match key {
            "ca_file" => self.ca_file = Some(value.into()),
            "storage_class" => self.classes.data = Some(class(value).ok_or_else(|| wrong(name, CLASS))?),
            "metadata_storage_class" => self.classes.metadata = Some(class(value).ok_or_else(|| wrong(name, CLASS))?),
            "connections" => {
                let number = value.parse().ok().filter(|number| (1..=1024).contains(number));
                self.connections = number.ok_or_else(|| wrong(name, "a number from 1 to 1024"))?;
            }
            "upload_rate" => self.upload_rate = Some(size().ok_or_else(|| wrong(name, RATE))?),
            "download_rate" => self.download_rate = Some(size().ok_or_else(|| wrong(name, RATE))?),
            "cloud_credentials" => match value {
                "metadata" => self.metadata_credentials = true,
                "environment" => self.metadata_credentials = false,
                _ => return Err(wrong(name, "\"environment\" or \"metadata\"")),
            },
            _ => {}
        }
        Ok(())
    }

    /// Gives a credential or setting by the name that its environment variable has, such as `AWS_ACCESS_KEY_ID`.
    pub fn give(&mut self, name: &str, value: Zeroizing<String>) {
        self.settings.insert(name.to_ascii_lowercase(), value);
    }

    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|value| value.as_str())
    }

    pub(super) fn has(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.settings.contains_key(*name))
    }
}

const RATE: &str = "a number of bytes per second, such as 20MiB";
const CLASS: &str = "a class of storage, such as STANDARD_IA";

fn wrong(name: &str, what: &'static str) -> OptionError {
    OptionError::Value { name: name.to_ascii_uppercase(), what }
}

/// A cloud's own name of a class: it goes into a header.
pub fn class(text: &str) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    ((1..=64).contains(&text.len()) && text.bytes().all(good)).then(|| text.to_owned())
}

pub(super) fn is_true(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" | "y" => Some(true),
        "0" | "false" | "off" | "no" | "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Options, OptionError> {
        Options::from_variables(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn the_environment_is_read_by_its_documented_names() {
        let options = read(&[
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_ALLOW_HTTP", "true"),
            ("LIFEBOAT_UPLOAD_RATE", "20MiB"),
            ("LIFEBOAT_STORAGE_CLASS", "STANDARD_IA"),
            ("LIFEBOAT_REPO", "s3://x"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(options.setting("aws_access_key_id"), Some("id"));
        assert!(options.allow_http);
        assert_eq!(options.upload_rate, Some(ByteCount(20 << 20)));
        assert_eq!(options.classes.data.as_deref(), Some("STANDARD_IA"));
    }

    #[test]
    fn a_wrong_option_is_named_and_its_value_is_not() {
        for (name, value) in [
            ("LIFEBOAT_CONNECTIONS", "hunter2"),
            ("LIFEBOAT_UPLOAD_RATE", "hunter2"),
            ("LIFEBOAT_CLOUD_CREDENTIALS", "hunter2"),
            ("LIFEBOAT_STORAGE_CLASS", "hunter2\r\nx: y"),
            ("AWS_ALLOW_HTTP", "hunter2"),
            ("AWS_ALLOW_INVALID_CERTIFICATES", "true"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn nothing_secret_is_in_the_debug_form() {
        let options = read(&[("AWS_SECRET_ACCESS_KEY", "hunter2")]).unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
