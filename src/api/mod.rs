//! The HTTP endpoint: what the daemon tells, and the few things it can be asked to do.
//!
//! Owns routes, roles, and the forms of answers: JSON, problem documents, metrics, and one page. Refuses stores, paths and
//! commands from a request: those come from policy files only. It decides nothing that `daemon` has not decided.

mod auth;
mod body;
mod guard;
mod markup;
mod metrics;
mod page;
mod policies;
mod problem;
mod runs;
mod serve;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};

pub use auth::Peer;
pub use serve::serve;

use crate::catalog::Role;
use crate::daemon::Core;
use auth::Need;

/// From the last byte of the header to the last of the answer.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// Every route with what it asks of its caller. A request must carry its `Peer` as an extension.
pub fn router(core: Arc<Core>) -> Router {
    let guarded = |route: MethodRouter<Arc<Core>>, need: Need| {
        route.route_layer(from_fn_with_state((Arc::clone(&core), need), auth::check))
    };
    let open = Need::ReadUnlessOpen;
    Router::new()
        .route("/", guarded(get(page::show), Need::PageUnlessOpen))
        .route("/healthz", guarded(get(status::healthz), Need::Nothing))
        .route("/readyz", guarded(get(status::readyz), open))
        .route("/metrics", guarded(get(metrics::show), open))
        .route("/v1/status", guarded(get(status::show), open))
        .route("/v1/policies", guarded(get(policies::list), Need::Role(Role::Read)))
        .route("/v1/policies/{id}", guarded(get(policies::show), Need::Role(Role::Read)))
        .route("/v1/policies/{id}/runs", guarded(post(runs::start_backup), Need::Role(Role::Run)))
        .route("/v1/drills/{id}/runs", guarded(post(runs::start_drill), Need::Role(Role::Drill)))
        .route("/v1/drill-runs/{id}", guarded(get(runs::show_drill), Need::Role(Role::Read)))
        .route("/v1/runs", guarded(get(runs::list), Need::Role(Role::Read)))
        .route("/v1/runs/{id}", guarded(get(runs::show), Need::Role(Role::Read)))
        .route("/v1/runs/{id}/cancel", guarded(post(runs::cancel), Need::Role(Role::Run)))
        .layer(from_fn_with_state(Arc::clone(&core), guard::check))
        .layer(from_fn(problem::finish))
        .with_state(core)
}
