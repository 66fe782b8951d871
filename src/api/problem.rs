//! Answers that say no: `application/problem+json` (RFC 9457), always.
//!
//! Owns the form, and the headers that every answer carries. Refuses to show causes that are for the log only.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::catalog::CatalogError;
use crate::daemon::chain;

/// A refusal: its public half.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// The end of `urn:lifeboat:problem:…`; stable.
    pub slug: &'static str,
    pub detail: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Self {
        Self { status, slug, detail: detail.into(), headers: Vec::new() }
    }

    /// With one more header; a value that cannot stand in one is left out.
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no such {what}"))
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        tracing::error!(event = "catalog.error", error = %chain(&error), "request could not be served");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "catalog", "the daemon's catalog does not answer; see its log")
            .with(header::RETRY_AFTER, "30")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": format!("urn:lifeboat:problem:{}", self.slug),
            "title": self.status.canonical_reason().unwrap_or("Refused"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().extend(self.headers);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// Gives every refusal the one form, whoever made it, and every answer the headers that keep browsers and caches honest.
pub async fn finish(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(super::REQUEST_TIME_MAX, next.run(request)).await;
    let mut response = answer.unwrap_or_else(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "the answer took too long").into_response()
    });
    let status = response.status();
    let refused = status.is_client_error() || status.is_server_error();
    let plain = response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| !kind.as_bytes().ends_with(b"+json"));
    if refused && plain {
        let (slug, detail) = match status {
            StatusCode::NOT_FOUND => ("not-found", "nothing is served under this path"),
            StatusCode::METHOD_NOT_ALLOWED => ("method", "this path does not take this method; see Allow"),
            _ => ("refused", status.canonical_reason().unwrap_or("the request was refused")),
        };
        // What was said in headers still holds: Allow above all.
        let mut said = std::mem::take(response.headers_mut());
        said.remove(header::CONTENT_LENGTH);
        said.remove(header::CONTENT_TYPE);
        response = Problem::new(status, slug, detail).into_response();
        response.headers_mut().extend(said);
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
