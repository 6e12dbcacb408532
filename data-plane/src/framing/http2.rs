//! Counts the frames of an HTTP/2 connection, both ways, as their bytes pass.
//!
//! Only the nine bytes in front of each frame are looked at. What frames say is the codec's to judge;
//! here is counted what attackers multiply.

pub mod answers;
mod rules;
mod trailers;

use crate::bootstrap::runtime::ResetLimits;
use crate::telemetry::stats::Fault;

/// The client's first bytes (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// A frame's own head (RFC 9113 section 4.1).
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// On DATA and HEADERS: the stream ends. On SETTINGS and PING: an answer.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Reasons of RST_STREAM that blame nobody: `NO_ERROR`, `INTERNAL_ERROR` and `CANCEL`.
const BLAMELESS: [u32; 3] = [0, 2, 8];

/// Frames that bring nothing, beyond those allowed at once, for each second of a connection.
const CONTROL_FRAMES_A_SECOND: u64 = 100;

/// What is told of a fault as `%RESPONSE_CODE_DETAILS%`, in Envoy's words where it has some.
pub fn details(fault: Fault) -> &'static str {
    match fault {
        Fault::Empty => "http2.inbound_empty_frames_flood",
        Fault::Priority => "http2.inbound_priority_frames_flood",
        Fault::WindowUpdate => "http2.inbound_window_update_frames_flood",
        Fault::Control => "http2.outbound_control_frames_flood",
        Fault::Unread => "http2.outbound_frames_flood",
        Fault::Reset => "too_many_premature_resets",
        Fault::Violation => "http2.too_many_violations",
        Fault::SlowHeaders => "request_header_timeout",
        Fault::Trailers => "http2.invalid.header.field",
        Fault::Size => "http2.frame_size_error",
        Fault::Window => "http2.flow_control_error",
        Fault::Ended => "http2.stream_closed",
        Fault::Excess => "http2.excess",
        Fault::Protocol => "http2.protocol_error",
    }
}

/// GOAWAY, which names the last stream that the client opened, and says why.
pub fn go_away(last: u32, fault: Fault) -> Vec<u8> {
    let reason: u32 = match fault {
        Fault::Trailers | Fault::Protocol => 1,
        Fault::Window => 3,
        Fault::Ended => 5,
        Fault::Size => 6,
        // ENHANCE_YOUR_CALM.
        _ => 11,
    };
    let text = details(fault).as_bytes();
    let length = u8::try_from(8 + text.len()).unwrap_or(u8::MAX);
    let mut frame = vec![0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
    frame.extend(last.to_be_bytes());
    frame.extend(reason.to_be_bytes());
    frame.extend(text);
    frame
}

/// How many frames of a kind are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Frames in a row that carry nothing and end nothing.
    pub empty_in_a_row: u32,
    /// PRIORITY frames for each stream.
    pub priority_a_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame that was sent.
    pub window_updates_a_data: u32,
    /// Frames that bring nothing, beside one for each that brings something.
    pub control: u32,
    /// Requests of a client that takes no bytes.
    pub unread: u32,
}

impl Default for FrameLimits {
    /// Those of Envoy.
    fn default() -> Self {
        Self {
            empty_in_a_row: 1,
            priority_a_stream: 100,
            window_updates_a_data: 10,
            control: 1000,
            unread: 10_000,
        }
    }
}

/// A connection, as far as its frames have come.
#[derive(Debug)]
pub struct Frames {
    limits: FrameLimits,
    resets: ResetLimits,
    preface_left: usize,
    received: Reader,
    sent: Reader,
    /// The last stream that the client opened.
    last: u32,
    last_is: Sent,
    opened: u64,
    data_received: u64,
    data_sent: u64,
    block: Block,
    empty: u32,
    priority: u64,
    window_updates: u64,
    control: u64,
    resets_received: u64,
    violations: u64,
    /// Requests since the client took bytes; none while it does.
    unread: Option<u32>,
}

/// A frame without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// How much of the headers of a stream is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Other frames have to follow.
    Open,
    /// The last frame has begun.
    Last,
}

/// How much the client sent of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    InPart,
    AsAWhole,
    /// It gave the stream up.
    NoMore,
}

/// Finds the heads of frames in bytes that come in any pieces.
#[derive(Debug, Default)]
struct Reader {
    head: [u8; HEAD_BYTES],
    known: usize,
    /// Bytes of a payload that are still to come.
    left: usize,
}

