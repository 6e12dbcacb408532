//! Clusters and requests: which endpoint gets what, and what is answered where none may.

use std::net::SocketAddr;

use gateway_tests::client::Ask;
use serde_json::{Value, json};

use super::Case;

pub(super) const T: &str = "type.googleapis.com/envoy.";
/// The cluster of a case.
pub(super) const UP: &str = super::OWN_CLUSTER;

/// Makes the endpoints of a cluster out of the addresses of three backends.
pub(super) type Endpoints = fn(&[SocketAddr]) -> Value;

pub(super) fn all() -> Vec<Case> {
    let mut all = hashes();
    all.extend(draws());
    all.extend(subsets());
    all.extend(health());
    all.extend(limits());
    all
}

pub(super) fn get(path: &str) -> Ask {
    Ask::get("example.com", path)
}

pub(super) fn at(address: SocketAddr) -> Value {
    let (address, port) = (address.ip().to_string(), address.port());
    json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}})
}

/// An endpoint with more fields.
pub(super) fn with(address: SocketAddr, more: Value) -> Value {
    let mut endpoint = at(address);
    for (key, value) in more.as_object().into_iter().flatten() {
        endpoint[key] = value.clone();
    }
    endpoint
}

/// An endpoint with metadata for load balancing.
pub(super) fn labelled(address: SocketAddr, labels: Value) -> Value {
    with(address, json!({"metadata": {"filter_metadata": {"envoy.lb": labels}}}))
}

/// The groups of endpoints of a cluster that has one.
pub(super) fn group(endpoints: Vec<Value>) -> Value {
    json!([{"locality": {"region": "r"}, "load_balancing_weight": 1, "lb_endpoints": endpoints}])
}

fn equal(addresses: &[SocketAddr]) -> Value {
    group(addresses.iter().map(|address| at(*address)).collect())
}

fn weighted(addresses: &[SocketAddr]) -> Value {
    let weights = [5, 2, 1];
    let weighted = |(address, weight): (&SocketAddr, i32)| {
        with(*address, json!({"load_balancing_weight": weight}))
    };
    group(addresses.iter().zip(weights).map(weighted).collect())
}

/// A cluster as it is, and the groups of its endpoints.
pub(super) fn cluster(name: &str, more: Value, endpoints: Value) -> Vec<Value> {
    let mut cluster = json!({
        "@type": format!("{T}config.cluster.v3.Cluster"), "name": name, "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        cluster[key] = value.clone();
    }
    let assignment = json!({
        "@type": format!("{T}config.endpoint.v3.ClusterLoadAssignment"), "cluster_name": name,
        "endpoints": endpoints,
    });
    vec![cluster, assignment]
}

/// A case of one cluster, which all requests go to as `action` says.
pub(super) fn case(
    name: &'static str,
    (action, more): (Value, Value),
    endpoints: Endpoints,
    asks: Vec<Ask>,
) -> Case {
    let mut action = action;
    if action.get("weighted_clusters").is_none() {
        action["cluster"] = UP.into();
    }
    let route = json!({"match": {"prefix": "/"}, "route": action});
    Case {
        name,
        routes: json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}),
        manager: json!({}),
        clusters: Box::new(move |addresses| cluster(UP, more.clone(), endpoints(addresses))),
        warm: None,
        asks,
    }
}

/// Requests that hash differently.
fn users() -> Vec<Ask> {
    (0..30).map(|n| get("/").header("x-user", &format!("user-{n}"))).collect()
}

fn by_user() -> Value {
    json!({"hash_policy": [{"header": {"header_name": "x-user"}}]})
}

fn policy(kind: &str, config: Value) -> Value {
    let mut config = config;
    config["@type"] = format!("{T}extensions.load_balancing_policies.{kind}").into();
    json!({"load_balancing_policy": {"policies": [
        {"typed_extension_config": {"name": "p", "typed_config": config}}]}})
}

