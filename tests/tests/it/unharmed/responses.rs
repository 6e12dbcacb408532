//! HTTP/1 responses that two parsers could read differently, and those that answer nobody.

use gateway_tests::raw::Raw;
use gateway_tests::wire::{Script, Then, Upstream};
use serde_json::{Value, json};

use super::{Change, Rig};

/// Refused where a real Envoy passes them on.
const STRICT: [(&str, &str); 7] = [
    ("/version-2", "HTTP/2.0 200 OK\r\n\r\n"),
    ("/two-digits", "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n"),
    ("/four-digits", "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n"),
    ("/status-99", "HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n"),
    ("/a-folded-line", "HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 0\r\n\r\n"),
    ("/a-carriage-return-in-a-value", "HTTP/1.1 200 OK\r\nx-a: b\rc\r\ncontent-length: 0\r\n\r\n"),
    (
        "/a-switch-that-nobody-asked-for",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nbytes",
    ),
];

fn answer(bytes: &'static str) -> Script {
    Script::answer(bytes, Then::Next)
}

/// A proxy whose cluster is what follows these scripts.
async fn rig(scripts: impl IntoIterator<Item = (&'static str, Script)>) -> (Rig, Upstream) {
    rig_with(scripts, json!({})).await
}

/// As [`rig`], with more fields of the cluster.
async fn rig_with(
    scripts: impl IntoIterator<Item = (&'static str, Script)>,
    mut cluster: Value,
) -> (Rig, Upstream) {
    let upstream = Upstream::start(scripts).await;
    let endpoint = json!({"endpoint": {"address": {"socket_address": {
        "address": "127.0.0.1", "port_value": upstream.address.port()}}}});
    cluster["load_assignment"] =
        json!({"cluster_name": "a", "endpoints": [{"lb_endpoints": [endpoint]}]});
    let rig = Rig::start(Change { cluster, ..Change::default() }).await;
    (rig, upstream)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_two_parsers_could_read_differently_reach_nobody() {
    let scripts = STRICT.map(|(path, bytes)| (path, answer(bytes)));
    let (rig, _upstream) = rig(scripts).await;
    for (path, _) in STRICT {
        let mut client = Raw::connect(rig.address).await;
        client.send(get(path)).await;
        let response = client.response(true).await.unwrap();
        assert_eq!(response.status, 502, "{path}: {response:?}");
        rig.is_alive(path).await;
    }
    let mut logged = rig.logged(STRICT.len()).await;
    logged.sort();
    let mut expected = STRICT.map(|(path, _)| {
        format!("GET {path} 502 UPE upstream_reset_before_response_started{{protocol_error}}")
    });
    expected.sort();
    assert_eq!(logged, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_answer_is_not_the_next_one() {
    const SMUGGLED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno";
    let (rig, _upstream) = rig([
        ("/more", Script::answer(SMUGGLED, Then::Next)),
        ("/head", Script::answer(HEAD, Then::Next)),
    ])
    .await;
    let mut client = Raw::connect(rig.address).await;
    for path in ["/more", "/good"] {
        client.send(get(path)).await;
        let response = client.response(true).await.unwrap();
        assert_eq!((response.status, &*response.body), (200, &b"ok"[..]), "{path}");
    }
    client.send("HEAD /head HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    assert_eq!(client.response(false).await.unwrap().status, 200);
    client.send(get("/good")).await;
    let response = client.response(true).await.unwrap();
    assert_eq!((response.status, &*response.body), (200, &b"ok"[..]), "after a body for HEAD");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_refused() {
    let long: &'static str =
        format!("HTTP/1.1 200 OK\r\nx-a: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(62_000))
            .leak();
    let fits: &'static str =
        format!("HTTP/1.1 200 OK\r\nx-a: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(59_000))
            .leak();
    let fields = |count: usize| -> &'static str {
        let fields: String = (0..count).map(|n| format!("x-{n}: a\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n").leak()
    };
    let (rig, _upstream) = rig([
        ("/long", answer(long)),
        ("/fits", answer(fits)),
        ("/many", answer(fields(100))),
        ("/few", answer(fields(99))),
    ])
    .await;
    for (path, status) in [("/long", 502), ("/fits", 200), ("/many", 502), ("/few", 200)] {
        let mut client = Raw::connect(rig.address).await;
        client.send(get(path)).await;
        assert_eq!(client.response(true).await.unwrap().status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_is_dropped_where_that_is_allowed() {
    const BOTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let options = json!({"http_protocol_options": {"allow_chunked_length": true}});
    for (cluster, status) in [(json!({}), 502), (options, 200)] {
        let (rig, _upstream) = rig_with([("/both", answer(BOTH))], cluster).await;
        let mut client = Raw::connect(rig.address).await;
        client.send(get("/both")).await;
        let response = client.response(true).await.unwrap();
        assert_eq!(response.status, status);
        if status == 200 {
            assert_eq!(response.header("content-length"), None);
            assert_eq!(response.body, b"2\r\nok\r\n0\r\n\r\n");
        }
    }
}
