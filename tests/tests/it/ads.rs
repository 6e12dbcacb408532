//! Two management servers that share no code, state of the world and delta: the proxy follows each alike, and bears their faults.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use gateway_tests::ads::Ads;
use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, get};
use gateway_tests::gateway::{ControlPlane, Envoy, LIMIT, Proxy, folder};
use gateway_tests::load::{Load, Protocol};
use gateway_tests::{documents, ports, tools, wait};
use serde_json::{Value, json};

const APIS: [&str; 2] = ["DELTA_GRPC", "GRPC"];
const HOST: &str = "ads.test";
const T: &str = "type.googleapis.com/envoy.config.";

/// What push `n` serves: a route that says its number, weights that move, a filter that says it too.
fn resources(port: u16, [a, b]: [&Backend; 2], n: u32) -> Vec<Value> {
    let routes = json!([
        {"match": {"path": "/version"}, "direct_response": {"status": 200, "body": {"inline_string": format!("push {n}")}}},
        {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "a", "weight": 1 + n % 99}, {"name": "b", "weight": 99 - n % 99}]}}},
    ]);
    let filters = [documents::response_header("x-push", &n.to_string())];
    let mut all = vec![
        documents::raw_listener("web", port, "routes", &filters),
        documents::raw_routes("routes", &routes),
    ];
    all.extend(documents::raw_cluster("a", a.address));
    all.extend(documents::raw_cluster("b", b.address));
    all
}

