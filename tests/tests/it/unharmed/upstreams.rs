//! Endpoints that fail: what the client gets, what is said of it, and whether the connection is used again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_tests::raw::{Raw, is_read};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::{Change, Rig};

/// What an endpoint does when it has read the head of a request.
#[derive(Debug, Clone)]
enum Does {
    /// Answers, and takes the next request.
    Send(String),
    /// Answers, then closes.
    Close(String),
    /// Answers, then resets.
    Reset(String),
    /// Answers, then says no more.
    Stall(String),
    /// Answers, then says this again and again.
    Repeat(String, &'static str),
    /// Closes the first time; later answers `ok`.
    CloseOnce,
}

use Does::{Close, CloseOnce, Repeat, Reset, Send, Stall};

/// What a client gets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gets {
    /// A whole answer.
    Whole(u16),
    /// The head of one, and not all of its body.
    Cut(u16),
}

use Gets::{Cut, Whole};

/// What an endpoint does, and what follows.
struct Row {
    name: &'static str,
    method: &'static str,
    /// The connection has served before.
    is_warm: bool,
    does: Does,
    gets: Gets,
    log: &'static str,
    /// Whether the connection is used again.
    reused: bool,
    /// What it counts as in `weighlock_upstream_failures_total`, if so.
    counts: Option<&'static str>,
}

/// How often an endpoint that goes on and on sends a piece.
const PACE: Duration = Duration::from_millis(20);

const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CLOSED: &str = "503 UC upstream_reset_before_response_started{connection_termination}";
const NO_HTTP: &str = "502 UPE upstream_reset_before_response_started{protocol_error}";
const BROKEN: &str = "200 UPE upstream_reset_after_response_started{protocol_error}";
const SERVED: &str = "200 - via_upstream";

