//! From a repository of the configuration to its store, and from a source to its buckets.
//!
//! Owns which word wins: what the configuration says, over the daemon's environment.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::secret::{self, SecretError};
use crate::bucket::{Bucket, ConnectError, Options};
use crate::policy::{RepositoryConfig, Source, StoreSettings};
use crate::store::Store;
use crate::store::address::{self, PlaceError};

#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Place(#[from] PlaceError),
}

pub fn open(config: &RepositoryConfig) -> Result<Arc<dyn Store>, OpenStoreError> {
    Ok(address::open(config.url.address(), &options(&config.store)?)?)
}

/// How the bucket is spoken to.
pub fn options(settings: &StoreSettings) -> Result<Options, OpenStoreError> {
    let mut options = Options::from_environment().map_err(|error| PlaceError::from(ConnectError::from(error)))?;
    options.endpoint = settings.endpoint.clone().or(options.endpoint);
    options.region = settings.region.clone().or(options.region);
    options.path_style = settings.path_style.or(options.path_style);
    options.ca_file = settings.ca_file.clone().or(options.ca_file);
    options.allow_http |= settings.allow_http;
    options.metadata_credentials |= settings.metadata_credentials;
    options.classes.data = settings.storage_class.clone().or(options.classes.data);
    options.classes.metadata = settings.metadata_storage_class.clone().or(options.classes.metadata);
    options.connections = settings.connections.map_or(options.connections, |connections| connections as usize);
    options.upload_rate = settings.upload_rate.or(options.upload_rate);
    options.download_rate = settings.download_rate.or(options.download_rate);
    if let Some(account) = &settings.account {
        options.give("AZURE_STORAGE_ACCOUNT_NAME", Zeroizing::new(account.clone()));
    }
    for (name, reference) in &settings.secrets {
        let text = secret::text(reference)?;
        options.give(name, Zeroizing::new(text.trim().to_owned()));
    }
    Ok(options)
}

/// Clients of the buckets that a policy saves. What the daemon's environment says of clouds counts for them, too, where the policy says nothing.
pub fn buckets(source: &Source) -> Result<Vec<Bucket>, OpenStoreError> {
    if source.buckets.is_empty() {
        return Ok(Vec::new());
    }
    let options = options(&source.store)?;
    let open = |address| Bucket::open(address, &options).map_err(|error| PlaceError::from(error).into());
    source.buckets.iter().map(open).collect()
}
