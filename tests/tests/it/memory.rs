//! What waits for those who read slowly is bounded: the memory of the proxy says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use gateway_tests::client::get;
use gateway_tests::gateway::{ControlPlane, LIMIT, Proxy, folder};
use gateway_tests::process::resident_kib;
use gateway_tests::{documents, ports, wait};
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far more than the sockets of a connection hold.
const BODY_BYTES: usize = 16 << 20;

/// Answers with 16 MiB; what is posted it does not read.
struct Endless {
    address: SocketAddr,
    posts: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Endless {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let posts = Arc::default();
        let count = Arc::clone(&posts);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(answer(stream, Arc::clone(&count)));
            }
        });
        Self { address, posts, task }
    }

    /// Waits until so many bodies have begun to come.
    async fn has_posts(&self, wanted: usize) {
        wait::until("uploads to begin", LIMIT, || async {
            let begun = self.posts.load(Relaxed);
            if begun == wanted { Ok(()) } else { Err(begun) }
        })
        .await;
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, posts: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    if head.starts_with(b"POST") {
        posts.fetch_add(1, Relaxed);
        return std::future::pending().await;
    }
    let length = if head.starts_with(b"GET /small ") { 5 } else { BODY_BYTES };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    let piece = vec![b'x'; length.min(64 * 1024)];
    for _ in 0..length / piece.len() {
        if stream.write_all(&piece).await.is_err() {
            return;
        }
    }
}

/// A proxy, warm, and where it listens.
async fn started(
    control: &ControlPlane,
    upstream: SocketAddr,
    manager: Value,
) -> (Proxy, SocketAddr) {
    let port = ports::free();
    let mut listener = documents::raw_listener("l", port, "r", &[]);
    let own = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    for (key, value) in manager.as_object().into_iter().flatten() {
        own[key] = value.clone();
    }
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a", "timeout": "0s"}}]);
    let mut all = vec![listener, documents::raw_routes("r", &routes)];
    all.extend(documents::raw_cluster("a", upstream));
    control.put_group("n1", &all).await;
    let proxy = Proxy::start(control.xds, "n1", "x").await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..50 {
        assert_eq!(get(address, "a.test", "/small").await.unwrap().status, 200);
    }
    (proxy, address)
}

fn resident(proxy: &Proxy) -> usize {
    usize::try_from(resident_kib(proxy.process.id())).unwrap() / 1024
}

/// How much the proxy has grown, in MiB, once it grows no more.
async fn grown(proxy: &Proxy, before: usize) -> usize {
    let mut last = (usize::MAX, 0);
    let last = std::sync::Mutex::new(&mut last);
    wait::until("memory to stay as it is", LIMIT, || async {
        let now = resident(proxy);
        let mut last = last.lock().unwrap();
        last.1 = if last.0 == now { last.1 + 1 } else { 0 };
        last.0 = now;
        // Looked at every 10 ms.
        if last.1 >= 100 { Ok(now.saturating_sub(before)) } else { Err(now) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_cost_a_few_pieces_each() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Endless::start().await;
    let (proxy, address) = started(&control, upstream.address, json!({})).await;
    let before = resident(&proxy);
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /big HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
        client.readable().await.unwrap();
        clients.push(client);
    }
    let grown = grown(&proxy, before).await;
    eprintln!("40 clients that do not read: {grown} MiB");
    assert!(grown <= 6, "{grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_not_read_cost_a_few_pieces_each() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Endless::start().await;
    let (proxy, address) = started(&control, upstream.address, json!({})).await;
    let before = resident(&proxy);
    // A window that all of it fits in, on a connection that nobody reads from after that.
    for window in [u32::try_from(BODY_BYTES).unwrap(), 65_535] {
        let socket = TcpStream::connect(address).await.unwrap();
        let builder = h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(1 << 30)
            .handshake::<_, Bytes>(socket);
        let (mut send, connection) = builder.await.unwrap();
        let driver = tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..60 {
            let request = Request::get("http://a.test/big").body(()).unwrap();
            send = send.ready().await.unwrap();
            answers.push(send.send_request(request, true).unwrap().0);
        }
        let mut streams = Vec::new();
        for answer in answers {
            streams.push(answer.await.unwrap());
            if window > 65_535 && streams.len() == 60 {
                driver.abort();
            }
        }
        let grown = grown(&proxy, before).await;
        eprintln!("60 streams that are not read, window {window}: {grown} MiB");
        assert!(grown <= 6, "{grown} MiB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_streams_that_are_no_longer_read_cost_a_few_pieces_each() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Endless::start().await;
    let (proxy, address) = started(&control, upstream.address, json!({})).await;
    let before = resident(&proxy);
    let socket = TcpStream::connect(address).await.unwrap();
    let builder = h2::client::Builder::new()
        .initial_window_size(65_535)
        .initial_connection_window_size(1 << 30)
        .handshake::<_, Bytes>(socket);
    let (mut send, connection) = builder.await.unwrap();
    let _driver = tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..100 {
        let request = Request::get("http://a.test/big").body(()).unwrap();
        send = send.ready().await.unwrap();
        bodies.push(send.send_request(request, true).unwrap().0.await.unwrap().into_body());
    }
    for body in &mut bodies {
        let mut read = 0;
        while read < 400_000 {
            let piece = timeout(LIMIT, body.data()).await.unwrap().unwrap().unwrap();
            read += piece.len();
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
    }
    let grown = grown(&proxy, before).await;
    eprintln!("100 streams that are no longer read: {grown} MiB");
    assert!(grown <= 6, "{grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_not_read_cost_a_few_pieces_each() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let upstream = Endless::start().await;
    let edge = json!({"http2_protocol_options": {
        "initial_stream_window_size": 65_536, "initial_connection_window_size": 1 << 20}});
    let (proxy, address) = started(&control, upstream.address, edge).await;
    let before = resident(&proxy);
    let mut uploads = Vec::new();
    for _ in 0..40 {
        uploads.push(tokio::spawn(async move {
            let mut client = TcpStream::connect(address).await.unwrap();
            let head = format!(
                "POST /up HTTP/1.1\r\nhost: a.test\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![b'y'; 64 * 1024];
            for _ in 0..BODY_BYTES / piece.len() {
                client.write_all(&piece).await.unwrap();
            }
        }));
    }
    upstream.has_posts(40).await;
    let grown1 = grown(&proxy, before).await;
    eprintln!("40 uploads that nobody reads: {grown1} MiB");
    assert!(grown1 <= 7, "{grown1} MiB");

    let socket = TcpStream::connect(address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(socket).await.unwrap();
    let _driver = tokio::spawn(connection);
    let mut streams = Vec::new();
    for _ in 0..60 {
        let request = Request::post("http://a.test/up").body(()).unwrap();
        send = send.ready().await.unwrap();
        let (answer, mut body) = send.send_request(request, false).unwrap();
        let sender = tokio::spawn(async move {
            for _ in 0..BODY_BYTES / (64 * 1024) {
                body.reserve_capacity(64 * 1024);
                while body.capacity() == 0 {
                    if std::future::poll_fn(|context| body.poll_capacity(context)).await.is_none() {
                        return;
                    }
                }
                let piece = Bytes::from(vec![b'y'; body.capacity()]);
                if body.send_data(piece, false).is_err() {
                    return;
                }
            }
        });
        streams.push((answer, sender));
    }
    upstream.has_posts(100).await;
    let grown2 = grown(&proxy, before).await;
    eprintln!("and 60 streams of them: {grown2} MiB");
    assert!(grown2.saturating_sub(grown1) <= 8, "{grown1} MiB, then {grown2} MiB");
}
