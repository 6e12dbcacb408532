//! Too many connections, too little memory, no descriptor left.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use gateway_tests::client;
use gateway_tests::raw::{Raw, Response};
use gateway_tests::{ports, wait};
use serde_json::{Value, json};

use super::{ALIVE, Change, Rig};

const LIMIT: Duration = Duration::from_secs(20);

const MONITORS: &str = "type.googleapis.com/envoy.extensions.resource_monitors";

/// How clients that are turned away count.
fn refused(reason: &str) -> String {
    format!(
        "weighlock_downstream_connections_refused_total{{listener=\"web\",reason=\"{reason}\"}}"
    )
}

/// A request on a connection of its own, which is kept.
async fn ask(address: SocketAddr) -> (Raw, Option<Response>) {
    let mut client = Raw::connect(address).await;
    client.send(ALIVE).await;
    let response = client.response(true).await;
    (client, response)
}

/// Waits until a new client gets this; none: is closed unanswered.
async fn becomes(address: SocketAddr, status: Option<u16>) -> Raw {
    wait::until(&format!("{status:?}"), LIMIT, || async {
        let (client, response) = ask(address).await;
        let got = response.map(|response| response.status);
        if got == status { Ok(client) } else { Err(got) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_a_limit_connections_are_closed_until_others_leave() {
    let runtime = json!({"layered_runtime": {"layers": [{"name": "static", "static_layer": {
        "envoy": {"resource_limits": {"listener": {"web": {"connection_limit": 2}}}}}}]}});
    let monitor = json!({"overload_manager": {"resource_monitors": [{
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": format!("{MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig"),
            "max_active_downstream_connections": 2}}]}});
    let key = json!({"layered_runtime": {"layers": [{"name": "static", "static_layer": {
        "overload.global_downstream_max_connections": 2}}]}});
    for (name, bootstrap, reason) in [
        ("of the listener", runtime, "listener_limit"),
        ("of all", monitor, "limit"),
        ("of all, by its old name", key, "limit"),
    ] {
        let rig = Rig::start(Change { bootstrap, ..Change::default() }).await;
        let (first, answer) = ask(rig.address).await;
        assert_eq!(answer.unwrap().status, 200, "{name}");
        let (mut second, _) = ask(rig.address).await;
        let (_, third) = ask(rig.address).await;
        assert_eq!(third, None, "{name}");
        second.send(ALIVE).await;
        assert_eq!(second.response(true).await.unwrap().status, 200, "{name}: who was there");
        assert_eq!(rig.metric(&refused(reason)).await, Some(1.0), "{name}");
        drop(first);
        becomes(rig.address, Some(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_be_exempt_from_the_limit_for_all() {
    let bootstrap = json!({"layered_runtime": {"layers": [{"name": "static", "static_layer": {
        "overload.global_downstream_max_connections": 1}}]}});
    let listener = json!({"ignore_global_conn_limit": true});
    let rig = Rig::start(Change { bootstrap, listener, ..Change::default() }).await;
    let _first = ask(rig.address).await;
    assert_eq!(ask(rig.address).await.1.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_our_own_limit_clients_are_told_503() {
    let arguments = &["--limits-connections", "2"];
    let rig = Rig::start(Change { arguments, ..Change::default() }).await;
    let (first, _) = ask(rig.address).await;
    let (mut second, _) = ask(rig.address).await;
    // Who says nothing is not waited for.
    let mut silent = Raw::connect(rig.address).await;
    let mut third = Raw::connect(rig.address).await;
    third.send("GET /third HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    let answer = third.response(true).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (503, &b"envoy overloaded"[..]), "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(third.rest().await, b"");
    assert_eq!(rig.logged(1).await, ["GET /third 503 OM overload"]);
    assert_eq!(silent.rest().await, b"");
    second.send(ALIVE).await;
    assert_eq!(second.response(true).await.unwrap().status, 200, "who was there");
    assert_eq!(rig.metric(&refused("limit")).await, Some(2.0));
    assert!(!rig.backend.all().contains("/third"));
    drop(first);
    becomes(rig.address, Some(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_our_own_limit_bytes_go_nowhere() {
    let arguments = &["--limits-connections", "1"];
    let chain = json!({"filters": [{"name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp", "cluster": "a"}}]});
    let rig = Rig::start(Change { arguments, chain, ..Change::default() }).await;
    let (_first, answer) = ask(rig.address).await;
    assert_eq!(answer.unwrap().status, 200);
    let mut second = Raw::connect(rig.address).await;
    second.send("GET /second HTTP/1.1\r\n\r\n").await;
    assert_eq!(second.rest().await, b"");
    assert!(!rig.backend.all().contains("/second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_our_own_limit_http2_is_told_the_same() {
    let arguments = &["--limits-connections", "1"];
    let rig = Rig::start(Change { arguments, ..Change::default() }).await;
    let _first = ask(rig.address).await;
    let socket = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://a.test/two").body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    let answer = tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    // It ends with that request.
    drop(answer);
    assert!(tokio::time::timeout(LIMIT, driver).await.unwrap().unwrap().is_ok());
    assert_eq!(rig.logged(1).await, ["GET /two 503 OM overload"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_memory_runs_out_requests_are_refused_and_the_admin_page_answers() {
    let heap = json!({"overload_manager": {"refresh_interval": "0.01s", "resource_monitors": [{
        "name": "envoy.resource_monitors.fixed_heap",
        "typed_config": {
            "@type": format!("{MONITORS}.fixed_heap.v3.FixedHeapConfig"),
            "max_heap_size_bytes": 1000}}],
        "actions": [{"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [{
            "name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.98}}]}]}});
    for (name, bootstrap, arguments, keeps) in [
        ("our own limit", json!({}), &["--limits-memory", "1m"][..], false),
        ("Envoy's", heap, &[][..], true),
    ] {
        let manager = json!({"append_local_overload": keeps});
        let rig = Rig::start(Change { bootstrap, arguments, manager, ..Change::default() }).await;
        let mut client = becomes(rig.address, Some(503)).await;
        let before = rig.backend.all().len();
        if keeps {
            client.send("GET /a HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            let answer = client.response(true).await.unwrap();
            assert_eq!((answer.status, &*answer.body), (503, &b"envoy overloaded"[..]), "{name}");
            assert_eq!(answer.header("x-envoy-local-overloaded"), Some("true"));
            client.send("POST /b HTTP/1.1\r\nhost: a.test\r\ncontent-length: 9\r\n\r\nabc").await;
            let answer = client.response(true).await.unwrap();
            assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
        } else {
            assert_eq!(client.rest().await, b"", "{name}");
        }
        assert_eq!(rig.backend.all().len(), before, "{name}");
        let ready = client::get(rig.proxy.admin, "a", "/readyz").await.unwrap();
        assert_eq!(ready.status, 200, "{name}");
        let action = "weighlock_overload_action{action=\"stop_accepting_requests\"}";
        assert_eq!(rig.metric(action).await, Some(1.0), "{name}");
    }
}

/// What a file says is the pressure; `what` acts on it.
fn pressed(file: &Path, what: &Value) -> Value {
    let name = "envoy.resource_monitors.injected_resource";
    let mut manager = json!({"refresh_interval": "0.01s", "resource_monitors": [{
        "name": name,
        "typed_config": {
            "@type": format!("{MONITORS}.injected_resource.v3.InjectedResourceConfig"),
            "filename": file}}]});
    for (list, action) in what.as_object().unwrap() {
        manager[list] = json!([{"name": action, "triggers": [
            {"name": name, "threshold": {"value": 0.9}}]}]);
    }
    json!({"overload_manager": manager})
}

async fn press(rig: &Rig, file: &Path, pressure: &str) {
    fs::write(file, pressure).unwrap();
    let series =
        "weighlock_overload_pressure{resource=\"envoy.resource_monitors.injected_resource\"}";
    wait::until(&format!("a pressure of {pressure}"), LIMIT, || async {
        let seen = rig.metric(series).await;
        if seen == pressure.parse().ok() { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_under_pressure_is_undone_after_it() {
    for (what, status) in [
        (json!({"actions": "envoy.overload_actions.stop_accepting_requests"}), Some(503)),
        (
            json!({"loadshed_points": "envoy.load_shed_points.http_connection_manager_decode_headers"}),
            Some(503),
        ),
        (json!({"actions": "envoy.overload_actions.reject_incoming_connections"}), None),
        (json!({"loadshed_points": "envoy.load_shed_points.tcp_listener_accept"}), None),
    ] {
        let folder = gateway_tests::gateway::folder();
        let file = folder.path().join("pressure");
        let bootstrap = pressed(&file, &what);
        let rig = Rig::start(Change { bootstrap, ..Change::default() }).await;
        let (mut client, _) = ask(rig.address).await;
        press(&rig, &file, "0.95").await;
        let got = ask(rig.address).await.1.map(|response| response.status);
        assert_eq!(got, status, "{what}");
        client.send(ALIVE).await;
        let here = client.response(true).await.unwrap().status;
        assert_eq!(here, status.unwrap_or(200), "{what}: who is there");
        press(&rig, &file, "0.5").await;
        assert_eq!(ask(rig.address).await.1.unwrap().status, 200, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_pressure_connections_end_with_their_next_answer() {
    let folder = gateway_tests::gateway::folder();
    let file = folder.path().join("pressure");
    let bootstrap =
        pressed(&file, &json!({"actions": "envoy.overload_actions.disable_http_keepalive"}));
    let rig = Rig::start(Change { bootstrap, ..Change::default() }).await;
    let (mut client, answer) = ask(rig.address).await;
    assert_eq!(answer.unwrap().header("connection"), None);
    press(&rig, &file, "1").await;
    client.send(ALIVE).await;
    let answer = client.response(true).await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_pressure_connections_wait_to_be_accepted() {
    let folder = gateway_tests::gateway::folder();
    let file = folder.path().join("pressure");
    let bootstrap =
        pressed(&file, &json!({"actions": "envoy.overload_actions.stop_accepting_connections"}));
    let rig = Rig::start(Change { bootstrap, ..Change::default() }).await;
    let (mut before, _) = ask(rig.address).await;
    press(&rig, &file, "1").await;
    let mut waiting = Raw::connect(rig.address).await;
    waiting.send("GET /waits HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    // Whoever is served still shows that the worker had its turn.
    for _ in 0..20 {
        before.send(ALIVE).await;
        assert_eq!(before.response(true).await.unwrap().status, 200);
    }
    assert!(!rig.backend.all().contains("/waits"));
    press(&rig, &file, "0").await;
    assert_eq!(waiting.response(true).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_be_exempt_from_what_is_done_under_pressure() {
    let folder = gateway_tests::gateway::folder();
    let file = folder.path().join("pressure");
    let bootstrap =
        pressed(&file, &json!({"actions": "envoy.overload_actions.stop_accepting_requests"}));
    let listener = json!({"bypass_overload_manager": true});
    let rig = Rig::start(Change { bootstrap, listener, ..Change::default() }).await;
    press(&rig, &file, "1").await;
    assert_eq!(ask(rig.address).await.1.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_descriptors_are_left_and_the_proxy_lives_on() {
    for arguments in [&[][..], &["--limits-connections", "0"][..]] {
        let change = Change { arguments, files_max: Some(128), ..Change::default() };
        let rig = Rig::start(change).await;
        let (mut first, _) = ask(rig.address).await;
        let mut crowd = Vec::new();
        for _ in 0..300 {
            crowd.push(Raw::connect(rig.address).await);
        }
        wait::until("connections to be turned away", LIMIT, || async {
            let by_limit = rig.metric(&refused("limit")).await.unwrap_or(0.0);
            let count = by_limit + rig.metric(&refused("descriptors")).await.unwrap_or(0.0);
            if count >= 200.0 { Ok(()) } else { Err(count) }
        })
        .await;
        first.send(ALIVE).await;
        assert_eq!(first.response(true).await.unwrap().status, 200, "who was there");
        let ready = client::get(rig.proxy.admin, "a", "/readyz").await.unwrap();
        assert_eq!(ready.status, 200);
        drop(crowd);
        becomes(rig.address, Some(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_descriptor_for_the_endpoint_the_answer_is_503() {
    let arguments = &["--limits-connections", "0"];
    let change = Change { arguments, files_max: Some(80), ..Change::default() };
    let rig = Rig::start(change).await;
    let mut first = Raw::connect(rig.address).await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(Raw::connect(rig.address).await);
    }
    wait::until("descriptors to run out", LIMIT, || async {
        rig.metric(&refused("descriptors")).await.ok_or("they have not")
    })
    .await;
    first.send("GET /a HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    let answer = first.response(true).await.unwrap();
    assert_eq!(answer.status, 503);
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(said.ends_with("reset reason: local connection failure"), "{said}");
    let details = "upstream_reset_before_response_started{local_connection_failure}";
    assert_eq!(rig.logged(1).await, [format!("GET /a 503 UF {details}")]);
    drop(crowd);
    becomes(rig.address, Some(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_we_do_not_take_is_refused_by_name() {
    let folder = gateway_tests::gateway::folder();
    let file = folder.path().join("bootstrap.yaml");
    let mut bootstrap = pressed(
        &folder.path().join("pressure"),
        &json!({"actions": "envoy.overload_actions.reset_high_memory_stream"}),
    );
    bootstrap["node"] = json!({"id": "n", "cluster": "c"});
    fs::write(&file, bootstrap.to_string()).unwrap();
    let mut proxy = gateway_tests::gateway::Proxy::from_bootstrap(&file, ports::address());
    assert_eq!(proxy.process.ended().await, 1);
    let said = proxy.process.output();
    let refused = "overload_manager.actions[0].name: \"envoy.overload_actions.reset_high_memory_stream\" is not supported";
    assert!(said.contains(refused), "{said}");
}