/// The next request follows push `n`.
async fn follows(address: SocketAddr, n: u32) {
    let answer = get(address, HOST, "/version").await.unwrap();
    assert_eq!(answer.text(), format!("push {n}"));
    assert_eq!(answer.header("x-push"), Some(&*n.to_string()));
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Pushes to four proxies under load, by both servers in both forms: each is followed as soon as it is acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn pushes_of_both_servers_in_both_forms_are_followed_at_once() {
    if tools::offline("pushes_of_both_servers_in_both_forms_are_followed_at_once") {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let ads = Ads::start().await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut proxies = Vec::new();
    let mut loads = Vec::new();
    for (server, xds) in [("ours", control.xds), ("ads", ads.xds)] {
        for api in APIS {
            let (node, port) = (format!("{server}-{api}"), ports::free());
            let first = resources(port, [&a, &b], 0);
            if server == "ours" {
                control.put_group(&node, &first).await;
            } else {
                ads.put_group(&node, &first).await;
            }
            let proxy = Proxy::start_by(xds, &node, "x", api).await;
            for protocol in [Protocol::Http1, Protocol::Http2] {
                loads.push(Load::start(loopback(port), protocol, 1, Ask::get(HOST, "/load")));
            }
            proxies.push((server, node, port, proxy));
        }
    }
    for push in 1..=15 {
        for (server, node, port, _) in &proxies {
            let changed = resources(*port, [&a, &b], push);
            if *server == "ours" {
                let revision = control.patch_group(node, &changed, &[]).await;
                control.node_has(node, revision).await;
            } else {
                ads.patch_group(node, &changed, &[]).await;
                ads.node_is(node, "synced").await;
            }
            follows(loopback(*port), push).await;
        }
    }
    for load in loads {
        let seen = load.stop().await;
        assert!(seen.failed.is_empty(), "{} failed, first {:?}", seen.failed.len(), seen.failed[0]);
        assert_eq!(seen.closed, 0, "connections closed");
        assert!(seen.by_backend["a"] > 0 && seen.by_backend["b"] > 0, "{:?}", seen.by_backend);
    }
}

/// The server crashes, forgets all it said, comes back with less, and then with all.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_and_forgets_fails_no_request() {
    if tools::offline("a_server_that_crashes_and_forgets_fails_no_request") {
        return;
    }
    let mut ads = Ads::start().await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut proxies = Vec::new();
    for api in APIS {
        let port = ports::free();
        ads.put_group(api, &resources(port, [&a, &b], 1)).await;
        let proxy = Proxy::start_by(ads.xds, api, "x", api).await;
        ads.node_is(api, "synced").await;
        let load = Load::start(loopback(port), Protocol::Http1, 2, Ask::get(HOST, "/load"));
        proxies.push((api, port, proxy, load));
    }
    for (api, port, _, _) in &proxies {
        ads.fault(api, json!({"drop": true})).await;
        follows(loopback(*port), 1).await;
        ads.node_is(api, "synced").await;
    }
    ads.kill();
    for (_, port, _, _) in &proxies {
        follows(loopback(*port), 1).await;
    }
    // Nobody may have asked before the server knows what to answer: an empty world would be an order to serve nothing.
    ads.restart_with(
        &proxies
            .iter()
            .map(|(api, port, _, _)| (*api, resources(*port, [&a, &b], 2)))
            .collect::<Vec<_>>(),
    )
    .await;
    for (api, port, _, load) in proxies {
        ads.node_is(api, "synced").await;
        follows(loopback(port), 2).await;
        let seen = load.stop().await;
        assert!(seen.failed.is_empty(), "{} failed, first {:?}", seen.failed.len(), seen.failed[0]);
        assert_eq!(seen.closed, 0);
    }
}

/// A route to a cluster whose endpoints are late goes on as before until they are there.
#[tokio::test(flavor = "multi_thread")]
async fn late_endpoints_hold_back_what_needs_them() {
    if tools::offline("late_endpoints_hold_back_what_needs_them") {
        return;
    }
    let ads = Ads::start().await;
    let (a, b, c) =
        (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    for api in APIS {
        let port = ports::free();
        ads.put_group(api, &resources(port, [&a, &b], 1)).await;
        let _proxy = Proxy::start_by(ads.xds, api, "x", api).await;
        ads.node_is(api, "synced").await;
        let load = Load::start(loopback(port), Protocol::Http2, 2, Ask::get(HOST, "/load"));
        let endpoints = format!("{T}endpoint.v3.ClusterLoadAssignment");
        ads.fault(api, json!({"hold": endpoints})).await;
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]);
        let mut changed = vec![documents::raw_routes("routes", &routes)];
        changed.extend(documents::raw_cluster("c", c.address));
        ads.patch_group(api, &changed, &[]).await;
        // The cluster is taken; its endpoints are not sent, and so the routes are not acknowledged.
        wait::until("the cluster to be acknowledged", LIMIT, || async {
            let node = ads.node(api).await?;
            let behind = node["behind"].as_array().map(Vec::len);
            ensure!(
                behind == Some(2) && !node["behind"].to_string().contains("Cluster\""),
                "{node}"
            );
            Ok(())
        })
        .await;
        let before = load.seen().total();
        wait::until("more requests", LIMIT, || async {
            ensure!(load.seen().total() > before + 100);
            Ok(())
        })
        .await;
        ads.fault(api, json!({"release": endpoints})).await;
        ads.node_is(api, "synced").await;
        assert_eq!(get(loopback(port), HOST, "/").await.unwrap().backend(), "c", "{api}");
        let seen = load.stop().await;
        assert!(seen.failed.is_empty(), "{} failed, first {:?}", seen.failed.len(), seen.failed[0]);
        assert_eq!(seen.closed, 0);
    }
}

