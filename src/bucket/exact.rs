//! Keys that `object_store` cannot say, said exactly.
//!
//! `object_store` knows no key with an empty part, a leading or trailing slash, a `.` or `..`, or a control character: it fails the whole page of a listing that has one, or takes
//! `a/` for `a`. Below this layer such keys are themselves, above it they are paths (`key`). Owns both ways: paths in requests become keys and the request is signed again, keys in
//! listings become paths. Requests and pages without such a key pass untouched.
//!
//! Owns the repetition of a listing's later pages as well: they cost the whole listing if they fail. Refuses keys with a part `.` or `..` in requests: HTTP clients resolve them on the
//! way, and would reach another object.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, Uri, header};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::azure::{AzureAuthorizer, AzureCredential, AzureCredentialProvider};
use object_store::client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};

use super::key;
use super::refusal::{self, Kind};
use super::wire::{is_list, whole};
use crate::names::unhex;

/// A later page is asked for so often, within a minute.
const PAGE_ATTEMPTS: u32 = 9;
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// What a request that was changed is signed with. Bearer tokens and shared access signatures do not cover the path.
pub(super) enum Signing {
    S3(AwsCredentialProvider),
    Azure(AzureCredentialProvider),
}

pub(super) struct Exact {
    pub inner: HttpClient,
    pub signing: Arc<OnceLock<Signing>>,
}

impl std::fmt::Debug for Exact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exact")
    }
}

