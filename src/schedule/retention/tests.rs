use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const NOW: &str = "2026-06-30T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn healthy(text: &str) -> Point {
    Point { at: at(text), healthy: true }
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// Places of those that stay.
fn kept(points: &[Point], keep: &str, zone: &TimeZone) -> Vec<usize> {
    let reasons = decide(points, &keep.parse().unwrap(), zone, at(NOW));
    (0..points.len()).filter(|number| !reasons[*number].is_empty()).collect()
}

#[test]
fn each_period_is_kept_by_its_newest_point_and_empty_periods_do_not_count() {
    let points = [
        healthy("2026-01-03T02:00:00Z"),
        healthy("2026-01-03T14:00:00Z"),
        // Nothing for months.
        healthy("2026-05-09T02:00:00Z"),
        healthy("2026-05-10T02:00:00Z"),
        healthy("2026-05-10T09:00:00Z"),
    ];
    assert_eq!(kept(&points, "2d", &TimeZone::UTC), [2, 4]);
    assert_eq!(kept(&points, "3d", &TimeZone::UTC), [1, 2, 4]);
    assert_eq!(kept(&points, "2m", &TimeZone::UTC), [1, 4]);
    assert_eq!(kept(&points, "2l", &TimeZone::UTC), [3, 4]);
    assert_eq!(kept(&points, "1y", &TimeZone::UTC), [4]);
    assert_eq!(kept(&points, "9h", &TimeZone::UTC), [0, 1, 2, 3, 4]);
}

#[test]
fn a_day_is_a_day_of_the_zone_and_a_week_is_an_iso_week() {
    let points = [healthy("2026-03-01T22:30:00Z"), healthy("2026-03-01T23:30:00Z")];
    assert_eq!(kept(&points, "2d", &zone("Europe/Berlin")), [0, 1]);
    assert_eq!(kept(&points, "2d", &TimeZone::UTC), [1]);
    // Thursday 2026-01-01 lies in the week that begins on Monday 2025-12-29.
    let points = [healthy("2025-12-28T12:00:00Z"), healthy("2025-12-29T12:00:00Z"), healthy("2026-01-01T12:00:00Z")];
    assert_eq!(kept(&points, "2w", &TimeZone::UTC), [0, 2]);
    assert_eq!(kept(&points, "2y", &TimeZone::UTC), [1, 2]);
}

#[test]
fn the_hour_that_comes_twice_is_two_hours() {
    // Clocks in Berlin went back from 03:00 to 02:00 at 01:00 UTC.
    let points = [healthy("2025-10-26T00:10:00Z"), healthy("2025-10-26T00:50:00Z"), healthy("2025-10-26T01:20:00Z")];
    assert_eq!(kept(&points, "2h", &zone("Europe/Berlin")), [1, 2]);
}

#[test]
fn within_counts_from_the_newest_point_in_calendar_units() {
    let points = [
        healthy("2026-01-31T11:00:00Z"),
        healthy("2026-02-28T11:00:00Z"),
        healthy("2026-02-28T13:00:00Z"),
        healthy("2026-03-31T12:00:00Z"),
    ];
    let keep = |text: &str| kept(&points, text, &TimeZone::UTC);
    // A month before 31 March, 12:00 is 28 February, 12:00.
    assert_eq!(keep("within=1m"), [2, 3]);
    assert_eq!(keep("within=2m1d"), [0, 1, 2, 3]);
    assert_eq!(keep("within_daily=2m1d"), [0, 2, 3]);
    assert_eq!(keep("within=9999y"), [0, 1, 2, 3]);
    assert_eq!(keep("within=1h 1y"), [3]);
}

#[test]
fn a_day_within_is_a_day_of_the_zone_though_clocks_change() {
    // 24 hours before Sunday noon in Berlin is 11:00 on the Saturday before clocks went forward.
    let points = [healthy("2026-03-28T11:00:00Z"), healthy("2026-03-29T10:00:00Z")];
    assert_eq!(kept(&points, "within=1d", &zone("Europe/Berlin")), [0, 1]);
    assert_eq!(kept(&points, "within=1d", &TimeZone::UTC), [0, 1]);
    assert_eq!(kept(&points, "within=22h", &TimeZone::UTC), [1]);
}

#[test]
fn a_point_of_the_future_stays_and_takes_no_place() {
    let points = [healthy("2026-06-28T02:00:00Z"), healthy("2026-06-29T02:00:00Z"), healthy("2041-01-01T00:00:00Z")];
    let reasons = decide(&points, &"1l within=1d".parse().unwrap(), &TimeZone::UTC, at(NOW));
    assert_eq!(reasons[2], [Reason::Future]);
    assert_eq!(reasons[1][0], Reason::Count { rule: 0, nth: 1, of: 1 });
    assert_eq!(reasons[0], [Reason::Within { rule: 0 }]);
    // A clock that is years behind keeps everything.
    let reasons = decide(&points, &"1l".parse().unwrap(), &TimeZone::UTC, at("1970-01-01T00:00:00Z"));
    assert!(reasons.iter().all(|reasons| *reasons == [Reason::Future]));
}