fn rows() -> Vec<Row> {
    let row = |name, does, gets, log, counts| Row {
        name,
        method: "GET",
        is_warm: false,
        does,
        gets,
        log,
        reused: false,
        counts,
    };
    let post = |name, does, gets, log, counts| Row {
        method: "POST",
        ..row(name, does, gets, log, counts)
    };
    let warm = |row: Row| Row { is_warm: true, ..row };
    let kept = |row: Row| Row { reused: true, ..row };
    let text = |text: &str| text.to_owned();
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: a\r\n")).collect::<String>();
    let with = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}content-length: 2\r\n\r\nok");
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let interims = |count: usize| interim.repeat(count) + OK;
    let reset = Some("reset");
    let protocol = Some("protocol");
    vec![
        kept(row("answers", Send(text(OK)), Whole(200), SERVED, None)),
        // Before an answer.
        row("closes at once", Close(text("")), Whole(503), CLOSED, reset),
        row("resets at once", Reset(text("")), Whole(503), CLOSED, reset),
        post("closes at once on a body", Close(text("")), Whole(503), CLOSED, reset),
        row("closes in the status line", Close(text("HTTP/1.1 20")), Whole(502), NO_HTTP, protocol),
        row(
            "closes in the head",
            Close(text("HTTP/1.1 200 OK\r\nx: ")),
            Whole(502),
            NO_HTTP,
            protocol,
        ),
        row(
            "never answers",
            Stall(text("")),
            Whole(504),
            "504 UT response_timeout",
            Some("timeout"),
        ),
        row(
            "never ends the head",
            Stall(text("HTTP/1.1 200 OK\r\nx: ")),
            Whole(504),
            "504 UT response_timeout",
            Some("timeout"),
        ),
        row(
            "drips the head",
            Repeat(text("HTTP/1.1 200 OK\r\nx: "), "a"),
            Whole(504),
            "504 UT response_timeout",
            Some("timeout"),
        ),
        // What is no answer.
        row(
            "speaks another protocol",
            Stall(text("SSH-2.0-OpenSSH_9.0\r\n")),
            Whole(502),
            NO_HTTP,
            protocol,
        ),
        row(
            "head too large",
            Send(with(&format!("x: {}\r\n", "a".repeat(62_000)))),
            Whole(502),
            NO_HTTP,
            protocol,
        ),
        row(
            "head without an end",
            Repeat(
                text("HTTP/1.1 200 OK\r\nx: "),
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ),
            Whole(504),
            "504 UT response_timeout",
            Some("timeout"),
        ),
        row("too many fields", Send(with(&fields(100))), Whole(502), NO_HTTP, protocol),
        kept(row(
            "as many fields as there may be",
            Send(with(&fields(99))),
            Whole(200),
            SERVED,
            None,
        )),
        kept(row("some interim answers", Send(interims(16)), Whole(200), SERVED, None)),
        row("too many interim answers", Send(interims(17)), Whole(502), NO_HTTP, protocol),
        row(
            "interim answers for ever",
            Repeat(interim.repeat(5), "HTTP/1.1 100 Continue\r\n\r\n"),
            Whole(502),
            NO_HTTP,
            protocol,
        ),
        row(
            "a switch that nobody asked for",
            Stall(text(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            )),
            Whole(502),
            NO_HTTP,
            protocol,
        ),
        row(
            "a length and chunks",
            Send(text(
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            )),
            Whole(502),
            NO_HTTP,
            protocol,
        ),
        // Within an answer.
        row("closes in the body", Close(text(LENGTH)), Cut(200), BROKEN, None),
        row("resets in the body", Reset(text(LENGTH)), Cut(200), BROKEN, None),
        row("closes between chunks", Close(text(CHUNKED)), Cut(200), BROKEN, None),
        row("resets between chunks", Reset(text(CHUNKED)), Cut(200), BROKEN, None),
        row("closes in a chunk", Close(format!("{CHUNKED}5\r\nab")), Cut(200), BROKEN, None),
        row("a chunk without a size", Stall(format!("{CHUNKED}x\r\n")), Cut(200), BROKEN, None),
        row(
            "a chunk that is too long",
            Stall(format!("{CHUNKED}2\r\nabcd\r\n0\r\n\r\n")),
            Cut(200),
            BROKEN,
            None,
        ),
        row("stalls in the body", Stall(text(LENGTH)), Cut(200), "200 UT response_timeout", None),
        row(
            "drips the body",
            Repeat(text("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"), "a"),
            Cut(200),
            "200 UT response_timeout",
            None,
        ),
        // After an answer.
        row(
            "says that it closes",
            Send(text("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")),
            Whole(200),
            SERVED,
            None,
        ),
        row(
            "answers as HTTP/1.0",
            Send(text("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")),
            Whole(200),
            SERVED,
            None,
        ),
        row(
            "ends the body by closing",
            Close(text("HTTP/1.1 200 OK\r\n\r\nok")),
            Whole(200),
            SERVED,
            None,
        ),
        row(
            "says more than it should",
            Send(format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")),
            Whole(200),
            SERVED,
            None,
        ),
        row(
            "says more than nothing",
            Send(text("HTTP/1.1 204 No Content\r\n\r\nmore")),
            Whole(204),
            "204 - via_upstream",
            None,
        ),
        // A connection that was kept.
        warm(row("closes a kept one, once", CloseOnce, Whole(200), SERVED, reset)),
        warm(Row {
            method: "DELETE",
            ..row("closes a kept one, DELETE", CloseOnce, Whole(200), SERVED, reset)
        }),
        warm(post("closes a kept one, POST", CloseOnce, Whole(503), CLOSED, reset)),
        warm(Row {
            method: "PATCH",
            ..row("closes a kept one, PATCH", CloseOnce, Whole(503), CLOSED, reset)
        }),
        warm(row("closes every one", Close(text("")), Whole(503), CLOSED, reset)),
        warm(row(
            "closes a kept one in the head",
            Close(text("HTTP/1.1 200 OK\r\nx: ")),
            Whole(502),
            NO_HTTP,
            protocol,
        )),
    ]
}

