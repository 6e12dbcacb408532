//! What passes on a connection beside a plain answer: bytes in, and bytes and log lines out, by a real Envoy and by our proxy.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_tests::gateway::{LIMIT, folder};
use gateway_tests::wire::{Script, Then, Upstream, talk};
use gateway_tests::{documents, wait};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::bytes::both;

/// How long a side that says nothing is listened to.
const PATIENCE: Duration = Duration::from_millis(700);

/// A listener with a log at `folder/PORT`, and one cluster `a`.
pub(super) fn resources(
    port: u16,
    upstream: SocketAddr,
    folder: &Path,
    (manager, routes): (&Value, &Value),
) -> Vec<Value> {
    let mut listener = documents::raw_listener("l", port, "r", &[]);
    let own = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    for (key, value) in manager.as_object().into_iter().flatten() {
        own[key] = value.clone();
    }
    own["access_log"] = json!([{"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": folder.join(port.to_string()).to_str().unwrap(),
        "log_format": {"text_format_source": {"inline_string":
            "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT%\n"}}}}]);
    let mut all = vec![listener, documents::raw_routes("r", routes)];
    all.extend(documents::raw_cluster("a", upstream));
    all
}

/// The lines of a log, once there are so many; in order, since they are written when a request is over.
pub(super) async fn lines(folder: &Path, address: SocketAddr, count: usize) -> Vec<String> {
    wait::until("lines of the access log", LIMIT, || async {
        let text = fs::read_to_string(folder.join(address.port().to_string()))?;
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        ensure!(lines.len() >= count, "{lines:#?}");
        lines.sort();
        Ok(lines)
    })
    .await
}

/// Says each of `asks` on a connection of its own: what came back, what upstream heard, what was logged.
pub(super) async fn told(
    address: SocketAddr,
    upstream: &Upstream,
    folder: &Path,
    asks: &[(&'static str, Vec<&'static str>)],
) -> Result<Value> {
    let mut all = BTreeMap::new();
    for (name, parts) in asks {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        upstream.take_seen();
        let heard = talk(address, &parts, PATIENCE).await?;
        all.insert(*name, json!({"client": heard.messages(), "upstream": upstream.take_seen()}));
    }
    let lines = lines(folder, address, asks.len()).await;
    Ok(json!({"all": all, "log": lines}))
}

pub(super) fn get(path: &str) -> &'static str {
    format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n").leak()
}

pub(super) fn to_a() -> Value {
    json!([
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "direct"}}},
        {"match": {"prefix": "/late"}, "route": {"cluster": "a", "timeout": "0.3s"}},
        {"match": {"prefix": "/idle"}, "route": {"cluster": "a", "idle_timeout": "0.3s"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
    ])
}

