//! HTTP filters: chains, what routes say of them, and requests.

mod access;
mod authorization;
mod bodies;
mod checks;
mod limits;
mod origins;
mod sessions;
mod web;

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
    // First in the chain, it is the last to see a response: flags and details are compared, too.
    filters.insert(0, says("x-probe", "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%"));
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

/// A filter that says something in the response.
fn says(name: &str, value: &str) -> Value {
    let change = json!({"append": {"header": {"key": name, "value": value}}});
    let config = json!({"mutations": {"response_mutations": [change]}});
    filter("says", "header_mutation.v3.HeaderMutation", config)
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
    all.extend(access::all());
    all.extend(authorization::all());
    all.extend(bodies::all());
    all.extend(checks::all());
    all.extend(limits::all());
    all.extend(origins::all());
    all.extend(sessions::all());
    all.extend(web::all());
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
        decorated(),
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

/// Replies of ours have what the route adds to its responses.
fn decorated() -> Case {
    let add = |value: &str| json!([{"header": {"key": "x-added", "value": value}}, {"header": {"key": "content-type", "value": "text/x"}, "append_action": "ADD_IF_ABSENT"}]);
    let rules = json!({"action": "ALLOW", "policies": {}});
    let fault = json!({"f": typed("fault.v3.HTTPFault", json!({"abort": {"http_status": 418, "percentage": {"numerator": 100}}}))});
    let denied = json!({"r": typed("rbac.v3.RBACPerRoute", json!({"rbac": {"rules": rules}}))});
    let mut all = case(
        "replies of ours have what routes add",
        &[
            filter("c", "cors.v3.Cors", json!({})),
            filter("f", "fault.v3.HTTPFault", json!({})),
            filter("r", "rbac.v3.RBAC", json!({})),
        ],
        json!([]),
        vec![
            get("/fault"),
            get("/rbac"),
            get("/nowhere"),
            get("/weighted"),
            get("/none"),
            get("/direct"),
            get("/upgrade").header("connection", "upgrade").header("upgrade", "x"),
            get("/x").header("content-type", "application/grpc"),
            get("/fault").header("content-type", "application/grpc"),
            get("/cors")
                .method(Method::OPTIONS)
                .header("origin", "http://a")
                .header("access-control-request-method", "PUT"),
        ],
    );
    let with = |prefix: &str, filters: Value, route: Value| {
        json!({
        "match": {"prefix": prefix}, "route": route, "typed_per_filter_config": filters,
        "response_headers_to_add": add("route %RESPONSE_CODE% %REQ(:PATH)%")})
    };
    let cors = json!({"c": typed("cors.v3.CorsPolicy", json!({"allow_origin_string_match": [{"exact": "*"}]}))});
    all.routes = json!({"response_headers_to_add": add("table"), "virtual_hosts": [{"name": "v", "domains": ["*"], "response_headers_to_add": add("host"), "routes": [
        with("/fault", fault, json!({"cluster": "a"})),
        with("/rbac", denied, json!({"cluster": "a"})),
        with("/nowhere", json!({}), json!({"cluster": "nowhere"})),
        with("/weighted", json!({}), json!({"weighted_clusters": {"clusters": [{"name": "nowhere", "weight": 1, "response_headers_to_add": add("cluster")}]}})),
        with("/cors", cors, json!({"cluster": "a"})),
        with("/upgrade", json!({}), json!({"cluster": "a"})),
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 200}, "response_headers_to_add": add("direct")},
        with("/x", json!({}), json!({"cluster": "nowhere"}))]}]});
    all
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
