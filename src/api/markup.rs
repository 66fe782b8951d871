//! Small pieces of HTML: escaped text, shapes, spans of time, sizes.
//!
//! Owns the escaping. Refuses to know what it shows.

use std::fmt::{self, Display, Write};

use jiff::{SignedDuration, Timestamp};

use crate::units::ByteCount;

/// Text as HTML shows it, in an element or a quoted attribute.
pub struct Esc<'a>(&'a str);

impl Display for Esc<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters and marks that turn text around have no business on a status page.
                c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                    f.write_char('\u{fffd}')?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

pub fn esc(text: &str) -> Esc<'_> {
    Esc(text)
}

/// The shape that stands beside each word: a disc with a tick, a triangle, a square with a cross, a ring.
pub fn shape(level: &str) -> &'static str {
    match level {
        "good" => {
            "<svg class=\"shape\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><circle cx=\"8\" cy=\"8\" r=\"8\"/>\
             <path d=\"M4.3 8.3l2.5 2.6 5-5.4\"/></svg>"
        }
        "attention" => {
            "<svg class=\"shape\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><polygon points=\"8,0.6 15.8,15 0.2,15\"/>\
             <path d=\"M8 5.6v3.6M8 12.2v.01\"/></svg>"
        }
        "bad" => {
            "<svg class=\"shape\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><rect x=\"0.5\" y=\"0.5\" width=\"15\" \
             height=\"15\" rx=\"2\"/><path d=\"M5 5l6 6M11 5l-6 6\"/></svg>"
        }
        _ => {
            "<svg class=\"shape ring\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><circle cx=\"8\" cy=\"8\" r=\"6.6\"/>\
             <path d=\"M8 4.5V8l2.4 1.6\"/></svg>"
        }
    }
}

pub fn badge(level: &str, word: &str) -> String {
    format!("<span class=\"badge {level}\">{}{}</span>", shape(level), esc(word))
}

/// `4 m`, `3 h 12 m`, `12 d`: two units at most, and the second only where it says something.
pub fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}\u{a0}s"),
        (0, 0, minutes) => format!("{minutes}\u{a0}min"),
        (0, hours, 0) => format!("{hours}\u{a0}h"),
        (0, hours, minutes) => format!("{hours}\u{a0}h {minutes}\u{a0}min"),
        (1 | 2, hours, _) if hours > 0 => format!("{days}\u{a0}d {hours}\u{a0}h"),
        (days, _, _) => format!("{days}\u{a0}d"),
    }
}

pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let past = now.duration_since(at);
    let text = if past.is_negative() { format!("in {}", span(-past)) } else { format!("{} ago", span(past)) };
    time(at, &text)
}

pub fn time(at: Timestamp, text: &str) -> String {
    let exact = at.strftime("%Y-%m-%d %H:%M:%S UTC");
    format!("<time datetime=\"{at}\" title=\"{exact}\">{}</time>", esc(text))
}

/// A size whose unit stays beside it.
pub fn size(bytes: u64) -> String {
    ByteCount(bytes).to_string().replace(' ', "\u{a0}")
}

/// Digits in threes, with a thin space that does not break.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

pub fn points(n: u64) -> String {
    if n == 1 { "1 point".to_owned() } else { format!("{} points", grouped(n)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_a_name_stays_text() {
        let shown = esc("<script>alert('1')</script> & \"x\"\u{202e}\u{7}").to_string();
        assert_eq!(shown, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;\u{fffd}\u{fffd}");
    }

    #[test]
    fn spans_are_read_at_a_glance() {
        let shown = [0, 59, 60, 3600, 3660, 86_400, 90_000, 86_400 * 12 + 5]
            .map(|s| span(SignedDuration::from_secs(s)).replace('\u{a0}', " "));
        assert_eq!(shown, ["0 s", "59 s", "1 min", "1 h", "1 h 1 min", "1 d", "1 d 1 h", "12 d"]);
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
