//! Endpoints that speak HTTP/2 and break its rules: who asked is told so, and nobody else sees it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use gateway_tests::frames::{
    DATA, END, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame, headers,
};
use gateway_tests::raw::Raw;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::{Change, Rig};

/// What an endpoint says to every request; told its stream.
type Script = fn(u32) -> Vec<u8>;

fn well(stream: u32) -> Vec<u8> {
    let fields = [(":status", "200"), ("content-length", "2")];
    [headers(stream, 0, &fields), frame(DATA, END, stream, "ok")].concat()
}

/// Speaks HTTP/2 as far as it must, and then by the script; an empty one closes.
async fn endpoint() -> (SocketAddr, Arc<Mutex<Script>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(well));
    let scripts = Arc::clone(&script);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let scripts = Arc::clone(&scripts);
            tokio::spawn(async move {
                let mut preface = [0; PREFACE.len()];
                if stream.read_exact(&mut preface).await.is_err() {
                    return;
                }
                let mut frames = Frames::of(stream);
                frames.send(frame(SETTINGS, 0, 0, [])).await;
                while let Some(asked) = frames.wait().await {
                    if asked.kind == SETTINGS && asked.flags == 0 {
                        frames.send(frame(SETTINGS, 1, 0, [])).await;
                    }
                    if asked.kind == HEADERS {
                        let script = *scripts.lock().unwrap();
                        let answer = script(asked.stream);
                        if answer.is_empty() || !frames.send(answer).await {
                            return;
                        }
                    }
                }
            });
        }
    });
    (address, script)
}

struct Case {
    name: &'static str,
    script: Script,
    status: u16,
    /// Flag and details of the access log.
    log: &'static str,
}

fn case(name: &'static str, script: Script, status: u16, log: &'static str) -> Case {
    Case { name, script, status, log }
}

/// A head that nobody can take for a response.
fn bad(name: &'static str, script: Script) -> Case {
    case(name, script, 502, "UPE upstream_reset_before_response_started{protocol_error}")
}

fn with(stream: u32, name: &str, value: &str) -> Vec<u8> {
    headers(stream, END, &[(":status", "200"), (name, value)])
}

fn cases() -> Vec<Case> {
    let broken = "UPE upstream_reset_after_response_started{protocol_error}";
    vec![
        case("a response", well, 200, "- via_upstream"),
        case(
            "an interim response",
            |stream| [headers(stream, 0, &[(":status", "103")]), well(stream)].concat(),
            200,
            "- via_upstream",
        ),
        bad("an upper-case name", |stream| with(stream, "X-A", "b")),
        bad("a name with a colon", |stream| with(stream, "x-a:", "b")),
        bad("a value with lines", |stream| with(stream, "x-a", "b\r\nx: y")),
        bad("a value with a zero byte", |stream| with(stream, "x-a", "b\0")),
        bad("connection", |stream| with(stream, "connection", "close")),
        bad("transfer-encoding", |stream| with(stream, "transfer-encoding", "chunked")),
        bad("upgrade", |stream| with(stream, "upgrade", "websocket")),
        bad("no status", |stream| headers(stream, END, &[("x-a", "b")])),
        bad("two statuses", |stream| with(stream, ":status", "201")),
        bad("a status that is none", |stream| headers(stream, END, &[(":status", "2")])),
        bad("a status in letters", |stream| headers(stream, END, &[(":status", "abc")])),
        bad("an unknown pseudo-header field", |stream| with(stream, ":x", "y")),
        bad("a pseudo-header field after another field", |stream| {
            headers(stream, END, &[("x-a", "b"), (":status", "200")])
        }),
        bad("two lengths", |stream| {
            let fields = [(":status", "200"), ("content-length", "2"), ("content-length", "3")];
            headers(stream, 0, &fields)
        }),
        bad("a signed length", |stream| with(stream, "content-length", "+2")),
        bad("a length without a body", |stream| with(stream, "content-length", "2")),
        bad("too many fields", |stream| {
            let mut fields = vec![(":status", "200")];
            fields.extend([("x-a", "b"); 101]);
            headers(stream, END, &fields)
        }),
        bad("a body without a head", |stream| frame(DATA, END, stream, "ok")),
        bad("HTTP/1", |_| b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec()),
        bad("given up for a broken protocol", |stream| frame(RST_STREAM, 0, stream, [0, 0, 0, 1])),
        case(
            "given up",
            |stream| frame(RST_STREAM, 0, stream, [0, 0, 0, 2]),
            503,
            "UR upstream_reset_before_response_started{remote_reset}",
        ),
        case(
            "refused by GOAWAY",
            |_| frame(GOAWAY, 0, 0, [0; 8]),
            503,
            "UR upstream_reset_before_response_started{remote_reset}",
        ),
        case(
            "closed",
            |_| Vec::new(),
            503,
            "UC upstream_reset_before_response_started{connection_termination}",
        ),
        // What the count finds, the codec tells as the end of the connection.
        case(
            "interim responses without end",
            |stream| headers(stream, 0, &[(":status", "103")]).repeat(100),
            503,
            "UC upstream_reset_before_response_started{connection_termination}",
        ),
        case(
            "given up within the body",
            |stream| {
                let head = headers(stream, 0, &[(":status", "200"), ("content-length", "9")]);
                [head, frame(DATA, 0, stream, "ok"), frame(RST_STREAM, 0, stream, [0, 0, 0, 2])]
                    .concat()
            },
            200,
            "UR upstream_reset_after_response_started{remote_reset}",
        ),
        case(
            "a body below its length",
            |stream| {
                let head = headers(stream, 0, &[(":status", "200"), ("content-length", "9")]);
                [head, frame(DATA, END, stream, "ok")].concat()
            },
            200,
            broken,
        ),
        case(
            "a body beyond its length",
            |stream| {
                let head = headers(stream, 0, &[(":status", "200"), ("content-length", "3")]);
                [head, frame(DATA, 0, stream, "ok"), frame(DATA, END, stream, "ok")].concat()
            },
            200,
            broken,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_break_http2_are_told_from_those_that_answer() {
    let (address, script) = endpoint().await;
    let options = json!({"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}});
    let endpoint = json!({"endpoint": {"address": {"socket_address": {
        "address": "127.0.0.1", "port_value": address.port()}}}});
    let cluster = json!({
        "load_assignment": {"cluster_name": "a", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options":
            {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}});
    let rig = Rig::start(Change { cluster, ..Change::default() }).await;
    let mut wrong = Vec::new();
    for (place, Case { name, script: says, status, log }) in cases().into_iter().enumerate() {
        *script.lock().unwrap() = says;
        let mut client = Raw::connect(rig.address).await;
        client.send("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await;
        let rest = client.rest().await;
        let text = String::from_utf8_lossy(&rest).into_owned();
        let lines = rig.logged(place + 1).await;
        let line = lines.last().cloned().unwrap_or_default();
        let is_whole = text.ends_with("\r\n\r\nok");
        let wants_whole = log == "- via_upstream";
        if !text.starts_with(&format!("HTTP/1.1 {status} "))
            || line != format!("GET / {status} {log}")
            || is_whole && !wants_whole && !log.contains("after")
        {
            wrong.push(format!("{name}: {line:?} {text:?}"));
        }
        *script.lock().unwrap() = well;
        rig.is_alive(name).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
