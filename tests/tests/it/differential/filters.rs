//! HTTP filters: chains, what routes say of them, and requests.

mod guards;

use bytes::Bytes;
use gateway_tests::client::Ask;
use http::Method;
use serde_json::{Value, json};

use super::Case;

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http.";

fn get(path: &str) -> Ask {
    Ask::get("example.com", path)
}

fn post(path: &str, body: &str) -> Ask {
    Ask { body: Bytes::copy_from_slice(body.as_bytes()), ..get(path).method(Method::POST) }
}

/// A message of a filter; `kind` is folder and message.
fn typed(kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("{FILTERS}{kind}").into();
    config
}

fn filter(name: &str, kind: &str, config: Value) -> Value {
    json!({"name": name, "typed_config": typed(kind, config)})
}

fn case(name: &'static str, filters: &[Value], routes: Value, asks: Vec<Ask>) -> Case {
    let mut filters = filters.to_vec();
    filters.push(filter("router", "router.v3.Router", json!({})));
    Case {
        name,
        routes: json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}),
        manager: json!({"http_filters": filters}),
        clusters: Case::no_clusters(),
        warm: None,
        asks,
    }
}

/// A route to cluster `a` with something said of filters.
fn route(prefix: &str, filters: Value) -> Value {
    json!({"match": {"prefix": prefix}, "route": {"cluster": "a"}, "typed_per_filter_config": filters})
}

fn plain(prefix: &str) -> Value {
    route(prefix, json!({}))
}

fn percent(numerator: u32) -> Value {
    json!({"default_value": {"numerator": numerator}})
}

pub(super) fn all() -> Vec<Case> {
    let mut all = overrides();
    all.extend(faults());
    all.extend(bodies());
    all.extend(guards::all());
    all.extend(others());
    all
}

fn overrides() -> Vec<Case> {
    let switch = |config: Value| {
        let mut config = config;
        config["@type"] = "type.googleapis.com/envoy.config.route.v3.FilterConfig".into();
        json!({"f": config})
    };
    let abort =
        |status: u16| json!({"abort": {"http_status": status, "percentage": {"numerator": 100}}});
    let own = |status: u16| json!({"f": typed("fault.v3.HTTPFault", abort(status))});
    let nested = |status: u16| switch(json!({"config": own(status)["f"]}));
    let asks = || ["/plain", "/off", "/own", "/nested"].map(get).to_vec();
    let routes = json!([
        route("/off", switch(json!({"disabled": true}))),
        route("/own", own(430)),
        route("/nested", nested(431)),
        plain("/")
    ]);
    let chain = |is_disabled: bool| {
        let mut fault = filter("f", "fault.v3.HTTPFault", abort(418));
        fault["disabled"] = is_disabled.into();
        [fault]
    };
    let add = |value: &str| {
        json!({"mutations": {
        "request_mutations": [{"append": {"header": {"key": "x-at", "value": value}}}],
        "response_mutations": [{"append": {"header": {"key": "x-at", "value": value}}}]}})
    };
    let per_route =
        |value: &str| json!({"h": typed("header_mutation.v3.HeaderMutationPerRoute", add(value))});
    let levels = |name: &'static str, most_specific: bool| {
        let mut base = add("listener");
        base["most_specific_header_mutations_wins"] = most_specific.into();
        let filters = [
            filter("h", "header_mutation.v3.HeaderMutation", base),
            filter("router", "router.v3.Router", json!({})),
        ];
        Case {
            name,
            routes: json!({
                "virtual_hosts": [{"name": "v", "domains": ["*"], "typed_per_filter_config": per_route("host"), "routes": [
                    {"match": {"prefix": "/w"}, "typed_per_filter_config": per_route("route"), "route": {"weighted_clusters": {"clusters": [
                        {"name": "b", "weight": 1, "typed_per_filter_config": per_route("cluster")}]}}},
                    route("/r", per_route("route")), plain("/")]}],
                "typed_per_filter_config": per_route("table"),
            }),
            manager: json!({"http_filters": filters}),
            clusters: Case::no_clusters(),
            warm: None,
            asks: ["/w", "/r", "/x"].map(get).to_vec(),
        }
    };
    vec![
        case("routes turn a filter on and off", &chain(false), routes.clone(), asks()),
        case("routes turn on a filter that is off", &chain(true), routes, asks()),
        levels("all levels change headers", false),
        levels("all levels change headers, the most specific last", true),
        case(
            "filters run without a route and before redirects",
            &[
                filter("f", "fault.v3.HTTPFault", abort(418)),
                filter("h", "header_mutation.v3.HeaderMutation", add("x")),
            ],
            json!([
                {"match": {"path": "/r"}, "redirect": {"https_redirect": true}},
                {"match": {"path": "/d"}, "direct_response": {"status": 204}},
            ]),
            ["/r", "/d", "/none"].map(get).to_vec(),
        ),
        case(
            "replies of ours pass through filters",
            &[filter("h", "header_mutation.v3.HeaderMutation", add("x"))],
            json!([
                {"match": {"path": "/r"}, "redirect": {"https_redirect": true}},
                {"match": {"path": "/d"}, "direct_response": {"status": 200, "body": {"inline_string": "hi"}}},
                {"match": {"path": "/n"}, "route": {"cluster": "nowhere"}},
            ]),
            ["/r", "/d", "/n", "/none"].map(get).to_vec(),
        ),
    ]
}

