//! Requests that wait for their virtual hosts: so many, so long, across streams and starts.

use std::net::SocketAddr;

use anyhow::ensure;
use futures_util::future::join_all;
use gateway_tests::ads::Ads;
use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, Connection, get};
use gateway_tests::gateway::{LIMIT, Proxy, folder};
use gateway_tests::{documents, ports, tools, wait};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const T: &str = "type.googleapis.com/envoy.";
const NODE: &str = "hosts";

/// A listener whose virtual hosts come by themselves: these, each with the cluster that it leads to.
fn resources(port: u16, backends: &[(&str, &Backend)], hosts: &[(&str, &str)]) -> Vec<Value> {
    let on_demand = json!({"name": "envoy.filters.http.on_demand", "typed_config": {
        "@type": format!("{T}extensions.filters.http.on_demand.v3.OnDemand")}});
    let source = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0.1s"});
    let mut all = vec![
        documents::raw_listener("web", port, "routes", &[on_demand]),
        json!({"@type": format!("{T}config.route.v3.RouteConfiguration"), "name": "routes",
            "vhds": {"config_source": source}}),
    ];
    all.extend(hosts.iter().map(|(host, cluster)| virtual_host(host, cluster)));
    for (name, backend) in backends {
        all.extend(documents::raw_cluster(name, backend.address));
    }
    all
}

fn virtual_host(host: &str, cluster: &str) -> Value {
    json!({"@type": format!("{T}config.route.v3.VirtualHost"), "name": format!("routes/{host}"),
        "domains": [host], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]})
}

fn virtual_hosts() -> String {
    format!("{T}config.route.v3.VirtualHost")
}

/// Waits for the listener.
async fn listening(address: SocketAddr) {
    wait::until("the listener", LIMIT, || TcpStream::connect(address)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_their_hosts_but_not_too_many_and_not_too_long() {
    if tools::offline("requests_wait_for_their_hosts_but_not_too_many_and_not_too_long") {
        return;
    }
    let (ads, a) = (Ads::start().await, Backend::start("a").await);
    let port = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    ads.put_group(NODE, &resources(port, &[("a", &a)], &[("late.test", "a")])).await;
    let _proxy = Proxy::start_by(ads.xds, NODE, "x", "DELTA_GRPC").await;
    listening(address).await;

    ads.fault(NODE, json!({"hold": virtual_hosts()})).await;
    let waits = tokio::spawn(async move { get(address, "late.test", "/").await });
    wait::until("the host to be asked for", LIMIT, || async {
        let node = ads.node(NODE).await?;
        ensure!(node["behind"].to_string().contains("VirtualHost"), "{node}");
        Ok(())
    })
    .await;
    assert!(!waits.is_finished());
    ads.fault(NODE, json!({"release": virtual_hosts()})).await;
    ads.patch_group(NODE, &[virtual_host("other.test", "a")], &[]).await;
    assert_eq!(waits.await.unwrap().unwrap().backend(), "a");

    ads.fault(NODE, json!({"hold": virtual_hosts()})).await;
    // As many as may wait, and as many again.
    let mut connections = Vec::new();
    for _ in 0..16 {
        connections.push(Connection::http2(address).await.unwrap());
    }
    let asks = connections.into_iter().enumerate().map(|(number, connection)| async move {
        let Connection::Http2 { send, scheme } = connection else { unreachable!() };
        let streams = (0..128).map(|stream| {
            let mut connection = Connection::Http2 { send: send.clone(), scheme };
            let host = format!("{number}-{stream}.test");
            async move { connection.ask(&Ask::get(&host, "/")).await.unwrap() }
        });
        join_all(streams).await
    });
    let answers: Vec<_> = join_all(asks).await.into_iter().flatten().collect();
    assert!(answers.iter().all(|answer| answer.status == 503));
    let with = |text: &str| answers.iter().filter(|answer| answer.text() == text).count();
    let too_many = with("too many requests wait for their virtual hosts");
    // On a busy machine some come when others have waited long enough.
    assert!((1..=1024).contains(&too_many), "{too_many}");
    assert_eq!(too_many + with("virtual host not received in time"), 2048);

    ads.fault(NODE, json!({"release": virtual_hosts()})).await;
    assert_eq!(get(address, "other.test", "/").await.unwrap().backend(), "a");
    assert_eq!(get(address, "0-0.test", "/").await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_outlive_the_stream_and_the_proxy() {
    if tools::offline("hosts_outlive_the_stream_and_the_proxy") {
        return;
    }
    let (mut ads, a, b) =
        (Ads::start().await, Backend::start("a").await, Backend::start("b").await);
    let (port, state) = (ports::free(), folder());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let world = |cluster: &str| resources(port, &[("a", &a), ("b", &b)], &[("od.test", cluster)]);
    ads.put_group(NODE, &world("a")).await;
    let flags = ["--state-dir", state.path().to_str().unwrap()];
    let mut proxy = Proxy::start_with(ads.xds, NODE, "x", &flags);
    proxy.ready().await;
    listening(address).await;
    assert_eq!(get(address, "od.test", "/").await.unwrap().backend(), "a");
    assert_eq!(get(address, "no.test", "/").await.unwrap().status, 404);

    // On a new stream it says what it has, and asks for it still.
    ads.fault(NODE, json!({"drop": true})).await;
    ads.node_is(NODE, "synced").await;
    ads.patch_group(NODE, &[virtual_host("od.test", "b"), virtual_host("no.test", "b")], &[]).await;
    ads.node_is(NODE, "synced").await;
    for host in ["od.test", "no.test"] {
        assert_eq!(get(address, host, "/").await.unwrap().backend(), "b", "{host}");
    }

    // Without a control plane it starts with what it had, and is told of changes when one is there.
    wait::until("the state to be saved", LIMIT, || async {
        let saved = std::fs::read(state.path().join("last-good.state"))?;
        ensure!(saved.windows(14).any(|part| part == b"routes/no.test"));
        Ok(())
    })
    .await;
    ads.kill();
    drop(proxy);
    let mut proxy = Proxy::start_with(ads.xds, NODE, "x", &flags);
    proxy.ready().await;
    assert_eq!(get(address, "od.test", "/").await.unwrap().backend(), "b");
    ads.restart_with(&[(NODE, world("a"))]).await;
    wait::until("the host to change", LIMIT, || async {
        let answer = get(address, "od.test", "/").await?;
        ensure!(answer.backend() == "a", "{}", answer.backend());
        Ok(())
    })
    .await;
    assert_eq!(get(address, "no.test", "/").await.unwrap().status, 404, "it is not there any more");
}
