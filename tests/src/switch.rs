//! Protocol switches: an upstream that takes the upgrades of HTTP/1.1 and the CONNECTs of HTTP/2, and
//! a client that asks for either.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::wait;
use crate::wire::{parse_head, read_until};

/// What is not there within this does not come.
const PATIENCE: Duration = Duration::from_secs(1);

/// The answer to `/long`.
pub const LONG_BYTES: usize = 200 * 1024;

/// What is said after the switch, by either side.
#[derive(Debug)]
pub enum Tunnel {
    /// All of a connection, and what was read of it already.
    Http1(TcpStream, Vec<u8>),
    /// One stream of many.
    Http2(RecvStream, SendStream<Bytes>),
}

/// How a tunnel ended, as the other side sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By a last byte.
    Closed,
    /// It was broken off.
    Reset,
}

impl Tunnel {
    /// The next bytes, or how it ended.
    pub async fn read(&mut self) -> Result<Bytes, End> {
        match self {
            Self::Http1(_, ahead) if !ahead.is_empty() => Ok(std::mem::take(ahead).into()),
            Self::Http1(stream, _) => {
                let mut piece = Vec::with_capacity(4096);
                match stream.read_buf(&mut piece).await {
                    Ok(0) => Err(End::Closed),
                    Ok(_) => Ok(piece.into()),
                    Err(_) => Err(End::Reset),
                }
            }
            Self::Http2(receive, _) => match receive.data().await {
                Some(Ok(bytes)) => {
                    let _ = receive.flow_control().release_capacity(bytes.len());
                    Ok(bytes)
                }
                Some(Err(_)) => Err(End::Reset),
                None => Err(End::Closed),
            },
        }
    }

    /// All that comes, and how it ended; no end where that takes too long.
    pub async fn rest(&mut self) -> (String, Option<End>) {
        let mut all = Vec::new();
        loop {
            match timeout(PATIENCE, self.read()).await {
                Ok(Ok(bytes)) => all.extend_from_slice(&bytes),
                Ok(Err(end)) => return (String::from_utf8_lossy(&all).into_owned(), Some(end)),
                Err(_) => return (String::from_utf8_lossy(&all).into_owned(), None),
            }
        }
    }

    /// Says something.
    pub async fn write(&mut self, text: &str) {
        // Who is told no more has been told why.
        match self {
            Self::Http1(stream, _) => {
                let _ = stream.write_all(text.as_bytes()).await;
            }
            Self::Http2(_, send) => {
                let _ = send.send_data(Bytes::copy_from_slice(text.as_bytes()), false);
            }
        }
    }

    /// Says no more.
    pub async fn finish(&mut self) {
        match self {
            Self::Http1(stream, _) => {
                let _ = stream.shutdown().await;
            }
            Self::Http2(_, send) => {
                let _ = send.send_data(Bytes::new(), true);
            }
        }
    }

    /// Breaks off.
    pub fn reset(self) {
        match self {
            Self::Http1(stream, _) => {
                let _ = stream.set_zero_linger();
            }
            Self::Http2(_, mut send) => send.send_reset(Reason::CANCEL),
        }
    }
}

/// An upstream that switches protocols. What it does then is said by the path: `/echo`; `/bye` says
/// something and ends; `/break` says
/// something and breaks off once it is answered; `/hold` says something and never ends.
/// `/no` is refused, `/ok` and `/long` answered with 200 by HTTP/1.1.
#[derive(Debug)]
pub struct Switching {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Seen,
    task: JoinHandle<()>,
}

type Seen = Arc<Mutex<Vec<Value>>>;

impl Switching {
    /// Starts one that speaks HTTP/1.1, and HTTP/2 with prior knowledge. If `says_so` it takes CONNECT for
    /// other protocols, else that is an error of the protocol.
    pub async fn start(says_so: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, Arc::clone(&noted), says_so));
            }
        });
        Self { address, seen, task }
    }

    /// What it was asked since the last time, and how each tunnel ended for it, once all have, or will not.
    pub async fn take_seen(&self) -> Vec<Value> {
        let _ = wait::until_or(PATIENCE, || async {
            let all_ended = self.seen.lock().unwrap().iter().all(|one| !one["end"].is_null());
            all_ended.then_some(()).ok_or(())
        })
        .await;
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Switching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Notes a request; gives its place.
fn note(seen: &Seen, head: Value) -> usize {
    let mut seen = seen.lock().unwrap();
    seen.push(json!({"head": head, "end": null}));
    seen.len() - 1
}

fn note_end(seen: &Seen, place: usize, end: &str) {
    if let Some(seen) = seen.lock().unwrap().get_mut(place) {
        seen["end"] = end.into();
    }
}

async fn serve(stream: TcpStream, seen: Seen, says_so: bool) {
    let mut start = [0; 3];
    let is_http2 = matches!(stream.peek(&mut start).await, Ok(3)) && start == *b"PRI";
    if is_http2 {
        return serve_http2(stream, seen, says_so).await;
    }
    let (mut stream, mut ahead) = (stream, Vec::new());
    while let Some(head) = read_until(&mut stream, &mut ahead, b"\r\n\r\n").await {
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let place = note(&seen, parse_head(&head));
        let long = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {LONG_BYTES}\r\n\r\n{}",
            "x".repeat(LONG_BYTES)
        );
        let answer = match &*path {
            "/long" => &*long,
            "/no" => "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
            "/ok" => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            _ if head.contains("upgrade: websocket") => {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n"
            }
            _ => "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if answer.contains(" 101 ") {
            return play(&path, Tunnel::Http1(stream, ahead), (seen, place)).await;
        }
        note_end(&seen, place, "answered");
    }
}

