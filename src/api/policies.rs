//! Policies as they are in force, with secrets as references only.
//!
//! Owns their JSON. Refuses to change any: policies come from files.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::problem::Problem;
use super::runs::blocking;
use super::status::policy_json;
use crate::daemon::{Core, PolicyStatus, Status};

pub async fn list(State(core): State<Arc<Core>>) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let status = core.status()?;
        let mut policies: Vec<&PolicyStatus> = status.policies.iter().collect();
        policies.sort_by(|a, b| a.policy.name.cmp(&b.policy.name));
        let shown: Vec<Value> = policies.into_iter().map(|policy| effective(policy, &status)).collect();
        Ok(Json(json!({ "policies": shown })))
    })
    .await
}

pub async fn show(State(core): State<Arc<Core>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let status = core.status()?;
        let policy = status.policies.iter().find(|policy| policy.policy.name.as_str() == id);
        let policy = policy.ok_or_else(|| Problem::not_found("policy"))?;
        Ok(Json(effective(policy, &status)))
    })
    .await
}

fn effective(entry: &PolicyStatus, status: &Status) -> Value {
    let policy = &entry.policy;
    let repository = status.loaded.config.repositories.get(&policy.repository);
    let paths =
        |paths: &[std::path::PathBuf]| paths.iter().map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>();
    json!({
        "id": policy.name,
        "source": {
            "paths": paths(&policy.source.paths),
            "exclude": policy.source.exclude,
            "exclude_files": paths(&policy.source.exclude_files),
            "exclude_caches": policy.source.exclude_caches,
            "one_file_system": policy.source.one_file_system,
            "ignore_inode": policy.source.ignore_inode,
        },
        "repository": repository.map(|repository| json!({
            "id": policy.repository.as_str(),
            "url": repository.url.as_str(),
            // Where each key stands. What stands there is never read for this.
            "key": repository.key.to_string(),
            "read_key": repository.read_key.as_ref().map(ToString::to_string),
            "admin_key": repository.admin_key.as_ref().map(ToString::to_string),
        })),
        "schedule": policy.schedule.to_string(),
        "timezone": policy.zone.iana_name(),
        "keep": { "rule": policy.keep.to_string(), "active": false },
        "tags": policy.tags,
        "accept_partial": policy.accept_partial,
        "allow_unreadable": policy.allow_unreadable,
        "compression": policy.compression.to_string(),
        "drill": { "files": policy.drill.files },
        "status": policy_json(entry, status.now),
    })
}
