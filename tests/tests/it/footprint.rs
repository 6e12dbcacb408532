//! What a proxy needs at rest, for a route and for an idle connection: a test fails when that grows by half.

use std::net::SocketAddr;

use gateway_tests::backend::Backend;
use gateway_tests::client::get;
use gateway_tests::gateway::{ControlPlane, LIMIT, Proxy, folder};
use gateway_tests::process::status_of;
use gateway_tests::{documents, ports, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROUTES: usize = 5_000;
const CONNECTIONS: usize = 1_000;

/// Half over what was found.
const AT_REST_KIB_MAX: usize = 7 * 1024;
const ROUTE_BYTES_MAX: usize = 1_240;
const CONNECTION_BYTES_MAX: usize = 38 * 1024;

/// What the proxy itself has in memory, without the pages of its program.
fn own_kib(proxy: &Proxy) -> usize {
    usize::try_from(status_of(proxy.process.id(), "RssAnon:")).unwrap()
}

fn group(port: u16, routes: usize, upstream: SocketAddr) -> Vec<Value> {
    let route = |n| json!({"match": {"prefix": format!("/service{n:05}/")}, "route": {"cluster": "a", "timeout": "0s"}});
    let routes: Vec<_> = (0..routes).map(route).collect();
    let mut all = vec![
        documents::raw_listener("l", port, "r", &[]),
        documents::raw_routes("r", &json!(routes)),
    ];
    all.extend(documents::raw_cluster("a", upstream));
    all
}

/// An idle connection, after one answer.
async fn idle(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /service00000/ HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
    let mut answer = [0; 4096];
    let read = tokio::time::timeout(LIMIT, client.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_routes_and_idle_connections_cost_what_they_should() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Backend::start("a").await;
    let port = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    control.put_group("n1", &group(port, 1, upstream.address)).await;
    let proxy = Proxy::start(control.xds, "n1", "x").await;
    for _ in 0..100 {
        assert_eq!(get(address, "a.test", "/service00000/").await.unwrap().status, 200);
    }
    let at_rest = own_kib(&proxy);

    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(idle(address).await);
    }
    let per_connection = (own_kib(&proxy) - at_rest) * 1024 / CONNECTIONS;
    drop(clients);

    let before = own_kib(&proxy);
    control.put_group("n1", &group(port, ROUTES, upstream.address)).await;
    let last = format!("/service{:05}/", ROUTES - 1);
    wait::until("the last route", LIMIT, || async {
        let status = get(address, "a.test", &last).await.unwrap().status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    let per_route = own_kib(&proxy).saturating_sub(before) * 1024 / ROUTES;

    eprintln!(
        "at rest {at_rest} KiB, a connection {per_connection} bytes, a route {per_route} bytes"
    );
    assert!(at_rest <= AT_REST_KIB_MAX, "{at_rest} KiB at rest");
    assert!(per_connection <= CONNECTION_BYTES_MAX, "{per_connection} bytes a connection");
    assert!(per_route <= ROUTE_BYTES_MAX, "{per_route} bytes a route");
}

/// The niceness of the threads of a process whose names begin so.
fn niceness(process: u32, name: &str) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stats =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap());
    // `number (name) state ...`: niceness is the 17th after the name.
    stats
        .filter_map(|stat| {
            let (front, rest) = stat.rsplit_once(") ").unwrap();
            let (_, own) = front.split_once('(').unwrap();
            own.starts_with(name).then(|| rest.split(' ').nth(16).unwrap().parse().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_makes_tables_is_nicer_than_who_serves() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let proxy = Proxy::start(control.xds, "n1", "x").await;
    let (makers, workers) =
        (niceness(proxy.process.id(), "control"), niceness(proxy.process.id(), "worker"));
    assert!(!makers.is_empty() && !workers.is_empty(), "{makers:?} {workers:?}");
    assert!(makers.iter().min() > workers.iter().max(), "{makers:?} {workers:?}");
}
