//! When things happen and how long they stay, judged.
//!
//! Owns the problems of schedules and keep rules. Refuses to parse them: `schedule` does.

use super::document::{Given, KeepDoc, KeepTable, ScheduleDoc};
use super::found::{Found, Spot, Typed};
use crate::schedule::keep::{COUNT_MAX, Keep, KeepError, MIN_POINTS, RULES};
use crate::schedule::{Schedule, Trigger, TriggerError, offset_seconds, seconds};

pub(super) fn schedule(doc: ScheduleDoc, found: &mut Found) -> Option<Schedule> {
    let mut triggers: Vec<Trigger> = Vec::new();
    let mut sound = true;
    match doc.at {
        Given::Absent => {}
        Given::Broken => sound = false,
        Given::Is(lines) => {
            for line in lines {
                let trigger = trigger(&line, found);
                sound &= trigger.is_some();
                if let Some(trigger) = trigger {
                    if triggers.contains(&trigger) {
                        found.add("W133", &line.spot, "this line stands twice and counts once").hint("delete it");
                    }
                    triggers.push(trigger);
                }
            }
        }
    }
    match (doc.every, doc.offset) {
        (Given::Absent, Given::Is(offset)) => {
            found
                .add("E113", &offset.spot, "an `offset` belongs to `every`, which is missing")
                .hint("add every = \"4h\"");
            sound = false;
        }
        (Given::Is(every), offset) => {
            let trigger = every_so_often(&every, offset, found);
            sound &= trigger.is_some();
            triggers.extend(trigger);
        }
        (every, offset) => sound &= matches!((every, offset), (Given::Absent, Given::Absent)),
    }
    if !sound {
        return None;
    }
    let schedule = Schedule::new(triggers);
    if schedule.is_none() {
        found.add("E115", &doc.spot, "the schedule is empty").hint("write \"daily 02:00\", or another line like it");
    }
    schedule
}

fn trigger(line: &Typed<String>, found: &mut Found) -> Option<Trigger> {
    let trigger: Trigger = match line.value.parse() {
        Ok(trigger) => trigger,
        Err(error) => {
            found.add("E134", &line.spot, error.to_string()).hint(error.hint());
            return None;
        }
    };
    if !trigger.ever_fires() {
        found.add("E131", &line.spot, "this schedule never fires").hint("no date up to the year 2100 matches it");
        return None;
    }
    if trigger.restricts_both_days() {
        found
            .add("W131", &line.spot, "both day fields are restricted, and both must match")
            .hint("crontab would run when either matches; for that, write two lines");
    }
    if trigger.skips_short_months() {
        found
            .add("W134", &line.spot, "months without this day are left out")
            .hint("write a day up to 28, or \"monthly last-fri\" and the like");
    }
    Some(trigger)
}

fn every_so_often(every: &Typed<String>, offset: Given<Typed<String>>, found: &mut Found) -> Option<Trigger> {
    let mut read = |text: &Typed<String>, number: fn(&str) -> Result<u64, TriggerError>| match number(&text.value) {
        Ok(seconds) => Some(seconds),
        Err(error) => {
            found.add("E134", &text.spot, error.to_string()).hint(error.hint());
            None
        }
    };
    let period = read(every, seconds);
    let shift = match &offset {
        Given::Absent => Some(0),
        Given::Broken => None,
        Given::Is(offset) => read(offset, offset_seconds),
    };
    match Trigger::every(period?, shift?) {
        Ok(trigger) => Some(trigger),
        Err(error) => {
            let spot = offset.is().map_or_else(|| every.spot.clone(), |offset| offset.spot);
            found.add("E134", &spot, error.to_string()).hint(error.hint());
            None
        }
    }
}

pub(super) fn keep(doc: KeepDoc, found: &mut Found) -> Option<Keep> {
    let (spot, result) = match doc {
        KeepDoc::Line(text) => (text.spot, text.value.parse::<Keep>()),
        KeepDoc::Table(table) => {
            let KeepTable { spot, counts, within, min_points } = *table;
            let mut numbers = [0; 6];
            for ((number, typed), (rule, _)) in numbers.iter_mut().zip(counts).zip(RULES) {
                *number = count(typed, rule, found)?.unwrap_or_default();
            }
            let mut ages = [None; 6];
            for (age, typed) in ages.iter_mut().zip(within) {
                *age = match typed {
                    Given::Absent => None,
                    Given::Broken => return None,
                    Given::Is(text) => match text.value.parse() {
                        Ok(age) => Some(age),
                        Err(error) => {
                            refuse(&error, &text.spot, found);
                            return None;
                        }
                    },
                };
            }
            (spot, Keep::with(numbers, ages, count(min_points, MIN_POINTS, found)?))
        }
    };
    result.inspect_err(|error| refuse(error, &spot, found)).ok()
}

/// None: it is wrong; none within: it is not there.
fn count(typed: Given<Typed<i64>>, name: &str, found: &mut Found) -> Option<Option<u32>> {
    let typed = match typed {
        Given::Absent => return Some(None),
        Given::Broken => return None,
        Given::Is(typed) => typed,
    };
    let count = u32::try_from(typed.value).ok().filter(|count| *count <= COUNT_MAX);
    if count.is_none() {
        found.add("E140", &typed.spot, format!("`{name}` is a count from 0 to {COUNT_MAX}"));
    }
    count.map(Some)
}

fn refuse(error: &KeepError, spot: &Spot, found: &mut Found) {
    let finding = found.add("E140", spot, error.to_string());
    match error {
        KeepError::Nothing => finding.label("nothing would remain").hint("write \"7d 4w 12m\", for example"),
        KeepError::Item { .. } => finding.hint("write counts with l (last), h, d, w, m or y: \"7d 4w 12m\""),
        KeepError::Age { .. } => finding.hint("write counts with y, m (months), w, d or h: \"1y6m\", \"30d\""),
        KeepError::Twice { .. } => finding.hint("delete one of the two"),
    };
}
