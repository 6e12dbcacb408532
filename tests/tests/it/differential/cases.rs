//! Route configurations and requests, one case an idea.

use gateway_tests::client::Ask;
use http::Method;
use serde_json::{Value, json};

use super::Case;

fn get(path: &str) -> Ask {
    Ask::get("example.com", path)
}

fn case(name: &'static str, routes: Value, asks: Vec<Ask>) -> Case {
    Case {
        name,
        routes: json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}),
        manager: json!({}),
        clusters: Case::no_clusters(),
        warm: None,
        asks,
    }
}

fn to(matcher: Value, cluster: &str) -> Value {
    json!({"match": matcher, "route": {"cluster": cluster}})
}

pub(super) fn all() -> Vec<Case> {
    let mut all = paths();
    all.extend(matchers());
    all.extend(hosts());
    all.extend(rewrites());
    all.extend(redirects());
    all.extend(headers());
    all.extend(managers());
    all
}

fn paths() -> Vec<Case> {
    vec![
        case(
            "the first match wins",
            json!([
                to(json!({"path": "/exact"}), "a"),
                to(json!({"prefix": "/p/"}), "b"),
                to(json!({"prefix": "/p/x"}), "c")
            ]),
            ["/exact", "/exact/", "/exact?q=1", "/p/x", "/p", "/EXACT", "/exact%20", "//exact"]
                .map(get)
                .to_vec(),
        ),
        case(
            "a separated prefix ends at a segment",
            json!([
                to(json!({"path_separated_prefix": "/api/dev"}), "a"),
                to(json!({"prefix": "/ci", "case_sensitive": false}), "b"),
                to(json!({"path": "/Case", "case_sensitive": false}), "c")
            ]),
            [
                "/api/dev",
                "/api/dev/",
                "/api/dev/x",
                "/api/development",
                "/api/dev?x=1",
                "/CI/x",
                "/cASE",
                "/case/",
            ]
            .map(get)
            .to_vec(),
        ),
        case(
            "a regex covers the whole path",
            json!([
                to(json!({"safe_regex": {"regex": "/a/[0-9]+"}}), "a"),
                to(json!({"safe_regex": {"regex": "/(b|c)/.*"}}), "b")
            ]),
            ["/a/1", "/a/12?x=/y", "/a/1/", "/x/a/1", "/b/", "/c/d/e", "/d/"].map(get).to_vec(),
        ),
    ]
}

fn matchers() -> Vec<Case> {
    let header = |name: &str, matcher: Value| {
        let mut header = matcher;
        header["name"] = name.into();
        json!({"prefix": "/", "headers": [header]})
    };
    let text = |matcher: Value| json!({"string_match": matcher});
    vec![
        case(
            "header matchers",
            json!([
                to(header("x-exact", text(json!({"exact": "1"}))), "a"),
                to(header("x-prefix", text(json!({"prefix": "ab"}))), "b"),
                to(header("x-suffix", text(json!({"suffix": "yz", "ignore_case": true}))), "c"),
                to(header("x-contains", text(json!({"contains": "mid"}))), "a"),
                to(header("x-regex", text(json!({"safe_regex": {"regex": "[0-9]+"}}))), "b"),
                to(header("x-range", json!({"range_match": {"start": 10, "end": 20}})), "c"),
                to(header("x-present", json!({"present_match": true})), "a"),
                to(
                    json!({"prefix": "/", "headers": [{"name": "x-not", "string_match": {"exact": "no"}, "invert_match": true},
                    {"name": ":method", "string_match": {"exact": "PUT"}}]}),
                    "b"
                ),
                to(header(":authority", text(json!({"exact": "h.test"}))), "c"),
                to(header("x-absent", json!({"present_match": false})), "b"),
            ]),
            vec![
                get("/").header("x-exact", "1"),
                get("/").header("X-Exact", "1"),
                get("/").header("x-exact", "12"),
                get("/").header("x-exact", "1").header("x-exact", "2"),
                get("/").header("x-prefix", "abc"),
                get("/").header("x-suffix", "XYZ"),
                get("/").header("x-contains", "amidb"),
                get("/").header("x-regex", "123"),
                get("/").header("x-regex", "12a").header("x-absent", "1"),
                get("/").header("x-range", "10"),
                get("/").header("x-range", "20").header("x-absent", "1"),
                get("/").header("x-range", "x").header("x-absent", "1"),
                get("/").header("x-present", ""),
                get("/").header("x-not", "yes").method(Method::PUT),
                get("/").header("x-not", "no").header("x-absent", "1").method(Method::PUT),
                get("/").header("x-absent", "1").method(Method::PUT),
                Ask::get("h.test", "/"),
                get("/"),
            ],
        ),
        case(
            "query matchers",
            json!([
                to(
                    json!({"prefix": "/", "query_parameters": [{"name": "v", "string_match": {"exact": "2"}}]}),
                    "a"
                ),
                to(
                    json!({"prefix": "/", "query_parameters": [{"name": "p", "present_match": true}]}),
                    "b"
                ),
                to(
                    json!({"prefix": "/", "query_parameters": [{"name": "r", "string_match": {"safe_regex": {"regex": "[a-c]+"}}}]}),
                    "c"
                ),
            ]),
            [
                "/?v=2",
                "/?v=1",
                "/?v=1&v=2",
                "/?v=2&v=1",
                "/?p",
                "/?p=",
                "/?P=1",
                "/?r=abc",
                "/?r=abd",
                "/?r=a%62c",
                "/",
            ]
            .map(get)
            .to_vec(),
        ),
    ]
}