/// An endpoint that does what rows say. At `/which` it says which connection that is, counted from 1.
struct Endpoint {
    address: SocketAddr,
    /// Which connection was last asked for a row.
    last: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Endpoint {
    async fn start(does: HashMap<String, Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (does, last) = (Arc::new(does), Arc::default());
        let noted = Arc::clone(&last);
        let task = tokio::spawn(async move {
            for number in 1.. {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                tokio::spawn(follow(stream, number, (Arc::clone(&does), Arc::clone(&noted))));
            }
        });
        Self { address, last, task }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Shared = (Arc<HashMap<String, Does>>, Arc<Mutex<usize>>);

async fn follow(mut stream: TcpStream, number: usize, (does, last): Shared) {
    let mut seen = Vec::new();
    let mut asked = 0;
    loop {
        while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                return;
            }
        }
        let head = String::from_utf8_lossy(&seen).into_owned();
        seen.clear();
        let path = head.split(' ').nth(1).unwrap_or_default();
        asked += 1;
        let does = if path == "/which" {
            let text = number.to_string();
            Send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()))
        } else {
            *last.lock().unwrap() = number;
            match does.get(path) {
                Some(CloseOnce) if asked > 1 => Close(String::new()),
                Some(CloseOnce) | None => Send(OK.to_owned()),
                Some(does) => does.clone(),
            }
        };
        let (Send(bytes) | Close(bytes) | Reset(bytes) | Stall(bytes) | Repeat(bytes, _)) = &does
        else {
            return;
        };
        if stream.write_all(bytes.as_bytes()).await.is_err() {
            return;
        }
        match does {
            Send(_) => {}
            Close(_) | CloseOnce => {
                let _ = stream.shutdown().await;
                return stall(&mut stream).await;
            }
            Reset(_) => {
                // A reset takes with it what was not read.
                is_read(&stream).await;
                let _ = stream.set_zero_linger();
                return;
            }
            Stall(_) => return stall(&mut stream).await,
            Repeat(_, piece) => {
                let mut pace = tokio::time::interval(PACE);
                while stream.write_all(piece.as_bytes()).await.is_ok() {
                    pace.tick().await;
                }
                return;
            }
        }
    }
}

async fn stall(stream: &mut TcpStream) {
    let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
}

fn cluster(address: SocketAddr) -> Value {
    json!({"load_assignment": {"cluster_name": "a", "endpoints": [{"lb_endpoints": [{
        "endpoint": {"address": {"socket_address": {
            "address": address.ip().to_string(), "port_value": address.port()}}}}]}]}})
}

fn request(method: &str, path: &str) -> String {
    let length = if matches!(method, "POST" | "PATCH") { "content-length: 0\r\n" } else { "" };
    format!("{method} {path} HTTP/1.1\r\nhost: a.test\r\n{length}\r\n")
}

/// Which connection to the endpoint is used now.
async fn which(rig: &Rig) -> usize {
    let mut client = Raw::connect(rig.address).await;
    client.send(request("GET", "/which")).await;
    let answer = client.response(true).await.unwrap();
    String::from_utf8_lossy(&answer.body).parse().unwrap()
}

async fn failures(rig: &Rig, reason: &str) -> f64 {
    let series = format!("weighlock_upstream_failures_total{{cluster=\"a\",reason=\"{reason}\"}}");
    rig.metric(&series).await.unwrap_or(0.0)
}

