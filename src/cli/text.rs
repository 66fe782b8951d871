//! Tables, times and numbers as people read them.
//!
//! Owns their form on a terminal and in JSON. Refuses to know what they are about.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::names::escape;
use crate::pack::{entry, record};
use crate::units::ByteCount;

const GAP: usize = 2;

/// Rows under headings. Numbers stand right; the last column gives way when the terminal is narrow.
pub struct Table {
    headings: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A heading that begins with `>` stands right, with its column.
    pub fn new(headings: &[&'static str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let headings = headings.iter().map(|heading| heading.trim_start_matches('>')).collect();
        Self { headings, right, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Takes away the columns in which no row has a word.
    pub fn drop_empty_columns(&mut self) {
        let mut column = 0;
        while column < self.headings.len() {
            if self.rows.iter().all(|row| row[column].is_empty()) {
                self.remove(column);
            } else {
                column += 1;
            }
        }
    }

    /// Takes away columns, in this order, until the last one has at least `room` of the terminal's `width`.
    pub fn fit(&mut self, width: Option<usize>, room: usize, droppable: &[&str]) {
        let Some(width) = width else { return };
        for name in droppable {
            let columns = self.headings.len();
            let before: usize = self.widths().iter().take(columns.saturating_sub(1)).map(|width| width + GAP).sum();
            if before + room <= width {
                return;
            }
            if let Some(column) = self.headings.iter().position(|heading| heading == name) {
                self.remove(column);
            }
        }
    }

    pub fn drop_column(&mut self, name: &str) {
        if let Some(column) = self.headings.iter().position(|heading| *heading == name) {
            self.remove(column);
        }
    }

    /// Whether a column says the same in every row.
    pub fn is_constant(&self, name: &str) -> bool {
        let column = self.headings.iter().position(|heading| *heading == name);
        column.is_some_and(|column| self.rows.windows(2).all(|pair| pair[0][column] == pair[1][column]))
    }

    fn remove(&mut self, column: usize) {
        self.headings.remove(column);
        self.right.remove(column);
        self.rows.iter_mut().for_each(|row| drop(row.remove(column)));
    }

    fn widths(&self) -> Vec<usize> {
        let of_rows = |at: usize| self.rows.iter().map(|row| row[at].width()).max().unwrap_or(0);
        self.headings.iter().enumerate().map(|(at, heading)| heading.width().max(of_rows(at))).collect()
    }

    /// The lines. With a width, none is longer, as far as cutting the last column can help.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let headings: Vec<String> = self.headings.iter().map(|heading| heading.to_string()).collect();
        let all = || std::iter::once(&headings).chain(&self.rows);
        let columns = self.headings.len();
        let widths = self.widths();
        let before: usize = widths.iter().take(columns.saturating_sub(1)).map(|width| width + GAP).sum();
        let last = width.map(|width| width.saturating_sub(before).max(8));
        all()
            .map(|row| {
                let mut line = String::new();
                for (at, cell) in row.iter().enumerate() {
                    let padding = " ".repeat(widths[at].saturating_sub(cell.width()));
                    if self.right[at] {
                        line.push_str(&padding);
                    }
                    match last {
                        Some(last) if at + 1 == columns => line.push_str(&cut(cell, last)),
                        _ => line.push_str(cell),
                    }
                    if at + 1 < columns {
                        if !self.right[at] {
                            line.push_str(&padding);
                        }
                        line.push_str(&" ".repeat(GAP));
                    }
                }
                line.trim_end().to_owned()
            })
            .collect()
    }
}

/// `text` in at most `width` columns; an ellipsis stands for what is missing.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// The end of `text` in at most `width` columns: of a path, the name says most.
pub fn cut_front(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 1;
    let mut start = text.len();
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        start = at;
    }
    format!("…{}", &text[start..])
}

/// `12345678` as `12 345 678`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// What is neither file nor directory, as the end of a list; nothing if there is none.
pub fn others(number: u64) -> String {
    if number == 0 { String::new() } else { format!(", {}", plural(number, "other", "others")) }
}

/// Seconds as `4.2 s`, `3 m 05 s`, `2 h 07 m`, `3 d 04 h`.
pub fn duration(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..3600 => format!("{} m {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} m", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// Bytes a second over a span, as `12.3 MiB/s`.
pub fn rate(bytes: u64, seconds: f64) -> String {
    format!("{}/s", ByteCount((bytes as f64 / seconds.max(0.001)) as u64))
}

/// An instant from a record; a time beyond what calendars know stands at their end.
pub fn instant(secs: i64, nanos: u32) -> Timestamp {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    Timestamp::new(secs, nanos).unwrap_or(if secs < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

pub fn time_of(time: record::Time) -> Timestamp {
    instant(time.secs, time.nanos)
}

pub fn time_of_entry(time: entry::Timestamp) -> Timestamp {
    instant(time.secs, time.nanos)
}

/// On this machine's clock, to the second.
pub fn local(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A time in the text of an answer, on this machine's clock.
pub fn local_of_text(value: &Value) -> String {
    value.as_str().and_then(|text| text.parse().ok()).map_or_else(String::new, local)
}

/// Raw bytes in JSON: as they are if they are UTF-8, else escaped.
pub fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!(escape(bytes)),
    }
}

/// A path in JSON, likewise.
pub fn path_json(path: &Path) -> Value {
    bytes_json(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stands_in_columns_and_gives_way_at_its_end() {
        let mut table = Table::new(&["Name", ">Size", "Empty", "Paths"]);
        table.row(vec!["a".into(), "10".into(), String::new(), "/srv/数据/long/path".into()]);
        table.row(vec!["bcdef".into(), "9".into(), String::new(), "/x".into()]);
        table.drop_empty_columns();
        let lines = table.lines(Some(24));
        assert_eq!(lines, ["Name   Size  Paths", "a        10  /srv/数据/…", "bcdef     9  /x"]);
        assert!(table.lines(None)[1].ends_with("/long/path"));
    }

    #[test]
    fn a_narrow_terminal_costs_the_least_needed_columns_first() {
        let mut table = Table::new(&["ID", "Host", "Outcome", "Paths"]);
        table.row(vec!["ab12".into(), "server-one".into(), "succeeded".into(), "/srv/data/of/the/house".into()]);
        table.fit(Some(60), 20, &["Host"]);
        assert_eq!(table.lines(Some(60))[0], "ID    Host        Outcome    Paths");
        table.fit(Some(40), 20, &["Host"]);
        assert_eq!(table.lines(Some(40)), ["ID    Outcome    Paths", "ab12  succeeded  /srv/data/of/the/house"]);
    }

    #[test]
    fn numbers_and_spans_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!(
            [0.04, 59.9, 59.96, 185.0, 7620.0, 90_000.0].map(duration),
            ["0.0 s", "59.9 s", "1 m 00 s", "3 m 05 s", "2 h 07 m", "1 d 01 h"]
        );
    }

    #[test]
    fn others_are_counted_as_people_count() {
        assert_eq!([0, 1, 1002].map(others), ["", ", 1 other", ", 1 002 others"]);
    }

    #[test]
    fn cutting_keeps_the_width() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut_front("/a/b/name", 5), "…name");
        assert_eq!(cut("数数数", 4), "数…");
    }
}
