//! Frames by themselves: RFC 7540 sections 4 to 7.

use gateway_tests::frames::{
    ACK, CONTINUATION, DATA, END, GET, GOAWAY, HEADERS, PADDED, PING, PRIORITY, RST_STREAM,
    SETTINGS, WHOLE, WINDOW_UPDATE, block, frame, get,
};

use super::{
    Case, FLOW, PROTOCOL, SIZE, Seen, Step, UNKNOWN, case, data, depends, post, reset,
    rest_of_block, send, setting, steps, unfinished, window,
};

pub(super) fn cases() -> Vec<Case> {
    use Seen::{Answer, GoAway, Pong};
    let large = vec![b'x'; 16_385];
    vec![
        case("4.1: an unknown frame", UNKNOWN, Pong),
        case("4.1: an unknown flag", frame(PING, 0x16, 0, [0; 8]), Pong),
        case("4.1: the reserved bit", frame(PING, 0x16, 0x8000_0000, [0; 8]), Pong),
        case(
            "4.2: DATA of 16,384 bytes",
            [post(1), frame(DATA, END, 1, &large[1..])].concat(),
            Answer,
        ),
        case(
            "4.2: DATA of 16,385 bytes",
            [post(1), frame(DATA, END, 1, &large)].concat(),
            GoAway(SIZE),
        ),
        case("4.2: HEADERS of 16,385 bytes", frame(HEADERS, WHOLE | END, 1, &large), GoAway(SIZE)),
        case("4.3: a block that is none", frame(HEADERS, WHOLE | END, 1, [0x40]), GoAway(PROTOCOL)),
        case("4.3: PRIORITY within a block", unfinished(depends(1, 0, 255)), GoAway(PROTOCOL)),
        case("4.3: HEADERS within a block", unfinished(get(3)), GoAway(PROTOCOL)),
        case("5.4.1: PING of 6 bytes", frame(PING, 0, 0, [0; 6]), GoAway(SIZE)),
        case("5.4.1: the end after GOAWAY", frame(PING, 0, 3, [0; 8]), GoAway(PROTOCOL)),
        case("5.5: an unknown frame", [UNKNOWN, &get(1)].concat(), Answer),
        case(
            "5.5: an unknown frame within a block",
            unfinished(UNKNOWN.to_vec()),
            GoAway(PROTOCOL),
        ),
        case("6.1: DATA of stream 0", data(0, END), GoAway(PROTOCOL)),
        case(
            "6.1: DATA with padding alone",
            [post(1), frame(DATA, END | PADDED, 1, b"\xfftest")].concat(),
            GoAway(PROTOCOL),
        ),
        case(
            "6.2: HEADERS and PRIORITY in its block",
            unfinished([depends(1, 0, 9), rest_of_block(WHOLE)].concat()),
            GoAway(PROTOCOL),
        ),
        case(
            "6.2: HEADERS of another stream in its block",
            unfinished([frame(HEADERS, WHOLE, 3, block(&GET))].concat()),
            GoAway(PROTOCOL),
        ),
        case(
            "6.2: HEADERS of stream 0",
            frame(HEADERS, WHOLE | END, 0, block(&GET)),
            GoAway(PROTOCOL),
        ),
        case(
            "6.2: HEADERS with too much padding",
            frame(HEADERS, WHOLE | END | PADDED, 1, [&[200][..], &block(&GET)].concat()),
            GoAway(PROTOCOL),
        ),
        case("6.3: PRIORITY of stream 0", depends(0, 1, 255), GoAway(PROTOCOL)),
        case(
            "6.3: PRIORITY of 4 bytes",
            [post(1), frame(PRIORITY, 0, 1, [0; 4])].concat(),
            GoAway(SIZE),
        ),
        case("6.4: RST_STREAM of stream 0", reset(0), GoAway(PROTOCOL)),
        case("6.4: RST_STREAM of an idle stream", reset(1), GoAway(PROTOCOL)),
        case(
            "6.4: RST_STREAM of 3 bytes",
            [post(1), frame(RST_STREAM, 0, 1, [0; 3])].concat(),
            GoAway(SIZE),
        ),
        case("6.5: an ACK that says something", frame(SETTINGS, ACK, 0, [0]), GoAway(SIZE)),
        case(
            "6.5: SETTINGS of a stream",
            frame(SETTINGS, 0, 1, [0, 3, 0, 0, 0, 9]),
            GoAway(PROTOCOL),
        ),
        case("6.5: SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, [0; 3]), GoAway(SIZE)),
        case("6.5.2: ENABLE_PUSH 2", setting(2, 2), GoAway(PROTOCOL)),
        case("6.5.2: a window of 2^31", setting(4, 1 << 31), GoAway(FLOW)),
        case("6.5.2: frames of 16,383 bytes", setting(5, 16_383), GoAway(PROTOCOL)),
        case("6.5.2: frames of 2^24 bytes", setting(5, 1 << 24), GoAway(PROTOCOL)),
        case("6.5.2: an unknown setting", setting(0xff, 1), Pong),
        steps(
            "6.5.3: one setting twice",
            vec![
                send(frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 100, 0, 4, 0, 0, 0, 1])),
                Step::Settled,
                send(get(1)),
                Step::Piece(1),
            ],
            Pong,
        ),
        steps("6.5.3: ACK", vec![send(setting(2, 0)), Step::Settled], Pong),
        case("6.7: PING", frame(PING, 0, 0, [7; 8]), Pong),
        case("6.7: PING with ACK", frame(PING, ACK, 0, *b"unasked!"), Pong),
        case("6.7: PING of a stream", frame(PING, 0, 1, [0; 8]), GoAway(PROTOCOL)),
        case("6.7: PING of 7 bytes", frame(PING, 0, 0, [0; 7]), GoAway(SIZE)),
        case("6.8: GOAWAY of a stream", frame(GOAWAY, 0, 1, [0; 8]), GoAway(PROTOCOL)),
        case("6.9: WINDOW_UPDATE by 0", window(0, 0), GoAway(PROTOCOL)),
        case(
            "6.9: WINDOW_UPDATE of a stream by 0",
            [post(1), window(1, 0)].concat(),
            GoAway(PROTOCOL),
        ),
        case("6.9: WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, [0; 3]), GoAway(SIZE)),
        steps(
            "6.9.1: a window of 1",
            vec![send([setting(4, 1), get(1)].concat()), Step::Piece(1)],
            Pong,
        ),
        case(
            "6.9.1: a window beyond 2^31",
            [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat(),
            GoAway(FLOW),
        ),
        case(
            "6.9.1: a stream's window beyond 2^31",
            [post(1), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)].concat(),
            Seen::Reset(FLOW),
        ),
        steps(
            "6.9.2: a window that grows by a setting",
            vec![
                send(setting(4, 0)),
                Step::Settled,
                send([get(1), setting(4, 1)].concat()),
                Step::Piece(1),
            ],
            Pong,
        ),
        steps(
            "6.9.2: a window below 0",
            vec![
                send(setting(4, 3)),
                Step::Settled,
                send(get(1)),
                Step::Piece(3),
                send(setting(4, 2)),
                Step::Settled,
                send(window(1, 2)),
                Step::Piece(1),
            ],
            Pong,
        ),
        case("6.9.2: a window too large by a setting", setting(4, 1 << 31), GoAway(FLOW)),
        case(
            "6.10: CONTINUATION, three times",
            unfinished([rest_of_block(0), rest_of_block(0), rest_of_block(WHOLE)].concat()),
            Answer,
        ),
        case("6.10: CONTINUATION, then DATA", unfinished(data(1, END)), GoAway(PROTOCOL)),
        case(
            "6.10: CONTINUATION of stream 0",
            unfinished(frame(CONTINUATION, WHOLE, 0, block(&[("a", "b")]))),
            GoAway(PROTOCOL),
        ),
        case(
            "6.10: CONTINUATION after a whole block",
            [post(1), rest_of_block(WHOLE)].concat(),
            GoAway(PROTOCOL),
        ),
        case(
            "6.10: CONTINUATION after the last CONTINUATION",
            unfinished([rest_of_block(WHOLE), rest_of_block(WHOLE)].concat()),
            GoAway(PROTOCOL),
        ),
        case(
            "6.10: CONTINUATION after DATA",
            [post(1), data(1, 0), rest_of_block(WHOLE)].concat(),
            GoAway(PROTOCOL),
        ),
        case(
            "7: GOAWAY for an unknown reason",
            frame(GOAWAY, 0, 0, [0, 0, 0, 0, 0, 0, 0, 0xff]),
            Seen::End,
        ),
        case(
            "7: RST_STREAM for an unknown reason",
            [post(1), frame(RST_STREAM, 0, 1, [0, 0, 0, 0xff])].concat(),
            Pong,
        ),
    ]
}
