//! Frames of HTTP/2 that say what a listener was told: by a real Envoy and by our proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_tests::gateway::{LIMIT, folder};
use gateway_tests::wire::Upstream;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::bytes::both;
use super::streams::{resources, to_a};

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const PING_FRAME: &[u8] = b"\0\0\x08\x06\0\0\0\0\0settings";

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A client that says only what it must.
struct Client(TcpStream);

impl Client {
    async fn connect(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        Ok(Self(stream))
    }

    async fn next(&mut self) -> Result<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await?;
        Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }
}

/// Settings by their number, and by how much the window of the connection is raised.
async fn settings(address: SocketAddr) -> Result<Value> {
    let mut client = Client::connect(address).await?;
    // What is not said is this (RFC 9113 section 6.5.2, RFC 8441 section 3).
    let mut said = BTreeMap::from([(1, 4096), (8, 0)]);
    let mut raised = 0;
    // An answer may overtake what is said at the start, but not that of a question asked after it.
    const PINGS: usize = 2;
    client.0.write_all(PING_FRAME).await?;
    let end = Instant::now() + LIMIT;
    let (mut is_told, mut answers) = (false, 0);
    while !is_told || answers < PINGS {
        let frame = timeout_at(end, client.next()).await??;
        match frame.kind {
            PING if frame.flags & ACK != 0 => {
                answers += 1;
                client.0.write_all(PING_FRAME).await?;
            }
            SETTINGS if frame.flags & ACK == 0 => {
                is_told = true;
                for one in frame.payload.chunks_exact(6) {
                    said.insert(value(&one[..2]), value(&one[2..]));
                }
            }
            WINDOW_UPDATE if frame.stream == 0 => raised += value(&frame.payload),
            _ => {}
        }
    }
    // Table, streams, window and CONNECT; the others are not told.
    let told: BTreeMap<_, _> = said
        .into_iter()
        .filter(|(id, _)| [1, 3, 4, 8].contains(id))
        .map(|(id, value)| (id.to_string(), value))
        .collect();
    Ok(json!({"settings": told, "raised": raised}))
}

fn value(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// What becomes of a client that answers `pings` of them.
async fn pinged(address: SocketAddr, pings: usize) -> Result<Value> {
    let mut client = Client::connect(address).await?;
    let mut answered = 0;
    let end = Instant::now() + Duration::from_secs(6);
    loop {
        let Ok(frame) = timeout_at(end, client.next()).await else { break };
        let Ok(frame) = frame else {
            return Ok(json!({"answered": answered, "ended": true}));
        };
        if frame.kind == PING && frame.flags & ACK == 0 && answered < pings {
            ensure!(frame.payload.len() == 8, "a ping has eight bytes");
            client
                .0
                .write_all(&[&b"\0\0\x08\x06\x01\0\0\0\0"[..], &frame.payload].concat())
                .await?;
            answered += 1;
            if answered == pings && pings > 1 {
                return Ok(json!({"answered": answered, "ended": false}));
            }
        }
    }
    Ok(json!({"answered": answered, "ended": false}))
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_http2_are_those_of_the_listener() {
    let upstream = Upstream::start([]).await;
    let folder = folder();
    for options in [
        json!({"max_concurrent_streams": 7, "initial_stream_window_size": 70_000, "initial_connection_window_size": 1_000_000}),
        json!({"max_concurrent_streams": 1, "initial_stream_window_size": 65_535, "initial_connection_window_size": 65_535,
            "allow_connect": true, "hpack_table_size": 0}),
        json!({"max_concurrent_streams": 2_147_483_647, "initial_stream_window_size": 2_147_483_647, "initial_connection_window_size": 2_147_483_647,
            "hpack_table_size": 8192}),
    ] {
        let (folder, routes) = (folder.path(), to_a());
        let manager = json!({"http2_protocol_options": options});
        both(
            "settings_of_http2_are_those_of_the_listener",
            |port, _| resources(port, upstream.address, folder, (&manager, &routes)),
            settings,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_answer_no_ping_are_gone() {
    let upstream = Upstream::start([]).await;
    let folder = folder();
    let (folder, routes) = (folder.path(), to_a());
    let keepalive = json!({"interval": "0.3s", "timeout": "0.5s", "interval_jitter": {"value": 0}});
    let manager = json!({"http2_protocol_options": {"connection_keepalive": keepalive}});
    both(
        "clients_that_answer_no_ping_are_gone",
        |port, _| resources(port, upstream.address, folder, (&manager, &routes)),
        |address| async move {
            Ok(json!([
                pinged(address, 0).await?,
                pinged(address, 1).await?,
                pinged(address, 5).await?
            ]))
        },
    )
    .await;
}
