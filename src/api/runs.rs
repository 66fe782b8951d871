//! Runs and drills: listed, shown, asked for, cancelled.
//!
//! Owns the requests and their answers in JSON. Refuses to choose what a run works on: the policy says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body;
use super::problem::Problem;
use crate::catalog::{Filter, Idempotency, NewRun, Run, RunId, RunKind, Sent, Trigger};
use crate::daemon::Core;
use crate::daemon::engine::Progress;
use crate::names::PolicyName;
use crate::policy::Policy;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;
const KEY_CHARS_MAX: usize = 255;
const DRILL_FILES_MAX: u32 = 100_000;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Runs `work`, which waits for the disk, where that harms nobody.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the answer could not be made; see the daemon's log",
        ))
    })
}

/// A run as the API shows it.
pub fn run_json(run: &Run, progress: Option<&Progress>) -> Value {
    let time = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string());
    let mut value = json!({
        "id": run.id,
        "kind": run.kind,
        "policy": run.policy,
        "state": run.state,
        "trigger": run.trigger,
        "actor": run.actor,
        "nominal_at": time(run.nominal),
        "missed": run.missed,
        "retry_of": run.retry_of,
        "queued_at": run.queued.to_string(),
        "started_at": time(run.started),
        "ended_at": time(run.ended),
        "seconds": duration(run),
        "cancel_asked": run.cancel_asked,
        "snapshot": run.snapshot,
        "recovery_point": run.recovery_point,
        "files": run.counts.files,
        "bytes": run.counts.bytes,
        "new_bytes": run.counts.new_bytes,
        "stored_bytes": run.counts.stored_bytes,
        "vanished": run.counts.vanished,
        "unreadable": run.counts.unreadable,
        "error": run.error,
        "error_class": run.error_class,
        "problems": run.problems,
    });
    if let Value::Object(fields) = &mut value {
        let noted = || run.progress.as_ref().and_then(|text| serde_json::from_str(text).ok());
        if let Some(progress) = progress.map(|progress| json!(progress)).or_else(noted) {
            fields.insert("progress".to_owned(), progress);
        }
        if run.kind == RunKind::Drill {
            let verdict = if !run.state.is_terminal() {
                Value::Null
            } else if run.is_passed_drill() {
                json!("pass")
            } else if matches!(run.state.as_str(), "failed" | "timed_out") {
                json!("fail")
            } else {
                json!("inconclusive")
            };
            fields.insert("verdict".to_owned(), verdict);
            fields.insert("files_asked".to_owned(), json!(run.drill_files));
            fields.insert("drill".to_owned(), json!(run.drill));
        }
    }
    value
}

fn duration(run: &Run) -> Option<f64> {
    Some(run.ended?.duration_since(run.started?).as_secs_f64().max(0.0))
}

/// Where a run is shown.
pub fn location(run_id: RunId, kind: RunKind) -> String {
    match kind {
        RunKind::Drill => format!("/v1/drill-runs/{run_id}"),
        RunKind::Backup | RunKind::Verify => format!("/v1/runs/{run_id}"),
    }
}