fn hosts() -> Vec<Case> {
    let host = |name: &str, domains: &[&str], action: Value| {
        let mut route = action;
        route["match"] = json!({"prefix": "/"});
        json!({"name": name, "domains": domains, "routes": [route]})
    };
    let cluster = |name: &str| json!({"route": {"cluster": name}});
    let any = json!({"direct_response": {"status": 418, "body": {"inline_string": "any"}}});
    let asks = [
        "api.test",
        "API.TEST",
        "x.test",
        "a-x.test",
        "api.example",
        "other",
        "api.test:8443",
        "api.test:9",
        ".test",
        "y.x.test",
    ]
    .map(|name| Ask::get(name, "/"))
    .to_vec();
    let virtual_hosts = json!([
        host("e", &["api.test", "api.test:8443"], cluster("a")),
        host("s", &["*.test", "*-x.test"], cluster("b")),
        host("p", &["api.*"], cluster("c")),
        host("any", &["*"], any),
    ]);
    vec![
        Case {
            name: "domains",
            routes: json!({"virtual_hosts": virtual_hosts}),
            manager: json!({}),
            clusters: Case::no_clusters(),
            warm: None,
            asks: asks.clone(),
        },
        Case {
            name: "domains without the port",
            routes: json!({"virtual_hosts": virtual_hosts, "ignore_port_in_host_matching": true}),
            manager: json!({}),
            clusters: Case::no_clusters(),
            warm: None,
            asks,
        },
    ]
}

fn rewrites() -> Vec<Case> {
    vec![
        case(
            "path rewrites",
            json!([
                {"match": {"prefix": "/old/"}, "route": {"cluster": "a", "prefix_rewrite": "/new/"}},
                {"match": {"prefix": "/svc"}, "route": {"cluster": "a", "prefix_rewrite": "/"}},
                {"match": {"path": "/one"}, "route": {"cluster": "a", "prefix_rewrite": "/two"}},
                {"match": {"prefix": "/re/"}, "route": {"cluster": "a", "regex_rewrite": {
                    "pattern": {"regex": "^/re/([^/]+)/(.*)$"}, "substitution": "/\\2/by/\\1"}}},
            ]),
            ["/old/x?y=1", "/svc", "/svc/x", "/svcx?a", "/one?z", "/re/u/p/q?z=1", "/re/onlyone"]
                .map(get)
                .to_vec(),
        ),
        case(
            "host rewrites",
            json!([
                {"match": {"prefix": "/lit"}, "route": {"cluster": "a", "host_rewrite_literal": "lit.test"}},
                {"match": {"prefix": "/hdr"}, "route": {"cluster": "a", "host_rewrite_header": "x-target"}},
                {"match": {"prefix": "/rex"}, "route": {"cluster": "a", "host_rewrite_path_regex": {
                    "pattern": {"regex": "^/rex/([^/]+).*"}, "substitution": "\\1.test"}}},
                {"match": {"prefix": "/xfh"}, "route": {"cluster": "a", "host_rewrite_literal": "lit.test", "append_x_forwarded_host": true}},
            ]),
            vec![
                get("/lit"),
                get("/hdr").header("x-target", "t.test"),
                get("/hdr"),
                get("/rex/foo/bar?q"),
                get("/xfh"),
                get("/xfh").header("x-forwarded-host", "first.test"),
            ],
        ),
    ]
}

