//! Counts requests and writes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use tokio::time::Instant;

use crate::api::Api;
use crate::api::refusal::Refusal;
use crate::telemetry::metrics::{ApiRequest, ApiRoute, Metrics, Outcome};

/// Counts a request by the template of its route; one that fits none counts for `none`.
pub async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = route.unwrap_or("none").to_owned();
    let began = Instant::now();
    let response = next.run(request).await;
    let metrics = api.pipeline.metrics();
    let elapsed =
        metrics.api_request_duration_seconds.get_or_create(&ApiRoute { route: route.clone() });
    // Until the head of the answer: watches and event streams have no end.
    elapsed.observe(began.elapsed().as_secs_f64());
    let code_class = class(response.status());
    metrics.api_requests.get_or_create(&ApiRequest { route, code_class }).inc();
    response
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "1xx",
    }
}

/// Counts a write by what became of it.
pub fn count_write(metrics: &Metrics, elapsed: Duration, refusal: Option<&Refusal>) {
    let result = match refusal.map(|refusal| refusal.status) {
        None => "ok",
        Some(StatusCode::CONFLICT) => "conflict",
        Some(status) if status.is_client_error() => "refused",
        Some(_) => "failed",
    };
    let outcome = Outcome { result };
    metrics.apply_duration_seconds.get_or_create(&outcome).observe(elapsed.as_secs_f64());
    metrics.apply.get_or_create(&outcome).inc();
}
