use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use proptest::prelude::*;

use super::*;

fn schedule(lines: &[&str]) -> Schedule {
    Schedule::new(lines.iter().map(|line| line.parse::<Trigger>().unwrap())).unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What is due on one local day.
fn on_day(lines: &[&str], zone_name: &str, day: &str) -> Vec<Occurrence> {
    let zone = zone(zone_name);
    let day: jiff::civil::Date = day.parse().unwrap();
    let start = day.to_zoned(zone.clone()).unwrap().timestamp();
    let end = day.tomorrow().unwrap().to_zoned(zone.clone()).unwrap().timestamp();
    let second = jiff::SignedDuration::from_secs(1);
    schedule(lines).due(&zone, start - second, end - second).collect()
}

fn instants(lines: &[&str], zone: &str, day: &str) -> Vec<String> {
    on_day(lines, zone, day).into_iter().map(|occurrence| occurrence.at.to_string()).collect()
}

#[test]
fn a_time_in_a_gap_moves_later_by_the_gap() {
    assert_eq!(instants(&["daily 02:30"], "Europe/Berlin", "2027-03-28"), ["2027-03-28T01:30:00Z"]);
    assert_eq!(instants(&["daily 02:30"], "America/New_York", "2027-03-14"), ["2027-03-14T07:30:00Z"]);
    assert_eq!(instants(&["daily 02:15"], "Australia/Lord_Howe", "2027-10-03"), ["2027-10-02T15:45:00Z"]);
    assert_eq!(instants(&["daily 00:00"], "Africa/Cairo", "2027-04-30"), ["2027-04-29T22:00:00Z"]);
    assert_eq!(instants(&["daily 00:00"], "America/Santiago", "2027-09-05"), ["2027-09-05T04:00:00Z"]);
}

#[test]
fn a_repeated_time_is_its_first_pass() {
    assert_eq!(instants(&["daily 02:30"], "Europe/Berlin", "2027-10-31"), ["2027-10-31T00:30:00Z"]);
    assert_eq!(instants(&["daily 01:30"], "America/New_York", "2027-11-07"), ["2027-11-07T05:30:00Z"]);
    assert_eq!(instants(&["daily 01:45"], "Australia/Lord_Howe", "2027-04-04"), ["2027-04-03T14:45:00Z"]);
}

#[test]
fn an_hourly_line_follows_real_hours() {
    let count = |zone, day| on_day(&["cron 15 * * * *"], zone, day).len();
    assert_eq!(count("Europe/Berlin", "2027-03-28"), 23);
    assert_eq!(count("Europe/Berlin", "2027-10-31"), 25);
    assert_eq!(count("Europe/Berlin", "2027-06-01"), 24);
    assert_eq!(count("Australia/Lord_Howe", "2027-10-03"), 23);
    assert_eq!(count("Australia/Lord_Howe", "2027-04-04"), 24);
}

#[test]
fn both_passes_of_a_repeated_hour_have_their_own_id() {
    let day = on_day(&["*/30 */2 * * *"], "Europe/Berlin", "2027-10-31");
    let twos: Vec<_> = day.iter().filter(|o| o.nominal.contains("T02")).map(|o| o.nominal.as_str()).collect();
    let passes = [
        "2027-10-31T02:00:00+02:00",
        "2027-10-31T02:30:00+02:00",
        "2027-10-31T02:00:00+01:00",
        "2027-10-31T02:30:00+01:00",
    ];
    assert_eq!(twos, passes);
    assert_eq!(day.iter().map(|o| &o.id).collect::<BTreeSet<_>>().len(), day.len());
}

#[test]
fn the_instant_of_a_change_counts_by_the_new_clock() {
    // 03:00 is the first instant after Berlin's gap, and 02:00 the first of its second pass.
    assert!(instants(&["0 */3 * * *"], "Europe/Berlin", "2027-03-28").contains(&"2027-03-28T01:00:00Z".to_owned()));
    assert!(instants(&["0 */2 * * *"], "Europe/Berlin", "2027-10-31").contains(&"2027-10-31T01:00:00Z".to_owned()));
}

#[test]
fn two_nominal_times_at_one_instant_are_two_occurrences() {
    let day = on_day(&["daily 02:30", "daily 03:30"], "Europe/Berlin", "2027-03-28");
    let shown: Vec<_> = day.iter().map(|o| (o.at.to_string(), o.id.as_str())).collect();
    let instant = "2027-03-28T01:30:00Z".to_owned();
    assert_eq!(
        shown,
        [(instant.clone(), "daily 02:30@2027-03-28T02:30:00"), (instant, "daily 03:30@2027-03-28T03:30:00")]
    );
}

#[test]
fn a_gap_puts_times_behind_later_ones_and_loses_none() {
    let day = on_day(&["0,30 2,3 * * *"], "Europe/Berlin", "2027-03-28");
    let shown: Vec<_> = day.iter().map(|o| format!("{} {}", &o.at.to_string()[11..16], &o.nominal[11..16])).collect();
    assert_eq!(shown, ["01:00 02:00", "01:00 03:00", "01:30 02:30", "01:30 03:30"]);
}

#[test]
fn samoa_lost_a_day_and_no_backup() {
    let zone = zone("Pacific/Apia");
    let due: Vec<_> = schedule(&["daily 12:00"])
        .due(&zone, at("2011-12-29T22:00:01Z"), at("2011-12-31T23:00:00Z"))
        .map(|o| (o.nominal, o.at.to_string()))
        .collect();
    // Noon of the 30th, which Samoa never had, is noon of the 31st: two occurrences at one instant.
    assert_eq!(
        due,
        [
            ("2011-12-30T12:00:00".to_owned(), "2011-12-30T22:00:00Z".to_owned()),
            ("2011-12-31T12:00:00".to_owned(), "2011-12-30T22:00:00Z".to_owned()),
            ("2012-01-01T12:00:00".to_owned(), "2011-12-31T22:00:00Z".to_owned()),
        ]
    );
}

#[test]
fn a_time_that_a_gap_moved_is_still_due_after_the_gap() {
    // Asked at the very change, when Berlin's clock shows 03:00 already: 02:30 is to come, half an hour later.
    let next = schedule(&["daily 02:30"]).next_after(&zone("Europe/Berlin"), at("2027-03-28T01:00:00Z")).unwrap();
    assert_eq!((next.at.to_string().as_str(), next.nominal.as_str()), ("2027-03-28T01:30:00Z", "2027-03-28T02:30:00"));
}

#[test]
fn every_counts_from_the_epoch_and_its_offset() {
    let zone = zone("Europe/Berlin");
    let next = |line: &str, after: &str| schedule(&[line]).next_after(&zone, at(after)).unwrap().at.to_string();
    assert_eq!(next("every 4h", "2027-01-01T00:00:00Z"), "2027-01-01T04:00:00Z");
    assert_eq!(next("every 4h offset 15m", "2027-01-01T00:00:00Z"), "2027-01-01T00:15:00Z");
    assert_eq!(next("every 5s", "2027-01-01T00:00:04.5Z"), "2027-01-01T00:00:05Z");
    assert_eq!(next("every 1s", "2027-01-01T00:00:04.999Z"), "2027-01-01T00:00:05Z");
    assert_eq!(next("every 1d", "1969-12-30T23:59:59.5Z"), "1969-12-31T00:00:00Z");
}

#[test]
fn weekdays_of_a_month_are_counted_from_either_end() {
    let utc = TimeZone::UTC;
    let next = |line: &str| -> Vec<String> {
        schedule(&[line]).occurrences(&utc, at("2027-01-01T00:00:00Z")).take(3).map(|o| o.nominal).collect()
    };
    assert_eq!(next("monthly last-fri 03:00"), ["2027-01-29T03:00:00", "2027-02-26T03:00:00", "2027-03-26T03:00:00"]);
    assert_eq!(next("monthly first-fri 00:00"), ["2027-02-05T00:00:00", "2027-03-05T00:00:00", "2027-04-02T00:00:00"]);
    assert_eq!(next("monthly fourth-sun 00:00")[0], "2027-01-24T00:00:00");
    assert_eq!(next("monthly 31 00:00"), ["2027-01-31T00:00:00", "2027-03-31T00:00:00", "2027-05-31T00:00:00"]);
    assert_eq!(next("mon..wed,sat 00:00"), ["2027-01-02T00:00:00", "2027-01-04T00:00:00", "2027-01-05T00:00:00"]);
}

#[test]
fn ten_thousand_occurrences_are_distinct_and_ordered() {
    let zone = zone("America/New_York");
    let many: Vec<_> = schedule(&["*/10 1-3 * * *", "every 1h", "7 * * * *"])
        .occurrences(&zone, at("2027-01-01T00:00:00Z"))
        .take(10_000)
        .collect();
    assert_eq!(many.len(), 10_000);
    assert!(many.is_sorted_by_key(|o| o.at));
    assert_eq!(many.iter().map(|o| &o.id).collect::<BTreeSet<_>>().len(), 10_000);
}

#[test]
fn a_trigger_that_stands_twice_counts_once() {
    assert_eq!(schedule(&["daily 02:00", "daily 2:00", "every 1h"]).to_string(), "daily 02:00, every 1h");
    assert_eq!(Schedule::new([]), None);
}

/// Fields that mean the same to both crates: one day field free, no wrapping.
fn lines() -> impl Strategy<Value = String> {
    let minute = prop_oneof!["[0-5][0-9]", Just("*/15".to_owned()), Just("0,30".to_owned())];
    let hour = prop_oneof![(0..24u32).prop_map(|h| h.to_string()), Just("1-4".to_owned()), Just("0,2,23".to_owned())];
    let days = prop_oneof![
        Just("* * *".to_owned()),
        (1..32u32).prop_map(|d| format!("{d} * *")),
        (0..8u32).prop_map(|d| format!("* * {d}")),
        (1..13u32).prop_map(|m| format!("* {m} mon-fri")),
    ];
    (minute, hour, days).prop_map(|(minute, hour, days)| format!("{minute} {hour} {days}"))
}

fn zones() -> impl Strategy<Value = TimeZone> {
    let all: Vec<TimeZone> = jiff::tz::db().available().filter_map(|name| TimeZone::get(name.as_str()).ok()).collect();
    assert!(all.len() > 300, "the zone data are missing");
    proptest::sample::select(all)
}

/// A day and a half before the next change of the clock, where there is one: that is where mistakes live.
fn near_a_change(zone: &TimeZone, start: i64) -> i64 {
    let from = Timestamp::from_second(start).unwrap();
    let change = zone.following(from).next().map(|change| change.timestamp().as_second());
    change.filter(|at| *at < 4_000_000_000).map_or(start, |at| at - 36 * 3600 - start % 3600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// croner walks the wall clock, which is UTC to it; jiff maps: what ours lists must be just that, sorted.
    #[test]
    fn wall_clock_lines_match_an_independent_cron(line in lines(), zone in zones(), start in 0i64..2_000_000_000) {
        let start = near_a_change(&zone, start);
        let after = Timestamp::from_second(start).unwrap();
        let end = Timestamp::from_second(start + 40 * 86_400).unwrap();
        let ours: Vec<_> = schedule(&[&line]).due(&zone, after, end).map(|o| (o.at, o.nominal)).collect();

        let oracle: croner::Cron = line.parse().unwrap();
        let wall = |at: i64| chrono::DateTime::from_timestamp(at, 0).unwrap();
        let mut theirs = Vec::new();
        for next in oracle.iter_after(wall(start - 30 * 3600)) {
            let naive: NaiveDateTime = next.naive_utc();
            let second = naive.and_utc().timestamp();
            if second > start + 42 * 86_400 {
                break;
            }
            let civil: DateTime = Offset::UTC.to_datetime(Timestamp::from_second(second).unwrap());
            let at = zone.to_ambiguous_timestamp(civil).compatible().unwrap();
            if at > after && at <= end {
                theirs.push((at, civil.strftime("%Y-%m-%dT%H:%M:%S").to_string()));
            }
        }
        theirs.sort();
        prop_assert_eq!(ours, theirs);
    }

    /// A line of real instants fires at just those minutes whose local reading matches.
    #[test]
    fn instant_lines_match_minute_by_minute(minute in 0u32..60, step in 1u32..7, zone in zones(), day in 0i64..23_000) {
        let line = format!("{minute} */{step} * * *");
        let start = near_a_change(&zone, day * 86_400);
        let after = Timestamp::from_second(start).unwrap();
        let end = Timestamp::from_second(start + 3 * 86_400).unwrap();
        let ours: Vec<_> = schedule(&[&line]).due(&zone, after, end).map(|o| o.at.as_second()).collect();
        let mut expected = Vec::new();
        for second in (start + 1..=start + 3 * 86_400).filter(|second| second % 5 == 0) {
            let local = second + i64::from(zone.to_offset(Timestamp::from_second(second).unwrap()).seconds());
            let (hour, in_hour) = (local.div_euclid(3600).rem_euclid(24) as u32, local.rem_euclid(3600) as u32);
            if hour.is_multiple_of(step) && in_hour == minute * 60 {
                expected.push(second);
            }
        }
        // Old offsets are no multiple of five seconds; the scan above would miss their times.
        let whole = |at: i64| zone.to_offset(Timestamp::from_second(at).unwrap()).seconds() % 5 == 0;
        prop_assume!((0..4).all(|d| whole(start + d * 86_400)));
        prop_assert_eq!(ours, expected);
    }

    #[test]
    fn stepping_by_instants_meets_every_instant_of_the_list(line in lines(), zone in zones(), start in 0i64..2_000_000_000) {
        let schedule = schedule(&[&line, "daily 02:30", "every 7h"]);
        let mut last = Timestamp::from_second(near_a_change(&zone, start)).unwrap();
        let mut listed: Vec<_> = schedule.occurrences(&zone, last).take(60).map(|o| o.at).collect();
        listed.dedup();
        for expected in listed {
            last = schedule.next_after(&zone, last).unwrap().at;
            prop_assert_eq!(last, expected);
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", words in "(daily|every|cron|monthly|mon|@)[ 0-9a-z:*/,.-]{0,24}") {
        let _ = text.parse::<Trigger>();
        let _ = words.parse::<Trigger>().map_err(|error| error.hint());
        let _ = text.parse::<keep::Keep>();
    }
}
