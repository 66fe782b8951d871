//! `lifeboat forget`: which snapshots are let go, by rules or by name.
//!
//! Owns the flags, and that a dry run says what the run would do. Refuses to let everything go by a rule, and to guess: a name that fits no snapshot stops all.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::judged::{self, Row, Sums};
use super::pick::{self, Target};
use super::screen::Screen;
use super::select::Filter;
use super::snapshots::{name_of_group, now, tell_doubtful, tell_unreadable};
use super::text::plural;
use super::{Context, find, hold, interrupt, ls, open};
use crate::browse::tally;
use crate::clock::SystemClock;
use crate::forget::judge;
use crate::names::SnapshotId;
use crate::pack::record::Decision;
use crate::repository::{Error as RepositoryError, Refusal, Repository, SnapshotState, Snapshots, Unreadable};
use crate::schedule::keep::{Age, COUNT_MAX, Keep};

/// A reason is for a line of a table.
pub const REASON_BYTES: usize = 1000;

const HELP: &str = "\
A forgotten snapshot is hidden and stays whole: `lifeboat undelete` takes it
back, for 7 days at least. No space is freed by this: that is what
`lifeboat prune` does.

Rules count within each group: snapshots of one writer and policy, and
without a policy of one writer and the same paths. A rule keeps the newest
snapshot of each period that has one; a snapshot stays if any rule keeps it,
or if it is held (`lifeboat hold`). AGE is counted back from the newest
snapshot of the group: 36h, 14d, 1y6m (y, m for months, w, d, h).

What cannot be read is named, and no rule touches it. A dry run also reads
every tree, to tell what would be free.

Examples:
  lifeboat forget --keep-last 7 --keep-daily 14 --keep-monthly 12 --dry-run
  lifeboat forget --keep-within 30d --keep-within-monthly 2y --policy web
  lifeboat forget 3f2a9c1b --reason 'saved by mistake'";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Ids of snapshots to forget, instead of rules
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// The zone whose days and hours count, such as Europe/Berlin; else this machine's
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Why, for whoever looks at `snapshots --all`; else the rules
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Say what would be forgotten, and forget nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    // Last: its heading would stand above whatever comes after it.
    #[command(flatten)]
    rules: Rules,
}

type Count = u32;

fn count() -> clap::builder::RangedI64ValueParser<Count> {
    clap::value_parser!(u32).range(0..=i64::from(COUNT_MAX))
}

/// An age, refused with what one looks like.
pub fn age(text: &str) -> std::result::Result<Age, String> {
    text.parse().map_err(|error| format!("{error}; write 36h, 14d or 1y6m (y, m for months, w, d, h)"))
}

/// What stays.
#[derive(Args)]
#[command(next_help_heading = "Rules")]
struct Rules {
    /// Keep the newest N
    #[arg(long, value_name = "N", value_parser = count())]
    keep_last: Option<Count>,
    /// Keep the newest of each of N hours
    #[arg(long, value_name = "N", value_parser = count())]
    keep_hourly: Option<Count>,
    /// Keep the newest of each of N days
    #[arg(long, value_name = "N", value_parser = count())]
    keep_daily: Option<Count>,
    /// Keep the newest of each of N weeks, which begin on Monday
    #[arg(long, value_name = "N", value_parser = count())]
    keep_weekly: Option<Count>,
    /// Keep the newest of each of N months
    #[arg(long, value_name = "N", value_parser = count())]
    keep_monthly: Option<Count>,
    /// Keep the newest of each of N years
    #[arg(long, value_name = "N", value_parser = count())]
    keep_yearly: Option<Count>,
    /// Keep all that are so young
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_within: Option<Age>,
    /// Keep the newest of each hour of that time
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_within_hourly: Option<Age>,
    /// Keep the newest of each day of that time
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_within_daily: Option<Age>,
    /// Keep the newest of each week of that time
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_within_weekly: Option<Age>,
    /// Keep the newest of each month of that time
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_within_monthly: Option<Age>,
    /// Keep the newest of each year of that time
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_within_yearly: Option<Age>,
}

