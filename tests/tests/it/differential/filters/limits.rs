//! local_ratelimit.

use serde_json::{Value, json};

use super::{case, filter, get, percent, plain, route, typed};
use crate::differential::Case;

pub(super) fn all() -> Vec<Case> {
    let mut all = usual();
    all.extend(descriptors());
    all.extend(levels());
    all
}

/// A filter of such a limit that always counts.
fn limit(bucket: &Value, more: Value) -> Value {
    let mut config = json!({"stat_prefix": "x", "token_bucket": bucket, "filter_enabled": percent(100),
        "filter_enforced": percent(100), "enable_x_ratelimit_headers": "DRAFT_VERSION_03"});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    json!({"l": typed("local_ratelimit.v3.LocalRateLimit", config)})
}

fn tokens(max: u32) -> Value {
    json!({"max_tokens": max, "tokens_per_fill": max.max(1), "fill_interval": "600s"})
}

fn chain() -> Vec<Value> {
    vec![filter("l", "local_ratelimit.v3.LocalRateLimit", json!({"stat_prefix": "x"}))]
}

fn descriptors() -> Vec<Case> {
    let of = |path: &str, role: &str| get(path).header("x-role", role);
    let by_role = json!([{"actions": [{"request_headers": {"header_name": "x-role", "descriptor_key": "role"}}]}]);
    let counted = |hits: Value| json!([{"actions": [{"generic_key": {"descriptor_value": "v"}}], "hits_addend": hits}]);
    let descriptor =
        |entries: Value, max: u32| json!({"entries": entries, "token_bucket": tokens(max)});
    let role = |value: &str| json!([{"key": "role", "value": value}]);
    let generic = || json!([{"key": "generic_key", "value": "v"}]);
    let own = |rules: &Value, descriptors: Value, more: Value| {
        let mut config = json!({"rate_limits": rules, "descriptors": descriptors});
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        limit(&tokens(100), config)
    };
    let shadow =
        json!([{"entries": role("guest"), "token_bucket": tokens(1), "shadow_mode": true}]);
    let many = ["a", "a", "b", "b", "admin", "admin", "admin"];
    let mut asks: Vec<_> = many.map(|role| of("/open", role)).to_vec();
    asks.extend(["a", "b", "c", "a"].map(|role| of("/two", role)));
    asks.extend(["", "", ""].map(|_| get("/number")));
    asks.extend(["3", "3", "2", "none", "1"].map(|hits| of("/told", hits)));
    asks.extend(["guest", "guest", "guest"].map(|role| of("/shadow", role)));
    asks.extend([of("/both", "guest"), get("/both"), of("/both", "guest"), of("/both", "guest")]);
    asks.extend([
        get("/never"),
        get("/never").header("content-type", "application/grpc"),
        get("/retry"),
        get("/own-retry"),
        get("/other-retry"),
    ]);
    let both = json!([
        {"actions": [{"request_headers": {"header_name": "x-role", "descriptor_key": "role"}}]},
        {"actions": [{"generic_key": {"descriptor_value": "v"}}]}]);
    let retry = json!({"enable_retry_after_header": true});
    let own_retry = json!({"enable_retry_after_header": true, "response_headers_to_add": [{"header": {"key": "Retry-After", "value": "7"}}]});
    let other_retry =
        json!({"enable_retry_after_header": true, "status": {"code": "ServiceUnavailable"}});
    vec![case(
        "local rate limits of descriptors",
        &chain(),
        json!([
            route(
                "/open",
                own(
                    &by_role,
                    json!([descriptor(json!([{"key": "role"}]), 1), descriptor(role("admin"), 2)]),
                    json!({})
                )
            ),
            route(
                "/two",
                own(
                    &by_role,
                    json!([descriptor(json!([{"key": "role"}]), 1)]),
                    json!({"max_dynamic_descriptors": 2})
                )
            ),
            route(
                "/number",
                own(&counted(json!({"number": 2})), json!([descriptor(generic(), 5)]), json!({}))
            ),
            route(
                "/told",
                own(
                    &counted(json!({"format": "%REQ(x-role)%"})),
                    json!([descriptor(generic(), 5)]),
                    json!({})
                )
            ),
            route("/shadow", own(&by_role, shadow, json!({}))),
            route(
                "/both",
                own(
                    &both,
                    json!([descriptor(generic(), 3), descriptor(role("guest"), 1)]),
                    json!({"always_consume_default_token_bucket": false})
                )
            ),
            route("/never", limit(&tokens(0), json!({"rate_limited_as_resource_exhausted": true}))),
            route("/retry", limit(&tokens(0), retry)),
            route("/own-retry", limit(&tokens(0), own_retry)),
            route("/other-retry", limit(&tokens(0), other_retry)),
            plain("/")
        ]),
        asks,
    )]
}

