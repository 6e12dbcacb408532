//! What compiled route configurations do with requests.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, Method, Request};
use xds_proto::json;

use super::*;
use crate::format::Context;
use crate::route::action::{Action, ClusterChoice, WeightedCluster};
use crate::route::{Found, NotFound, RequestView};

fn table(yaml: &str) -> RouteTable {
    compile(json::from_yaml(yaml).unwrap()).unwrap()
}

/// A table of one virtual host, from the YAML of its routes.
fn routes(yaml: &str) -> RouteTable {
    table(&format!("{{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{yaml}]}}]}}"))
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
    };
    lines.iter().map(line).collect()
}

static GET: Method = Method::GET;

fn view<'a>(path: &'a str, headers: &'a HeaderMap, random: u64) -> RequestView<'a> {
    RequestView {
        method: &GET,
        host: "example.com",
        path,
        headers,
        scheme: "http",
        random,
        is_client_known: false,
        metadata: None,
    }
}

/// The cluster or status that `GET path` (or `METHOD path`) of a host gets.
pub(super) fn ask(table: &RouteTable, host: &str, request: &str, lines: &[(&str, &str)]) -> String {
    let (method, path) = request.split_once(' ').unwrap_or(("GET", request));
    let (method, headers) = (method.parse().unwrap(), headers(lines));
    let view = RequestView { method: &method, host, ..view(path, &headers, 0) };
    match table.find(&view) {
        Err(NotFound::TlsRequired) => "tls".into(),
        Err(NotFound::NoRoute | NotFound::NoVirtualHost) => "404".into(),
        Ok(Found { route, matched, virtual_host, .. }) => match &route.action {
            Action::Direct(direct) => direct.respond(&view).status().as_u16().to_string(),
            Action::Redirect(redirect) => {
                redirect.respond(&view, matched).headers()["location"].to_str().unwrap().into()
            }
            Action::Forward(forward) => match &forward.cluster {
                ClusterChoice::One(index) => {
                    virtual_host.cluster_names()[index.0 as usize].to_string()
                }
                other => format!("{other:?}"),
            },
        },
    }
}

/// The head of a request as it goes upstream, its headers in order of name.
fn upstream(table: &RouteTable, path: &str, lines: &[(&str, &str)]) -> String {
    let mut lines = lines.to_vec();
    lines.push(("host", "example.com"));
    let (mut head, ()) = Request::get(path).body(()).unwrap().into_parts();
    head.headers = headers(&lines);
    let before = head.clone();
    let found = table.find(&view(path, &before.headers, 0)).unwrap();
    let context = Context { protocol: Some(http::Version::HTTP_11), ..Context::default() };
    found.rewrite_request(&mut head, picked(&found, 0), &context, true);
    format!("{} {}", head.uri, sorted(&head.headers))
}

fn sorted(headers: &HeaderMap) -> String {
    let mut names: Vec<_> = headers.keys().collect();
    names.sort_by_key(|name| name.as_str());
    let all = |name: &&HeaderName| {
        headers.get_all(*name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join("+")
    };
    names.iter().map(|name| format!("{name}={}", all(name))).collect::<Vec<_>>().join(" ")
}

fn picked<'a>(found: &Found<'a>, random: u64) -> Option<&'a WeightedCluster> {
    match &found.route.action {
        Action::Forward(forward) => match &forward.cluster {
            ClusterChoice::Weighted(clusters) => clusters.pick(random),
            ClusterChoice::One(_) | ClusterChoice::Header(_) => None,
        },
        Action::Redirect(_) | Action::Direct(_) => None,
    }
}

