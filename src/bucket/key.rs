//! How a key of any bytes stands as a path, and comes back from it (`pack/FORMAT.md`, section 8).
//!
//! Owns the one mapping that clients, snapshots and restores share. A path's parts are the key's, divided at slashes, each escaped for itself, so a prefix's path
//! is the prefix of the paths. Refuses nothing: every text is a key, and every path is some key's.
//!
//! | in the key | in the path |
//! |---|---|
//! | an empty part (of `a//b`, `/a`, `a/`, or the empty key) | `%=` |
//! | the parts `.` and `..` | `%2E` and `%2E%2E` |
//! | a control character | `%` and two upper-case hex digits |
//! | a `%` where what follows would make it one of these | `%25` |
//! | all else | itself |
//!
//! A restore to a directory needs two more: `a%=` is the object `a` beside the directory `a` (of `a/b`), and `%=%=` that of an empty part; a part that ends in `%~` goes on in the
//! next one.

use std::borrow::Cow;

/// What stands for an empty part, and after a name that a directory has as well.
pub const BARE: &str = "%=";
/// What ends a piece of a part that is too long for a file's name.
pub const GOES_ON: &str = "%~";

/// The path of a key: no empty part, no `.` or `..`, no control character.
pub fn to_path(key: &str) -> String {
    let mut path = String::with_capacity(key.len() + 8);
    for (at, part) in key.split('/').enumerate() {
        if at > 0 {
            path.push('/');
        }
        put_part(&mut path, part);
    }
    path
}

fn put_part(path: &mut String, part: &str) {
    match part {
        "" => return path.push_str(BARE),
        "." => return path.push_str("%2E"),
        ".." => return path.push_str("%2E%2E"),
        _ => {}
    }
    for (at, c) in part.char_indices() {
        match c {
            '%' if is_escape(&part.as_bytes()[at..]) => path.push_str("%25"),
            c if c.is_ascii_control() => path.push_str(&format!("%{:02X}", u32::from(c))),
            c => path.push(c),
        }
    }
}

/// Whether a `%` at the start of `rest`, the rest of a part, would be read as more than itself.
fn is_escape(rest: &[u8]) -> bool {
    escaped(rest).is_some() || rest == BARE.as_bytes() || rest == GOES_ON.as_bytes()
}

/// How many bytes at the start of `rest`, the rest of a part of a path, stand for one character or none; 0 at its end.
pub fn token_bytes(rest: &str) -> usize {
    match escaped(rest.as_bytes()) {
        Some(_) => 3,
        None if rest == BARE || rest == GOES_ON => 2,
        None => rest.chars().next().map_or(0, char::len_utf8),
    }
}

/// The byte that the first three of `rest` stand for.
fn escaped(rest: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    match rest {
        [b'%', high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?).filter(|byte| is_special(*byte)),
        _ => None,
    }
}

fn is_special(byte: u8) -> bool {
    byte.is_ascii_control() || byte == b'.' || byte == b'%'
}

/// The key whose path this is.
pub fn from_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut key = String::with_capacity(path.len());
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        let (part, goes_on) = match part.strip_suffix(GOES_ON) {
            Some(piece) if parts.peek().is_some() => (piece, true),
            _ => (part.trim_end_matches(BARE), false),
        };
        put_plain(&mut key, part);
        if !goes_on && parts.peek().is_some() {
            key.push('/');
        }
    }
    Cow::Owned(key)
}

fn put_plain(key: &mut String, part: &str) {
    let mut rest = part;
    while let Some(at) = rest.find('%') {
        key.push_str(&rest[..at]);
        rest = &rest[at..];
        match escaped(rest.as_bytes()) {
            Some(byte) => {
                key.push(char::from(byte));
                rest = &rest[3..];
            }
            None => {
                key.push('%');
                rest = &rest[1..];
            }
        }
    }
    key.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TreePath;
    use proptest::prelude::*;

    #[test]
    fn ordinary_keys_are_their_own_paths() {
        for key in
            ["a", "a/b", "photos/2020-01-01 (1).jpg", "dt=2020%2F01/x", "100%", "50%20off", "größe/日本", "a.b", "..."]
        {
            assert_eq!(to_path(key), key);
            assert_eq!(from_path(key), key);
        }
    }

    #[test]
    fn keys_that_are_no_paths_are_written_as_the_format_says() {
        for (key, path) in [
            ("", "%="),
            ("/", "%=/%="),
            ("a/", "a/%="),
            ("/a", "%=/a"),
            ("a//b", "a/%=/b"),
            ("..", "%2E%2E"),
            ("./a/../b", "%2E/a/%2E%2E/b"),
            ("a\nb\x7f", "a%0Ab%7F"),
            ("100%25", "100%2525"),
            ("a%=", "a%25="),
            ("a%~/b", "a%25~/b"),
            ("%=x", "%=x"),
            ("%\n", "%%0A"),
        ] {
            assert_eq!(to_path(key), path, "{key:?}");
            assert_eq!(from_path(path), key, "{path:?}");
        }
        assert_eq!(from_path("a%="), "a", "the object beside a directory of its name");
        assert_eq!(from_path("a/%=%="), "a/", "beside a directory of an empty name");
        assert_eq!(from_path("ab%~/cd/e"), "abcd/e", "a long part in two pieces");
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_a_path_that_a_tree_and_a_client_take(
            key in "[ab/%.=~2E50A\\n\u{7f}é-]{0,24}", any in ".{0,12}",
        ) {
            for key in [key, any] {
                let path = to_path(&key);
                prop_assert_eq!(from_path(&path).into_owned(), key.clone());
                prop_assert!(TreePath::from_bytes(path.clone().into_bytes()).is_ok());
                let taken = object_store::path::Path::parse(&path).unwrap();
                prop_assert_eq!(taken.as_ref(), path.as_str());
                // A prefix's path is the prefix of the path.
                prop_assert_eq!(to_path(&format!("p/{key}")), format!("p/{path}"));
            }
        }
    }
}
