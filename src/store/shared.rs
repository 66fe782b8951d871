//! A store behind a pointer is a store, so that wrappers can share what they wrap.

use std::ops::Range;
use std::sync::Arc;

use super::{Copies, Create, Inspection, Leftover, Listed, Replace, Result, Store, Swept, Tag, Upload};
use crate::bucket::Traffic;
use crate::names::{ObjectKey, SessionId};

macro_rules! store_behind {
    ($pointer:ty) => {
        impl<S: Store + ?Sized> Store for $pointer {
            fn url(&self) -> &str {
                (**self).url()
            }

            fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
                (**self).get(key)
            }

            fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
                (**self).get_range(key, range)
            }

            fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
                (**self).size(key)
            }

            fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
                (**self).create(key, bytes)
            }

            fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>> {
                (**self).begin(session, number)
            }

            fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
                (**self).list(prefix)
            }

            fn delete(&self, key: &ObjectKey) -> Result<()> {
                (**self).delete(key)
            }

            fn available_bytes(&self) -> Result<Option<u64>> {
                (**self).available_bytes()
            }

            fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Replace> {
                (**self).replace(key, bytes)
            }

            fn traffic(&self) -> Option<Traffic> {
                (**self).traffic()
            }

            fn inspect(&self) -> Result<Inspection> {
                (**self).inspect()
            }

            fn sweep(&self, is_dead: &mut dyn FnMut(&Leftover) -> bool) -> Result<Swept> {
                (**self).sweep(is_dead)
            }

            fn stamp(&self, key: &ObjectKey) -> Result<Option<Tag>> {
                (**self).stamp(key)
            }

            fn is_remote(&self) -> bool {
                (**self).is_remote()
            }

            fn copies(&self) -> Option<&Copies> {
                (**self).copies()
            }

            fn bring(&self, objects: &[(ObjectKey, u64)]) {
                (**self).bring(objects)
            }

            fn fresh(&self) -> Option<Arc<dyn Store>> {
                (**self).fresh()
            }
        }
    };
}

store_behind!(Arc<S>);
store_behind!(Box<S>);
store_behind!(&S);