pub async fn list(
    State(core): State<Arc<Core>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let mut filter = Filter::default();
    let mut limit = LIMIT_DEFAULT;
    for (name, value) in &query {
        let bad = |error: crate::names::NameError| Problem::bad_request(format!("{name}: {error}"));
        match name.as_str() {
            "policy" => filter.policy = Some(value.parse::<PolicyName>().map_err(bad)?.into()),
            "state" => filter.state = Some(value.parse().map_err(bad)?),
            "kind" => filter.kind = Some(value.parse().map_err(bad)?),
            "cursor" => filter.before = Some(value.parse().map_err(bad)?),
            "limit" => {
                let number = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                limit =
                    number.ok_or_else(|| Problem::bad_request(format!("limit is a number from 1 to {LIMIT_MAX}")))?;
            }
            _ => {
                return Err(Problem::bad_request(format!(
                    "there is no parameter {name:?}: policy, state, kind, limit, cursor"
                )));
            }
        }
    }
    // One more than asked tells whether there is a next page.
    let fetch = filter.clone();
    let runs = blocking(move || {
        let runs = core.catalog.runs(&fetch, limit)?;
        let next = match runs.last() {
            Some(last) if runs.len() == limit => {
                let after = Filter { before: Some(last.id), ..fetch };
                (!core.catalog.runs(&after, 1)?.is_empty()).then_some(last.id)
            }
            _ => None,
        };
        let shown: Vec<Value> = runs.iter().map(|run| run_json(run, core.jobs().progress(run.id).as_ref())).collect();
        Ok((shown, next))
    });
    let (shown, next) = runs.await?;
    let mut response = Json(json!({ "runs": shown, "next_cursor": next })).into_response();
    if let Some(next) = next {
        let mut link = format!("</v1/runs?limit={limit}&cursor={next}");
        for (name, value) in [
            ("policy", filter.policy.as_deref()),
            ("state", filter.state.map(|state| state.as_str())),
            ("kind", filter.kind.map(|kind| kind.as_str())),
        ] {
            // Each of these was parsed: letters, digits and `._-` only.
            if let Some(value) = value {
                link.push_str(&format!("&{name}={value}"));
            }
        }
        link.push_str(">; rel=\"next\"");
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    Ok(response)
}

pub async fn show(State(core): State<Arc<Core>>, Path(id): Path<String>) -> Result<Response, Problem> {
    show_run(core, &id, None).await
}

pub async fn show_drill(State(core): State<Arc<Core>>, Path(id): Path<String>) -> Result<Response, Problem> {
    show_run(core, &id, Some(RunKind::Drill)).await
}

async fn show_run(core: Arc<Core>, id: &str, kind: Option<RunKind>) -> Result<Response, Problem> {
    let id: RunId = id.parse().map_err(|_| Problem::not_found("run"))?;
    let (value, open) = blocking(move || {
        let run = core.catalog.run(id)?.filter(|run| kind.is_none_or(|kind| run.kind == kind));
        let run = run.ok_or_else(|| Problem::not_found("run"))?;
        Ok((run_json(&run, core.jobs().progress(id).as_ref()), !run.state.is_terminal()))
    })
    .await?;
    let mut response = Json(value).into_response();
    if open {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    Ok(response)
}

pub async fn cancel(
    State(core): State<Arc<Core>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id: RunId = id.parse().map_err(|_| Problem::not_found("run"))?;
    blocking(move || {
        let run = core.catalog.run(id)?.ok_or_else(|| Problem::not_found("run"))?;
        if !core.cancel(id)? {
            let state = core.catalog.run(id)?.map_or(run.state, |run| run.state);
            return Err(Problem::new(StatusCode::CONFLICT, "ended", format!("the run ended already: {state}")));
        }
        tracing::info!(event = "run.cancel", run_id = %id, actor = caller.name, "run asked to stop");
        let value = core.catalog.run(id)?.map(|run| run_json(&run, None));
        let mut response = (StatusCode::ACCEPTED, Json(json!(value))).into_response();
        if let Ok(location) = HeaderValue::from_str(&location(id, run.kind)) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(response)
    })
    .await
}

/// A backup takes no wishes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillRequest {
    /// How many files to restore; else what the policy says.
    files: Option<u32>,
}

pub async fn start_backup(
    State(core): State<Arc<Core>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let policy = policy(&core, &id)?;
    let BackupRequest {} = body::read(&headers, body).await?;
    start(core, &policy, RunKind::Backup, None, "{}", &headers, caller).await
}

pub async fn start_drill(
    State(core): State<Arc<Core>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let policy = policy(&core, &id)?;
    let request: DrillRequest = body::read(&headers, body).await?;
    if let Some(files) = request.files
        && !(1..=DRILL_FILES_MAX).contains(&files)
    {
        let detail = format!("files is a number from 1 to {DRILL_FILES_MAX}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "drill-files", detail));
    }
    let meaning = json!({ "files": request.files }).to_string();
    let files = request.files.unwrap_or(policy.drill.files);
    start(core, &policy, RunKind::Drill, Some(files), &meaning, &headers, caller).await
}

fn policy(core: &Core, id: &str) -> Result<Policy, Problem> {
    let name: PolicyName = id.parse().map_err(|_| Problem::not_found("policy"))?;
    core.config().policies.get(&name).cloned().ok_or_else(|| Problem::not_found("policy"))
}

fn idempotency(headers: &HeaderMap, meaning: &str) -> Result<Option<Idempotency>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let good = key.to_str().ok().map(str::trim).filter(|key| (1..=KEY_CHARS_MAX).contains(&key.len()));
    match (good, keys.next()) {
        (Some(key), None) => Ok(Some(Idempotency {
            key: key.to_owned(),
            // Of what was asked for, so that another spelling of the same wish is the same request.
            body_hash: *blake3::hash(meaning.as_bytes()).as_bytes(),
        })),
        _ => Err(Problem::bad_request(format!(
            "an Idempotency-Key is one value of 1 to {KEY_CHARS_MAX} printable characters"
        ))),
    }
}

async fn start(
    core: Arc<Core>,
    policy: &Policy,
    kind: RunKind,
    drill_files: Option<u32>,
    meaning: &str,
    headers: &HeaderMap,
    caller: Caller,
) -> Result<Response, Problem> {
    let idempotency = idempotency(headers, meaning)?;
    if core.is_stopping() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the daemon is stopping")
            .with(header::RETRY_AFTER, "30"));
    }
    // Without a key, nobody could tell a second wish from a first one sent twice. Two backups of one policy make no sense
    // either way.
    let exclusive = idempotency.is_none() || kind == RunKind::Backup;
    let trigger = if caller.name.starts_with("uid ") { Trigger::Manual } else { Trigger::Api };
    let new = NewRun {
        kind,
        policy: policy.name.clone(),
        trigger,
        actor: caller.name,
        nominal: None,
        missed: 0,
        retry_of: None,
        drill_files,
        idempotency,
        at: core.now(),
    };
    let sent = blocking(move || Ok(core.submit(&new, exclusive)?)).await?;
    match sent {
        Sent::Recorded(run) => Ok(accepted(&run, false)),
        Sent::Replayed(run) => Ok(accepted(&run, true)),
        Sent::KeyReused(id) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "key-reused",
            "this Idempotency-Key came with another request before",
        )
        .with(header::LOCATION, &location(id, kind))),
        Sent::Busy(id) => {
            let detail = format!("a {kind} of this policy is under way: {id}");
            Err(Problem::new(StatusCode::CONFLICT, "busy", detail)
                .with(header::LOCATION, &location(id, kind))
                .with(header::RETRY_AFTER, "5"))
        }
        Sent::Full => {
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "queue-full", "too many runs wait; none is added")
                .with(header::RETRY_AFTER, "60"))
        }
    }
}

/// The same answer whether it is the first or a repeated one, whatever became of the run meanwhile.
fn accepted(run: &Run, replayed: bool) -> Response {
    let location = location(run.id, run.kind);
    let body = json!({
        "id": run.id,
        "kind": run.kind,
        "policy": run.policy,
        "state": "queued",
        "trigger": run.trigger,
        "queued_at": run.queued.to_string(),
        "location": location,
    });
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
