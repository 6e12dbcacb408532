//! ext_authz.

use serde_json::{Value, json};

use super::{case, filter, get, percent, plain, post, route, typed};
use crate::differential::Case;

pub(super) fn all() -> Vec<Case> {
    let mut all = by_http();
    all.extend(by_grpc());
    all.extend(corners());
    all.extend(mutations());
    all
}

/// A chain that asks by gRPC.
fn asks(config: Value) -> Vec<Value> {
    let mut config = config;
    if config.get("grpc_service").is_none() {
        config["grpc_service"] = json!({"envoy_grpc": {"cluster_name": "authz"}, "timeout": "2s"});
    }
    vec![
        super::says("x-who", "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:who)%"),
        filter("e", "ext_authz.v3.ExtAuthz", config),
    ]
}

fn corners() -> Vec<Case> {
    let check = |config: Value| json!({"e": typed("ext_authz.v3.ExtAuthzPerRoute", config)});
    let settings = |config: Value| check(json!({"check_settings": config}));
    let nowhere = json!({"envoy_grpc": {"cluster_name": "nowhere"}, "timeout": "2s"});
    let denials = [
        "",
        "/bare",
        "/silent",
        "/cookies",
        "/appends",
        "/ok-part",
        "/wrongly",
        "/error",
        "/error-silent",
        "/error-ok",
        "/metadata",
        "/status",
    ];
    let denials = || denials.map(|how| get(&format!("/deny{how}"))).to_vec();
    let mut levels = case(
        "ext_authz takes all but extensions from one level",
        &asks(json!({"with_request_body": {"max_request_bytes": 100}})),
        json!([]),
        vec![
            post("/plain", "body"),
            post("/own", "body"),
            post("/silent", "body"),
            post("/off", "body"),
            post("/on", "body"),
        ],
    );
    levels.routes = json!({"virtual_hosts": [{"name": "v", "domains": ["*"],
        "typed_per_filter_config": settings(json!({"context_extensions": {"host": "v"}, "disable_request_body_buffering": true, "grpc_service": nowhere})),
        "routes": [
            route("/own", settings(json!({"context_extensions": {"route": "r"}}))),
            route("/off", check(json!({"disabled": true}))),
            route("/on", check(json!({"disabled": false}))),
            plain("/")]}]});
    let mut off = asks(json!({}));
    off[1]["disabled"] = true.into();
    vec![
        case("ext_authz says no in many ways", &asks(json!({})), json!([plain("/")]), denials()),
        case(
            "ext_authz says no in many ways, and errors pass",
            &asks(json!({"failure_mode_allow": true, "failure_mode_allow_header_add": true})),
            json!([plain("/")]),
            denials(),
        ),
        levels,
        case(
            "ext_authz that is off until a route has it",
            &off,
            json!([
                route("/deny/on", check(json!({"disabled": false}))),
                route("/deny/off", check(json!({"disabled": true}))),
                route("/deny/settings", settings(json!({}))),
                plain("/")
            ]),
            ["/deny/on", "/deny/off", "/deny/settings", "/deny/plain"].map(get).to_vec(),
        ),
        case(
            "ext_authz is asked of no request",
            &asks(
                json!({"filter_enabled": percent(0), "deny_at_disable": {"default_value": true, "runtime_key": "x"}, "status_on_error": {"code": "ServiceUnavailable"}}),
            ),
            json!([route("/off", check(json!({"disabled": true}))), plain("/")]),
            vec![get("/x"), get("/off"), get("/x").header("content-type", "application/grpc")],
        ),
        case(
            "ext_authz is asked where metadata says so",
            &asks(
                json!({"filter_enabled_metadata": {"filter": "x", "path": [{"key": "y"}], "value": {"present_match": true}}}),
            ),
            json!([plain("/")]),
            vec![get("/deny")],
        ),
        case(
            "ext_authz is asked where metadata does not say otherwise",
            &asks(
                json!({"filter_enabled_metadata": {"filter": "x", "path": [{"key": "y"}], "value": {"present_match": true}, "invert": true}}),
            ),
            json!([plain("/")]),
            vec![get("/deny")],
        ),
        case(
            "ext_authz sees raw headers and bodies",
            &asks(
                json!({"encode_raw_headers": true, "with_request_body": {"max_request_bytes": 4, "allow_partial_message": true, "pack_as_bytes": true}}),
            ),
            json!([plain("/")]),
            vec![
                get("/plain").header("x-a", "1").header("x-a", "2"),
                post("/plain", "body"),
                post("/plain", "a body"),
                post("/plain", ""),
            ],
        ),
        case(
            "ext_authz sees some headers",
            &asks(
                json!({"allowed_headers": {"patterns": [{"prefix": "x-"}, {"exact": ":path"}]}, "disallowed_headers": {"patterns": [{"exact": "x-secret"}]}}),
            ),
            json!([plain("/")]),
            vec![
                get("/plain")
                    .header("x-a", "1")
                    .header("x-secret", "2")
                    .header("accept", "x")
                    .header("x-envoy-downstream-service-cluster", "me"),
            ],
        ),
        case(
            "ext_authz leaves nothing",
            &asks(json!({"enable_dynamic_metadata_ingestion": false})),
            json!([plain("/")]),
            vec![get("/ok/metadata"), get("/deny/metadata")],
        ),
        case(
            "ext_authz cuts what it says",
            &asks(json!({"max_denied_response_body_bytes": 5})),
            json!([plain("/")]),
            vec![get("/deny"), get("/deny/error")],
        ),
    ]
}