pub(super) async fn same(
    name: &str,
    upstream: Upstream,
    manager: Value,
    asks: &[(&'static str, Vec<&'static str>)],
) {
    let folder = folder();
    let (upstream, folder) = (&upstream, folder.path());
    let routes = to_a();
    both(
        name,
        |port, _| resources(port, upstream.address, folder, (&manager, &routes)),
        |address| told(address, upstream, folder, asks),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_off_are_cut_and_logged() {
    const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let upstream = Upstream::start([
        ("/short", Script::answer(LENGTH, Then::Close)),
        ("/short-reset", Script::answer(LENGTH, Then::Reset)),
        ("/chunks", Script::answer(CHUNKS, Then::Close)),
        ("/late", Script::answer(LENGTH, Then::Stall)),
        ("/idle", Script::answer(LENGTH, Then::Stall)),
        ("/to-the-end", Script::answer("HTTP/1.1 200 OK\r\n\r\nall", Then::Close)),
    ])
    .await;
    let asks: Vec<_> = ["/short", "/short-reset", "/chunks", "/late", "/idle", "/to-the-end"]
        .into_iter()
        .map(|path| (path, vec![get(path)]))
        .collect();
    same("answers_that_break_off_are_cut_and_logged", upstream, json!({}), &asks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_before_the_end_of_a_request_end_its_connection() {
    let upstream = Upstream::start([
        ("/early", Script::early("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly", Then::Stall)),
        (
            "/refused",
            Script::early(
                "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n",
                Then::Stall,
            ),
        ),
    ])
    .await;
    let length = "POST /early HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\nabc";
    let chunks =
        "POST /early HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";
    let asks = [
        ("length", vec![length]),
        ("chunks", vec![chunks]),
        (
            "refused",
            vec!["POST /refused HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\nabc"],
        ),
        ("direct", vec!["POST /direct HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\nabc"]),
        ("idle", vec!["POST /idle HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\nabc"]),
        ("whole", vec!["POST /x HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3\r\n\r\nabc"]),
    ];
    let name = "answers_before_the_end_of_a_request_end_its_connection";
    same(name, upstream, json!({}), &asks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_stop_here_and_an_expectation_is_met() {
    let interim = |before: &'static str| Script {
        before,
        ..Script::answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::Next)
    };
    let upstream = Upstream::start([
        ("/100", interim("HTTP/1.1 100 Continue\r\n\r\n")),
        ("/102", interim("HTTP/1.1 102 Processing\r\n\r\n")),
        ("/103", interim("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")),
        ("/many", interim("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")),
    ])
    .await;
    let expecting = |path: &str| -> &'static str {
        format!("POST {path} HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
            .leak()
    };
    let asks = [
        ("plain 100", vec![get("/100")]),
        ("plain 102", vec![get("/102")]),
        ("plain 103", vec![get("/103")]),
        ("plain many", vec![get("/many")]),
        ("expected", vec![expecting("/x"), "abc"]),
        ("expected, and 100 from upstream", vec![expecting("/100"), "abc"]),
        ("expected, and 103 from upstream", vec![expecting("/103"), "abc"]),
    ];
    let name = "interim_answers_stop_here_and_an_expectation_is_met";
    same(name, upstream, json!({}), &asks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_have_none() {
    let upstream = Upstream::start([
        ("/204", Script::answer("HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", Then::Next)),
        ("/304", Script::answer("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n", Then::Next)),
        (
            "/205",
            Script::answer("HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n", Then::Next),
        ),
        ("/head", Script::answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Then::Next)),
        ("/zero", Script::answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Next)),
    ])
    .await;
    let head = |path: &str| -> &'static str {
        format!("HEAD {path} HTTP/1.1\r\nhost: a.test\r\n\r\n").leak()
    };
    let mut asks: Vec<_> = ["/204", "/304", "/205", "/zero", "/direct", "/none"]
        .into_iter()
        .map(|path| (path, vec![get(path)]))
        .collect();
    asks.push(("HEAD", vec![head("/head")]));
    asks.push(("HEAD 204", vec![head("/204")]));
    asks.push(("HEAD 304", vec![head("/304")]));
    asks.push(("HEAD direct", vec![head("/direct")]));
    same("answers_without_a_body_have_none", upstream, json!({}), &asks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stand_still_are_given_up() {
    let body: &'static str = "x".repeat(200_000).leak();
    let answer: &'static str =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak();
    let upstream = Upstream::start([("/big", Script::answer(answer, Then::Next))]).await;
    let (manager, routes) = (json!({"stream_idle_timeout": "0.5s"}), to_a());
    let folder = folder();
    let (upstream, folder) = (&upstream, folder.path());
    both(
        "clients_that_stand_still_are_given_up",
        |port, _| resources(port, upstream.address, folder, (&manager, &routes)),
        |address| async move {
            let socket = TcpStream::connect(address).await?;
            let builder = h2::client::Builder::new()
                .initial_window_size(1000)
                .handshake::<_, bytes::Bytes>(socket);
            let (mut send, connection) = builder.await?;
            tokio::spawn(connection);
            let request = http::Request::get("http://a.test/big").body(())?;
            let (answer, _) = send.send_request(request, true)?;
            let mut body = answer.await?.into_body();
            let mut bytes = 0;
            // Nothing is read in such a way that more may come.
            let ended = loop {
                match tokio::time::timeout(LIMIT, body.data()).await? {
                    Some(Ok(data)) => bytes += data.len(),
                    Some(Err(error)) => break error.is_reset(),
                    None => break false,
                }
            };
            Ok(json!({"bytes": bytes, "reset": ended}))
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_are_told_from_connections_that_close() {
    const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let script = |answer| Script::early(answer, Then::Stall);
    let upstream = Upstream::start([
        ("/silent/reset", script("")),
        ("/silent/close", script("")),
        ("/begun/reset", script(LENGTH)),
        ("/begun/close", script(LENGTH)),
    ])
    .await;
    let (manager, routes) = (json!({}), to_a());
    let folder = folder();
    let (upstream, folder) = (&upstream, folder.path());
    both(
        "streams_that_are_reset_are_told_from_connections_that_close",
        |port, _| resources(port, upstream.address, folder, (&manager, &routes)),
        |address| async move {
            let mut resets = Vec::new();
            for path in ["/silent/reset", "/silent/close", "/begun/reset", "/begun/close"] {
                upstream.take_seen();
                let socket = TcpStream::connect(address).await?;
                let (mut send, connection) = h2::client::handshake(socket).await?;
                let driver = tokio::spawn(connection);
                let request = http::Request::get(format!("http://a.test{path}")).body(())?;
                let (answer, mut stream) = send.send_request(request, true)?;
                upstream.heard(path).await;
                let mut begun = None;
                if path.starts_with("/begun") {
                    begun = Some(answer.await?.into_body());
                }
                if path.ends_with("/reset") {
                    stream.send_reset(h2::Reason::CANCEL);
                    resets.push((driver, send, stream, begun));
                } else {
                    driver.abort();
                }
            }
            Ok(json!(lines(folder, address, 4).await))
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_the_protocol_reach_nobody() {
    let answers: [(&'static str, &'static str); 23] = [
        ("no version", "200 OK\r\n\r\n"),
        ("another protocol", "SSH-2.0-OpenSSH_9.0\r\n"),
        ("lower case", "http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("no status", "HTTP/1.1 OK\r\n\r\n"),
        (
            "length and chunks",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc"),
        ("lengths in a list", "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nabc"),
        ("negative length", "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nab"),
        ("length with a sign", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab"),
        ("length in words", "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nab"),
        ("huge length", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nab"),
        ("unknown encoding", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nab"),
        ("two encodings", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (
            "bad chunk size",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\nab\r\n0\r\n\r\n",
        ),
        (
            "negative chunk size",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\nab\r\n0\r\n\r\n",
        ),
        (
            "huge chunk size",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\nab\r\n0\r\n\r\n",
        ),
        (
            "chunk without its end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabXX0\r\n\r\n",
        ),
        ("space before the colon", "HTTP/1.1 200 OK\r\nx-a : b\r\ncontent-length: 0\r\n\r\n"),
        ("no colon", "HTTP/1.1 200 OK\r\nx-a\r\ncontent-length: 0\r\n\r\n"),
        ("no name", "HTTP/1.1 200 OK\r\n: b\r\ncontent-length: 0\r\n\r\n"),
        ("a zero in a value", "HTTP/1.1 200 OK\r\nx-a: b\0c\r\ncontent-length: 0\r\n\r\n"),
        ("cut in the status line", "HTTP/1.1 20"),
        ("cut in the head", "HTTP/1.1 200 OK\r\nx-a: b\r\n"),
    ];
    let scripts = answers.map(|(name, answer)| {
        let path: &'static str = format!("/{}", name.replace(' ', "-")).leak();
        (path, Script::answer(answer, Then::Close))
    });
    let asks: Vec<_> = scripts.iter().map(|(path, _)| (*path, vec![get(path)])).collect();
    let upstream = Upstream::start(scripts).await;
    same("answers_that_break_the_protocol_reach_nobody", upstream, json!({}), &asks).await;
}
