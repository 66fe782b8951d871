//! Where nodes and chunks come from while a prune may run beside.
//!
//! Owns the index of the plan, and a second one that is loaded once, when a pack that the first one names is gone: what it held may lie elsewhere by
//! now. Refuses to hide damage: if the second one does not help, the first error is told.

use std::sync::{Arc, OnceLock};

use crate::names::{ChunkId, WriterId};
use crate::pack::list::ListSource;
use crate::pack::tree::NodeSource;
use crate::repository::{self, ChunkReader, Index, Repository, Scope};
use crate::seal::key::IdKeys;
use crate::store::Class;

pub(super) struct Indexes {
    pub first: Index,
    again: OnceLock<Option<Index>>,
}

impl Indexes {
    pub fn new(first: Index) -> Self {
        Self { first, again: OnceLock::new() }
    }

    /// The index as it stands now, loaded at the first call; none if that fails.
    fn again(&self, repository: &Repository) -> Option<&Index> {
        self.again.get_or_init(|| Index::load(repository, Scope::Read, &mut |_| ()).ok()).as_ref()
    }
}

/// Reads what one writer's snapshots need.
pub(super) struct Stored<'a> {
    pub repository: &'a Repository,
    indexes: &'a Indexes,
    writer: WriterId,
    first: ChunkReader<'a>,
    again: OnceLock<Option<ChunkReader<'a>>>,
}

impl<'a> Stored<'a> {
    pub fn new(repository: &'a Repository, indexes: &'a Indexes, writer: WriterId) -> repository::Result<Self> {
        let first = ChunkReader::new(repository, &indexes.first, writer)?;
        Ok(Self { repository, indexes, writer, first, again: OnceLock::new() })
    }

    pub fn ids(&self) -> &IdKeys {
        self.first.ids()
    }

    pub fn index(&self) -> &'a Index {
        &self.indexes.first
    }

    /// A chunk of a file from whichever place is good.
    pub fn data(&self, id: &ChunkId) -> repository::Result<Vec<u8>> {
        self.read(|reader| reader.data(id))
    }

    fn read<T>(&self, read: impl Fn(&ChunkReader<'a>) -> repository::Result<T>) -> repository::Result<T> {
        let error = match read(&self.first) {
            Err(error) if error.may_have_moved() => error,
            // Bytes that were bad once may be good when they are read again: a network or a memory may have been at fault.
            Err(error) if error.is_damage() => return read(&self.first).map_err(|_| error),
            answer => return answer,
        };
        let again = self.again.get_or_init(|| {
            let index = self.indexes.again(self.repository)?;
            ChunkReader::new(self.repository, index, self.writer).ok()
        });
        match again.as_ref().map(read) {
            Some(Ok(answer)) => Ok(answer),
            _ => Err(error),
        }
    }
}

/// Whether an error is about these bytes only, so that others can still be had.
pub(super) fn is_local(error: &repository::Error) -> bool {
    error.is_damage() || is_refusal(error)
}

/// Whether the store itself refuses these bytes for good: a device that cannot read them.
pub(super) fn is_refusal(error: &repository::Error) -> bool {
    matches!(error, repository::Error::Store(error) if error.class == Class::Permanent)
}

impl NodeSource for Stored<'_> {
    type Error = repository::Error;
    fn tree_node(&self, id: &ChunkId) -> repository::Result<Arc<Vec<u8>>> {
        self.read(|reader| reader.tree_node(id))
    }

    fn ahead(&self, nodes: &mut dyn Iterator<Item = &ChunkId>) {
        self.first.ahead(nodes);
    }
}

impl ListSource for Stored<'_> {
    type Error = repository::Error;
    fn list_node(&self, id: &ChunkId) -> repository::Result<Arc<Vec<u8>>> {
        self.read(|reader| reader.list_node(id))
    }
}
