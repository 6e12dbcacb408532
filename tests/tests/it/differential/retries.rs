//! Requests that are tried again: when, how often, with what.

use gateway_tests::client::Ask;
use http::Method;
use serde_json::{Value, json};

use super::Case;

pub(super) fn all() -> Vec<Case> {
    vec![bodies()]
}

fn get(path: &str) -> Ask {
    Ask::get("example.com", path)
}

fn post(path: &str, body: &str) -> Ask {
    let mut ask = get(path).method(Method::POST);
    ask.body = body.to_owned().into();
    ask
}

/// A case of one virtual host that tells how often a request was tried.
fn case(name: &'static str, routes: Value, asks: Vec<Ask>) -> Case {
    Case {
        name,
        routes: json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes,
            "include_attempt_count_in_response": true, "include_request_attempt_count": true}]}),
        manager: json!({}),
        clusters: Case::no_clusters(),
        warm: None,
        asks,
    }
}

/// A route to `a` with a retry policy, and no timeout that a second try would say less of.
fn route(prefix: &str, policy: Value) -> Value {
    let mut policy = policy;
    policy["retry_back_off"] = json!({"base_interval": "0.001s", "max_interval": "0.001s"});
    json!({"match": {"prefix": prefix}, "route": {"cluster": "a", "timeout": "0s", "retry_policy": policy}})
}

fn bodies() -> Case {
    let policy = json!({"retry_on": "5xx", "num_retries": 2});
    let limited = |path: &str, field: &str| {
        let mut route = route(path, policy.clone());
        route[field] = 4.into();
        route
    };
    let routes = json!([
        limited("/status/501", "per_request_buffer_limit_bytes"),
        limited("/status/502", "request_body_buffer_limit"),
        route("/", policy.clone()),
    ]);
    let paths = ["/status/503", "/status/501", "/status/502", "/"];
    let asks = paths.iter().flat_map(|path| [post(path, "123"), post(path, "12345"), get(path)]);
    case("requests with bodies are tried again", routes, asks.collect())
}
