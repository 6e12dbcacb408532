//! A small steady load on both proxies, which counts what each step of the story served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// More requests a second than these get one more connection to each proxy.
const RATE_PER_CONNECTION: u32 = 200;
const CONNECTIONS_MAX: u32 = 16;
/// No answer within this is a failed request.
const LIMIT: Duration = Duration::from_secs(5);
/// How many steps a story may have.
pub const STEPS_MAX: usize = 8;

/// What the requests that began in one step got.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answered by shop-v1.
    pub v1: AtomicUsize,
    /// Answered by shop-v2.
    pub v2: AtomicUsize,
    /// Not answered, or with another status than 200.
    pub failed: AtomicUsize,
    /// Connections that the proxy closed.
    pub closed: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shared {
    step: AtomicUsize,
    tallies: [Tally; STEPS_MAX],
    stop: CancellationToken,
}

/// The running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
}

impl Load {
    /// Starts so many requests a second, spread over both proxies, on connections that are kept.
    pub fn start(rate: u32, proxies: [SocketAddr; 2], tasks: &TaskTracker) -> Self {
        let shared = Arc::<Shared>::default();
        if rate > 0 {
            let per_proxy = rate.div_ceil(2).div_ceil(RATE_PER_CONNECTION).min(CONNECTIONS_MAX);
            let pause = Duration::from_secs(1) * per_proxy * 2 / rate;
            for (number, proxy) in proxies.into_iter().enumerate() {
                for _ in 0..per_proxy {
                    let worker = Worker { proxy, shared: shared.clone(), connection: None };
                    // The proxies take turns.
                    let offset = pause / 2 * u32::try_from(number).unwrap_or_default();
                    tasks.spawn(worker.run(pause, offset));
                }
            }
        }
        Self { shared }
    }

    /// From here on requests count for this step.
    pub fn begin_step(&self, step: usize) {
        self.shared.step.store(step.min(STEPS_MAX - 1), Ordering::Release);
    }

    /// What a step served so far.
    pub fn tally(&self, step: usize) -> &Tally {
        &self.shared.tallies[step.min(STEPS_MAX - 1)]
    }

    /// Ends the load; requests under way are dropped.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }
}

/// One connection and its requests.
struct Worker {
    proxy: SocketAddr,
    shared: Arc<Shared>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

/// What a request got.
enum Got {
    V1,
    V2,
    Failed,
}

impl Worker {
    async fn run(mut self, pause: Duration, offset: Duration) {
        let stop = self.shared.stop.clone();
        let requests = async {
            tokio::time::sleep(offset).await;
            let mut ticks = interval(pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            // The proxies have no listeners before the example is applied.
            while self.connect().await.is_err() {
                ticks.tick().await;
            }
            loop {
                ticks.tick().await;
                self.request().await;
            }
        };
        tokio::select! {
            () = requests => {}
            () = stop.cancelled() => {}
        }
    }

    async fn request(&mut self) {
        let step = self.shared.step.load(Ordering::Acquire);
        let got = timeout(LIMIT, self.exchange(step)).await.unwrap_or(Got::Failed);
        if matches!(got, Got::Failed) {
            self.connection = None;
        }
        let tally = &self.shared.tallies[step];
        let counter = match got {
            Got::V1 => &tally.v1,
            Got::V2 => &tally.v2,
            Got::Failed => &tally.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    async fn exchange(&mut self, step: usize) -> Got {
        let closed = &self.shared.tallies[step].closed;
        if self.connection.as_ref().is_some_and(SendRequest::is_closed) {
            closed.fetch_add(1, Ordering::Relaxed);
            self.connection = None;
        }
        if self.connection.is_none() && self.connect().await.is_err() {
            return Got::Failed;
        }
        let Some(connection) = &mut self.connection else { return Got::Failed };
        let request = Request::get("/hello").header(HOST, "shop.example").body(Empty::new());
        let Ok(request) = request else { return Got::Failed };
        let Ok(response) = connection.send_request(request).await else {
            self.shared.tallies[step].closed.fetch_add(1, Ordering::Relaxed);
            return Got::Failed;
        };
        let closes = response.headers().get(CONNECTION).is_some_and(|value| value == "close");
        let status = response.status();
        let Ok(body) = response.into_body().collect().await else { return Got::Failed };
        if closes {
            self.shared.tallies[step].closed.fetch_add(1, Ordering::Relaxed);
            self.connection = None;
        }
        match (status, &*body.to_bytes()) {
            (StatusCode::OK, b"hello from shop-v1\n") => Got::V1,
            (StatusCode::OK, b"hello from shop-v2\n") => Got::V2,
            _ => Got::Failed,
        }
    }

    async fn connect(&mut self) -> std::io::Result<()> {
        let stream = TcpStream::connect(self.proxy).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // Ends with the connection, which ends with the sender.
        TaskTracker::new().spawn(connection);
        self.connection = Some(sender);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::backend;

    #[tokio::test]
    async fn what_each_step_served_is_counted_for_it() {
        let tasks = TaskTracker::new();
        let proxies = [
            backend::start("shop-v1", &tasks).await.unwrap(),
            backend::start("shop-v2", &tasks).await.unwrap(),
        ];
        let load = Load::start(400, proxies, &tasks);
        let served = |step: usize| {
            let Tally { v1, v2, failed, closed } = load.tally(step);
            [v1, v2, failed, closed].map(|counter| counter.load(Ordering::Relaxed))
        };
        let until = async |step: usize| {
            while served(step)[0] < 5 || served(step)[1] < 5 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), until(0)).await.unwrap();
        load.begin_step(1);
        timeout(Duration::from_secs(10), until(1)).await.unwrap();
        load.stop();
        assert_eq!((served(0)[2..].to_vec(), served(1)[2..].to_vec()), (vec![0, 0], vec![0, 0]));
    }
}
