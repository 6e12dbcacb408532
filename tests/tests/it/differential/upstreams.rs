//! Connections to endpoints: how many, from where, for how long, and what is said on them.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::ensure;
use futures_util::future::join_all;
use gateway_tests::backend::Backend;
use gateway_tests::client::get as ask_for;
use gateway_tests::dns::{Reply, StandInDns};
use gateway_tests::raw::Recorder;
use gateway_tests::{ports, wait};
use serde_json::{Value, json};

use super::Case;
use super::standing::{Standing, bootstrap, by_name, place, sides};
use super::upstream::{T, at, case, get, group};

const LIMIT: Duration = Duration::from_secs(20);

pub(super) fn all() -> Vec<Case> {
    let http2 = || {
        let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        json!({"typed_extension_protocol_options": {name: {
            "@type": format!("type.googleapis.com/{name}"),
            "explicit_http_config": {"http2_protocol_options": {}}}}})
    };
    let asks = || {
        let told = |proto: &str| get("/").header("x-forwarded-proto", proto);
        vec![get("/"), told("http"), told("https")]
    };
    let scheme = |name: &'static str, manager: Value| Case {
        manager,
        ..case(name, (json!({}), http2()), |all| group(vec![at(all[0])]), asks())
    };
    vec![
        scheme("the scheme that those in front say", json!({"use_remote_address": false})),
        scheme("the scheme that clients spoke", json!({"use_remote_address": true})),
    ]
}

/// A cluster of these endpoints, with these fields.
fn cluster(name: &str, endpoints: &[SocketAddr], fields: Value) -> Value {
    let endpoints: Vec<_> =
        endpoints.iter().map(|address| json!({"endpoint": {"address": place(*address)}})).collect();
    let mut cluster = json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}});
    for (key, value) in fields.as_object().into_iter().flatten() {
        cluster[key] = value.clone();
    }
    cluster
}

