//! One request in, one answer out: which verb it is, whether it may, and how a fault bends what comes of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use futures_util::stream;

use super::call::{Call, Condition, condition, family};
use super::refusal::Refusal;
use super::script::{Due, Fault, Request, Verb};
use super::wire::Plain;
use super::{BUCKET, Conditions, Dialect, Inner, State};
use crate::support::loopback::{Asked, Given};

/// How long a write waits for another one to lose a race against.
const RACE_STEPS: u32 = 200;
const RACE_STEP: Duration = Duration::from_millis(5);

pub async fn answer(inner: Arc<Inner>, asked: Asked) -> Given {
    let (bucket, key) = asked.path.split_once('/').unwrap_or((&asked.path, ""));
    let verb = match verb(inner.dialect, &asked, key) {
        Ok(verb) => verb,
        Err(refusal) => return given(&asked, refusal.answer(&asked.path), None),
    };
    let named = if key.is_empty() { asked.query("prefix").unwrap_or("") } else { key };
    let request = Request { verb, key: named.to_owned(), headers: asked.headers.clone() };
    let (due, refused) = {
        let mut state = inner.state();
        (state.script.enter(request), refused(inner.dialect, &mut state, verb, bucket, &asked).err())
    };
    if let Some(refusal) = refused {
        return given(&asked, refusal.answer(&asked.path), None);
    }
    if let Some(given) = instead(&inner, &asked, due.as_ref()) {
        return given;
    }
    let fault = due.as_ref().map(|due| due.fault.clone());
    let done = {
        let vacant = looked(&inner, verb, &asked, key).await;
        let mut state = inner.state();
        let mut call =
            Call { dialect: inner.dialect, state: &mut state, asked: &asked, key, fault, vacant, bent: false };
        let done = call.run(verb).unwrap_or_else(|refusal| refusal.answer(&asked.path));
        if let Some(due) = due.as_ref().filter(|_| call.bent) {
            state.script.meet(due);
        }
        done
    };
    after(&inner, &asked, done, due)
}

/// What the request asks for; parameters that no verb knows are refused.
fn verb(dialect: Dialect, asked: &Asked, key: &str) -> Result<Verb, Refusal> {
    let mut sub: Vec<&str> = asked.query.iter().map(|(name, _)| name.as_str()).collect();
    sub.retain(|name| !name.starts_with("X-Amz-") && *name != "x-id");
    let has = |names: &[&str]| sub.iter().all(|name| names.contains(name)) && sub.contains(&names[0]);
    let s3 = dialect == Dialect::S3;
    let verb = match (&asked.method, key.is_empty()) {
        (&Method::GET, true) if asked.query("list-type") == Some("2") => {
            let known = ["list-type", "prefix", "delimiter", "start-after", "continuation-token", "max-keys"];
            has(&known).then_some(Verb::List)
        }
        (&Method::GET, true) if has(&["uploads", "prefix"]) => Some(Verb::ListUploads),
        (&Method::POST, true) if s3 && has(&["delete"]) => Some(Verb::BulkDelete),
        (&Method::HEAD, true) if sub.is_empty() => Some(Verb::HeadBucket),
        (&Method::GET | &Method::PUT | &Method::DELETE, false) if s3 && has(&["tagging"]) => Some(Verb::Tags),
        (&Method::POST, false) if has(&["uploads"]) => Some(Verb::Begin),
        (&Method::PUT, false) if has(&["partNumber", "uploadId"]) => Some(Verb::Part),
        (&Method::POST, false) if has(&["uploadId"]) => Some(Verb::Complete),
        (&Method::DELETE, false) if has(&["uploadId"]) => Some(Verb::Abort),
        (&Method::GET, false) if sub.is_empty() => Some(Verb::Get),
        (&Method::HEAD, false) if sub.is_empty() => Some(Verb::Head),
        (&Method::DELETE, false) if sub.is_empty() => Some(Verb::Delete),
        (&Method::PUT, false) if sub.is_empty() => {
            let copy = asked.headers.contains_key(family(dialect).to_owned() + "copy-source");
            Some(if copy { Verb::Copy } else { Verb::Put })
        }
        _ => None,
    };
    verb.ok_or_else(|| Refusal::NotImplemented(format!("{} {} with {sub:?}", asked.method, asked.path)))
}

/// Whether the request may be tried at all.
fn refused(dialect: Dialect, state: &mut State, verb: Verb, bucket: &str, asked: &Asked) -> Result<(), Refusal> {
    if let Some((verbs, left, refusal)) = &mut state.manners.refusal
        && verbs.counts(verb)
    {
        if *left == 0 {
            return Err(refusal.clone());
        }
        *left -= 1;
    }
    match dialect {
        Dialect::S3 => {
            let region = signed_region(asked).ok_or(Refusal::AccessDenied)?;
            if region != state.manners.region {
                return Err(Refusal::AuthorizationHeaderMalformed(state.manners.region));
            }
            let hash = asked.header("x-amz-content-sha256").filter(|hash| hash.len() == 64);
            if hash.is_some_and(|hash| hash != sha256(&asked.body)) {
                return Err(Refusal::InvalidArgument("the payload is not the one that was signed"));
            }
        }
        Dialect::Gcs => {
            if !asked.header("authorization").is_some_and(|value| value.starts_with("Bearer ")) {
                return Err(Refusal::AuthenticationRequired);
            }
        }
    }
    if bucket == BUCKET { Ok(()) } else { Err(Refusal::NoSuchBucket) }
}

