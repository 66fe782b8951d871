//! The words of the catalog: kinds, states, reasons, and the ids of runs.
//!
//! Owns their one text form, in the database as in JSON. Refuses the database itself.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::names::NameError;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(into = "&'static str")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl From<$name> for &'static str {
            fn from(word: $name) -> Self {
                word.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(NameError { what: $what, text: text.to_owned() }),
                }
            }
        }

        impl rusqlite::ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl rusqlite::types::FromSql for $name {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                value.as_str()?.parse().map_err(|error| rusqlite::types::FromSqlError::Other(Box::new(error)))
            }
        }
    };
}

words!(
    /// What a run does.
    RunKind, "a kind of run (backup, drill, verify)", { Backup = "backup", Drill = "drill", Verify = "verify" }
);

words!(
    /// What made a run begin.
    Trigger, "a trigger (schedule, manual, api)", { Schedule = "schedule", Manual = "manual", Api = "api" }
);

words!(
    /// Where a run is in its life. All but the first two are ends, and an end never changes.
    RunState,
    "a state (queued, running, succeeded, partial, failed, cancelled, timed_out, interrupted)",
    {
        Queued = "queued",
        Running = "running",
        Succeeded = "succeeded",
        Partial = "partial",
        Failed = "failed",
        Cancelled = "cancelled",
        TimedOut = "timed_out",
        Interrupted = "interrupted",
    }
);

impl RunState {
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

words!(
    /// Why a due time got no run of its own.
    MissReason,
    "a reason (daemon_down, overlap, no_slot)",
    {
        /// Nobody was there to start it.
        DaemonDown = "daemon_down",
        /// The policy's last run was still going.
        Overlap = "overlap",
        /// The queue was full.
        NoSlot = "no_slot",
    }
);

words!(
    /// What a token may do; each includes those before it.
    Role, "a role (read, run, drill, admin)", { Read = "read", Run = "run", Drill = "drill", Admin = "admin" }
);

/// The id of a run: 26 letters and digits (Crockford's base 32), 48 bits of milliseconds and 80 of chance. Ids sort as
/// runs were recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u128);

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ID_CHARS: usize = 26;

impl RunId {
    pub fn new(at: Timestamp, chance: [u8; 10]) -> Self {
        let millis = u128::from(at.as_millisecond().max(0).unsigned_abs() & ((1 << 48) - 1));
        let chance = chance.iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
        Self(millis << 80 | chance)
    }

    /// The id right after this one, for what is recorded in the same millisecond or under a clock that went back.
    pub(super) fn successor(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(ID_CHARS);
        for place in (0..ID_CHARS).rev() {
            text.push(char::from(DIGITS[(self.0 >> (place * 5) & 31) as usize]));
        }
        f.pad(&text)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError { what: "a run id (26 letters and digits)", text: text.chars().take(64).collect() };
        // The first digit holds the top 3 of 128 bits.
        if text.len() != ID_CHARS || !matches!(text.as_bytes()[0], b'0'..=b'7') {
            return Err(bad());
        }
        let mut number = 0u128;
        for byte in text.bytes() {
            let digit = DIGITS.iter().position(|d| *d == byte).ok_or_else(bad)?;
            number = number << 5 | digit as u128;
        }
        Ok(Self(number))
    }
}

impl serde::Serialize for RunId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl rusqlite::ToSql for RunId {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}

impl rusqlite::types::FromSql for RunId {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        value.as_str()?.parse().map_err(|error| rusqlite::types::FromSqlError::Other(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let id = RunId::new(Timestamp::from_millisecond(1_800_000_000_123).unwrap(), [0xa7; 10]);
        assert_eq!(id.to_string().len(), ID_CHARS);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "01hzzzzzzzzzzzzzzzzzzzzzzz", "0123456789012345678901234é"] {
            assert!(bad.parse::<RunId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn later_ids_sort_after_earlier_ones_as_text() {
        let at = |ms| RunId::new(Timestamp::from_millisecond(ms).unwrap(), [0xff; 10]);
        let ids = [at(0), at(1), at(1).successor(), at(31), at(32), at(1 << 40)].map(|id| id.to_string());
        assert!(ids.is_sorted(), "{ids:?}");
    }
}