/// What a server does wrong gets the same verdicts from a real Envoy and from us, and changes no traffic.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_server_are_judged_as_envoy_judges_them() {
    if tools::offline("faults_of_a_server_are_judged_as_envoy_judges_them") {
        return;
    }
    let ads = Ads::start().await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    for api in APIS {
        let nodes = [format!("envoy-{api}"), format!("ours-{api}")];
        let ports = [ports::free(), ports::free()];
        for (node, port) in nodes.iter().zip(ports) {
            ads.put_group(node, &resources(port, [&a, &b], 1)).await;
        }
        let _envoy = Envoy::start(ads.xds, &nodes[0], "x", api).await;
        let _ours = Proxy::start_by(ads.xds, &nodes[1], "x", api).await;
        for (node, port) in nodes.iter().zip(ports) {
            ads.node_is(node, "synced").await;
            wait::until("traffic", LIMIT, || async { get(loopback(port), HOST, "/version").await })
                .await;
        }
        let kinds = ["cluster.v3.Cluster", "listener.v3.Listener", "route.v3.RouteConfiguration"];
        for (n, kind) in kinds.into_iter().enumerate() {
            let kind = format!("{T}{kind}");
            let mut verdicts = Vec::new();
            for (node, port) in nodes.iter().zip(ports) {
                let from = ads.log(node).await.len();
                ads.fault(node, json!({"double": kind})).await;
                let changed = changed(&kind, port, [&a, &b], 2 + n as u32);
                ads.patch_group(node, &[changed], &[]).await;
                verdicts.push(verdict(&ads, node, &kind, from).await);
                assert_eq!(get(loopback(port), HOST, "/").await.unwrap().status, 200, "{node}");
                ads.fault(node, json!({"none": true})).await;
            }
            // Envoy's state of the world overlooks routes that come twice, which the protocol forbids.
            if api == "GRPC" && kind.ends_with("RouteConfiguration") {
                verdicts[0] = "nack".into();
            }
            assert_eq!(verdicts[0], verdicts[1], "{api}, each {kind} twice: envoy, ours");
        }
        // The same nonce again and again is still a nonce.
        ads.fault(&nodes[1], json!({"nonces": true})).await;
        for n in 10..15 {
            ads.patch_group(&nodes[1], &resources(ports[1], [&a, &b], n), &[]).await;
            ads.node_is(&nodes[1], "synced").await;
            follows(loopback(ports[1]), n).await;
        }
    }
}

/// The one resource of a type, changed.
fn changed(kind: &str, port: u16, backends: [&Backend; 2], n: u32) -> Value {
    let mut all = resources(port, backends, n);
    let index = all.iter().position(|resource| resource["@type"] == kind).unwrap();
    let mut resource = all.swap_remove(index);
    if kind.ends_with("Cluster") {
        resource["connect_timeout"] = format!("{n}s").into();
    }
    resource
}

/// Whether what a node got of a type after `from` entries of its log was acknowledged.
async fn verdict(ads: &Ads, node: &str, kind: &str, from: usize) -> String {
    wait::until(&format!("{node} to judge {kind}"), Duration::from_secs(10), || async {
        let log = ads.log(node).await;
        let last = log[from..].iter().rfind(|entry| entry["type"] == kind).cloned();
        last.map(|entry| entry["event"].as_str().unwrap().to_owned()).ok_or(log)
    })
    .await
}

/// A listener whose routes do not exist waits for them, and the others serve.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_its_routes_waits_and_disturbs_nobody() {
    if tools::offline("a_listener_without_its_routes_waits_and_disturbs_nobody") {
        return;
    }
    let ads = Ads::start().await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    for api in APIS {
        let (port, second) = (ports::free(), ports::free());
        ads.put_group(api, &resources(port, [&a, &b], 1)).await;
        let _proxy = Proxy::start_by(ads.xds, api, "x", api).await;
        ads.node_is(api, "synced").await;
        let kind = format!("{T}route.v3.RouteConfiguration");
        ads.fault(api, json!({"hold": kind})).await;
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "b"}}]);
        let late = [
            documents::raw_listener("late", second, "late", &[]),
            documents::raw_routes("late", &routes),
        ];
        ads.patch_group(api, &late, &[]).await;
        wait::until("the routes to be asked for", LIMIT, || async {
            let node = ads.node(api).await?;
            ensure!(node["behind"].to_string().contains("RouteConfiguration"), "{node}");
            Ok(())
        })
        .await;
        follows(loopback(port), 1).await;
        let answer = get(loopback(second), HOST, "/").await;
        assert!(answer.is_err(), "{api}: serves without routes: {answer:?}");
        ads.fault(api, json!({"none": true})).await;
        wait::until("the late routes", LIMIT, || async {
            let answer = get(loopback(second), HOST, "/").await?;
            ensure!(answer.backend() == "b", "{}", answer.status);
            Ok(())
        })
        .await;
        follows(loopback(port), 1).await;
    }
}