#[test]
fn the_first_match_wins_and_the_query_is_not_looked_at() {
    let table = routes(
        "{match: {path: /exact}, route: {cluster: a}},
         {match: {prefix: /p/}, route: {cluster: b}},
         {match: {prefix: /p/x}, route: {cluster: c}},
         {match: {path_separated_prefix: /api/dev}, route: {cluster: a}},
         {match: {prefix: /ci, case_sensitive: false}, route: {cluster: b}},
         {match: {path: /CE, case_sensitive: false}, route: {cluster: c}},
         {match: {safe_regex: {regex: '/re/[0-9]+'}}, route: {cluster: c}}",
    );
    for (path, want) in [
        ("/exact", "a"),
        ("/exact/", "404"),
        ("/exact?q=1", "a"),
        ("/p/x", "b"),
        ("/p", "404"),
        ("/EXACT", "404"),
        ("/api/dev", "a"),
        ("/api/dev/x", "a"),
        ("/api/development", "404"),
        ("/api/dev?x=1", "a"),
        ("/CI/x", "b"),
        ("/ce", "c"),
        ("/re/12?x", "c"),
        ("/re/12x", "404"),
    ] {
        assert_eq!(ask(&table, "example.com", path, &[]), want, "{path}");
    }
}

#[test]
fn headers_decide_between_routes_of_one_path() {
    let on = |matcher: &str, cluster: &str| {
        format!("{{match: {{prefix: /, headers: [{matcher}]}}, route: {{cluster: {cluster}}}}},")
    };
    let table = routes(
        &[
            on("{name: x-e, string_match: {exact: '1'}}", "a"),
            on("{name: x-p, string_match: {prefix: ab}}", "b"),
            on("{name: x-s, string_match: {suffix: yz, ignore_case: true}}", "a"),
            on("{name: x-c, string_match: {contains: mid}}", "b"),
            on("{name: x-r, string_match: {safe_regex: {regex: '[0-9]+'}}}", "a"),
            on("{name: x-n, range_match: {start: 10, end: 20}}", "b"),
            on("{name: x-pr, present_match: true}", "a"),
            on(
                "{name: x-inv, string_match: {exact: 'no'}, invert_match: true},
             {name: ':method', string_match: {exact: PUT}}",
                "b",
            ),
            on("{name: ':authority', string_match: {exact: h.test}}", "c"),
        ]
        .concat(),
    );
    for (request, lines, want) in [
        ("/", &[("x-e", "1")][..], "a"),
        ("/", &[("X-E", "1")], "a"),
        ("/", &[("x-e", "12")], "404"),
        ("/", &[("x-p", "abc")], "b"),
        ("/", &[("x-s", "XYZ")], "a"),
        ("/", &[("x-c", "amidb")], "b"),
        ("/", &[("x-r", "123")], "a"),
        ("/", &[("x-r", "12a")], "404"),
        ("/", &[("x-n", "10")], "b"),
        ("/", &[("x-n", "20")], "404"),
        ("/", &[("x-n", "x")], "404"),
        ("/", &[("x-pr", "")], "a"),
        ("PUT /", &[("x-inv", "yes")], "b"),
        ("PUT /", &[("x-inv", "no")], "404"),
        ("PUT /", &[], "404"),
    ] {
        assert_eq!(ask(&table, "example.com", request, lines), want, "{request} {lines:?}");
    }
    assert_eq!(ask(&table, "h.test", "/", &[]), "c");
}

#[test]
fn query_parameters_grpc_and_chance_decide_too() {
    let table = routes(
        "{match: {prefix: /, query_parameters: [{name: a, string_match: {exact: b}}]},
          route: {cluster: a}},
         {match: {prefix: /, grpc: {}}, route: {cluster: b}},
         {match: {prefix: /never, runtime_fraction: {default_value: {numerator: 0}}},
          route: {cluster: c}},
         {match: {prefix: /, runtime_fraction: {default_value: {numerator: 1}}},
          route: {cluster: c}}",
    );
    for (path, lines, want) in [
        ("/?x&a=b", &[][..], "a"),
        ("/?a=%62", &[], "c"),
        ("/", &[("content-type", "application/grpc")], "b"),
        ("/", &[("content-type", "application/grpc+proto")], "b"),
        ("/", &[("content-type", "application/grpc-web")], "c"),
        ("/never", &[], "c"),
    ] {
        assert_eq!(ask(&table, "h", path, lines), want, "{path} {lines:?}");
    }
}

