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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::api::testing::Server;

    #[tokio::test]
    async fn what_is_not_there_says_so_in_the_words_of_its_part() {
        let server = Server::start().await;
        for (verb, path, status) in [
            ("GET", "/v1/nothing", 404),
            ("DELETE", "/v1/fleet", 405),
            ("GET", "/v1/fleet/nobody", 404),
            ("GET", "/v1/revisions/r7", 404),
            ("GET", "/v1/revisions/x", 400),
        ] {
            let answer = server.call(verb, path, Value::Null).await;
            assert_eq!((answer.status, answer.text("/instance")), (status, path));
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert!(!answer.text("/requestId").is_empty());
        }
        for (verb, path, status) in [
            ("GET", "/nothing", 404),
            ("GET", "/openapi/v2", 404),
            ("POST", "/version", 405),
            ("GET", "/apis/acme.example", 404),
            ("GET", "/apis/acme.example/v1/things", 404),
            ("DELETE", "/api/v1", 405),
        ] {
            let answer = server.call(verb, path, Value::Null).await;
            assert_eq!((answer.status, answer.text("/kind")), (status, "Status"), "{path}");
        }
    }

    #[tokio::test]
    async fn only_this_machine_may_ask() {
        let server = Server::start().await;
        for (name, value) in [("host", "evil.example"), ("origin", "http://evil.example")] {
            let mut request = server.request("GET", "/v1/fleet").body(Default::default()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
            let refused = server.ask(request).await;
            assert_eq!((refused.status, refused.text("/code")), (403, "WL0403"));
        }
        let fleet = server.get("/v1/fleet").await;
        assert_eq!(
            fleet.body,
            serde_json::json!({
                "revision": {"revision": "r0"}, "counts": {}, "nodes": [],
            })
        );
    }
}
