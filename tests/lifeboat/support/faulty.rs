//! A store that fails as it is told, and notices when it was not asked to.
//!
//! Faults are laid on the n-th call of a verb, counted from 1 over all threads. A fault that cannot happen to its verb is
//! refused when it is laid; one that changed nothing (a hidden object that was not listed, a bit of no byte) is not met.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat::names::{ObjectKey, SessionId};
use lifeboat::store::{Class, Create, Listed, Result, Store, StoreError, Upload};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    GetRange,
    Size,
    Create,
    Begin,
    Append,
    Finish,
    List,
    Delete,
    AvailableBytes,
    /// `Create` and `Finish`, counted together: whatever makes an object.
    Write,
    /// `Create`, `Begin`, `Append`, `Finish` and `Delete`, counted together: whatever a crash could stand before or after.
    Change,
    /// All calls, counted together.
    Any,
}

impl Verb {
    fn counts(self, verb: Verb) -> bool {
        match self {
            Verb::Any => true,
            Verb::Write => matches!(verb, Verb::Create | Verb::Finish),
            Verb::Change => matches!(verb, Verb::Create | Verb::Begin | Verb::Append | Verb::Finish | Verb::Delete),
            own => own == verb,
        }
    }

    fn only(self, verbs: &[Verb]) -> bool {
        let single = [
            Verb::Get,
            Verb::GetRange,
            Verb::Size,
            Verb::Create,
            Verb::Begin,
            Verb::Append,
            Verb::Finish,
            Verb::List,
            Verb::Delete,
            Verb::AvailableBytes,
        ];
        single.iter().filter(|verb| self.counts(**verb)).all(|verb| verbs.contains(verb))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the answer is an error of this class.
    FailBefore(Class),
    /// It is done, and the answer is lost: an error of class `Ambiguous`.
    ApplyThenFail,
    /// It is done, and the answer is that it failed for good: a directory could not be fsynced, and the name is in it.
    ApplyThenRefuse,
    /// "Occupied", with nothing stored: what some servers answer to two creates at once.
    FalseOccupied,
    /// The object is stored with its first `n` bytes only, and the answer says that all is well.
    Torn(usize),
    /// The answer lacks its last byte and does not say so.
    ShortRead,
    /// This bit (modulo the length) is wrong: in the answer of a read, in the store after a write.
    FlipBit(usize),
    /// The listing lacks the `n` newest objects that it should show.
    HideFromList(usize),
    /// Nothing is done: no space.
    Full,
    /// The process ends before the call takes effect: it and every later one fail, and no upload is cleaned up.
    Crash,
    /// The process ends when the call has taken effect.
    CrashAfter,
}

impl Fault {
    fn fits(&self, verb: Verb) -> bool {
        let writes = [Verb::Create, Verb::Finish];
        let changes = [Verb::Create, Verb::Begin, Verb::Append, Verb::Finish, Verb::Delete];
        let reads = [Verb::Get, Verb::GetRange];
        match self {
            Self::FailBefore(_) | Self::Crash | Self::CrashAfter => true,
            Self::ApplyThenFail | Self::ApplyThenRefuse => verb.only(&[Verb::Create, Verb::Finish, Verb::Delete]),
            Self::FalseOccupied | Self::Torn(_) => verb.only(&writes),
            Self::ShortRead => verb.only(&reads),
            Self::FlipBit(_) => verb.only(&writes) || verb.only(&reads),
            Self::HideFromList(_) => verb == Verb::List,
            Self::Full => verb.only(&changes) && verb != Verb::Delete,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub verb: Verb,
    /// The key or prefix; of an upload that has none yet, `session-number`.
    pub key: String,
}

struct Laid {
    verb: Verb,
    number: u64,
    fault: Fault,
    seen: u64,
    met: bool,
}

#[derive(Default)]
struct Script {
    laid: Vec<Laid>,
    calls: Vec<Call>,
    /// Oldest first.
    created: Vec<ObjectKey>,
    crashed: bool,
}

struct Inner<S> {
    store: S,
    script: Mutex<Script>,
}

/// Clones share the script.
pub struct FaultyStore<S> {
    inner: Arc<Inner<S>>,
}

impl<S> Clone for FaultyStore<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S: Store + 'static> FaultyStore<S> {
    pub fn over(store: S) -> Self {
        let inner = Inner { store, script: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Lays `fault` on the call number `number` of `verb`, counted from 1 and from now.
    pub fn on(self, verb: Verb, number: u64, fault: Fault) -> Self {
        assert!(number > 0, "calls are counted from 1");
        assert!(fault.fits(verb), "{fault:?} cannot happen to {verb:?}");
        self.inner.script().laid.push(Laid { verb, number, fault, seen: 0, met: false });
        self
    }

    pub fn on_write(self, number: u64, fault: Fault) -> Self {
        self.on(Verb::Write, number, fault)
    }

    /// A test cannot pass by missing its subject.
    #[track_caller]
    pub fn assert_every_fault_was_met(&self) {
        let script = self.inner.script();
        let missed: Vec<String> = script
            .laid
            .iter()
            .filter(|laid| !laid.met)
            .map(|laid| format!("{:?} on {:?} {} (seen {})", laid.fault, laid.verb, laid.number, laid.seen))
            .collect();
        assert!(missed.is_empty(), "faults that were not met: {missed:?}");
    }

    pub fn calls(&self) -> Vec<Call> {
        self.inner.script().calls.clone()
    }

    pub fn count(&self, verb: Verb) -> u64 {
        self.inner.script().calls.iter().filter(|call| verb.counts(call.verb)).count() as u64
    }

    /// What the next process finds.
    pub fn survivor(&self) -> &S {
        &self.inner.store
    }

    pub fn has_crashed(&self) -> bool {
        self.inner.script().crashed
    }
}

impl<S: Store> Inner<S> {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the call, and tells which fault lies on it.
    fn enter(&self, verb: Verb, word: &'static str, key: &str) -> Result<Option<Fault>> {
        let mut script = self.script();
        if script.crashed {
            return Err(self.error(Class::Permanent, word, key, "the process has crashed"));
        }
        script.calls.push(Call { verb, key: key.to_owned() });
        let mut due = None;
        for laid in &mut script.laid {
            if laid.verb.counts(verb) {
                laid.seen += 1;
                if laid.seen == laid.number {
                    assert!(due.is_none(), "two faults on one call: {verb:?} of {key}");
                    due = Some(laid.fault.clone());
                }
            }
        }
        match due {
            Some(Fault::FailBefore(class)) => {
                script.meet(verb, &Fault::FailBefore(class));
                Err(self.error(class, word, key, "a fault laid by the test"))
            }
            Some(Fault::Full) => {
                script.meet(verb, &Fault::Full);
                Err(self.error(Class::Full, word, key, "no space, says the test"))
            }
            Some(Fault::Crash) => {
                script.meet(verb, &Fault::Crash);
                script.crashed = true;
                Err(self.error(Class::Permanent, word, key, "the process crashed before this call"))
            }
            other => Ok(other),
        }
    }

    /// Ends a call that was applied: as it is, or with its answer lost.
    fn leave<T>(&self, verb: Verb, word: &'static str, key: &str, fault: Option<Fault>, answer: T) -> Result<T> {
        match fault {
            Some(Fault::ApplyThenFail) => {
                self.script().meet(verb, &Fault::ApplyThenFail);
                Err(self.error(Class::Ambiguous, word, key, "the answer was lost, says the test"))
            }
            Some(Fault::ApplyThenRefuse) => {
                self.script().meet(verb, &Fault::ApplyThenRefuse);
                Err(self.error(Class::Permanent, word, key, "it may not be durable, says the test"))
            }
            Some(Fault::CrashAfter) => {
                let mut script = self.script();
                script.meet(verb, &Fault::CrashAfter);
                script.crashed = true;
                Err(self.error(Class::Permanent, word, key, "the process crashed after this call"))
            }
            _ => Ok(answer),
        }
    }

    fn error(&self, class: Class, word: &'static str, key: &str, cause: &'static str) -> StoreError {
        StoreError::new(class, self.store.url(), word, key, cause)
    }

    /// What a read answers under a fault.
    fn bent(&self, verb: Verb, fault: &Option<Fault>, mut bytes: Vec<u8>) -> Vec<u8> {
        let Some(fault) = fault else { return bytes };
        if self.bend(fault, &mut bytes) {
            self.script().meet(verb, fault);
        }
        bytes
    }

    fn bend(&self, fault: &Fault, bytes: &mut Vec<u8>) -> bool {
        match fault {
            Fault::ShortRead => bytes.pop().is_some(),
            Fault::FlipBit(bit) if !bytes.is_empty() => {
                let bit = bit % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                true
            }
            Fault::Torn(length) if *length < bytes.len() => {
                bytes.truncate(*length);
                true
            }
            _ => false,
        }
    }

    fn created(&self, key: &ObjectKey, create: Create) {
        if create == Create::Created {
            self.script().created.push(key.clone());
        }
    }

    /// Stores other bytes than it was given, if such a fault lies here.
    fn bent_write(&self, verb: Verb, fault: &Option<Fault>, key: &ObjectKey, bytes: &[u8]) -> Option<Result<Create>> {
        let fault = fault.as_ref()?;
        if *fault == Fault::FalseOccupied {
            self.script().meet(verb, fault);
            return Some(Ok(Create::Occupied));
        }
        let mut bent = bytes.to_vec();
        if !self.bend(fault, &mut bent) {
            return None;
        }
        let answer = self.store.create(key, &bent);
        if matches!(answer, Ok(Create::Created)) {
            self.script().meet(verb, fault);
            self.created(key, Create::Created);
        }
        Some(answer)
    }
}

impl Script {
    fn meet(&mut self, verb: Verb, fault: &Fault) {
        for laid in &mut self.laid {
            if laid.verb.counts(verb) && laid.seen >= laid.number && laid.fault == *fault {
                laid.met = true;
            }
        }
    }
}

impl<S: Store + 'static> Store for FaultyStore<S> {
    fn url(&self) -> &str {
        self.inner.store.url()
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        let fault = self.inner.enter(Verb::Get, "read", key.as_str())?;
        let bytes = self.inner.bent(Verb::Get, &fault, self.inner.store.get(key)?);
        self.inner.leave(Verb::Get, "read", key.as_str(), fault, bytes)
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        let fault = self.inner.enter(Verb::GetRange, "read", key.as_str())?;
        let bytes = self.inner.bent(Verb::GetRange, &fault, self.inner.store.get_range(key, range)?);
        self.inner.leave(Verb::GetRange, "read", key.as_str(), fault, bytes)
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        let fault = self.inner.enter(Verb::Size, "size up", key.as_str())?;
        let size = self.inner.store.size(key)?;
        self.inner.leave(Verb::Size, "size up", key.as_str(), fault, size)
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        let fault = self.inner.enter(Verb::Create, "create", key.as_str())?;
        if let Some(answer) = self.inner.bent_write(Verb::Create, &fault, key, bytes) {
            return answer;
        }
        let create = self.inner.store.create(key, bytes)?;
        self.inner.created(key, create);
        self.inner.leave(Verb::Create, "create", key.as_str(), fault, create)
    }

    fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>> {
        let name = format!("{session}-{number}");
        let fault = self.inner.enter(Verb::Begin, "create", &name)?;
        let upload = self.inner.store.begin(session, number)?;
        let upload = FaultyUpload {
            inner: Arc::clone(&self.inner),
            upload: Some(upload),
            name: name.clone(),
            bytes: Vec::new(),
        };
        self.inner.leave(Verb::Begin, "create", &name, fault, Box::new(upload) as Box<dyn Upload>)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let fault = self.inner.enter(Verb::List, "list", prefix)?;
        let mut listing = self.inner.store.list(prefix)?;
        if let Some(Fault::HideFromList(count)) = &fault {
            let mut script = self.inner.script();
            let newest: Vec<ObjectKey> = script
                .created
                .iter()
                .rev()
                .filter(|key| listing.iter().any(|listed| listed.key == **key))
                .take(*count)
                .cloned()
                .collect();
            if newest.len() == *count && *count > 0 {
                script.meet(Verb::List, &Fault::HideFromList(*count));
            }
            listing.retain(|listed| !newest.contains(&listed.key));
        }
        self.inner.leave(Verb::List, "list", prefix, fault, listing)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        let fault = self.inner.enter(Verb::Delete, "delete", key.as_str())?;
        self.inner.store.delete(key)?;
        self.inner.leave(Verb::Delete, "delete", key.as_str(), fault, ())
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        let fault = self.inner.enter(Verb::AvailableBytes, "size up", "")?;
        let bytes = self.inner.store.available_bytes()?;
        self.inner.leave(Verb::AvailableBytes, "size up", "", fault, bytes)
    }
}

struct FaultyUpload<S: Store> {
    inner: Arc<Inner<S>>,
    upload: Option<Box<dyn Upload>>,
    name: String,
    bytes: Vec<u8>,
}

impl<S: Store> Upload for FaultyUpload<S> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let fault = self.inner.enter(Verb::Append, "create", &self.name)?;
        let upload = self.upload.as_mut().expect("an upload is appended to before it is finished");
        upload.append(bytes)?;
        self.bytes.extend_from_slice(bytes);
        self.inner.leave(Verb::Append, "create", &self.name, fault, ())
    }

    fn finish(mut self: Box<Self>, key: &ObjectKey) -> Result<Create> {
        let fault = self.inner.enter(Verb::Finish, "create", key.as_str())?;
        if let Some(answer) = self.inner.bent_write(Verb::Finish, &fault, key, &self.bytes) {
            return answer;
        }
        let upload = self.upload.take().expect("an upload is finished once");
        let create = upload.finish(key)?;
        self.inner.created(key, create);
        self.inner.leave(Verb::Finish, "create", key.as_str(), fault, create)
    }
}

impl<S: Store> Drop for FaultyUpload<S> {
    fn drop(&mut self) {
        // A process that is gone cleans nothing up.
        if self.inner.script().crashed
            && let Some(upload) = self.upload.take()
        {
            std::mem::forget(upload);
        }
    }
}
