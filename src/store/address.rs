//! From an address to the store that stands there.
//!
//! Refuses to know how addresses are written (`crate::address`), and how a cloud is spoken to (`bucket`).

use std::io;
use std::sync::Arc;

use super::cloud::CloudStore;
use super::local::{LocalStore, OpenError};
use super::{Store, StoreError};
use crate::address::{Address, AddressError};
use crate::bucket::{Bucket, ConnectError, Options};

/// Why an address leads to no store.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Directory(#[from] OpenError),
    #[error(transparent)]
    Bucket(#[from] ConnectError),
    #[error("{address} is not empty: it holds {entry:?}")]
    NotEmpty { address: String, entry: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{address} is relative, and the working directory is unknown")]
    NoWorkingDirectory {
        address: String,
        #[source]
        cause: io::Error,
    },
}

impl PlaceError {
    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bucket(error) => error.hint().map(str::to_owned),
            Self::NotEmpty { address, .. } => {
                Some(format!("give a prefix of its own, such as {}/lifeboat", address.trim_end_matches('/')))
            }
            Self::Store(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

/// The address that `text` means here: a relative path belongs to the working directory.
pub fn parse(text: &str) -> Result<Address, PlaceError> {
    match Address::parse(text)? {
        Address::Directory(path) => match std::path::absolute(&path) {
            Ok(path) => Ok(Address::at(&path)),
            Err(cause) => Err(PlaceError::NoWorkingDirectory { address: path.display().to_string(), cause }),
        },
        address => Ok(address),
    }
}

/// Opens the store at an address. `options` are for clouds.
pub fn open(address: &Address, options: &Options) -> Result<Arc<dyn Store>, PlaceError> {
    match address {
        Address::Directory(path) => Ok(Arc::new(LocalStore::open(path)?)),
        Address::Bucket(address) => Ok(CloudStore::open(address, options)?),
    }
}

/// Makes the store at an address, where there is none, and opens it. A bucket must be there already; what lies under the prefix must be nothing,
/// or what an earlier `create` made.
pub fn create(address: &Address, options: &Options) -> Result<Arc<dyn Store>, PlaceError> {
    match address {
        Address::Directory(path) => Ok(Arc::new(LocalStore::create(path)?)),
        Address::Bucket(bucket) => {
            let store = CloudStore::over(Bucket::open(bucket, options)?, options.classes.clone());
            match store.stranger()? {
                Some(entry) => Err(PlaceError::NotEmpty { address: address.url(), entry }),
                None => Ok(store.repeated()),
            }
        }
    }
}
