//! Small cases of routing, one thing each: operators of header changes, matches, hosts, redirects, rewrites, replies.

use gateway_tests::client::Ask;
use http::Method;
use serde_json::{Value, json};

use super::Case;

pub(super) fn all() -> Vec<Case> {
    let mut all: Vec<Case> = OPERATORS.iter().map(|(name, text)| operator(name, text)).collect();
    all.extend(changes());
    all.push(left());
    all.extend(matches());
    all.extend(hosts());
    all.extend(redirects());
    all.extend(rewrites());
    all.extend(requests());
    all
}

fn get(path: &str) -> Ask {
    Ask::get("example.com", path)
}

fn on(host: &str) -> Ask {
    Ask::get(host, "/")
}

fn table(name: &'static str, hosts: Value, asks: Vec<Ask>) -> Case {
    Case {
        name,
        routes: json!({"virtual_hosts": hosts}),
        manager: json!({}),
        clusters: Case::no_clusters(),
        warm: None,
        asks,
    }
}

/// One virtual host with these routes.
fn case(name: &'static str, routes: Value, asks: Vec<Ask>) -> Case {
    table(name, json!([{"name": "all", "domains": ["*"], "routes": routes}]), asks)
}

/// Routes by what filters left: here nothing.
fn left() -> Case {
    let route = |prefix: &str, inverts: bool| {
        let value = json!({"filter": "x", "path": [{"key": "y"}], "value": {"present_match": true}, "invert": inverts});
        json!({"match": {"prefix": prefix, "dynamic_metadata": [value]}, "direct_response": {"status": 200}})
    };
    let asks = ["/there", "/not"].map(get).to_vec();
    case("routes by what filters left", json!([route("/there", false), route("/not", true)]), asks)
}

/// What `operator` comes to in a header of the request, and in one of the response.
const OPERATORS: &[(&str, &str)] = &[
    ("a path", "%REQ(:PATH)%"),
    ("a method", "%REQ(:METHOD)%"),
    ("an authority", "%REQ(:AUTHORITY)%"),
    ("a header of the request", "%REQ(X-USER)%"),
    ("a header or another", "%REQ(X-NONE?X-USER)%"),
    ("a header cut off", "%REQ(X-USER):3%"),
    ("a header that is not there", "%REQ(X-NONE)%"),
    ("text around", "<%REQ(X-USER)%-%PROTOCOL%>"),
    ("a percent sign", "100%%"),
    ("a header of the response", "%RESP(CONTENT-TYPE)%"),
    ("a protocol", "%PROTOCOL%"),
    ("a cluster", "%UPSTREAM_CLUSTER%"),
    ("a route", "%ROUTE_NAME%"),
    ("a client without its port", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("a peer without its port", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("a local address without its port", "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"),
    ("a status", "%RESPONSE_CODE%"),
    ("the details of a response", "%RESPONSE_CODE_DETAILS%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("a server name of no TLS", "%REQUESTED_SERVER_NAME%"),
    ("a TLS version of no TLS", "%DOWNSTREAM_TLS_VERSION%"),
    ("a year", "%START_TIME(%Y)%"),
    ("how often it was tried", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
];

fn operator(name: &'static str, text: &str) -> Case {
    let change = json!([{"header": {"key": "x-said", "value": text}, "keep_empty_value": true}]);
    let route = json!([{"match": {"prefix": "/"}, "name": "the-route", "route": {"cluster": "a"},
        "request_headers_to_add": change, "response_headers_to_add": change}]);
    case(name, route, vec![get("/p?q=1").header("x-user", "ann-marie"), get("/status/404")])
}

/// Actions of header changes, where a header is there and where not.
fn changes() -> Vec<Case> {
    let actions = [
        ("append if exists or add", "APPEND_IF_EXISTS_OR_ADD"),
        ("add if absent", "ADD_IF_ABSENT"),
        ("overwrite if exists or add", "OVERWRITE_IF_EXISTS_OR_ADD"),
        ("overwrite if exists", "OVERWRITE_IF_EXISTS"),
    ];
    let change = |(name, action): (&'static str, &str)| {
        let add =
            |key: &str| json!({"header": {"key": key, "value": "new"}, "append_action": action});
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"},
            "request_headers_to_add": [add("x-one"), add("x-many")],
            "response_headers_to_add": [add("content-type"), add("x-other")]}]);
        let asks = vec![
            get("/"),
            get("/").header("x-one", "old"),
            get("/").header("x-many", "1").header("x-many", "2"),
        ];
        case(name, routes, asks)
    };
    let removed = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"},
        "request_headers_to_remove": ["x-one", "X-Many"], "response_headers_to_remove": ["content-type"],
        "request_headers_to_add": [{"header": {"key": "x-one", "value": "back"}}]}]);
    let mut all: Vec<Case> = actions.map(change).into();
    all.push(case(
        "headers are removed and added",
        removed,
        vec![get("/").header("x-one", "1").header("x-many", "1").header("x-many", "2")],
    ));
    all
}

