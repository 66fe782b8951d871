//! What an object store says of an object beside its bytes: one attribute of its entry (`FORMAT.md`, section 8).
//!
//! Owns the fields and their bytes. A new field gets the next number, and older readers skip it.

use minicbor::{Decode, Encode};

use crate::pack::entry::Entry;

/// The attribute's name. No file system has such a namespace, so none of its files has this.
pub const ATTRIBUTE: &[u8] = b"object";

/// Everything that is kept of an object, but its key, size, time and bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ObjectRecord {
    /// As the store gave it, with its quotes.
    #[n(0)]
    pub etag: Option<String>,
    #[n(1)]
    pub version: Option<String>,
    #[n(2)]
    pub content_type: Option<String>,
    #[n(3)]
    pub content_encoding: Option<String>,
    #[n(4)]
    pub content_language: Option<String>,
    #[n(5)]
    pub content_disposition: Option<String>,
    #[n(6)]
    pub cache_control: Option<String>,
    #[n(7)]
    pub storage_class: Option<String>,
    /// Sorted by name.
    #[n(8)]
    pub metadata: Vec<(String, String)>,
    /// None: nobody asked for them.
    #[n(9)]
    pub tags: Option<Vec<(String, String)>>,
}

/// The fields by which a listing shows that an object is still the same.
#[derive(Debug, PartialEq, Eq, Decode)]
#[cbor(array)]
pub struct Identity<'b> {
    #[b(0)]
    pub etag: Option<&'b str>,
    #[b(1)]
    pub version: Option<&'b str>,
}

impl ObjectRecord {
    pub fn encode(&self) -> Vec<u8> {
        crate::pack::record::encode(self)
    }

    /// Of an entry; none if it is no object, or what stands there is no record.
    pub fn of(entry: &Entry) -> Option<Self> {
        minicbor::decode(attribute(entry)?).ok()
    }
}

/// Whether somebody asked for the object's tags when it was saved.
pub fn has_tags(entry: &Entry) -> bool {
    ObjectRecord::of(entry).is_some_and(|record| record.tags.is_some())
}

impl<'b> Identity<'b> {
    pub fn of(entry: &'b Entry) -> Option<Self> {
        minicbor::decode(attribute(entry)?).ok()
    }
}

fn attribute(entry: &Entry) -> Option<&[u8]> {
    entry.xattrs.iter().find(|(name, _)| name == ATTRIBUTE).map(|(_, value)| value.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(value: Vec<u8>) -> Entry {
        Entry {
            path: crate::names::TreePath::root(),
            kind: crate::pack::entry::Kind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Default::default(),
            ctime: Default::default(),
            inode: 0,
            link_group: None,
            xattrs: vec![(ATTRIBUTE.to_vec(), value)],
        }
    }

    #[test]
    fn a_record_comes_back_and_a_longer_one_is_read_by_the_fields_that_are_known() {
        let record = ObjectRecord {
            etag: Some("\"abc\"".into()),
            content_type: Some("text/plain".into()),
            metadata: vec![("owner".into(), "me".into())],
            tags: Some(vec![]),
            ..Default::default()
        };
        let mut bytes = record.encode();
        assert_eq!(ObjectRecord::of(&entry(bytes.clone())), Some(record.clone()));
        assert_eq!(bytes[0], 0x8a, "ten fields");
        bytes[0] = 0x8b;
        bytes.push(0x05);
        let longer = entry(bytes);
        assert_eq!(ObjectRecord::of(&longer), Some(record));
        assert_eq!(Identity::of(&longer), Some(Identity { etag: Some("\"abc\""), version: None }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = ObjectRecord::of(&entry(bytes.clone()));
            let _ = Identity::of(&entry(bytes));
        }
    }
}