fn redirects() -> Vec<Case> {
    let redirect =
        |prefix: &str, action: Value| json!({"match": {"prefix": prefix}, "redirect": action});
    let direct =
        |matcher: Value, action: Value| json!({"match": matcher, "direct_response": action});
    vec![
        case(
            "redirects",
            json!([
                redirect("/https", json!({"https_redirect": true})),
                redirect("/host", json!({"host_redirect": "new.test", "response_code": "FOUND"})),
                redirect("/port", json!({"port_redirect": 8443})),
                redirect("/path", json!({"path_redirect": "/there?x=1"})),
                redirect(
                    "/pre/",
                    json!({"prefix_rewrite": "/post/", "response_code": "PERMANENT_REDIRECT"})
                ),
                redirect(
                    "/strip",
                    json!({"host_redirect": "new.test", "strip_query": true, "response_code": "TEMPORARY_REDIRECT"})
                ),
                redirect(
                    "/all",
                    json!({"scheme_redirect": "https", "host_redirect": "n.test", "port_redirect": 444, "path_redirect": "/p", "response_code": "SEE_OTHER"})
                ),
                redirect(
                    "/re/",
                    json!({"regex_rewrite": {"pattern": {"regex": "^/re/(.*)$"}, "substitution": "/to/\\1"}})
                ),
            ]),
            vec![
                get("/https"),
                get("/https?a=1"),
                Ask::get("example.com:80", "/https"),
                Ask::get("example.com:8080", "/https"),
                get("/host/x?y"),
                get("/port"),
                Ask::get("example.com:90", "/port"),
                get("/path"),
                get("/path?y=2"),
                get("/pre/a?b=c"),
                get("/strip?x=1"),
                get("/all"),
                get("/re/x/y?z"),
                get("/host").method(Method::POST),
            ],
        ),
        case(
            "direct responses",
            json!([
                {"match": {"path": "/ok"}, "direct_response": {"status": 200, "body": {"inline_string": "{\"a\":1}"}},
                    "response_headers_to_add": [{"header": {"key": "content-type", "value": "application/json"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]},
                direct(json!({"path": "/empty"}), json!({"status": 204})),
                direct(json!({"prefix": "/"}), json!({"status": 503, "body": {"inline_string": "down"}})),
            ]),
            vec![
                get("/ok"),
                get("/ok").method(Method::HEAD),
                get("/empty"),
                get("/x"),
                get("/ok").method(Method::POST),
            ],
        ),
    ]
}

fn headers() -> Vec<Case> {
    let add = |key: &str, value: &str| json!({"header": {"key": key, "value": value}});
    let with = |key: &str, value: &str, action: &str| json!({"header": {"key": key, "value": value}, "append_action": action});
    let route = json!({
        "match": {"prefix": "/"}, "route": {"cluster": "a"},
        "request_headers_to_add": [add("x-level", "route"), add("x-path", "%REQ(:PATH)%"), add("x-proto", "%PROTOCOL%"),
            add("x-alt", "%REQ(X-NONE?X-OVER)%"), add("x-cut", "%REQ(x-over):2%"), add("x-percent", "100%%"),
            with("x-over", "new", "OVERWRITE_IF_EXISTS_OR_ADD"), with("x-if-absent", "set", "ADD_IF_ABSENT"), with("x-if-there", "z", "OVERWRITE_IF_EXISTS")],
        "request_headers_to_remove": ["x-del"],
        "response_headers_to_add": [add("x-r", "route"), add("x-code", "%RESPONSE_CODE%"), add("x-type", "%RESP(content-type)%")],
        "response_headers_to_remove": ["x-backend"],
    });
    let routes = |most_specific: bool| {
        json!({
            "most_specific_header_mutations_wins": most_specific,
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route],
                "request_headers_to_add": [add("x-level", "host")], "response_headers_to_add": [add("x-r", "host")]}],
            "request_headers_to_add": [add("x-level", "table")], "response_headers_to_add": [add("x-r", "table")],
        })
    };
    let asks = vec![
        get("/q?z=1").header("x-over", "old").header("x-if-absent", "mine").header("x-del", "1"),
        get("/q").header("x-if-there", "y"),
        get("/q"),
    ];
    let weighted = json!([{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
        {"name": "a", "weight": 0}, {"name": "b", "weight": 7, "request_headers_to_add": [add("x-canary", "1")],
            "request_headers_to_remove": ["x-gone"], "response_headers_to_add": [add("x-w", "b")]}]}}}]);
    vec![
        Case {
            name: "header changes at every level",
            routes: routes(false),
            manager: json!({}),
            clusters: Case::no_clusters(),
            warm: None,
            asks: asks.clone(),
        },
        Case {
            name: "the most specific header change wins",
            routes: routes(true),
            manager: json!({}),
            clusters: Case::no_clusters(),
            warm: None,
            asks,
        },
        case(
            "header changes of a weighted cluster",
            weighted,
            vec![get("/").header("x-gone", "1")],
        ),
        case(
            "clusters that are not there",
            json!([to(json!({"prefix": "/none"}), "nowhere"),
                {"match": {"prefix": "/404"}, "route": {"cluster": "nowhere", "cluster_not_found_response_code": "NOT_FOUND"}},
                {"match": {"prefix": "/header"}, "route": {"cluster_header": "x-cluster"}}]),
            vec![
                get("/none"),
                get("/404"),
                get("/header"),
                get("/header").header("x-cluster", "b"),
                get("/header").header("x-cluster", "zzz"),
            ],
        ),
        case(
            "hop-by-hop headers end here",
            json!([to(json!({"prefix": "/"}), "a")]),
            vec![
                get("/").header("connection", "x-hop").header("x-hop", "1"),
                get("/").header("te", "trailers"),
                get("/").header("keep-alive", "timeout=5"),
                get("/").header("proxy-connection", "close"),
                get("/").header("x-envoy-internal", "true").header("x-envoy-max-retries", "3"),
                get("/").header("x-forwarded-for", "1.2.3.4").header("x-forwarded-proto", "https"),
                get("/status/500"),
                get("/status/301"),
            ],
        ),
        case(
            "route timeouts",
            json!([{"match": {"prefix": "/"}, "route": {"cluster": "a", "timeout": "0.2s"}}]),
            vec![get("/slow/800"), get("/slow/0")],
        ),
    ]
}

