//! HTTP/1 requests that two parsers could read differently, and those that only look so.

use gateway_tests::raw::{Raw, Reply};
use serde_json::{Value, json};

use super::{ALIVE, Change, Rig};

/// One connection.
struct Case {
    name: &'static str,
    /// What the client sends.
    sends: String,
    /// What it is answered.
    answers: Vec<u16>,
    /// What the access log says; a line each.
    log: Vec<String>,
    /// What the backend gets of it; none: nothing at all.
    upstream: Option<&'static str>,
}

/// A request that is refused with its connection.
fn refused(name: &'static str, sends: impl Into<String>, status: u16, log: &str) -> Case {
    let log = vec![format!("{log} {}", details(status, ""))];
    Case { name, sends: sends.into(), answers: vec![status], log, upstream: None }
}

/// A head that is refused unread.
fn unread(name: &'static str, sends: impl Into<String>) -> Case {
    refused(name, sends, 400, "- -")
}

fn because(mut case: Case, why: &str) -> Case {
    let status = case.answers[0];
    case.log[0] = case.log[0].replace(&details(status, ""), &details(status, why));
    case
}

fn details(status: u16, why: &str) -> String {
    match why {
        "" => format!("{status} DPE http1.codec_error"),
        why if why.starts_with('-') => format!("{status} {why}"),
        why => format!("{status} DPE {why}"),
    }
}

/// A request that is served.
fn served(name: &'static str, sends: impl Into<String>, log: &str, upstream: &'static str) -> Case {
    let log = vec![format!("{log} 200 - via_upstream")];
    Case { name, sends: sends.into(), answers: vec![200], log, upstream: Some(upstream) }
}

fn get(more: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: a.test\r\n{more}\r\n")
}

fn post(more: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a.test\r\n{more}")
}

fn line(line: &str) -> String {
    format!("{line}\r\nhost: a.test\r\n\r\n")
}

/// A second request that the body of the first hides from one of two parsers.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: a.test\r\n\r\n";

fn lengths() -> Vec<Case> {
    let length = |value: &str| post(&format!("content-length: {value}\r\n\r\nab"));
    vec![
        because(
            unread(
                "length and encoding",
                post(&format!(
                    "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
                )),
            ),
            "http1.content_length_and_chunked_not_allowed",
        ),
        because(
            unread(
                "encoding and length",
                post(&format!(
                    "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{HIDDEN}"
                )),
            ),
            "http1.content_length_and_chunked_not_allowed",
        ),
        unread(
            "two lengths",
            post(&format!("content-length: 0\r\ncontent-length: 44\r\n\r\n{HIDDEN}")),
        ),
        unread("one length twice", post("content-length: 2\r\ncontent-length: 2\r\n\r\nab")),
        unread(
            "a length in other letters too",
            post("Content-Length: 2\r\ncontent-length: 2\r\n\r\nab"),
        ),
        unread("length +2", length("+2")),
        unread("length -1", length("-1")),
        unread("length 2, 2", length("2, 2")),
        unread("length 0x2", length("0x2")),
        unread("length 2.0", length("2.0")),
        unread("length 1 1", length("1 1")),
        unread("length of 30 digits", length(&"9".repeat(30))),
        unread("length over 64 bits", length("18446744073709551616")),
        unread("no length", length("")),
        served("length 02", length("02"), "POST /", "\r\n\r\nab"),
        served(
            "a length that Connection names",
            post("connection: content-length\r\ncontent-length: 2\r\n\r\nab"),
            "POST /",
            "content-length: 2\r\n",
        ),
        served(
            "GET with a body",
            "GET / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nab",
            "GET /",
            "\r\n\r\nab",
        ),
    ]
}

