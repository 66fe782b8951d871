//! Requests that the client has no call for: tags, settings of the bucket, unfinished uploads.
//!
//! They are signed in their address, and pass the same line as all others.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::SignedUrlOptions;

use super::Bucket;

/// For so long the signature counts.
const VALID: Duration = Duration::from_secs(300);

impl Bucket {
    /// Whether requests are signed here at all.
    pub fn signs(&self) -> bool {
        self.side.is_some()
    }

    /// The body of the answer; none where this kind of cloud signs no such request. Blocks.
    pub fn ask(&self, method: Method, key: Path, query: Vec<(String, String)>) -> object_store::Result<Option<Bytes>> {
        let bucket = self.clone();
        let generic =
            |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic { store: "bucket", source };
        self.wait(async move { bucket.ask_async(method, &key, query).await })
            .unwrap_or_else(|error| Err(generic(error.into())))
    }

    /// The same, for whoever asks many at once on the bucket's runtime.
    pub async fn ask_async(
        &self,
        method: Method,
        key: &Path,
        query: Vec<(String, String)>,
    ) -> object_store::Result<Option<Bytes>> {
        let Some((signer, client)) = &self.side else { return Ok(None) };
        let options = SignedUrlOptions::new().with_query(query);
        let url = match signer.signed_url_opts(method.clone(), key, VALID, &options).await {
            Err(object_store::Error::NotSupported { .. }) => return Ok(None),
            url => url?,
        };
        send(client, method, url.as_str()).await.map(Some)
    }
}

async fn send(client: &HttpClient, method: Method, url: &str) -> object_store::Result<Bytes> {
    let generic =
        |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic { store: "bucket", source };
    let request = Request::builder()
        .method(method)
        .uri(url)
        .body(HttpRequestBody::empty())
        .map_err(|cause| generic(cause.into()))?;
    let response = client.execute(request).await.map_err(|cause| generic(cause.into()))?;
    let status = response.status();
    if !status.is_success() {
        return Err(generic(format!("the store answered HTTP {}", status.as_u16()).into()));
    }
    response.into_body().bytes().await.map_err(|cause| generic(cause.into()))
}
