//! The change of one file, line by line.
//!
//! Owns what counts as text, and unified hunks as `diff -u` writes them and `patch` reads them. Refuses files that memory should not hold, and says where
//! those differ first.

use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline, group_diff_ops};

use super::content::{Bytes, Side, first_difference};
use crate::repository;

/// Longer files are compared byte by byte only: two of them and their lines are to fit into memory beside all else.
pub const TEXT_BYTES_MAX: u64 = 8 << 20;
const CONTEXT: usize = 3;
/// After this the comparison settles for more lines than are needed; what it says stays true.
const PATIENCE: Duration = Duration::from_secs(10);

/// How two files differ.
#[derive(Debug, PartialEq, Eq)]
pub enum Difference {
    None,
    /// Lines, each with `-`, `+` or a blank before it, and the heads of hunks; whole, with their ends.
    Lines(Vec<Line>),
    /// At least one is no text; the first byte that differs.
    Binary {
        at: u64,
    },
    /// Too long for lines; the first byte that differs.
    Long {
        at: u64,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// `@`: the head of a hunk; `\`: a remark; else as in a unified diff.
    pub sign: char,
    /// Without the end of the line.
    pub text: Vec<u8>,
}

/// Compares two files of these sizes.
pub fn difference(old: (Side<'_>, u64), new: (Side<'_>, u64)) -> repository::Result<Difference> {
    if old.1.max(new.1) > TEXT_BYTES_MAX {
        return Ok(first_difference(old.0, new.0)?.map_or(Difference::None, |at| Difference::Long { at }));
    }
    let (old, new) = (whole(old)?, whole(new)?);
    let Some(at) = (0..old.len().max(new.len())).find(|at| old.get(*at) != new.get(*at)) else {
        return Ok(Difference::None);
    };
    if old.contains(&0) || new.contains(&0) {
        return Ok(Difference::Binary { at: at as u64 });
    }
    Ok(Difference::Lines(unified(&old, &new)))
}

fn whole((side, size): (Side<'_>, u64)) -> repository::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let len = Bytes::new(side.reader, side.content).read(&mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// The lines of a file; the last may lack its end.
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// `start,len` of a hunk's head: lines count from one, and an empty range stands behind the line before it.
fn range(start: usize, len: usize) -> String {
    match len {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        _ => format!("{},{len}", start + 1),
    }
}

fn unified(old: &[u8], new: &[u8]) -> Vec<Line> {
    let (old, new) = (lines(old), lines(new));
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, Some(Instant::now() + PATIENCE));
    let mut out = Vec::new();
    for hunk in group_diff_ops(ops, CONTEXT) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        let (olds, news) =
            (first.old_range().start..last.old_range().end, first.new_range().start..last.new_range().end);
        let head = format!("@@ -{} +{} @@", range(olds.start, olds.len()), range(news.start, news.len()));
        out.push(Line { sign: '@', text: head.into_bytes() });
        for op in &hunk {
            if let DiffOp::Equal { .. } = op {
                put(&mut out, ' ', &old[op.old_range()]);
            } else {
                put(&mut out, '-', &old[op.old_range()]);
                put(&mut out, '+', &new[op.new_range()]);
            }
        }
    }
    out
}

fn put(out: &mut Vec<Line>, sign: char, lines: &[&[u8]]) {
    for line in lines {
        let bare = line.strip_suffix(b"\n");
        out.push(Line { sign, text: bare.unwrap_or(line).to_vec() });
        if bare.is_none() {
            out.push(Line { sign: '\\', text: b" No newline at end of file".to_vec() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(lines: &[Line]) -> String {
        lines.iter().fold(String::new(), |text, line| {
            let sign = if line.sign == '@' { String::new() } else { line.sign.to_string() };
            text + &sign + &String::from_utf8_lossy(&line.text) + "\n"
        })
    }

    #[test]
    fn a_changed_line_stands_among_three_that_are_the_same() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let new = "a\nb\nc\nd\nE\nf\ng\nh";
        let shown = text(&unified(old.as_bytes(), new.as_bytes()));
        assert_eq!(shown, "@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n-h\n+h\n\\ No newline at end of file\n");
        assert_eq!(text(&unified(b"", b"x\n")), "@@ -0,0 +1 @@\n+x\n");
    }

    /// Does what a unified diff says, as `patch` would.
    fn patched(old: &[u8], diff: &[Line]) -> Vec<u8> {
        let old = lines(old);
        let (mut at, mut out) = (0, Vec::new());
        for (number, line) in diff.iter().enumerate() {
            let bare = diff.get(number + 1).is_some_and(|next| next.sign == '\\');
            match line.sign {
                '@' => {
                    let head = String::from_utf8(line.text.clone()).unwrap();
                    let olds = head.split(' ').nth(1).unwrap().trim_start_matches('-').to_owned();
                    let (start, len) = olds.split_once(',').unwrap_or((&olds, "1"));
                    let start: usize = start.parse().unwrap();
                    let start = if len == "0" { start } else { start - 1 };
                    while at < start {
                        out.extend_from_slice(old[at]);
                        at += 1;
                    }
                }
                ' ' => {
                    out.extend_from_slice(old[at]);
                    at += 1;
                }
                '-' => at += 1,
                '+' => {
                    out.extend_from_slice(&line.text);
                    out.extend_from_slice(if bare { b"" } else { b"\n" });
                }
                _ => {}
            }
        }
        old[at..].iter().for_each(|line| out.extend_from_slice(line));
        out
    }

    proptest! {
        #[test]
        fn whoever_follows_the_hunks_arrives_at_the_new_file(old in "[ab\n]{0,60}", new in "[ab\n]{0,60}") {
            prop_assert_eq!(patched(old.as_bytes(), &unified(old.as_bytes(), new.as_bytes())), new.as_bytes());
        }
    }
}
