//! Is the daemon well, and could we recover: in JSON.
//!
//! Owns `/healthz`, `/readyz` and `/v1/status`. Refuses to judge; `daemon` has done so.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::problem::Problem;
use super::runs::{blocking, run_json};
use crate::daemon::{Core, PolicyStatus, Status};

pub async fn healthz(State(core): State<Arc<Core>>) -> Result<Json<Value>, Problem> {
    if core.health().alive {
        Ok(Json(json!({ "status": "alive" })))
    } else {
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-alive", "the scheduler has not come round for 120 s"))
    }
}

pub async fn readyz(State(core): State<Arc<Core>>) -> Result<Json<Value>, Problem> {
    let health = core.health();
    if health.is_ready() {
        return Ok(Json(json!({ "status": "ready" })));
    }
    let mut reasons = Vec::new();
    if !health.alive {
        reasons.push("the scheduler has not come round for 120 s");
    }
    if !health.recording {
        reasons.push("the catalog takes no writes");
    }
    if health.stopping {
        reasons.push("the daemon is stopping");
    }
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", reasons.join("; ")))
}

pub async fn show(State(core): State<Arc<Core>>) -> Result<Json<Value>, Problem> {
    blocking(move || Ok(Json(status_json(&core.status()?)))).await
}

fn seconds_since(at: Timestamp, now: Timestamp) -> i64 {
    now.duration_since(at).as_secs().max(0)
}

/// One policy's verdict and what it rests on.
pub fn policy_json(entry: &PolicyStatus, now: Timestamp) -> Value {
    let memory = &entry.memory;
    let brief = |run: &crate::catalog::Run| {
        json!({
            "id": run.id,
            "state": run.state,
            "started_at": run.started.map(|at| at.to_string()),
            "ended_at": run.ended.map(|at| at.to_string()),
            "error": run.error,
        })
    };
    json!({
        "id": entry.policy.name,
        "state": entry.standing.as_str(),
        "level": entry.standing.level().as_str(),
        "reason": entry.reason,
        "recovery_points": memory.points,
        "last_good_point": memory.last_point.as_ref().map(|run| json!({
            "snapshot": run.snapshot,
            "run": run.id,
            "at": run.frozen().to_string(),
            "age_seconds": seconds_since(run.frozen(), now),
        })),
        "last_run": memory.last_backup.as_ref().map(brief),
        "last_drill": memory.last_drill.as_ref().map(|run| {
            let mut value = brief(run);
            value["verdict"] = run_json(run, None)["verdict"].clone();
            value["drill"] = json!(run.drill);
            value
        }),
        "last_restored_at": memory.last_passed_drill.as_ref().and_then(|run| run.ended).map(|at| at.to_string()),
        "next_run_at": entry.next.map(|at| at.to_string()),
        "keep": { "rule": entry.policy.keep.to_string(), "active": false },
    })
}

pub fn status_json(status: &Status) -> Value {
    json!({
        "schema": "lifeboat.status/1",
        "version": env!("CARGO_PKG_VERSION"),
        "host": status.host,
        "now": status.now.to_string(),
        "started_at": status.started.to_string(),
        "recoverable": { "answer": status.answer, "level": status.level.as_str(), "sentence": status.sentence },
        "worst": status.worst().map(|policy| json!({
            "policy": policy.policy.name, "state": policy.standing.as_str(), "reason": policy.reason,
        })),
        "policies": status.policies.iter().map(|policy| policy_json(policy, status.now)).collect::<Vec<_>>(),
        "runs": status.open.iter().map(|(run, progress)| run_json(run, progress.as_ref())).collect::<Vec<_>>(),
        "next": status.next().map(|(policy, at)| json!({ "policy": policy.policy.name, "at": at.to_string() })),
        "daemon": {
            "alive": status.health.alive,
            "ready": status.health.is_ready(),
            "recording": status.health.recording,
            "stopping": status.health.stopping,
            "last_tick_at": status.health.ticked_at.to_string(),
        },
        "config": {
            "loaded_at": status.loaded.at.to_string(),
            "warnings": status.loaded.config.warnings.list,
            "rejected": status.loaded.rejected.as_ref().map(|rejected| json!({
                "at": rejected.at.to_string(), "problems": rejected.problems.list,
            })),
        },
    })
}
