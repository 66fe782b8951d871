//! The objects of a simulated store: one map, each object with its hash.
//!
//! Owns what a call does to them, and nothing of who makes it or when. Linearizable and create-once, as every good store; what a bad one does is `store::probe`'s.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::names::{ObjectKey, SessionId};
use crate::store::create_once::{Outcome, create_once};
use crate::store::{Class, Create, Listed, Result, Store, StoreError, Upload};

const URL: &str = "explored:";

/// The first bytes of a BLAKE3.
pub type Hash = u128;

pub fn hash(parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Hash::from_le_bytes(out)
}

#[derive(Clone)]
pub struct Object {
    pub bytes: Arc<[u8]>,
    /// Of key and bytes.
    pub hash: Hash,
}

/// All objects, and the sum of their hashes.
#[derive(Clone, Default)]
pub struct Objects {
    map: BTreeMap<ObjectKey, Object>,
    pub sum: Hash,
}

/// One call to a store.
#[derive(Clone)]
pub enum Op {
    Get(ObjectKey),
    Range(ObjectKey, Range<u64>),
    Size(ObjectKey),
    Create(ObjectKey, Arc<[u8]>),
    /// What a store does that does not know what to create is.
    Replace(ObjectKey, Arc<[u8]>),
    List(String),
    Delete(ObjectKey),
    /// No call: its actor lets others go first.
    Yield,
}

#[derive(Clone)]
pub enum Answer {
    Bytes(Arc<[u8]>),
    Size(Option<u64>),
    Created(Create),
    Listed(Vec<Listed>),
    Done,
    Failed(Class, &'static str),
}

impl Op {
    pub fn verb(&self) -> &'static str {
        match self {
            Op::Get(_) => "get",
            Op::Range(..) => "get part of",
            Op::Size(_) => "size up",
            Op::Create(..) | Op::Replace(..) => "create",
            Op::List(_) => "list",
            Op::Delete(_) => "delete",
            Op::Yield => "yield",
        }
    }

    pub fn key(&self) -> &str {
        match self {
            Op::Get(key) | Op::Range(key, _) | Op::Size(key) | Op::Delete(key) => key.as_str(),
            Op::Create(key, _) | Op::Replace(key, _) => key.as_str(),
            Op::List(prefix) => prefix,
            Op::Yield => "",
        }
    }

    pub fn writes(&self) -> bool {
        matches!(self, Op::Create(..) | Op::Replace(..) | Op::Delete(_))
    }
}

impl Objects {
    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.map.get(key)
    }

    pub fn under<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = (&'s ObjectKey, &'s Object)> {
        self.map.iter().filter(move |(key, _)| key.as_str().starts_with(prefix))
    }

    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.map.contains_key(key)
    }

    pub fn insert(&mut self, key: ObjectKey, bytes: Arc<[u8]>) {
        let hash = hash(&[key.as_str().as_bytes(), &bytes]);
        self.sum = self.sum.wrapping_add(hash);
        self.map.insert(key, Object { bytes, hash });
    }

    pub fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Get(key) => match self.map.get(key) {
                Some(object) => Answer::Bytes(object.bytes.clone()),
                None => Answer::Failed(Class::NotFound, "nothing stands there"),
            },
            Op::Range(key, range) => match self.map.get(key) {
                Some(object) => match object.bytes.get(range.start as usize..range.end as usize) {
                    Some(part) => Answer::Bytes(part.into()),
                    None => Answer::Failed(Class::Short, "it ends before that"),
                },
                None => Answer::Failed(Class::NotFound, "nothing stands there"),
            },
            Op::Size(key) => Answer::Size(self.map.get(key).map(|object| object.bytes.len() as u64)),
            Op::Create(key, _) if self.contains(key) => Answer::Created(Create::Occupied),
            Op::Create(key, bytes) => {
                self.insert(key.clone(), bytes.clone());
                Answer::Created(Create::Created)
            }
            Op::Replace(key, bytes) => {
                self.apply(&Op::Delete(key.clone()));
                self.insert(key.clone(), bytes.clone());
                Answer::Created(Create::Created)
            }
            Op::List(prefix) => Answer::Listed(
                self.under(prefix)
                    .map(|(key, object)| Listed { key: key.clone(), size: object.bytes.len() as u64, tag: None })
                    .collect(),
            ),
            Op::Delete(key) => {
                if let Some(object) = self.map.remove(key) {
                    self.sum = self.sum.wrapping_sub(object.hash);
                }
                Answer::Done
            }
            Op::Yield => Answer::Done,
        }
    }
}

