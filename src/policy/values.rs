//! Single values, from text to proof.
//!
//! Owns the forms of URLs, references to secrets, paths, zones, patterns and addresses. Refuses to look at more than one
//! value at a time; the zone database is jiff's and is asked by name.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use ignore::gitignore::GitignoreBuilder;
use jiff::tz::TimeZone;

use super::found::{Found, Typed};
use super::model::{RepositoryUrl, SecretRef};
use super::quote::without_url_users;
use super::words::nearest;
use crate::address::{Address, AddressError, BucketAddress};
use crate::compression::Compression;
use crate::names::escape;

type Text = Typed<String>;

/// A path of a Unix socket has to fit the kernel's `sun_path`, NUL included.
const SOCKET_BYTES_MAX: usize = 107;

/// What may be quoted in a message: harmless, short, and without the user part of a URL.
pub(super) fn shown(text: &str) -> String {
    let text = escape(without_url_users(text).as_bytes());
    if text.chars().count() <= 60 { text } else { text.chars().take(59).chain(['…']).collect() }
}

pub(super) fn absolute_path(text: &Text, what: &str, found: &mut Found) -> Option<PathBuf> {
    let path = Path::new(&text.value);
    if !path.is_absolute() {
        found
            .add("E117", &text.spot, format!("{what} is an absolute path"))
            .hint("begin it with `/`: the daemon has no working directory of yours, and `~` is not expanded");
        return None;
    }
    if text.value.contains('\0') || path.components().any(|part| part == Component::ParentDir) {
        found
            .add("E117", &text.spot, format!("{what} has no `..` and no NUL in it"))
            .hint("write the path that is meant: what `..` leads to depends on links");
        return None;
    }
    Some(path.components().collect()) // without `.`, doubled and trailing slashes
}

pub(super) fn socket_path(text: &Text, found: &mut Found) -> Option<PathBuf> {
    let path = absolute_path(text, "`socket`", found)?;
    if path.as_os_str().len() > SOCKET_BYTES_MAX {
        found.add("E115", &text.spot, format!("the path of a socket has at most {SOCKET_BYTES_MAX} bytes"));
        return None;
    }
    Some(path)
}

/// A bucket as a source.
pub(super) fn bucket(text: &Text, found: &mut Found) -> Option<BucketAddress> {
    match Address::parse(&text.value) {
        Ok(Address::Bucket(bucket)) => Some(bucket),
        Ok(Address::Directory(_)) => {
            let message = format!("the source \"{}\" is a URL of a directory", shown(&text.value));
            found.add("E117", &text.spot, message).hint("write the absolute path itself");
            None
        }
        Err(error) => {
            found
                .add("E117", &text.spot, format!("the source is no bucket: {error}"))
                .hint("write s3://bucket/prefix, gs://bucket/prefix or az://container/prefix");
            None
        }
    }
}

/// Whether `repo` was meant as a place and not as a name.
pub(super) fn looks_like_url(text: &str) -> bool {
    text.contains(['/', ':', '~'])
}

pub(super) fn repository_url(text: &Text, found: &mut Found) -> Option<RepositoryUrl> {
    const FORMS: &str = "write an absolute path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";
    let typed = text.value.as_str();
    let address = match Address::parse(typed) {
        Ok(Address::Directory(_)) if !typed.contains("://") && !typed.starts_with('/') => {
            let message = format!("\"{}\" is no repository URL: its path is not absolute", shown(typed));
            found.add("E118", &text.spot, message).hint("write an absolute path, or file:///path with three slashes");
            return None;
        }
        Ok(Address::Directory(path)) => {
            let path = Typed { value: path.to_string_lossy().into_owned(), spot: text.spot.clone() };
            Address::Directory(absolute_path(&path, "the place of a repository", found)?)
        }
        Ok(address) => address,
        Err(AddressError::Unsupported { instead, .. }) => {
            found
                .add("E118", &text.spot, format!("\"{}\" is a place that this build cannot store to", shown(typed)))
                .hint(instead);
            return None;
        }
        Err(AddressError::Malformed { problem, .. }) => {
            let message = format!("\"{}\" is no repository URL: it {problem}", shown(typed));
            found.add("E118", &text.spot, message).hint(FORMS);
            return None;
        }
        Err(AddressError::Empty) => {
            found.add("E118", &text.spot, "the repository's URL is empty").hint(FORMS);
            return None;
        }
    };
    Some(RepositoryUrl { text: typed.to_owned(), address })
}

