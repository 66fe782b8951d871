//! From an address and options to a client.
//!
//! Owns which credentials count: those that were given, never the machine's own from the cloud's metadata address unless they were asked for; and
//! that plain HTTP goes to loopback addresses only. Makes no request.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::signer::Signer;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use super::exact::Signing;
use super::options::{OptionError, Options, is_true};
use super::wire::{Connector, Line};
use crate::address::{BucketAddress, Cloud};

/// Why there is no client for an address.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot use {address}: there are no credentials for it")]
    NoCredentials { address: String, hint: &'static str },
    #[error("cannot use {address}: {missing} is not given")]
    Missing { address: String, missing: &'static str, hint: &'static str },
    #[error("cannot use {address}: {endpoint} is plain HTTP, which anyone on the way can read and change")]
    PlainHttp { address: String, endpoint: String, hint: &'static str },
    #[error("cannot use {address}: the endpoint is no URL of a server")]
    Endpoint { address: String },
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error("cannot read the certificates in {path}")]
    Certificates {
        path: PathBuf,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot use {address}")]
    Client {
        address: String,
        #[source]
        cause: object_store::Error,
    },
    #[error("cannot start threads for {address}")]
    Runtime {
        address: String,
        #[source]
        cause: std::io::Error,
    },
}

impl ConnectError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoCredentials { hint, .. } | Self::Missing { hint, .. } | Self::PlainHttp { hint, .. } => Some(hint),
            Self::Endpoint { .. } => Some("write it like https://s3.example.org or http://127.0.0.1:9000"),
            _ => None,
        }
    }
}

type Client = (Arc<dyn ObjectStore>, Arc<dyn Signer>);
/// A signer, and a client for what it signs.
type Side = (Arc<dyn Signer>, HttpClient);

/// The client of a bucket. All requests pass `line`.
pub(super) fn connect(
    address: &BucketAddress,
    options: &Options,
    line: &Arc<Line>,
) -> Result<(Arc<dyn ObjectStore>, Side), ConnectError> {
    let (base, connector) = (base(options)?, Connector(line.clone()));
    let side = connector.connect(&base).map_err(client_error(address))?;
    let (objects, signer) = match address.cloud {
        Cloud::S3 => s3(address, options, base, connector)?,
        Cloud::Gcs => gcs(address, options, base, connector)?,
        Cloud::Azure => azure(address, options, base, connector)?,
    };
    Ok((objects, (signer, side)))
}

/// What every request has in common. Nothing is repeated here: see `store::retry`.
fn base(options: &Options) -> Result<ClientOptions, ConnectError> {
    let timeouts = options.timeouts;
    let mut base = ClientOptions::new()
        .with_timeout(timeouts.request)
        .with_read_timeout(timeouts.read)
        .with_connect_timeout(timeouts.connect)
        .with_pool_max_idle_per_host(options.connections)
        .with_allow_http(options.allow_http);
    if !has_system_authorities() {
        // On a bare machine a restore must not wait for a package of certificates. Nothing else of the system's could be lost by this.
        base = base.with_no_system_certificates(true);
        for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
            if let Ok(certificate) = Certificate::from_der(certificate) {
                base = base.with_root_certificate(certificate);
            }
        }
    }
    if let Some(path) = &options.ca_file {
        let failed =
            |cause: Box<dyn std::error::Error + Send + Sync>| ConnectError::Certificates { path: path.clone(), cause };
        let pem = std::fs::read(path).map_err(|cause| failed(cause.into()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|cause| failed(cause.into()))?;
        if certificates.is_empty() {
            return Err(failed("it holds no certificate (PEM)".into()));
        }
        for certificate in certificates {
            base = base.with_root_certificate(certificate);
        }
    }
    Ok(base)
}

/// Whether the system has authorities of its own, at one of the places where OpenSSL and the distributions keep them, or where the environment says.
fn has_system_authorities() -> bool {
    const FILES: [&str; 6] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/tls/cacert.pem",
        "/etc/ssl/cert.pem",
    ];
    ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some())
        || FILES.iter().any(|file| Path::new(file).exists())
        || std::fs::read_dir("/etc/ssl/certs").is_ok_and(|mut entries| entries.next().is_some())
}

fn once() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: std::time::Duration::from_secs(600),
    }
}

/// An endpoint that may be used: HTTPS, or HTTP to this machine where that was allowed.
fn endpoint(address: &BucketAddress, options: &Options, given: Option<&str>) -> Result<Option<String>, ConnectError> {
    let Some(given) = options.endpoint.as_deref().or(given) else { return Ok(None) };
    let bad = || ConnectError::Endpoint { address: address.to_string() };
    let uri: http::Uri = given.parse().map_err(|_| bad())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(bad()) };
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err(bad());
    }
    let plain =
        |hint| ConnectError::PlainHttp { address: address.to_string(), endpoint: format!("http://{authority}"), hint };
    match scheme {
        "https" => {}
        "http" if !is_loopback(authority.host()) => {
            return Err(plain(
                "use https://; plain HTTP is allowed to this machine only, so put a TLS proxy before the server",
            ));
        }
        "http" if !options.allow_http => {
            return Err(plain("set `allow_http = true` (AWS_ALLOW_HTTP=true) for a server on this machine"));
        }
        "http" => {}
        _ => return Err(bad()),
    }
    Ok(Some(given.trim_end_matches('/').to_owned()))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn client_error(address: &BucketAddress) -> impl Fn(object_store::Error) -> ConnectError {
    let address = address.to_string();
    move |cause| ConnectError::Client { address: address.clone(), cause }
}