#[test]
fn domains_are_searched_from_exact_to_any() {
    let host = |name: &str, domains: &str, action: &str| {
        format!(
            "{{name: {name}, domains: [{domains}], routes: [{{match: {{prefix: /}}, {action}}}]}},"
        )
    };
    let hosts = [
        host("e", "api.test, 'api.test:8443'", "route: {cluster: a}"),
        host("s", "'*.test', '*-x.test'", "route: {cluster: b}"),
        host("p", "'api.*'", "route: {cluster: c}"),
        host("any", "'*'", "direct_response: {status: 418}"),
    ]
    .concat();
    let exact_port = table(&format!("{{name: r, virtual_hosts: [{hosts}]}}"));
    let no_port = table(&format!(
        "{{name: r, ignore_port_in_host_matching: true, virtual_hosts: [{hosts}]}}"
    ));
    for (host, want, want_without_port) in [
        ("api.test", "a", "a"),
        ("API.TEST", "a", "a"),
        ("x.test", "b", "b"),
        ("a-x.test", "b", "b"),
        ("api.example", "c", "c"),
        ("other", "418", "418"),
        ("api.test:8443", "a", "a"),
        ("api.test:9", "c", "a"),
        ("x.test:9", "418", "b"),
        (".test", "418", "418"),
        ("[::1]", "418", "418"),
    ] {
        assert_eq!(ask(&exact_port, host, "/", &[]), want, "{host}");
        assert_eq!(ask(&no_port, host, "/", &[]), want_without_port, "{host}");
    }
}

#[test]
fn weighted_clusters_bring_their_own_header_changes() {
    let table = routes(
        "{match: {prefix: /}, route: {weighted_clusters: {clusters: [
           {name: a, weight: 70, response_headers_to_add: [{header: {key: x-w, value: a}}]},
           {name: b, weight: 30, response_headers_to_add: [{header: {key: x-w, value: b}}],
            request_headers_to_add: [{header: {key: x-canary, value: '1'}}]}]}}}",
    );
    let none = HeaderMap::new();
    let mut got = HashMap::new();
    for random in 0..100 {
        let found = table.find(&view("/", &none, random)).unwrap();
        let picked = picked(&found, random);
        let (mut request, ()) = Request::get("/").body(()).unwrap().into_parts();
        let mut response = HeaderMap::new();
        found.rewrite_request(&mut request, picked, &Context::default(), true);
        found.mutate_response(&mut response, picked, &Context::default());
        let seen = [sorted(&request.headers), sorted(&response)].join("|");
        *got.entry(seen).or_insert(0) += 1;
    }
    assert_eq!(got, HashMap::from([("|x-w=a".into(), 70), ("x-canary=1|x-w=b".into(), 30)]));
}

#[test]
fn paths_and_hosts_are_rewritten_and_the_old_ones_kept() {
    let table = routes(
        "{match: {prefix: /old/}, route: {cluster: a, prefix_rewrite: /new/}},
         {match: {prefix: /svc}, route: {cluster: a, prefix_rewrite: /}},
         {match: {prefix: /re/}, route: {cluster: a, regex_rewrite: {
           pattern: {regex: '^/re/([^/]+)/(.*)$'}, substitution: '/\\2/by/\\1'}}},
         {match: {safe_regex: {regex: '/any/.+'}}, route: {cluster: a, prefix_rewrite: /whole}},
         {match: {prefix: /CI/, case_sensitive: false},
          route: {cluster: a, prefix_rewrite: /nci/}},
         {match: {prefix: /none}, route: {cluster: a, path_rewrite: '%REQ(x-none)%'}},
         {match: {prefix: /lit}, route: {cluster: a, host_rewrite_literal: lit.test}},
         {match: {prefix: /hdr}, route: {cluster: a, host_rewrite_header: x-target}},
         {match: {prefix: /rex}, route: {cluster: a, host_rewrite_path_regex: {
           pattern: {regex: '^/rex/([^/]+).*'}, substitution: '\\1.test'}}},
         {match: {prefix: /xfh}, route: {cluster: a, host_rewrite_literal: lit.test,
           append_x_forwarded_host: true}}",
    );
    let kept = "host=example.com x-envoy-original-path";
    let host = "x-envoy-original-host=example.com";
    for (path, lines, want) in [
        ("/old/x?y=1", &[][..], format!("/new/x?y=1 {kept}=/old/x?y=1")),
        ("/svc", &[], format!("/ {kept}=/svc")),
        ("/svc/x", &[], format!("//x {kept}=/svc/x")),
        ("/re/u/p/q?z=1", &[], format!("/p/q/by/u?z=1 {kept}=/re/u/p/q?z=1")),
        ("/re/onlyone", &[], format!("/re/onlyone {kept}=/re/onlyone")),
        ("/any/x?y", &[], format!("/whole?y {kept}=/any/x?y")),
        ("/ci/x", &[], format!("/nci/x {kept}=/ci/x")),
        ("/none?x", &[], "/none?x host=example.com".into()),
        ("/lit", &[], format!("/lit host=lit.test {host}")),
        ("/hdr", &[("x-target", "t.test")], format!("/hdr host=t.test {host} x-target=t.test")),
        ("/hdr", &[], "/hdr host=example.com".into()),
        ("/rex/foo/bar", &[], format!("/rex/foo/bar host=foo.test {host}")),
        ("/xfh", &[], format!("/xfh host=lit.test {host} x-forwarded-host=example.com")),
    ] {
        assert_eq!(upstream(&table, path, lines), want);
    }
}