/// The region of a well-formed signature, in the header or in the URL.
fn signed_region(asked: &Asked) -> Option<&str> {
    let scope = match asked.header("authorization") {
        Some(header) => {
            let header = header.strip_prefix("AWS4-HMAC-SHA256 Credential=")?;
            let (scope, rest) = header.split_once(',')?;
            let (names, signature) = rest.trim().strip_prefix("SignedHeaders=")?.split_once(", Signature=")?;
            (signature.len() == 64 && names.split(';').any(|name| name == "host")).then_some(scope)?
        }
        None => {
            asked.query("X-Amz-Signature").filter(|signature| signature.len() == 64)?;
            asked.query("X-Amz-Credential")?
        }
    };
    let parts: Vec<&str> = scope.split('/').collect();
    match parts[..] {
        [id, _, region, "s3", "aws4_request"] if !id.is_empty() => Some(region),
        _ => None,
    }
}

fn sha256(bytes: &[u8]) -> String {
    lifeboat::names::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

/// What a fault answers before anything is done.
fn instead(inner: &Inner, asked: &Asked, due: Option<&Due>) -> Option<Given> {
    let due = due?;
    let answer = match &due.fault {
        Fault::Refused(refusal) => given(asked, refusal.answer(&asked.path), None),
        Fault::RefusedInside200(refusal) => {
            let answer = refusal.answer(&asked.path);
            given(asked, Plain { status: StatusCode::OK, ..answer }, None)
        }
        Fault::LostBefore => Given::HangUp,
        Fault::Conflict => given(asked, Refusal::Conflict.answer(&asked.path), None),
        Fault::Html(status) => {
            let page = "<!DOCTYPE html>\n<html><head><title>Portal</title></head><body><h1>Please sign in</h1></body></html>\n";
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
            given(asked, Plain { status: StatusCode::from_u16(*status).unwrap(), headers, body: page.into() }, None)
        }
        _ => return None,
    };
    inner.state().script.meet(due);
    Some(answer)
}

/// Where conditions are lost in races, whether the key was vacant when the write looked: then it waits for another that looks too.
async fn looked(inner: &Inner, verb: Verb, asked: &Asked, key: &str) -> Option<bool> {
    let vacant = {
        let mut state = inner.state();
        let racing = state.manners.conditions == Conditions::LostInRaces && Verb::Write.counts(verb);
        if !racing || condition(inner.dialect, asked) != Ok(Condition::Vacant) {
            return None;
        }
        *state.in_flight.entry(key.to_owned()).or_default() += 1;
        !state.shelf.objects.contains_key(key)
    };
    if vacant {
        for _ in 0..RACE_STEPS {
            if inner.state().in_flight[key] > 1 {
                break;
            }
            tokio::time::sleep(RACE_STEP).await;
        }
    }
    Some(vacant)
}

/// The answer as a fault bends it after all was done.
fn after(inner: &Inner, asked: &Asked, done: Plain, due: Option<Due>) -> Given {
    let Some(due) = due else { return given(asked, done, None) };
    let met = match &due.fault {
        // Whatever the answer was to be.
        Fault::LostAfter | Fault::DoneThenRefused(_) => true,
        Fault::CutBody(bytes) => done.status.is_success() && done.body.len() > *bytes,
        Fault::Dribble(piece, _) => done.status.is_success() && done.body.len() > *piece,
        _ => return given(asked, done, None), // met where it was done, or not at all
    };
    if !met {
        return given(asked, done, None);
    }
    inner.state().script.meet(&due);
    match &due.fault {
        Fault::LostAfter => Given::HangUp,
        Fault::DoneThenRefused(refusal) => given(asked, refusal.answer(&asked.path), None),
        _ => given(asked, done, Some(due.fault)),
    }
}

fn given(asked: &Asked, plain: Plain, fault: Option<Fault>) -> Given {
    let bytes = plain.body;
    let length = bytes.len();
    let whole = asked.method == Method::HEAD || fault.is_none();
    let body = match fault {
        Some(Fault::CutBody(most)) => pieces(bytes.slice(..most), most.max(1), Duration::ZERO, true),
        Some(Fault::Dribble(piece, pause)) => pieces(bytes, piece, pause, false),
        _ => Body::from(bytes),
    };
    let mut response = Response::new(body);
    *response.status_mut() = plain.status;
    *response.headers_mut() = plain.headers;
    if !whole {
        response.headers_mut().insert("content-length", HeaderValue::from(length));
    }
    Given::Answer(response)
}

/// A body in pieces, each sent before the next is made; `broken` ends it with an error.
fn pieces(bytes: Bytes, piece: usize, pause: Duration, broken: bool) -> Body {
    Body::from_stream(stream::unfold((bytes, broken), move |(mut rest, broken)| async move {
        tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        if rest.is_empty() {
            return broken.then(|| (Err(io::Error::other("cut by the test")), (rest, false)));
        }
        let next = rest.split_to(piece.min(rest.len()));
        Some((Ok(next), (rest, broken)))
    }))
}