fn faults() -> Vec<Case> {
    let all = json!({"numerator": 100});
    let fault = |config: Value| json!({"f": typed("fault.v3.HTTPFault", config)});
    vec![case(
        "faults",
        &[filter("f", "fault.v3.HTTPFault", json!({}))],
        json!([
            route(
                "/abort",
                fault(
                    json!({"abort": {"http_status": 503, "percentage": all, "response_body": "broken"}})
                )
            ),
            route("/grpc", fault(json!({"abort": {"grpc_status": 5, "percentage": all}}))),
            route(
                "/never",
                fault(json!({"abort": {"http_status": 503, "percentage": {"numerator": 0}}}))
            ),
            route("/unset", fault(json!({"abort": {"http_status": 503}}))),
            route(
                "/header",
                fault(
                    json!({"abort": {"header_abort": {}, "percentage": all}, "delay": {"header_delay": {}, "percentage": all}})
                )
            ),
            route(
                "/match",
                fault(
                    json!({"abort": {"http_status": 503, "percentage": all}, "headers": [{"name": "x-f", "present_match": true}]})
                )
            ),
            route(
                "/cluster",
                fault(
                    json!({"abort": {"http_status": 503, "percentage": all}, "upstream_cluster": "b"})
                )
            ),
            plain("/")
        ]),
        vec![
            get("/abort"),
            get("/abort").header("content-type", "application/grpc"),
            get("/grpc"),
            get("/grpc").header("content-type", "application/grpc"),
            get("/never"),
            get("/unset"),
            get("/header"),
            get("/header").header("x-envoy-fault-abort-request", "429"),
            get("/header").header("x-envoy-fault-abort-request", "199"),
            get("/header").header("x-envoy-fault-abort-grpc-request", "5"),
            get("/header")
                .header("x-envoy-fault-abort-request", "429")
                .header("x-envoy-fault-abort-request-percentage", "0"),
            get("/header").header("x-envoy-fault-delay-request", "50"),
            get("/match"),
            get("/match").header("x-f", "1"),
            get("/cluster"),
            get("/x"),
        ],
    )]
}

fn bodies() -> Vec<Case> {
    let buffer = |config: Value| json!({"b": typed("buffer.v3.BufferPerRoute", config)});
    let library = |kind: &str| json!({"name": "x", "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.compression.{kind}")}});
    let compressor = |name: &str, kind: &str, direction: Value| {
        let config =
            json!({"compressor_library": library(kind), "response_direction_config": direction});
        filter(name, "compressor.v3.Compressor", config)
    };
    let accept = |path: &str, accepted: &str| get(path).header("accept-encoding", accepted);
    let off = json!({"gz": typed("compressor.v3.CompressorPerRoute", json!({"disabled": true}))});
    vec![
        case(
            "buffer",
            &[filter("b", "buffer.v3.Buffer", json!({"max_request_bytes": 10}))],
            json!([
                route("/more", buffer(json!({"buffer": {"max_request_bytes": 20}}))),
                route("/off", buffer(json!({"disabled": true}))),
                plain("/")
            ]),
            vec![
                get("/"),
                post("/", "0123456789"),
                post("/", "0123456789a"),
                post("/more", "0123456789a"),
                post("/off", &"0123456789".repeat(10)),
            ],
        ),
        case(
            "compression",
            &[
                compressor("gz", "gzip.compressor.v3.Gzip", json!({})),
                compressor("br", "brotli.compressor.v3.Brotli", json!({})),
                compressor("zs", "zstd.compressor.v3.Zstd", json!({})),
            ],
            json!([
                route("/nogzip", off),
                {"match": {"path": "/short"}, "direct_response": {"status": 200, "body": {"inline_string": "short"}}},
                plain("/")
            ]),
            vec![
                get("/"),
                accept("/", "gzip"),
                accept("/", "br"),
                accept("/", "zstd"),
                accept("/", "gzip;q=0.5, br;q=0.9"),
                accept("/", "br, gzip"),
                accept("/", "gzip, br"),
                accept("/", "*"),
                accept("/", "deflate"),
                accept("/", "identity"),
                accept("/", "gzip;q=0"),
                accept("/", "identity, gzip;q=0.5"),
                accept("/short", "gzip"),
                accept("/nogzip", "gzip"),
                accept("/nogzip", "gzip, br"),
                accept("/", "gzip").method(Method::HEAD),
                accept("/status/404", "gzip"),
            ],
        ),
        case(
            "what is compressed",
            &[compressor(
                "gz",
                "gzip.compressor.v3.Gzip",
                json!({"common_config": {"content_type": ["text/plain"]}, "remove_accept_encoding_header": true}),
            )],
            json!([plain("/")]),
            vec![accept("/", "gzip")],
        ),
    ]
}

