//! Cases of what the proxy answers itself, of what requests ask of the router, and of templates.

use gateway_tests::client::Ask;
use http::Method;
use serde_json::{Value, json};

use super::Case;

const CORE: &str = "type.googleapis.com/envoy.extensions.path";

fn get(path: &str) -> Ask {
    Ask::get("example.com", path)
}

fn grpc(path: &str) -> Ask {
    get(path).method(Method::POST).header("content-type", "application/grpc")
}

fn case(name: &'static str, routes: Value, manager: Value, asks: Vec<Ask>) -> Case {
    let routes = json!({"virtual_hosts": [{
        "name": "all", "domains": ["*"], "routes": routes,
        "include_request_attempt_count": true, "include_attempt_count_in_response": true}]});
    Case { name, routes, manager, asks, clusters: Case::no_clusters(), warm: None }
}

pub(super) fn all() -> Vec<Case> {
    [templates(), local_replies(), requests(), deadlines()].into_iter().flatten().collect()
}

fn templates() -> Vec<Case> {
    let route = |template: &str, rewrite: &str| {
        let policy = |kind: &str, message: &str, field: &str, value: &str| {
            json!({"name": "p", "typed_config":
                {"@type": format!("{CORE}.{kind}.uri_template.v3.{message}"), field: value}})
        };
        json!({
            "match": {"path_match_policy":
                policy("match", "UriTemplateMatchConfig", "path_template", template)},
            "route": {"cluster": "a", "path_rewrite_policy":
                policy("rewrite", "UriTemplateRewriteConfig", "path_template_rewrite", rewrite)},
        })
    };
    vec![case(
        "paths match and change by template",
        json!([
            route("/users/{id}/items/{item=**}", "/{item}/of/{id}"),
            route("/videos/{language=lang/*}/*", "/{language}"),
            route("/c/{format}/{lang}/{file}.vtt", "/{lang}/{format}/{file}.vtt"),
            route("/all/**.mpd", "/mpd"),
            route("/sl/", "/slash"),
        ]),
        json!({}),
        [
            "/users/7/items/a/b",
            "/users/7/items",
            "/users/7/items/",
            "/users//items/a",
            "/users/7/items/a?q=1",
            "/users/7/items/a=b*c",
            "/users/7/items/a%20b",
            "/videos/lang/en/v.m4s",
            "/videos/long/en/v.m4s",
            "/c/hls/en/a_1.vtt",
            "/c/hls/en/a_1.vtx",
            "/all/1/2/m.mpd",
            "/sl/",
            "/sl",
        ]
        .map(get)
        .to_vec(),
    )]
}

fn failing() -> Value {
    json!([
        {"match": {"prefix": "/none"}, "route": {"cluster": "nope"}},
        {"match": {"prefix": "/forbidden"},
            "direct_response": {"status": 403, "body": {"inline_string": "no % entry"}}},
        {"match": {"prefix": "/moved"}, "redirect": {"path_redirect": "/new"}},
        {"match": {"prefix": "/slow"}, "route": {"cluster": "a", "timeout": "0.1s"}},
        {"match": {"prefix": "/status"}, "route": {"cluster": "a"}},
    ])
}

fn local_replies() -> Vec<Case> {
    let status = |op: &str, code: u32| json!({"status_code_filter": {"comparison": {"op": op, "value": {"default_value": code, "runtime_key": "x"}}}});
    let asks = || {
        let paths = ["/none", "/forbidden", "/moved", "/slow/500", "/else", "/status/404"];
        let mut asks: Vec<Ask> = paths.map(get).to_vec();
        asks.extend(paths.map(grpc));
        asks.push(get("/else").header("x-who", "me"));
        asks.push(get("/else").method(Method::HEAD));
        asks
    };
    vec![
        case("replies without rules", failing(), json!({}), asks()),
        case(
            "replies are mapped by status, flags and headers",
            failing(),
            json!({"local_reply_config": {
                "mappers": [
                    {"filter": {"header_filter": {"header": {"name": "x-who", "string_match": {"exact": "me"}}}},
                        "body": {"inline_string": "for %me"}},
                    {"filter": status("EQ", 404), "status_code": 410,
                        "headers_to_add": [{"header": {"key": "x-m", "value": "%REQ(:PATH)%"}}],
                        "body_format_override": {"json_format": {
                            "code": "%RESPONSE_CODE%", "msg": "%LOCAL_REPLY_BODY%", "path": "%REQ(:PATH)%", "n": 1}}},
                    {"filter": {"and_filter": {"filters": [
                        status("GE", 500), {"response_flag_filter": {"flags": ["UT", "NC"]}}]}},
                        "body": {"inline_string": "late or lost"}},
                    {"filter": {"or_filter": {"filters": [status("EQ", 301), status("EQ", 403)]}},
                        "body_format_override": {
                            "text_format_source": {"inline_string": "<%LOCAL_REPLY_BODY%>"}, "content_type": "text/html"}},
                ],
                "body_format": {"text_format_source": {
                    "inline_string": "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %LOCAL_REPLY_BODY%"}},
            }}),
            asks(),
        ),
    ]
}