const LEVELS: &str = "name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{
    match: {prefix: /}, route: {cluster: a},
    request_headers_to_add: [
      {header: {key: x-lvl, value: route}}, {header: {key: x-path, value: '%REQ(:PATH)%'}},
      {header: {key: x-proto, value: '%PROTOCOL%'}},
      {header: {key: x-over, value: new}, append_action: OVERWRITE_IF_EXISTS_OR_ADD},
      {header: {key: x-ifabs, value: set}, append_action: ADD_IF_ABSENT},
      {header: {key: x-ow, value: z}, append_action: OVERWRITE_IF_EXISTS}],
    request_headers_to_remove: [x-del],
    response_headers_to_add: [
      {header: {key: x-r, value: route}}, {header: {key: x-code, value: '%RESPONSE_CODE%'}}],
    response_headers_to_remove: [x-backend]}],
  request_headers_to_add: [{header: {key: x-lvl, value: vhost}}],
  response_headers_to_add: [{header: {key: x-r, value: vhost}}]}],
request_headers_to_add: [{header: {key: x-lvl, value: rc}}],
response_headers_to_add: [{header: {key: x-r, value: rc}}]";

#[test]
fn header_changes_go_from_route_to_table() {
    let table = table(&format!("{{{LEVELS}}}"));
    let lines = [("x-over", "old"), ("x-ifabs", "mine"), ("x-del", "1")];
    assert_eq!(
        upstream(&table, "/q?z=1", &lines),
        "/q?z=1 host=example.com x-ifabs=mine x-lvl=route+vhost+rc x-over=new x-path=/q?z=1 \
         x-proto=HTTP/1.1"
    );
    assert_eq!(
        upstream(&table, "/q", &[("x-ow", "y")]),
        "/q host=example.com x-ifabs=set x-lvl=route+vhost+rc x-over=new x-ow=z x-path=/q \
         x-proto=HTTP/1.1"
    );
    let none = HeaderMap::new();
    let mut response = headers(&[("x-backend", "A")]);
    let context = Context { response_code: Some(200), ..Context::default() };
    table.find(&view("/q", &none, 0)).unwrap().mutate_response(&mut response, None, &context);
    assert_eq!(sorted(&response), "x-code=200 x-r=route+vhost+rc");
}

#[test]
fn the_most_specific_change_is_the_last_when_it_is_to_win() {
    let table = table(&format!("{{{LEVELS}, most_specific_header_mutations_wins: true}}"));
    assert!(upstream(&table, "/", &[]).contains("x-lvl=rc+vhost+route "));
}

