//! The objects of a double: bytes, what was said of them, unfinished uploads, listings in pages.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};

#[derive(Clone, Debug)]
pub struct Object {
    pub bytes: Bytes,
    /// Quoted, as in the header.
    pub etag: String,
    /// Counts up with every change in the bucket.
    pub generation: u64,
    pub modified: DateTime<Utc>,
    /// Content type, storage class, user metadata, as they were sent.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub tags: BTreeMap<String, String>,
    /// How many listings there had been when it was made.
    born_at_list: u64,
}

pub struct Part {
    pub bytes: Bytes,
    pub etag: String,
}

pub struct Upload {
    pub key: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub tags: BTreeMap<String, String>,
    pub begun: DateTime<Utc>,
    pub parts: BTreeMap<u32, Part>,
}

#[derive(Default)]
pub struct Shelf {
    pub objects: BTreeMap<String, Object>,
    pub uploads: BTreeMap<String, Upload>,
    generation: u64,
    lists: u64,
}

/// One page of a listing, in order of names.
#[derive(Default)]
pub struct Page {
    pub objects: Vec<(String, Object)>,
    pub folders: Vec<String>,
    /// The name after which the next page begins.
    pub next: Option<String>,
}

pub struct Question<'a> {
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    pub after: &'a str,
    pub most: usize,
    /// Objects are shown when so many listings were begun after their birth.
    pub lists_until_shown: u64,
}

impl Shelf {
    pub fn put(
        &mut self,
        key: &str,
        bytes: Bytes,
        headers: Vec<(HeaderName, HeaderValue)>,
        tags: BTreeMap<String, String>,
    ) -> &Object {
        let etag = etag(&bytes);
        let generation = self.count();
        let object = Object { bytes, etag, generation, modified: now(), headers, tags, born_at_list: self.lists };
        self.objects.insert(key.to_owned(), object);
        &self.objects[key]
    }

    pub fn begin(&mut self, upload: Upload) -> String {
        let id = format!("upload-{}", self.count());
        self.uploads.insert(id.clone(), upload);
        id
    }

    /// A listing that is no continuation was begun.
    pub fn count_list(&mut self) {
        self.lists += 1;
    }

    fn count(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    pub fn page(&self, question: &Question<'_>) -> Page {
        let mut page = Page::default();
        for (key, object) in self.objects.iter().filter(|(key, _)| key.starts_with(question.prefix)) {
            // An object counts the listings after its birth, the one that asks among them.
            if self.lists.saturating_sub(object.born_at_list) <= question.lists_until_shown {
                continue;
            }
            let rest = &key[question.prefix.len()..];
            let folder = question.delimiter.and_then(|delimiter| {
                rest.find(delimiter).map(|at| key[..question.prefix.len() + at + delimiter.len()].to_owned())
            });
            let name = folder.as_deref().unwrap_or(key);
            // A folder after which the listing goes on hides what lies in it.
            if name <= question.after || page.folders.last().is_some_and(|last| *last == name) {
                continue;
            }
            if page.objects.len() + page.folders.len() == question.most {
                page.next = page.last();
                break;
            }
            match folder {
                Some(folder) => page.folders.push(folder),
                None => page.objects.push((key.clone(), object.clone())),
            }
        }
        page
    }
}

impl Page {
    fn last(&self) -> Option<String> {
        let object = self.objects.last().map(|(key, _)| key);
        object.max(self.folders.last()).cloned()
    }
}

pub fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(bytes).to_hex()[..32])
}

pub fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

/// What is kept of a write's headers and given back with the object.
pub fn kept(headers: &HeaderMap, family: &str) -> Vec<(HeaderName, HeaderValue)> {
    let plain = ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language"];
    let kept = headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        plain.contains(&name)
            || name.strip_prefix(family).is_some_and(|rest| rest.starts_with("meta-") || rest == "storage-class")
    });
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}