fn encodings() -> Vec<Case> {
    let encoding = |lines: &str| post(&format!("{lines}\r\n\r\n0\r\n\r\n{HIDDEN}"));
    let bad =
        |name, lines| because(unread(name, encoding(lines)), "http1.invalid_transfer_encoding");
    vec![
        bad("gzip", "transfer-encoding: gzip"),
        bad("gzip, chunked", "transfer-encoding: gzip, chunked"),
        bad("identity, chunked", "transfer-encoding: identity, chunked"),
        bad("chunked, chunked", "transfer-encoding: chunked, chunked"),
        bad("chunked, identity", "transfer-encoding: chunked, identity"),
        bad("chunked twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
        bad("chunked and identity", "transfer-encoding: chunked\r\ntransfer-encoding: identity"),
        bad("identity", "transfer-encoding: identity"),
        bad("xchunked", "transfer-encoding: xchunked"),
        bad("quoted", "transfer-encoding: \"chunked\""),
        bad("with a parameter", "transfer-encoding: chunked;a=b"),
        bad("empty", "transfer-encoding:"),
        because(
            unread("a control before it", encoding("transfer-encoding: \x0bchunked")),
            "http1.invalid_characters",
        ),
        unread("a space before the colon", encoding("transfer-encoding : chunked")),
        bad("folded", "transfer-encoding:\r\n chunked"),
        because(
            unread(
                "in HTTP/1.0",
                "POST / HTTP/1.0\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            "http1.invalid_transfer_encoding",
        ),
        served(
            "in other letters",
            post("Transfer-Encoding: CHUNKED\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
            "POST /",
            "\r\n2\r\nab\r\n0\r\n\r\n",
        ),
    ]
}

fn chunks() -> Vec<Case> {
    let chunked = |body: &str| post(&format!("transfer-encoding: chunked\r\n\r\n{body}"));
    let bad = |name, body: &str| {
        refused(name, chunked(&format!("{body}\r\nab\r\n0\r\n\r\n{HIDDEN}")), 400, "POST /")
    };
    let long = format!("2;{}\r\nab\r\n0\r\n\r\n", "x".repeat(20_000));
    vec![
        bad("a size that is none", "zz"),
        bad("size 0x2", "0x2"),
        bad("size +2", "+2"),
        bad("size -2", "-2"),
        bad("a space before the size", " 2"),
        bad("a space behind the size", "2 "),
        bad("a size of 17 digits", "00000000000000002"),
        bad("no size", ""),
        bad("a bare LF in an extension", "2;a\nb"),
        bad("NUL in an extension", "2;a\0b"),
        refused("a bare LF behind the size", chunked("2\nab\r\n0\r\n\r\n"), 400, "POST /"),
        refused("a bare CR behind the size", chunked("2\rab\r\n0\r\n\r\n"), 400, "POST /"),
        refused("more data than the size says", chunked("2\r\nabc\r\n0\r\n\r\n"), 400, "POST /"),
        refused("a bare LF behind the data", chunked("2\r\nab\n0\r\n\r\n"), 400, "POST /"),
        refused("extensions of 20 kB", chunked(&long), 400, "POST /"),
        refused(
            "a trailer with a space in its name",
            chunked("0\r\nx y: 1\r\n\r\n"),
            400,
            "POST /",
        ),
        refused("a trailer without a colon", chunked("0\r\nxy\r\n\r\n"), 400, "POST /"),
        refused("a bare LF in a trailer", chunked("0\r\nx: a\n\r\n\r\n"), 400, "POST /"),
        served(
            "an extension",
            chunked("2;a=b\r\nab\r\n0\r\n\r\n"),
            "POST /",
            "\r\n2\r\nab\r\n0\r\n\r\n",
        ),
        served(
            "a size of 16 digits",
            chunked("0000000000000002\r\nab\r\n0\r\n\r\n"),
            "POST /",
            "\r\n2\r\nab\r\n0\r\n\r\n",
        ),
    ]
}

fn lines() -> Vec<Case> {
    let control = |name, line: &str| {
        because(unread(name, get(&format!("{line}\r\n"))), "http1.invalid_characters")
    };
    vec![
        unread("bare LF", "GET / HTTP/1.1\nhost: a.test\n\n"),
        unread("bare LF behind a header", "GET / HTTP/1.1\r\nhost: a.test\nx: y\r\n\r\n"),
        unread("bare LF at the end", "GET / HTTP/1.1\r\nhost: a.test\r\n\n"),
        unread("bare CR", get("x: a\rb\r\n")),
        unread("CR CR LF", get("x: a\r\r\n")),
        control("NUL in a value", "x: a\0b"),
        control("DEL in a value", "x: a\x7fb"),
        control("NUL in a name", "x\0: a"),
        unread("a folded line", get("x: a\r\n b\r\n")),
        unread("a line folded by a tab", get("x: a\r\n\tb\r\n")),
        unread("a folded first line", "GET / HTTP/1.1\r\n host: a.test\r\n\r\n"),
        unread("a space before the colon", get("x : a\r\n")),
        unread("a tab before the colon", get("x\t: a\r\n")),
        unread("no colon", get("xa\r\n")),
        unread("no name", get(": a\r\n")),
        unread("a name that is no token", get("x(y): a\r\n")),
        unread("a name that is not ASCII", get("\u{e9}: a\r\n")),
        served("an empty value", get("x:\r\n"), "GET /", "\r\nx: \r\n"),
        served(
            "an empty line before it",
            format!("\r\n{}", get("")),
            "GET /",
            "GET / HTTP/1.1\r\n",
        ),
        unread("two empty lines before it", format!("\r\n\r\n{}", get(""))),
        because(
            unread("TLS on a plain port", "\x16\x03\x01\0\x05hello"),
            "http1.invalid_characters",
        ),
    ]
}

fn starts() -> Vec<Case> {
    vec![
        unread("two spaces", line("GET  / HTTP/1.1")),
        unread("a tab", line("GET\t/ HTTP/1.1")),
        unread("a space at the end", line("GET / HTTP/1.1 ")),
        unread("a space before it", line(" GET / HTTP/1.1")),
        unread("a space in the target", line("GET /a b HTTP/1.1")),
        unread("HTTP/0.9", "GET /\r\n\r\n"),
        unread("no target", line("GET HTTP/1.1")),
        unread("http/1.1", line("GET / http/1.1")),
        unread("HTTP/1.10", line("GET / HTTP/1.10")),
        refused("HTTP/2.0", line("GET / HTTP/2.0"), 505, "- -"),
        refused("HTTP/1.2", line("GET / HTTP/1.2"), 505, "- -"),
        because(refused("HTTP/1.0", line("GET / HTTP/1.0"), 426, "GET /"), "low_version"),
        unread("a method that is no token", line("G(T / HTTP/1.1")),
        unread("a method that nobody knows", line("FOO / HTTP/1.1")),
        unread("a method in other letters", line("get / HTTP/1.1")),
        Case {
            log: vec!["CONNECT / 404 NR route_not_found".into()],
            ..refused("CONNECT", line("CONNECT a.test:80 HTTP/1.1"), 404, "")
        },
        because(unread("no path", line("GET a HTTP/1.1")), "http1.invalid_url"),
        because(unread("* with GET", line("GET * HTTP/1.1")), "http1.invalid_url"),
        because(unread("a fragment", line("GET /a#b HTTP/1.1")), "http1.invalid_url"),
        because(unread("not ASCII", line("GET /\u{e9} HTTP/1.1")), "http1.invalid_url"),
        because(unread("NUL in the path", line("GET /a\0b HTTP/1.1")), "http1.invalid_characters"),
        because(
            unread("an unknown scheme", line("GET ftp://a.test/ HTTP/1.1")),
            "http1.invalid_scheme",
        ),
        served(
            "the absolute form",
            line("GET http://a.test/x HTTP/1.1"),
            "GET /x",
            "GET /x HTTP/1.1\r\nhost: a.test\r\n",
        ),
        served("OPTIONS", line("OPTIONS /x HTTP/1.1"), "OPTIONS /x", "OPTIONS /x HTTP/1.1\r\n"),
    ]
}

fn hosts() -> Vec<Case> {
    let host = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n");
    let bad = |name, lines: &str| {
        because(refused(name, host(lines), 400, "GET /"), "http.invalid_authority")
    };
    vec![
        because(
            refused("no host", "GET / HTTP/1.1\r\nx: y\r\n\r\n", 400, "GET /"),
            "- missing_host_header",
        ),
        bad("two hosts", "host: a.test\r\nhost: b.test"),
        bad("one host twice", "host: a.test\r\nhost: a.test"),
        bad("an empty host", "host:"),
        bad("a space in the host", "host: a b"),
        bad("a user", "host: user@a.test"),
        bad("a path in the host", "host: a.test/b"),
        bad("a list of hosts", "host: a.test, b.test"),
        bad("a port that is none", "host: a.test:80a"),
        bad("a port too large", "host: a.test:65536"),
        bad("half an address", "host: [::1"),
        bad("not ASCII", "host: \u{e9}.test"),
        because(
            refused(
                "a target and a host that differ",
                line("GET http://b.test/x HTTP/1.1"),
                400,
                "GET /x",
            ),
            "http.invalid_authority",
        ),
        because(
            refused("a target with a user", line("GET http://u@a.test/x HTTP/1.1"), 400, "GET /x"),
            "http.invalid_authority",
        ),
        served(
            "a host that Connection names",
            host("host: a.test\r\nconnection: host"),
            "GET /",
            "host: a.test\r\n",
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let many = (0..101).map(|index| format!("x{index}: 1\r\n")).collect::<String>();
    let long = "a".repeat(70_000);
    vec![
        because(refused("101 headers", get(&many), 431, "- -"), "http1.too_many_headers"),
        because(
            refused("70 kB of headers", get(&format!("x: {long}\r\n")), 431, "- -"),
            "http1.headers_too_large",
        ),
        because(
            refused("a target of 70 kB", line(&format!("GET /{long} HTTP/1.1")), 414, "- -"),
            "http1.headers_too_large",
        ),
        because(
            refused("a head without an end", format!("GET / HTTP/1.1\r\nx: {long}"), 431, "- -"),
            "http1.headers_too_large",
        ),
        because(
            refused(
                "an expectation nobody knows",
                post("expect: 200-ok\r\ncontent-length: 2\r\n\r\nab"),
                417,
                "POST /",
            ),
            "- expectation_failed",
        ),
        because(
            refused(
                "an expectation behind another",
                post("expect: y 100-continue\r\ncontent-length: 2\r\n\r\nab"),
                417,
                "POST /",
            ),
            "- expectation_failed",
        ),
    ]
}

fn several() -> Vec<Case> {
    let ok = "GET / 200 - via_upstream".to_owned();
    let bad = "- - 400 DPE http1.codec_error".to_owned();
    vec![
        Case {
            name: "one request behind another",
            sends: get("") + &get(""),
            answers: vec![200, 200],
            log: vec![ok.clone(), ok.clone()],
            upstream: Some("GET / HTTP/1.1\r\n"),
        },
        Case {
            name: "a bad request behind a good one",
            sends: get("") + &get("x : a\r\n"),
            answers: vec![200, 400],
            log: vec![ok, bad],
            upstream: Some("GET / HTTP/1.1\r\n"),
        },
        Case {
            name: "a request behind an upgrade that is refused",
            sends: get("connection: upgrade\r\nupgrade: websocket\r\n") + HIDDEN,
            answers: vec![403],
            log: vec!["GET / 403 - upgrade_failed".into()],
            upstream: None,
        },
    ]
}

async fn run(rig: &Rig, cases: Vec<Case>) {
    let mut log = Vec::new();
    for case in &cases {
        // Whole, and in as many pieces as there are bytes.
        let sends = case.sends.as_bytes();
        let sizes: &[usize] = if sends.len() < 1000 { &[sends.len(), 1] } else { &[sends.len()] };
        for size in sizes {
            rig.backend.forget();
            let mut client = Raw::connect(rig.address).await;
            for piece in sends.chunks(*size) {
                client.send(piece).await;
            }
            for status in &case.answers {
                let response = client
                    .response(true)
                    .await
                    .unwrap_or_else(|| panic!("{}: no answer", case.name));
                assert_eq!(response.status, *status, "{}: {response:?}", case.name);
                assert_eq!(response.header("server"), Some("envoy"), "{}", case.name);
            }
            let is_kept = case.answers.last() == Some(&200);
            if is_kept {
                // Both sides agree on where the last request ended.
                client.send(ALIVE).await;
                assert_eq!(client.response(true).await.unwrap().status, 200, "{}", case.name);
            } else {
                let rest = client.rest().await;
                assert!(rest.is_empty(), "{}: {}", case.name, String::from_utf8_lossy(&rest));
                rig.is_alive(case.name).await;
            }
            // A chunk that comes in two pieces may go on in two.
            let got = rig.backend.all().replace("\r\n1\r\na\r\n1\r\nb\r\n", "\r\n2\r\nab\r\n");
            match case.upstream {
                Some(part) => assert!(got.contains(part), "{}: {got:?}", case.name),
                None => {
                    // A body in chunks may break a rule when its head has passed long ago. The backend
                    // must not take what came of it for a request.
                    let may_begin = case.sends.contains("chunked\r\n\r\n") && is_cut_off(&got);
                    assert!(!got.contains("a.test") || may_begin, "{}: {got:?}", case.name);
                }
            }
            assert!(!got.contains("/hidden"), "{}: {got:?}", case.name);
            log.extend(case.log.iter().cloned());
        }
    }
    let logged = rig.logged(log.len()).await;
    for (index, (logged, wanted)) in logged.iter().zip(&log).enumerate() {
        assert_eq!(logged, wanted, "line {index}");
    }
    assert_eq!(logged.len(), log.len());
}

/// Whether a body in chunks has no end.
fn is_cut_off(got: &str) -> bool {
    got.split("GET /alive").all(|part| !part.contains("\r\n0\r\n\r\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_parsers_could_read_differently_goes_nowhere() {
    let rig = Rig::start(Change::default()).await;
    let all = [lengths(), encodings(), chunks(), lines(), starts(), hosts(), sizes(), several()];
    run(&rig, all.into_iter().flatten().collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_loosened_is_served_and_reaches_the_backend_one_way() {
    let manager = json!({"http_protocol_options": {
        "accept_http_10": true, "default_host_for_http_10": "old.test", "allow_chunked_length": true,
        "allow_custom_methods": true, "allow_absolute_url": false}});
    let rig = Rig::start(Change { manager, ..Change::default() }).await;
    let cases = vec![
        served("a method that nobody knows", line("FOO / HTTP/1.1"), "FOO /", "FOO / HTTP/1.1\r\n"),
        unread("a method that is no token", line("F(O / HTTP/1.1")),
        because(
            refused("the absolute form", line("GET http://a.test/x HTTP/1.1"), 404, "GET /x"),
            "- absolute_path_rejected",
        ),
    ];
    run(&rig, cases).await;

    rig.backend.forget();
    let mut client = Raw::connect(rig.address).await;
    let both = "content-length: 44\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    client.send(format!("{}{HIDDEN}", post(both))).await;
    assert_eq!(client.response(true).await.unwrap().status, 200);
    assert!(client.rest().await.is_empty(), "the connection ends");
    let got = rig.backend.all();
    assert!(got.ends_with("\r\n\r\n2\r\nab\r\n0\r\n\r\n"), "{got:?}");
    assert!(!got.contains("content-length"), "{got:?}");

    rig.backend.forget();
    let mut client = Raw::connect(rig.address).await;
    client.send("GET /old HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response(true).await.unwrap().status, 200);
    assert!(client.rest().await.is_empty());
    let got = rig.backend.all();
    assert!(got.starts_with("GET /old HTTP/1.1\r\nhost: old.test\r\n"), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_sent_before_a_switch_reach_nobody_as_a_request() {
    let manager = json!({"upgrade_configs": [{"upgrade_type": "websocket"}]});
    let rig = Rig::start(Change { manager, ..Change::default() }).await;
    let upgrade = get("connection: upgrade\r\nupgrade: websocket\r\n");
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

    // Answered with a switch, what came early is the first of the tunnel.
    rig.backend.answer(Reply::Send(vec![format!("{switch}hello").into()]));
    let mut client = Raw::connect(rig.address).await;
    client.send(format!("{upgrade}EARLY \0\n")).await;
    assert_eq!(client.response(false).await.unwrap().status, 101);
    assert_eq!(client.read(5).await, 5);
    client.send("later").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"hello");
    let got = rig.backend.all();
    let (head, tunnel) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("upgrade: websocket"), "{head}");
    assert_eq!(tunnel, "EARLY \0\nlater");

    // Answered otherwise, it is nothing: the connection ends.
    rig.backend.forget();
    rig.backend.answer(Reply::Send(vec![b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()]));
    let mut client = Raw::connect(rig.address).await;
    client.send(format!("{upgrade}EARLY \0\n")).await;
    let response = client.response(true).await.unwrap();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert!(client.rest().await.is_empty());
    assert!(!rig.backend.all().contains("EARLY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_takes_too_long_is_answered_and_ends() {
    let manager: Value = json!({"request_headers_timeout": "0.3s"});
    let rig = Rig::start(Change { manager, ..Change::default() }).await;
    for head in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: a.test\r\nx: y\r\n"] {
        let mut client = Raw::connect(rig.address).await;
        client.send(head).await;
        assert_eq!(client.response(true).await.unwrap().status, 408, "{head:?}");
        assert!(client.rest().await.is_empty());
    }
    // The time counts from the first byte, so an idle connection has it not begun.
    let mut client = Raw::connect(rig.address).await;
    client.send(ALIVE).await;
    assert_eq!(client.response(true).await.unwrap().status, 200);
    client.send("GET / HTTP/1.1\r\n").await;
    assert_eq!(client.response(true).await.unwrap().status, 408);
    let log = vec!["- - 408 DT request_header_timeout"; 4];
    assert_eq!(rig.logged(4).await, log);
}
