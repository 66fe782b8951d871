//! What becomes of snapshots, and why: the table and the document of `lifeboat forget`.
//!
//! Owns the words. Refuses to decide.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::failure::Result;
use super::pick::Target;
use super::screen::{Screen, output_width};
use super::text::{Table, count, cut, local, plural, time_of};
use crate::forget::{Judged, UNDO_DAYS};
use crate::names::escape;
use crate::repository::{Error as RepositoryError, Unreadable};
use crate::schedule::keep::{Keep, RULES, WITHIN};
use crate::schedule::retention::Reason;
use crate::units::ByteCount;

/// What the rules of `RULES` and `WITHIN` keep the newest of.
const PERIODS: [&str; 6] = ["snapshot", "hour", "day", "week", "month", "year"];

/// A snapshot, and what is done with it.
pub struct Row {
    pub target: Target,
    /// None: it was named by its id.
    pub group: Option<String>,
    /// Why it stays.
    pub why: Vec<String>,
    pub goes: bool,
    /// Why it stays although it should go.
    pub failed: Option<RepositoryError>,
}

/// What stands beneath the rows.
pub struct Sums<'a> {
    pub dry_run: bool,
    pub keep: Option<Keep>,
    pub zone: &'a TimeZone,
    pub unreadable: &'a [&'a Unreadable],
    pub freed: Option<u64>,
}

/// Rules as they are typed.
pub fn rules(keep: &Keep) -> String {
    let counts = RULES.iter().zip(keep.counts()).filter(|(_, count)| **count > 0);
    let mut words: Vec<String> = counts.map(|((name, _), count)| format!("--keep-{name} {count}")).collect();
    let within = WITHIN.iter().zip(keep.within());
    words.extend(within.filter_map(|(name, age)| age.map(|age| format!("--keep-{} {age}", name.replace('_', "-")))));
    words.join(" ")
}

/// Why it stays; nothing: it goes.
pub fn why(judged: &Judged<'_>, keep: &Keep) -> Vec<String> {
    let mut why: Vec<String> = judged.reasons.iter().map(|reason| word(*reason, keep)).collect();
    if let Some(hold) = &judged.hold {
        let until = hold.until.map_or_else(String::new, |until| format!(" until {}", local(time_of(until))));
        why.push(format!("held{until}: {}", escape(hold.reason.as_bytes())));
    }
    if judged.doubtful {
        why.push("what was decided of it before cannot be read".to_owned());
    }
    why
}

fn word(reason: Reason, keep: &Keep) -> String {
    match reason {
        Reason::Count { rule, nth, of } => format!("{} {nth} of {of}", RULES[rule].0),
        Reason::Within { rule } => {
            let age = keep.within()[rule].map_or_else(String::new, |age| age.to_string());
            match rule {
                0 => format!("within {age}"),
                rule => format!("newest of its {} within {age}", PERIODS[rule]),
            }
        }
        Reason::Least => format!("one of the newest {} that are whole", keep.min_points()),
        Reason::Future => "its time lies in the future".to_owned(),
    }
}

