//! What is done to requests and answers: redirects, rewrites, headers, timeouts.

use super::{filtered_rule, http, ruled, weighted};
use crate::documents::{Row, Step, get, plain, to};

pub(super) fn rows() -> Vec<Row> {
    let redirect = |path: &str, redirect: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}"
        )
    };
    let rewrite = |path: &str, rewrite: &str| {
        filtered_rule(path, &format!("{{type: URLRewrite, urlRewrite: {{{rewrite}}}}}"))
    };
    let request = |changes: &str| {
        format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{changes}}}}}")
    };
    let response = |changes: &str| {
        format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {{{changes}}}}}")
    };
    let statuses = |name, code: &'static str, status| Row {
        name,
        steps: vec![
            ruled(&redirect("/", &format!("hostname: new.example, statusCode: {code}"))),
            get("x.example", "/a").with(status, &[("location", "http://new.example:$PORT/a")]),
        ],
    };
    let slow = |name, timeouts: &str| Row {
        name,
        steps: vec![
            ruled(&format!("{{timeouts: {{{timeouts}}}, backendRefs: [{}]}}", to("a"))),
            get("x.example", "/slow/1").from("a"),
            get("x.example", "/slow/5000").status(504),
        ],
    };
    vec![
        Row {
            name: "HTTPRouteRedirectHostAndStatus",
            steps: vec![
                ruled(&[
                    redirect("/host", "hostname: new.example"), redirect("/status", "hostname: new.example, statusCode: 301"),
                ].join(",")),
                get("x.example", "/host/x?y=1").with(302, &[("location", "http://new.example:$PORT/host/x?y=1")]),
                get("x.example", "/status").with(301, &[("location", "http://new.example:$PORT/status")]),
            ],
        },
        statuses("HTTPRoute303Redirect", "303", 303),
        statuses("HTTPRoute307Redirect", "307", 307),
        statuses("HTTPRoute308Redirect", "308", 308),
        Row {
            name: "HTTPRouteRedirectPath",
            steps: vec![
                ruled(&[
                    redirect("/original", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replaced}"),
                    redirect("/full", "path: {type: ReplaceFullPath, replaceFullPath: /all/of/it}"),
                    redirect("/host", "hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
                ].join(",")),
                get("x.example", "/original/lemon").with(302, &[("location", "http://x.example:$PORT/replaced/lemon")]),
                get("x.example", "/full/x").with(302, &[("location", "http://x.example:$PORT/all/of/it")]),
                get("x.example", "/host/x").with(302, &[("location", "http://new.example:$PORT/x")]),
            ],
        },
        Row {
            name: "HTTPRouteRedirectPort",
            steps: vec![
                Step::Apply(plain() + &http("r", "hostnames: [x.example],", &[
                    redirect("/port", "port: 8083"), redirect("/both", "hostname: new.example, port: 8083"),
                    redirect("/eighty", "port: 80"),
                ].join(","))),
                get("x.example", "/port").with(302, &[("location", "http://x.example:8083/port")]),
                get("x.example", "/both").with(302, &[("location", "http://new.example:8083/both")]),
                get("x.example", "/eighty").with(302, &[("location", "http://x.example/eighty")]),
            ],
        },
        Row {
            name: "HTTPRouteRedirectScheme",
            steps: vec![
                Step::Apply(plain() + &http("r", "hostnames: [x.example],", &[
                    redirect("/scheme", "scheme: https"), redirect("/both", "scheme: https, hostname: new.example"),
                ].join(","))),
                get("x.example", "/scheme").with(302, &[("location", "https://x.example/scheme")]),
                get("x.example", "/both").with(302, &[("location", "https://new.example/both")]),
            ],
        },
        Row {
            name: "HTTPRouteRedirectPortAndScheme",
            steps: vec![
                Step::Apply(plain() + &http("r", "hostnames: [x.example],", &[
                    redirect("/a", "scheme: http, hostname: new.example"), redirect("/b", "scheme: https, port: 443"),
                    redirect("/c", "scheme: https, port: 80"), redirect("/d", "hostname: new.example"),
                ].join(","))),
                get("x.example", "/a").with(302, &[("location", "http://new.example/a")]),
                get("x.example", "/b").with(302, &[("location", "https://x.example/b")]),
                get("x.example", "/c").with(302, &[("location", "https://x.example:80/c")]),
                get("x.example", "/d").with(302, &[("location", "http://new.example:$PORT/d")]),
            ],
        },
        Row {
            name: "HTTPRouteRequestHeaderModifier",
            steps: vec![
                ruled(&[
                    filtered_rule("/set", &request("set: [{name: X-Set, value: \"100%\"}]")),
                    filtered_rule("/add", &request("add: [{name: X-Add, value: more}]")),
                    filtered_rule("/remove", &request("remove: [X-Remove]")),
                    filtered_rule("/all", &request("set: [{name: x-set, value: new}], add: [{name: x-add, value: more}], remove: [x-remove]")),
                ].join(",")),
                get("x.example", "/set").header("x-set", "old").saw("a", &[("x-set", "100%")]),
                get("x.example", "/set").saw("a", &[("x-set", "100%")]),
                get("x.example", "/add").saw("a", &[("x-add", "more")]),
                get("x.example", "/remove").header("x-remove", "1").header("x-other", "2").saw("a", &[("x-remove", ""), ("x-other", "2")]),
                get("x.example", "/all").header("x-set", "old").header("x-remove", "1").saw("a", &[("x-set", "new"), ("x-add", "more"), ("x-remove", "")]),
            ],
        },
        Row {
            name: "HTTPRouteResponseHeaderModifier",
            steps: vec![
                ruled(&filtered_rule("/", &response(
                    "set: [{name: x-backend, value: hidden}], add: [{name: x-add, value: one}], remove: [content-type]"))),
                get("x.example", "/").with(200, &[("x-backend", "hidden"), ("x-add", "one"), ("content-type", "")]),
            ],
        },
        Row {
            name: "HTTPRouteBackendRequestHeaderModifier",
            steps: vec![
                ruled(&format!(
                    "{{backendRefs: [{}]}}", to("a").replace('}', &format!(", filters: [{}]}}", request("set: [{name: x-set, value: one}], remove: [x-remove]"))))),
                get("x.example", "/").header("x-remove", "1").saw("a", &[("x-set", "one"), ("x-remove", "")]),
            ],
        },
        Row {
            name: "HTTPRouteRequestHeaderModifierBackendWeights",
            steps: vec![
                ruled(&format!(
                    "{{backendRefs: [{}, {}]}}",
                    weighted("a", 1).replace('}', &format!(", filters: [{}]}}", request("set: [{name: x-set, value: one}]"))),
                    weighted("b", 0).replace('}', &format!(", filters: [{}]}}", request("set: [{name: x-set, value: two}]"))))),
                get("x.example", "/").saw("a", &[("x-set", "one")]),
                Step::Apply(http("r", "", &format!(
                    "{{backendRefs: [{}, {}]}}",
                    weighted("a", 0).replace('}', &format!(", filters: [{}]}}", request("set: [{name: x-set, value: one}]"))),
                    weighted("b", 1).replace('}', &format!(", filters: [{}, {}]}}", request("set: [{name: x-set, value: two}]"), response("add: [{name: set-cookie, value: b=1}]")))))),
                get("x.example", "/").saw("b", &[("x-set", "two")]),
                get("x.example", "/").with(200, &[("set-cookie", "b=1")]),
            ],
        },
        Row {
            name: "HTTPRouteRewriteHost",
            steps: vec![
                ruled(&[
                    rewrite("/one", "hostname: one.example"), filtered_rule("/two", &request("set: [{name: Host, value: two.example}]")),
                ].join(",")),
                get("x.example", "/one").saw("a", &[("host", "one.example")]),
                get("x.example", "/two").saw("a", &[("host", "two.example")]),
            ],
        },
        Row {
            name: "HTTPRouteRewritePath",
            steps: vec![
                ruled(&[
                    rewrite("/prefix/one", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}"),
                    rewrite("/strip", "path: {type: ReplacePrefixMatch, replacePrefixMatch: \"\"}"),
                    rewrite("/root", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
                    rewrite("/slash", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz/}"),
                    rewrite("/full", "path: {type: ReplaceFullPath, replaceFullPath: /all/of/it}"),
                ].join(",")),
                get("x.example", "/prefix/one/two?q=1").saw("a", &[("path", "/one/two?q=1")]),
                get("x.example", "/prefix/one").saw("a", &[("path", "/one")]),
                get("x.example", "/strip/bar").saw("a", &[("path", "/bar")]),
                get("x.example", "/strip").saw("a", &[("path", "/")]),
                get("x.example", "/root/").saw("a", &[("path", "/")]),
                get("x.example", "/root/bar").saw("a", &[("path", "/bar")]),
                get("x.example", "/slash/bar").saw("a", &[("path", "/xyz/bar")]),
                get("x.example", "/full/x?q=1").saw("a", &[("path", "/all/of/it?q=1")]),
            ],
        },
        slow("HTTPRouteTimeoutRequest", "request: 500ms"),
        slow("HTTPRouteTimeoutBackendRequest", "backendRequest: 500ms"),
    ]
}
