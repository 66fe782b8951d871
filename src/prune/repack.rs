//! Packs that are mostly dead, written anew; and the index, merged.
//!
//! Owns what is copied: the chunks that a pack owns (`survey`), each checked against its id, into packs of the same group or writer, under fresh keys. A frame that is needed
//! whole keeps its compression; of others what is needed is compressed together. What was made is durable, and known to the index as a segment of the admin's, before the
//! old pack is condemned; a pack that cannot be read whole stays as it is.
//! Owns also the merging of a group's index runs, which leaves out what verdicts deleted. Memory: a pack, the ids of `BATCH_CHUNKS` chunks, and what a packer holds.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::condemn::{Plan, State};
use super::{Prune, Result};
use crate::browse::go_on;
use crate::compression::Level;
use crate::names::{ChunkId, GroupId, PackId, WriterId};
use crate::pack::container::{FOOTER_BYTES, FrameOpener, Owner, PackError, PackHead, PackKind, Table, parse_footer};
use crate::pack::keys;
use crate::pack::run::{Frames, PackRow, Run, RunName};
use crate::repository::{
    self, Class, Index, MERGE_RUNS, Packer, Part, Repository, SealedRun, deleted, merge_for_group, tier,
};
use crate::seal::compress::{Codec, FRAME_BYTES};
use crate::seal::key::IdKeys;
use crate::seal::stanza::To;

/// Chunks of packs that are rewritten in one pass over the index: 32 bytes each.
const BATCH_CHUNKS: u64 = 1 << 19;
/// So much of a run is dead that its writing anew pays.
const DEAD_SHARE: f64 = 0.2;

/// Whose chunks a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Home {
    group: GroupId,
    writer: WriterId,
    kind: PackKind,
}

/// A frame in the making, of chunks that came from several.
#[derive(Default)]
struct Filling {
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

/// Copies into packs of one home.
struct Copier<'a> {
    packer: Packer<'a>,
    ids: IdKeys,
    class: Class,
    filling: Filling,
    codec: Codec,
    scratch: (Vec<u8>, Vec<u8>),
}

impl Copier<'_> {
    /// Whether these bytes are the chunk that they are said to be.
    fn is(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        match self.class {
            Class::Data => self.ids.data(bytes) == *id,
            Class::Metadata => self.ids.tree(bytes) == *id || self.ids.list(bytes) == *id,
        }
    }

    fn flush(&mut self) -> repository::Result<()> {
        let Filling { plain, chunks } = &mut self.filling;
        if !chunks.is_empty() {
            let level = Some(Level::STANDARD);
            self.packer.store_frame(self.class, level, plain, chunks, &mut self.codec, &mut self.scratch)?;
            plain.clear();
            chunks.clear();
        }
        Ok(())
    }
}