async fn got(rig: &Rig, method: &str, path: &str) -> Gets {
    let mut client = Raw::connect(rig.address).await;
    client.send(request(method, path)).await;
    let head = client.response(false).await.unwrap();
    let length = head.header("content-length").and_then(|length| length.parse::<usize>().ok());
    // A whole answer leaves the connection open, unless it says otherwise.
    match length {
        Some(length) if client.read(length).await == length => Whole(head.status),
        None if head.status == 204 => Whole(head.status),
        None if head.header("transfer-encoding").is_some() => {
            if client.has_chunked_end().await {
                Whole(head.status)
            } else {
                Cut(head.status)
            }
        }
        _ => Cut(head.status),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_endpoints_do_wrong_is_told_and_stays_there() {
    let rows = rows();
    let path = |row: &Row| format!("/{}", row.name.replace([' ', ',', '/'], "-"));
    let does = rows.iter().map(|row| (path(row), row.does.clone())).collect();
    let endpoint = Endpoint::start(does).await;
    let route = json!({"timeout": "0.8s"});
    let cluster = cluster(endpoint.address);
    let rig = Rig::start(Change { route, cluster, ..Change::default() }).await;
    let mut wrong = Vec::new();
    let mut lines = 0;
    for row in &rows {
        let path = path(row);
        if row.is_warm {
            which(&rig).await;
            lines += 1;
        } else {
            // A connection of its own: who has none yet makes one.
            let mut last = Raw::connect(rig.address).await;
            last.send(request("GET", "/says-that-it-closes")).await;
            last.response(true).await.unwrap();
            lines += 1;
        }
        let before = match row.counts {
            Some(reason) => failures(&rig, reason).await,
            None => 0.0,
        };
        let gets = got(&rig, row.method, &path).await;
        if gets != row.gets {
            wrong.push(format!("{}: {gets:?}, not {:?}", row.name, row.gets));
        }
        lines += 1;
        let logged = rig.logged(lines).await;
        let said = logged.iter().rfind(|line| line.contains(&format!(" {path} ")));
        let log = format!("{} {path} {}", row.method, row.log);
        if said != Some(&log) {
            wrong.push(format!("{}: {said:?}, not {log}", row.name));
        }
        if let Some(reason) = row.counts
            && failures(&rig, reason).await <= before
        {
            wrong.push(format!("{}: does not count as {reason}", row.name));
        }
        let last = *endpoint.last.lock().unwrap();
        let is_reused = which(&rig).await == last;
        lines += 1;
        // What was tried again went well, on a connection that is kept.
        let may_be = row.reused || matches!((&row.does, row.gets), (CloseOnce, Whole(200)));
        if is_reused != may_be {
            wrong.push(format!("{}: reused: {is_reused}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_before_the_end_of_a_body_end_both_connections() {
    const EARLY: &str = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 2\r\n\r\nno";
    let does = [("/early".to_owned(), Send(EARLY.to_owned()))].into();
    let endpoint = Endpoint::start(does).await;
    let change = Change { cluster: cluster(endpoint.address), ..Change::default() };
    let rig = Rig::start(change).await;
    for framing in ["content-length: 1000000", "transfer-encoding: chunked"] {
        let mut client = Raw::connect(rig.address).await;
        client.send(format!("POST /early HTTP/1.1\r\nhost: a.test\r\n{framing}\r\n\r\n")).await;
        let answer = client.response(true).await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (413, Some("close")), "{framing}");
        // What is sent as the rest is no request.
        client.send("GET /smuggled HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        assert_eq!(client.rest().await, b"", "{framing}");
        let last = *endpoint.last.lock().unwrap();
        assert_ne!(which(&rig).await, last, "{framing}");
    }
    let logged = rig.logged(4).await;
    let early = logged.iter().filter(|line| **line == "POST /early 413 - via_upstream").count();
    assert_eq!((early, logged.len()), (2, 4), "{logged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_do_not_come_about_are_503_with_their_reason() {
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Its queue is full, so that nobody answers who knocks.
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let silent = silent.listen(1).unwrap();
    let full = silent.local_addr().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..4 {
        let knock = TcpStream::connect(full);
        crowd.push(tokio::time::timeout(Duration::from_millis(200), knock).await);
    }
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_address = plain.local_addr().unwrap();
    let talking = tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = plain.accept().await else { continue };
            let _ = stream.write_all(b"220 no TLS here\r\n").await;
            tokio::spawn(async move { stall(&mut stream).await });
        }
    });
    let tls = json!({"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}},
        "connect_timeout": "5s"});
    let reset = "503 UF upstream_reset_before_response_started{remote_connection_failure";
    for (name, address, more, log, reason) in [
        (
            "refuses",
            refusing,
            json!({}),
            format!("{reset}|delayed_connect_error:_Connection_refused}}"),
            "connect",
        ),
        ("is silent", full, json!({"connect_timeout": "0.3s"}), format!("{reset}}}"), "connect"),
        ("speaks no TLS", plain_address, tls, String::new(), "tls"),
    ] {
        let mut cluster = cluster(address);
        super::merge(&mut cluster, &more);
        let rig = Rig::start(Change { cluster, ..Change::default() }).await;
        let mut client = Raw::connect(rig.address).await;
        client.send(request("GET", "/a")).await;
        let answer = client.response(true).await.unwrap();
        assert_eq!(answer.status, 503, "{name}");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(body.contains("remote connection failure"), "{name}: {body}");
        // The client's connection goes on.
        client.send(request("GET", "/b")).await;
        assert_eq!(client.response(true).await.unwrap().status, 503, "{name}");
        let logged = rig.logged(2).await;
        if !log.is_empty() {
            assert_eq!(logged[0], format!("GET /a {log}"), "{name}");
        }
        assert!(logged[0].starts_with(&format!("GET /a {reset}")), "{name}: {}", logged[0]);
        assert!(failures(&rig, reason).await >= 1.0, "{name}");
    }
    talking.abort();
}
