//! Clients that send too much of what costs them nothing: each is gone after so many frames, and the
//! others are served meanwhile.

use std::time::Duration;

use gateway_tests::frames::{
    ACK, CONTINUATION, DATA, END, Frames, GET, GOAWAY, HEADERS, Heard, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame, get, headers,
};
use gateway_tests::raw::Reply;
use gateway_tests::wait;
use serde_json::{Value, json};

use super::{Change, Rig};

const ENHANCE_YOUR_CALM: u32 = 11;

const FAULTS: &str = "weighlock_downstream_connection_faults_total";

/// A connection that is given up.
struct Flood {
    name: &'static str,
    /// Of `http2_protocol_options`.
    options: Value,
    /// Sent once.
    first: Vec<u8>,
    /// Sent over and over; told how often before.
    each: fn(u32) -> Vec<u8>,
    /// After so many it is still served.
    served: u32,
    /// After so many it is gone.
    gone: u32,
    reason: &'static str,
}

impl Flood {
    fn new(
        name: &'static str,
        each: fn(u32) -> Vec<u8>,
        limits: (u32, u32),
        reason: &'static str,
    ) -> Self {
        let (served, gone) = limits;
        Self { name, options: json!({}), first: Vec::new(), each, served, gone, reason }
    }

    fn after(mut self, first: Vec<u8>) -> Self {
        self.first = first;
        self
    }

    fn with(mut self, options: Value) -> Self {
        self.options = options;
        self
    }
}

/// The stream of a request, by how many there were before.
fn stream(count: u32) -> u32 {
    2 * count + 1
}

fn post(stream: u32) -> Vec<u8> {
    let mut fields = GET;
    fields[0].1 = "POST";
    headers(stream, 0, &fields)
}