fn hashes() -> Vec<Case> {
    let parts = json!({"hash_policy": [
        {"header": {"header_name": "x-one", "regex_rewrite": {
            "pattern": {"regex": "^([a-z]+)-.*"}, "substitution": "\\1"}}, "terminal": true},
        {"query_parameter": {"name": "q"}},
        {"cookie": {"name": "c"}},
        {"connection_properties": {"source_ip": true}},
    ]});
    let mut asks: Vec<_> = (0..8).map(|n| get(&format!("/?a=1&q=value-{n}&q=x"))).collect();
    asks.extend((0..8).map(|n| get("/").header("cookie", &format!("a=b; c=\"v{n}\"; c=x"))));
    asks.extend((0..4).map(|n| get(&format!("/?q={n}")).header("cookie", "c=v")));
    asks.extend((0..4).map(|n| get("/").header("x-one", &format!("name{}-{n}", n / 2))));
    asks.push(get("/").header("x-one", "b").header("x-one", "a"));
    asks.push(get("/").header("x-one", "a").header("x-one", "b"));
    asks.push(get("/?q=%61"));
    asks.push(get("/"));
    let murmur = json!({"lb_policy": "RING_HASH", "ring_hash_lb_config": {
        "hash_function": "MURMUR_HASH_2", "minimum_ring_size": 100, "maximum_ring_size": 300}});
    vec![
        case("a ring", (by_user(), json!({"lb_policy": "RING_HASH"})), equal, users()),
        case("a weighted ring by Murmur", (by_user(), murmur), weighted, users()),
        case("Maglev", (by_user(), json!({"lb_policy": "MAGLEV"})), equal, users()),
        case(
            "weighted Maglev",
            (by_user(), policy("maglev.v3.Maglev", json!({"table_size": 1021}))),
            weighted,
            users(),
        ),
        case(
            "a ring by hash keys",
            (by_user(), policy("ring_hash.v3.RingHash", json!({"minimum_ring_size": 64}))),
            |all| {
                let keyed = |(n, address): (usize, &SocketAddr)| {
                    labelled(*address, json!({"hash_key": format!("key-{n}")}))
                };
                group(all.iter().enumerate().map(keyed).collect())
            },
            users(),
        ),
        case(
            "Maglev by host names over localities",
            (
                by_user(),
                policy(
                    "maglev.v3.Maglev",
                    json!({"consistent_hashing_lb_config": {"use_hostname_for_hashing": true},
                    "locality_weighted_lb_config": {}}),
                ),
            ),
            |all| {
                let named = |(n, address): (usize, &SocketAddr)| {
                    let mut endpoint = at(*address);
                    endpoint["endpoint"]["hostname"] = format!("host-{n}").into();
                    json!({"locality": {"region": format!("r{n}")}, "load_balancing_weight": n + 1,
                        "lb_endpoints": [endpoint]})
                };
                all.iter().enumerate().map(named).collect()
            },
            users(),
        ),
        case("what is hashed", (parts, json!({"lb_policy": "MAGLEV"})), equal, asks),
        case(
            "a cookie is made",
            (
                json!({"hash_policy": [{"cookie": {"name": "sid", "ttl": "90s", "path": "/p",
                    "attributes": [{"name": "SameSite", "value": "Strict"}]}}, {"cookie": {"name": "s", "ttl": "0s"}}]}),
                json!({"lb_policy": "RING_HASH"}),
            ),
            |all| equal(&all[..1]),
            vec![get("/"), get("/").header("cookie", "sid=1"), get("/").header("cookie", "sid=")],
        ),
    ]
}

fn draws() -> Vec<Case> {
    let clusters = json!([{"name": "a", "weight": 20}, {"name": "b", "weight": 50}, {"name": "c", "weight": 30}]);
    let hashed = json!({"weighted_clusters": {"clusters": clusters, "use_hash_policy": true},
        "hash_policy": [{"header": {"header_name": "x-user"}}]});
    let by_header = json!({"weighted_clusters": {"clusters": clusters, "header_name": "x-draw"}});
    let drawn = ["0", "19", "20", "69", "70", "99", "100", "4294967295"];
    vec![
        case("clusters by hash", (hashed, json!({})), equal, users()),
        case(
            "clusters by a header",
            (by_header, json!({})),
            equal,
            drawn.map(|number| get("/").header("x-draw", number)).to_vec(),
        ),
    ]
}

