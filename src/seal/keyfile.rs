//! Key files: the text in which a key leaves the machine (`pack/FORMAT.md`, section 9).
//!
//! Owns that text. Refuses files: whoever writes one to disk sees to its mode.

use zeroize::Zeroizing;

use crate::names::{GroupId, RepositoryId, hex, unhex};
use crate::seal::key::{AdminKey, Key, ReaderKey, Role, Secret, WriterKey};
use crate::seal::sign::PublicKey;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    #[error("this is no Lifeboat key file: its first line should read `lifeboat-key 1 ROLE`")]
    NotAKeyFile,
    #[error("the key file has version {0}, newer than this build knows; use a newer Lifeboat")]
    Version(String),
    #[error("the key file is damaged: its check line does not fit; take another copy or the recovery sheet")]
    Check,
    #[error("the key file lacks a good `{0}` line")]
    Line(&'static str),
}

impl Key {
    /// The key as a key file. The text wipes itself.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(1024));
        text.push_str(&format!("lifeboat-key 1 {}\n", self.role().name()));
        let mut line = |name: &str, value: &[u8]| {
            let value = Zeroizing::new(hex(value));
            text.push_str(name);
            text.push(' ');
            text.push_str(&value);
            text.push('\n');
        };
        line("repository", &self.repository().0);
        match self {
            Key::Admin(key) => line("root", key.root().expose()),
            Key::Reader(key) => {
                line("repository-key", key.repository_key.expose());
                line("recipient-seed", key.recipient_seed.expose());
                line("group-root", key.group_root.expose());
                line("admin", &key.admin.0);
            }
            Key::Writer(key) => {
                line("repository-key", key.repository_key.expose());
                line("group", &key.group.0);
                line("group-secret", key.group_secret.expose());
                line("seed", key.seed.expose());
                line("admin", &key.admin.0);
                line("recipient", &key.recipient_hash);
            }
        }
        let check = hex(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
        text.push_str("check ");
        text.push_str(&check);
        text.push('\n');
        text
    }

    /// Reads a key file. Lines that begin with `#` and empty lines are comments, outside the check.
    pub fn from_text(text: &str) -> Result<Key, KeyFileError> {
        let mut kept = Zeroizing::new(String::with_capacity(text.len()));
        let mut check = None;
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix("check ") {
                Some(value) => check = Some(value),
                None => {
                    kept.push_str(line);
                    kept.push('\n');
                }
            }
        }
        let role = match kept.lines().next().map(|first| first.split(' ').collect::<Vec<_>>()).as_deref() {
            Some(["lifeboat-key", "1", role]) => {
                let all = [Role::Admin, Role::Reader, Role::Writer];
                all.into_iter().find(|r| r.name() == *role).ok_or(KeyFileError::NotAKeyFile)?
            }
            Some(["lifeboat-key", version, _]) => return Err(KeyFileError::Version((*version).to_owned())),
            _ => return Err(KeyFileError::NotAKeyFile),
        };
        if check != Some(hex(&blake3::hash(kept.as_bytes()).as_bytes()[..8]).as_str()) {
            return Err(KeyFileError::Check);
        }
        let lines = Lines(&kept);
        let repository = RepositoryId(lines.field("repository")?);
        Ok(match role {
            Role::Admin => Key::Admin(AdminKey::from_root(repository, lines.secret("root")?)),
            Role::Reader => Key::Reader(ReaderKey {
                repository,
                repository_key: lines.secret("repository-key")?,
                recipient_seed: lines.secret("recipient-seed")?,
                group_root: lines.secret("group-root")?,
                admin: PublicKey(lines.field("admin")?),
            }),
            Role::Writer => Key::Writer(WriterKey {
                repository,
                repository_key: lines.secret("repository-key")?,
                group: GroupId(lines.field("group")?),
                group_secret: lines.secret("group-secret")?,
                seed: lines.secret("seed")?,
                admin: PublicKey(lines.field("admin")?),
                recipient_hash: lines.field("recipient")?,
            }),
        })
    }
}

struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn field<const N: usize>(&self, name: &'static str) -> Result<[u8; N], KeyFileError> {
        let mut values = self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = values.next().and_then(|value| unhex(value).map(Zeroizing::new));
        match (value, values.next()) {
            (Some(value), None) => value.as_slice().try_into().map_err(|_| KeyFileError::Line(name)),
            _ => Err(KeyFileError::Line(name)),
        }
    }

    fn secret(&self, name: &'static str) -> Result<Secret, KeyFileError> {
        self.field(name).map(Secret::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> [Key; 3] {
        let admin = || AdminKey::from_root(RepositoryId([7; 16]), Secret::new([1; 32]));
        [Key::Reader(admin().reader()), Key::Writer(admin().own_writer()), Key::Admin(admin())]
    }

    #[test]
    fn a_key_file_comes_back_as_it_was() {
        for key in keys() {
            let text = key.to_text();
            let again = Key::from_text(&text).unwrap();
            assert_eq!(*again.to_text(), *text);
            assert_eq!(again.role(), key.role());
            assert_eq!(again.admin_public(), key.admin_public());
            assert!(again.repository_key().equals(&key.repository_key()));
            let commented = format!("# kept in the safe\n\n{}", *text);
            assert!(Key::from_text(&commented).is_ok());
        }
    }

    #[test]
    fn a_mistyped_digit_is_found() {
        for key in keys() {
            let text = key.to_text();
            for (at, _) in text.char_indices().filter(|(_, c)| c.is_ascii_hexdigit()) {
                let mut bent = text.as_bytes().to_vec();
                bent[at] = if bent[at] == b'0' { b'1' } else { b'0' };
                assert!(Key::from_text(std::str::from_utf8(&bent).unwrap()).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_newer_key_file_is_named_as_such() {
        let error = Key::from_text("lifeboat-key 2 admin\n").err();
        assert_eq!(error, Some(KeyFileError::Version("2".into())));
    }

    proptest! {
        #[test]
        fn no_text_panics_the_reader(text in ".{0,300}") {
            let _ = Key::from_text(&text);
        }
    }
}
