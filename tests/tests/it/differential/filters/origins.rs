//! cors and csrf.

use http::Method;
use serde_json::{Value, json};

use super::{case, filter, get, percent, plain, post, route, typed};
use crate::differential::Case;

pub(super) fn all() -> Vec<Case> {
    let mut all = plain_origins();
    all.extend(corners());
    all
}

fn plain_origins() -> Vec<Case> {
    let policy = |config: Value| json!({"c": typed("cors.v3.CorsPolicy", config)});
    let all = json!({
        "allow_origin_string_match": [{"exact": "http://a.test"}, {"suffix": ".b.test"}],
        "allow_methods": "GET, PUT", "allow_headers": "x-a", "expose_headers": "x-b", "max_age": "60",
        "allow_credentials": true, "allow_private_network_access": true,
    });
    let preflight = |path: &str, origin: &str| {
        get(path)
            .method(Method::OPTIONS)
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
    };
    let cors = Case {
        name: "cors",
        routes: json!({"virtual_hosts": [{"name": "v", "domains": ["*"], "typed_per_filter_config": policy(all), "routes": [
            route("/own", policy(json!({"allow_origin_string_match": [{"prefix": "http://c"}], "allow_methods": "*"}))),
            route("/any", policy(json!({"allow_credentials": false, "allow_methods": "*", "allow_headers": "*", "expose_headers": "*"}))),
            route("/shut", policy(json!({"forward_not_matching_preflights": false}))),
            route("/off", policy(json!({"filter_enabled": percent(0)}))),
            plain("/")]}]}),
        manager: json!({"http_filters": [filter("c", "cors.v3.Cors", json!({})), filter("router", "router.v3.Router", json!({}))]}),
        clusters: Case::no_clusters(),
        warm: None,
        asks: vec![
            preflight("/", "http://a.test"),
            preflight("/", "http://a.test")
                .header("access-control-request-private-network", "true"),
            preflight("/", "http://x.b.test"),
            preflight("/", "http://evil.test"),
            preflight("/own", "http://c1"),
            preflight("/own", "http://c1").header("access-control-request-headers", "x-y"),
            preflight("/any", "http://a.test").header("access-control-request-headers", "x-y"),
            preflight("/own", "http://a.test"),
            preflight("/shut", "http://evil.test"),
            preflight("/shut", "http://a.test"),
            preflight("/off", "http://a.test"),
            get("/").method(Method::OPTIONS).header("origin", "http://a.test"),
            get("/").header("origin", "http://a.test"),
            get("/status/500").header("origin", "http://a.test"),
            get("/").header("origin", "http://evil.test"),
            get("/"),
        ],
    };
    let strict =
        json!({"filter_enabled": percent(100), "additional_origins": [{"suffix": ".friend.test"}]});
    let csrf = case(
        "csrf",
        &[filter("c", "csrf.v3.CsrfPolicy", strict)],
        json!([
            route(
                "/off",
                json!({"c": typed("csrf.v3.CsrfPolicy", json!({"filter_enabled": percent(0)}))})
            ),
            plain("/")
        ]),
        vec![
            get("/").header("origin", "http://evil.test"),
            post("/", "x"),
            post("/", "x").header("origin", "http://evil.test"),
            post("/", "x").header("origin", "https://example.com"),
            post("/", "x").header("origin", "https://example.com:444"),
            post("/", "x").header("origin", "null"),
            post("/", "x").header("origin", "http://a.friend.test"),
            post("/", "x").header("referer", "http://example.com/form?x=y"),
            post("/", "x").header("referer", "http://evil.test/example.com"),
            post("/", "x").header("origin", "example.com"),
            post("/off", "x").header("origin", "http://evil.test"),
            get("/").method(Method::DELETE).header("origin", "http://evil.test"),
        ],
    );
    vec![cors, csrf]
}

