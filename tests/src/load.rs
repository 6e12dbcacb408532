//! Closed-loop load that counts every failure and every closed connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use crate::client::{Ask, Connection};

/// How the load connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// What the load saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Answers by backend.
    pub by_backend: BTreeMap<String, usize>,
    /// Requests without a 200.
    pub failed: Vec<String>,
    /// Connections that the gateway closed.
    pub closed: usize,
}

impl Seen {
    /// All answers.
    pub fn total(&self) -> usize {
        self.by_backend.values().sum()
    }
}

/// Running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `connections` loops that ask `ask` of `address` as fast as answers come.
    pub fn start(address: SocketAddr, protocol: Protocol, connections: usize, ask: Ask) -> Self {
        let (stop, seen) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let tasks = (0..connections)
            .map(|_| {
                tokio::spawn(run(
                    address,
                    protocol,
                    ask.clone(),
                    Arc::clone(&stop),
                    Arc::clone(&seen),
                ))
            })
            .collect();
        Self { stop, seen, tasks }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Ends it after the requests under way.
    pub async fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
        self.seen()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn run(
    address: SocketAddr,
    protocol: Protocol,
    ask: Ask,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
) {
    let connect = async || match protocol {
        Protocol::Http1 => Connection::http1(address).await,
        Protocol::Http2 => Connection::http2(address).await,
    };
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => connect().await,
        };
        let mut open: Connection = match open {
            Ok(open) => open,
            Err(error) => {
                seen.lock().unwrap().failed.push(format!("connect: {error}"));
                continue;
            }
        };
        let answer = open.ask(&ask).await;
        let mut seen = seen.lock().unwrap();
        match answer {
            Ok(answer) if answer.status == 200 => {
                *seen.by_backend.entry(answer.backend().to_owned()).or_default() += 1;
            }
            Ok(answer) => seen.failed.push(format!("{} {}", answer.status, answer.text())),
            Err(error) => seen.failed.push(format!("{error:#}")),
        }
        if open.is_closed() {
            seen.closed += 1;
        } else {
            connection = Some(open);
        }
    }
}