impl Prune<'_> {
    /// Writes anew what the plan says, and merges the index. Returns the packs that own nothing any more.
    pub(super) fn rewrite(&mut self, state: &State, plan: &Plan) -> Result<Vec<PackRow>> {
        let mut freed = Vec::new();
        let mut rest = plan.rewrite.as_slice();
        while !rest.is_empty() {
            let (mut count, mut chunks) = (0, 0);
            for row in rest {
                let more = plan.survey.account(&row.id).map_or(0, |account| account.live_chunks);
                if count > 0 && chunks + more > BATCH_CHUNKS {
                    break;
                }
                (count, chunks) = (count + 1, chunks + more);
            }
            let (batch, later) = rest.split_at(count);
            rest = later;
            freed.extend(self.rewrite_batch(state, plan, batch)?);
        }
        self.merge_index(state)?;
        Ok(freed)
    }

    fn rewrite_batch(&mut self, state: &State, plan: &Plan, batch: &[PackRow]) -> Result<Vec<PackRow>> {
        let repository = self.repository;
        let owned = plan.survey.owned_by(&state.index, &batch.iter().map(|row| row.id).collect())?;
        let groups = groups(&state.index);
        let mut copiers: BTreeMap<Home, Copier<'_>> = BTreeMap::new();
        let numbers = std::sync::Arc::default();
        let mut freed = Vec::new();
        let next_run = &mut self.session.next_run;
        for row in batch {
            go_on(&self.control.cancel)?;
            let Some(wanted) = owned.get(&row.id) else { continue };
            let read = read(repository, row).and_then(|read| {
                let home = home(repository, row, read.owner, groups.get(&row.id).copied())?;
                Ok((home, read))
            });
            let (home, read) = match read {
                Ok(read) => read,
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "a pack that is mostly dead cannot be read whole, and stays as it is");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let copier = match copiers.entry(home) {
                std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
                std::collections::btree_map::Entry::Vacant(none) => none.insert(Copier {
                    packer: Packer::for_writer(
                        repository,
                        self.session.id,
                        home.group,
                        home.writer,
                        &numbers,
                        self.control.cancel.clone(),
                    )?,
                    ids: repository
                        .access
                        .group(home.group)
                        .ok_or(repository::Error::Role {
                            what: "rewriting packs",
                            have: repository.role(),
                            need: "an admin",
                        })?
                        .ids(home.writer),
                    class: if row.kind == PackKind::Data { Class::Data } else { Class::Metadata },
                    filling: Filling::default(),
                    codec: Codec::new(),
                    scratch: Default::default(),
                }),
            };
            if copy(copier, row, read, wanted)? {
                freed.push(*row);
            }
            if copier.packer.checkpoint_due() {
                copier.flush()?;
                copier.packer.finish_packs()?;
                self.session.runs.extend(copier.packer.write_delta(next_run)?.map(|(name, _)| name));
            }
        }
        for (_, mut copier) in copiers {
            copier.flush()?;
            copier.packer.finish_packs()?;
            self.session.runs.extend(copier.packer.write_delta(next_run)?.map(|(name, _)| name));
            let made = copier.packer.stored();
            self.report.rewritten_to.packs += made.0;
            self.report.rewritten_to.bytes += made.1;
        }
        Ok(freed)
    }

    /// Merges what many sessions left of each group's index, by size, and what is dead by a good part.
    fn merge_index(&mut self, state: &State) -> Result<()> {
        let named: HashSet<RunName> = state.named_runs();
        let mut groups: BTreeMap<GroupId, Vec<Part<'_>>> = BTreeMap::new();
        for run in state.index.runs().iter().filter(|run| state.is_settled(&run.source().name)) {
            let left_out = deleted(run, &|pack| state.view.is_deleted(pack))?;
            groups.entry(run.source().group).or_default().push((run, left_out));
        }
        for (group, parts) in groups {
            go_on(&self.control.cancel)?;
            let mut tiers: BTreeMap<u32, Vec<Part<'_>>> = BTreeMap::new();
            for part in parts {
                tiers.entry(tier(part.0)).or_default().push(part);
            }
            let mut chosen: Vec<Part<'_>> = Vec::new();
            for (_, parts) in tiers {
                let many = parts.len() >= MERGE_RUNS;
                chosen.extend(parts.into_iter().filter(|(run, left_out)| many || is_mostly_dead(run, left_out)));
            }
            if chosen.is_empty() {
                continue;
            }
            let mut replaced: Vec<RunName> = Vec::new();
            for (run, _) in &chosen {
                replaced.push(run.source().name);
                // Of those that were replaced long ago only what a snapshot names or the store still has is of interest.
                replaced.extend(run.replaced().iter().filter(|name| named.contains(name)));
            }
            merge_for_group(self.repository, &mut self.session, group, &chosen, &replaced)?;
        }
        Ok(())
    }
}

fn is_mostly_dead(run: &Run<SealedRun>, left_out: &Frames) -> bool {
    left_out.len() as f64 >= DEAD_SHARE * run.frames().max(1) as f64 && !left_out.is_empty()
}

/// The group of each pack's run.
fn groups(index: &Index) -> HashMap<PackId, GroupId> {
    let of = |run: &std::sync::Arc<Run<SealedRun>>| {
        let group = run.source().group;
        run.packs().iter().map(move |row| (row.id, group)).collect::<Vec<_>>()
    };
    index.runs().iter().flat_map(of).collect()
}

struct Read {
    owner: Owner,
    bytes: Vec<u8>,
    table: Table,
    opener: FrameOpener,
}

