//! Frames of HTTP/2 that say what a listener was told: by a real Envoy and by our proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::frames::{ACK, Frames, Heard, PING, SETTINGS, WINDOW_UPDATE, frame, number};
use gateway_tests::gateway::{LIMIT, folder};
use gateway_tests::wire::Upstream;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::bytes::both;
use super::streams::{resources, to_a};

const PING_FRAME: &[u8] = b"\0\0\x08\x06\0\0\0\0\0settings";

/// Settings by their number, and by how much the window of the connection is raised.
async fn settings(address: SocketAddr) -> Result<Value> {
    let mut client = Frames::connect(address).await;
    // What is not said is this (RFC 9113 section 6.5.2, RFC 8441 section 3).
    let mut said = BTreeMap::from([(1, 4096), (8, 0)]);
    let mut raised = 0;
    // An answer may overtake what is said at the start, but not that of a question asked after it.
    const PINGS: usize = 2;
    client.send(PING_FRAME).await;
    let end = Instant::now() + LIMIT;
    let (mut is_told, mut answers) = (false, 0);
    while !is_told || answers < PINGS {
        let frame = timeout_at(end, client.next()).await?.context("closed")?;
        match frame.kind {
            PING if frame.flags & ACK != 0 => {
                answers += 1;
                client.send(PING_FRAME).await;
            }
            SETTINGS if frame.flags & ACK == 0 => {
                is_told = true;
                for one in frame.payload.chunks_exact(6) {
                    said.insert(number(&one[..2]), number(&one[2..]));
                }
            }
            WINDOW_UPDATE if frame.stream == 0 => raised += number(&frame.payload),
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

/// What becomes of a client that answers `pings` of them.
async fn pinged(address: SocketAddr, pings: usize) -> Result<Value> {
    let mut client = Frames::connect(address).await;
    let mut answered = 0;
    let end = Instant::now() + Duration::from_secs(6);
    loop {
        let frame = match client.next_within(end.saturating_duration_since(Instant::now())).await {
            Heard::Frame(frame) => frame,
            Heard::End => return Ok(json!({"answered": answered, "ended": true})),
            Heard::Silence => break,
        };
        if frame.kind == PING && frame.flags & ACK == 0 && answered < pings {
            ensure!(frame.payload.len() == 8, "a ping has eight bytes");
            client.send(self::frame(PING, ACK, 0, frame.payload)).await;
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
