//! Filters that keep requests out.

use http::Method;
use serde_json::{Value, json};

use super::{case, filter, get, percent, plain, post, route, typed};
use crate::differential::Case;

pub(super) fn all() -> Vec<Case> {
    let mut all = origins();
    all.extend(limits());
    all.extend(access());
    all.extend(authorization());
    all.extend(authorization_by_grpc());
    all
}

fn origins() -> Vec<Case> {
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

fn limits() -> Vec<Case> {
    let limit = |bucket: Value, more: Value| {
        let mut config = json!({"stat_prefix": "x", "token_bucket": bucket, "filter_enabled": percent(100),
            "filter_enforced": percent(100), "enable_x_ratelimit_headers": "DRAFT_VERSION_03"});
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        json!({"l": typed("local_ratelimit.v3.LocalRateLimit", config)})
    };
    let two = json!({"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "600s"});
    let many = json!({"max_tokens": 100, "tokens_per_fill": 100, "fill_interval": "600s"});
    let guest = json!([{"entries": [{"key": "role", "value": "guest"}], "token_bucket": {"max_tokens": 1, "fill_interval": "600s"}}]);
    let by_role = json!([{"actions": [{"request_headers": {"header_name": "x-role", "descriptor_key": "role"}}]}]);
    let mut roles = route("/roles", limit(many.clone(), json!({"descriptors": guest})));
    roles["route"]["rate_limits"] = by_role.clone();
    let of = |path: &str, role: &str| get(path).header("x-role", role);
    vec![case(
        "local rate limits",
        &[filter("l", "local_ratelimit.v3.LocalRateLimit", json!({"stat_prefix": "x"}))],
        json!([
            route("/two", limit(two.clone(), json!({}))),
            route(
                "/status",
                limit(
                    json!({"max_tokens": 1, "fill_interval": "600s"}),
                    json!({
                "status": {"code": "ServiceUnavailable"}, "enable_x_ratelimit_headers": "OFF",
                "response_headers_to_add": [{"header": {"key": "x-why", "value": "limit %REQ(x-role)%"}}]})
                )
            ),
            route(
                "/marked",
                limit(
                    json!({"max_tokens": 1, "fill_interval": "600s"}),
                    json!({
                "filter_enforced": percent(0),
                "request_headers_to_add_when_not_enforced": [{"header": {"key": "x-over", "value": "1"}}]})
                )
            ),
            roles,
            route("/own", limit(many, json!({"descriptors": guest, "rate_limits": by_role}))),
            plain("/")
        ]),
        vec![
            get("/two"),
            get("/two"),
            get("/two"),
            get("/two").header("content-type", "application/grpc"),
            of("/status", "r"),
            of("/status", "r"),
            get("/marked"),
            get("/marked"),
            of("/roles", "guest"),
            of("/roles", "guest"),
            of("/roles", "admin"),
            of("/own", "guest"),
            of("/own", "guest"),
            of("/own", "admin"),
            get("/own"),
            get("/x"),
        ],
    )]
}

fn access() -> Vec<Case> {
    let any = json!([{"any": true}]);
    let rules = |action: &str, permission: Value, principal: Value| json!({"rules": {"action": action, "policies": {"p": {"permissions": [permission], "principals": [principal]}}}});
    let rbac = |rules: Value| json!({"r": typed("rbac.v3.RBACPerRoute", json!({"rbac": rules}))});
    let header = |name: &str, value: &str| json!({"header": {"name": name, "string_match": {"exact": value}}});
    let any_one = || json!({"any": true});
    vec![case(
        "rbac",
        &[filter(
            "r",
            "rbac.v3.RBAC",
            json!({"rules": {"action": "ALLOW", "policies": {
            "readers": {"permissions": [{"and_rules": {"rules": [header(":method", "GET"), {"url_path": {"path": {"prefix": "/r"}}}]}}], "principals": any},
            "admins": {"permissions": any, "principals": [header("x-role", "admin")]},
            "local": {"permissions": [{"url_path": {"path": {"exact": "/local"}}}], "principals": [{"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}]}}}}),
        )],
        json!([
            route(
                "/deny",
                rbac(rules("DENY", json!({"not_rule": {"destination_port": 1}}), any_one()))
            ),
            route("/port", rbac(rules("DENY", json!({"destination_port": 1}), any_one()))),
            route(
                "/sni",
                rbac(rules("ALLOW", json!({"requested_server_name": {"exact": "x"}}), any_one()))
            ),
            route("/tls", rbac(rules("ALLOW", any_one(), json!({"authenticated": {}})))),
            route(
                "/remote",
                rbac(rules(
                    "ALLOW",
                    any_one(),
                    json!({"remote_ip": {"address_prefix": "9.9.9.9", "prefix_len": 32}})
                ))
            ),
            route("/log", rbac(rules("LOG", any_one(), any_one()))),
            route("/empty", rbac(json!({"rules": {"policies": {}}}))),
            route("/off", json!({"r": typed("rbac.v3.RBACPerRoute", json!({}))})),
            plain("/")
        ]),
        vec![
            get("/r?x"),
            post("/r", ""),
            get("/w"),
            get("/w").header("x-role", "admin"),
            get("/w").header("x-role", "user"),
            get("/w").header("content-type", "application/grpc"),
            get("/local"),
            get("/local?x=y"),
            get("/deny"),
            get("/port"),
            get("/sni"),
            get("/tls"),
            get("/remote"),
            get("/remote").header("x-forwarded-for", "9.9.9.9"),
            get("/log"),
            get("/empty"),
            get("/off"),
        ],
    )]
}

fn authorization_by_grpc() -> Vec<Case> {
    let check = |config: Value| json!({"e": typed("ext_authz.v3.ExtAuthzPerRoute", config)});
    let service = |cluster: &str| json!({"envoy_grpc": {"cluster_name": cluster}, "timeout": "1s"});
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

fn authorization() -> Vec<Case> {
    let patterns = |names: &[&str]| {
        let patterns: Vec<_> = names.iter().map(|name| json!({"exact": name})).collect();
        json!({"patterns": patterns})
    };
    // The backends answer /status/N with N: they make do as a service that authorizes.
    let service = |cluster: &str, request: Value, response: Value| {
        json!({"server_uri": {"uri": "http://authz.test", "cluster": cluster, "timeout": "0.3s"},
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
                user("/slow/600"),
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
            vec![user("/status/503"), user("/slow/600"), user("/nobody"), user("/status/403")],
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
