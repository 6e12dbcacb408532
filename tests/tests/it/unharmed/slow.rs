//! Clients that take their time: every state has a deadline.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gateway_tests::authority::Authority;
use gateway_tests::raw::{Raw, Reply};
use gateway_tests::{client, wait};
use h2::client::SendRequest;
use http::Request;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{ALIVE, Change, Rig};

const LIMIT: Duration = Duration::from_secs(20);

/// Between two bytes of a client that is slow without standing still.
const DRIP: Duration = Duration::from_millis(60);

/// More than the sockets of a connection hold.
const BIG: usize = 16 << 20;

async fn rig(manager: Value) -> Rig {
    Rig::start(Change { manager, ..Change::default() }).await
}

/// Sends these bytes one by one until an answer or the end comes; gives the status.
async fn drip(address: SocketAddr, first: &str, bytes: &[u8]) -> Option<u16> {
    let mut client = Raw::connect(address).await;
    client.send(first).await;
    let answered = async {
        let mut next = bytes.iter().cycle();
        loop {
            let byte = *next.next().unwrap();
            client.send([byte]).await;
            if let Ok(response) = timeout(DRIP, client.readable()).await {
                return response;
            }
        }
    };
    timeout(LIMIT, answered).await.expect("not given up");
    client.response(true).await.map(|response| response.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_come_byte_by_byte_are_answered_408() {
    for (name, manager) in [
        ("with a limit for heads", json!({"request_headers_timeout": "0.4s"})),
        // Each byte is progress, so only the limit for heads, or for all, can end it.
        ("without one", json!({"request_headers_timeout": "0s", "stream_idle_timeout": "0.4s"})),
    ] {
        let rig = rig(manager).await;
        for first in ["", "GET / HTTP/1.1\r\nhost: a.test\r\nx: "] {
            assert_eq!(drip(rig.address, first, b"a").await, Some(408), "{name}: {first:?}");
        }
        let mut second = Raw::connect(rig.address).await;
        second.send(ALIVE).await;
        assert_eq!(second.response(true).await.unwrap().status, 200);
        second.send("POST /second HTTP/1.1\r\n").await;
        assert_eq!(second.response(true).await.unwrap().status, 408, "{name}: the second");
        assert_eq!(second.rest().await, b"");
        assert_eq!(rig.logged(3).await, ["- - 408 DT request_header_timeout"; 3], "{name}");
        rig.is_alive(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_begin_and_do_not_go_on_end() {
    let idle = json!({"common_http_protocol_options": {"idle_timeout": "0.4s"}});
    let mut http2 = idle.clone();
    http2["codec_type"] = "HTTP2".into();
    for (name, manager, begins) in [
        ("nothing at all", &idle, ""),
        ("half a preface", &idle, "PRI * HTTP/2.0\r\n\r\nS"),
        ("nothing at all, HTTP/2", &http2, ""),
        ("half a preface, HTTP/2", &http2, "PRI * HT"),
        ("a preface and no more", &http2, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        let rig = rig(manager.clone()).await;
        let mut client = Raw::connect(rig.address).await;
        client.send(begins).await;
        // What the proxy says of itself is no answer.
        assert!(!client.rest().await.starts_with(b"HTTP"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_stall_end() {
    let pair = Authority::new().sign(&["a.test"], None);
    let socket = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [{
            "certificate_chain": {"inline_string": pair.certificate},
            "private_key": {"inline_string": pair.key}}]}}});
    let chain = json!({"transport_socket": socket, "transport_socket_connect_timeout": "0.4s"});
    let listener = json!({"listener_filters_timeout": "0.4s"});
    let rig = Rig::start(Change { chain, listener, ..Change::default() }).await;
    // The beginning of a record with a hello; then, a whole hello and nothing more.
    let mut hello = Vec::new();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "a.test".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(config.into(), name).unwrap();
    session.write_tls(&mut hello).unwrap();
    for (index, sent) in [&b""[..], &hello[..40], &hello].into_iter().enumerate() {
        let mut client = Raw::connect(rig.address).await;
        client.send(sent).await;
        let heard = client.rest().await;
        assert_eq!(heard.is_empty(), sent.len() < hello.len(), "{index}");
    }
    let series = "weighlock_downstream_tls_handshakes_total{listener=\"web\",result=\"timeout\"}";
    wait::until("three to be counted", LIMIT, || async {
        let count = rig.metric(series).await;
        if count == Some(3.0) { Ok(()) } else { Err(count) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_front_that_says_half_of_who_is_there_is_not_waited_for() {
    let listener = json!({"listener_filters_timeout": "0.4s", "listener_filters": [{
        "name": "envoy.filters.listener.proxy_protocol", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}}]});
    let rig = Rig::start(Change { listener, ..Change::default() }).await;
    for said in ["", "PROXY TCP4 1.2.3.4 5.6."] {
        let mut client = Raw::connect(rig.address).await;
        client.send(said).await;
        assert_eq!(client.rest().await, b"", "{said:?}");
    }
}

/// What an upload that stalls or drips gets.
struct Upload {
    name: &'static str,
    manager: Value,
    drips: bool,
    log: &'static str,
}

fn uploads() -> Vec<Upload> {
    let buffer = json!([
        {"name": "buffer", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
            "max_request_bytes": 1000}},
        {"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]);
    let buffered = |mut manager: Value| {
        manager["http_filters"] = buffer.clone();
        manager
    };
    let stalls = |name, manager, log| Upload { name, manager, drips: false, log };
    let drips = |name, manager, log| Upload { name, manager, drips: true, log };
    let idle = json!({"stream_idle_timeout": "0.4s"});
    let whole = json!({"request_timeout": "0.5s"});
    let age = json!({"common_http_protocol_options": {"max_stream_duration": "0.5s"}});
    vec![
        stalls("stalls", idle.clone(), "408 SI stream_idle_timeout"),
        stalls("stalls, all", whole.clone(), "408 DT request_overall_timeout"),
        drips("drips", whole.clone(), "408 DT request_overall_timeout"),
        drips("drips, for ever", age, "408 - max_duration_timeout"),
        stalls("stalls, buffered", buffered(idle), "408 SI stream_idle_timeout"),
        drips("drips, buffered", buffered(whole), "408 DT request_overall_timeout"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_stall_or_drip_are_answered_408() {
    for Upload { name, manager, drips, log } in uploads() {
        let rig = rig(manager).await;
        for head in ["content-length: 900", "transfer-encoding: chunked"] {
            let head = format!("POST /up HTTP/1.1\r\nhost: a.test\r\n{head}\r\n\r\n");
            let is_chunked = head.contains("chunked");
            let status = if drips {
                let bytes: &[u8] = if is_chunked { b"1\r\na\r\n" } else { b"a" };
                drip(rig.address, &head, bytes).await
            } else {
                let mut client = Raw::connect(rig.address).await;
                client.send(format!("{head}{}", if is_chunked { "5\r\nab" } else { "ab" })).await;
                let answer = client.response(true).await.unwrap();
                assert_eq!(answer.header("connection"), Some("close"), "{name}");
                assert_eq!(client.rest().await, b"", "{name}");
                Some(answer.status)
            };
            assert_eq!(status, Some(408), "{name}: {head}");
        }
        assert_eq!(
            rig.logged(2).await,
            [format!("POST /up {log}"), format!("POST /up {log}")],
            "{name}"
        );
        rig.is_alive(name).await;
    }
}

type Http2 = (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

async fn http2(address: SocketAddr, window: u32) -> Http2 {
    let socket = TcpStream::connect(address).await.unwrap();
    let builder = h2::client::Builder::new().initial_window_size(window).handshake(socket);
    let (send, connection) = builder.await.unwrap();
    (send, tokio::spawn(connection))
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_over_http2_that_stall_or_drip_are_answered_408() {
    for Upload { name, manager, drips, log } in uploads() {
        let rig = rig(manager).await;
        let (mut send, _driver) = http2(rig.address, 65_535).await;
        let request = Request::post("http://a.test/up").body(()).unwrap();
        let (answer, mut body) = send.send_request(request, false).unwrap();
        let dripping = tokio::spawn(async move {
            let mut pace = tokio::time::interval(DRIP);
            loop {
                if body.send_data(Bytes::from_static(b"a"), false).is_err() {
                    return;
                }
                if !drips {
                    return std::future::pending().await;
                }
                pace.tick().await;
            }
        });
        let answer = timeout(LIMIT, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 408, "{name}");
        dripping.abort();
        assert_eq!(rig.logged(1).await, [format!("POST /up {log}")], "{name}");
        // The connection carries on.
        let request = Request::get("http://a.test/alive").body(()).unwrap();
        let (answer, _) = send.send_request(request, true).unwrap();
        assert_eq!(timeout(LIMIT, answer).await.unwrap().unwrap().status(), 200, "{name}");
    }
}

fn big() -> Reply {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BIG}\r\n\r\n");
    Reply::Send(vec![head.into_bytes(), vec![b'x'; BIG]])
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stand_still_are_cut_off() {
    let rig = rig(json!({"stream_idle_timeout": "0.5s"})).await;
    rig.backend.answer(big());
    let mut client = Raw::connect(rig.address).await;
    client.send("GET /still HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    assert_eq!(rig.logged(1).await, ["GET /still 200 SI stream_idle_timeout"]);
    assert!(client.rest().await.len() < BIG);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_drip_meet_the_timeout_of_the_route() {
    let rig = Rig::start(Change { route: json!({"timeout": "0.8s"}), ..Change::default() }).await;
    rig.backend.answer(big());
    let mut client = Raw::connect(rig.address).await;
    client.send("GET /drips HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    let reader = tokio::spawn(async move {
        let (mut read, mut pace) = (0, tokio::time::interval(DRIP));
        loop {
            read += 1;
            if client.read(read).await < read {
                return read;
            }
            pace.tick().await;
        }
    });
    assert_eq!(rig.logged(1).await, ["GET /drips 200 UT response_timeout"]);
    reader.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_not_read_are_reset_and_others_go_on() {
    for (name, manager, route, log) in [
        ("still", json!({"stream_idle_timeout": "0.5s"}), json!({}), "SI stream_idle_timeout"),
        ("drips", json!({}), json!({"timeout": "0.8s"}), "UT response_timeout"),
    ] {
        let rig = Rig::start(Change { manager, route, ..Change::default() }).await;
        rig.backend.answer(big());
        let (mut send, _driver) = http2(rig.address, 1000).await;
        let request = Request::get(format!("http://a.test/{name}")).body(()).unwrap();
        let (answer, _) = send.send_request(request, true).unwrap();
        let mut body = timeout(LIMIT, answer).await.unwrap().unwrap().into_body();
        let mut pace = tokio::time::interval(DRIP);
        let ended = async {
            loop {
                match body.data().await {
                    Some(Ok(piece)) => {
                        if name == "drips" {
                            pace.tick().await;
                            body.flow_control().release_capacity(piece.len()).unwrap();
                        }
                    }
                    Some(Err(error)) => return error.is_reset(),
                    None => return false,
                }
            }
        };
        assert!(timeout(LIMIT, ended).await.unwrap(), "{name}");
        assert_eq!(rig.logged(1).await, [format!("GET /{name} 200 {log}")]);
        rig.backend.answer(Reply::Send(vec![b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()]));
        let request = Request::get("http://a.test/alive").body(()).unwrap();
        let (answer, _) = send.send_request(request, true).unwrap();
        assert_eq!(timeout(LIMIT, answer).await.unwrap().unwrap().status(), 204, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_of_our_own_that_nobody_reads_are_reset_too() {
    let manager = json!({"stream_idle_timeout": "0.4s", "route_config": {"name": "inline",
        "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": "hello"}}}]}]}});
    let rig = rig(manager).await;
    let (mut send, _driver) = http2(rig.address, 0).await;
    let request = Request::get("http://a.test/own").body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    let mut body = timeout(LIMIT, answer).await.unwrap().unwrap().into_body();
    let end = timeout(LIMIT, body.data()).await.unwrap();
    assert!(end.unwrap().is_err_and(|error| error.is_reset()));
    wait::until("no request to be under way", LIMIT, || async {
        let active = rig.metric("weighlock_requests_active{listener=\"web\"}").await;
        if active == Some(0.0) { Ok(()) } else { Err(active) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_slow_clients_keeps_nobody_else_waiting() {
    let rig = rig(json!({})).await;
    let mut crowd = Vec::new();
    for index in 0..200 {
        let mut slow = Raw::connect(rig.address).await;
        let head = "POST /slow HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\n12345";
        slow.send(&head[..index * head.len() / 200]).await;
        crowd.push(slow);
    }
    for _ in 0..20 {
        let answer = client::get(rig.address, "alive.test", "/alive").await.unwrap();
        assert_eq!(answer.status, 200);
    }
}
