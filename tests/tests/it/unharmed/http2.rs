//! HTTP/2 to the letter: what a client must not do, and what it may. The cases are those of h2spec, named
//! by their sections of RFC 7540 and RFC 7541; `generic` is what any client does.

mod framing;

use std::time::Duration;

use gateway_tests::frames::{
    ACK, CONTINUATION, DATA, END, Frame, Frames, GET, GOAWAY, HEADERS, Heard, PADDED, PING,
    PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, WITH_PRIORITY,
    block, frame, get, headers,
};
use gateway_tests::raw::Reply;

use super::{Change, Rig};

const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
const SIZE: u32 = 6;
const REFUSED: u32 = 7;

/// What the last answer to a request is, before it is too late to ask.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection.
struct Case {
    name: &'static str,
    steps: Vec<Step>,
    seen: Seen,
}

/// What the client does once both sides know each other's settings.
enum Step {
    Send(Vec<u8>),
    /// Waits until the first stream is answered as a whole.
    Answered,
    /// Waits until its settings are acknowledged.
    Settled,
    /// Waits for a piece of the body, of this length.
    Piece(usize),
}

/// What must be seen in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The stream is answered, with 200.
    Answer,
    /// The connection serves on.
    Pong,
    /// The stream is reset with this code, and the connection serves on.
    Reset(u32),
    /// GOAWAY with this code, and the end.
    GoAway(u32),
    /// The end.
    End,
}

fn case(name: &'static str, sends: impl Into<Vec<u8>>, seen: Seen) -> Case {
    Case { name, steps: vec![Step::Send(sends.into())], seen }
}

fn steps(name: &'static str, steps: Vec<Step>, seen: Seen) -> Case {
    Case { name, steps, seen }
}

fn send(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Send(bytes.into())
}

fn post(stream: u32) -> Vec<u8> {
    headers(stream, 0, &posted(&[]))
}

/// The fields of a POST, and more.
fn posted<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = got(more);
    fields[0].1 = "POST";
    fields
}

/// The fields of a GET, and more.
fn got<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&GET[..], more].concat()
}

/// A GET whose block ends with bytes of its own.
fn get_with(block_end: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE | END, 1, [&block(&GET), block_end].concat())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

fn depends(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(PRIORITY, 0, stream, [&on.to_be_bytes()[..], &[weight]].concat())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, [0, 0, 0, 8])
}

fn data(stream: u32, flags: u8) -> Vec<u8> {
    frame(DATA, flags, stream, "test")
}

/// A head that goes on, and what comes then.
fn unfinished(then: Vec<u8>) -> Vec<u8> {
    [frame(HEADERS, END, 1, block(&GET)), then].concat()
}

fn rest_of_block(flags: u8) -> Vec<u8> {
    frame(CONTINUATION, flags, 1, block(&[("x-more", "1")]))
}

