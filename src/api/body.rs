//! The bodies of requests: small JSON, or nothing.
//!
//! Owns their limit and the check of their kind. Refuses to stream: nothing that is asked of the daemon is long.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::problem::Problem;

pub const BODY_BYTES_MAX: usize = 1 << 20;
/// What is read and thrown away of a body that is too long, so that its sender gets to read the refusal.
const DRAIN_BYTES_MAX: usize = 16 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// The JSON of a request, or what stands for an empty body.
pub async fn read<T: DeserializeOwned + Default>(headers: &HeaderMap, mut body: Body) -> Result<T, Problem> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| Problem::bad_request("the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > BODY_BYTES_MAX {
            // Whether the sender stops in time changes nothing in the answer.
            let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain(body)).await;
            let detail = format!("a body has at most {BODY_BYTES_MAX} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail));
        }
        bytes.extend_from_slice(&data);
    }
    if bytes.is_empty() {
        return Ok(T::default());
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let detail = "a body is JSON: Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", detail));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::bad_request(format!("the body is not as it should be: {error}")))
}

async fn drain(mut body: Body) {
    let mut left = DRAIN_BYTES_MAX;
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
        if left == 0 {
            return;
        }
    }
}
