//! How far a command is.
//!
//! Owns the line on a terminal (four times a second) and the lines elsewhere (every 30 s). Refuses to slow what it watches:
//! it reads counters from a thread of its own.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use unicode_width::UnicodeWidthStr;

use super::screen::{self, Screen};
use super::text::{cut, cut_front, duration, plural};
use crate::backup;
use crate::units::ByteCount;

const DRAW: Duration = Duration::from_millis(250);
const TELL: Duration = Duration::from_secs(30);
/// The rate is that of the last so many drawings: ten seconds.
const RATE_SAMPLES: usize = 40;

/// What there is to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What was counted, with its noun: `12 files`.
    pub things: String,
    pub bytes: u64,
    pub bytes_total: Option<u64>,
    /// The total is what an earlier run had.
    pub guessed: bool,
    /// Of a backup: bytes that no snapshot held.
    pub bytes_new: Option<u64>,
    pub problems: u64,
    /// What is being worked on, escaped.
    pub current: String,
}

impl Seen {
    pub fn of_backup(progress: &backup::Progress) -> Self {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            things: plural(read(&progress.files), "file", "files"),
            // Of a large file under way only what was read is known; of files that need no reading only their sizes.
            bytes: read(&progress.bytes).max(read(&progress.bytes_read)),
            bytes_total: None,
            guessed: false,
            bytes_new: Some(read(&progress.bytes_new)),
            problems: read(&progress.problems),
            current: progress.current.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Runs `work` and shows how far it is. `expected` guesses the total, once, beside the work.
pub fn while_running<T>(
    screen: &Screen,
    expected: &(dyn Fn() -> Option<u64> + Sync),
    look: &(dyn Fn() -> Seen + Sync),
    work: impl FnOnce() -> T,
) -> T {
    if screen.quiet || screen.json {
        return work();
    }
    let (done, ended) = bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let began = Instant::now();
            let on_terminal = screen::progress_width().is_some();
            let pause = if on_terminal { DRAW } else { TELL };
            let mut total = None;
            let mut asked = false;
            let mut rate = Rate::default();
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                if !asked {
                    (total, asked) = (expected(), true);
                }
                let mut seen = look();
                if seen.bytes_total.is_none() {
                    (seen.bytes_total, seen.guessed) = (total, true);
                }
                let elapsed = began.elapsed();
                let per_second = rate.after(elapsed, seen.bytes);
                match screen::progress_width() {
                    Some(width) => screen.draw(&on_a_terminal(&seen, elapsed, per_second, width.saturating_sub(1))),
                    None => screen.say(in_a_log(&seen, elapsed, per_second)),
                }
            }
            screen.wipe();
        });
        let result = work();
        drop(done);
        result
    })
}

/// Bytes per second over the last samples.
#[derive(Default)]
struct Rate(VecDeque<(Duration, u64)>);

impl Rate {
    fn after(&mut self, elapsed: Duration, bytes: u64) -> f64 {
        self.0.push_back((elapsed, bytes));
        if self.0.len() > RATE_SAMPLES {
            self.0.pop_front();
        }
        let (since, before) = match self.0.front() {
            Some(first) if self.0.len() > 1 => *first,
            _ => (Duration::ZERO, 0),
        };
        let seconds = (elapsed - since).as_secs_f64();
        if seconds > 0.0 { bytes.saturating_sub(before) as f64 / seconds } else { 0.0 }
    }
}

/// One fact of the line; the least important ones go first when there is no room.
struct Fact {
    rank: u8,
    text: String,
}

fn facts(seen: &Seen, elapsed: Duration, per_second: f64) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut tell = |rank, text| facts.push(Fact { rank, text });
    let about = if seen.guessed { "about " } else { "" };
    tell(4, duration(elapsed.as_secs_f64()));
    let total = seen.bytes_total.filter(|total| *total >= seen.bytes);
    if let Some(total) = total {
        // A guess that came true is no reason to say that all is done.
        let share = (seen.bytes as f64 * 100.0 / total.max(1) as f64).min(if seen.guessed { 99.0 } else { 100.0 });
        tell(0, format!("{about}{share:.0} %"));
    }
    tell(5, seen.things.clone());
    tell(1, ByteCount(seen.bytes).to_string());
    tell(2, format!("{}/s", ByteCount(per_second as u64)));
    if let Some(total) = total
        && per_second >= 1.0
    {
        tell(3, format!("{about}{} left", duration((total - seen.bytes) as f64 / per_second)));
    }
    if let Some(new) = seen.bytes_new.filter(|_| seen.bytes > 0) {
        tell(
            6,
            if new == 0 { "nothing new".to_owned() } else { format!("dedup {:.1}x", seen.bytes as f64 / new as f64) },
        );
    }
    if seen.problems > 0 {
        tell(0, plural(seen.problems, "problem", "problems"));
    }
    facts
}

