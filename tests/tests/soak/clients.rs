//! Clients of all kinds: some stay, some come and go, some leave in the middle.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use gateway_tests::client::{Ask, Connection};
use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep_until};

use crate::pushes::{HOST, Pushes};

/// Clients of each kind.
const EACH: u32 = 4;
/// Requests after which a client that does not stay leaves.
const VISIT: u32 = 20;
/// How many bytes every fifth request brings.
const BODY: usize = 1000;

/// How a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Http1,
    Http2,
    Tls1,
    Tls2,
}

const KINDS: [Kind; 4] = [Kind::Http1, Kind::Http2, Kind::Tls1, Kind::Tls2];

/// What clients saw.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) answers: u64,
    pub(crate) by_kind: BTreeMap<Kind, u64>,
    pub(crate) connections: u64,
    /// Connections that the proxy ended.
    pub(crate) closed: u64,
    pub(crate) failed: Vec<String>,
}

/// Running clients.
#[derive(Debug)]
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts clients that ask so many times a second all together, or as fast as answers come.
    pub(crate) fn start(pushes: &Pushes, rate: Option<f64>) -> Self {
        let (stop, seen) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let count = KINDS.len() as u32 * EACH;
        let pace = rate.map(|rate| Duration::from_secs_f64(f64::from(count) / rate));
        let client = |number: u32| {
            let kind = KINDS[number as usize % KINDS.len()];
            let address = match kind {
                Kind::Http1 | Kind::Http2 => pushes.plain,
                Kind::Tls1 | Kind::Tls2 => pushes.tls,
            };
            // Half of each kind stay for the whole time.
            let visit = if number < count / 2 { u32::MAX } else { VISIT };
            let client = Client { kind, address, visit, number };
            let first = pace.map(|pace| pace.mul_f64(f64::from(number) / f64::from(count)));
            tokio::spawn(client.run(pace, first, Arc::clone(&stop), Arc::clone(&seen)))
        };
        let tasks = (0..count).map(client).collect();
        Self { stop, seen, tasks }
    }

    /// Ends them after the requests under way.
    pub(crate) async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.seen.lock().unwrap().clone()
    }
}

#[derive(Debug, Clone, Copy)]
struct Client {
    kind: Kind,
    address: SocketAddr,
    visit: u32,
    number: u32,
}

impl Client {
    async fn run(
        self,
        pace: Option<Duration>,
        first: Option<Duration>,
        stop: Arc<AtomicBool>,
        seen: Arc<Mutex<Seen>>,
    ) {
        let started = Instant::now();
        let mut next = started + first.unwrap_or_default();
        let mut held: Option<Connection> = None;
        let mut asked = 0;
        while !stop.load(Ordering::Relaxed) {
            if let Some(pace) = pace {
                sleep_until(next).await;
                // What a stalled second missed is not made up for at once.
                next = (next + pace).max(Instant::now() - pace * 10);
            }
            asked += 1;
            let failed = self.ask(&mut held, asked, &seen).await.err();
            let mut seen = seen.lock().unwrap();
            match failed {
                None => {
                    seen.answers += 1;
                    *seen.by_kind.entry(self.kind).or_default() += 1;
                }
                Some(error) => {
                    let at = started.elapsed();
                    seen.failed.push(format!("{at:?} {:?} request {asked}: {error:#}", self.kind));
                    held = None;
                }
            }
            if held.as_ref().is_some_and(Connection::is_closed) {
                seen.closed += 1;
                held = None;
            }
            if asked % self.visit == 0 {
                held = None;
            }
        }
    }

    async fn ask(&self, held: &mut Option<Connection>, n: u32, seen: &Mutex<Seen>) -> Result<()> {
        if held.is_none() {
            seen.lock().unwrap().connections += 1;
            *held = Some(self.connect().await?);
        }
        let paths = ["/main", "/named", "/split", "/split"];
        let mut ask = Ask::get(HOST, paths[(n + self.number) as usize % paths.len()]);
        if n.is_multiple_of(5) {
            ask.method = Method::POST;
            ask.body = vec![b'x'; BODY].into();
        }
        let wanted = ask.body.len().to_string();
        let connection = held.as_mut().unwrap();
        let answer = connection.ask(&ask).await?;
        anyhow::ensure!(
            answer.status == 200 && answer.text() == wanted,
            "{} {}: {:?} {}",
            ask.path,
            answer.status,
            answer.headers,
            answer.text()
        );
        Ok(())
    }

    async fn connect(&self) -> Result<Connection> {
        match self.kind {
            Kind::Http1 => Connection::http1(self.address).await,
            Kind::Http2 => Connection::http2(self.address).await,
            Kind::Tls1 => Ok(Connection::tls(self.address, HOST, &["http/1.1"]).await?.0),
            Kind::Tls2 => Ok(Connection::tls(self.address, HOST, &["h2"]).await?.0),
        }
    }
}

/// Visitors who leave without a word: before they ask, in the middle of a head, in the middle of a body, before the answer.
pub(crate) fn visitors(pushes: &Pushes) -> JoinHandle<()> {
    let addresses = [pushes.plain, pushes.tls];
    let words = [
        String::new(),
        "GET /main HT".to_owned(),
        format!("POST /main HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1000\r\n\r\nxx"),
        format!("GET /main HTTP/1.1\r\nhost: {HOST}\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}".to_owned(),
    ];
    tokio::spawn(async move {
        let mut turns = interval(Duration::from_millis(20));
        for n in 0usize.. {
            turns.tick().await;
            if let Ok(mut stream) = TcpStream::connect(addresses[n % 2]).await {
                let _ = stream.write_all(words[n / 2 % words.len()].as_bytes()).await;
            }
        }
    })
}
