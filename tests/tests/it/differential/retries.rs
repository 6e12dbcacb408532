//! Requests that are tried again: when, how often, with what.

use gateway_tests::client::Ask;
use http::Method;
use serde_json::{Value, json};

use super::Case;

pub(super) fn all() -> Vec<Case> {
    let mut all = vec![bodies()];
    all.extend(CONDITIONS.iter().map(|(name, on)| condition(name, on)));
    all.extend(policies());
    all.extend(asked());
    all
}

/// What each condition takes for a reason to try again.
const CONDITIONS: &[(&str, &str)] = &[
    ("server errors", "5xx"),
    ("gateway errors", "gateway-error"),
    ("conflicts", "retriable-4xx"),
    ("no connection", "connect-failure"),
    ("codes of the policy", "retriable-status-codes"),
    ("headers of the policy", "retriable-headers"),
    ("headers of Envoy's", "envoy-ratelimited"),
    ("resets", "reset,refused-stream,http3-post-connect-failure"),
    ("gRPC is unavailable", "unavailable,cancelled,deadline-exceeded,internal,resource-exhausted"),
    ("several reasons", "retriable-4xx,gateway-error"),
];

fn condition(name: &'static str, on: &str) -> Case {
    let policy = json!({"retry_on": on, "num_retries": 2, "retriable_status_codes": [418, 500],
        "retriable_headers": [{"name": "x-backend", "string_match": {"exact": "a"}}]});
    let codes = [200, 404, 409, 418, 429, 500, 501, 502, 503, 504];
    let asks = codes.map(|code| get(&format!("/status/{code}")));
    case(name, json!([route("/", policy)]), asks.to_vec())
}

fn policies() -> Vec<Case> {
    let policy = |name: &'static str, more: Value| {
        let mut policy = more;
        policy["retry_on"] = "5xx".into();
        let asks = vec![get("/status/503"), get("/"), get("/status/503").header("x-again", "yes")];
        case(name, json!([route("/", policy)]), asks)
    };
    let host = |retries: u32| {
        json!({"retry_on": "5xx", "num_retries": retries,
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"}})
    };
    let own = json!({"match": {"prefix": "/status/503"}, "route": {"cluster": "a", "timeout": "0s",
        "retry_policy": host(3)}});
    let inherits = json!({"match": {"prefix": "/"}, "route": {"cluster": "a", "timeout": "0s"}});
    let mut inherited = case(
        "a route's policy before its host's",
        json!([own, inherits]),
        vec![get("/status/503"), get("/status/500")],
    );
    inherited.routes["virtual_hosts"][0]["retry_policy"] = host(1);
    vec![
        policy("once where no number is given", json!({})),
        policy("never", json!({"num_retries": 0})),
        policy("five times", json!({"num_retries": 5})),
        policy(
            "only such requests",
            json!({"num_retries": 1, "retriable_request_headers": [
            {"name": "x-again", "string_match": {"exact": "yes"}}]}),
        ),
        policy(
            "not where it was tried",
            json!({"num_retries": 2, "host_selection_retry_max_attempts": 2,
            "retry_host_predicate": [{"name": "p", "typed_config": {"@type":
            "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}]}),
        ),
        policy("a limit for each try", json!({"num_retries": 1, "per_try_timeout": "5s"})),
        inherited,
    ]
}

/// What clients ask for in headers.
fn asked() -> Vec<Case> {
    let routes = json!([route("/", json!({"retry_on": "connect-failure", "num_retries": 1}))]);
    let ask = |headers: &[(&str, &str)]| {
        let ask = get("/status/503");
        headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value))
    };
    vec![
        case(
            "clients ask for retries",
            routes.clone(),
            vec![
                ask(&[("x-envoy-retry-on", "5xx")]),
                ask(&[("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "3")]),
                ask(&[("x-envoy-max-retries", "3")]),
                ask(&[
                    ("x-envoy-retry-on", "retriable-status-codes"),
                    ("x-envoy-retriable-status-codes", "503"),
                ]),
                ask(&[("x-envoy-retry-on", "nonsense")]),
            ],
        ),
        Case {
            manager: json!({"use_remote_address": true}),
            ..case(
                "outsiders ask for retries in vain",
                routes,
                vec![ask(&[("x-envoy-retry-on", "5xx"), ("x-forwarded-for", "1.2.3.4")])],
            )
        },
    ]
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
