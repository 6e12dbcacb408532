//! HTTP/1 byte by byte: a client that sends anything, and a backend that keeps what it gets and
//! answers with anything.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::wait;

/// Nothing of these tests takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// A client's connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// What came and was not taken yet.
    ahead: Vec<u8>,
}

/// A response as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its head, in lower case.
    pub head: String,
    /// Its body; of a chunked one the chunks as they came.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(LIMIT, TcpStream::connect(address)).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    /// Sends bytes, as far as the other side takes them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Who closes in the middle of it has answered, which is what tests look at.
        let _ = timeout(LIMIT, self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends no more.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next response; none when the connection ends first.
    pub async fn response(&mut self, has_body: bool) -> Option<Response> {
        timeout(LIMIT, self.read_response(has_body)).await.expect("no response in time")
    }

    async fn read_response(&mut self, has_body: bool) -> Option<Response> {
        let end = self.find(b"\r\n\r\n", 0).await?;
        let head = String::from_utf8_lossy(&self.ahead[..end]).to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let header =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let begin = end + 4;
        let body = if !has_body || status < 200 || status == 204 || status == 304 {
            begin
        } else if let Some(length) = header("content-length") {
            let end = begin + length.parse::<usize>().ok()?;
            while self.ahead.len() < end {
                self.more().await?;
            }
            end
        } else if header("transfer-encoding").is_some() {
            match self.ahead[begin..].starts_with(b"0\r\n\r\n") {
                true => begin + 5,
                false => self.find(b"\r\n0\r\n\r\n", begin).await? + 7,
            }
        } else {
            while self.more().await.is_some() {}
            self.ahead.len()
        };
        let whole: Vec<u8> = self.ahead.drain(..body).collect();
        Some(Response { status, head, body: whole[begin..].to_vec() })
    }

    async fn find(&mut self, what: &[u8], from: usize) -> Option<usize> {
        loop {
            let windows = self.ahead.get(from..).unwrap_or_default().windows(what.len());
            if let Some(at) = windows.enumerate().find_map(|(at, w)| (w == what).then_some(at)) {
                return Some(from + at);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.ahead).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// All that comes until the other side closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        timeout(LIMIT, async { while self.more().await.is_some() {} })
            .await
            .expect("not closed in time");
        std::mem::take(&mut self.ahead)
    }

    /// Waits until there is something to read, or the other side closed.
    pub async fn readable(&self) {
        if self.ahead.is_empty() {
            let _ = self.stream.readable().await;
        }
    }

    /// Whether a chunked body comes to its end, and not just to that of the connection.
    pub async fn has_chunked_end(&mut self) -> bool {
        let end = timeout(LIMIT, self.find(b"0\r\n\r\n", 0)).await;
        end.expect("no end in time").is_some()
    }

    /// Reads up to `count` bytes more; gives how many are there.
    pub async fn read(&mut self, count: usize) -> usize {
        while self.ahead.len() < count && self.more().await.is_some() {}
        self.ahead.len()
    }
}

/// What a backend does with the connection of a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Sends these pieces.
    Send(Vec<Vec<u8>>),
    /// As `Send`, then closes.
    SendAndClose(Vec<Vec<u8>>),
    /// As `Send`, then resets.
    SendAndReset(Vec<Vec<u8>>),
    /// As `Send`, then says nothing more.
    SendAndStall(Vec<Vec<u8>>),
}

/// A backend that keeps the bytes it gets, a connection each, and answers every request alike.
#[derive(Debug)]
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    reply: Arc<Mutex<Reply>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Starts one that answers 200.
    pub async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    /// As [`Self::start`], at an address.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let peers: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let met = Arc::clone(&peers);
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
        let reply = Arc::new(Mutex::new(Reply::Send(vec![ok])));
        let (noted, replies) = (Arc::clone(&seen), Arc::clone(&reply));
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, peer)) = listener.accept().await else { continue };
                met.lock().unwrap().push(peer);
                let _ = stream.set_nodelay(true);
                tokio::spawn(converse(stream, Arc::clone(&noted), Arc::clone(&replies)));
            }
        });
        Self { address, seen, peers, reply, task }
    }

    /// Answers so from here on.
    pub fn answer(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    /// Who connected.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap().clone()
    }

    /// What it got, a connection each.
    pub fn seen(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// All that it got.
    pub fn all(&self) -> String {
        self.seen().concat()
    }

    /// Forgets what it got so far.
    pub fn forget(&self) {
        self.seen.lock().unwrap().iter_mut().for_each(Vec::clear);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(
    mut stream: TcpStream,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    replies: Arc<Mutex<Reply>>,
) {
    let index = {
        let mut seen = seen.lock().unwrap();
        seen.push(Vec::new());
        seen.len() - 1
    };
    let mut open = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = stream.read(&mut piece).await else { return };
        seen.lock().unwrap()[index].extend_from_slice(&piece[..length]);
        open.extend_from_slice(&piece[..length]);
        while let Some(end) = request_end(&open) {
            open.drain(..end);
            let reply = replies.lock().unwrap().clone();
            let (Reply::Send(pieces)
            | Reply::SendAndClose(pieces)
            | Reply::SendAndReset(pieces)
            | Reply::SendAndStall(pieces)) = &reply;
            for piece in pieces {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                // So that each piece goes by itself.
                tokio::task::yield_now().await;
            }
            match reply {
                Reply::Send(_) => {}
                Reply::SendAndClose(_) => return,
                Reply::SendAndReset(_) => {
                    let _ = stream.set_zero_linger();
                    return;
                }
                Reply::SendAndStall(_) => std::future::pending().await,
            }
        }
    }
}

/// Where the first request ends, as a server reads it that believes every head.
fn request_end(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let begin = head.len() + 4;
    if head.contains("\r\ntransfer-encoding: chunked") {
        if rest.starts_with("0\r\n\r\n") {
            return Some(begin + 5);
        }
        let last = rest.find("\r\n0\r\n")?;
        let trailers = rest.get(last + 3..)?.find("\r\n\r\n")?;
        return Some(begin + last + 3 + trailers + 4);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    (rest.len() >= length).then_some(begin + length)
}

/// Waits until the other end, a socket of this machine over IPv4, has read all that was sent to it.
pub async fn is_read(stream: &TcpStream) {
    let (from, to) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    wait::until("what was sent to be read", LIMIT, async || {
        let sockets = tokio::fs::read_to_string("/proc/net/tcp").await.unwrap();
        match sockets.lines().find_map(|line| waiting(line, to, from)) {
            Some(0) | None => Ok(()),
            Some(bytes) => Err(format!("{bytes} bytes are not read")),
        }
    })
    .await;
}

/// Bytes that wait in the socket of a line of `/proc/net/tcp`, where it has these ends.
fn waiting(line: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let ends = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
        }
        SocketAddr::V6(_) => String::new(),
    };
    let mut fields = line.split_whitespace().skip(1);
    let has_ends = fields.next()? == ends(local) && fields.next()? == ends(remote);
    let queues = fields.nth(1).filter(|_| has_ends)?;
    u64::from_str_radix(queues.split_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_a_socket_is_read_from_its_line() {
        let line =
            "   3: 0100007F:1F90 0100007F:A3C2 01 00000000:0000002A 00:00000000 00000000 0 0 1";
        let (own, other) = ("127.0.0.1:8080".parse().unwrap(), "127.0.0.1:41922".parse().unwrap());
        assert_eq!(waiting(line, own, other), Some(42));
        assert_eq!(waiting(line, other, own), None);
        assert_eq!(waiting("  sl  local_address rem_address", own, other), None);
    }
}
