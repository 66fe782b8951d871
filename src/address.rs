//! Where a repository or a source is, as people write it.
//!
//! Owns the parsing and the printing of addresses: directories, and buckets in three kinds of cloud. Refuses to look whether anything is there,
//! and to repeat what could be a password.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::names::unhex;

/// A place that holds a repository, or that a policy saves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// UTF-8; without `.` parts, doubled and trailing slashes. Relative if it was typed so.
    Directory(PathBuf),
    Bucket(BucketAddress),
}

/// The kinds of cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cloud {
    /// Amazon S3, and what speaks its language.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage; its buckets are called containers.
    Azure,
}

impl Cloud {
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

/// A bucket, or what lies under one prefix of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketAddress {
    pub cloud: Cloud,
    pub bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.cloud.scheme(), self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", escaped(&self.prefix))?;
        }
        Ok(())
    }
}

const GOOD: &str =
    "write a directory, such as /srv/backup, or a bucket, such as s3://bucket/prefix, gs://bucket or az://container";

/// A text that is no address. `problem` completes the sentence "ADDRESS …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the address is empty: {GOOD}")]
    Empty,
    #[error("{shown} {problem}: {GOOD}")]
    Malformed { shown: String, problem: &'static str },
    /// A kind of store that others have.
    #[error("{shown} is of a kind that Lifeboat does not store to: {instead}")]
    Unsupported { shown: String, instead: &'static str },
}

const SFTP: &str =
    "SFTP cannot publish an object at once and for good, so mount it (sshfs) and give the directory, or use a bucket";
const WEB_DAV: &str = "WebDAV cannot refuse to replace an object, so mount it (davfs2, rclone mount) and give the directory, or use a bucket";
const RESTIC_S3: &str = "write s3://bucket/prefix, and the server's own address into AWS_ENDPOINT_URL or `endpoint`";

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
            return Ok(Self::at(Path::new(text)));
        };
        let unsupported = |instead| Err(AddressError::Unsupported { shown: shown(text), instead });
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
            ("s3", Some(rest)) => bucket(Cloud::S3, rest).map_err(malformed),
            ("gs" | "gcs", Some(rest)) => bucket(Cloud::Gcs, rest).map_err(malformed),
            ("az" | "azure" | "azblob", Some(rest)) => bucket(Cloud::Azure, rest).map_err(malformed),
            ("s3", None) if text[scheme.len() + 1..].starts_with("http") => unsupported(RESTIC_S3),
            ("s3" | "gs" | "gcs" | "az" | "azure" | "azblob", None) => {
                Err(malformed("lacks the two slashes after its scheme"))
            }
            ("sftp" | "ssh" | "scp", _) => unsupported(SFTP),
            ("webdav" | "webdavs" | "dav" | "davs", _) => unsupported(WEB_DAV),
            _ => {
                Err(malformed("is of a kind that Lifeboat does not know (a path with a colon begins with `./` or `/`)"))
            }
        }
    }

    /// One directory, one address: without trailing and doubled slashes, without `.` parts.
    pub fn at(path: &Path) -> Self {
        Self::Directory(path.components().collect())
    }

    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Bucket(_) => None,
        }
    }

    pub fn url(&self) -> String {
        match self {
            Self::Directory(path) => file_url(&path.to_string_lossy()),
            Self::Bucket(address) => address.to_string(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

fn bucket(cloud: Cloud, rest: &str) -> Result<Address, &'static str> {
    if rest.contains('@') {
        return Err(
            "has a user part: credentials come from the environment or the configuration, never from an address",
        );
    }
    if rest.contains(['?', '#']) {
        return Err("has a query or fragment, which a bucket has not");
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    // Names of each cloud, and of servers that are less strict than Amazon's own.
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if bucket.is_empty() {
        return Err("names no bucket");
    }
    if bucket.len() > 255 || !bucket.bytes().all(good) || !bucket.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(
            "names no possible bucket (letters, digits, `.`, `-`, `_`; a server's address goes into `endpoint`)",
        );
    }
    let prefix = unescape(prefix).ok_or("has a broken `%` escape")?;
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("has an empty, `.` or `..` part in its prefix");
    }
    Ok(Address::Bucket(BucketAddress { cloud, bucket: bucket.to_owned(), prefix: prefix.to_owned() }))
}

/// What stands before the first colon, if that is before the first slash: `user@host:/path` is no path either.
fn scheme(text: &str) -> Option<&str> {
    let first = text.split('/').next()?;
    first.split_once(':').map(|(scheme, _)| scheme)
}

/// The address without what could be a secret: a user part, a query, a fragment.
pub fn shown(text: &str) -> String {
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
pub fn file_url(path: &str) -> String {
    format!("file://{}", escaped(path))
}

fn escaped(path: &str) -> String {
    let mut url = String::new();
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
            assert_eq!(Address::parse(text).unwrap().directory(), Some(Path::new("/srv/my backup")), "{text}");
        }
        assert_eq!(Address::parse("backup").unwrap().directory(), Some(Path::new("backup")));
        assert_eq!(Address::parse("./a:b").unwrap().directory(), Some(Path::new("./a:b")));
    }

    #[test]
    fn a_url_leads_back_to_its_address() {
        for path in ["/srv/backup", "/a b/100%/#1?", "/größe/{x}|y"] {
            let address = Address::parse(path).unwrap();
            assert_eq!(Address::parse(&address.url()).unwrap(), address, "{path}");
        }
    }

    #[test]
    fn a_bucket_is_read_in_each_of_its_forms() {
        let wanted = |cloud, prefix: &str| {
            Address::Bucket(BucketAddress { cloud, bucket: "My.bucket-1".into(), prefix: prefix.into() })
        };
        for (text, cloud, prefix) in [
            ("s3://My.bucket-1", Cloud::S3, ""),
            ("S3://My.bucket-1/", Cloud::S3, ""),
            ("gs://My.bucket-1/a/b/", Cloud::Gcs, "a/b"),
            ("az://My.bucket-1/a%20b", Cloud::Azure, "a b"),
            ("azure://My.bucket-1", Cloud::Azure, ""),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address, wanted(cloud, prefix), "{text}");
            assert_eq!(Address::parse(&address.url()).unwrap(), address, "{text}");
        }
    }

    #[test]
    fn what_others_can_and_we_cannot_is_answered_by_a_way_out() {
        for (text, way_out) in [
            ("sftp:user@host:/x", "sshfs"),
            ("webdav://host/x", "rclone mount"),
            ("s3:https://host/bucket", "AWS_ENDPOINT_URL"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(way_out), "{error}");
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
            "s3://",
            "s3:///prefix",
            "s3://host:9000/bucket",
            "s3://bucket/a//x",
            "gs://bucket/../x",
            "az://-x",
            "http://host/x",
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