#[test]
fn healthy_points_are_kept_though_newer_ones_are_not_healthy() {
    let sick = |text: &str| Point { at: at(text), healthy: false };
    let points = [
        healthy("2026-06-01T02:00:00Z"),
        healthy("2026-06-02T02:00:00Z"),
        sick("2026-06-03T02:00:00Z"),
        sick("2026-06-04T02:00:00Z"),
    ];
    let reasons = decide(&points, &"2l".parse().unwrap(), &TimeZone::UTC, at(NOW));
    assert_eq!(reasons[1], [Reason::Least]);
    assert!(reasons[0].is_empty());
    assert_eq!(kept(&points, "2l min_points=2", &TimeZone::UTC), [0, 1, 2, 3]);
    assert_eq!(kept(&points, "3l min_points=1", &TimeZone::UTC), [1, 2, 3]);
    assert_eq!(kept(&points, "1l min_points=9", &TimeZone::UTC), [0, 1, 3]);
}

#[test]
fn reasons_say_which_period_of_how_many() {
    let points = [healthy("2026-06-01T02:00:00Z"), healthy("2026-06-02T02:00:00Z")];
    let reasons = decide(&points, &"7d 1m".parse().unwrap(), &TimeZone::UTC, at(NOW));
    assert_eq!(reasons[0], [Reason::Count { rule: 2, nth: 2, of: 7 }]);
    assert_eq!(reasons[1], [Reason::Count { rule: 2, nth: 1, of: 7 }, Reason::Count { rule: 4, nth: 1, of: 1 }]);
}

/// The rule said another way: all points into a map of periods by name, the last of each taken, the largest names first.
fn by_names(points: &[Point], counts: [u32; 6], zone: &TimeZone) -> BTreeSet<usize> {
    let formats = ["", "%Y-%m-%d %H %z", "%Y-%m-%d", "%G-%V", "%Y-%m", "%Y"];
    let mut kept = BTreeSet::new();
    for (format, count) in formats.iter().zip(counts) {
        let mut periods: BTreeMap<String, (Timestamp, usize)> = BTreeMap::new();
        for (number, point) in points.iter().enumerate() {
            let name = match *format {
                "" => format!("{number}"),
                format => point.at.to_zoned(zone.clone()).strftime(format).to_string(),
            };
            let newest = periods.entry(name).or_insert((point.at, number));
            *newest = (*newest).max((point.at, number));
        }
        let mut newest: Vec<_> = periods.into_values().collect();
        newest.sort();
        kept.extend(newest.into_iter().rev().take(count as usize).map(|(_, number)| number));
    }
    kept
}

proptest! {
    #[test]
    fn what_stays_is_what_the_names_of_periods_say(
        hours in prop::collection::vec(0u32..24 * 800, 0..60),
        counts in prop::array::uniform6(0u32..6),
        name in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
    ) {
        prop_assume!(counts.iter().any(|count| *count > 0));
        let begin = at("2024-02-27T05:30:00Z");
        let points: Vec<Point> = hours
            .iter()
            .map(|hours| Point { at: begin + SignedDuration::from_hours(i64::from(*hours)), healthy: false })
            .collect();
        let keep = Keep::with(counts, [None; 6], None).unwrap();
        let zone = zone(name);
        let reasons = decide(&points, &keep, &zone, at(NOW));
        let kept: BTreeSet<usize> = (0..points.len()).filter(|number| !reasons[*number].is_empty()).collect();
        prop_assert_eq!(kept, by_names(&points, counts, &zone));
    }

    #[test]
    fn more_of_anything_never_keeps_less(
        hours in prop::collection::vec(0u32..24 * 400, 1..40),
        counts in prop::array::uniform6(1u32..5),
        rule in 0usize..6,
    ) {
        let begin = at("2025-03-01T00:00:00Z");
        let points: Vec<Point> = hours
            .iter()
            .enumerate()
            .map(|(n, hours)| Point { at: begin + SignedDuration::from_hours(i64::from(*hours)), healthy: n % 3 == 0 })
            .collect();
        let mut more = counts;
        more[rule] += 1;
        let stays = |counts| decide(&points, &Keep::with(counts, [None; 6], None).unwrap(), &zone("Europe/Berlin"), at(NOW));
        for (few, many) in stays(counts).iter().zip(stays(more)) {
            prop_assert!(few.is_empty() || *few == [Reason::Least] || !many.is_empty());
        }
    }
}