impl Rules {
    /// None: no rule was given.
    fn keep(&self) -> Result<Option<Keep>> {
        let counts =
            [self.keep_last, self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly];
        let within = [
            self.keep_within,
            self.keep_within_hourly,
            self.keep_within_daily,
            self.keep_within_weekly,
            self.keep_within_monthly,
            self.keep_within_yearly,
        ];
        if counts == [None; 6] && within == [None; 6] {
            return Ok(None);
        }
        // Whoever types a rule means it: no least number stands behind it.
        Keep::with(counts.map(Option::unwrap_or_default), within, Some(0)).map(Some).map_err(|_| {
            Failure::usage("these rules keep nothing, so every snapshot would go")
                .hint("keep at least one, as with --keep-last 1; single snapshots are forgotten by their ids")
        })
    }
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let keep = arguments.rules.keep()?;
    let zone = check(arguments, keep.as_ref())?;
    let repository = open::repository(globals, screen)?;
    repository.need_admin("forgetting snapshots")?;
    let snapshots = Snapshots::list(&repository)?;
    tell_doubtful(screen, &snapshots);
    let (mut rows, unreadable) = match &keep {
        Some(keep) => by_rules(&repository, arguments, &snapshots, keep, &zone)?,
        None => (by_ids(&snapshots, &arguments.snapshots)?, Vec::new()),
    };
    unreadable.iter().for_each(|lost| tell_unreadable(screen, lost));
    let reason = match (&arguments.reason, &keep) {
        (Some(reason), _) => reason.clone(),
        (None, Some(keep)) => format!("not among {}", judged::rules(keep)),
        (None, None) => "by its id".to_owned(),
    };
    let decision = Decision::Forget(reason);
    for row in rows.iter_mut().filter(|row| row.goes) {
        row.failed = decide(&repository, &row.target, &decision, arguments.dry_run, keep.is_some()).err();
    }
    let freed = match arguments.dry_run {
        true => freed(context, &repository, &snapshots, &rows)?,
        false => None,
    };
    let sums = Sums { dry_run: arguments.dry_run, keep, zone: &zone, unreadable: &unreadable, freed };
    judged::show(screen, &rows, &sums)?;
    screen.flush()?;
    end(screen, rows, unreadable.len() as u64)
}

/// Refuses flags that say nothing, or two things. The zone.
fn check(arguments: &Arguments, keep: Option<&Keep>) -> Result<TimeZone> {
    match (keep, &arguments.snapshots[..]) {
        (None, []) => {
            return Err(Failure::usage("nothing says what is to be forgotten")
                .hint("say what stays, as with --keep-daily 14, or name the snapshots that go by their ids"));
        }
        (Some(_), [_, ..]) => {
            return Err(Failure::usage("rules and ids are two ways to say what goes").hint("give one of the two"));
        }
        (None, [_, ..]) if !arguments.filter.is_empty() || arguments.timezone.is_some() => {
            return Err(Failure::usage(
                "--policy, --writer, --host, --path, --tag and --timezone narrow rules; an id needs none of them",
            )
            .hint("leave them out, or give rules as with --keep-daily 14"));
        }
        _ => {}
    }
    pick::refuse_latest(&arguments.snapshots)?;
    if let Some(reason) = &arguments.reason {
        check_reason(reason)?;
    }
    let Some(name) = &arguments.timezone else { return Ok(TimeZone::system()) };
    TimeZone::get(name).map_err(|_| {
        let shown: String = crate::names::escape(name.as_bytes()).chars().take(60).collect();
        Failure::usage(format!("there is no time zone {shown:?}")).hint("write its IANA name: Europe/Berlin, UTC")
    })
}

pub fn check_reason(reason: &str) -> Result<()> {
    if reason.trim().is_empty() {
        return Err(Failure::usage("the reason is empty").hint("say it in a few words: --reason 'an inquiry'"));
    }
    if reason.len() > REASON_BYTES {
        return Err(Failure::usage(format!("the reason is longer than {REASON_BYTES} bytes"))
            .hint("name a place where the whole story stands"));
    }
    Ok(())
}

fn by_ids(snapshots: &Snapshots, names: &[String]) -> Result<Vec<Row>> {
    let row = |target| Row { target, group: None, why: Vec::new(), goes: true, failed: None };
    Ok(pick::targets(snapshots, names)?.into_iter().map(row).collect())
}

