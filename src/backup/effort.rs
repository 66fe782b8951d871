//! How hard frames are compressed while a run goes on.
//!
//! Owns what `auto` means: zstd 3; more while workers wait for a slow link to the store, less again once compressing is what the link waits for. Refuses to
//! measure: it is told how the workers' time was spent, and when.
//!
//! - Upwards only where the time that workers wait pays for the step, by what it costs on text, so that no run takes longer for it. A slow link sees
//!   level 6 after 10 s and level 8 after 20.
//! - A rung that was left again because it cost too much is tried again after twice as long.
//! - Disk images stand at 2 where all else stands at 3: their frames take 15 % less CPU and come out 2.4 % larger. Logs and dumps would save a tenth of a mixed
//!   backup's CPU by it, and make it 2 % larger: they stay at 3.
//! - Never below that: what is stored costs its place for years, and level 1 makes text 19 to 34 % larger to spare a third of the compressing, once. Who is in a
//!   hurry says `fast`. Never above 8: there memory ends (`seal::compress`).
//! - A store that is near stays at 3: its disk takes what two cores give, and a machine that does its work has better use for its cores.
//!
//! Measured on 2 MiB frames of text, small files and a database's dump, against level 3: level 6 takes 2.7 to 2.9 times the time and gives 5 to 7 % less, level 8
//! 3.9 to 4.2 times for 10 to 15 % less.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::compression::{Compression, Level};
use crate::pack::entry::Cut;
use crate::repository::Spent;

const fn level(number: u8) -> Level {
    match Level::new(number) {
        Some(level) => level,
        None => panic!("a level of zstd"),
    }
}

/// The rungs of `auto`, and how many times the compressing of the rung below each takes.
const LADDER: [(Level, f64); 3] = [(Level::STANDARD, 1.0), (level(6), 3.0), (level(8), 1.6)];
/// What stands for `Level::STANDARD` where disk images are compressed.
const IMAGES: Level = level(2);
/// Over so long the workers' time is judged.
const WINDOW: Duration = Duration::from_secs(10);
/// Windows in a row that must speak for a rung, at most: five minutes.
const PATIENCE_MAX: u32 = 32;
/// Upwards: workers wait at least so much of their time,
const WAITING_MIN: f64 = 0.25;
/// and no more of that than so much would be spent on the step.
const WAITING_USED: f64 = 0.8;
/// Downwards: they wait no more than so much,
const WAITING_NONE: f64 = 0.05;
/// and compress at least so much.
const COMPRESSING_MIN: f64 = 0.5;

/// The decision alone.
struct Effort {
    workers: f64,
    rung: usize,
    /// When the window began, and what had been spent by then.
    since: Duration,
    before: Spent,
    /// Windows in a row that spoke for the next rung.
    calm: u32,
    /// How many each rung needs.
    patience: [u32; LADDER.len()],
}

impl Effort {
    fn new(workers: usize) -> Self {
        let workers = workers.max(1) as f64;
        let (since, before) = (Duration::ZERO, Spent::default());
        Self { workers, rung: 0, since, before, calm: 0, patience: [1; LADDER.len()] }
    }

    fn level(&self) -> Level {
        LADDER[self.rung].0
    }

    /// Takes in what was spent until `at`, both since the run began.
    fn observe(&mut self, at: Duration, spent: Spent) {
        let window = at.saturating_sub(self.since);
        if window < WINDOW {
            return;
        }
        let whole = window.as_secs_f64() * self.workers;
        let share = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64() / whole;
        let waiting = share(spent.waiting, self.before.waiting);
        let compressing = share(spent.compressing, self.before.compressing);
        (self.since, self.before) = (at, spent);
        if self.rung > 0 && waiting <= WAITING_NONE && compressing >= COMPRESSING_MIN {
            self.patience[self.rung] = (self.patience[self.rung] * 2).min(PATIENCE_MAX);
            self.calm = 0;
            self.rung -= 1;
            return;
        }
        let Some((_, cost)) = LADDER.get(self.rung + 1) else { return };
        let pays = waiting >= WAITING_MIN && compressing * (cost - 1.0) <= waiting * WAITING_USED;
        self.calm = if pays { self.calm + 1 } else { 0 };
        if self.calm >= self.patience[self.rung + 1] {
            self.calm = 0;
            self.rung += 1;
        }
    }
}