impl Reader {
    /// Goes on to the next frame; what is left of `bytes` is its payload and more.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let skipped = self.left.min(bytes.len());
        self.left -= skipped;
        *bytes = &bytes[skipped..];
        let head = match bytes.first_chunk() {
            _ if bytes.is_empty() => return None,
            Some(head) if self.known == 0 => {
                *bytes = &bytes[HEAD_BYTES..];
                *head
            }
            _ => {
                let length = bytes.len().min(HEAD_BYTES - self.known);
                self.head[self.known..self.known + length].copy_from_slice(&bytes[..length]);
                self.known += length;
                *bytes = &bytes[length..];
                if self.known < HEAD_BYTES {
                    return None;
                }
                self.known = 0;
                self.head
            }
        };
        let frame = Frame::parse(head);
        self.left = frame.length;
        Some(frame)
    }

    /// Whether a frame is neither begun nor cut off.
    fn is_between_frames(&self) -> bool {
        self.left == 0 && self.known == 0
    }
}

impl Frame {
    fn parse(head: [u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        Self {
            length: usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2),
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        }
    }
}

impl Frames {
    /// Nothing has come.
    pub fn new(limits: FrameLimits, resets: ResetLimits) -> Self {
        Self {
            limits,
            resets,
            preface_left: PREFACE_BYTES,
            received: Reader::default(),
            sent: Reader::default(),
            last: 0,
            last_is: Sent::InPart,
            opened: 0,
            data_received: 0,
            data_sent: 0,
            // The preface, and the settings that come with it.
            block: Block::Open,
            empty: 0,
            priority: 0,
            window_updates: 0,
            control: 0,
            resets_received: 0,
            violations: 0,
            unread: None,
        }
    }

    /// Whether headers, or the preface, are there in part.
    pub fn is_in_block(&self) -> bool {
        match self.block {
            Block::Open => true,
            Block::Last => self.received.left > 0,
        }
    }

    /// The last stream that the client opened, where a frame may be sent now.
    pub fn may_say_farewell(&self) -> Option<u32> {
        self.sent.is_between_frames().then_some(self.last)
    }

    /// The client sent bytes; `seconds` is how old the connection is.
    ///
    /// # Errors
    /// What there is too much of.
    pub fn received(&mut self, mut bytes: &[u8], seconds: impl Fn() -> u64) -> Result<(), Fault> {
        if self.preface_left > 0 {
            let length = bytes.len().min(self.preface_left);
            self.preface_left -= length;
            bytes = &bytes[length..];
        }
        while let Some(frame) = self.received.next(&mut bytes) {
            self.begins(frame, bytes, &seconds)?;
        }
        Ok(())
    }

    fn begins(
        &mut self,
        frame: Frame,
        payload: &[u8],
        seconds: &dyn Fn() -> u64,
    ) -> Result<(), Fault> {
        if self.block == Block::Open && self.opened == 0 && frame.kind != SETTINGS {
            // Settings come with the preface (RFC 9113 section 3.4).
            return Err(Fault::Protocol);
        }
        rules::check(frame, payload)?;
        match frame.kind {
            HEADERS => {
                if frame.stream > self.last {
                    self.last = frame.stream;
                    self.last_is = Sent::InPart;
                    self.opened += 1;
                    self.count_unread()?;
                } else if self.is_of_last(frame) && self.last_is != Sent::InPart {
                    return Err(Fault::Ended);
                } else if trailers::have_pseudo_fields(frame.flags, payload, frame.length) {
                    return Err(Fault::Trailers);
                }
                self.note_end(frame);
                self.block_goes_on(frame);
                self.count_empty(frame)
            }
            CONTINUATION => {
                self.block_goes_on(frame);
                self.count_empty(frame)
            }
            DATA => {
                if self.is_of_last(frame) && self.last_is == Sent::AsAWhole {
                    return Err(Fault::Ended);
                }
                self.note_end(frame);
                self.data_received += 1;
                self.count_empty(frame)
            }
            PRIORITY => {
                self.priority += 1;
                let max = u64::from(self.limits.priority_a_stream) * (1 + self.opened);
                if self.priority > max { Err(Fault::Priority) } else { Ok(()) }
            }
            WINDOW_UPDATE => {
                self.window_updates += 1;
                let for_data = u64::from(self.limits.window_updates_a_data) * self.data_sent;
                let max = 5 + 2 * (self.opened + for_data);
                if self.window_updates > max { Err(Fault::WindowUpdate) } else { Ok(()) }
            }
            RST_STREAM => {
                if frame.stream == self.last {
                    self.last_is = Sent::NoMore;
                }
                self.resets_received += 1;
                let max = self.opened + u64::from(self.limits.control);
                if self.resets_received > max { Err(Fault::Reset) } else { Ok(()) }
            }
            SETTINGS | PING if frame.flags & END_STREAM != 0 => Ok(()),
            SETTINGS if self.opened == 0 && self.block == Block::Open => {
                self.block = Block::Last;
                Ok(())
            }
            _ => self.count_control(seconds),
        }
    }

