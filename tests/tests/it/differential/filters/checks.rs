//! health_check.

use http::Method;
use serde_json::{Value, json};

use super::{case, filter, get, plain, post};
use crate::differential::Case;

pub(super) fn all() -> Vec<Case> {
    let health = |config: Value| {
        let mut config = config;
        config["headers"] = json!([{"name": ":path", "string_match": {"prefix": "/healthz"}}]);
        filter("h", "health_check.v3.HealthCheck", config)
    };
    let least = |percent: f64, cluster: &str| {
        health(
            json!({"pass_through_mode": false, "cluster_min_healthy_percentages": {cluster: {"value": percent}}}),
        )
    };
    let ask = || {
        vec![get("/healthz"), get("/healthz").header("content-type", "application/grpc"), get("/x")]
    };
    let all = |config: Value| {
        let mut config = config;
        config["headers"] = json!([{"name": ":path", "string_match": {"exact": "/healthz"}}]);
        filter("h", "health_check.v3.HealthCheck", config)
    };
    vec![
        case(
            "health checks are answered",
            &[all(json!({"pass_through_mode": false}))],
            json!([plain("/x")]),
            vec![
                get("/healthz"),
                get("/healthz?x"),
                get("/x"),
                post("/healthz", "x"),
                get("/healthz").method(Method::HEAD),
            ],
        ),
        case(
            "health checks pass through",
            &[all(json!({"pass_through_mode": true}))],
            json!([plain("/")]),
            vec![get("/healthz"), get("/x")],
        ),
        case(
            "a cluster that is not there fails health checks",
            &[least(0.0, "nowhere")],
            json!([plain("/")]),
            ask(),
        ),
        case(
            "no part of a cluster need be healthy",
            &[least(0.0, "a")],
            json!([plain("/")]),
            ask(),
        ),
        case("all of a cluster must be healthy", &[least(100.0, "a")], json!([plain("/")]), ask()),
        case(
            "answers to health checks are kept",
            &[health(json!({"pass_through_mode": true, "cache_time": "600s"}))],
            json!([plain("/")]),
            vec![get("/healthz"), get("/healthz"), get("/x"), get("/healthz/status")],
        ),
        case(
            "any request is a health check",
            &[filter("h", "health_check.v3.HealthCheck", json!({"pass_through_mode": false}))],
            json!([plain("/")]),
            ask(),
        ),
    ]
}