fn requests() -> Vec<Case> {
    let inside = || {
        json!({"use_remote_address": true, "internal_address_config": {"cidr_ranges": [
            {"address_prefix": "127.0.0.0", "prefix_len": 8}]}})
    };
    let with = |path: &str, headers: &[(&str, &str)]| {
        headers.iter().fold(get(path), |ask, (name, value)| ask.header(name, value))
    };
    let asks = || {
        vec![
            with("/status/503", &[("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "0")]),
            with("/status/503", &[("x-envoy-max-retries", "2")]),
            with("/status/503", &[("x-envoy-retry-on", "bogus"), ("x-envoy-max-retries", "2")]),
            with("/policy/status/503", &[]),
            with("/slow/500", &[("x-envoy-upstream-rq-timeout-ms", "100")]),
            with(
                "/slow/500",
                &[
                    ("x-envoy-upstream-rq-timeout-ms", "100"),
                    ("x-envoy-upstream-rq-timeout-alt-response", "204"),
                ],
            ),
            with("/slow/300", &[("x-envoy-upstream-rq-timeout-ms", "0")]),
            with("/slow/300", &[("x-envoy-upstream-rq-timeout-ms", "soon")]),
            with("/slow/500", &[("x-envoy-upstream-rq-per-try-timeout-ms", "100")]),
            with(
                "/slow/500",
                &[
                    ("x-envoy-upstream-rq-per-try-timeout-ms", "100"),
                    ("x-envoy-retry-on", "5xx"),
                    ("x-envoy-max-retries", "2"),
                ],
            ),
            with(
                "/",
                &[
                    ("x-envoy-hedge-on-per-try-timeout", "true"),
                    ("x-envoy-upstream-alt-stat-name", "x"),
                    ("x-envoy-ip-tags", "x"),
                    ("x-envoy-original-url", "/x"),
                    ("x-envoy-expected-rq-timeout-ms", "7"),
                    ("x-mine", "x"),
                ],
            ),
        ]
    };
    let routes = || {
        json!([
            {"match": {"prefix": "/policy"}, "route": {"cluster": "a", "prefix_rewrite": "/", "retry_policy": {
                "retry_on": "5xx", "num_retries": 2, "per_try_timeout": "2s",
                "retry_back_off": {"base_interval": "0.005s"}}}},
            {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
        ])
    };
    let mut cases = vec![
        case("requests from inside say their timeouts and retries", routes(), inside(), asks()),
        case("requests from outside do not", routes(), json!({"use_remote_address": true}), asks()),
    ];
    for case in &mut cases {
        case.routes["internal_only_headers"] = json!(["x-mine"]);
    }
    cases
}

fn deadlines() -> Vec<Case> {
    let route = |prefix: &str, more: Value| {
        let mut route = json!({"cluster": "a", "prefix_rewrite": "/"});
        for (key, value) in more.as_object().into_iter().flatten() {
            route[key] = value.clone();
        }
        json!({"match": {"prefix": prefix}, "route": route})
    };
    let asked = |path| [get(path), grpc(path), grpc(path).header("grpc-timeout", "100m")];
    let late = case(
        "what is too late is told by the limit that it missed",
        json!([
            route("/response/", json!({"timeout": "0.1s"})),
            route("/old/", json!({"max_grpc_timeout": "0s"})),
            route("/new/", json!({"max_stream_duration": {"grpc_timeout_header_max": "0s"}})),
            route("/idle/", json!({"idle_timeout": "0.1s"})),
            route("/stream/", json!({"max_stream_duration": {"max_stream_duration": "0.1s"}})),
            route(
                "/try/",
                json!({"retry_policy": {"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.1s"}})
            ),
        ]),
        json!({}),
        [
            "/response/slow/500",
            "/old/slow/500",
            "/new/slow/500",
            "/idle/slow/500",
            "/stream/slow/500",
            "/try/slow/500",
        ]
        .into_iter()
        .flat_map(asked)
        .collect(),
    );
    let told = case(
        "grpc-timeout and the longest stream",
        json!([
            route("/old/", json!({"max_grpc_timeout": "3s"})),
            route("/offset/", json!({"max_grpc_timeout": "3s", "grpc_timeout_offset": "0.5s"})),
            route(
                "/cut/",
                json!({"max_stream_duration": {
                "grpc_timeout_header_max": "3s", "grpc_timeout_header_offset": "0.5s"}})
            ),
            route("/none/", json!({"max_grpc_timeout": "0s"})),
            route("/new/", json!({"max_stream_duration": {"grpc_timeout_header_max": "2s"}})),
            route(
                "/both/",
                json!({"timeout": "5s", "max_stream_duration": {"grpc_timeout_header_max": "2s"}})
            ),
            route("/all/", json!({"max_stream_duration": {"max_stream_duration": "0.1s"}})),
            route(
                "/long/",
                json!({"max_stream_duration": {
                "max_stream_duration": "0.1s", "grpc_timeout_header_max": "0s"}})
            ),
        ]),
        json!({}),
        [
            "/old/slow/300",
            "/offset/slow/300",
            "/cut/slow/300",
            "/none/slow/300",
            "/new/slow/300",
            "/both/slow/300",
            "/all/slow/300",
            "/long/slow/300",
        ]
        .into_iter()
        .flat_map(|path| {
            [
                get(path),
                grpc(path),
                grpc(path).header("grpc-timeout", "5S"),
                grpc(path).header("grpc-timeout", "900m"),
            ]
        })
        .collect(),
    );
    vec![late, told]
}
