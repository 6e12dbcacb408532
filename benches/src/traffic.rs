//! HTTP/1 requests over connections that stay, as fast as they are answered or at a steady rate, and who answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes of a response's body.
const BODY_BYTES: usize = 1024;

/// What is asked, one after the other.
pub type Requests = Arc<[Box<[u8]>]>;

/// A request as it goes out.
pub fn request(host: &str, path: &str, more: &str) -> Box<[u8]> {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n").into_bytes().into()
}

/// Answers every request with 1 KiB, on a thread of its own.
///
/// # Errors
/// When there is no port for it.
pub fn backend() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket));
            }
        });
    });
    Ok(address)
}

async fn answer(mut socket: TcpStream) {
    let body = "x".repeat(BODY_BYTES);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY_BYTES}\r\n\r\n{body}");
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = socket.read(&mut piece).await {
        head.extend_from_slice(&piece[..read]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// A client.
struct Client {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    async fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.socket.write_all(request).await?;
        self.buffer.clear();
        loop {
            let read = self.socket.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "closed: {}", String::from_utf8_lossy(&self.buffer));
            let head = self.buffer.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(head) = head {
                ensure!(
                    self.buffer.starts_with(b"HTTP/1.1 200"),
                    "{}",
                    String::from_utf8_lossy(&self.buffer)
                );
                if self.buffer.len() >= head + 4 + BODY_BYTES {
                    return Ok(());
                }
            }
        }
    }
}

/// Asks over so many connections, each as soon as it has its answer. Gives the number of answers.
///
/// # Errors
/// When an answer is not 200.
pub async fn closed(
    address: SocketAddr,
    connections: usize,
    lasts: Duration,
    requests: &Requests,
) -> Result<usize> {
    let until = Instant::now() + lasts;
    let mut clients = JoinSet::new();
    for number in 0..connections {
        let requests = Arc::clone(requests);
        clients.spawn(async move {
            let mut client = Client::connect(address).await?;
            let mut answers = 0;
            for request in requests.iter().cycle().skip(number * requests.len() / connections) {
                if Instant::now() >= until {
                    break;
                }
                client.ask(request).await?;
                answers += 1;
            }
            Ok(answers)
        });
    }
    clients.join_all().await.into_iter().sum()
}

/// Asks at a steady rate over so many connections. Gives how long each answer took from when its
/// request was due.
///
/// # Errors
/// When an answer is not 200.
pub async fn steady(
    address: SocketAddr,
    connections: u32,
    (rate, lasts): (u32, Duration),
    requests: &Requests,
) -> Result<Vec<Duration>> {
    let began = Instant::now();
    let pace = Duration::from_secs(1) * connections / rate;
    let mut clients = JoinSet::new();
    for number in 0..connections {
        let requests = Arc::clone(requests);
        clients.spawn(async move {
            let mut client = Client::connect(address).await?;
            let mut due = began + pace * number / connections;
            let mut took = Vec::new();
            for request in requests.iter().cycle() {
                if due >= began + lasts {
                    break;
                }
                tokio::time::sleep_until(due).await;
                client.ask(request).await?;
                took.push(due.elapsed());
                due += pace;
            }
            Ok(took)
        });
    }
    let all: Result<Vec<_>> = clients.join_all().await.into_iter().collect();
    Ok(all?.concat())
}