/// Asks four times at once by each name: cluster `one` serves them one after the other, `two` two beside
/// each other.
async fn four_take_turns(side: &str, clusters: &[Value], backends: &[Backend]) {
    let mut routes = by_name(clusters);
    for route in &mut routes {
        route["route"]["prefix_rewrite"] = "/slow/".into();
    }
    let standing = Standing::start(side, bootstrap(clusters, &routes), json!({})).await;
    for (name, together) in [("one", 1), ("two", 2)] {
        for backend in backends {
            backend.take_most();
        }
        let path = format!("/{name}/400");
        let asks = (0..4).map(|_| ask_for(standing.address, "a.test", &path));
        for answer in join_all(asks).await {
            assert_eq!(answer.unwrap().status, 200, "{name} on {side}");
        }
        let most: usize = backends.iter().map(Backend::take_most).sum();
        assert_eq!(most, together, "{name} on {side}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_endpoint_has_so_many_connections_and_no_more() {
    for side in sides("each_endpoint_has_so_many_connections_and_no_more") {
        let backends = [Backend::start("a").await, Backend::start("b").await];
        let both = backends.each_ref().map(|backend| backend.address);
        let limit = json!({"circuit_breakers": {"per_host_thresholds": [
            {"priority": "HIGH", "max_connections": 9}, {"max_connections": 1}, {"max_connections": 9}]}});
        let clusters = [cluster("one", &both[..1], limit.clone()), cluster("two", &both, limit)];
        four_take_turns(side, &clusters, &backends).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_come_from_the_address_that_is_told() {
    for side in sides("connections_come_from_the_address_that_is_told") {
        let v4 = Recorder::start().await;
        let v6 = Recorder::start_at((Ipv6Addr::LOCALHOST, 0).into()).await;
        let source = |address: &str| json!({"address": address, "port_value": 0});
        let one = json!({"upstream_bind_config": {"source_address": source("127.0.0.9")}});
        let several = json!({"upstream_bind_config": {"source_address": source("127.0.0.8"),
            "extra_source_addresses": [{"address": source("::1")}]}});
        let clusters = [
            cluster("unset", &[v4.address], json!({})),
            cluster("one", &[v4.address], one.clone()),
            cluster("of-family", &[v4.address], several.clone()),
            cluster("of-other-family", &[v6.address], several),
            cluster("of-no-family", &[v6.address], one),
        ];
        let bootstrap = bootstrap(&clusters, &by_name(&clusters));
        let standing = Standing::start(side, bootstrap, json!({})).await;
        for (name, recorder, from) in [
            ("unset", &v4, Some("127.0.0.1")),
            ("one", &v4, Some("127.0.0.9")),
            ("of-family", &v4, Some("127.0.0.8")),
            ("of-other-family", &v6, Some("::1")),
            ("of-no-family", &v6, None),
        ] {
            let before = recorder.peers().len();
            let answer = ask_for(standing.address, "a.test", &format!("/{name}/")).await.unwrap();
            let peers: Vec<_> =
                recorder.peers()[before..].iter().map(|peer| peer.ip().to_string()).collect();
            let status = if from.is_some() { 200 } else { 503 };
            assert_eq!(answer.status, status, "{name} on {side}");
            if let Some(from) = from {
                assert_eq!(peers, [from], "{name} on {side}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_made_anew_where_asked_when_endpoints_come_or_go() {
    for side in sides("connections_are_made_anew_where_asked_when_endpoints_come_or_go") {
        for closes in [true, false] {
            let what = format!("{side}, {closes}");
            let port = ports::free();
            let stays = Recorder::start_at(([127, 0, 0, 2], port).into()).await;
            let comes = Recorder::start_at(([127, 0, 0, 3], port).into()).await;
            let dns = StandInDns::start().await;
            dns.say("named.test", Reply::addresses(&["127.0.0.2"], 1));
            let server = json!({"name": "envoy.network.dns_resolver.cares", "typed_config": {
                "@type": format!("{T}extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"),
                "resolvers": [place(dns.address)]}});
            let endpoint = json!({"endpoint": {"address": {"socket_address": {
                "address": "named.test", "port_value": port}}}});
            let cluster = json!({"name": "named", "type": "STRICT_DNS", "connect_timeout": "1s",
                "dns_refresh_rate": "0.2s", "typed_dns_resolver_config": server, "load_assignment": {
                "cluster_name": "named", "endpoints": [{"lb_endpoints": [endpoint]}]},
                "common_lb_config": {"close_connections_on_host_set_change": closes}});
            let clusters = [cluster];
            let bootstrap = bootstrap(&clusters, &by_name(&clusters));
            let standing = Standing::start(side, bootstrap, json!({})).await;
            let ask = async || {
                let answer = ask_for(standing.address, "a.test", "/named/").await?;
                ensure!(answer.status == 200, "{}", answer.status);
                Ok(())
            };
            for _ in 0..3 {
                wait::until(&what, LIMIT, &ask).await;
            }
            assert_eq!(stays.peers().len(), 1, "{what}");
            dns.say("named.test", Reply::addresses(&["127.0.0.2", "127.0.0.3"], 1));
            wait::until(&what, LIMIT, async || {
                ask().await?;
                ensure!(!comes.peers().is_empty());
                Ok(())
            })
            .await;
            for _ in 0..6 {
                ask().await.unwrap();
            }
            assert_eq!(stays.peers().len(), if closes { 2 } else { 1 }, "{what}");
        }
    }
}

/// Options of the protocol towards endpoints.
fn options(options: Value) -> Value {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut options = options;
    options["@type"] = format!("type.googleapis.com/{name}").into();
    json!({name: options})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_so_many_requests_and_no_more() {
    for side in sides("a_connection_carries_so_many_requests_and_no_more") {
        let backends = [Recorder::start().await, Recorder::start().await, Recorder::start().await];
        let typed =
            options(json!({"common_http_protocol_options": {"max_requests_per_connection": 2},
            "explicit_http_config": {"http_protocol_options": {}}}));
        let of = |name, index: usize, fields| cluster(name, &[backends[index].address], fields);
        let clusters = [
            of("unset", 0, json!({})),
            of("before", 1, json!({"max_requests_per_connection": 1})),
            of("typed", 2, json!({"typed_extension_protocol_options": typed})),
        ];
        let bootstrap = bootstrap(&clusters, &by_name(&clusters));
        let standing = Standing::start(side, bootstrap, json!({})).await;
        for (name, backend, connections) in
            [("unset", &backends[0], 1), ("before", &backends[1], 4), ("typed", &backends[2], 2)]
        {
            for _ in 0..4 {
                let answer = ask_for(standing.address, "a.test", &format!("/{name}/")).await;
                assert_eq!(answer.unwrap().status, 200, "{name} on {side}");
            }
            assert_eq!(backend.peers().len(), connections, "{name} on {side}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_http2_carries_so_many_streams_at_a_time() {
    for side in sides("a_connection_of_http2_carries_so_many_streams_at_a_time") {
        let backend = Backend::start("a").await;
        let fields = |streams: u32| {
            json!({"circuit_breakers": {"per_host_thresholds": [{"max_connections": 1}]},
            "typed_extension_protocol_options": options(json!({"explicit_http_config": {
                "http2_protocol_options": {"max_concurrent_streams": streams}}}))})
        };
        let clusters = [
            cluster("one", &[backend.address], fields(1)),
            cluster("two", &[backend.address], fields(2)),
        ];
        four_take_turns(side, &clusters, std::slice::from_ref(&backend)).await;
    }
}
