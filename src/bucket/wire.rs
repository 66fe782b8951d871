//! Every request of a bucket, as it passes.
//!
//! Owns what stands between `object_store` and the network: the limit of requests under way, the rates, the circuit, the count, the refusal to ask
//! the cloud's metadata address unasked, and the reading of error answers, whose status and code `object_store` does not hand on. It tells apart by
//! itself what is absent, occupied or unchanged; every other error comes out of here as a `Refusal`.
//!
//! Refuses to repeat anything: whoever knows what a request means repeats it.

use std::error::Error;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use hyper::body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::circuit::Circuit;
use super::exact::{Exact, Signing};
use super::rate::Rate;
use super::refusal::{self, Answer, Kind, Refusal};
use super::traffic::{Counters, Traffic};

/// Error bodies are read so far.
const BODY_MAX: usize = 16 << 10;

/// What all requests of one bucket share.
pub(super) struct Line {
    pub bucket: String,
    pub allow_metadata: bool,
    slots: Arc<Semaphore>,
    up: Rate,
    down: Arc<Rate>,
    circuit: Circuit,
    counters: Arc<Counters>,
    /// Seconds, by the last answer that had a date; `UNKNOWN` before.
    ahead: AtomicI64,
    /// What changed requests are signed with, once the client is made.
    pub(super) signing: Arc<OnceLock<Signing>>,
}

const UNKNOWN: i64 = i64::MIN;

impl Line {
    pub fn new(bucket: &str, allow_metadata: bool, connections: usize, up: Option<u64>, down: Option<u64>) -> Self {
        Self {
            bucket: bucket.to_owned(),
            allow_metadata,
            slots: Arc::new(Semaphore::new(connections.clamp(1, 1024))),
            up: Rate::new(up),
            down: Arc::new(Rate::new(down)),
            circuit: Circuit::default(),
            counters: Arc::default(),
            ahead: AtomicI64::new(UNKNOWN),
            signing: Arc::default(),
        }
    }

    pub fn clock_ahead(&self) -> Option<i64> {
        Some(self.ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN)
    }

    pub fn traffic(&self) -> Traffic {
        self.counters.read()
    }

    /// Notes how a request ended, for the circuit and the count.
    fn refuse(&self, refusal: Refusal) -> HttpError {
        self.counters.failure();
        // Only the server's own trouble opens the circuit.
        let is_trouble = matches!(refusal.kind(), Kind::Transient | Kind::Ambiguous);
        if is_trouble && !matches!(refusal, Refusal::CircuitOpen { .. } | Refusal::Conflict) {
            self.circuit.failed(Instant::now(), refusal.to_string());
        }
        HttpError::new(HttpErrorKind::Unknown, refusal)
    }
}

/// Makes clients whose requests pass the line.
pub(super) struct Connector(pub Arc<Line>);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({})", self.0.bucket)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        let wire = HttpClient::new(Wire { client, line: self.0.clone() });
        Ok(HttpClient::new(Exact { inner: wire, signing: self.0.signing.clone() }))
    }
}

struct Wire {
    client: HttpClient,
    line: Arc<Line>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire({})", self.line.bucket)
    }
}

#[async_trait::async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let line = &self.line;
        let host = request.uri().host().unwrap_or_default();
        if !line.allow_metadata && is_metadata(host) {
            return Err(HttpError::new(HttpErrorKind::Unknown, Refusal::Metadata { host: host.to_owned() }));
        }
        let slot = line
            .slots
            .clone()
            .acquire_owned()
            .await
            .map_err(|closed| HttpError::new(HttpErrorKind::Unknown, closed))?;
        if let Err((failures, last)) = line.circuit.enter(Instant::now()) {
            return Err(line.refuse(Refusal::CircuitOpen { failures, last }));
        }
        let bytes = request.body().content_length() as u64;
        let wait = line.up.take(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let (method, is_list) = (request.method().clone(), is_list(&request));
        line.counters.request(&method, is_list, bytes);
        let response = match self.client.execute(request).await {
            Ok(response) => response,
            Err(error) => return Err(line.refuse(no_answer(&error))),
        };
        self.read(response, &method, is_list, slot).await
    }
}

