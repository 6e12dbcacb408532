//! Requests of HTTP/2 for a backend that speaks HTTP/1: what it gets, byte for byte, or what the client
//! is told instead.

use std::time::Duration;

use gateway_tests::frames::{
    DATA, END, Frames, GET, GOAWAY, HEADERS, Heard, RST_STREAM, WHOLE, block, frame, headers,
};
use gateway_tests::wait;
use serde_json::json;

use super::{Change, Rig};

const LIMIT: Duration = Duration::from_secs(20);
const PROTOCOL: u32 = 1;

/// Lines that are not the client's.
const OURS: [&str; 3] = ["x-forwarded-proto:", "x-request-id:", "x-envoy-expected-rq-timeout-ms:"];

/// What the client hears.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Nothing,
}

struct Case {
    name: &'static str,
    sends: Vec<u8>,
    told: Told,
    /// What the backend gets but for our lines.
    upstream: String,
}

/// A request without a body; `head` is what the backend gets of its head.
fn served(name: &'static str, fields: &[(&str, &str)], head: &str) -> Case {
    let upstream = head.lines().map(|line| format!("{line}\r\n")).collect::<String>() + "\r\n";
    Case { name, sends: headers(1, END, fields), told: Told::Status(200), upstream }
}

fn refused(name: &'static str, fields: &[(&str, &str)], told: Told) -> Case {
    Case { name, sends: headers(1, END, fields), told, upstream: String::new() }
}

/// A POST with this body, in frames.
fn posted(
    name: &'static str,
    fields: &[(&str, &str)],
    body: Vec<u8>,
    told: Told,
    upstream: &str,
) -> Case {
    let mut all = got(fields);
    all[0].1 = "POST";
    let sends = [headers(1, 0, &all), body].concat();
    Case { name, sends, told, upstream: upstream.to_owned() }
}

fn got<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&GET[..], more].concat()
}

/// A GET whose pseudo-header field `place` is this.
fn with(place: usize, value: &str) -> Vec<(&str, &str)> {
    let mut fields = got(&[]);
    fields[place].1 = value;
    fields
}

/// A GET without `:authority`.
fn without_authority<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&GET[..3], more].concat()
}

fn hosts() -> Vec<Case> {
    let bad = |name, fields: &[(&str, &str)]| refused(name, fields, Told::Status(400));
    vec![
        served("an authority", &got(&[]), "GET / HTTP/1.1\nhost: a.test"),
        served(
            "an authority with a port",
            &with(3, "a.test:81"),
            "GET / HTTP/1.1\nhost: a.test:81",
        ),
        served(
            "a host alone",
            &without_authority(&[("host", "b.test")]),
            "GET / HTTP/1.1\nhost: b.test",
        ),
        served("both alike", &got(&[("host", "a.test")]), "GET / HTTP/1.1\nhost: a.test"),
        served(
            "alike but for letters",
            &got(&[("host", "A.test")]),
            "GET / HTTP/1.1\nhost: a.test",
        ),
        bad("both, not alike", &got(&[("host", "b.test")])),
        bad("two hosts", &without_authority(&[("host", "a.test"), ("host", "b.test")])),
        bad("one host twice", &without_authority(&[("host", "a.test"), ("host", "a.test")])),
        bad("no host", &without_authority(&[])),
        bad("somebody at a host", &with(3, "me@a.test")),
        bad("an empty host", &without_authority(&[("host", "")])),
        bad("a host and a path", &without_authority(&[("host", "a.test/b")])),
        bad("two hosts in one", &without_authority(&[("host", "a.test, b.test")])),
        bad("a host with a space", &without_authority(&[("host", "a .test")])),
        refused("an authority and a path", &with(3, "a.test/b"), Told::Reset(PROTOCOL)),
        refused("an authority with a space", &with(3, "a.test b"), Told::Reset(PROTOCOL)),
        refused("an authority with lines", &with(3, "a.test\r\nx: y"), Told::Reset(PROTOCOL)),
        refused("an empty authority", &with(3, ""), Told::Reset(PROTOCOL)),
    ]
}

