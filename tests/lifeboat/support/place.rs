//! A prefix in a bucket that a test has for itself, on a double or on a real server, and the environment that leads there: the same for the library
//! and for the shipped binary. Credentials are always given, so that none are looked for.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lifeboat::address::{Address, BucketAddress};
use lifeboat::bucket::{Bucket, Options};
use lifeboat::store::Store;
use lifeboat::store::cloud::CloudStore;

use super::cloud::{BUCKET, Cloud, REGION};
use super::servers::{self, AZURE_ACCOUNT, AZURE_KEY, Server};
use super::shipped::lifeboat;

pub struct Place {
    pub url: String,
    pub environment: Vec<(&'static str, String)>,
    /// The double that is spoken to, if it is one.
    pub cloud: Option<Cloud>,
}

impl Place {
    /// A double of S3.
    pub fn s3() -> Self {
        Self::on_s3(&Cloud::s3())
    }

    pub fn on_s3(cloud: &Cloud) -> Self {
        let environment = s3_at(cloud.url(), "dummy", "dummy");
        Self { url: format!("s3://{BUCKET}/some/where"), environment, cloud: Some(cloud.clone()) }
    }

    /// A double of GCS.
    pub fn gcs() -> Self {
        Self::on_gcs(&Cloud::gcs())
    }

    pub fn on_gcs(cloud: &Cloud) -> Self {
        let environment = vec![
            ("GOOGLE_BASE_URL", cloud.url()),
            ("GOOGLE_BEARER_TOKEN", "dummy".to_owned()),
            ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
        ];
        Self { url: format!("gs://{BUCKET}/some/where"), environment, cloud: Some(cloud.clone()) }
    }

    pub fn moto() -> Self {
        Self::on(servers::moto())
    }

    pub fn azurite() -> Self {
        let server = servers::azurite();
        let environment = vec![
            ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.to_owned()),
            ("AZURE_STORAGE_ENDPOINT", format!("{}/{AZURE_ACCOUNT}", server.url())),
            ("AZURE_ALLOW_HTTP", "true".to_owned()),
        ];
        Self { url: format!("az://{}/some/where", server.bucket()), environment, cloud: None }
    }

    /// A new bucket on a server that speaks S3.
    pub fn on(server: &Server) -> Self {
        let (id, secret) = server.keys.expect("it speaks S3");
        let environment = s3_at(server.url(), id, secret);
        Self { url: format!("s3://{}/some/where", server.bucket()), environment, cloud: None }
    }

    /// The same place by another way: the address of a proxy before it.
    pub fn by(mut self, url: &str) -> Self {
        for (name, value) in &mut self.environment {
            match *name {
                "AWS_ENDPOINT_URL" | "GOOGLE_BASE_URL" => *value = url.to_owned(),
                "AZURE_STORAGE_ENDPOINT" => *value = format!("{url}/{AZURE_ACCOUNT}"),
                _ => {}
            }
        }
        self
    }

    pub fn cloud(&self) -> &Cloud {
        self.cloud.as_ref().expect("the place is on a double")
    }

    pub fn options(&self) -> Options {
        let variables = self.environment.iter().map(|(name, value)| ((*name).into(), value.into()));
        Options::from_variables(variables).unwrap()
    }

    pub fn address(&self) -> BucketAddress {
        match Address::parse(&self.url).unwrap() {
            Address::Bucket(address) => address,
            Address::Directory(path) => panic!("{} is no bucket", path.display()),
        }
    }

    /// The store as production opens it.
    pub fn open(&self) -> Arc<dyn Store> {
        CloudStore::open(&self.address(), &self.options()).unwrap()
    }

    /// The store that repeats nothing.
    pub fn bare(&self) -> CloudStore {
        self.bare_with(&self.options())
    }

    pub fn bare_with(&self, options: &Options) -> CloudStore {
        CloudStore::over(Bucket::open(&self.address(), options).unwrap(), options.classes.clone())
    }

    /// The shipped binary, with this repository.
    pub fn lifeboat(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = lifeboat(home, arguments);
        command.env("LIFEBOAT_REPO", &self.url).envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command
    }
}

fn s3_at(url: String, id: &str, secret: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", url),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", id.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ]
}
