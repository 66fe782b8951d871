//! What an object has beside its bytes, set and compared.

use object_store::{Attribute, Attributes, TagSet};

use crate::pack::entry::Entry;
use crate::pack::object::ObjectRecord;

/// What an object is written with beside its bytes.
#[derive(Clone, Default)]
pub(super) struct Properties {
    pub attributes: Attributes,
    pub tags: TagSet,
}

impl Properties {
    pub fn of(entry: &Entry, same_cloud: bool) -> Self {
        Self { attributes: of(entry, same_cloud), tags: tags(entry) }
    }

    /// What may still be written after `error`: a cloud that knows no such things, or does not let us set tags, takes the bytes all the same.
    pub fn less(&self, error: &object_store::Error) -> Option<Self> {
        use object_store::Error;
        let has_tags = !self.tags.is_empty();
        match error {
            Error::NotImplemented { .. } | Error::NotSupported { .. } if has_tags || !self.attributes.is_empty() => {
                Some(Self::default())
            }
            Error::PermissionDenied { .. } if has_tags => {
                Some(Self { attributes: self.attributes.clone(), tags: TagSet::default() })
            }
            _ => None,
        }
    }
}

/// The tags that are to be set on the object of `entry`.
fn tags(entry: &Entry) -> TagSet {
    let mut set = TagSet::default();
    for (name, value) in ObjectRecord::of(entry).and_then(|record| record.tags).unwrap_or_default() {
        set.push(&name, &value);
    }
    set
}

/// What is to be set on the object of `entry`. A storage class has a meaning in its own kind of cloud only.
pub(super) fn of(entry: &Entry, same_cloud: bool) -> Attributes {
    let mut attributes = Attributes::new();
    let Some(record) = ObjectRecord::of(entry) else { return attributes };
    let storage_class = record.storage_class.filter(|_| same_cloud);
    for (attribute, value) in [
        (Attribute::ContentType, record.content_type),
        (Attribute::ContentEncoding, record.content_encoding),
        (Attribute::ContentLanguage, record.content_language),
        (Attribute::ContentDisposition, record.content_disposition),
        (Attribute::CacheControl, record.cache_control),
        (Attribute::StorageClass, storage_class),
    ] {
        if let Some(value) = value {
            attributes.insert(attribute, value.into());
        }
    }
    for (name, value) in record.metadata {
        attributes.insert(Attribute::Metadata(name.into()), value.into());
    }
    attributes
}

/// Whether what an object has is what it should have. A cloud may give a content type where none was asked for.
pub(super) fn agree(wanted: &Attributes, found: &Attributes) -> bool {
    let class = Attribute::StorageClass;
    let known = |attributes: &Attributes| attributes.iter().filter(|(name, _)| **name != class).count();
    let defaulted = wanted.get(&Attribute::ContentType).is_none() && found.get(&Attribute::ContentType).is_some();
    wanted.iter().all(|(name, value)| *name == class || found.get(name) == Some(value))
        && known(wanted) + usize::from(defaulted) == known(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_agree_only_if_each_is_there_and_no_other() {
        let set = |pairs: &[(&'static str, &'static str)]| -> Attributes {
            pairs.iter().map(|(name, value)| (Attribute::Metadata((*name).into()), *value)).collect()
        };
        assert!(agree(&set(&[("a", "1")]), &set(&[("a", "1")])));
        assert!(!agree(&set(&[("a", "1")]), &set(&[("a", "2")])));
        assert!(!agree(&set(&[("a", "1")]), &set(&[])));
        assert!(!agree(&set(&[]), &set(&[("a", "1")])));
        let typed: Attributes = [(Attribute::ContentType, "application/octet-stream")].into_iter().collect();
        assert!(agree(&set(&[]), &typed));
        assert!(!agree(&typed, &set(&[])));
    }
}