impl Answer {
    pub fn hash(&self) -> Hash {
        match self {
            Answer::Bytes(bytes) => hash(&[b"bytes", bytes]),
            Answer::Size(None) => 1,
            Answer::Size(Some(size)) => 2 + Hash::from(*size),
            Answer::Created(Create::Created) => hash(&[b"created"]),
            Answer::Created(Create::Occupied) => hash(&[b"occupied"]),
            Answer::Listed(listed) => {
                let mut parts: Vec<&[u8]> = vec![b"listed"];
                parts.extend(listed.iter().map(|listed| listed.key.as_str().as_bytes()));
                hash(&parts)
            }
            Answer::Done => 0,
            Answer::Failed(class, _) => hash(&[b"failed", format!("{class:?}").as_bytes()]),
        }
    }
}

/// Whoever makes calls, and waits for their answers.
pub trait Line: Send + Sync + Clone + 'static {
    fn call(&self, op: Op) -> Answer;
}

/// A store at the end of a line.
#[derive(Clone)]
pub struct SimStore<L>(pub L);

impl<L: Line> SimStore<L> {
    fn ask(&self, op: Op) -> Result<Answer> {
        let (verb, key) = (op.verb(), op.key().to_owned());
        match self.0.call(op) {
            Answer::Failed(class, why) => Err(StoreError::new(class, URL, verb, key, why)),
            answer => Ok(answer),
        }
    }
}

impl<L: Line> Store for SimStore<L> {
    fn url(&self) -> &str {
        URL
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        match self.ask(Op::Get(key.clone()))? {
            Answer::Bytes(bytes) => Ok(bytes.to_vec()),
            _ => unreachable!("a get brings bytes"),
        }
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        match self.ask(Op::Range(key.clone(), range))? {
            Answer::Bytes(bytes) => Ok(bytes.to_vec()),
            _ => unreachable!("a get brings bytes"),
        }
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        match self.ask(Op::Size(key.clone()))? {
            Answer::Size(size) => Ok(size),
            _ => unreachable!("a size was asked for"),
        }
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        match self.ask(Op::Create(key.clone(), bytes.into()))? {
            Answer::Created(create) => Ok(create),
            _ => unreachable!("a create was asked for"),
        }
    }

    fn begin(&self, _: SessionId, _: u32) -> Result<Box<dyn Upload>> {
        Ok(Box::new(Held { store: self.clone(), bytes: Vec::new() }))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        match self.ask(Op::List(prefix.to_owned()))? {
            Answer::Listed(listed) => Ok(listed),
            _ => unreachable!("a listing was asked for"),
        }
    }

    /// Where the answer gets lost, the call is repeated, as `store::retry` does.
    fn delete(&self, key: &ObjectKey) -> Result<()> {
        loop {
            match self.ask(Op::Delete(key.clone())) {
                Err(error) if error.class == Class::Ambiguous => {}
                answer => return answer.map(drop),
            }
        }
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

struct Held<L> {
    store: SimStore<L>,
    bytes: Vec<u8>,
}

impl<L: Line> Upload for Held<L> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, key: &ObjectKey) -> Result<Create> {
        Ok(match create_once(&self.store, key, &self.bytes)? {
            Outcome::Won => Create::Created,
            Outcome::Lost(_) => Create::Occupied,
        })
    }
}

/// A line to objects that nobody else sees.
#[derive(Clone, Default)]
pub struct Alone(Arc<Mutex<Objects>>);

impl Alone {
    pub fn over(objects: Objects) -> Self {
        Self(Arc::new(Mutex::new(objects)))
    }

    pub fn put(&self, key: &ObjectKey, bytes: &[u8]) {
        self.call(Op::Create(key.clone(), bytes.into()));
    }

    pub fn take_away(&self, key: &ObjectKey) {
        self.call(Op::Delete(key.clone()));
    }

    pub fn objects(&self) -> Objects {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Line for Alone {
    fn call(&self, op: Op) -> Answer {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).apply(&op)
    }
}
