//! The recovery sheet: a key on paper, with a check in every line and the repository's address.
//!
//! Owns its text. A mistyped line is named, so that a person at 3 a.m. looks at one line and not at twenty.

use zeroize::Zeroizing;

use crate::names::{hex, unhex};
use crate::seal::key::Key;
use crate::seal::keyfile::KeyFileError;

/// Bytes of the key in one line of the sheet.
const LINE_BYTES: usize = 16;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SheetError {
    #[error("line {0} of the sheet does not fit its check: compare it with the paper")]
    Line(usize),
    #[error("line {0} of the sheet is missing")]
    Missing(usize),
    #[error("this is no recovery sheet and no key file")]
    NotASheet,
    #[error(transparent)]
    Key(#[from] KeyFileError),
}

/// The sheet for `key`; `url` is where the repository lies.
pub fn print(key: &Key, url: &str) -> Zeroizing<String> {
    let text = key.to_text();
    let mut sheet = Zeroizing::new(format!(
        "LIFEBOAT RECOVERY SHEET 1\n\
         repository  {}\n\
         address     {url}\n\
         role        {}\n\n\
         Keep this page where the backups are not. Whoever holds it can do what the role can.\n\
         To restore on a bare machine: put the lifeboat binary there, type or scan the numbered lines below into a\n\
         file, and run\n\n    \
         lifeboat restore latest --repo {url} --key - --to DIR < FILE\n\n",
        key.repository(),
        key.role().name(),
    ));
    let lines = text.as_bytes().chunks(LINE_BYTES).count();
    for (number, bytes) in text.as_bytes().chunks(LINE_BYTES).enumerate() {
        let number = number + 1;
        sheet.push_str(&format!("{number:>3}/{lines}"));
        for group in bytes.chunks(2) {
            sheet.push(' ');
            sheet.push_str(&Zeroizing::new(hex(group)));
        }
        sheet.push_str(&format!("  #{}\n", check(number, lines, bytes)));
    }
    sheet
}

fn check(number: usize, lines: usize, bytes: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("lifeboat v1 sheet line");
    hasher.update(&(number as u32).to_le_bytes()).update(&(lines as u32).to_le_bytes()).update(bytes);
    hex(&hasher.finalize().as_bytes()[..3])
}

/// Reads a key from a sheet, or from a key file. Whatever is no numbered line is skipped.
pub fn read(text: &str) -> Result<Key, SheetError> {
    if text.lines().any(|line| line.starts_with("lifeboat-key ")) {
        return Ok(Key::from_text(text)?);
    }
    let mut found: Vec<Option<Zeroizing<Vec<u8>>>> = Vec::new();
    for line in text.lines() {
        let Some((position, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((number, lines)) = position.split_once('/') else { continue };
        let (Ok(number), Ok(lines)) = (number.parse::<usize>(), lines.parse::<usize>()) else { continue };
        if number == 0 || number > lines || lines > 256 {
            continue;
        }
        let wrong = SheetError::Line(number);
        let Some((digits, sum)) = rest.split_once('#') else { return Err(wrong) };
        let digits: Zeroizing<String> = Zeroizing::new(digits.to_ascii_lowercase().split_whitespace().collect());
        let Some(bytes) = unhex(&digits).map(Zeroizing::new) else { return Err(wrong) };
        if check(number, lines, &bytes) != sum.trim().to_ascii_lowercase() {
            return Err(wrong);
        }
        found.resize_with(found.len().max(lines), || None);
        found[number - 1] = Some(bytes);
    }
    if found.is_empty() {
        return Err(SheetError::NotASheet);
    }
    let mut text = Zeroizing::new(Vec::new());
    for (at, bytes) in found.iter().enumerate() {
        text.extend_from_slice(bytes.as_ref().ok_or(SheetError::Missing(at + 1))?);
    }
    Ok(Key::from_text(std::str::from_utf8(&text).map_err(|_| SheetError::NotASheet)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::RepositoryId;
    use crate::seal::key::{AdminKey, Secret};

    fn key() -> Key {
        Key::Admin(AdminKey::from_root(RepositoryId([7; 16]), Secret::new([1; 32])))
    }

    #[test]
    fn a_typed_sheet_opens_even_in_capitals_and_without_its_head() {
        let sheet = print(&key(), "/srv/backup");
        let typed: String =
            sheet.lines().filter(|l| l.contains('#')).map(|l| l.to_uppercase().replace("  ", " ") + "\n").collect();
        assert_eq!(*read(&typed).unwrap().to_text(), *key().to_text());
        assert_eq!(*read(&sheet).unwrap().to_text(), *key().to_text());
    }

    #[test]
    fn a_mistyped_or_missing_line_is_named() {
        let sheet = print(&key(), "/srv/backup");
        let numbered: Vec<&str> = sheet.lines().filter(|l| l.contains('#')).collect();
        let mut lines = numbered.clone();
        lines.remove(2);
        assert_eq!(read(&lines.join("\n")).err(), Some(SheetError::Missing(3)));
        let bent = sheet.replace(numbered[4], &numbered[4].replacen(" 6", " 7", 1));
        assert_ne!(*bent, **sheet);
        assert_eq!(read(&bent).err(), Some(SheetError::Line(5)));
        assert_eq!(read("hello").err(), Some(SheetError::NotASheet));
    }

    #[test]
    fn a_key_file_is_read_as_well() {
        assert_eq!(*read(&key().to_text()).unwrap().to_text(), *key().to_text());
    }
}