fn targets() -> Vec<Case> {
    let bad = |name, path| refused(name, &with(2, path), Told::Status(400));
    let reset = |name, path| refused(name, &with(2, path), Told::Reset(PROTOCOL));
    let mut options = with(2, "*");
    options[0].1 = "OPTIONS";
    let [method, scheme, path, authority] = GET;
    vec![
        served("a path and a query", &with(2, "/a?b=c"), "GET /a?b=c HTTP/1.1\nhost: a.test"),
        served("slashes", &with(2, "//b.test/x"), "GET //b.test/x HTTP/1.1\nhost: a.test"),
        served("a question", &with(2, "/?"), "GET /? HTTP/1.1\nhost: a.test"),
        // The codec cuts off the fragment.
        served("a fragment", &with(2, "/a#b"), "GET /a HTTP/1.1\nhost: a.test"),
        // No route is for it.
        refused("all of the server", &options, Told::Status(404)),
        bad("all of the server, to get", "*"),
        reset("no slash", "a"),
        bad("a query alone", "?a"),
        reset("a URL", "http://b.test/"),
        bad("a path that is not ASCII", "/\u{fc}"),
        reset("no path", ""),
        reset("a space", "/a b"),
        reset("a second request", "/ HTTP/1.1\r\nhost: b.test\r\n\r\nGET /hidden"),
        reset("a line", "/a\nb"),
        reset("a tab", "/a\tb"),
        reset("a zero byte", "/a\0b"),
        refused("a method with a line", &with(0, "GET / HTTP/1.1\r\nx: y"), Told::GoAway(PROTOCOL)),
        refused("a method with a space", &with(0, "GET /a"), Told::GoAway(PROTOCOL)),
        refused("an empty method", &with(0, ""), Told::GoAway(PROTOCOL)),
        served("a method of its own", &with(0, "BREW"), "BREW / HTTP/1.1\nhost: a.test"),
        served("another scheme", &with(1, "ftp"), "GET / HTTP/1.1\nhost: a.test"),
        refused("a scheme with a line", &with(1, "http\r\nx: y"), Told::Reset(PROTOCOL)),
        refused("a scheme that is a URL", &with(1, "http://b.test/"), Told::Reset(PROTOCOL)),
        refused("CONNECT", &[(":method", "CONNECT"), authority], Told::Status(404)),
        refused(
            "CONNECT with a path",
            &[(":method", "CONNECT"), scheme, path, authority],
            Told::Reset(PROTOCOL),
        ),
        refused(
            "a protocol that was not offered",
            &[(":method", "CONNECT"), (":protocol", "websocket"), scheme, path, authority],
            Told::Reset(PROTOCOL),
        ),
        refused(
            "a protocol without CONNECT",
            &[method, (":protocol", "websocket"), scheme, path, authority],
            Told::Reset(PROTOCOL),
        ),
    ]
}

