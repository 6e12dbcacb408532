//! Access logs: what operators write, and which requests are logged.

use gateway_tests::client::Ask;
use http::Method;
use serde_json::{Map, Value, json};

use super::{Case, LOG, compare};

const T: &str = "type.googleapis.com/envoy.extensions.";

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_logs_as_envoy_does() {
    compare("our_proxy_logs_as_envoy_does", all()).await;
}

fn all() -> Vec<Case> {
    let mut all = operators();
    all.extend(formats());
    all.push(filtered());
    all
}

fn get(path: &str) -> Ask {
    Ask::get("example.com", path)
}

fn log(format: Value) -> Value {
    json!({"name": "f", "typed_config": {
        "@type": format!("{T}access_loggers.file.v3.FileAccessLog"), "path": LOG, "log_format": format}})
}

fn case(name: &'static str, format: Value, asks: Vec<Ask>) -> Case {
    let route = |matcher: Value, action: Value| {
        let mut route = action;
        route["match"] = matcher;
        route
    };
    Case {
        name,
        routes: json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            route(json!({"prefix": "/none"}), json!({"name": "none", "route": {"cluster": "nobody"}})),
            route(json!({"prefix": "/direct"}), json!({"direct_response": {"status": 418, "body": {"inline_string": "tea"}}})),
            route(json!({"prefix": "/dead"}), json!({"route": {"cluster": super::OWN_CLUSTER}})),
            route(json!({"prefix": "/rewritten"}), json!({"route": {"cluster": "b", "prefix_rewrite": "/slow/20"}})),
            route(json!({"prefix": "/late"}), json!({"route": {"cluster": "b", "timeout": "0.05s", "prefix_rewrite": "/slow/5000"}})),
            route(json!({"prefix": "/p"}), json!({"name": "named", "route": {"cluster": "a"}})),
        ]}]}),
        manager: json!({"access_log": [log(format)]}),
        clusters: Box::new(|_| {
            let dead = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            gateway_tests::documents::raw_cluster(super::OWN_CLUSTER, dead).to_vec()
        }),
        warm: None,
        asks,
    }
}

fn asks() -> Vec<Ask> {
    let post = |path: &str| Ask { body: "hello".into(), ..get(path).method(Method::POST) };
    vec![
        get("/p?a=1&b=%20&a=2").header("x-a", "1").header("x-a", "2"),
        post("/p/x"),
        get("/p").method(Method::HEAD),
        get("/rewritten?q"),
        get("/direct"),
        get("/none"),
        get("/dead"),
        get("/late"),
        get("/nothing"),
        get("/p/grpc").header("content-type", "application/grpc"),
    ]
}

/// One key an operator, `~` where values differ.
fn keys(operators: &[&str], shapes: &[&str]) -> Value {
    let mut keys = Map::from_iter([("ask".to_owned(), json!("%REQ(x-ask)%"))]);
    for operator in operators {
        keys.insert((*operator).to_owned(), format!("%{operator}%").into());
    }
    for operator in shapes {
        keys.insert(format!("~{operator}"), format!("%{operator}%").into());
    }
    json!({"json_format": keys})
}

fn operators() -> Vec<Case> {
    let of_request = [
        "REQ(x-a)",
        "REQ(X-None?x-a)",
        "REQ(:METHOD)",
        "REQ(:PATH)",
        "REQ(:AUTHORITY)",
        "REQ(:SCHEME)",
        "REQ(x-envoy-original-path?:path)",
        "REQ(:PATH):3",
        "PROTOCOL",
        "BYTES_RECEIVED",
        "QUERY_PARAM(a)",
        "QUERY_PARAM(b)",
        "QUERY_PARAM(c)",
        "PATH(WQ)",
        "PATH(NQ:ORIG)",
        "PATH(NQ:PATH)",
        "PATH(WQ:ORIG)",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "REQUESTED_SERVER_NAME",
        "DOWNSTREAM_TLS_VERSION",
        "DOWNSTREAM_TLS_CIPHER",
        "DOWNSTREAM_PEER_SUBJECT",
        "DOWNSTREAM_PEER_FINGERPRINT_256",
        "HOSTNAME",
        "ROUTE_NAME",
        "FILTER_CHAIN_NAME",
        "ACCESS_LOG_TYPE",
        "DYNAMIC_METADATA(f:k)",
        "REQUEST_HEADERS_BYTES",
    ];
    let shapes_of_request = [
        "START_TIME",
        "START_TIME(%s.%3f)",
        "START_TIME(%Y/%m/%dT%H:%M:%S)",
        "EMIT_TIME",
        "DURATION",
        "REQUEST_DURATION",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_PORT",
        "DOWNSTREAM_LOCAL_ADDRESS",
        "DOWNSTREAM_LOCAL_PORT",
        "CONNECTION_ID",
    ];
    let of_response = [
        "RESPONSE_CODE",
        "RESPONSE_FLAGS",
        "RESPONSE_FLAGS_LONG",
        "BYTES_SENT",
        "RESP(x-backend)",
        "RESP(:status)",
        "TRAILER(x)",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_HOST",
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_HOST_NAME_WITHOUT_PORT",
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_PROTOCOL",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        "CONNECTION_TERMINATION_DETAILS",
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        "RESPONSE_CODE_DETAILS",
        "GRPC_STATUS",
        "GRPC_STATUS_NUMBER",
        "GRPC_STATUS(SNAKE_STRING)",
        "RESPONSE_TRAILERS_BYTES",
    ];
    let shapes_of_response = [
        "RESPONSE_DURATION",
        "RESPONSE_TX_DURATION",
        "REQUEST_TX_DURATION",
        "UPSTREAM_REMOTE_PORT",
        "UPSTREAM_LOCAL_PORT",
        "UPSTREAM_LOCAL_ADDRESS",
        "RESPONSE_HEADERS_BYTES",
        "RESP(x-envoy-upstream-service-time)",
        "COMMON_DURATION(DS_RX_BEG:DS_TX_END:ms)",
        "COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)",
    ];
    vec![
        case("operators of requests", keys(&of_request, &shapes_of_request), asks()),
        case("operators of responses", keys(&of_response, &shapes_of_response), asks()),
    ]
}

