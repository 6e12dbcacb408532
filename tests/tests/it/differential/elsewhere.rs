//! Where a request goes that is tried again: not where it failed, as the policy says.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway_tests::client::{Ask, get as ask_for};
use gateway_tests::raw::{Recorder, Reply};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Case;
use super::standing::{Standing, bootstrap, place, sides};
use super::upstream::{Endpoints, T, UP, at, case, cluster, get, group, labelled};

pub(super) fn all() -> Vec<Case> {
    let mut all = hosts();
    all.extend(priorities());
    all
}

fn extension(kind: &str, config: Value) -> Value {
    let mut config = config;
    config["@type"] = format!("{T}extensions.retry.{kind}").into();
    json!({"name": format!("envoy.{kind}"), "typed_config": config})
}

fn not_tried() -> Value {
    extension("host.previous_hosts.v3.PreviousHostsPredicate", json!({}))
}

/// So many retries after each 503, and how endpoints are chosen for them.
fn policy(retries: u32, more: Value) -> Value {
    let mut policy = more;
    policy["retry_on"] = "5xx".into();
    policy["num_retries"] = retries.into();
    policy["retry_back_off"] = json!({"base_interval": "0.001s", "max_interval": "0.001s"});
    policy
}

/// A case that tells how often a request was tried.
fn told(
    name: &'static str,
    (policy, more): (Value, Value),
    endpoints: Endpoints,
    asks: Vec<Ask>,
) -> Case {
    let action = json!({"timeout": "0s", "retry_policy": policy,
        "hash_policy": [{"header": {"header_name": "x-user"}}]});
    let mut case = case(name, (action, more), endpoints, asks);
    case.routes["virtual_hosts"][0]["include_attempt_count_in_response"] = true.into();
    case
}

fn users() -> Vec<Ask> {
    (0..20).map(|n| get("/status/503").header("x-user", &format!("user-{n}"))).collect()
}

fn failing(count: usize) -> Vec<Ask> {
    vec![get("/status/503"); count]
}

fn equal(addresses: &[SocketAddr]) -> Value {
    group(addresses.iter().map(|address| at(*address)).collect())
}

fn hosts() -> Vec<Case> {
    let hashed = |name, retries, more: Value, policy_of_cluster: &str| {
        told(name, (policy(retries, more), json!({"lb_policy": policy_of_cluster})), equal, users())
    };
    let canary = extension("host.omit_canary_hosts.v3.OmitCanaryHostsPredicate", json!({}));
    let labelled_as = |labels: Value| {
        let metadata = json!({"filter_metadata": {"envoy.lb": labels}});
        extension(
            "host.omit_host_metadata.v3.OmitHostMetadataConfig",
            json!({"metadata_match": metadata}),
        )
    };
    let omitting = |predicates: Value| {
        policy(
            1,
            json!({"retry_host_predicate": predicates, "host_selection_retry_max_attempts": 60}),
        )
    };
    let staged: Endpoints = |all| {
        group(vec![
            labelled(all[0], json!({"canary": true, "stage": "new", "zone": 1})),
            labelled(all[1], json!({"canary": false, "stage": "old", "zone": 2})),
            labelled(all[2], json!({"canary": true, "stage": "new", "zone": 2})),
        ])
    };
    let ring = || json!({"lb_policy": "RING_HASH"});
    vec![
        hashed("a hash stays where it failed", 1, json!({}), "RING_HASH"),
        hashed(
            "a ring leads on from where it failed",
            1,
            json!({"retry_host_predicate": [not_tried()], "host_selection_retry_max_attempts": 40}),
            "RING_HASH",
        ),
        hashed(
            "a ring leads on to who was not tried",
            2,
            json!({"retry_host_predicate": [not_tried()], "host_selection_retry_max_attempts": 100}),
            "RING_HASH",
        ),
        hashed(
            "a second draw may be no better",
            1,
            json!({"retry_host_predicate": [not_tried()]}),
            "RING_HASH",
        ),
        hashed(
            "Maglev leads on to who was not tried",
            2,
            json!({"retry_host_predicate": [not_tried()], "host_selection_retry_max_attempts": 100}),
            "MAGLEV",
        ),
        told("no canary tries again", (omitting(json!([canary])), ring()), staged, users()),
        told(
            "nobody with such labels tries again",
            (omitting(json!([labelled_as(json!({"stage": "new"}))])), ring()),
            staged,
            users(),
        ),
        told(
            "only all labels together count",
            (omitting(json!([labelled_as(json!({"stage": "new", "zone": 2}))])), ring()),
            staged,
            users(),
        ),
        told(
            "labels and earlier tries count both",
            (omitting(json!([labelled_as(json!({"stage": "old"})), not_tried()])), ring()),
            staged,
            users(),
        ),
        told(
            "no labels leave nobody out",
            (omitting(json!([labelled_as(json!({}))])), ring()),
            staged,
            users(),
        ),
    ]
}