fn fields() -> Vec<Case> {
    let plain = "GET / HTTP/1.1\nhost: a.test";
    let gone = |name, field, value| refused(name, &got(&[(field, value)]), Told::GoAway(PROTOCOL));
    let reset = |name, field, value| refused(name, &got(&[(field, value)]), Told::Reset(PROTOCOL));
    let many: Vec<_> = std::iter::repeat_n(("x-a", "1"), 101).collect();
    let crumbs: Vec<_> = std::iter::repeat_n(("cookie", "a=1"), 101).collect();
    let long = "x".repeat(61 * 1024);
    vec![
        served("a field", &got(&[("x-a", "b")]), "GET / HTTP/1.1\nx-a: b\nhost: a.test"),
        served(
            "a field twice",
            &got(&[("x-a", "b"), ("x-a", "c")]),
            "GET / HTTP/1.1\nx-a: b\nx-a: c\nhost: a.test",
        ),
        served(
            "crumbs of a cookie",
            &got(&[("cookie", "a=1"), ("x-a", "b"), ("cookie", "b=2"), ("cookie", "c=3")]),
            "GET / HTTP/1.1\ncookie: a=1; b=2; c=3\nx-a: b\nhost: a.test",
        ),
        served(
            "trailers wanted",
            &got(&[("te", "trailers")]),
            "GET / HTTP/1.1\nte: trailers\nhost: a.test",
        ),
        served("settings of HTTP/2", &got(&[("http2-settings", "AAMAAABk")]), plain),
        served("a word before the body", &got(&[("expect", "100-continue")]), plain),
        refused("another word", &got(&[("expect", "200-ok")]), Told::Status(417)),
        gone("a value with lines", "x-a", "b\r\nx: y"),
        gone("a value with a line feed", "x-a", "b\nx: y"),
        gone("a value with a carriage return", "x-a", "b\rc"),
        gone("a value with a zero byte", "x-a", "b\0c"),
        gone("a value with another control", "x-a", "b\x07c"),
        gone("a name in upper case", "X-A", "b"),
        gone("a name with a colon", "x-a:", "b"),
        gone("a name with a space", "x a", "b"),
        gone("a name with lines", "x-a: b\r\nx", "y"),
        gone("a name with a space at its end", "transfer-encoding ", "chunked"),
        gone("no name", "", "b"),
        reset("connection", "connection", "x-a"),
        reset("keep-alive", "keep-alive", "5"),
        reset("proxy-connection", "proxy-connection", "close"),
        reset("transfer-encoding", "transfer-encoding", "chunked"),
        reset("upgrade", "upgrade", "websocket"),
        reset("te", "te", "gzip"),
        refused("101 fields", &got(&many), Told::Status(431)),
        refused("101 crumbs", &got(&crumbs), Told::Status(431)),
        Case {
            name: "a field of 61 KiB",
            sends: {
                let block = block(&got(&[("x-a", &long)]));
                let (first, rest) = block.split_at(16_000);
                let pieces: Vec<_> = rest.chunks(16_000).collect();
                let last = pieces.len() - 1;
                let rest = pieces.iter().enumerate().map(|(place, piece)| {
                    frame(9, if place == last { WHOLE } else { 0 }, 1, piece)
                });
                [frame(HEADERS, END, 1, first)].into_iter().chain(rest).flatten().collect()
            },
            told: Told::Status(431),
            upstream: String::new(),
        },
    ]
}

