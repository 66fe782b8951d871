//! The address of a store as people write it.
//!
//! Owns its parsing and its printing; opens what it names. Refuses to repeat anything that could be a password.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Store;
use super::local::{LocalStore, OpenError};
use crate::names::unhex;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An absolute path, UTF-8.
    Directory(PathBuf),
}

const GOOD: &str = "write a directory, such as /srv/backup or file:///srv/backup";

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("the address is empty: {GOOD}")]
    Empty,
    #[error("{shown} is in a cloud, and this build stores to local directories only: {GOOD}")]
    Cloud { shown: String },
    /// `problem` completes the sentence "ADDRESS …".
    #[error("{shown} {problem}: {GOOD}")]
    Malformed { shown: String, problem: &'static str },
    #[error("{shown} is relative, and the working directory is unknown: {GOOD}")]
    NoWorkingDirectory {
        shown: String,
        #[source]
        cause: io::Error,
    },
}

impl Address {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let malformed = |problem| AddressError::Malformed { shown: shown(text), problem };
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(malformed("holds a control character"));
        }
        let Some(scheme) = scheme(text) else {
            if text == "~" || text.starts_with("~/") {
                return Err(malformed("begins with `~`, which only a shell replaces by a home directory"));
            }
            let path = std::path::absolute(text)
                .map_err(|cause| AddressError::NoWorkingDirectory { shown: shown(text), cause })?;
            return Ok(Self::at(&path));
        };
        let rest = text[scheme.len() + 1..].strip_prefix("//");
        match (scheme.to_ascii_lowercase().as_str(), rest) {
            ("file", Some(rest)) => {
                let path = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err(malformed("names a host where `file://` is followed by an absolute path"));
                }
                if path.contains(['?', '#']) {
                    return Err(malformed("has a query or fragment, which a directory has not"));
                }
                let path = unescape(path).ok_or_else(|| malformed("has a broken `%` escape"))?;
                Ok(Self::at(Path::new(&path)))
            }
            ("file", None) => Err(malformed("lacks the two slashes after `file:`")),
            ("s3" | "gs" | "az", Some(_)) => Err(AddressError::Cloud { shown: shown(text) }),
            ("s3" | "gs" | "az", None) => Err(malformed("lacks the two slashes after its scheme")),
            _ => {
                Err(malformed("is of a kind that Lifeboat does not know (a path with a colon begins with `./` or `/`)"))
            }
        }
    }

    /// One directory, one address: without trailing and doubled slashes, without `.` parts.
    fn at(path: &Path) -> Self {
        Self::Directory(path.components().collect())
    }

    pub fn url(&self) -> String {
        match self {
            Self::Directory(path) => file_url(&path.to_string_lossy()),
        }
    }

    /// The directory, for whoever sweeps it.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

/// Opens the store at an address.
pub fn open(address: &Address) -> Result<Arc<dyn Store>, OpenError> {
    let Address::Directory(path) = address;
    Ok(Arc::new(LocalStore::open(path)?))
}

/// Makes the store at an address, where there is none, and opens it.
pub fn create(address: &Address) -> Result<Arc<dyn Store>, OpenError> {
    let Address::Directory(path) = address;
    Ok(Arc::new(LocalStore::create(path)?))
}

/// What stands before the first colon, if that is before the first slash: `user@host:/path` is no path either.
fn scheme(text: &str) -> Option<&str> {
    let first = text.split('/').next()?;
    first.split_once(':').map(|(scheme, _)| scheme)
}

/// The address without what could be a secret: a user part, a query, a fragment.
fn shown(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let Some(scheme) = scheme(&clean) else { return clean };
    let after = &clean[scheme.len() + 1..];
    let end = after.find(['?', '#']).unwrap_or(after.len());
    let hidden_end = if end < after.len() { "?***" } else { "" };
    // A password may hold a slash, a question mark or an `@`: all up to the last `@` of the whole is suspect.
    if clean.contains('@') {
        let slashes = if after.starts_with("//") { "//" } else { "" };
        let scheme = if scheme.contains('@') { "***" } else { scheme };
        let last = clean.rfind('@').map_or("", |at| &clean[at + 1..]);
        let host = &last[..last.find(['?', '#']).unwrap_or(last.len())];
        return format!("{scheme}:{slashes}***@{host}{hidden_end}");
    }
    format!("{scheme}:{}{hidden_end}", &after[..end])
}

/// The URL of an absolute path: what could mean something else in a URL is escaped.
pub(super) fn file_url(path: &str) -> String {
    let mut url = String::from("file://");
    for c in path.chars() {
        if c.is_control() || matches!(c, ' ' | '"' | '%' | '#' | '?' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}') {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                url.push_str(&format!("%{byte:02X}"));
            }
        } else {
            url.push(c);
        }
    }
    url
}

fn unescape(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.extend(unhex(&digits.to_ascii_lowercase())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_in_each_of_its_forms() {
        for text in
            ["/srv/my backup", "/srv//my backup/./", "file:///srv/my%20backup/", "file://localhost/srv/my%20backup"]
        {
            assert_eq!(Address::parse(text).unwrap().directory(), Path::new("/srv/my backup"), "{text}");
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(Address::parse("backup").unwrap().directory(), here.join("backup"));
        assert_eq!(Address::parse("./a:b").unwrap().directory(), here.join("a:b"));
    }

    #[test]
    fn a_url_leads_back_to_its_address() {
        for path in ["/srv/backup", "/a b/100%/#1?", "/größe/{x}|y"] {
            let address = Address::parse(path).unwrap();
            assert_eq!(Address::parse(&address.url()).unwrap(), address, "{path}");
        }
    }

    #[test]
    fn a_cloud_is_recognised_and_refused() {
        for text in ["s3://bucket/prefix", "gs://bucket", "az://container/x", "S3://bucket"] {
            let error = Address::parse(text).unwrap_err();
            assert!(matches!(error, AddressError::Cloud { .. }), "{text}");
            assert!(error.to_string().contains("local directories only"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_says_how_one_looks() {
        let bad = [
            "",
            "~/backup",
            "file:/srv",
            "file://srv/x",
            "file:///x?y",
            "file:///%zz",
            "file:///%00",
            "s3:bucket",
            "http://host/x",
            "sftp:user@host:/x",
            "host:/srv",
            "c:",
            "a\0b",
            "file:///%f",
            "file:///é%é",
        ];
        for text in bad {
            let error = Address::parse(text).unwrap_err();
            assert!(error.to_string().ends_with(GOOD), "{text:?}: {error}");
        }
    }

    #[test]
    fn no_message_repeats_a_password() {
        for text in [
            "s3://user:hunter2@bucket/x",
            "s3://user:hunter2/@x@bucket/x",
            "s3://bucket/x?secret=hunter2",
            "s3://bucket/x#hunter2",
            "sftp:user:hunter2@host:/x",
            "user:hunter2@host:/x",
            "user@hunter2@host:/x",
            "file://user:hunter2@host/x",
            "rest:https://user:hunter2@host/x?y",
            "s3://user:hun?hunter2@host/x",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