fn matches() -> Vec<Case> {
    // What the rest of a match is, and what to ask.
    let only = |name: &'static str, rest: Value, asks: Vec<Ask>| {
        let mut condition = json!({"prefix": "/"});
        for (key, value) in rest.as_object().unwrap() {
            condition[key] = value.clone();
        }
        let routes = json!([
            {"match": condition, "route": {"cluster": "a"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "b"}},
        ]);
        case(name, routes, asks)
    };
    let header = |matcher: Value| {
        let mut matcher = matcher;
        matcher["name"] = "x".into();
        json!({"headers": [matcher]})
    };
    let query = |matcher: Value| {
        let mut matcher = matcher;
        matcher["name"] = "q".into();
        json!({"query_parameters": [matcher]})
    };
    let x = |value: &str| get("/").header("x", value);
    let fraction = |percent: u32| json!({"runtime_fraction": {"default_value": {"numerator": percent, "denominator": "HUNDRED"}}});
    let grpc = || get("/").header("content-type", "application/grpc+proto");
    vec![
        only("a share of none", fraction(0), vec![get("/"), get("/"), get("/")]),
        only("a share of all", fraction(100), vec![get("/"), get("/"), get("/")]),
        only(
            "gRPC requests",
            json!({"grpc": {}}),
            vec![get("/"), grpc(), grpc().method(Method::POST)],
        ),
        only(
            "a header missing counts as empty",
            header(json!({"string_match": {"exact": ""}, "treat_missing_header_as_empty": true})),
            vec![get("/"), x(""), x("1")],
        ),
        only(
            "a header that must not be so, or missing",
            header(json!({"string_match": {"exact": "1"}, "invert_match": true})),
            vec![get("/"), x("1"), x("2")],
        ),
        only(
            "numbers below zero",
            header(json!({"range_match": {"start": -5, "end": 5}})),
            vec![x("-5"), x("-6"), x("5"), x("4"), x("+4"), x("4.0")],
        ),
        only(
            "case does not matter in a header",
            header(json!({"string_match": {"exact": "Yes", "ignore_case": true}})),
            vec![x("yES"), x("no")],
        ),
        only(
            "a parameter is there",
            query(json!({"present_match": true})),
            vec![get("/"), get("/?q"), get("/?q="), get("/?a=q"), get("/?Q=1")],
        ),
        only(
            "a parameter has a value",
            query(json!({"string_match": {"exact": "a b"}})),
            vec![get("/?q=a%20b"), get("/?q=a+b"), get("/?q=x&q=a%20b"), get("/?q=a%20b&q=x")],
        ),
        only(
            "a parameter matches an expression",
            query(json!({"string_match": {"safe_regex": {"regex": "[0-9]+"}}})),
            vec![get("/?q=12"), get("/?q=1a"), get("/?q=")],
        ),
        only(
            "all conditions must hold",
            json!({"headers": [{"name": "x", "string_match": {"exact": "1"}}],
                "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}]}),
            vec![x("1"), get("/?q=1"), get("/?q=1").header("x", "1")],
        ),
    ]
}

/// Virtual hosts say who they are; which one takes a host is what is asked.
fn hosts() -> Vec<Case> {
    let hosts = |domains: &[&str]| -> Value {
        domains
            .iter()
            .map(|domain| {
                json!({"name": domain, "domains": [domain], "routes": [{"match": {"prefix": "/"},
                    "direct_response": {"status": 200, "body": {"inline_string": domain}}}]})
            })
            .collect()
    };
    let ask = |names: &[&str]| names.iter().map(|name| on(name)).collect::<Vec<_>>();
    vec![
        table(
            "an exact domain before any other",
            hosts(&["*", "*.b.test", "a.*", "a.b.test"]),
            ask(&["a.b.test", "A.B.TEST", "x.b.test", "a.x", "b.test", "c"]),
        ),
        table(
            "the longest suffix first",
            hosts(&["*.test", "*.b.test", "*-x.b.test", "*"]),
            ask(&["a.b.test", "a-x.b.test", "b.test", "a.test", ".test", "test"]),
        ),
        table(
            "a suffix before a prefix",
            hosts(&["a.*", "*.test", "a.b.*"]),
            ask(&["a.test", "a.com", "a.b.com", "a.b.test", "x.com"]),
        ),
        table(
            "ports are part of a domain",
            hosts(&["a.test", "a.test:81", "b.test:*"]),
            ask(&["a.test", "a.test:81", "a.test:80", "b.test:1", "b.test"]),
        ),
        table("no domain", hosts(&["a.test"]), ask(&["a.test", "b.test"])),
    ]
}

fn redirects() -> Vec<Case> {
    let redirect = |name: &'static str, action: Value| {
        let routes = json!([{"match": {"prefix": "/old"}, "redirect": action}]);
        let asks = vec![get("/old/a?b=c"), get("/old"), Ask::get("example.com:8080", "/old?x")];
        case(name, routes, asks)
    };
    vec![
        redirect("to TLS", json!({"https_redirect": true})),
        redirect("to another scheme", json!({"scheme_redirect": "ftp"})),
        redirect("to another host", json!({"host_redirect": "new.test"})),
        redirect("to another port", json!({"port_redirect": 8443})),
        redirect(
            "to another host and port",
            json!({"host_redirect": "new.test", "port_redirect": 444}),
        ),
        redirect("to another path", json!({"path_redirect": "/new"})),
        redirect("to another path and query", json!({"path_redirect": "/new?y=1"})),
        redirect("to another prefix", json!({"prefix_rewrite": "/new"})),
        redirect("without the query", json!({"https_redirect": true, "strip_query": true})),
        redirect("found", json!({"path_redirect": "/n", "response_code": "FOUND"})),
        redirect("see other", json!({"path_redirect": "/n", "response_code": "SEE_OTHER"})),
        redirect(
            "for a time",
            json!({"path_redirect": "/n", "response_code": "TEMPORARY_REDIRECT"}),
        ),
        redirect("for ever", json!({"path_redirect": "/n", "response_code": "PERMANENT_REDIRECT"})),
        redirect(
            "by an expression",
            json!({"regex_rewrite": {"pattern": {"regex": "^/old(/?)(.*)$"}, "substitution": "/\\2\\1new"}}),
        ),
    ]
}