fn priorities() -> Vec<Case> {
    let by_priority: Endpoints = |all| {
        let of = |(priority, address): (usize, &SocketAddr)| json!({"priority": priority, "lb_endpoints": [at(*address)]});
        all.iter().enumerate().map(of).collect()
    };
    let not_before = |retries: u32, every: u32| {
        let kind = "priority.previous_priorities.v3.PreviousPrioritiesConfig";
        let previous = extension(kind, json!({"update_frequency": every}));
        policy(retries, json!({"retry_priority": previous}))
    };
    let plain = |name, retries, every| {
        told(name, (not_before(retries, every), json!({})), by_priority, failing(3))
    };
    let aggregate = |name: &'static str, retries| {
        let clusters = |all: &[SocketAddr]| {
            let mut clusters = vec![
                json!({"@type": format!("{T}config.cluster.v3.Cluster"), "name": UP,
                "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": {
                "name": "envoy.clusters.aggregate", "typed_config": {
                "@type": format!("{T}extensions.clusters.aggregate.v3.ClusterConfig"), "clusters": ["e1", "e2"]}}}),
            ];
            clusters.extend(cluster("e1", json!({}), group(vec![at(all[0])])));
            clusters.extend(cluster("e2", json!({}), group(vec![at(all[1])])));
            clusters
        };
        let own = told(name, (not_before(retries, 1), json!({})), |_| json!([]), failing(3));
        Case { clusters: Box::new(clusters), ..own }
    };
    vec![
        told(
            "a priority is tried again",
            (policy(2, json!({})), json!({})),
            by_priority,
            failing(3),
        ),
        plain("a second priority is tried", 1, 1),
        plain("a third priority is tried", 2, 1),
        plain("after all priorities comes the first", 3, 1),
        plain("and the second again", 4, 1),
        plain("two tries for a priority", 2, 2),
        plain("two tries for the second too", 3, 2),
        plain("then the third", 4, 2),
        aggregate("the next cluster of an aggregate is tried", 1),
        aggregate("and then the first again", 2),
    ]
}

/// A refusal with one more header.
fn refusal(header: &str) -> Reply {
    let text = format!("HTTP/1.1 503 Service Unavailable\r\n{header}\r\ncontent-length: 0\r\n\r\n");
    Reply::Send(vec![text.into_bytes()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_as_long_as_the_answer_says() {
    const WAIT: Duration = Duration::from_secs(2);
    for side in sides("a_retry_waits_as_long_as_the_answer_says") {
        let backend = Recorder::start().await;
        let told = json!({"max_interval": "60s", "reset_headers": [
            {"name": "retry-after", "format": "SECONDS"},
            {"name": "X-Reset", "format": "UNIX_TIMESTAMP"}]});
        let policy = policy(1, json!({"rate_limited_retry_back_off": told}));
        let cluster = json!({"name": "a", "connect_timeout": "1s", "type": "STATIC", "load_assignment": {
            "cluster_name": "a", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": place(backend.address)}}]}]}});
        let route = json!({"match": {"prefix": "/"}, "route": {
            "cluster": "a", "timeout": "0s", "retry_policy": policy}});
        let standing = Standing::start(side, bootstrap(&[cluster], &[route]), json!({})).await;
        // The first that says something counts. What is longer than the longest says nothing.
        for (header, least) in [
            ("retry-after: 2", WAIT),
            ("retry-after: 2\r\nx-reset: 1", WAIT),
            ("retry-after: soon\r\nx-reset: @in-3", WAIT),
            ("retry-after: 61", Duration::ZERO),
            ("x-reset: 1", Duration::ZERO),
        ] {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let header = header.replace("@in-3", &(now + 3).to_string());
            backend.forget();
            backend.answer(refusal(&header));
            let began = Instant::now();
            let answer = ask_for(standing.address, "a.test", "/").await.unwrap();
            let took = began.elapsed();
            assert_eq!(answer.status, 503, "{header} on {side}");
            assert_eq!(backend.all().matches("GET /").count(), 2, "{header} on {side}");
            assert!(took >= least, "{header} on {side}: {took:?}");
        }
    }
}