    /// Whether it is of the last stream, and within no block, where it might not be at all.
    fn is_of_last(&self, frame: Frame) -> bool {
        frame.stream == self.last && self.block == Block::Last
    }

    fn note_end(&mut self, frame: Frame) {
        if frame.flags & END_STREAM != 0 && frame.stream == self.last {
            self.last_is = Sent::AsAWhole;
        }
    }

    fn block_goes_on(&mut self, frame: Frame) {
        let is_last = frame.flags & END_HEADERS != 0;
        self.block = if is_last { Block::Last } else { Block::Open };
    }

    fn count_unread(&mut self) -> Result<(), Fault> {
        let Some(unread) = &mut self.unread else { return Ok(()) };
        *unread += 1;
        if *unread > self.limits.unread { Err(Fault::Unread) } else { Ok(()) }
    }

    fn count_empty(&mut self, frame: Frame) -> Result<(), Fault> {
        let ends_stream = frame.kind != CONTINUATION && frame.flags & END_STREAM != 0;
        if frame.length > 0 || ends_stream {
            self.empty = 0;
            return Ok(());
        }
        self.empty += 1;
        if self.empty > self.limits.empty_in_a_row { Err(Fault::Empty) } else { Ok(()) }
    }

    fn count_control(&mut self, seconds: &dyn Fn() -> u64) -> Result<(), Fault> {
        self.control += 1;
        let limit = u64::from(self.limits.control);
        let free = limit + self.opened + self.data_received + self.data_sent;
        let is_over =
            self.control > free && self.control > free + CONTROL_FRAMES_A_SECOND * seconds();
        if is_over { Err(Fault::Control) } else { Ok(()) }
    }

    /// The client takes no bytes.
    pub fn is_blocked(&mut self) {
        self.unread.get_or_insert_default();
    }

    /// Bytes went to the client.
    ///
    /// # Errors
    /// What the client made too much of.
    pub fn sent(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        self.unread = None;
        let mut counted = Ok(());
        while let Some(frame) = self.sent.next(&mut bytes) {
            match frame.kind {
                DATA => self.data_sent += 1,
                // All the bytes are gone through: where frames end has to be known for the last word.
                RST_STREAM => counted = counted.and(self.count_violation(bytes)),
                _ => {}
            }
        }
        counted
    }

    fn count_violation(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let reason = payload.first_chunk().map(|reason| u32::from_be_bytes(*reason));
        if reason.is_some_and(|reason| BLAMELESS.contains(&reason)) {
            return Ok(());
        }
        self.violations += 1;
        let are_too_many = self.resets.are_exceeded(self.violations, self.opened);
        if are_too_many { Err(Fault::Violation) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(vec![b'x'; length.into()]);
        bytes
    }

    fn begun() -> Frames {
        let mut frames = Frames::new(FrameLimits::default(), ResetLimits::default());
        frames.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", || 0).unwrap();
        assert!(frames.is_in_block());
        frames.received(&frame(SETTINGS, 0, 0, 0), || 0).unwrap();
        frames
    }

    /// How many times the bytes may come, up to a million.
    fn times(frames: &mut Frames, bytes: &[u8], seconds: u64) -> (usize, Option<Fault>) {
        for count in 0..1_000_000 {
            if let Err(fault) = frames.received(bytes, || seconds) {
                return (count, Some(fault));
            }
        }
        (1_000_000, None)
    }

    #[test]
    fn headers_are_there_in_part_until_their_last_byte() {
        let all = [
            frame(SETTINGS, 0, 0, 6),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, 20),
            frame(HEADERS, 0, 3, 20),
            frame(CONTINUATION, 0, 3, 5),
        ]
        .concat();
        for size in [1, 2, 7, 9, 10, 100] {
            let mut frames = begun();
            for piece in all.chunks(size) {
                frames.received(piece, || 0).unwrap();
            }
            assert_eq!((frames.opened, frames.is_in_block()), (2, true), "{size}");
        }
        let mut frames = begun();
        let last = frame(HEADERS, END_HEADERS, 1, 5);
        assert!(!frames.is_in_block());
        frames.received(&last[..12], || 0).unwrap();
        assert!(frames.is_in_block());
        frames.received(&last[12..], || 0).unwrap();
        assert!(!frames.is_in_block());
    }