/// A reference to a secret. No message holds what was typed: it may be the secret.
pub(super) fn secret(text: &Text, key: &str, found: &mut Found) -> Option<SecretRef> {
    let read = || match text.value.split_once(':')? {
        ("file", path) => {
            let path = Path::new(path);
            let plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
            plain.then(|| SecretRef::File(path.components().collect()))
        }
        ("cred", name) => {
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            let fits = (1..=255).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.');
            fits.then(|| SecretRef::Credential(name.to_owned()))
        }
        ("env", name) => {
            let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let starts_well = !name.starts_with(|c: char| c.is_ascii_digit());
            let fits = (1..=255).contains(&name.len()) && name.bytes().all(good) && starts_well;
            fits.then(|| SecretRef::Env(name.to_owned()))
        }
        _ => None,
    };
    let secret = read();
    if secret.is_none() {
        found
            .add("E120", &text.spot, format!("`{key}` is a reference to a secret, never the secret itself"))
            .hint("write file:/absolute/path, cred:NAME (a systemd credential) or env:NAME");
    }
    secret
}

pub(super) fn zone(text: &Text, found: &mut Found) -> Option<TimeZone> {
    let zone = TimeZone::get(&text.value).ok().filter(|zone| zone.iana_name().is_some() && !zone.is_unknown());
    if zone.is_none() {
        let finding = found.add("E130", &text.spot, format!("\"{}\" is no time zone", shown(&text.value)));
        let typed = text.value.to_ascii_lowercase().replace(' ', "_");
        let names: Vec<String> = jiff::tz::db().available().map(|name| name.as_str().to_owned()).collect();
        let lower: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let whole = || nearest(&typed, lower.iter().map(String::as_str));
        // "Berlin" is most of a name: its city.
        let city = || lower.iter().map(String::as_str).find(|name| name.rsplit('/').next() == Some(typed.as_str()));
        let close = city().or_else(whole).and_then(|close| lower.iter().position(|name| name == close));
        match close {
            Some(at) => finding.label(format!("did you mean \"{}\"?", names[at])),
            None => finding.hint("write UTC or the IANA name of a region, such as Europe/Berlin"),
        };
    }
    zone
}

pub(super) fn patterns(texts: &[Text], key: &str, found: &mut Found) -> Vec<String> {
    let mut good = Vec::new();
    for text in texts {
        let mut builder = GitignoreBuilder::new("/");
        let empty = text.value.trim().is_empty() || text.value.starts_with('#') || text.value.contains(['\n', '\0']);
        let compiled = builder.add_line(None, &text.value).is_ok() && builder.build().is_ok_and(|set| !set.is_empty());
        if compiled && !empty {
            good.push(text.value.clone());
        } else {
            found
                .add("E115", &text.spot, format!("\"{}\" in `{key}` is no pattern", shown(&text.value)))
                .hint("write one pattern as in a .gitignore file, such as \"*.tmp\" or \"/srv/home/*/.cache\"");
        }
    }
    good
}

pub(super) fn tags(texts: &[Text], found: &mut Found) -> Vec<String> {
    let mut good: Vec<String> = Vec::new();
    for text in texts {
        let fits = (1..=128).contains(&text.value.len())
            && text.value.trim() == text.value
            && !text.value.chars().any(|c| c.is_control() || c == ',');
        if !fits {
            found
                .add("E115", &text.spot, format!("\"{}\" is no tag", shown(&text.value)))
                .hint("a tag has 1 to 128 bytes, without commas, control characters, or spaces at its ends");
        } else if !good.contains(&text.value) {
            good.push(text.value.clone());
        }
    }
    good
}

pub(super) fn compression(text: &Text, found: &mut Found) -> Option<Compression> {
    let compression = text.value.parse().ok();
    if compression.is_none() {
        found
            .add("E115", &text.spot, format!("`compression` cannot be \"{}\"", shown(&text.value)))
            .hint("write \"auto\", \"fast\", \"off\", or a level of zstd from 1 to 19; leave it out for \"auto\"");
    }
    compression
}

pub(super) fn listen(text: &Text, found: &mut Found) -> Option<SocketAddr> {
    let Ok(address) = text.value.parse::<SocketAddr>() else {
        found
            .add("E115", &text.spot, format!("\"{}\" is no address and port", shown(&text.value)))
            .hint("write 127.0.0.1:7420 or [::1]:7420");
        return None;
    };
    if !address.ip().is_loopback() {
        found.add("E301", &text.spot, format!("{address} is not a loopback address"))
            .hint("another address needs TLS, which this build does not speak: listen on 127.0.0.1 and put a proxy or a tunnel in front");
        return None;
    }
    Some(address)
}

pub(super) fn hosts(texts: &[Text], found: &mut Found) -> Vec<String> {
    let mut good = Vec::new();
    for text in texts {
        let fits = (1..=253).contains(&text.value.len())
            && text.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
            && text.value.starts_with(|c: char| c.is_ascii_alphanumeric());
        if fits {
            good.push(text.value.to_ascii_lowercase());
        } else {
            found
                .add("E115", &text.spot, format!("\"{}\" is no host name", shown(&text.value)))
                .hint("write a name such as backup.example.org, without scheme and port");
        }
    }
    good
}