/// Reads a pack whole, and checks it against its name.
fn read(repository: &Repository, row: &PackRow) -> repository::Result<Read> {
    let pack = row.id;
    let wrong = |cause| repository::Error::Pack { pack, cause };
    let mut bytes = match repository.store.get(&keys::pack(row.kind, pack)) {
        Err(error) if error.is_not_found() => return Err(repository::Error::PackMissing { pack }),
        bytes => bytes?,
    };
    if *blake3::hash(&bytes).as_bytes() != pack.0 {
        return Err(wrong(PackError::Table));
    }
    let head = PackHead::parse(&bytes, repository.id, row.kind).map_err(wrong)?;
    let opener = head.open(&repository.need_reader("rewriting packs")?.secret, To::Recipient).map_err(wrong)?;
    let size = bytes.len() as u64;
    let footer = &bytes[bytes.len().saturating_sub(FOOTER_BYTES)..];
    let (at, len) = parse_footer(footer, size).map_err(wrong)?;
    let table = opener.open_table(row.kind, at, &mut bytes[at as usize..at as usize + len as usize]).map_err(wrong)?;
    Ok(Read { owner: head.owner, bytes, table, opener })
}

fn home(repository: &Repository, row: &PackRow, owner: Owner, group: Option<GroupId>) -> repository::Result<Home> {
    match owner {
        Owner::Writer(writer) => Ok(Home { group: repository.writer(writer)?.group, writer, kind: row.kind }),
        Owner::Group(of) if group.is_none_or(|group| group == of) => {
            let writer = repository.need_writer("rewriting packs")?.id;
            Ok(Home { group: of, writer, kind: row.kind })
        }
        Owner::Group(_) => Err(repository::Error::Pack { pack: row.id, cause: PackError::Kind }),
    }
}

/// Copies what a pack owns. False: some of it is not what it should be, or not there, and the pack must stay.
fn copy(copier: &mut Copier<'_>, row: &PackRow, read: Read, wanted: &[ChunkId]) -> Result<bool> {
    let Read { mut bytes, table, opener, .. } = read;
    let broken = |offset, cause| repository::Error::Frame { pack: row.id, offset, cause };
    let (mut plain, mut found, mut at) = (Vec::new(), 0, 0);
    let mut seen: HashSet<ChunkId> = HashSet::new();
    for frame in &table.frames {
        let chunks = &table.chunks[at..at + frame.chunks as usize];
        at += frame.chunks as usize;
        let is_wanted = |id: &ChunkId| wanted.binary_search(id).is_ok();
        if !chunks.iter().any(|(id, _)| is_wanted(id) && !seen.contains(id)) {
            continue;
        }
        let stored = &mut bytes[frame.offset as usize..(frame.offset + frame.stored_len) as usize];
        let sealed = opener.open(frame.offset, stored).map_err(|cause| repository::Error::Pack { pack: row.id, cause });
        let opened = sealed.and_then(|opened| {
            copier
                .codec
                .decompress(opened, frame.plain_len as usize, &mut plain)
                .map_err(|cause| broken(frame.offset, cause))?;
            Ok(opened.to_vec())
        });
        let mut opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, "a pack that is mostly dead is damaged, and stays as it is");
                return Ok(false);
            }
        };
        let (mut start, mut live) = (0, Vec::new());
        for (id, len) in chunks {
            let end = start + *len as usize;
            let Some(chunk) = plain.get(start..end) else { return Ok(false) };
            if is_wanted(id) && seen.insert(*id) {
                if !copier.is(id, chunk) {
                    tracing::warn!(chunk = %id, "a chunk is not what its id says; its pack stays as it is");
                    return Ok(false);
                }
                live.push((*id, start, end));
                found += 1;
            }
            start = end;
        }
        if live.len() == chunks.len() && start == plain.len() {
            copier.packer.copy_frame(copier.class, &mut opened, frame.plain_len, chunks)?;
            continue;
        }
        for (id, start, end) in live {
            copier.filling.plain.extend_from_slice(&plain[start..end]);
            copier.filling.chunks.push((id, (end - start) as u32));
            if copier.filling.plain.len() >= FRAME_BYTES {
                copier.flush()?;
            }
        }
    }
    Ok(found == wanted.len())
}