#[test]
fn direct_responses_have_a_plain_body_unless_it_is_empty() {
    let table = routes(
        "{match: {path: /empty}, direct_response: {status: 204}},
         {match: {path: /moved}, direct_response: {status: 301}},
         {match: {prefix: /}, direct_response: {status: 503, body: {inline_string: down}}}",
    );
    let none = HeaderMap::new();
    for (path, status, body, sent) in [
        ("/empty", 204, "", ""),
        ("/moved", 301, "", "location=http://example.com/moved"),
        ("/x", 503, "down", "content-type=text/plain"),
    ] {
        let view = view(path, &none, 0);
        let Action::Direct(direct) = &table.find(&view).unwrap().route.action else {
            unreachable!("{path}");
        };
        let response = direct.respond(&view);
        assert_eq!((response.status().as_u16(), &response.body()[..]), (status, body.as_bytes()));
        assert_eq!(sorted(response.headers()), sent);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let host = |yaml: &str| format!("{{virtual_hosts: [{{name: v, {yaml}}}]}}");
    let any = "domains: ['*']";
    for (yaml, want) in [
        (host("routes: []"), "virtual_hosts[0].domains: required"),
        (
            host("domains: [a, '*', A]"),
            "virtual_hosts[0].domains[2]: only unique domains are permitted, \"A\" is there already",
        ),
        (
            host(&format!("{any}, rate_limits: [{{}}]")),
            "virtual_hosts[0].rate_limits[0].actions: required",
        ),
        (
            host(&format!("{any}, routes: [{{match: {{}}, route: {{cluster: a}}}}]")),
            "virtual_hosts[0].routes[0].match.path_specifier: required",
        ),
        (
            host(&format!("{any}, routes: [{{match: {{prefix: /}}}}]")),
            "virtual_hosts[0].routes[0].action: required",
        ),
        ("{vhds: {}}".into(), "vhds: needs a route configuration that comes by RDS"),
    ] {
        let message = json::from_yaml(&yaml).unwrap();
        assert_eq!(compile(message).unwrap_err().to_string(), want);
    }
}

fn encoded(hosts: &[(&str, &str)], more: &str) -> Bytes {
    let host = |(name, cluster): &(&str, &str)| {
        format!(
            "{{name: {name}, domains: [{name}.test], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}"
        )
    };
    let hosts: Vec<_> = hosts.iter().map(host).collect();
    let yaml = format!("{{name: r, {more} virtual_hosts: [{}]}}", hosts.join(", "));
    let message: route::RouteConfiguration = json::from_yaml(&yaml).unwrap();
    message.encode_to_vec().into()
}

#[test]
fn a_changed_virtual_host_leaves_the_others_as_they_are() {
    let before = RouteConfig::compile(encoded(&[("a", "x"), ("b", "x"), ("c", "x")], ""), None);
    let before = before.unwrap();
    let after = encoded(&[("c", "x"), ("a", "x"), ("b", "y")], "");
    let after = RouteConfig::compile(after, Some(&before)).unwrap().table;
    let first = before.table.virtual_hosts();
    let is_same = |old: usize, new: usize| Arc::ptr_eq(&first[old], &after.virtual_hosts()[new]);
    assert!(is_same(0, 1) && is_same(2, 0) && !is_same(1, 2));
    for (host, want) in [("a.test", "x"), ("b.test", "y"), ("c.test", "x")] {
        assert_eq!(ask(&after, host, "/", &[]), want);
    }
    let around = encoded(&[("a", "x")], "max_direct_response_body_size_bytes: 1,");
    let around = RouteConfig::compile(around, Some(&before)).unwrap().table;
    assert!(!Arc::ptr_eq(&first[0], &around.virtual_hosts()[0]));
}

#[test]
fn what_is_wrong_with_a_domain_is_found_in_encoded_tables_too() {
    let error = RouteConfig::compile(encoded(&[("a", "x"), ("a", "x")], ""), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "virtual_hosts[1].domains[0]: only unique domains are permitted, \"a.test\" is there already"
    );
    let error = RouteConfig::compile(Bytes::from_static(b"\xff"), None).unwrap_err();
    assert!(error.to_string().starts_with("undecodable bytes"), "{error}");
}