fn floods() -> Vec<Flood> {
    let window = |_| frame(WINDOW_UPDATE, 0, 0, 1_u32.to_be_bytes());
    let priority = |_| frame(PRIORITY, 0, 1, [0, 0, 0, 0, 16]);
    let empty = |_| frame(DATA, 0, 1, []);
    vec![
        Flood::new("PING", |_| frame(PING, 0, 0, [0; 8]), (900, 9000), "control_frames"),
        Flood::new("fewer PING", |_| frame(PING, 0, 0, [0; 8]), (9, 3000), "control_frames")
            .with(json!({"max_outbound_control_frames": 10})),
        Flood::new("SETTINGS", |_| frame(SETTINGS, 0, 0, []), (900, 9000), "control_frames"),
        Flood::new("unknown frames", |_| frame(0xfa, 0, 0, []), (900, 9000), "control_frames"),
        Flood::new("PRIORITY", priority, (100, 101), "priority_frames"),
        Flood::new("fewer PRIORITY", priority, (3, 4), "priority_frames")
            .with(json!({"max_inbound_priority_frames_per_stream": 3})),
        Flood::new("WINDOW_UPDATE", window, (5, 6), "window_update_frames"),
        Flood::new("WINDOW_UPDATE beside a request", window, (7, 8), "window_update_frames")
            .after(post(1)),
        Flood::new("empty DATA", empty, (1, 2), "empty_frames").after(post(1)),
        Flood::new("more empty DATA", empty, (20, 21), "empty_frames")
            .after(post(1))
            .with(json!({"max_consecutive_inbound_frames_with_empty_payload": 20})),
        Flood::new("empty CONTINUATION", |_| frame(CONTINUATION, 0, 1, []), (0, 2), "empty_frames")
            .after(frame(HEADERS, 0, 1, block(&GET))),
        Flood::new(
            "RST_STREAM of one stream",
            |_| frame(RST_STREAM, 0, 1, [0, 0, 0, 8]),
            (900, 1002),
            "resets",
        )
        .after(get(1)),
        Flood::new(
            "streams that are given up at once",
            |count| {
                let stream = stream(count);
                [get(stream), frame(RST_STREAM, 0, stream, [0, 0, 0, 8])].concat()
            },
            (200, 500),
            "",
        ),
        Flood::new(
            "streams that we give up: a window too large",
            |count| {
                let stream = stream(count);
                [post(stream), frame(WINDOW_UPDATE, 0, stream, 0x7fff_ffff_u32.to_be_bytes())]
                    .concat()
            },
            (200, 500),
            "",
        ),
        Flood::new(
            "streams that we give up: before themselves",
            |count| {
                let stream = stream(count);
                let before = [&stream.to_be_bytes()[..], &[16]].concat();
                [post(stream), frame(PRIORITY, 0, stream, before)].concat()
            },
            (200, 500),
            "",
        ),
        Flood::new(
            "malformed requests",
            |count| headers(stream(count), END, &[(":method", "GET"), ("te", "gzip")]),
            (200, 500),
            "violations",
        ),
        Flood::new(
            "small CONTINUATION",
            |_| frame(CONTINUATION, 0, 1, block(&[("a", "b")])),
            (0, 100),
            "excess",
        )
        .after(frame(HEADERS, 0, 1, block(&GET))),
        Flood::new(
            "one cookie, a thousand times over",
            |_| frame(CONTINUATION, 0, 1, vec![0xbe; 16_000]),
            (0, 2),
            "excess",
        )
        // The first entry of the table is `cookie: a`.
        .after(frame(HEADERS, 0, 1, [&block(&GET)[..], b"\x60\x01a"].concat())),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_says_how_many_streams_may_be_given_up_early() {
    let layer = json!({"overload": {"premature_reset_total_stream_count": 20}});
    let runtime = json!({"layers": [{"name": "static", "static_layer": layer}]});
    let bootstrap = json!({"layered_runtime": runtime});
    let rig = Rig::start(Change { bootstrap, ..Change::default() }).await;
    rig.backend.answer(Reply::SendAndStall(vec![]));
    let mut client = Frames::agreed(rig.address).await;
    let both = |count| {
        let stream = stream(count);
        [get(stream), frame(RST_STREAM, 0, stream, [0, 0, 0, 8])].concat()
    };
    for count in 0..9 {
        client.send([both(count), frame(PING, 0, 0, [7; 8])].concat()).await;
        assert!(client.find(PING).await.is_some(), "gone after {count}");
    }
    client.send([both(9), both(10)].concat()).await;
    let last = client.rest().await.pop();
    assert_eq!(last.and_then(|frame| frame.error()), Some(ENHANCE_YOUR_CALM));
    assert_eq!(rig.proxy.metric(FAULTS, "").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_answered_may_be_given_up() {
    let rig = Rig::start(Change::default()).await;
    let mut client = Frames::agreed(rig.address).await;
    for count in 0..600 {
        let stream = stream(count);
        client.send(get(stream)).await;
        assert!(client.find(DATA).await.is_some());
        client.send(frame(RST_STREAM, 0, stream, [0, 0, 0, 8])).await;
    }
    client.send(frame(PING, 0, 0, [7; 8])).await;
    assert!(client.find(PING).await.is_some());
    assert_eq!(rig.proxy.metric(FAULTS, "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_take_too_long_end_the_connection() {
    let manager = json!({"request_headers_timeout": "1s"});
    let rig = Rig::start(Change { manager, ..Change::default() }).await;
    let whole = get(3);
    for (name, begin) in [
        ("a block without its end", [get(1), frame(HEADERS, END, 3, block(&GET))].concat()),
        ("a frame without its end", [get(1), whole[..12].to_vec()].concat()),
        (
            "a frame's head without its end",
            [get(1), frame(HEADERS, END, 3, block(&GET)), vec![0; 4]].concat(),
        ),
    ] {
        let mut client = Frames::agreed(rig.address).await;
        client.send(begin).await;
        let frames = client.rest().await;
        let is_answered = frames.iter().any(|frame| frame.kind == HEADERS && frame.stream == 1);
        assert!(is_answered, "{name}: {frames:?}");
        let error = frames.last().and_then(gateway_tests::frames::Frame::error);
        assert_eq!(error, Some(ENHANCE_YOUR_CALM), "{name}: {frames:?}");
    }
    let mut client = Frames::silent(rig.address).await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0").await;
    assert!(client.rest().await.iter().all(|frame| frame.stream == 0));
    // Who is done with its headers may take its time.
    let mut client = Frames::agreed(rig.address).await;
    client.send(get(1)).await;
    assert!(client.find(DATA).await.is_some());
    assert_eq!(client.next_within(Duration::from_millis(2500)).await, Heard::Silence);
    assert_eq!(rig.proxy.metric(FAULTS, "slow_headers").await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_answer_is_gone_after_so_many_requests() {
    let manager = json!({"http2_protocol_options": {"max_outbound_frames": 50}});
    let rig = Rig::start(Change { manager, ..Change::default() }).await;
    let body = vec![b'x'; 1 << 20];
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    rig.backend.answer(Reply::Send(vec![[head.into_bytes(), body].concat()]));
    let mut client = Frames::agreed(rig.address).await;
    let window = 0x7000_0000_u32.to_be_bytes();
    let open = [&[0, 4][..], &window[..]].concat();
    client.send([frame(SETTINGS, 0, 0, open), frame(WINDOW_UPDATE, 0, 0, window)].concat()).await;
    let given_up = || async { rig.proxy.metric(FAULTS, "unread_responses").await };
    let mut count = 0;
    while given_up().await < 1.0 {
        assert!(count < 1000, "served on");
        client.send(get(stream(count))).await;
        count += 1;
    }
    assert!(count > 50, "gone after {count}");
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    rig.backend.answer(Reply::Send(vec![ok]));
    rig.is_alive("a client that takes no answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_when_the_connection_was_given_up_is_logged_so() {
    let rig = Rig::start(Change::default()).await;
    rig.backend.answer(Reply::SendAndStall(vec![]));
    let mut client = Frames::agreed(rig.address).await;
    client.send(post(1)).await;
    wait::until("the request", Duration::from_secs(20), || async {
        let all = rig.backend.all();
        if all.starts_with("POST / ") { Ok(()) } else { Err(all) }
    })
    .await;
    client.send([frame(DATA, 0, 1, []), frame(DATA, 0, 1, [])].concat()).await;
    client.rest().await;
    assert_eq!(rig.logged(1).await, ["POST / 0 DPE http2.inbound_empty_frames_flood"]);
}

async fn flood(flood: Flood) {
    let Flood { name, options, first, each, served, gone, reason } = flood;
    let manager = json!({"http2_protocol_options": options});
    let rig = Rig::start(Change { manager, ..Change::default() }).await;
    // Nobody is answered, so that streams stay open; but who asks whether the proxy is alive.
    rig.backend.answer(Reply::SendAndStall(vec![]));
    let mut client = Frames::agreed(rig.address).await;
    client.send(first).await;
    if served > 0 {
        let units: Vec<u8> = (0..served).flat_map(each).collect();
        client.send([units, frame(PING, 0, 0, b"asserved")].concat()).await;
        loop {
            let frame = client.find(PING).await;
            let frame = frame.unwrap_or_else(|| panic!("{name}: gone too early"));
            if frame.flags & ACK != 0 && frame.payload == b"asserved" {
                break;
            }
        }
    }
    let units: Vec<u8> = (served..gone).flat_map(each).collect();
    client.send(units).await;
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    rig.backend.answer(Reply::Send(vec![ok]));
    rig.is_alive(name).await;
    let frames = client.rest().await;
    let last = frames.iter().rfind(|frame| frame.kind == GOAWAY);
    let error = last.and_then(gateway_tests::frames::Frame::error);
    assert_eq!(error, Some(ENHANCE_YOUR_CALM), "{name}: {last:?}");
    assert_eq!(rig.proxy.metric(FAULTS, reason).await, 1.0, "{name}: {reason}");
    rig.is_alive(name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_is_gone_and_others_are_served() {
    for one in floods() {
        flood(one).await;
    }
}