fn subsets() -> Vec<Case> {
    let endpoints: Endpoints = |all| {
        group(vec![
            labelled(all[0], json!({"version": "1", "stage": "prod"})),
            labelled(all[1], json!({"version": "2", "stage": "dev", "canary": true})),
            labelled(all[2], json!({"version": 3, "stage": "dev"})),
        ])
    };
    let route = |path: &str, labels: Value| {
        json!({"match": {"path": path}, "route": {"cluster": UP,
            "metadata_match": {"filter_metadata": {"envoy.lb": labels}}}})
    };
    let routes = json!([
        route("/1", json!({"version": "1"})),
        route("/text", json!({"version": "3"})),
        route("/number", json!({"version": 3})),
        route("/two", json!({"version": "2", "stage": "dev"})),
        route("/wrong", json!({"version": "2", "stage": "prod"})),
        route("/unknown", json!({"canary": true})),
        {"match": {"path": "/merged"}, "route": {
            "metadata_match": {"filter_metadata": {"envoy.lb": {"version": "1", "stage": "dev"}}},
            "weighted_clusters": {"clusters": [{"name": UP, "weight": 1,
                "metadata_match": {"filter_metadata": {"envoy.lb": {"version": "2"}}}}]}}},
        {"match": {"prefix": "/"}, "route": {"cluster": UP}},
    ]);
    let paths = ["/1", "/text", "/number", "/two", "/wrong", "/unknown", "/merged", "/none"];
    let selectors = json!([{"keys": ["version"]}, {"keys": ["stage", "version"],
        "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["version"]}]);
    let both = |name, more: Value| Case {
        routes: json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}),
        ..case(name, (json!({}), more), endpoints, paths.map(get).to_vec())
    };
    let inner = json!({"policies": [{"typed_extension_config": {"name": "r", "typed_config": {
        "@type": format!("{T}extensions.load_balancing_policies.round_robin.v3.RoundRobin")}}}]});
    vec![
        both(
            "subsets without a fallback",
            json!({"lb_subset_config": {"fallback_policy": "NO_FALLBACK", "subset_selectors": selectors}}),
        ),
        both(
            "subsets with a default",
            policy(
                "subset.v3.Subset",
                json!({"fallback_policy": "DEFAULT_SUBSET", "default_subset": {"stage": "prod"},
                "subset_selectors": selectors, "subset_lb_policy": inner}),
            ),
        ),
    ]
}

fn health() -> Vec<Case> {
    let many = || (0..6).map(|_| get("/")).collect::<Vec<_>>();
    let no_panic = json!({"common_lb_config": {"healthy_panic_threshold": {"value": 0}}});
    let aggregate: Endpoints = |_| json!([]);
    let checked = |check: Value| {
        let mut check = check;
        for (key, value) in
            [("timeout", "0.5s"), ("interval", "0.1s"), ("no_traffic_interval", "0.1s")]
        {
            check[key] = value.into();
        }
        check["healthy_threshold"] = 1.into();
        check["unhealthy_threshold"] = 1.into();
        json!({"health_checks": [check],
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}}})
    };
    // Nobody listens on port 1.
    let second_fails: Endpoints = |all| {
        let mut failing = at(all[1]);
        failing["endpoint"]["health_check_config"] = json!({"port_value": 1});
        group(vec![at(all[0]), failing])
    };
    let warm = |case: Case| Case { warm: Some(200), ..case };
    vec![
        case(
            "priorities",
            (json!({}), json!({})),
            |all| {
                let down = with(all[0], json!({"health_status": "UNHEALTHY"}));
                json!([{"priority": 0, "lb_endpoints": [down]}, {"priority": 1, "lb_endpoints": [at(all[1])]}])
            },
            many(),
        ),
        case(
            "nobody is healthy",
            (json!({}), no_panic),
            |all| group(vec![with(all[0], json!({"health_status": "DRAINING"}))]),
            many(),
        ),
        case(
            "panic",
            (json!({}), json!({})),
            |all| group(vec![with(all[0], json!({"health_status": "TIMEOUT"}))]),
            many(),
        ),
        Case {
            clusters: Box::new(|all| {
                let down = group(vec![with(all[0], json!({"health_status": "UNHEALTHY"}))]);
                let aggregate = json!({"@type": format!("{T}config.cluster.v3.Cluster"), "name": UP,
                    "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": {
                    "name": "envoy.clusters.aggregate", "typed_config": {
                    "@type": format!("{T}extensions.clusters.aggregate.v3.ClusterConfig"), "clusters": ["p", "s"]}}});
                let mut clusters = cluster("p", json!({}), down);
                clusters.extend(cluster("s", json!({}), group(vec![at(all[1])])));
                clusters.push(aggregate);
                clusters
            }),
            ..case("an aggregate", (json!({}), json!({})), aggregate, many())
        },
        warm(case(
            "an HTTP check fails",
            (
                json!({}),
                checked(json!({"http_health_check": {"path": "/status/204",
                "expected_statuses": [{"start": 204, "end": 205}]}})),
            ),
            second_fails,
            many(),
        )),
        warm(case(
            "a TCP check fails",
            (json!({}), checked(json!({"tcp_health_check": {}}))),
            second_fails,
            many(),
        )),
    ]
}

