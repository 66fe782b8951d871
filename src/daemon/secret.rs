//! Secrets that a configuration refers to.
//!
//! Owns their reading: a file that other users may read is refused, its secret is out already. Refuses to keep one, and to show one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::policy::SecretRef;
use crate::seal::key::Key;
use crate::seal::sheet::{self, SheetError};

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the secret {reference} cannot be read")]
    Read {
        reference: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("the secret {reference} is open to other users (mode {mode:o}); run `chmod 600` on it")]
    Open { reference: String, mode: u32 },
    #[error("the secret {reference} names nothing: {missing} is not set")]
    Unset { reference: String, missing: &'static str },
    #[error("the secret {reference} is no good key")]
    Sheet {
        reference: String,
        #[source]
        cause: SheetError,
    },
}

/// The text that a reference leads to, as it stands there.
pub fn text(reference: &SecretRef) -> Result<Zeroizing<String>, SecretError> {
    let shown = reference.to_string();
    let from_file = |path: &Path| {
        let read = |cause| SecretError::Read { reference: shown.clone(), cause };
        let mode = fs::metadata(path).map_err(read)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 || mode & 0o020 != 0 {
            return Err(SecretError::Open { reference: shown.clone(), mode });
        }
        fs::read_to_string(path).map(Zeroizing::new).map_err(read)
    };
    let unset = |missing| SecretError::Unset { reference: shown.clone(), missing };
    match reference {
        SecretRef::File(path) => from_file(path),
        SecretRef::Credential(name) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or(unset("CREDENTIALS_DIRECTORY"))?;
            from_file(&PathBuf::from(directory).join(name))
        }
        SecretRef::Env(name) => std::env::var(name).map(Zeroizing::new).map_err(|_| unset("the variable")),
    }
}

/// The key that a reference leads to.
pub fn key(reference: &SecretRef) -> Result<Key, SecretError> {
    sheet::read(&text(reference)?).map_err(|cause| SecretError::Sheet { reference: reference.to_string(), cause })
}