fn mutations() -> Vec<Case> {
    let consents = [
        "",
        "/bare",
        "/actions",
        "/response-actions",
        "/response-appends",
        "/query",
        "/query-remove",
        "/removes",
        "/path",
        "/host",
        "/host-name",
        "/route",
        "/metadata",
        "/envoy",
        "/empty",
    ];
    let ask = |how: &str| {
        get(&format!("/ok{how}?a=1&b=2&a=3&c"))
            .header("x-one", "old")
            .header("x-secret", "s")
            .header("reply-x-one", "theirs")
    };
    let consents = || consents.map(ask).to_vec();
    let by_route = json!([
        {"match": {"prefix": "/", "headers": [{"name": "x-route", "string_match": {"exact": "b"}}]}, "route": {"cluster": "b"}, "response_headers_to_add": [{"header": {"key": "x-to", "value": "b"}}]},
        {"match": {"prefix": "/changed"}, "route": {"cluster": "c"}},
        plain("/")
    ]);
    let clears = json!({"clear_route_cache": true});
    let late = |config: Value| {
        let mut filters = asks(config);
        filters.push(filter("f", "fault.v3.HTTPFault", json!({})));
        filters
    };
    let mut faulty = by_route.clone();
    faulty[0]["typed_per_filter_config"] = json!({"f": typed("fault.v3.HTTPFault", json!({"abort": {"http_status": 418, "percentage": {"numerator": 100}}}))});
    vec![
        case("ext_authz changes requests", &asks(json!({})), by_route.clone(), consents()),
        case(
            "ext_authz changes requests and so routes",
            &asks(clears.clone()),
            by_route,
            consents(),
        ),
        case(
            "filters behind have the new route",
            &late(clears),
            faulty.clone(),
            vec![ask("/route"), ask("/bare")],
        ),
        case(
            "filters behind have the old route",
            &late(json!({})),
            faulty,
            vec![ask("/route"), ask("/bare")],
        ),
        case(
            "ext_authz may not say what is invalid",
            &asks(json!({"validate_mutations": true})),
            json!([plain("/")]),
            vec![
                ask("/invalid-name"),
                ask("/invalid-value"),
                ask("/actions"),
                ask("/query"),
                ask("/query-bad"),
                ask("/value/ab9"),
                ask("/value/a-b"),
                ask("/value/a.b"),
                ask("/value/a_b"),
                ask("/value/a~b"),
                ask("/value/a/b"),
                get("/deny/invalid"),
                get("/deny"),
            ],
        ),
        case(
            "ext_authz may change few headers",
            &asks(json!({"decoder_header_mutation_rules": {}})),
            json!([plain("/")]),
            consents(),
        ),
        case(
            "ext_authz may change all headers",
            &asks(
                json!({"decoder_header_mutation_rules": {"allow_all_routing": true, "allow_envoy": true}}),
            ),
            json!([plain("/")]),
            consents(),
        ),
        case(
            "ext_authz may change no header",
            &asks(
                json!({"decoder_header_mutation_rules": {"disallow_all": true, "allow_expression": {"regex": "x-o.*"}}}),
            ),
            json!([plain("/")]),
            consents(),
        ),
        case(
            "ext_authz fails where it changes what it may not",
            &asks(
                json!({"decoder_header_mutation_rules": {"disallow_expression": {"regex": "x-one"}, "disallow_is_error": true}}),
            ),
            json!([plain("/")]),
            consents(),
        ),
    ]
}