    #[test]
    fn what_brings_nothing_has_a_limit() {
        let limit = |bytes: &[u8]| times(&mut begun(), bytes, 0);
        assert_eq!(limit(&frame(PING, 0, 0, 8)), (1000, Some(Fault::Control)));
        assert_eq!(limit(&frame(SETTINGS, 0, 0, 0)), (1000, Some(Fault::Control)));
        assert_eq!(limit(&frame(0xbb, 0, 0, 8)), (1000, Some(Fault::Control)));
        assert_eq!(limit(&frame(PRIORITY, 0, 1, 5)), (100, Some(Fault::Priority)));
        assert_eq!(limit(&frame(WINDOW_UPDATE, 0, 0, 4)), (5, Some(Fault::WindowUpdate)));
        assert_eq!(limit(&frame(DATA, 0, 1, 0)), (1, Some(Fault::Empty)));
        let mut frames = begun();
        frames.received(&frame(HEADERS, 0, 1, 1), || 0).unwrap();
        assert_eq!(times(&mut frames, &frame(CONTINUATION, 0, 1, 0), 0), (1, Some(Fault::Empty)));
        assert_eq!(limit(&frame(RST_STREAM, 0, 1, 4)), (1000, Some(Fault::Reset)));
        assert_eq!(limit(&frame(PING, END_STREAM, 0, 8)), (1_000_000, None));
        assert_eq!(times(&mut begun(), &frame(PING, 0, 0, 8), 60).0, 7000);
    }

    #[test]
    fn what_brings_something_makes_room() {
        let mut frames = begun();
        let ping = [frame(PING, 0, 0, 8), frame(DATA, 0, 1, 1)].concat();
        assert_eq!(times(&mut frames, &ping, 0).1, None);
        let mut frames = begun();
        frames.sent(&frame(DATA, 0, 1, 1)).unwrap();
        assert_eq!(times(&mut frames, &frame(WINDOW_UPDATE, 0, 0, 4), 0).0, 25);
    }

    #[test]
    fn who_takes_no_answer_may_ask_only_so_often() {
        let limits = FrameLimits { unread: 3, ..FrameLimits::default() };
        let mut frames = Frames { limits, ..begun() };
        let mut stream = 1;
        let mut ask = |frames: &mut Frames| {
            stream += 2;
            frames.received(&frame(HEADERS, END_HEADERS | END_STREAM, stream, 1), || 0)
        };
        for _ in 0..10 {
            ask(&mut frames).unwrap();
        }
        frames.is_blocked();
        for _ in 0..3 {
            ask(&mut frames).unwrap();
        }
        frames.sent(&frame(HEADERS, END_HEADERS, 1, 1)).unwrap();
        frames.is_blocked();
        for _ in 0..3 {
            ask(&mut frames).unwrap();
        }
        assert_eq!(ask(&mut frames), Err(Fault::Unread));
    }

    #[test]
    fn streams_that_end_badly_may_be_half_of_all() {
        let mut frames = begun();
        let reset = |reason: u8| [&[0, 0, 4, 3, 0, 0, 0, 0, 1][..], &[0, 0, 0, reason]].concat();
        let mut stream = 1;
        for _ in 0..2000 {
            stream += 2;
            let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, 1);
            frames.received(&open, || 0).unwrap();
            frames.sent(&reset(8)).unwrap();
        }
        let mut count = 0;
        while frames.sent(&reset(1)).is_ok() {
            count += 1;
        }
        assert_eq!(count, 999);
    }
}