fn no_credentials(address: &BucketAddress, hint: &'static str) -> ConnectError {
    ConnectError::NoCredentials { address: address.to_string(), hint }
}

fn s3(
    address: &BucketAddress,
    options: &Options,
    base: ClientOptions,
    connector: Connector,
) -> Result<Client, ConnectError> {
    const HINT: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in a configuration: `access_key_id` and `secret_access_key`), or `credentials = \
        \"metadata\"` (LIFEBOAT_CLOUD_CREDENTIALS=metadata) to use the machine's role";
    let keys = ["aws_access_key_id", "aws_secret_access_key"];
    let identity = options.has(&["aws_web_identity_token_file"]) && options.has(&["aws_role_arn"]);
    let unsigned = options.setting("aws_skip_signature").and_then(is_true) == Some(true);
    if !(options.has(&keys) || identity || unsigned || options.metadata_credentials) {
        return Err(no_credentials(address, HINT));
    }
    if options.has(&keys[..1]) != options.has(&keys[1..]) {
        let missing = if options.has(&keys[..1]) { "AWS_SECRET_ACCESS_KEY" } else { "AWS_ACCESS_KEY_ID" };
        return Err(ConnectError::Missing { address: address.to_string(), missing, hint: HINT });
    }
    let mut builder = AmazonS3Builder::new().with_client_options(base);
    let mut given = None;
    for (name, value) in &options.settings {
        let Ok(key) = name.parse::<AmazonS3ConfigKey>() else { continue };
        match key {
            AmazonS3ConfigKey::Bucket => {}
            AmazonS3ConfigKey::S3Endpoint => given = Some(value.as_str()),
            AmazonS3ConfigKey::Endpoint => given = given.or(Some(value.as_str())),
            key => builder = builder.with_config(key, value.as_str()),
        }
    }
    if let Some(endpoint) = endpoint(address, options, given)? {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) =
        options.region.as_deref().or(options.setting("aws_region")).or(options.setting("aws_default_region"))
    {
        builder = builder.with_region(region);
    }
    if let Some(path_style) = options.path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    let signing = connector.0.signing.clone();
    let client = builder
        .with_bucket_name(&address.bucket)
        .with_retry(once())
        .with_http_connector(connector)
        .build()
        .map_err(client_error(address))?;
    let _ = signing.set(Signing::S3(client.credentials().clone())); // set here only
    let client = Arc::new(client);
    Ok((client.clone(), client))
}

fn gcs(
    address: &BucketAddress,
    options: &Options,
    base: ClientOptions,
    connector: Connector,
) -> Result<Client, ConnectError> {
    const HINT: &str = "set GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT to a key file (in a configuration: `service_account`), or `credentials = \
        \"metadata\"` (LIFEBOAT_CLOUD_CREDENTIALS=metadata) to use the machine's service account";
    let given = [
        "google_service_account",
        "google_service_account_path",
        "google_service_account_key",
        "google_application_credentials",
        "google_bearer_token",
    ];
    let unsigned = options.setting("google_skip_signature").and_then(is_true) == Some(true);
    if !(options.has(&given) || unsigned || has_default_credentials() || options.metadata_credentials) {
        return Err(no_credentials(address, HINT));
    }
    let mut builder = GoogleCloudStorageBuilder::new().with_client_options(base);
    let mut base_url = None;
    for (name, value) in &options.settings {
        let Ok(key) = name.parse::<GoogleConfigKey>() else { continue };
        match key {
            GoogleConfigKey::Bucket => {}
            GoogleConfigKey::BaseUrl => base_url = Some(value.as_str()),
            key => builder = builder.with_config(key, value.as_str()),
        }
    }
    if let Some(endpoint) = endpoint(address, options, base_url)? {
        builder = builder.with_base_url(&endpoint);
    }
    let client = builder
        .with_bucket_name(&address.bucket)
        .with_retry(once())
        .with_http_connector(connector)
        .build()
        .map_err(client_error(address))?;
    let client = Arc::new(client);
    Ok((client.clone(), client))
}

/// What `gcloud auth application-default login` leaves.
fn has_default_credentials() -> bool {
    std::env::var_os("HOME")
        .is_some_and(|home| Path::new(&home).join(".config/gcloud/application_default_credentials.json").is_file())
}