fn joined(facts: &[Fact]) -> String {
    facts.iter().map(|fact| fact.text.as_str()).collect::<Vec<_>>().join("  ")
}

fn on_a_terminal(seen: &Seen, elapsed: Duration, per_second: f64, width: usize) -> String {
    let mut facts = facts(seen, elapsed, per_second);
    while joined(&facts).width() > width
        && let Some(least) = facts.iter().map(|fact| fact.rank).max().filter(|_| facts.len() > 1)
    {
        facts.retain(|fact| fact.rank != least);
    }
    let mut line = joined(&facts);
    let room = width.saturating_sub(line.width() + 2);
    if room >= 12 && !seen.current.is_empty() {
        line.push_str("  ");
        line.push_str(&cut_front(&seen.current, room));
    }
    cut(&line, width)
}

fn in_a_log(seen: &Seen, elapsed: Duration, per_second: f64) -> String {
    format!("progress: {}", joined(&facts(seen, elapsed, per_second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(current: &str) -> Seen {
        Seen {
            things: "1 200 files".into(),
            bytes: 5 << 20,
            bytes_total: Some(20 << 20),
            guessed: false,
            bytes_new: None,
            problems: 0,
            current: current.into(),
        }
    }

    #[test]
    fn a_line_tells_share_rate_and_what_is_left_and_fits() {
        let line =
            on_a_terminal(&seen("/home/ann/very/long/path/数据/file.bin"), Duration::from_secs(5), 1048576.0, 79);
        assert!(line.starts_with("5.0 s  25 %  1 200 files  5.00 MiB  1.00 MiB/s  15.0 s left  …"), "{line}");
        assert!(line.width() <= 79 && line.ends_with("file.bin"), "{line}");
    }

    #[test]
    fn a_guess_is_told_as_one_and_never_ends_the_work() {
        let guess = Seen { guessed: true, bytes_new: Some(1 << 20), problems: 1, ..seen("") };
        let line = in_a_log(&guess, Duration::from_secs(5), 1048576.0);
        let expected =
            "progress: 5.0 s  about 25 %  1 200 files  5.00 MiB  1.00 MiB/s  about 15.0 s left  dedup 5.0x  1 problem";
        assert_eq!(line, expected);
        let reached = Seen { bytes: 20 << 20, bytes_new: Some(0), ..guess };
        assert!(in_a_log(&reached, Duration::from_secs(5), 0.0).contains("about 99 %  1 200 files"));
    }

    #[test]
    fn a_narrow_terminal_keeps_what_matters_most_and_no_line_is_too_long() {
        let full = Seen { guessed: true, bytes_new: Some(1 << 20), problems: 12, ..seen("/home/数据/数据/数据") };
        for width in 0..200 {
            assert!(on_a_terminal(&full, Duration::from_secs(5), 1048576.0, width).width() <= width, "{width}");
        }
        let narrow = on_a_terminal(&full, Duration::from_secs(5), 1048576.0, 40);
        assert_eq!(narrow, "about 25 %  5.00 MiB  12 problems");
    }

    #[test]
    fn a_total_that_was_passed_is_no_longer_believed() {
        let past = Seen { bytes: 30 << 20, ..seen("") };
        let line = in_a_log(&past, Duration::from_secs(5), 1048576.0);
        assert_eq!(line, "progress: 5.0 s  1 200 files  30.0 MiB  1.00 MiB/s");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        for second in 1..=100u64 {
            let bytes = if second <= 50 { second * 100 } else { 5000 };
            let per_second = rate.after(Duration::from_secs(second), bytes);
            assert_eq!(per_second > 0.0, second < 89, "{second}");
        }
    }
}