fn rewrites() -> Vec<Case> {
    let rewritten = |name: &'static str, more: Value| {
        let mut action = more;
        action["cluster"] = "a".into();
        let routes = json!([{"match": {"prefix": "/old"}, "route": action}]);
        let asks = vec![get("/old/a?b=/old"), get("/old"), get("/older"), get("/old//x/")];
        case(name, routes, asks)
    };
    vec![
        rewritten("a prefix", json!({"prefix_rewrite": "/new"})),
        rewritten("a prefix by a slash", json!({"prefix_rewrite": "/"})),
        rewritten(
            "a path by an expression",
            json!({"regex_rewrite": {"pattern": {"regex": "o(l)d"}, "substitution": "[\\0\\1]"}}),
        ),
        rewritten("a host", json!({"host_rewrite_literal": "new.test"})),
        rewritten("a host by a header", json!({"host_rewrite_header": "x-none"})),
        rewritten(
            "a host by the path",
            json!({"host_rewrite_path_regex": {"pattern": {"regex": "^/(old).*$"}, "substitution": "\\1.test"}}),
        ),
        rewritten(
            "the old host is told",
            json!({"host_rewrite_literal": "new.test", "append_x_forwarded_host": true}),
        ),
        rewritten("a template of the path", json!({"path_rewrite": "/%REQ(:METHOD)%/x"})),
    ]
}

/// What of a request a client may not say, and what answers by itself.
fn requests() -> Vec<Case> {
    let all = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let internal = vec![
        get("/").header("x-envoy-internal", "true"),
        get("/").header("x-envoy-downstream-service-cluster", "c"),
        get("/").header("x-envoy-expected-rq-timeout-ms", "1"),
        get("/").header("x-envoy-original-path", "/x"),
        get("/").header("x-envoy-ip-tags", "t"),
        get("/").header("x-forwarded-for", "1.2.3.4"),
        get("/").header("x-forwarded-for", "10.0.0.1").header("x-envoy-internal", "true"),
    ];
    let edge = json!({"use_remote_address": true});
    let required = |name: &'static str, what: &str| {
        let host = json!({"name": "all", "domains": ["*"], "require_tls": what, "routes": all});
        table(
            name,
            json!([host]),
            vec![
                get("/a?b"),
                get("/").header("x-forwarded-proto", "https"),
                Ask::get("example.com:81", "/"),
            ],
        )
    };
    let direct = |name: &'static str, action: Value| {
        let routes = json!([{"match": {"prefix": "/"}, "direct_response": action,
            "response_headers_to_add": [{"header": {"key": "x-route", "value": "yes"}}]}]);
        case(
            name,
            routes,
            vec![get("/"), get("/").method(Method::HEAD), get("/").method(Method::POST)],
        )
    };
    vec![
        case("what only insiders say, inside", all.clone(), internal.clone()),
        Case {
            manager: edge,
            ..case("what only insiders say, at the edge", all.clone(), internal)
        },
        required("TLS is required of all", "ALL"),
        required("TLS is required of outsiders", "EXTERNAL_ONLY"),
        direct("an answer with text", json!({"status": 418, "body": {"inline_string": "tea"}})),
        direct("an answer without text", json!({"status": 204})),
        direct("an answer in bytes", json!({"status": 200, "body": {"inline_bytes": "AAEC"}})),
        Case {
            routes: json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster_header": "x-to"}}]}]}),
            ..case(
                "a cluster by a header",
                json!([]),
                vec![get("/").header("x-to", "b"), get("/").header("x-to", "none"), get("/")],
            )
        },
    ]
}
