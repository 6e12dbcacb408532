//! Small cases of endpoints, one thing each: health, priorities, localities, addresses, limits.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::Case;
use super::upstream::{Endpoints, T, UP, at, case, cluster, get, group, labelled, with};

pub(super) fn all() -> Vec<Case> {
    let mut all = health();
    all.extend(priorities());
    all.extend(places());
    all.extend(limits());
    all
}

/// Three requests to a cluster with these fields.
fn plain(name: &'static str, more: Value, endpoints: Endpoints) -> Case {
    case(name, (json!({}), more), endpoints, vec![get("/1"), get("/2"), get("/3")])
}

fn is(address: SocketAddr, health: &str) -> Value {
    with(address, json!({"health_status": health}))
}

fn threshold(percent: u32) -> Value {
    json!({"common_lb_config": {"healthy_panic_threshold": {"value": percent}}})
}

fn health() -> Vec<Case> {
    vec![
        plain("who is degraded helps out", threshold(0), |all| {
            group(vec![is(all[0], "UNHEALTHY"), is(all[1], "DEGRADED")])
        }),
        plain("who drains gets nothing new", threshold(0), |all| {
            group(vec![is(all[0], "DRAINING"), at(all[1])])
        }),
        plain("half are healthy, and that is enough", threshold(40), |all| {
            group(vec![is(all[0], "UNHEALTHY"), at(all[1])])
        }),
        plain("nobody is there", json!({}), |_| json!([])),
        plain("nobody listens", json!({}), |_| group(vec![at(([127, 0, 0, 1], 1).into())])),
    ]
}

fn priorities() -> Vec<Case> {
    fn at_priority(priority: u32, endpoints: Vec<Value>) -> Value {
        json!({"priority": priority, "lb_endpoints": endpoints})
    }
    let aggregate = |name: &'static str, members: fn(&[SocketAddr]) -> [Value; 2]| {
        let own = plain(name, json!({}), |_| json!([]));
        let clusters = move |all: &[SocketAddr]| {
            let mut clusters = vec![
                json!({"@type": format!("{T}config.cluster.v3.Cluster"), "name": UP,
                "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": {
                "name": "envoy.clusters.aggregate", "typed_config": {
                "@type": format!("{T}extensions.clusters.aggregate.v3.ClusterConfig"), "clusters": ["m1", "m2"]}}}),
            ];
            for (name, endpoints) in ["m1", "m2"].into_iter().zip(members(all)) {
                clusters.extend(cluster(name, threshold(0), endpoints));
            }
            clusters
        };
        Case { clusters: Box::new(clusters), ..own }
    };
    vec![
        plain("the first priority is empty", json!({}), |all| {
            json!([at_priority(0, vec![]), at_priority(1, vec![at(all[1])])])
        }),
        plain("two priorities are down", json!({}), |all| {
            json!([
                at_priority(0, vec![is(all[0], "UNHEALTHY")]),
                at_priority(1, vec![is(all[1], "TIMEOUT")]),
                at_priority(2, vec![at(all[2])])
            ])
        }),
        plain("all priorities are down", threshold(0), |all| {
            json!([
                at_priority(0, vec![is(all[0], "UNHEALTHY")]),
                at_priority(1, vec![is(all[1], "UNHEALTHY")])
            ])
        }),
        plain("no priority is used before it must", json!({}), |all| {
            json!([at_priority(0, vec![at(all[0])]), at_priority(1, vec![at(all[1])])])
        }),
        aggregate("an aggregate takes the first that has somebody", |all| {
            [json!([]), group(vec![at(all[1])])]
        }),
        aggregate("an aggregate of two takes the first", |all| {
            [group(vec![at(all[0])]), group(vec![at(all[1])])]
        }),
        aggregate("an aggregate of nobody", |all| {
            [json!([]), group(vec![is(all[1], "UNHEALTHY")])]
        }),
    ]
}

fn places() -> Vec<Case> {
    let hostname = json!({"auto_host_rewrite": true});
    let subset = json!({"lb_subset_config": {"fallback_policy": "ANY_ENDPOINT",
        "subset_selectors": [{"keys": ["v"], "single_host_per_subset": false}]}});
    let wanted = json!({"metadata_match": {"filter_metadata": {"envoy.lb": {"v": "2"}}}});
    vec![
        plain(
            "a locality without weight",
            json!({"common_lb_config": {"locality_weighted_lb_config": {}}}),
            |all| {
                json!([
                    {"locality": {"region": "r1"}, "load_balancing_weight": 1, "lb_endpoints": [at(all[0])]},
                    {"locality": {"region": "r2"}, "lb_endpoints": [at(all[1])]}
                ])
            },
        ),
        plain("a second address", json!({}), |all| {
            let mut endpoint = at(([127, 0, 0, 1], 1).into());
            let second = at(all[1])["endpoint"]["address"].clone();
            endpoint["endpoint"]["additional_addresses"] = json!([{"address": second}]);
            group(vec![endpoint])
        }),
        case(
            "the host of the endpoint",
            (hostname, json!({})),
            |all| {
                let mut endpoint = at(all[0]);
                endpoint["endpoint"]["hostname"] = "own.test".into();
                group(vec![endpoint])
            },
            vec![get("/")],
        ),
        case(
            "the endpoint with the label",
            (wanted.clone(), subset.clone()),
            |all| {
                group(vec![
                    labelled(all[0], json!({"v": "1"})),
                    labelled(all[1], json!({"v": "2"})),
                ])
            },
            vec![get("/"), get("/")],
        ),
        case(
            "any endpoint where none has the label",
            (wanted, subset),
            |all| group(vec![labelled(all[0], json!({"v": "1"}))]),
            vec![get("/"), get("/")],
        ),
        plain(
            "a slow start alone",
            json!({"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "60s"}}}),
            |all| group(vec![at(all[0])]),
        ),
    ]
}

fn limits() -> Vec<Case> {
    let one: Endpoints = |all| group(vec![at(all[0])]);
    let limit = |limits: Value| json!({"circuit_breakers": {"thresholds": [limits]}});
    let h2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let outlier = |more: Value| {
        let mut outlier = more;
        outlier["interval"] = "30s".into();
        outlier["base_ejection_time"] = "30s".into();
        outlier["consecutive_5xx"] = 2.into();
        json!({"outlier_detection": outlier,
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}}})
    };
    let fails = |name: &'static str, more: Value| {
        let asks = ["/status/500", "/status/500", "/", "/"].map(get).to_vec();
        case(name, (json!({}), more), one, asks)
    };
    vec![
        plain("no request may wait", limit(json!({"max_pending_requests": 0})), one),
        plain(
            "limits that do not bind",
            limit(json!({"max_requests": 1, "max_connections": 1})),
            one,
        ),
        plain(
            "limits of the other priority",
            {
                json!({"circuit_breakers": {"thresholds": [{"priority": "HIGH", "max_requests": 0}]}})
            },
            one,
        ),
        plain("one request a connection", json!({"max_requests_per_connection": 1}), one),
        plain(
            "HTTP/2 to the endpoint",
            json!({"typed_extension_protocol_options": {h2: {
                "@type": format!("type.googleapis.com/{h2}"),
                "explicit_http_config": {"http2_protocol_options": {}}}}}),
            one,
        ),
        fails("failures that are only counted", outlier(json!({"enforcing_consecutive_5xx": 0}))),
        fails("failures end in an ejection", outlier(json!({"max_ejection_percent": 100}))),
    ]
}
