//! `/v1`: what Kubernetes has no words for.

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use http::Uri;

use crate::api::refusal::Refusal;
use crate::api::{Api, apply, events, fleet, groups, revisions};

/// The routes under `/v1`.
pub fn router() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/fleet", get(fleet::all))
        .route("/v1/fleet/{node}", get(fleet::one))
        .route("/v1/apply", post(apply::apply))
        .route("/v1/validate", post(apply::validate))
        .route("/v1/revisions", get(revisions::list))
        .route("/v1/revisions/{revision}", get(revisions::one).post(revisions::act))
        .route("/v1/events", get(events::stream))
        .route(
            "/v1/xds/groups/{group}",
            get(groups::read).put(groups::replace).patch(groups::patch).delete(groups::delete),
        )
        .route("/v1/xds/groups", get(groups::list))
}

/// An RFC 9457 answer with a fresh request id.
pub fn problem(path: &str, refusal: &Refusal) -> Response {
    let request_id = uuid::Uuid::new_v4().simple().to_string();
    if refusal.status.is_server_error() {
        tracing::warn!(request_id, path, error = refusal.detail, "request failed");
    }
    refusal.problem_response(path, &request_id)
}

/// The answer, or the problem.
pub fn or_problem(uri: &Uri, answer: Result<Response, Refusal>) -> Response {
    answer.unwrap_or_else(|refusal| problem(uri.path(), &refusal))
}