fn others() -> Vec<Case> {
    let health = |config: Value| {
        let mut config = config;
        config["headers"] = json!([{"name": ":path", "string_match": {"exact": "/healthz"}}]);
        filter("h", "health_check.v3.HealthCheck", config)
    };
    let session = |kind: &str, mut config: Value| {
        config["@type"] =
            format!("type.googleapis.com/envoy.extensions.http.stateful_session.{kind}").into();
        let (folder, _) = kind.split_once('.').unwrap();
        let name = format!("envoy.http.stateful_session.{folder}");
        let config = json!({"session_state": {"name": name, "typed_config": config}});
        filter("s", "stateful_session.v3.StatefulSession", config)
    };
    let off = json!({"s": typed("stateful_session.v3.StatefulSessionPerRoute", json!({"disabled": true}))});
    let cookie = json!({"cookie": {"name": "sess", "path": "/shop"}});
    let check = "/envoy.service.auth.v3.Authorization/Check";
    let web = |kind: &str, body: &str| post("/s/m", body).header("content-type", kind);
    vec![
        case(
            "health checks are answered",
            &[health(json!({"pass_through_mode": false}))],
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
            &[health(json!({"pass_through_mode": true}))],
            json!([plain("/")]),
            vec![get("/healthz"), get("/x")],
        ),
        case(
            "health checks ask for healthy endpoints",
            &[health(
                json!({"pass_through_mode": false, "cluster_min_healthy_percentages": {"a": {"value": 50}, "nowhere": {"value": 50}}}),
            )],
            json!([plain("/")]),
            vec![get("/healthz")],
        ),
        case(
            "sessions by cookie",
            &[session("cookie.v3.CookieBasedSessionState", cookie)],
            json!([route("/shop/off", off.clone()), plain("/")]),
            ["/shop", "/shop/x", "/shopping", "/", "/shop/off"].map(get).to_vec(),
        ),
        case(
            "sessions by header",
            &[session("header.v3.HeaderBasedSessionState", json!({"name": "x-session"}))],
            json!([route("/off", off), plain("/")]),
            vec![
                get("/"),
                get("/off"),
                get("/").header("x-session", "bm90IGFuIGFkZHJlc3M="),
                get("/").header("x-session", "MTI3LjAuMC4xOjE="),
            ],
        ),
        case(
            "gRPC-Web requests",
            &[filter("g", "grpc_web.v3.GrpcWeb", json!({}))],
            json!([
                {"match": {"prefix": "/none"}, "route": {"cluster": "nowhere"}},
                {"match": {"prefix": "/envoy.service"}, "route": {"cluster": "authz"}},
                {"match": {"prefix": "/direct"}, "direct_response": {"status": 401, "body": {"inline_string": "who? 100%"}}},
                plain("/")]),
            vec![
                web("application/grpc-web-text", "AAAAAAJoaQ=="),
                web("application/grpc-web+proto", "x"),
                web("application/json", "{}"),
                post(check, "\0\0\0\0\0").header("content-type", "application/grpc-web+proto"),
                post(check, "AAAAAAA=")
                    .header("content-type", "application/grpc-web-text")
                    .header("accept", "application/grpc-web-text"),
                post("/envoy.service.auth.v3.Authorization/None", "\0\0\0\0\0")
                    .header("content-type", "application/grpc-web"),
                post("/direct", "x").header("content-type", "application/grpc-web+proto"),
                post("/none", "x").header("content-type", "application/grpc-web+proto"),
                post("/none", "AAAA")
                    .header("content-type", "application/grpc-web-text")
                    .header("accept", "application/grpc-web-text"),
            ],
        ),
    ]
}