#[derive(Debug, thiserror::Error)]
enum ExactError {
    #[error("a key with a part `.` or `..` cannot be asked for over HTTP")]
    Dots,
    #[error("the key cannot be written into a request")]
    Uri(#[source] http::Error),
    #[error("the changed request cannot be signed")]
    Sign(#[source] object_store::Error),
    #[error("the changed request cannot be signed: its signature is of an unknown kind")]
    Signature,
    #[error("the listing is not UTF-8")]
    Listing,
}

impl From<ExactError> for HttpError {
    fn from(error: ExactError) -> Self {
        HttpError::new(HttpErrorKind::Unknown, error)
    }
}

#[async_trait::async_trait]
impl HttpService for Exact {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(uri) = exact_uri(request.uri())? {
            *request.uri_mut() = uri;
            self.sign(&mut request).await?;
        }
        if !is_list(&request) {
            return self.inner.execute(request).await;
        }
        let is_first = !request.uri().query().is_some_and(|query| {
            query.split('&').any(|pair| pair.starts_with("continuation-token=") || pair.starts_with("marker="))
        });
        let mut attempt = 1;
        loop {
            let page = self.page(request.clone()).await;
            let later = page
                .as_ref()
                .err()
                .and_then(|error| refusal::of(error))
                .is_some_and(|refusal| matches!(refusal.kind(), Kind::Transient | Kind::Ambiguous));
            if !later || is_first || attempt == PAGE_ATTEMPTS {
                return page;
            }
            tokio::time::sleep(PAUSE_FIRST.saturating_mul(1 << (attempt - 1)).min(PAUSE_MAX)).await;
            attempt += 1;
        }
    }
}

impl Exact {
    async fn page(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = self.inner.execute(request).await?.into_parts();
        if !parts.status.is_success() {
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let body = whole(body).await?;
        let text = std::str::from_utf8(&body).map_err(|_| ExactError::Listing)?;
        let body = match exact_page(text) {
            Some(page) => {
                parts.headers.remove(header::CONTENT_LENGTH);
                page.into_bytes().into()
            }
            None => body,
        };
        Ok(HttpResponse::from_parts(parts, body.into()))
    }

    /// Signs a request whose path or query was changed, with what it was signed with before.
    async fn sign(&self, request: &mut HttpRequest) -> Result<(), ExactError> {
        let Some(before) = text(request.headers(), &header::AUTHORIZATION).map(str::to_owned) else { return Ok(()) };
        match self.signing.get() {
            Some(Signing::S3(provider)) if before.starts_with("AWS4-HMAC-SHA256") => {
                // Credential=KEY/DATE/REGION/SERVICE/aws4_request
                let scope = before.split_once("Credential=").map_or("", |(_, rest)| rest);
                let scope: Vec<&str> = scope.split(',').next().unwrap_or_default().rsplit('/').collect();
                let [_, service, region, ..] = scope[..] else { return Err(ExactError::Signature) };
                if request.headers().contains_key("x-amz-s3session-token") {
                    return Err(ExactError::Signature);
                }
                let credential = provider.get_credential().await.map_err(ExactError::Sign)?;
                // The body is the same, so its digest is.
                let digest = request.headers().get("x-amz-content-sha256").and_then(|hash| hash.to_str().ok());
                let digest = digest.and_then(unhex);
                request.headers_mut().remove(header::AUTHORIZATION);
                let authorizer = AwsAuthorizer::new(&credential, service, region).with_sign_payload(digest.is_some());
                authorizer.try_authorize(request, digest.as_deref()).map_err(ExactError::Sign)
            }
            Some(Signing::Azure(provider)) if before.starts_with("SharedKey ") => {
                let account = before.trim_start_matches("SharedKey ").split(':').next().unwrap_or_default();
                let credential = provider.get_credential().await.map_err(ExactError::Sign)?;
                if !matches!(*credential, AzureCredential::AccessKey(_)) {
                    return Err(ExactError::Signature);
                }
                request.headers_mut().remove(header::AUTHORIZATION);
                AzureAuthorizer::new(&credential, account).try_authorize(request).map_err(ExactError::Sign)
            }
            _ if before.starts_with("Bearer ") => Ok(()),
            _ => Err(ExactError::Signature),
        }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The URI of the key that `uri` has as a path; none if they are the same. An escape begins with a `%`, which stands as `%25` in a URI.
fn exact_uri(uri: &Uri) -> Result<Option<Uri>, ExactError> {
    let path = uri.path();
    let key = path.contains("%25").then(|| decoded(path)).flatten();
    let key = key.as_deref().map(|path| (path, key::from_path(path))).filter(|(path, key)| path != key);
    let query = uri.query().and_then(exact_query);
    if key.is_none() && query.is_none() {
        return Ok(None);
    }
    let mut target = match &key {
        Some((_, key)) if key.split('/').any(|part| part == "." || part == "..") => return Err(ExactError::Dots),
        Some((_, key)) => encoded(key, true),
        None => path.to_owned(),
    };
    if let Some(query) = query.as_deref().or(uri.query()) {
        target.push('?');
        target.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().map_err(|error| ExactError::Uri(http::Error::from(error)))?);
    Uri::from_parts(parts).map(Some).map_err(|error| ExactError::Uri(error.into()))
}

/// A query whose `prefix` is the key's that it has as a path; none if they are the same.
fn exact_query(query: &str) -> Option<String> {
    let mut changed = false;
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| {
            let Some(value) = pair.strip_prefix("prefix=").filter(|value| value.contains("%25")) else {
                return pair.to_owned();
            };
            let Some(path) = decoded(&value.replace('+', " ")) else { return pair.to_owned() };
            // A listing's prefix ends in the slash behind the last part.
            let (path, slash) = path.strip_suffix('/').map_or((path.as_str(), ""), |path| (path, "/"));
            let key = key::from_path(path);
            changed |= key != path;
            format!("prefix={}", encoded(&format!("{key}{slash}"), false))
        })
        .collect();
    changed.then(|| pairs.join("&"))
}

/// Text of a URI's part; none if it is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// As signatures want it: everything but unreserved characters (RFC 3986) escaped.
fn encoded(text: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if slashes => out.push('/'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A page of a listing with paths where it had keys; none if all keys are their own paths.
fn exact_page(page: &str) -> Option<String> {
    let tag = if page.contains("<EnumerationResults") { "Name" } else { "Key" };
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = page[at..].find(&open) {
        let start = at + found + open.len();
        let Some(len) = page[start..].find(&close) else { break };
        let raw = &page[start..start + len];
        at = start + len + close.len();
        if let Some(path) = exact_key(raw) {
            out.push_str(&page[copied..start]);
            out.push_str(&path);
            copied = start + len;
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&page[copied..]);
    Some(out)
}

/// The path of a key, both as XML has them; none if it is the key's own.
fn exact_key(raw: &str) -> Option<String> {
    let suspicious = |raw: &str| {
        raw.is_empty()
            || raw.starts_with(['/', '.'])
            || raw.ends_with('/')
            || raw.contains("//")
            || raw.contains("/.")
            || raw.contains('%')
            || raw.contains("&#")
            || raw.bytes().any(|byte| byte.is_ascii_control())
    };
    if !suspicious(raw) {
        return None;
    }
    let key = unescaped(raw)?;
    let path = key::to_path(&key);
    (path != key).then(|| path.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

/// What XML text says; none if it says nothing that we know.
pub fn unescaped(raw: &str) -> Option<String> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let (entity, after) = rest[at + 1..].split_once(';')?;
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = entity.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                char::from_u32(code.ok()?)?
            }
        });
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_path_reaches_its_key_and_any_other_is_left_alone() {
        let exact = |uri: &str| exact_uri(&uri.parse().unwrap()).map(|uri| uri.map(|uri| uri.to_string()));
        for (uri, key) in [
            ("http://h/b/a/%25%3D", Some("http://h/b/a/")),
            ("http://h/b/a/%25%3D/b?x=1", Some("http://h/b/a//b?x=1")),
            ("http://h/b/%25%3D/a", Some("http://h/b//a")),
            ("http://h/b/a%250Ab", Some("http://h/b/a%0Ab")),
            ("http://h/b/100%252525", Some("http://h/b/100%2525")),
            ("http://h/b/100%25", None),
            ("http://h/b/50%2520off", None),
            ("http://h/b/a/b?list-type=2", None),
            ("http://h/b?list-type=2&prefix=p%2F%25%3D%2F", Some("http://h/b?list-type=2&prefix=p%2F%2F")),
            ("http://h/b?list-type=2&prefix=p%2F", None),
        ] {
            assert_eq!(exact(uri).unwrap().as_deref(), key, "{uri}");
        }
        assert!(exact("http://h/b/%252E%252E/x").is_err());
    }

    #[test]
    fn a_page_has_paths_where_it_had_keys() {
        let page =
            |keys: &[&str]| keys.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>")).collect::<String>();
        assert_eq!(exact_page(&page(&["a", "a/b", "a&amp;b", "100%"])), None);
        assert_eq!(
            exact_page(&page(&["a/", "b", "/c//d", "../e", "f&#x1;&amp;", "100%25", "a.b/.c"])).unwrap(),
            page(&["a/%=", "b", "%=/c/%=/d", "%2E%2E/e", "f%01&amp;", "100%2525", "a.b/.c"])
        );
        let azure = "<EnumerationResults><Blob><Name>a/</Name></Blob></EnumerationResults>";
        assert_eq!(exact_page(azure).unwrap(), azure.replace("a/<", "a/%=<"));
    }
}
