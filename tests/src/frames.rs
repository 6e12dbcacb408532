//! HTTP/2 frame by frame: one side of a connection that sends anything.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing of these tests takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// How a client begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// `RST_STREAM`.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// `PUSH_PROMISE`.
pub const PUSH_PROMISE: u8 = 5;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// `WINDOW_UPDATE`.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;

/// `END_STREAM` of DATA and HEADERS.
pub const END: u8 = 1;
/// ACK of SETTINGS and PING.
pub const ACK: u8 = 1;
/// `END_HEADERS` of HEADERS and CONTINUATION.
pub const WHOLE: u8 = 4;
/// PADDED of DATA and HEADERS.
pub const PADDED: u8 = 8;
/// PRIORITY of HEADERS.
pub const WITH_PRIORITY: u8 = 0x20;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of an error; none where it is no error.
    pub fn error(&self) -> Option<u32> {
        let code = match self.kind {
            RST_STREAM => self.payload.get(..4)?,
            GOAWAY => self.payload.get(4..8)?,
            _ => return None,
        };
        Some(number(code))
    }

    /// The status of a response whose headers these are, the first of its connection.
    pub fn status(&self) -> Option<u16> {
        /// Where the static table has a status.
        const KNOWN: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        let mut block = &self.payload[..];
        while block.first()? & 0xe0 == 0x20 {
            block = &block[1..];
        }
        match block {
            [index @ 0x88..=0x8e, ..] => Some(KNOWN[usize::from(index - 0x88)]),
            [0x48 | 0x08 | 0x18, length, text @ ..] => {
                let text = text.get(..usize::from(length & 0x7f))?;
                if length & 0x80 == 0 {
                    return std::str::from_utf8(text).ok()?.parse().ok();
                }
                coded_digits(text)
            }
            _ => None,
        }
    }
}

/// Three digits in the code of RFC 7541 appendix B: three have five bits, the others six.
fn coded_digits(text: &[u8]) -> Option<u16> {
    let bits: Vec<u16> = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)))
        .collect();
    let take = |from: usize, count: usize| {
        bits.get(from..from + count).map(|bits| bits.iter().fold(0, |sum, bit| sum << 1 | bit))
    };
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let (digit, length) = match take(at, 5)? {
            short @ 0..=2 => (short, 5),
            _ => (take(at, 6)? - 0b1_1001 + 3, 6),
        };
        status = status * 10 + digit;
        at += length;
    }
    Some(status)
}

/// A number, the first byte first.
pub fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Header fields as a block that needs no table.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len();
        let mut bytes = match length {
            0..127 => vec![u8::try_from(length).unwrap()],
            _ => {
                let mut bytes = vec![0x7f];
                let mut left = length - 127;
                while left >= 128 {
                    bytes.push(u8::try_from(left % 128).unwrap() | 0x80);
                    left /= 128;
                }
                bytes.push(u8::try_from(left).unwrap());
                bytes
            }
        };
        bytes.extend(text.as_bytes());
        bytes
    };
    let field = |(name, value): &(&str, &str)| [vec![0], text(name), text(value)].concat();
    fields.iter().flat_map(field).collect()
}

/// The headers of a stream, whole.
pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE | flags, stream, block(fields))
}

/// What a GET without anything else says.
pub const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];

/// A GET without anything else.
pub fn get(stream: u32) -> Vec<u8> {
    headers(stream, END, &GET)
}

/// What came next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A frame.
    Frame(Frame),
    /// The connection ended.
    End,
    /// Nothing in time.
    Silence,
}

/// One side of a connection.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    /// What came and was not taken yet.
    ahead: Vec<u8>,
}

impl Frames {
    /// Connects, and says nothing.
    pub async fn silent(address: SocketAddr) -> Self {
        let stream = timeout(LIMIT, TcpStream::connect(address)).await.unwrap().unwrap();
        Self::of(stream)
    }

    /// A stream that is there.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    /// Connects, and says what a client must.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::silent(address).await;
        client.send([PREFACE, &frame(SETTINGS, 0, 0, [])].concat()).await;
        client
    }

    /// As [`Self::connect`], and has agreed with the other side on the settings of both.
    pub async fn agreed(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        let (mut has_theirs, mut has_ack) = (false, false);
        while !has_theirs || !has_ack {
            let frame = client.next().await.expect("closed before the settings");
            match frame.kind {
                SETTINGS if frame.flags & ACK != 0 => has_ack = true,
                SETTINGS => {
                    has_theirs = true;
                    client.send(self::frame(SETTINGS, ACK, 0, [])).await;
                }
                _ => {}
            }
        }
        client
    }

    /// Sends bytes, as far as the other side takes them; tells whether it took all.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        timeout(LIMIT, self.stream.write_all(bytes.as_ref())).await.is_ok_and(|sent| sent.is_ok())
    }

    /// The next frame; none when the connection ends first.
    pub async fn next(&mut self) -> Option<Frame> {
        match self.next_within(LIMIT).await {
            Heard::Frame(frame) => Some(frame),
            Heard::End => None,
            Heard::Silence => panic!("nothing in time"),
        }
    }

    /// The next frame, however long it takes; none when the connection ends first.
    pub async fn wait(&mut self) -> Option<Frame> {
        self.read().await
    }

    /// What comes next.
    pub async fn next_within(&mut self, patience: Duration) -> Heard {
        match timeout(patience, self.read()).await {
            Ok(Some(frame)) => Heard::Frame(frame),
            Ok(None) => Heard::End,
            Err(_) => Heard::Silence,
        }
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.ahead.first_chunk::<9>() {
                let [a, b, c, kind, flags, stream @ ..] = *head;
                let end = 9 + number(&[a, b, c]) as usize;
                if self.ahead.len() >= end {
                    let payload = self.ahead[9..end].to_vec();
                    self.ahead.drain(..end);
                    return Some(Frame { kind, flags, stream: number(&stream), payload });
                }
            }
            match self.stream.read_buf(&mut self.ahead).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// All frames until the connection ends.
    pub async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// The next frame of a kind; none when the connection ends first.
    pub async fn find(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_written() {
        let status = |payload: &[u8]| {
            let payload = payload.to_vec();
            Frame { kind: HEADERS, flags: WHOLE, stream: 1, payload }.status()
        };
        assert_eq!(status(b"\x88"), Some(200));
        assert_eq!(status(b"\x20\x8c\x00"), Some(400));
        assert_eq!(status(b"\x48\x03503"), Some(503));
        // RFC 7541 appendix C.6.1.
        assert_eq!(status(b"\x48\x82\x64\x02"), Some(302));
    }
}