fn by_http() -> Vec<Case> {
    let patterns = |names: &[&str]| {
        let patterns: Vec<_> = names.iter().map(|name| json!({"exact": name})).collect();
        json!({"patterns": patterns})
    };
    // The backends answer /status/N with N: they make do as a service that authorizes.
    let service = |cluster: &str, request: Value, response: Value| {
        json!({"server_uri": {"uri": "http://authz.test", "cluster": cluster, "timeout": "2s"},
            "authorization_request": request, "authorization_response": response})
    };
    let check = |config: Value| json!({"e": typed("ext_authz.v3.ExtAuthzPerRoute", config)});
    let base = json!({"http_service": service(
        "b",
        json!({"allowed_headers": patterns(&["x-user"]), "headers_to_add": [{"key": "x-added", "value": "1"}]}),
        json!({"allowed_upstream_headers": patterns(&["x-backend"]), "allowed_client_headers": patterns(&["content-type"]),
            "allowed_client_headers_on_success": patterns(&["x-backend"])})
    )});
    let with = |more: Value| {
        let mut config = base.clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        [filter("e", "ext_authz.v3.ExtAuthz", config)]
    };
    let nobody = service("nowhere", json!({}), json!({}));
    let routes = || {
        json!([
            route("/skip", check(json!({"disabled": true}))),
            route(
                "/other",
                check(
                    json!({"check_settings": {"http_service": service("c", json!({}), json!({}))}})
                )
            ),
            route("/nobody", check(json!({"check_settings": {"http_service": nobody}}))),
            plain("/")
        ])
    };
    let user = |path: &str| get(path).header("x-user", "ann").header("x-secret", "s");
    vec![
        case(
            "ext_authz by HTTP",
            &with(json!({})),
            routes(),
            vec![
                user("/yes?q=1"),
                user("/status/403"),
                user("/status/401"),
                user("/status/503"),
                user("/status/302"),
                user("/slow/5000"),
                user("/skip/status/403"),
                user("/other"),
                user("/nobody"),
                post("/yes", "body").header("authorization", "Basic eDp5"),
                get("/status/403").header("content-type", "application/grpc"),
            ],
        ),
        case(
            "ext_authz fails open",
            &with(json!({"failure_mode_allow": true, "failure_mode_allow_header_add": true})),
            routes(),
            vec![user("/status/503"), user("/slow/5000"), user("/nobody"), user("/status/403")],
        ),
        case(
            "ext_authz fails with a status",
            &with(json!({"status_on_error": {"code": "ServiceUnavailable"}})),
            routes(),
            vec![user("/nobody"), user("/status/500")],
        ),
        case(
            "ext_authz sees bodies",
            &with(json!({"with_request_body": {"max_request_bytes": 8}})),
            routes(),
            vec![
                post("/yes", "12345678"),
                post("/yes", "123456789"),
                get("/yes"),
                post("/status/403", "1"),
                post("/skip", "123456789"),
            ],
        ),
        case(
            "ext_authz sees part of a body",
            &with(
                json!({"with_request_body": {"max_request_bytes": 4, "allow_partial_message": true}}),
            ),
            routes(),
            vec![
                post("/yes", "123456789"),
                post("/status/403", "123456789"),
                post("/status/403", "1"),
            ],
        ),
    ]
}

fn by_grpc() -> Vec<Case> {
    let check = |config: Value| json!({"e": typed("ext_authz.v3.ExtAuthzPerRoute", config)});
    let service = |cluster: &str| json!({"envoy_grpc": {"cluster_name": cluster}, "timeout": "2s"});
    let config =
        json!({"grpc_service": service("authz"), "with_request_body": {"max_request_bytes": 20}});
    let told = json!({"context_extensions": {"route": "told", "b": "2"}});
    let silent = json!({"disable_request_body_buffering": true, "context_extensions": {"a": "1"}});
    let routes = json!({"virtual_hosts": [{"name": "v", "domains": ["*"],
        "typed_per_filter_config": check(json!({"check_settings": {"context_extensions": {"host": "v", "b": "1"}}})),
        "routes": [
            route("/told", check(json!({"check_settings": told}))),
            route("/silent", check(json!({"check_settings": silent}))),
            route("/nobody", check(json!({"check_settings": {"grpc_service": service("nowhere")}}))),
            route("/off", check(json!({"disabled": true}))),
            plain("/")]}]});
    let with = |path: &str| {
        get(path).header("x-secret", "s").header("x-set", "old").header("x-append", "some")
    };
    let mut case = case(
        "ext_authz by gRPC",
        &[filter("e", "ext_authz.v3.ExtAuthz", config)],
        json!([]),
        vec![
            with("/yes?q=1"),
            with("/told"),
            with("/off"),
            with("/deny"),
            with("/fail"),
            with("/nobody"),
            post("/yes", "body"),
            post("/silent", "body"),
            post("/yes", "a body that is too long"),
            get("/deny").header("content-type", "application/grpc"),
            get("/yes").header("x-a", "1").header("x-a", "2"),
        ],
    );
    case.routes = routes;
    vec![case]
}