fn bodies() -> Vec<Case> {
    let data = |flags| frame(DATA, flags, 1, "abc");
    let length = |name, length, body: Vec<u8>, told| {
        posted(name, &[("content-length", length)], body, told, "")
    };
    vec![
        posted(
            "a length",
            &[("content-length", "3")],
            data(END),
            Told::Status(200),
            "POST / HTTP/1.1\r\ncontent-length: 3\r\nhost: a.test\r\n\r\nabc",
        ),
        posted(
            "no length",
            &[],
            data(END),
            Told::Status(200),
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        posted(
            "an end by itself",
            &[("content-length", "3")],
            [data(0), frame(DATA, END, 1, [])].concat(),
            Told::Status(200),
            "POST / HTTP/1.1\r\ncontent-length: 3\r\nhost: a.test\r\n\r\nabc",
        ),
        posted(
            "a body that is a request",
            &[("content-length", "37")],
            frame(DATA, END, 1, "GET /hidden HTTP/1.1\r\nhost: b.test\r\n\r\n"),
            Told::Reset(PROTOCOL),
            "",
        ),
        length("a length below the body", "2", data(END), Told::Reset(PROTOCOL)),
        length("a length and no body", "3", frame(DATA, END, 1, []), Told::Reset(PROTOCOL)),
        length("a signed length", "+3", data(END), Told::Reset(PROTOCOL)),
        length("a length in hex", "0x3", data(END), Told::Reset(PROTOCOL)),
        length("lengths in one", "3, 3", data(END), Told::Reset(PROTOCOL)),
        length("a length of 20 digits", "18446744073709551619", data(END), Told::Reset(PROTOCOL)),
        length("an empty length", "", data(END), Told::Reset(PROTOCOL)),
        posted(
            "two lengths",
            &[("content-length", "3"), ("content-length", "4")],
            data(END),
            Told::Reset(PROTOCOL),
            "",
        ),
        posted(
            "one length twice",
            &[("content-length", "3"), ("content-length", "3")],
            data(END),
            Told::Status(400),
            "",
        ),
    ]
}

fn trailers() -> Vec<Case> {
    let with = |name, fields: &[(&str, &str)], sent: &[&str]| {
        let sent: String = sent.iter().map(|line| format!("{line}\r\n")).collect();
        posted(
            name,
            &[("trailer", "x-sum, host, content-length, authorization, x-forwarded-for")],
            [frame(DATA, 0, 1, "abc"), headers(1, END, fields)].concat(),
            Told::Status(200),
            &format!(
                "POST / HTTP/1.1\r\ntrailer: x-sum, host, content-length, authorization, x-forwarded-for\r\n\
                host: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{sent}\r\n"
            ),
        )
    };
    let mut pseudo = with("trailers with a path", &[("x-sum", "1"), (":path", "/b")], &[]);
    pseudo.told = Told::GoAway(PROTOCOL);
    pseudo.upstream.clear();
    vec![
        with("trailers", &[("x-sum", "1")], &["x-sum: 1"]),
        with(
            "trailers that belong to a head",
            &[
                ("host", "b.test"),
                ("content-length", "9"),
                ("x-sum", "1"),
                ("authorization", "me"),
                ("x-forwarded-for", "1.2.3.4"),
            ],
            &["x-sum: 1"],
        ),
        pseudo,
    ]
}

async fn hear(client: &mut Frames) -> Told {
    loop {
        match client.next_within(LIMIT).await {
            Heard::Frame(frame) => match frame.kind {
                HEADERS => return Told::Status(frame.status().unwrap_or_default()),
                RST_STREAM => return Told::Reset(frame.error().unwrap_or_default()),
                GOAWAY => return Told::GoAway(frame.error().unwrap_or_default()),
                _ => {}
            },
            Heard::End | Heard::Silence => return Told::Nothing,
        }
    }
}

/// What the backend got but for our lines and what asked whether the proxy is alive.
fn upstream(rig: &Rig) -> String {
    let seen = rig.backend.seen();
    let of_case = seen.iter().filter_map(|seen| seen.split("GET /alive ").next());
    let seen: String = of_case.collect();
    let lines = seen.split_inclusive("\r\n");
    lines.filter(|line| !OURS.iter().any(|name| line.starts_with(name))).collect()
}

/// What is wrong with one case, if something is.
async fn run(rig: &Rig, case: &Case) -> Result<(), String> {
    rig.backend.forget();
    let mut client = Frames::agreed(rig.address).await;
    client.send(&case.sends).await;
    let told = hear(&mut client).await;
    if told != case.told {
        return Err(format!(
            "{}: {told:?} in place of {:?}: {:?}",
            case.name,
            case.told,
            upstream(rig)
        ));
    }
    rig.is_alive(case.name).await;
    if case.told == Told::Status(200) {
        wait::until(case.name, LIMIT, || async {
            let got = upstream(rig);
            if got.len() >= case.upstream.len() { Ok(()) } else { Err(got) }
        })
        .await;
    }
    // A request whose body turns out to be wrong may have begun; it must not be whole.
    let got = upstream(rig);
    let is_cut_off =
        case.upstream.is_empty() && got.starts_with("POST / ") && !got.ends_with("0\r\n\r\n");
    if got == case.upstream || is_cut_off && !got.contains("hidden") {
        Ok(())
    } else {
        Err(format!("{}: {got:?} in place of {:?}", case.name, case.upstream))
    }
}

async fn run_all(rig: &Rig, cases: impl IntoIterator<Item = Case>) {
    let mut wrong = Vec::new();
    for case in cases {
        wrong.extend(run(rig, &case).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_http2_say_in_http1_what_they_said_and_no_more() {
    let rig = Rig::start(Change::default()).await;
    run_all(&rig, [hosts(), targets(), fields(), bodies()].into_iter().flatten()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_but_for_what_belongs_to_the_head() {
    let options = json!({"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {"enable_trailers": true}}});
    let cluster = json!({"typed_extension_protocol_options":
        {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}});
    let rig = Rig::start(Change { cluster, ..Change::default() }).await;
    run_all(&rig, trailers()).await;
}