const UNKNOWN: &[u8] = b"\0\0\x08\x16\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn generic() -> Vec<Case> {
    use Seen::{Answer, Pong};
    let hold = || setting(4, 0);
    let padded = [&[4][..], &block(&GET), &[0; 4]].concat();
    let with_priority = [&[0, 0, 0, 0, 255][..], &block(&GET)].concat();
    let trailers = headers(1, END, &[("x-test", "ok")]);
    let mut head = GET;
    head[0].1 = "HEAD";
    vec![
        case("generic 1: a request", get(1), Answer),
        case("generic 2: PRIORITY of an idle stream", depends(1, 0, 255), Pong),
        steps(
            "generic 2: WINDOW_UPDATE of a half-closed stream",
            vec![send([hold(), get(1), window(1, 1)].concat()), Step::Piece(1)],
            Pong,
        ),
        steps(
            "generic 2: PRIORITY of a half-closed stream",
            vec![send([hold(), get(1), depends(1, 0, 255), window(1, 1)].concat()), Step::Piece(1)],
            Pong,
        ),
        case("generic 2: RST_STREAM of a half-closed stream", [get(1), reset(1)].concat(), Pong),
        steps(
            "generic 2: PRIORITY of a closed stream",
            vec![send(get(1)), Step::Answered, send(depends(1, 0, 255))],
            Pong,
        ),
        case("generic 3.1: DATA", [post(1), data(1, END)].concat(), Answer),
        case("generic 3.1: DATA twice", [post(1), data(1, 0), data(1, END)].concat(), Answer),
        case(
            "generic 3.1: DATA with padding",
            [post(1), frame(DATA, END | PADDED, 1, b"\x06test\0\0\0\0\0\0")].concat(),
            Answer,
        ),
        case("generic 3.2: HEADERS", get(1), Answer),
        case(
            "generic 3.2: HEADERS with padding",
            frame(HEADERS, WHOLE | END | PADDED, 1, padded),
            Answer,
        ),
        case(
            "generic 3.2: HEADERS with priority",
            frame(HEADERS, WHOLE | END | WITH_PRIORITY, 1, with_priority),
            Answer,
        ),
        case("generic 3.3: priority 1", [depends(1, 0, 0), get(1)].concat(), Answer),
        case("generic 3.3: priority 256", [depends(1, 0, 255), get(1)].concat(), Answer),
        case("generic 3.3: a dependency", [depends(3, 1, 0), get(1)].concat(), Answer),
        case("generic 3.3: exclusive", [depends(1, 0x8000_0000, 0), get(1)].concat(), Answer),
        case("generic 3.3: of a later stream", [depends(3, 0, 255), get(1)].concat(), Answer),
        case("generic 3.4: RST_STREAM", [post(1), reset(1)].concat(), Pong),
        steps("generic 3.5: SETTINGS", vec![send(setting(3, 100)), Step::Settled], Pong),
        case("generic 3.7: PING", [], Pong),
        case("generic 3.8: GOAWAY", frame(GOAWAY, 0, 0, [0; 8]), Seen::End),
        case(
            "generic 3.9: WINDOW_UPDATE of the connection",
            [window(0, 1), get(1)].concat(),
            Answer,
        ),
        case(
            "generic 3.9: WINDOW_UPDATE of a stream",
            [post(1), window(1, 1), data(1, END)].concat(),
            Answer,
        ),
        case("generic 3.10: CONTINUATION", unfinished(rest_of_block(WHOLE)), Answer),
        case(
            "generic 3.10: CONTINUATION twice",
            unfinished([rest_of_block(0), rest_of_block(WHOLE)].concat()),
            Answer,
        ),
        case("generic 4: GET", get(1), Answer),
        case("generic 4: HEAD", headers(1, END, &head), Answer),
        case("generic 4: POST", [post(1), data(1, END)].concat(), Answer),
        case("generic 4: POST with trailers", [post(1), data(1, 0), trailers].concat(), Answer),
    ]
}

