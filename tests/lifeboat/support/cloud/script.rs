//! What goes wrong, and when: faults on the n-th request of a verb, and whether each was met.

use axum::http::HeaderMap;
use std::time::Duration;

use super::refusal::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Get,
    Head,
    /// An object in one request.
    Put,
    Copy,
    Delete,
    BulkDelete,
    List,
    /// Of an upload in parts.
    Begin,
    Part,
    Complete,
    Abort,
    ListUploads,
    /// Reads, writes or removes the tags of an object.
    Tags,
    HeadBucket,
    /// `Put`, `Copy` and `Complete`, counted together: whatever makes an object.
    Write,
    /// All requests, counted together.
    Any,
}

impl Verb {
    pub fn counts(self, verb: Verb) -> bool {
        match self {
            Verb::Any => true,
            Verb::Write => verb.makes(),
            own => own == verb,
        }
    }

    fn makes(self) -> bool {
        matches!(self, Verb::Put | Verb::Copy | Verb::Complete | Verb::Write)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and this is the answer.
    Refused(Refusal),
    /// It is done, and this is the answer.
    DoneThenRefused(Refusal),
    /// A success in the status line, this in the body, and nothing done: what S3 may answer to long requests.
    RefusedInside200(Refusal),
    /// Nothing is done, and the connection is closed.
    LostBefore,
    /// It is done, and the connection is closed.
    LostAfter,
    /// 409 to a write, with nothing stored.
    Conflict,
    /// A write replaces what stands, whatever its conditions say.
    IgnoredCondition,
    /// The body ends after `n` bytes, and with it the connection.
    CutBody(usize),
    /// The body comes in pieces of so many bytes, with a pause after each.
    Dribble(usize, Duration),
    /// The answer to a range is the whole object.
    IgnoredRange,
    /// The page lacks its last object, and does not say so.
    ShortListing,
    /// A proxy's page with this status; nothing is done.
    Html(u16),
}

impl Fault {
    fn fits(&self, verb: Verb) -> bool {
        match self {
            Self::Refused(_) | Self::LostBefore | Self::Html(_) | Self::LostAfter | Self::DoneThenRefused(_) => true,
            Self::RefusedInside200(_) => matches!(verb, Verb::Complete | Verb::BulkDelete | Verb::Copy),
            Self::Conflict | Self::IgnoredCondition => verb.makes(),
            Self::CutBody(_) | Self::Dribble(..) => matches!(verb, Verb::Get | Verb::List),
            Self::IgnoredRange => verb == Verb::Get,
            Self::ShortListing => verb == Verb::List,
        }
    }
}

/// What was asked, with all that it was signed with.
#[derive(Clone, Debug)]
pub struct Request {
    pub verb: Verb,
    /// The object's key, or the prefix of a listing.
    pub key: String,
    pub headers: HeaderMap,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

struct Laid {
    verb: Verb,
    first: u64,
    count: u64,
    fault: Fault,
    seen: u64,
    met: u64,
}

#[derive(Default)]
pub struct Script {
    laid: Vec<Laid>,
    pub requests: Vec<Request>,
}

/// A fault that is due, to be reported back when it changed something.
pub struct Due {
    at: usize,
    pub fault: Fault,
}

impl Script {
    pub fn lay(&mut self, verb: Verb, first: u64, count: u64, fault: Fault) {
        assert!(first > 0 && count > 0, "requests are counted from 1");
        assert!(fault.fits(verb), "{fault:?} cannot happen to {verb:?}");
        self.laid.push(Laid { verb, first, count, fault, seen: 0, met: 0 });
    }

    pub fn enter(&mut self, request: Request) -> Option<Due> {
        let verb = request.verb;
        self.requests.push(request);
        let mut due = None;
        for (at, laid) in self.laid.iter_mut().enumerate().filter(|(_, laid)| laid.verb.counts(verb)) {
            laid.seen += 1;
            if (laid.first..laid.first + laid.count).contains(&laid.seen) {
                assert!(due.is_none(), "two faults on one request: {verb:?}");
                due = Some(Due { at, fault: laid.fault.clone() });
            }
        }
        due
    }

    pub fn meet(&mut self, due: &Due) {
        if let Some(laid) = self.laid.get_mut(due.at) {
            laid.met += 1; // else it was forgotten meanwhile
        }
    }

    pub fn forget(&mut self) {
        self.laid.clear();
    }

    pub fn missed(&self) -> Vec<String> {
        let missed = self.laid.iter().filter(|laid| laid.met < laid.count);
        missed
            .map(|laid| {
                let Laid { verb, first, count, fault, seen, met } = laid;
                format!("{fault:?} on {verb:?} from {first}: met {met} of {count} ({seen} requests seen)")
            })
            .collect()
    }
}
