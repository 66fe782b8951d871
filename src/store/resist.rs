//! Whether a store refuses what a thief of this host's credentials would do: replace objects, and delete them.
//!
//! Owns one object under `probe/` for it. Refuses to judge: whoever prunes must delete, whoever only backs up should not be able to.

use super::create_once::create_once;
use super::probe::{PREFIX, object};
use super::{Class, Replace, Result, Store, StoreError};
use crate::names::{ObjectKey, hex};

/// What the store let these credentials do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resistance {
    /// None: there was no way to try.
    pub replaces: Option<bool>,
    /// Whether the object was gone after it was deleted; a versioned bucket may keep what was there.
    pub deletes: bool,
}

/// Makes an object, tries to replace it and to delete it. It stays where the store refuses; `prune` sweeps it.
pub fn resist(store: &dyn Store) -> Result<Resistance> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|cause| StoreError::new(Class::Permanent, store.url(), "create", PREFIX, cause))?;
    let text = format!("{PREFIX}{}-resist", hex(&random));
    let key: ObjectKey =
        text.parse().map_err(|cause| StoreError::new(Class::Permanent, store.url(), "create", &text, cause))?;
    let first = object(&key, "first");
    let _ = create_once(store, &key, &first)?;
    let replaces = match store.replace(&key, &object(&key, "second")) {
        Ok(Replace::Unknown) => None,
        // A store may say yes and keep what it has.
        Ok(Replace::Done) => Some(store.get(&key)? != first),
        Err(error) if refused(&error) => Some(false),
        Err(error) => return Err(error),
    };
    let deletes = match store.delete(&key) {
        Ok(()) => store.size(&key)?.is_none(),
        Err(error) if refused(&error) => false,
        Err(error) => return Err(error),
    };
    Ok(Resistance { replaces, deletes })
}

fn refused(error: &StoreError) -> bool {
    matches!(error.class, Class::Denied | Class::Permanent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::LocalStore;
    use crate::store::memory::MemoryStore;

    #[test]
    fn a_directory_refuses_its_owner_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::create(&directory.path().join("store")).unwrap();
        assert_eq!(resist(&store).unwrap(), Resistance { replaces: Some(true), deletes: true });
        assert_eq!(store.list("probe/").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_tried_is_not_called_refused() {
        assert_eq!(resist(&MemoryStore::default()).unwrap(), Resistance { replaces: None, deletes: true });
    }
}