fn managers() -> Vec<Case> {
    let plain = json!({"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [to(json!({"prefix": "/p"}), "a"), to(json!({"prefix": "/"}), "b")]}]});
    let with = |name: &'static str, manager: Value, asks: Vec<Ask>| Case {
        name,
        routes: plain.clone(),
        manager,
        clusters: Case::no_clusters(),
        warm: None,
        asks,
    };
    let forwarded = || {
        vec![
            get("/"),
            get("/").header("x-forwarded-for", "1.2.3.4"),
            get("/")
                .header("x-forwarded-for", "10.0.0.1, 1.2.3.4")
                .header("x-forwarded-proto", "https"),
            get("/").header("x-request-id", "mine").header("x-envoy-external-address", "9.9.9.9"),
        ]
    };
    vec![
        with("an edge proxy", json!({"use_remote_address": true}), forwarded()),
        with(
            "behind one trusted hop",
            json!({"use_remote_address": true, "xff_num_trusted_hops": 1}),
            forwarded(),
        ),
        with(
            "x-forwarded-for is left alone",
            json!({"use_remote_address": true, "skip_xff_append": true}),
            forwarded(),
        ),
        with(
            "an inner proxy behind one trusted hop",
            json!({"xff_num_trusted_hops": 1}),
            forwarded(),
        ),
        with(
            "request ids are kept and shown",
            json!({"use_remote_address": true, "preserve_external_request_id": true, "always_set_request_id_in_response": true}),
            forwarded(),
        ),
        with("via and server", json!({"via": "gw", "server_name": "mine"}), vec![get("/")]),
        with(
            "server passes through",
            json!({"server_header_transformation": "PASS_THROUGH"}),
            vec![get("/")],
        ),
        with(
            "server only if absent",
            json!({"server_header_transformation": "APPEND_IF_ABSENT"}),
            vec![get("/")],
        ),
        with(
            "paths are normalised",
            json!({"normalize_path": true, "merge_slashes": true}),
            ["/p/../x", "/x/../p", "/p//y", "//p", "/p/./z", "/%70", "/x/%2e%2e/p", "/x?a=/../b"]
                .map(get)
                .to_vec(),
        ),
        with(
            "escaped slashes are refused",
            json!({"normalize_path": true, "path_with_escaped_slashes_action": "REJECT_REQUEST"}),
            ["/p%2Fx", "/p%5cx", "/p/x?a=%2f"].map(get).to_vec(),
        ),
        with(
            "escaped slashes are unescaped",
            json!({"normalize_path": true, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"}),
            ["/p%2Fx", "/p%5cx", "/x/..%2Fp"].map(get).to_vec(),
        ),
        with(
            "escaped slashes are redirected",
            json!({"normalize_path": true, "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"}),
            ["/p%2Fx?y=1", "/p/x"].map(get).to_vec(),
        ),
        with(
            "underscores are refused",
            json!({"common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"}}),
            vec![get("/").header("x_y", "1"), get("/")],
        ),
        with(
            "underscores are dropped",
            json!({"common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER"}}),
            vec![get("/").header("x_y", "1")],
        ),
        with(
            "the port is stripped from host",
            json!({"strip_any_host_port": true}),
            vec![Ask::get("example.com:81", "/")],
        ),
    ]
}