async fn serve_http2(stream: TcpStream, seen: Seen, says_so: bool) {
    let mut builder = h2::server::Builder::new();
    if says_so {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        let protocol = head.extensions.get::<Protocol>().map(|protocol| protocol.as_str());
        let line = format!("{} {} {protocol:?}", head.method, head.uri.path());
        let place = note(&seen, json!([line, fields(&head.headers)]));
        let path = head.uri.path().to_owned();
        let refused = path == "/no" || head.method != Method::CONNECT;
        let status = if refused { StatusCode::FORBIDDEN } else { StatusCode::OK };
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        let Ok(mut send) = respond.send_response(answer, false) else { continue };
        if refused {
            let _ = send.send_data(Bytes::from_static(b"no"), true);
            note_end(&seen, place, "answered");
            continue;
        }
        let noted = (Arc::clone(&seen), place);
        tokio::spawn(async move { play(&path, Tunnel::Http2(body, send), noted).await });
    }
}

async fn play(path: &str, mut tunnel: Tunnel, (seen, place): (Seen, usize)) {
    let ended = match path {
        "/break" => {
            tunnel.write("break").await;
            // What was said before is heard, then.
            let _ = tunnel.read().await;
            tunnel.reset();
            return note_end(&seen, place, "own");
        }
        "/bye" => {
            tunnel.write("bye").await;
            tunnel.finish().await;
            to_end(&mut tunnel).await
        }
        "/hold" => {
            tunnel.write("held").await;
            to_end(&mut tunnel).await
        }
        _ => loop {
            match tunnel.read().await {
                Ok(bytes) => tunnel.write(&String::from_utf8_lossy(&bytes)).await,
                Err(end) => {
                    tunnel.finish().await;
                    break end;
                }
            }
        },
    };
    note_end(&seen, place, &format!("{ended:?}"));
    if path == "/hold" {
        std::future::pending().await
    }
}

async fn to_end(tunnel: &mut Tunnel) -> End {
    loop {
        if let Err(end) = tunnel.read().await {
            return end;
        }
    }
}

/// Fields in order of name, without what differs from run to run.
fn fields(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !["date", "x-request-id", "content-length"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    for line in &mut lines {
        if line.starts_with("x-envoy-upstream-service-time: ") {
            *line = "x-envoy-upstream-service-time: <ms>".into();
        }
    }
    lines.sort();
    lines
}

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By an upgrade of HTTP/1.1.
    Http1,
    /// By a CONNECT of HTTP/2.
    Http2,
}

/// An answer, and the tunnel where there is one.
#[derive(Debug)]
pub struct Switched {
    /// The head, and the body where there is no tunnel.
    pub answer: Value,
    /// What was agreed on.
    pub tunnel: Option<Tunnel>,
    /// Whether the other side says that it takes CONNECT for other protocols.
    pub says_so: Option<bool>,
}

/// Asks for `protocol` at `path`, with more headers.
///
/// # Errors
/// When there is no answer.
pub async fn switch(
    address: SocketAddr,
    by: By,
    (path, protocol): (&str, &str),
    headers: &[(&str, &str)],
) -> Result<Switched> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match by {
        By::Http1 => upgrade(stream, (path, protocol), headers).await,
        By::Http2 => connect(stream, (path, protocol), headers).await,
    }
}

async fn upgrade(
    mut stream: TcpStream,
    (path, protocol): (&str, &str),
    headers: &[(&str, &str)],
) -> Result<Switched> {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut ahead = Vec::new();
    let head = read_until(&mut stream, &mut ahead, b"\r\n\r\n").await.context("no answer")?;
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let mut tunnel = Tunnel::Http1(stream, ahead);
    if head.starts_with("http/1.1 101") {
        return Ok(Switched { answer: parse_head(&head), tunnel: Some(tunnel), says_so: None });
    }
    let (body, _) = tunnel.rest().await;
    Ok(Switched { answer: json!([parse_head(&head), body]), tunnel: None, says_so: None })
}

async fn connect(
    stream: TcpStream,
    (path, protocol): (&str, &str),
    headers: &[(&str, &str)],
) -> Result<Switched> {
    let (mut send, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let mut request = Request::connect(format!("http://a.test{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.extension(Protocol::from(protocol)).body(())?;
    send = send.ready().await?;
    let (answer, send_stream) = send.send_request(request, false)?;
    let answer = match timeout(PATIENCE * 5, answer).await? {
        Ok(answer) => answer,
        Err(_) => {
            let says_so = Some(send.is_extended_connect_protocol_enabled());
            return Ok(Switched { answer: json!("refused"), tunnel: None, says_so });
        }
    };
    let says_so = Some(send.is_extended_connect_protocol_enabled());
    let (head, body) = answer.into_parts();
    let answer = json!([head.status.as_u16(), fields(&head.headers)]);
    let mut tunnel = Tunnel::Http2(body, send_stream);
    if head.status == StatusCode::OK {
        return Ok(Switched { answer, tunnel: Some(tunnel), says_so });
    }
    let (body, _) = tunnel.rest().await;
    Ok(Switched { answer: json!([answer, body]), tunnel: None, says_so })
}
