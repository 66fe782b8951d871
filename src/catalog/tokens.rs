//! Tokens: who may ask, and for how much.
//!
//! Owns their creation and the check of one that was shown. Refuses to keep any: only hashes are stored.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Catalog, CatalogError, Result, Role, millis, optional_time, time};
use crate::names::hex;

const PREFIX: &str = "lb_";
const SECRET_BYTES: usize = 32;
const NAME_CHARS_MAX: usize = 64;

/// A token as its owner sees it, once. It wipes itself, and has no `Debug`.
pub struct TokenSecret(Zeroizing<String>);

impl TokenSecret {
    /// `lb_` and 64 hex digits.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// 16 hex digits; says nothing of the secret.
    pub id: String,
    pub name: String,
    pub role: Role,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    pub revoked: Option<Timestamp>,
}

impl Token {
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}

const COLUMNS: &str = "id, name, role, created_ms, expires_ms, revoked_ms";

fn token_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        id: row.get("id")?,
        name: row.get("name")?,
        role: row.get("role")?,
        created: time(row, "created_ms")?,
        expires: optional_time(row, "expires_ms")?,
        revoked: optional_time(row, "revoked_ms")?,
    })
}

impl Catalog {
    /// Creates a token. Its secret is in the answer and nowhere else.
    pub fn token_create(
        &self,
        name: &str,
        role: Role,
        expires: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(Token, TokenSecret)> {
        let printable = !name.is_empty() && name.trim() == name && !name.chars().any(char::is_control);
        if !printable || name.chars().count() > NAME_CHARS_MAX {
            return Err(CatalogError::TokenName { name: name.to_owned() });
        }
        let mut chance = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut *chance).map_err(CatalogError::Random)?;
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(CatalogError::Random)?;
        let mut secret = Zeroizing::new(String::with_capacity(PREFIX.len() + SECRET_BYTES * 2));
        secret.push_str(PREFIX);
        secret.push_str(&Zeroizing::new(hex(&*chance)));

        let token = Token { id: hex(&id), name: name.to_owned(), role, created: now, expires, revoked: None };
        let inserted = self.lock().connection.execute(
            "INSERT INTO token (id, name, role, hash, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![token.id, name, role, hash(&secret).as_slice(), millis(now), expires.map(millis)],
        );
        match inserted {
            Ok(_) => Ok((token, TokenSecret(secret))),
            Err(cause) if cause.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                Err(CatalogError::TokenExists { name: name.to_owned() })
            }
            Err(cause) => Err(self.failed("store a token")(cause)),
        }
    }

    /// All tokens, oldest first; those that are revoked or out of date too.
    pub fn token_list(&self) -> Result<Vec<Token>> {
        let inner = self.lock();
        let mut statement = inner
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM token ORDER BY created_ms, name"))
            .map_err(self.failed("list tokens"))?;
        let rows = statement.query_map([], token_of).map_err(self.failed("list tokens"))?;
        rows.collect::<rusqlite::Result<_>>().map_err(self.failed("list tokens"))
    }

    /// Revokes the token of that name or id. The answer is whether there was a good one to revoke.
    pub fn token_revoke(&self, name_or_id: &str, now: Timestamp) -> Result<bool> {
        self.lock()
            .connection
            .execute(
                "UPDATE token SET revoked_ms = ?2 WHERE (name = ?1 OR id = ?1) AND revoked_ms IS NULL",
                params![name_or_id, millis(now)],
            )
            .map(|changed| changed > 0)
            .map_err(self.failed("revoke a token"))
    }

    /// The good token whose secret this is, if there is one.
    pub fn token_check(&self, shown: &str, now: Timestamp) -> Result<Option<Token>> {
        // The length and alphabet are public; whatever else was sent is not worth a look into the database.
        let well_formed = shown
            .strip_prefix(PREFIX)
            .is_some_and(|rest| rest.len() == SECRET_BYTES * 2 && rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if !well_formed {
            return Ok(None);
        }
        let wanted = hash(shown);
        // The index finds the row by its hash, so timing could tell of hashes only; the comparison is for certainty.
        let found = self
            .lock()
            .connection
            .query_row(&format!("SELECT {COLUMNS}, hash FROM token WHERE hash = ?1"), [wanted.as_slice()], |row| {
                Ok((token_of(row)?, row.get::<_, Vec<u8>>("hash")?))
            })
            .optional()
            .map_err(self.failed("look up a token"))?;
        Ok(found
            .filter(|(token, stored)| bool::from(stored.as_slice().ct_eq(&wanted)) && token.is_good(now))
            .map(|(token, _)| token))
    }
}

/// 256 random bits need no slow hash: there is nothing to guess.
fn hash(secret: &str) -> [u8; 32] {
    blake3::derive_key("lifeboat 2026 api token", secret.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::{at, catalog};
    use super::*;

    #[test]
    fn a_token_is_good_until_it_expires_or_is_revoked() {
        let (_dir, catalog) = catalog();
        let (token, secret) = catalog.token_create("ci", Role::Run, Some(at(100)), at(0)).unwrap();
        assert!(secret.reveal().starts_with("lb_"));
        assert_eq!(catalog.token_check(secret.reveal(), at(99)).unwrap(), Some(token));
        assert_eq!(catalog.token_check(secret.reveal(), at(100)).unwrap(), None);
        assert!(catalog.token_revoke("ci", at(50)).unwrap());
        assert!(!catalog.token_revoke("ci", at(51)).unwrap());
        assert_eq!(catalog.token_check(secret.reveal(), at(60)).unwrap(), None);
        assert_eq!(catalog.token_list().unwrap()[0].revoked, Some(at(50)));
    }

    #[test]
    fn the_database_never_holds_the_secret() {
        let (dir, catalog) = catalog();
        let (_, secret) = catalog.token_create("ci", Role::Admin, None, at(0)).unwrap();
        drop(catalog);
        let wanted = &secret.reveal().as_bytes()[PREFIX.len()..];
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(wanted.len()).any(|window| window == wanted));
        }
    }

    #[test]
    fn what_is_almost_a_token_is_none() {
        let (_dir, catalog) = catalog();
        let (_, secret) = catalog.token_create("ci", Role::Admin, None, at(0)).unwrap();
        let good = secret.reveal();
        let flipped = format!("{}{}", &good[..good.len() - 1], if good.ends_with('0') { '1' } else { '0' });
        for bad in ["", "lb_", &good[3..], &good[..66], &flipped, &good.to_uppercase(), &format!("{good}0")] {
            assert_eq!(catalog.token_check(bad, at(1)).unwrap(), None, "{bad}");
        }
    }

    #[test]
    fn two_tokens_never_share_a_name() {
        let (_dir, catalog) = catalog();
        catalog.token_create("ci", Role::Read, None, at(0)).unwrap();
        assert!(matches!(catalog.token_create("ci", Role::Admin, None, at(0)), Err(CatalogError::TokenExists { .. })));
        for bad in ["", " x", "a\nb", &"x".repeat(65)] {
            assert!(matches!(catalog.token_create(bad, Role::Read, None, at(0)), Err(CatalogError::TokenName { .. })));
        }
    }
}