fn codes() -> Vec<Case> {
    let accepted = |name, field: &[u8]| case(name, get_with(field), Seen::Answer);
    let coded_agent = b"\x87\xb5\x05\xb1\x61\xcc\x5a\x93\x84\x9c\x48\xac\xa4";
    let plain_agent = b"\x0auser-agent\x06h2spec";
    let coded_name = b"\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4";
    let plain_name = b"\x06x-test\x06h2spec";
    let with = |first: u8, field: &[u8]| [&[first], field].concat();
    let sized = |sizes: &[u8]| frame(HEADERS, WHOLE | END, 1, [sizes, &block(&GET)].concat());
    vec![
        accepted("generic 5: an indexed field", b"\xba"),
        accepted("generic 5: indexing, known name, coded", &with(0x40, coded_agent)),
        accepted("generic 5: indexing, known name", &with(0x40, plain_agent)),
        accepted("generic 5: indexing, new name, coded", &with(0x40, coded_name)),
        accepted("generic 5: indexing, new name", &with(0x40, plain_name)),
        accepted("generic 5: no indexing, known name, coded", &with(0, coded_agent)),
        accepted("generic 5: no indexing, known name", &with(0, plain_agent)),
        accepted("generic 5: no indexing, new name, coded", &with(0, coded_name)),
        accepted("generic 5: no indexing, new name", &with(0, plain_name)),
        accepted("generic 5: never indexed, known name, coded", &with(0x10, coded_agent)),
        accepted("generic 5: never indexed, known name", &with(0x10, plain_agent)),
        accepted("generic 5: never indexed, new name, coded", &with(0x10, coded_name)),
        accepted("generic 5: never indexed, new name", &with(0x10, plain_name)),
        case("generic 5: a size of the table", sized(b"\x20"), Seen::Answer),
        case("generic 5: two sizes of the table", sized(b"\x20\x3f\xe1\x1f"), Seen::Answer),
        // The codec says PROTOCOL_ERROR where COMPRESSION_ERROR is meant.
        case("7541 2.3.3: an index beyond the tables", get_with(b"\xc6"), Seen::GoAway(PROTOCOL)),
        case(
            "7541 2.3.3: the name of an index beyond the tables",
            get_with(b"\x7f\x07\x05empty"),
            Seen::GoAway(PROTOCOL),
        ),
        case("7541 4.2: a size of the table at the end", get_with(b"\x21"), Seen::GoAway(PROTOCOL)),
        case(
            "7541 5.2: padding of more than 7 bits",
            get_with(b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
            Seen::GoAway(PROTOCOL),
        ),
        case(
            "7541 5.2: padding of zeros",
            get_with(b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
            Seen::GoAway(PROTOCOL),
        ),
        case(
            "7541 5.2: the end of a string within",
            get_with(b"\x00\x85\xf2\xb2\x4a\x87\xff\xff\xff\xfd\x25\x42\x7f"),
            Seen::GoAway(PROTOCOL),
        ),
        case("7541 6.1: index 0", get_with(b"\x80"), Seen::GoAway(PROTOCOL)),
        case(
            "7541 6.3: a table larger than allowed",
            sized(b"\x3f\xe2\x1f"),
            Seen::GoAway(PROTOCOL),
        ),
    ]
}

fn streams() -> Vec<Case> {
    use Seen::{GoAway, Reset};
    let many: Vec<u8> = (0..=4).flat_map(|count| get(2 * count + 1)).collect();
    let held = [setting(4, 0), many].concat();
    let answered = |name, then: Vec<u8>, seen| {
        steps(name, vec![send(get(1)), Step::Answered, send(then)], seen)
    };
    let push = [&[0, 0, 0, 2][..], &block(&GET)].concat();
    vec![
        case("5.1: DATA of an idle stream", data(1, END), GoAway(PROTOCOL)),
        case("5.1: RST_STREAM of an idle stream", reset(1), GoAway(PROTOCOL)),
        case("5.1: WINDOW_UPDATE of an idle stream", window(1, 100), GoAway(PROTOCOL)),
        case("5.1: CONTINUATION of an idle stream", rest_of_block(WHOLE), GoAway(PROTOCOL)),
        case("5.1: DATA of a half-closed stream", [get(1), data(1, END)].concat(), GoAway(CLOSED)),
        case("5.1: HEADERS of a half-closed stream", [get(1), get(1)].concat(), GoAway(CLOSED)),
        case(
            "5.1: CONTINUATION of a half-closed stream",
            [get(1), rest_of_block(WHOLE)].concat(),
            GoAway(PROTOCOL),
        ),
        case(
            "5.1: DATA after RST_STREAM",
            [post(1), reset(1), data(1, END)].concat(),
            Reset(CLOSED),
        ),
        case("5.1: HEADERS after RST_STREAM", [post(1), reset(1), get(1)].concat(), GoAway(CLOSED)),
        case(
            "5.1: CONTINUATION after RST_STREAM",
            [post(1), reset(1), rest_of_block(WHOLE)].concat(),
            GoAway(PROTOCOL),
        ),
        answered("5.1: DATA of a closed stream", data(1, END), GoAway(CLOSED)),
        answered("5.1: HEADERS of a closed stream", get(1), GoAway(CLOSED)),
        answered("5.1: CONTINUATION of a closed stream", rest_of_block(WHOLE), GoAway(PROTOCOL)),
        case("5.1.1: an even stream", get(2), GoAway(PROTOCOL)),
        case("5.1.1: a stream below the last", [get(5), get(3)].concat(), GoAway(PROTOCOL)),
        case("5.1.2: more streams than there may be", held, Reset(REFUSED)),
        case(
            "5.3.1: HEADERS that depend on themselves",
            frame(
                HEADERS,
                WHOLE | END | WITH_PRIORITY,
                1,
                [&[0, 0, 0, 1, 255][..], &block(&GET)].concat(),
            ),
            Reset(PROTOCOL),
        ),
        case(
            "5.3.1: PRIORITY that depends on itself",
            [post(1), depends(1, 1, 255)].concat(),
            Reset(PROTOCOL),
        ),
        case(
            "6.1: DATA of a stream that is not open",
            [get(1), data(1, 0)].concat(),
            GoAway(CLOSED),
        ),
        case(
            "8.2: PUSH_PROMISE",
            [post(1), frame(PUSH_PROMISE, WHOLE, 1, push)].concat(),
            GoAway(PROTOCOL),
        ),
    ]
}

fn messages() -> Vec<Case> {
    use Seen::{GoAway, Reset};
    let malformed =
        |name, fields: &[(&str, &str)]| case(name, headers(1, END, fields), Reset(PROTOCOL));
    let [method, scheme, path, authority] = GET;
    let bodied = |length: &str, sent: &[u8]| {
        [headers(1, 0, &posted(&[("content-length", length)])), sent.to_vec()].concat()
    };
    let trailers =
        |flags, fields: &[(&str, &str)]| [post(1), data(1, 0), headers(1, flags, fields)].concat();
    vec![
        case(
            "8.1: a second HEADERS that ends nothing",
            trailers(0, &[("x-test", "ok")]),
            Reset(PROTOCOL),
        ),
        // The codec takes it for a block that cannot be decoded.
        case(
            "8.1.2: an upper-case name",
            headers(1, END, &got(&[("X-TEST", "ok")])),
            GoAway(PROTOCOL),
        ),
        case(
            "8.1.2.1: an unknown pseudo-header field",
            headers(1, END, &got(&[(":test", "ok")])),
            GoAway(PROTOCOL),
        ),
        malformed("8.1.2.1: the pseudo-header field of an answer", &got(&[(":status", "200")])),
        case(
            "8.1.2.1: a pseudo-header field in trailers",
            trailers(0, &[(":method", "POST")]),
            GoAway(PROTOCOL),
        ),
        case(
            "8.1.2.1: and in the last of them",
            trailers(END, &[("a", "b"), (":path", "/")]),
            GoAway(PROTOCOL),
        ),
        malformed(
            "8.1.2.1: a pseudo-header field after another field",
            &[("x-test", "ok"), method, scheme, path, authority],
        ),
        malformed("8.1.2.2: connection", &got(&[("connection", "keep-alive")])),
        malformed("8.1.2.2: te", &got(&[("trailers", "test"), ("te", "trailers, deflate")])),
        malformed("8.1.2.3: an empty path", &[method, scheme, (":path", ""), authority]),
        malformed("8.1.2.3: no method", &[scheme, path, authority]),
        malformed("8.1.2.3: no scheme", &[method, path, authority]),
        malformed("8.1.2.3: no path", &[method, scheme, authority]),
        malformed("8.1.2.3: two methods", &[method, scheme, path, authority, method]),
        malformed("8.1.2.3: two schemes", &[method, scheme, path, authority, scheme]),
        malformed("8.1.2.3: two paths", &[method, scheme, path, authority, path]),
        case("8.1.2.6: a length beyond the body", bodied("5", &data(1, END)), Reset(PROTOCOL)),
        case(
            "8.1.2.6: a length beyond the body in two frames",
            bodied("9", &[data(1, 0), data(1, END)].concat()),
            Reset(PROTOCOL),
        ),
        case("8.1.2.6: a length below the body", bodied("3", &data(1, END)), Reset(PROTOCOL)),
        case(
            "8.1.2.6: a length without a body",
            headers(1, END, &posted(&[("content-length", "1")])),
            Reset(PROTOCOL),
        ),
    ]
}

fn prefaces() -> Vec<Case> {
    vec![
        case("3.5: no preface", b"INVALID CONNECTION PREFACE\r\n\r\n".to_vec(), Seen::End),
        case(
            "3.5: a preface without settings",
            [PREFACE, &get(1)].concat(),
            Seen::GoAway(PROTOCOL),
        ),
        case(
            "3.5: the preface",
            [PREFACE, &frame(SETTINGS, 0, 0, []), &get(1)].concat(),
            Seen::Answer,
        ),
    ]
}

/// What is wrong with what is seen, if something is.
async fn run(case: Case, mut client: Frames) -> Result<(), String> {
    let Case { name, steps, seen } = case;
    for step in steps {
        match step {
            Step::Send(bytes) => {
                client.send(bytes).await;
            }
            Step::Answered => {
                let is_end =
                    |frame: &Frame| matches!(frame.kind, DATA | HEADERS) && frame.flags & END != 0;
                until(name, &mut client, is_end).await?;
            }
            Step::Settled => {
                let is_ack = |frame: &Frame| frame.kind == SETTINGS && frame.flags & ACK != 0;
                until(name, &mut client, is_ack).await?;
            }
            Step::Piece(length) => {
                let piece = until(name, &mut client, |frame| frame.kind == DATA).await?;
                if piece.payload.len() != length {
                    return Err(format!("{name}: {piece:?}"));
                }
            }
        }
    }
    let ping = frame(PING, 0, 0, b"serve on");
    if matches!(seen, Seen::Pong | Seen::Reset(_)) {
        client.send(&ping).await;
    }
    let (mut before, mut found) = (Vec::new(), None);
    while before.len() < 1000 {
        let heard = client.next_within(PATIENCE).await;
        before.push(format!("{heard:?}"));
        let Heard::Frame(frame) = heard else {
            return match seen {
                Seen::End if heard == Heard::End => Ok(()),
                Seen::GoAway(code) if heard == Heard::End && found == Some(code) => Ok(()),
                _ => Err(format!("{name}: {seen:?} is not in {before:?}")),
            };
        };
        let is_pong = frame.kind == PING && frame.payload == b"serve on";
        match (seen, frame.kind) {
            (Seen::Answer, HEADERS) if frame.status() == Some(200) => return Ok(()),
            (Seen::Pong, _) if is_pong => return Ok(()),
            (Seen::Reset(code), _) if is_pong && found == Some(code) => return Ok(()),
            // It may come later.
            (Seen::Reset(_), _) if is_pong => _ = client.send(&ping).await,
            (Seen::Reset(_), RST_STREAM) | (Seen::GoAway(_), GOAWAY) => found = frame.error(),
            _ => {}
        }
    }
    Err(format!("{name}: {seen:?} does not come"))
}

/// The first frame of a kind.
async fn until(
    name: &str,
    client: &mut Frames,
    is_it: impl Fn(&Frame) -> bool,
) -> Result<Frame, String> {
    loop {
        match client.next_within(PATIENCE).await {
            Heard::Frame(frame) if is_it(&frame) => return Ok(frame),
            Heard::Frame(_) => {}
            end => return Err(format!("{name}: {end:?}")),
        }
    }
}

async fn rig() -> Rig {
    let manager = serde_json::json!({"http2_protocol_options": {"max_concurrent_streams": 4}});
    let rig = Rig::start(Change { manager, ..Change::default() }).await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello, world".to_vec();
    rig.backend.answer(Reply::Send(vec![answer]));
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_streams_and_messages_are_what_rfc_9113_wants() {
    let rig = rig().await;
    let all = [generic(), codes(), framing::cases(), streams(), messages()];
    let mut wrong = Vec::new();
    for case in all.into_iter().flatten() {
        let name = case.name;
        let client = Frames::agreed(rig.address).await;
        wrong.extend(run(case, client).await.err());
        rig.is_alive(name).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_begins_with_the_preface_and_settings() {
    let rig = rig().await;
    for case in prefaces() {
        let client = Frames::silent(rig.address).await;
        assert_eq!(run(case, client).await, Ok(()));
    }
}