fn formats() -> Vec<Case> {
    let nested = json!({"ask": "%REQ(x-ask)%", "text": "a %REQ(x-none)% b %REQ(x-a)%", "n": 1, "list": ["%RESPONSE_CODE%", true, null],
        "inner": {"z": "%RESPONSE_CODE% %PROTOCOL%", "a": "%BYTES_SENT%", "none": "%REQ(x-none)%", "flags": "%RESPONSE_FLAGS%"}});
    let text = |text: &str| json!({"text_format_source": {"inline_string": format!("{{\"ask\": \"%REQ(x-ask)%\", \"line\": \"{text}\"}}\n")}});
    let with_formatter = json!({"json_format": {"ask": "%REQ(x-ask)%", "p": "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%"},
        "formatters": [{"name": "f", "typed_config": {"@type": format!("{T}formatter.req_without_query.v3.ReqWithoutQuery")}}]});
    let omitting = |mut format: Value| {
        format["omit_empty_values"] = true.into();
        format
    };
    let some =
        || vec![get("/p?a=1").header("x-a", "\"q\"\t\\"), get("/nothing"), get("/rewritten?q")];
    let line =
        "%REQ(x-none)%|%RESPONSE_FLAGS%|%UPSTREAM_HOST%|%RESPONSE_CODE%|100%%|%RESP(x-backend):0%";
    vec![
        case("a nested format", json!({"json_format": nested}), some()),
        case(
            "a nested format without what is empty",
            omitting(json!({"json_format": nested})),
            some(),
        ),
        case("a line of text", text(line), some()),
        case("a line of text without what is empty", omitting(text(line)), some()),
        case("a path without its query", with_formatter, some()),
    ]
}

/// One log a filter, and one without, all in one file.
fn filtered() -> Case {
    let compared = |op: &str, value: i32| json!({"comparison": {"op": op, "value": {"default_value": value, "runtime_key": "none"}}});
    let header = |name: &str, text: &str| json!({"header_filter": {"header": {"name": name, "string_match": {"exact": text}}}});
    let status = |op: &str, value| json!({"status_code_filter": compared(op, value)});
    let share = |numerator: u32| json!({"runtime_filter": {"runtime_key": "none", "percent_sampled": {"numerator": numerator}}});
    let filters = [
        status("GE", 404),
        status("LE", 404),
        status("EQ", 503),
        status("NE", 200),
        json!({"duration_filter": compared("GE", 4000)}),
        json!({"duration_filter": compared("LE", 4000)}),
        json!({"response_flag_filter": {"flags": ["NR", "UF"]}}),
        json!({"response_flag_filter": {}}),
        header(":method", "POST"),
        header("x-a", "1"),
        json!({"not_health_check_filter": {}}),
        json!({"and_filter": {"filters": [status("GE", 500), header("x-ask", "6")]}}),
        json!({"or_filter": {"filters": [status("GE", 500), header("x-ask", "0")]}}),
        share(0),
        share(100),
        json!({"grpc_status_filter": {"statuses": ["UNAVAILABLE"]}}),
        json!({"grpc_status_filter": {"statuses": ["UNKNOWN", "UNIMPLEMENTED"], "exclude": true}}),
        json!({"log_type_filter": {"types": ["DownstreamEnd"]}}),
        json!({"log_type_filter": {"types": ["DownstreamEnd"], "exclude": true}}),
        json!({"metadata_filter": {"matcher": {"filter": "f", "path": [{"key": "k"}], "value": {"bool_match": true}}}}),
        json!({"metadata_filter": {"matcher": {"filter": "f", "path": [{"key": "k"}], "value": {"bool_match": true}},
            "match_if_key_not_found": false}}),
    ];
    let format = |by: &str| json!({"json_format": {"ask": "%REQ(x-ask)%", "by": by}});
    let mut logs: Vec<Value> = Vec::new();
    for filter in filters {
        let mut one = log(format(&filter.to_string().replace('%', "")));
        one["filter"] = filter;
        logs.push(one);
    }
    logs.push(log(format("all")));
    Case {
        manager: json!({"access_log": logs}),
        ..case("which requests are logged", format("all"), asks())
    }
}