fn azure(
    address: &BucketAddress,
    options: &Options,
    base: ClientOptions,
    connector: Connector,
) -> Result<Client, ConnectError> {
    const HINT: &str = "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN (in a configuration: `account_key` or `sas_token`), or `credentials = \
        \"metadata\"` (LIFEBOAT_CLOUD_CREDENTIALS=metadata) to use the machine's identity";
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(base);
    let (mut given, mut account, mut credentials) = (None, false, options.metadata_credentials);
    for (name, value) in &options.settings {
        let Ok(key) = name.parse::<AzureConfigKey>() else { continue };
        match key {
            AzureConfigKey::ContainerName => continue,
            AzureConfigKey::Endpoint => {
                given = Some(value.as_str());
                continue;
            }
            AzureConfigKey::AccountName => account = true,
            AzureConfigKey::AccessKey
            | AzureConfigKey::SasKey
            | AzureConfigKey::Token
            | AzureConfigKey::ClientSecret
            | AzureConfigKey::FederatedTokenFile => credentials = true,
            AzureConfigKey::UseEmulator | AzureConfigKey::SkipSignature | AzureConfigKey::UseAzureCli => {
                credentials |= is_true(value) == Some(true);
                account |= key == AzureConfigKey::UseEmulator;
            }
            _ => {}
        }
        builder = builder.with_config(key, value.as_str());
    }
    if !account {
        return Err(ConnectError::Missing {
            address: address.to_string(),
            missing: "the storage account",
            hint: "set AZURE_STORAGE_ACCOUNT_NAME (in a configuration: `account`)",
        });
    }
    if !credentials {
        return Err(no_credentials(address, HINT));
    }
    if let Some(endpoint) = endpoint(address, options, given)? {
        builder = builder.with_endpoint(endpoint);
    }
    let signing = connector.0.signing.clone();
    let client = builder
        .with_container_name(&address.bucket)
        .with_retry(once())
        .with_http_connector(connector)
        .build()
        .map_err(client_error(address))?;
    let _ = signing.set(Signing::Azure(client.credentials().clone())); // set here only
    let client = Arc::new(client);
    Ok((client.clone(), client))
}

#[cfg(test)]
mod tests {
    use super::super::Bucket;
    use super::*;
    use crate::address::Address;

    fn open(url: &str, pairs: &[(&str, &str)]) -> Result<Bucket, ConnectError> {
        let Ok(Address::Bucket(address)) = Address::parse(url) else { panic!("{url}") };
        let options = Options::from_variables(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))?;
        Bucket::open(&address, &options)
    }

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];

    fn refused(url: &str, pairs: &[(&str, &str)]) -> ConnectError {
        open(url, pairs).map(|_| ()).unwrap_err()
    }

    #[test]
    fn without_credentials_nobody_asks_the_metadata_address() {
        for url in ["s3://b", "gs://b"] {
            assert!(matches!(refused(url, &[]), ConnectError::NoCredentials { .. }), "{url}");
        }
        let account = [("AZURE_STORAGE_ACCOUNT_NAME", "a")];
        assert!(matches!(refused("az://b", &account), ConnectError::NoCredentials { .. }));
        // The address of a container's credentials is one of them.
        let container = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")];
        assert!(matches!(refused("s3://b", &container), ConnectError::NoCredentials { .. }));
        assert!(open("s3://b", &[("LIFEBOAT_CLOUD_CREDENTIALS", "metadata")]).is_ok());
    }

    #[test]
    fn half_a_pair_of_keys_is_named() {
        let error = refused("s3://b", &KEYS[1..]);
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn plain_http_goes_to_this_machine_only_and_only_when_allowed() {
        let with = |endpoint: &'static str, allowed: &'static str| {
            open("s3://b", &[KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL", endpoint), ("AWS_ALLOW_HTTP", allowed)])
        };
        assert!(with("http://127.0.0.1:9000", "true").is_ok());
        assert!(with("http://localhost:9000/", "true").is_ok());
        assert!(with("http://[::1]:9000", "true").is_ok());
        assert!(with("https://s3.example.org", "false").is_ok());
        for (endpoint, allowed) in [("http://127.0.0.1:9000", "false"), ("http://s3.example.org", "true")] {
            let error = with(endpoint, allowed).map(|_| ()).unwrap_err();
            assert!(matches!(error, ConnectError::PlainHttp { .. }), "{endpoint}: {error}");
        }
        for endpoint in ["127.0.0.1:9000", "ftp://x", "https://me:hunter2@host", "nonsense"] {
            let error = with(endpoint, "true").map(|_| ()).unwrap_err();
            assert!(matches!(error, ConnectError::Endpoint { .. }), "{endpoint}: {error}");
            assert!(!format!("{error}{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_file_that_holds_no_certificate_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let options = Options::from_variables([("LIFEBOAT_CA_FILE".into(), path.into())]).unwrap();
        assert!(matches!(base(&options), Err(ConnectError::Certificates { .. })));
    }
}