fn limits() -> Vec<Case> {
    let no_requests = json!({"circuit_breakers": {"thresholds": [{"max_requests": 0}]}});
    let outlier = json!({
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "outlier_detection": {"consecutive_5xx": 3, "interval": "30s", "base_ejection_time": "30s",
            "max_ejection_percent": 100}});
    let gateway = json!({
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "outlier_detection": {"consecutive_gateway_failure": 2, "interval": "30s",
            "enforcing_consecutive_gateway_failure": 100, "max_ejection_percent": 100}});
    let one: Endpoints = |all| equal(&all[..1]);
    let retried = |name, thresholds: Value| {
        let policy = json!({"retry_on": "5xx", "num_retries": 2});
        let more = json!({"circuit_breakers": {"thresholds": [thresholds]}});
        // What is left of a timeout differs from run to run.
        let action = json!({"retry_policy": policy, "timeout": "0s"});
        let mut case = case(name, (action, more), one, vec![get("/status/503")]);
        case.routes["virtual_hosts"][0]["include_attempt_count_in_response"] = true.into();
        case
    };
    let asks = |paths: &[&str]| paths.iter().map(|path| get(path)).collect::<Vec<_>>();
    vec![
        case("no request is allowed", (json!({}), no_requests), one, asks(&["/", "/"])),
        retried("no retry is allowed", json!({"max_retries": 0})),
        retried("one retry is allowed", json!({"max_retries": 1})),
        retried(
            "the budget has no retry",
            json!({"retry_budget": {"budget_percent": {"value": 0}, "min_retry_concurrency": 0}}),
        ),
        retried(
            "the budget is for all requests",
            json!({"max_retries": 0, "retry_budget": {"budget_percent": {"value": 100}}}),
        ),
        case(
            "an endpoint is ejected",
            (json!({}), outlier),
            one,
            asks(&[
                "/status/500",
                "/status/502",
                "/",
                "/status/500",
                "/status/500",
                "/status/503",
                "/",
            ]),
        ),
        case(
            "an endpoint is ejected for gateway failures",
            (json!({}), gateway),
            one,
            asks(&["/status/503", "/status/500", "/status/504", "/status/502", "/"]),
        ),
    ]
}