fn levels() -> Vec<Case> {
    let rule = |value: &str| json!([{"actions": [{"generic_key": {"descriptor_value": value}}]}]);
    let known = |value: &str, max: u32| json!({"entries": [{"key": "generic_key", "value": value}], "token_bucket": tokens(max)});
    let config = |more: Value| {
        let mut config = json!({"descriptors": [known("host", 2), known("route", 50)]});
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        limit(&tokens(100), config)
    };
    let with = |prefix: &str, limits: Value, filters: Value, includes: bool| {
        json!({
        "match": {"prefix": prefix}, "typed_per_filter_config": filters,
        "route": {"cluster": "a", "rate_limits": limits, "include_vh_rate_limits": includes}})
    };
    let mut all = case(
        "local rate limits of virtual hosts and routes",
        &chain(),
        json!([]),
        [
            "/host",
            "/host",
            "/host",
            "/override",
            "/include",
            "/include",
            "/include",
            "/ignore",
            "/flag",
            "/flag",
            "/flag",
            "/weighted",
            "/weighted",
            "/direct",
            "/direct",
            "/redirect",
            "/redirect",
            "/twice",
            "/twice",
        ]
        .map(get)
        .to_vec(),
    );
    all.routes = json!({"virtual_hosts": [{"name": "v", "domains": ["*"], "rate_limits": rule("host"),
        "typed_per_filter_config": config(json!({})), "routes": [
            with("/host", json!([]), config(json!({})), false),
            with("/override", rule("route"), config(json!({"vh_rate_limits": "OVERRIDE"})), false),
            with("/include", rule("route"), config(json!({"vh_rate_limits": "INCLUDE"})), false),
            with("/ignore", json!([]), config(json!({"vh_rate_limits": "IGNORE"})), false),
            with("/flag", rule("route"), config(json!({})), true),
            {"match": {"prefix": "/weighted"}, "route": {"weighted_clusters": {"clusters": [
                {"name": "b", "weight": 1, "typed_per_filter_config": limit(&tokens(1), json!({}))}]}}},
            {"match": {"prefix": "/direct"}, "direct_response": {"status": 200}, "typed_per_filter_config": limit(&tokens(1), json!({}))},
            {"match": {"prefix": "/redirect"}, "redirect": {"path_redirect": "/x"}, "typed_per_filter_config": limit(&tokens(1), json!({}))},
            plain("/")]}]});
    let twice = limit(&tokens(3), json!({}))["l"].take();
    let same = json!({"name": "l", "typed_config": twice});
    let asks = || ["/", "/", "/", "/"].map(get).to_vec();
    vec![
        all,
        case(
            "two filters of one name and one bucket each",
            &[same.clone(), same.clone()],
            json!([plain("/")]),
            asks(),
        ),
        case(
            "two filters of one name that a route configures",
            &[same.clone(), same],
            json!([route("/", limit(&tokens(3), json!({})))]),
            asks(),
        ),
    ]
}

fn usual() -> Vec<Case> {
    let two = json!({"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "600s"});
    let many = json!({"max_tokens": 100, "tokens_per_fill": 100, "fill_interval": "600s"});
    let guest = json!([{"entries": [{"key": "role", "value": "guest"}], "token_bucket": {"max_tokens": 1, "fill_interval": "600s"}}]);
    let by_role = json!([{"actions": [{"request_headers": {"header_name": "x-role", "descriptor_key": "role"}}]}]);
    let mut roles = route("/roles", limit(&many, json!({"descriptors": guest})));
    roles["route"]["rate_limits"] = by_role.clone();
    let of = |path: &str, role: &str| get(path).header("x-role", role);
    vec![case(
        "local rate limits",
        &[filter("l", "local_ratelimit.v3.LocalRateLimit", json!({"stat_prefix": "x"}))],
        json!([
            route("/two", limit(&two, json!({}))),
            route(
                "/status",
                limit(
                    &json!({"max_tokens": 1, "fill_interval": "600s"}),
                    json!({
                "status": {"code": "ServiceUnavailable"}, "enable_x_ratelimit_headers": "OFF",
                "response_headers_to_add": [{"header": {"key": "x-why", "value": "limit %REQ(x-role)%"}}]})
                )
            ),
            route(
                "/marked",
                limit(
                    &json!({"max_tokens": 1, "fill_interval": "600s"}),
                    json!({
                "filter_enforced": percent(0),
                "request_headers_to_add_when_not_enforced": [{"header": {"key": "x-over", "value": "1"}}]})
                )
            ),
            roles,
            route("/own", limit(&many, json!({"descriptors": guest, "rate_limits": by_role}))),
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