pub fn show(screen: &Screen, rows: &[Row], sums: &Sums<'_>) -> Result<()> {
    let failed = rows.iter().filter(|row| row.failed.is_some()).count() as u64;
    let forgotten = rows.iter().filter(|row| row.goes).count() as u64 - failed;
    let kept = rows.len() as u64 - forgotten - failed;
    if screen.json {
        return screen.document(&json!({
            "dry_run": sums.dry_run,
            "keep": sums.keep.as_ref().map(rules),
            "zone": sums.keep.as_ref().map(|_| sums.zone.iana_name().unwrap_or("unknown")),
            "kept": kept,
            "forgotten": forgotten,
            "failed": failed,
            "freed_bytes": sums.freed,
            "unreadable": sums.unreadable.iter().map(|lost| lost.session.snapshot().to_string()).collect::<Vec<_>>(),
            "snapshots": rows.iter().map(to_json).collect::<Vec<_>>(),
        }));
    }
    table(screen, rows)?;
    let kept = plural(kept, "snapshot", "snapshots");
    let not = if failed > 0 { format!(", and {} not", count(failed)) } else { String::new() };
    let gone = plural(forgotten, "snapshot", "snapshots");
    screen.line(match (sums.dry_run, sums.keep.is_some()) {
        (false, true) => format!("kept {kept}, forgot {}{not}", count(forgotten)),
        (false, false) => format!("forgot {gone}{not}"),
        (true, true) => format!("would keep {kept} and forget {}{not}", count(forgotten)),
        (true, false) => format!("would forget {gone}{not}"),
    })?;
    if !sums.dry_run {
        if forgotten > 0 {
            screen.hint(format!(
                "`lifeboat undelete ID` takes one back, for {UNDO_DAYS} days at least; nothing is freed before a later version prunes"
            ));
        }
        return Ok(());
    }
    if let Some(freed) = sums.freed.filter(|_| forgotten > 0) {
        screen.line(format!(
            "would free {} at least, with all that is forgotten already, once a later version prunes",
            ByteCount(freed)
        ))?;
    }
    if forgotten > 0 {
        screen.hint(format!("for {UNDO_DAYS} days at least `lifeboat undelete ID` would take one back"));
    }
    Ok(())
}

fn action(row: &Row) -> &'static str {
    match (row.goes, &row.failed) {
        (false, _) => "keep",
        (true, None) => "forget",
        (true, Some(_)) => "failed",
    }
}

fn to_json(row: &Row) -> Value {
    let id = row.target.session.snapshot();
    json!({
        "id": id.to_string(),
        "short_id": id.short(),
        "time": row.target.started.map(|time| time_of(time).to_string()),
        "group": row.group,
        "action": action(row),
        "reasons": row.why,
        "error": row.failed.as_ref().map(ToString::to_string),
    })
}

fn table(screen: &Screen, rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["ID", "Time", "Action", "Why"]);
    for row in rows {
        let id = row.target.session.snapshot();
        table.row(vec![
            if screen.verbose > 0 { id.to_string() } else { id.short() },
            row.target.started.map_or_else(|| "(cannot be read)".to_owned(), |time| local(time_of(time))),
            action(row).to_owned(),
            row.failed.as_ref().map_or_else(|| row.why.join(", "), ToString::to_string),
        ]);
    }
    let width = output_width();
    let mut lines = table.lines(width).into_iter();
    if let Some(head) = lines.next() {
        screen.line(head)?;
    }
    let mut group = None;
    for (row, line) in rows.iter().zip(lines) {
        if row.group.is_some() && row.group != group {
            group = row.group.clone();
            let of: Vec<&Row> = rows.iter().filter(|other| other.group == group).collect();
            let goes = of.iter().filter(|row| row.goes).count() as u64;
            let all = plural(of.len() as u64, "snapshot", "snapshots");
            let head = format!("# {}: {all}, {} to forget", group.as_deref().unwrap_or_default(), count(goes));
            screen.line(width.map_or_else(|| head.clone(), |width| cut(&head, width)))?;
        }
        screen.line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_in_words() {
        let keep: Keep = "3l 14d within=30d within_hourly=36h min_points=2".parse().unwrap();
        let word = |reason| word(reason, &keep);
        assert_eq!(word(Reason::Count { rule: 2, nth: 3, of: 14 }), "daily 3 of 14");
        assert_eq!(word(Reason::Within { rule: 0 }), "within 30d");
        assert_eq!(word(Reason::Within { rule: 1 }), "newest of its hour within 36h");
        assert_eq!(word(Reason::Least), "one of the newest 2 that are whole");
        assert_eq!(rules(&keep), "--keep-last 3 --keep-daily 14 --keep-within 30d --keep-within-hourly 36h");
    }
}