impl Wire {
    async fn read(
        &self,
        response: HttpResponse,
        method: &Method,
        is_list: bool,
        slot: OwnedSemaphorePermit,
    ) -> Result<HttpResponse, HttpError> {
        let line = &self.line;
        let (parts, body) = response.into_parts();
        let ahead = text(&parts.headers, header::DATE.as_str()).and_then(ahead_of);
        line.ahead.store(ahead.unwrap_or(UNKNOWN), Ordering::Relaxed);
        let is_page =
            text(&parts.headers, header::CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with("text/html"));
        if parts.status.is_success() {
            // An object may be a page of its own, and then it has a tag or a date, after a HEAD too; a listing never is one.
            let known = [header::ETAG, header::LAST_MODIFIED].iter().any(|name| parts.headers.contains_key(name));
            if is_page && (is_list || !known) {
                return Err(line.refuse(Refusal::WebPage { status: parts.status.as_u16() }));
            }
            line.circuit.succeeded();
            let body =
                Counted { body, counters: line.counters.clone(), rate: line.down.clone(), pause: None, _slot: slot };
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        let body = start_of(body).await;
        let said = String::from_utf8_lossy(&body);
        let answer = Answer {
            status: parts.status,
            body: &said,
            // The answer to a HEAD has the type of a page and no page: it says nothing.
            is_page: is_page && !body.is_empty(),
            region: text(&parts.headers, "x-amz-bucket-region"),
            ahead,
            code: text(&parts.headers, "x-ms-error-code"),
            bucket: &line.bucket,
            is_put: *method == Method::PUT || *method == Method::POST,
        };
        match refusal::read(&answer) {
            Some(refusal) => Err(line.refuse(refusal)),
            None => {
                line.circuit.succeeded();
                Ok(HttpResponse::from_parts(parts, body.into()))
            }
        }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Seconds that this machine's clock is ahead of an HTTP date (RFC 9110, 5.6.7).
fn ahead_of(date: &str) -> Option<i64> {
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
    let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() as i64;
    Some(ours - theirs)
}

/// Whether the request lists: Amazon's and Google's by `list-type`, Azure's by `comp=list`.
pub(super) fn is_list<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::GET
        && query.split('&').any(|pair| pair.starts_with("list-type=") || pair == "comp=list")
}

/// Link-local addresses, and the names that clouds give them.
fn is_metadata(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_unicast_link_local() || ip.segments()[..2] == [0xfd00, 0xec2],
        Err(_) => matches!(bare, "metadata.google.internal" | "metadata" | "instance-data"),
    }
}

/// All of a body.
pub(super) async fn whole(mut body: HttpResponseBody) -> Result<Bytes, HttpError> {
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            all.extend_from_slice(&data);
        }
    }
    Ok(all.into())
}

/// As much of an error's body as is of use; what cannot be read is missing.
async fn start_of(mut body: HttpResponseBody) -> Bytes {
    let mut start = Vec::new();
    while start.len() < BODY_MAX {
        match std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    start.extend_from_slice(&data);
                }
            }
            Some(Err(_)) | None => break,
        }
    }
    start.into()
}

fn no_answer(error: &HttpError) -> Refusal {
    // The innermost cause says most: "connection refused", "certificate has expired".
    let mut why = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        why = cause.to_string();
        next = cause.source();
    }
    if error.kind() == HttpErrorKind::Timeout && !why.contains("time") {
        why = format!("{why} (out of time)");
    }
    Refusal::NoAnswer { sent: error.kind() != HttpErrorKind::Connect, why }
}

/// A body that is counted and held back to the rate as it comes. It holds its slot until it is read or dropped.
struct Counted {
    body: HttpResponseBody,
    counters: Arc<Counters>,
    rate: Arc<Rate>,
    pause: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.counters.down(bytes);
                let wait = self.rate.take(bytes, Instant::now());
                if !wait.is_zero() {
                    self.pause = Some(Box::pin(tokio::time::sleep(wait)));
                }
            }
            Some(Err(error)) => {
                self.counters.failure();
                let refusal = Refusal::NoAnswer { sent: true, why: format!("the answer broke off: {error}") };
                return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Unknown, refusal))));
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_addresses_are_known_by_name_and_number() {
        for host in ["169.254.169.254", "169.254.170.2", "[fd00:ec2::254]", "metadata.google.internal"] {
            assert!(is_metadata(host), "{host}");
        }
        for host in ["127.0.0.1", "s3.eu-west-1.amazonaws.com", "[::1]"] {
            assert!(!is_metadata(host), "{host}");
        }
    }

    #[test]
    fn a_date_is_measured_against_this_clock() {
        let day_old = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24);
        let date = day_old.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let ahead = ahead_of(&date).unwrap();
        assert!((86_300..86_500).contains(&ahead), "{ahead}");
        assert_eq!(ahead_of("yesterday"), None);
    }
}