/// Groups in the order of their names, each in the order of its commits; and what no rule touches because it cannot be read.
fn by_rules<'s>(
    repository: &Repository,
    arguments: &Arguments,
    snapshots: &'s Snapshots,
    keep: &Keep,
    zone: &TimeZone,
) -> Result<(Vec<Row>, Vec<&'s Unreadable>)> {
    let selection = arguments.filter.selection(repository)?;
    let all = arguments.filter.is_empty();
    let chosen = snapshots.readable.iter().filter(|snapshot| all || selection.fits(snapshot));
    let mut groups = Vec::new();
    for group in judge(chosen, keep, zone, Timestamp::now()) {
        let Some(newest) = group.judged.last() else { continue };
        groups.push((name_of_group(repository, newest.snapshot)?, group));
    }
    groups.sort_by(|(a, x), (b, y)| (a, &x.id).cmp(&(b, &y.id)));
    let mut rows = Vec::new();
    for (name, group) in groups {
        for one in group.judged {
            rows.push(Row {
                target: Target::from(one.snapshot),
                group: Some(name.clone()),
                goes: !one.stays(),
                why: judged::why(&one, keep),
                failed: None,
            });
        }
    }
    Ok((rows, snapshots.lost().collect()))
}

/// Forgets one, or tells why that would fail. What another process forgot meanwhile is as a rule wants it.
fn decide(
    repository: &Repository,
    target: &Target,
    decision: &Decision,
    dry_run: bool,
    by_rule: bool,
) -> std::result::Result<(), RepositoryError> {
    if !dry_run {
        return match repository.decide(&SystemClock, target.session, &target.slot, decision) {
            Err(RepositoryError::Undecided { why: Refusal::Forgotten, .. }) if by_rule => Ok(()),
            decided => decided.map(drop),
        };
    }
    let snapshot = target.session.snapshot();
    target.marked.allows(decision, now()).map_err(|why| RepositoryError::Undecided { snapshot, why })
}

/// Stored bytes that only what goes, and what is forgotten already, needs. None: that cannot be told.
fn freed(context: &Context, repository: &Repository, snapshots: &Snapshots, rows: &[Row]) -> Result<Option<u64>> {
    let screen = &context.screen;
    let goes = |row: &&Row| row.goes && row.failed.is_none();
    let going: HashSet<SnapshotId> = rows.iter().filter(goes).map(|row| row.target.session.snapshot()).collect();
    if going.is_empty() {
        return Ok(Some(0));
    }
    let unknown = snapshots.lost().filter(|lost| !going.contains(&lost.session.snapshot())).count() as u64;
    if unknown > 0 {
        let unknown = plural(unknown, "snapshot", "snapshots");
        screen.warn(format!("what would be free is not known: {unknown} that cannot be read may need it"));
        return Ok(None);
    }
    let cancel = Arc::new(AtomicBool::new(false));
    interrupt::watch(cancel.clone())?;
    let index = ls::load_index(repository, screen)?;
    let whole = snapshots.readable.iter().filter(|snapshot| snapshot.state != SnapshotState::Expired);
    let holder = |goes: bool| usize::from(goes);
    let numbered: Vec<_> = whole
        .map(|snapshot| (snapshot, holder(snapshot.state.is_forgotten() || going.contains(&snapshot.id))))
        .collect();
    let mut damaged = 0;
    let mut tell = |damage| {
        damaged += 1;
        find::tell_damage(screen, &damage);
    };
    let shares = tally::shares(repository, &index, &numbered, 2, &std::env::temp_dir(), &mut tell, &cancel)?;
    if damaged > 0 {
        screen.warn("what would be free is not known: parts of trees cannot be read");
        return Ok(None);
    }
    Ok(shares.of.get(holder(true)).map(|share| share.unique_stored_bytes))
}

/// The first failure decides the exit code; what could not be read comes after it.
fn end(screen: &Screen, rows: Vec<Row>, unreadable: u64) -> Result<Exit> {
    let all = rows.iter().filter(|row| row.goes).count() as u64;
    let failures: Vec<Failure> = rows.into_iter().filter_map(|row| row.failed).map(Failure::from).collect();
    if failures.is_empty() && unreadable > 0 {
        let lost = plural(unreadable, "snapshot", "snapshots");
        return Err(Failure::new(Exit::Damage, format!("{lost} could not be read, and no rule touched them"))
            .hint("`lifeboat verify` lists all damage; `lifeboat forget ID` forgets one that is lost for good"));
    }
    hold::finish(screen, failures, all, "were not forgotten")
}