fn corners() -> Vec<Case> {
    let policy = |config: Value| json!({"c": typed("cors.v3.CorsPolicy", config)});
    let preflight = |path: &str, origin: &str| {
        get(path)
            .method(Method::OPTIONS)
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
    };
    let open = json!({"allow_origin_string_match": [{"exact": "http://a.test"}], "allow_methods": "*", "allow_headers": "*"});
    vec![
        case(
            "cors in corners",
            &[filter("c", "cors.v3.Cors", json!({}))],
            json!([
                route("/any", policy(json!({"allow_origin_string_match": [{"exact": "*"}], "allow_credentials": true, "allow_methods": "*", "allow_headers": "*"}))),
                route("/regex", policy(json!({"allow_origin_string_match": [{"safe_regex": {"regex": ".*"}}], "max_age": "1"}))),
                route("/part", policy(json!({"allow_origin_string_match": [{"contains": "a.t"}]}))),
                route("/none", policy(json!({}))),
                route("/shadow", policy(json!({"allow_origin_string_match": [{"exact": "*"}], "shadow_enabled": percent(100)}))),
                route("/onlyshadow", policy(json!({"allow_origin_string_match": [{"exact": "*"}], "filter_enabled": percent(0), "shadow_enabled": percent(100)}))),
                {"match": {"path": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "hi"}}, "typed_per_filter_config": policy(open.clone())},
                {"match": {"path": "/redirect"}, "redirect": {"path_redirect": "/x"}, "typed_per_filter_config": policy(open.clone())},
                route("/nowhere", policy(open.clone())),
                route("/", policy(open))
            ]),
            vec![
                preflight("/any", "http://x.test"),
                get("/any").header("origin", "http://x.test"),
                preflight("/regex", "http://x.test"),
                preflight("/part", "http://a.test"),
                preflight("/none", "http://a.test"),
                preflight("/shadow", "http://a.test"),
                preflight("/onlyshadow", "http://a.test"),
                preflight("/direct", "http://a.test"),
                get("/direct").header("origin", "http://a.test"),
                preflight("/redirect", "http://a.test"),
                get("/redirect").header("origin", "http://a.test"),
                preflight("/", "http://a.test"),
                get("/").header("origin", "http://a.test").header("origin", "http://b.test"),
                get("/").header("origin", "http://b.test").header("origin", "http://a.test"),
                preflight("/", "HTTP://A.TEST"),
                preflight("/", "http://a.test").header("content-type", "application/grpc"),
                get("/")
                    .header("origin", "http://a.test")
                    .header("reply-access-control-allow-origin", "*")
                    .header("reply-access-control-expose-headers", "x"),
                get("/")
                    .header("origin", "http://b.test")
                    .header("reply-access-control-allow-origin", "*"),
                get("/").header("origin", "http://a.test").header("reply-vary", "Accept"),
            ],
        ),
        case(
            "csrf in corners",
            &[filter(
                "c",
                "csrf.v3.CsrfPolicy",
                json!({"filter_enabled": percent(0), "shadow_enabled": percent(100)}),
            )],
            json!([
                route("/on", json!({"c": typed("csrf.v3.CsrfPolicy", json!({"filter_enabled": percent(100)}))})),
                {"match": {"path": "/direct"}, "direct_response": {"status": 200}, "typed_per_filter_config": {"c": typed("csrf.v3.CsrfPolicy", json!({"filter_enabled": percent(100)}))}},
                plain("/")
            ]),
            vec![
                post("/", "x").header("origin", "http://evil.test"),
                post("/on", "x").header("origin", "http://evil.test"),
                post("/on", "x").header("origin", "http://EXAMPLE.com"),
                post("/on", "x").header("origin", "http://example.com:80"),
                post("/on", "x").header("origin", "http://example.com/"),
                post("/on", "x").header("origin", "http://user@example.com"),
                post("/on", "x").header("origin", "http://example.com?x"),
                post("/on", "x")
                    .header("origin", "http://example.com")
                    .header("origin", "http://evil.test"),
                post("/on", "x").header("origin", "").header("referer", "http://example.com/x"),
                post("/on", "x").header("origin", "null").header("referer", "http://example.com/x"),
                post("/on", "x").header("referer", "example.com"),
                get("/on").method(Method::PATCH).header("origin", "http://evil.test"),
                get("/on").method(Method::PUT).header("origin", "http://evil.test"),
                get("/on").method(Method::OPTIONS).header("origin", "http://evil.test"),
                post("/on", "x")
                    .header("origin", "http://evil.test")
                    .header("content-type", "application/grpc"),
                post("/direct", "x").header("origin", "http://evil.test"),
            ],
        ),
    ]
}
