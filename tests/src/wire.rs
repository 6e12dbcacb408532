//! Bytes on the wire: an upstream that says what a script has, and a client that says what it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::wait;

/// Headers that differ from run to run, or between any two proxies.
const VOLATILE: [&str; 3] = ["date", "x-request-id", "x-forwarded-proto"];

/// What an upstream does after it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It takes the next request.
    Next,
    /// It closes the connection.
    Close,
    /// It resets the connection.
    Reset,
    /// It says no more, until the other side closes.
    Stall,
}

/// What an upstream says to a request for a path.
#[derive(Debug, Clone)]
pub struct Script {
    /// Whether it reads the body first.
    pub reads_body: bool,
    /// Bytes that it sends once it has read the head.
    pub before: &'static str,
    /// Bytes that it sends then.
    pub answer: &'static str,
    /// What it does after that.
    pub then: Then,
}

impl Script {
    /// Reads the request and answers.
    pub fn answer(answer: &'static str, then: Then) -> Self {
        Self { reads_body: true, before: "", answer, then }
    }

    /// Answers a head, and reads no body.
    pub fn early(answer: &'static str, then: Then) -> Self {
        Self { reads_body: false, ..Self::answer(answer, then) }
    }
}

/// An upstream that speaks HTTP/1.1 by scripts.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Starts one that follows `scripts` by path; other paths get `ok`.
    pub async fn start(scripts: impl IntoIterator<Item = (&'static str, Script)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripts: Arc<BTreeMap<_, _>> = Arc::new(scripts.into_iter().collect());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(follow(stream, Arc::clone(&scripts), Arc::clone(&noted)));
            }
        });
        Self { address, seen, task }
    }

    /// Waits until it was asked for a path.
    pub async fn heard(&self, path: &str) {
        let what = format!("a request for {path}");
        wait::until(&what, Duration::from_secs(10), || async {
            let seen = json!(&*self.seen.lock().unwrap()).to_string();
            if seen.contains(&format!("{path} ")) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// What it was asked since the last time: heads and bodies.
    pub fn take_seen(&self) -> Vec<Value> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    mut stream: TcpStream,
    scripts: Arc<BTreeMap<&'static str, Script>>,
    seen: Arc<Mutex<Vec<Value>>>,
) {
    let ok = Script::answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::Next);
    let _ = stream.set_nodelay(true);
    let mut ahead = Vec::new();
    while let Some(head) = read_until(&mut stream, &mut ahead, b"\r\n\r\n").await {
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let script = scripts.get(&*path).unwrap_or(&ok);
        if stream.write_all(script.before.as_bytes()).await.is_err() {
            return;
        }
        let place = {
            let mut seen = seen.lock().unwrap();
            seen.push(json!([parse_head(&head), null]));
            seen.len() - 1
        };
        if script.reads_body
            && let Some(body) = body(&mut stream, &mut ahead, &head).await
            && let Some(seen) = seen.lock().unwrap().get_mut(place)
        {
            seen[1] = String::from_utf8_lossy(&body).into();
        }
        if stream.write_all(script.answer.as_bytes()).await.is_err() {
            return;
        }
        match script.then {
            Then::Next => {}
            Then::Close => {
                let _ = stream.shutdown().await;
                return drained(&mut stream).await;
            }
            Then::Reset => {
                // What was sent before stays readable to the other side.
                let _ = stream.set_zero_linger();
                return;
            }
            Then::Stall => return drained(&mut stream).await,
        }
    }
}

/// Waits until the other side closes.
async fn drained(stream: &mut TcpStream) {
    let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
}

async fn body(stream: &mut TcpStream, ahead: &mut Vec<u8>, head: &str) -> Option<Vec<u8>> {
    if head.contains("transfer-encoding: chunked") {
        let mut body = read_until(stream, ahead, b"0\r\n").await?;
        while !body.ends_with(b"\n\r\n") {
            body.extend(read_until(stream, ahead, b"\r\n").await?);
        }
        return Some(body);
    }
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    while ahead.len() < length {
        if stream.read_buf(ahead).await.ok()? == 0 {
            return None;
        }
    }
    Some(ahead.drain(..length).collect())
}

/// Reads to the end of `mark`; none when the stream ends before.
pub(crate) async fn read_until(
    stream: &mut TcpStream,
    ahead: &mut Vec<u8>,
    mark: &[u8],
) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = ahead.windows(mark.len()).position(|window| window == mark) {
            return Some(ahead.drain(..at + mark.len()).collect());
        }
        if stream.read_buf(ahead).await.ok()? == 0 {
            return None;
        }
    }
}

/// First line and headers, in order of name, without what differs from run to run.
pub(crate) fn parse_head(head: &str) -> Value {
    let mut lines = head.lines().filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    let mut headers: Vec<String> = lines
        .filter(|line| !VOLATILE.iter().any(|name| line.starts_with(&format!("{name}:"))))
        .map(|line| match line.split_once(": ") {
            Some((name @ "x-envoy-upstream-service-time", _)) => format!("{name}: <ms>"),
            _ => line.to_owned(),
        })
        .collect();
    headers.sort();
    json!([first, headers])
}

/// What a client heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Whether the other side closed.
    pub ended: bool,
}

impl Heard {
    /// The messages: heads as lines in order of name, and the bytes of the last body.
    pub fn messages(&self) -> Value {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut rest = &*text;
        let mut messages = Vec::new();
        while rest.starts_with("HTTP/")
            && let Some((head, after)) = rest.split_once("\r\n\r\n")
        {
            messages.push(parse_head(head));
            rest = after;
        }
        json!({"messages": messages, "rest": rest})
    }
}

/// Sends one part after the other on a connection of its own, each once there was an answer to the
/// one before or `patience` was over; reads until the other side closes or is silent for so long.
///
/// # Errors
/// When there is no connection.
pub async fn talk(address: SocketAddr, parts: &[&[u8]], patience: Duration) -> Result<Heard> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut heard = Heard::default();
    for (index, part) in parts.iter().enumerate() {
        // Who has been answered already may be closed.
        let _ = stream.write_all(part).await;
        let is_last = index + 1 == parts.len();
        listen(&mut stream, &mut heard, patience, is_last).await;
        if heard.ended {
            break;
        }
    }
    Ok(heard)
}

async fn listen(stream: &mut TcpStream, heard: &mut Heard, patience: Duration, to_end: bool) {
    let before = heard.bytes.len();
    let end = Instant::now() + patience;
    while !heard.ended && (to_end || heard.bytes.len() == before) {
        let left = end.saturating_duration_since(Instant::now());
        match timeout(left, stream.read_buf(&mut heard.bytes)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => heard.ended = true,
            Err(_) => return,
        }
    }
}