/// What all workers ask for the level of their next frame.
pub struct Dial {
    begun: Instant,
    setting: Setting,
}

enum Setting {
    /// None: not compressed.
    Fixed(Option<Level>),
    /// `auto` before a near store.
    Near,
    /// `auto` before a link.
    Far(Mutex<Effort>),
}

impl Dial {
    pub fn new(asked: Compression, is_remote: bool, workers: usize, begun: Instant) -> Self {
        let setting = match asked {
            Compression::Off => Setting::Fixed(None),
            Compression::Fast => Setting::Fixed(Some(Level::FAST)),
            Compression::Level(level) => Setting::Fixed(Some(level)),
            Compression::Auto if is_remote => Setting::Far(Mutex::new(Effort::new(workers))),
            Compression::Auto => Setting::Near,
        };
        Self { begun, setting }
    }

    /// The level of the frame that is compressed now, at `now`, of files that are `cut` so.
    pub fn level(&self, cut: Cut, now: Instant, spent: impl FnOnce() -> Spent) -> Option<Level> {
        let standard = match cut {
            Cut::Content => Level::STANDARD,
            Cut::Fixed => IMAGES,
        };
        let effort = match &self.setting {
            Setting::Fixed(level) => return *level,
            Setting::Near => return Some(standard),
            Setting::Far(effort) => effort,
        };
        let mut effort = effort.lock().unwrap_or_else(PoisonError::into_inner);
        let before = effort.level();
        effort.observe(now.saturating_duration_since(self.begun), spent());
        let level = effort.level();
        if level != before {
            tracing::info!(
                level = level.get(),
                before = before.get(),
                "the link to the store changed how hard is compressed"
            );
        }
        Some(if level == Level::STANDARD { standard } else { level })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Workers that compress `plain` bytes a second each at level 3 (with 30 % more for all else), before a link that takes `link` plain bytes a second of them all.
    /// A level that compresses better makes the link faster.
    struct Model {
        effort: Effort,
        at: f64,
        spent: Spent,
        workers: f64,
        plain: f64,
        link: f64,
        /// Seconds of other programs' work in each second of a core.
        others: f64,
    }

    impl Model {
        fn new(workers: usize, link: f64) -> Self {
            let (effort, spent) = (Effort::new(workers), Spent::default());
            Self { effort, at: 0.0, spent, workers: workers as f64, plain: 200.0, link, others: 0.0 }
        }

        /// Seconds of compressing for a plain MB, seconds of all else, and what the link makes of its rate.
        fn costs(&self) -> (f64, f64, f64) {
            let (times, gain) = match self.effort.level().get() {
                3 => (1.0, 1.0),
                6 => (2.9, 1.05),
                8 => (4.1, 1.1),
                other => panic!("{other} is not on the ladder"),
            };
            let share = 1.0 - self.others;
            (times / self.plain / share, 0.3 / self.plain / share, gain)
        }

        /// Plain MB a second.
        fn rate(&self) -> f64 {
            let (compressing, rest, gain) = self.costs();
            (self.workers / (compressing + rest)).min(self.link * gain)
        }

        /// The levels of `seconds`, each once for as long as it lasts.
        fn run(&mut self, seconds: usize) -> Vec<u8> {
            let mut levels = vec![self.effort.level().get()];
            for _ in 0..seconds * 4 {
                let (compressing, rest, _) = self.costs();
                let (rate, step) = (self.rate(), 0.25);
                let compressing = rate * compressing * step;
                let waiting = self.workers * step - compressing - rate * rest * step;
                self.at += step;
                self.spent.compressing += Duration::from_secs_f64(compressing);
                self.spent.waiting += Duration::from_secs_f64(waiting.max(0.0));
                self.effort.observe(Duration::from_secs_f64(self.at), self.spent);
                levels.push(self.effort.level().get());
            }
            levels.dedup();
            levels
        }
    }

    #[test]
    fn a_slow_link_is_met_step_by_step_within_half_a_minute() {
        let mut home = Model::new(2, 10.0);
        assert_eq!(home.run(9), [3]);
        assert_eq!(home.run(8), [3, 6]);
        assert_eq!(home.run(8), [6, 8]);
        assert_eq!(home.run(3600), [8]);
    }

    #[test]
    fn a_fast_link_never_sees_more_than_the_standard() {
        for link in [200.0, 300.0, 400.0, 10_000.0] {
            assert_eq!(Model::new(2, link).run(3600), [3], "{link}");
        }
    }

    #[test]
    fn no_link_gets_slower_by_it() {
        for workers in [1, 2, 4, 16] {
            for link in 1..400 {
                let mut model = Model::new(workers, f64::from(link));
                let at_first = model.rate();
                model.run(300);
                assert!(
                    model.rate() >= at_first * 0.999,
                    "{workers} workers, {link} MB/s: {} < {at_first}",
                    model.rate()
                );
            }
        }
    }

    #[test]
    fn a_link_that_becomes_fast_gets_the_processor_back() {
        let mut model = Model::new(2, 10.0);
        model.run(60);
        model.link = 1000.0;
        assert_eq!(model.run(60), [8, 6, 3]);
    }

    #[test]
    fn a_rung_that_proved_too_dear_is_tried_ever_more_rarely() {
        // Every 20 s the link is slow, and fast every other 20 s: each rise is a mistake.
        let mut model = Model::new(2, 0.0);
        let mut rises = 0;
        for round in 0..360 {
            model.link = if round % 2 == 0 { 40.0 } else { 1000.0 };
            rises += model.run(20).windows(2).filter(|pair| pair[0] < pair[1]).count();
        }
        assert!(rises <= 3, "{rises} in two hours");
    }

    #[test]
    fn a_machine_that_is_busy_with_other_things_is_spared() {
        let mut model = Model::new(2, 60.0);
        model.others = 0.7;
        assert_eq!(model.run(600), [3]);
        model.others = 0.0;
        assert_eq!(model.run(60), [3, 6, 8]);
    }

    #[test]
    fn a_run_that_reads_slowly_and_neither_waits_nor_compresses_stays_where_it_is() {
        let mut effort = Effort::new(2);
        effort.rung = 1;
        for second in 0..600 {
            effort.observe(Duration::from_secs(second), Spent::default());
        }
        assert_eq!((effort.level().get(), effort.patience), (6, [1; 3]));
    }

    #[test]
    fn a_wait_that_outlasts_its_window_counts_once() {
        let mut effort = Effort::new(1);
        let spent = |waiting| Spent { waiting: Duration::from_secs(waiting), compressing: Duration::ZERO };
        effort.observe(Duration::from_secs(40), spent(40));
        assert_eq!(effort.level().get(), 6);
        effort.observe(Duration::from_secs(41), spent(40));
        effort.observe(Duration::from_secs(49), spent(40));
        effort.observe(Duration::from_secs(60), spent(40));
        assert_eq!(effort.level().get(), 6);
    }

    #[test]
    fn only_auto_moves_and_only_far_from_the_store() {
        let begun = Instant::now();
        // Of files, of disk images; before a link after it was slow for a while, and at once.
        let asked: [(&str, bool, u32, [Option<u8>; 2]); 7] = [
            ("auto", true, 1, [Some(6), Some(6)]),
            ("auto", true, 0, [Some(3), Some(2)]),
            ("auto", false, 1, [Some(3), Some(2)]),
            ("fast", true, 1, [Some(1), Some(1)]),
            ("off", true, 1, [None, None]),
            ("3", true, 1, [Some(3), Some(3)]),
            ("19", false, 1, [Some(19), Some(19)]),
        ];
        for (text, is_remote, windows, levels) in asked {
            let dial = Dial::new(text.parse().unwrap(), is_remote, 1, begun);
            let waited = || Spent { waiting: WINDOW, compressing: Duration::ZERO };
            let level = |cut| dial.level(cut, begun + WINDOW * windows, waited).map(Level::get);
            assert_eq!([level(Cut::Content), level(Cut::Fixed)], levels, "{text} {is_remote}");
        }
    }
}
