//! What an object store says of an object beside its bytes: one attribute of its entry (`FORMAT.md`, section 8).
//!
//! Owns the fields and their bytes. A new field gets the next number, and older readers skip it.

use minicbor::{Decode, Decoder, Encode};

use crate::pack::entry::Entry;

/// The attribute's name. No file system has such a namespace, so none of its files has this.
pub const ATTRIBUTE: &[u8] = b"object";

/// RFC 8949, section 3.3.
const NULL: u8 = 0xf6;

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

/// Whether somebody asked for the object's tags when it was saved. `record` is the value of its attribute.
pub fn has_tags(record: &[u8]) -> bool {
    minicbor::decode::<ObjectRecord>(record).is_ok_and(|record| record.tags.is_some())
}

impl<'b> Identity<'b> {
    /// Of the attribute's value. Each unchanged object of a bucket is asked, and most of its other fields are null: those are passed without a decoder's care.
    pub fn of(record: &'b [u8]) -> Option<Self> {
        let mut decoder = Decoder::new(record);
        let Some(fields @ 2..) = decoder.array().ok()? else { return minicbor::decode(record).ok() };
        let (etag, version) = (decoder.decode().ok()?, decoder.decode().ok()?);
        for _ in 2..fields {
            match record.get(decoder.position()) {
                Some(&NULL) => decoder.set_position(decoder.position() + 1),
                _ => decoder.skip().ok()?,
            }
        }
        Some(Self { etag, version })
    }
}

/// The value of the attribute, where an entry has it.
pub fn attribute(entry: &Entry) -> Option<&[u8]> {
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
        assert_eq!(Identity::of(attribute(&longer).unwrap()), Some(Identity { etag: Some("\"abc\""), version: None }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = ObjectRecord::of(&entry(bytes.clone()));
            prop_assert_eq!(Identity::of(&bytes), minicbor::decode(&bytes).ok());
        }

        #[test]
        fn an_identity_is_read_as_a_decoder_of_all_fields_would(etag in prop::option::of("[a-c\"]{0,30}"), version in prop::option::of("[0-9]{0,3}"),
            metadata in prop::collection::vec(("[a-z]{0,3}", "[a-z]{0,3}"), 0..3), bent in prop::option::of((any::<prop::sample::Index>(), any::<u8>())), cut in any::<prop::sample::Index>()) {
            let record = ObjectRecord { etag, version, content_type: Some("text/plain".into()), metadata, ..Default::default() };
            let mut bytes = record.encode();
            let whole = minicbor::decode(&bytes).ok();
            prop_assert!(whole.is_some());
            prop_assert_eq!(Identity::of(&bytes), whole);
            if let Some((at, byte)) = bent {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                prop_assert_eq!(Identity::of(&bytes), minicbor::decode(&bytes).ok());
            }
            bytes.truncate(cut.index(bytes.len()));
            prop_assert_eq!(Identity::of(&bytes), minicbor::decode(&bytes).ok());
        }
    }
}
