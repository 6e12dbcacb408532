//! Connections of one worker to endpoints.

mod address;
mod endpoint;
mod frames;
mod guarded;
mod http1;
mod http2;
mod request;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::body::flow::LargeBodies;
use crate::cluster::endpoints::{Endpoint, Home};
use crate::cluster::failure::{UpstreamError, UpstreamFailure};
use crate::cluster::live::{EndpointSlot, Slot};
use crate::cluster::pool::address::AddressHasher;
use crate::cluster::pool::endpoint::{Pool, Ready};
use crate::cluster::protocol::UpstreamProtocol;
use crate::cluster::purpose::Purpose;
use crate::telemetry::stats::Limit;
use crate::tls::client::Offer;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// How many connections in a row may turn out to be gone when they are used.
const STALE_MAX: usize = 4;

/// The connections of one worker. Cheap to clone; lives on the worker's thread.
#[derive(Debug, Clone)]
pub struct Pools(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    tasks: TaskTracker,
    large: LargeBodies,
    /// By the address of the connector, which the pool keeps in its place, and the offer.
    pools: RefCell<HashMap<usize, Rc<Pool>, BuildHasherDefault<AddressHasher>>>,
    /// Where connections are not for just any request.
    special: RefCell<HashMap<(usize, Purpose), Rc<Pool>>>,
    is_closed: Cell<bool>,
}

/// What a request in flight takes up: a place under the cluster's limit, and in the endpoint's
/// count.
type Occupied = (Slot, EndpointSlot);

/// A connection to an endpoint, as logs speak of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its address on this side; a socket on a path has none.
    pub local: Option<SocketAddr>,
    /// What it speaks.
    pub protocol: Version,
}

impl Pools {
    /// No connection yet. Connections are driven by local tasks of `tasks`.
    pub fn new(tasks: TaskTracker) -> Self {
        let inner = Inner {
            tasks,
            large: LargeBodies::default(),
            pools: RefCell::default(),
            special: RefCell::default(),
            is_closed: Cell::new(false),
        };
        Self(Rc::new(inner))
    }

    /// Sends a request and gives the head of the response. The connection is busy until the body
    /// has been read to its end; dropping the body, or this future, cancels the request upstream.
    /// Where the protocol was switched the response has no body, but it counts while it is kept.
    ///
    /// The request is in origin form with a `host` field, its hop-by-hop fields are gone but for
    /// those of an upgrade; it is put into the form of the protocol that the connection speaks.
    ///
    /// # Errors
    /// Why there is no response, with the request itself when not a byte of it was written.
    pub async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, UpstreamError> {
        self.send_by(endpoint, Box::new(request), &mut None).await
    }

    /// As [`Self::send`]; notes in `link` which connection takes the request.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_by(
        &self,
        endpoint: &Arc<Endpoint>,
        mut request: Box<http::Request<Body>>,
        link: &mut Option<Rc<Link>>,
    ) -> Result<http::Response<Body>, UpstreamError> {
        let Home { config, live } = &*endpoint.home;
        let Some(slot) = Slot::under(live, Limit::Requests, &config.breakers) else {
            return Err(UpstreamError::new(UpstreamFailure::Overflow, Some(request), None));
        };
        let mut in_flight = Some((slot, EndpointSlot::new(&endpoint.live)));
        let connection = &endpoint.connector.config;
        let offer = offer(connection.protocol, &request);
        let purpose = Purpose::of(&request, endpoint);
        let pool = match purpose.is_general() {
            true => self.pool(endpoint, offer),
            false => self.special_pool(endpoint, offer, purpose),
        };
        for _ in 0..STALE_MAX {
            match attempt(&pool, endpoint, (&mut in_flight, link), request).await {
                // The connection was gone before it took the request: not even a retry.
                Err(UpstreamError {
                    reason: UpstreamFailure::ReusedClosed,
                    request: Some(unsent),
                    ..
                }) => request = unsent,
                result => return result,
            }
        }
        Err(UpstreamError::new(UpstreamFailure::ReusedClosed, Some(request), None))
    }

    /// Closes connections that lay idle for too long or whose endpoints left, once a second until
    /// `shutdown`; then all that are idle, and from then on each that becomes idle.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
            self.retire();
        }
        self.0.is_closed.set(true);
        let pools = std::mem::take(&mut *self.0.pools.borrow_mut());
        let special = std::mem::take(&mut *self.0.special.borrow_mut());
        for pool in pools.into_values().chain(special.into_values()) {
            pool.close();
        }
    }

    /// Closes connections that lay idle for too long or whose endpoints left.
    pub fn retire(&self) {
        let now = Instant::now();
        let is_used = |pool: &Rc<Pool>| {
            pool.sweep(now);
            !pool.is_useless()
        };
        self.0.pools.borrow_mut().retain(|_, pool| is_used(pool));
        self.0.special.borrow_mut().retain(|_, pool| is_used(pool));
    }

    fn shared(&self) -> (TaskTracker, LargeBodies) {
        (self.0.tasks.clone(), self.0.large.clone())
    }

    /// The large bodies that are under way in the worker.
    pub fn large_bodies(&self) -> LargeBodies {
        self.0.large.clone()
    }

    fn pool(&self, endpoint: &Endpoint, offer: Offer) -> Rc<Pool> {
        // An address is even, thrice over; the offer fits below.
        let key = Arc::as_ptr(&endpoint.connector).addr() | offer as usize;
        let mut pools = self.0.pools.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| {
            let purpose = Purpose::default();
            Pool::new(endpoint, (offer, purpose), self.shared(), self.0.is_closed.get())
        });
        Rc::clone(pool)
    }

    fn special_pool(&self, endpoint: &Endpoint, offer: Offer, purpose: Purpose) -> Rc<Pool> {
        let key = Arc::as_ptr(&endpoint.connector).addr() | offer as usize;
        let mut pools = self.0.special.borrow_mut();
        let (shared, is_closed) = (self.shared(), self.0.is_closed.get());
        let make = || Pool::new(endpoint, (offer, purpose.clone()), shared, is_closed);
        let pool = pools.entry((key, purpose.clone())).or_insert_with(make);
        Rc::clone(pool)
    }
}

async fn attempt(
    pool: &Rc<Pool>,
    endpoint: &Arc<Endpoint>,
    (in_flight, link): (&mut Option<Occupied>, &mut Option<Rc<Link>>),
    request: Box<http::Request<Body>>,
) -> Result<http::Response<Body>, UpstreamError> {
    let ready = pool.acquire(endpoint).await;
    *link = ready.as_ref().ok().map(|ready| Rc::clone(ready.link()));
    match ready {
        Ok(Ready::Http1(connection)) => {
            http1::send(Rc::clone(pool), connection, in_flight, request).await
        }
        Ok(Ready::Http2(stream)) => http2::send(stream, in_flight, request).await,
        Err(refusal) => {
            let source = refusal.source.map(Into::into);
            Err(UpstreamError::new(refusal.reason, Some(request), source))
        }
    }
}

fn offer(protocol: UpstreamProtocol, request: &http::Request<Body>) -> Offer {
    let is_upgrade = || request.headers().contains_key(http::header::UPGRADE);
    match protocol {
        UpstreamProtocol::Http1 => Offer::Http1,
        UpstreamProtocol::Http2 => Offer::Http2,
        UpstreamProtocol::Auto if is_upgrade() => Offer::Http1,
        UpstreamProtocol::Auto => Offer::Both,
        UpstreamProtocol::Downstream if request.version() == http::Version::HTTP_2 => Offer::Http2,
        UpstreamProtocol::Downstream => Offer::Http1,
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use xds_proto::convert::Address;

    use super::testing::{
        Client, Settings, Speaks, Upstream, endpoints, locally, read_head, reply, request,
        scripted, until,
    };
    use super::*;
    use crate::cluster::live::Breakers;
    use crate::cluster::protocol::ConnectionConfig;

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    fn over_http2(breakers: Breakers) -> Settings {
        let connection =
            ConnectionConfig { protocol: UpstreamProtocol::Http2, ..ConnectionConfig::default() };
        Settings { connection, breakers, ..Settings::default() }
    }

    #[tokio::test]
    async fn a_connection_serves_one_request_after_the_other() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http1, None).await;
            let client = Client::new(upstream.address, Settings::default());
            for _ in 0..5 {
                assert_eq!(client.get("/a").await.unwrap(), "up.test /a ");
            }
            assert_eq!(upstream.accepted(), 1);
            let live = &client.cluster.endpoints[0].live;
            assert_eq!((live.requests.load(Relaxed), live.requests_total.load(Relaxed)), (0, 5));
            assert_eq!(client.cluster.live.requests.load(Relaxed), 0);
            assert_eq!(client.cluster.live.connections.load(Relaxed), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_is_busy_until_the_body_is_read_and_closed_if_it_never_is() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http1, None).await;
            let client = Client::new(upstream.address, Settings::default());
            let unread = client.send(request("/a")).await.unwrap();
            client.get("/b").await.unwrap();
            assert_eq!(upstream.accepted(), 2);
            assert_eq!(client.cluster.live.requests.load(Relaxed), 1);
            drop(unread);
            until(|| upstream.seen.ended.get() == 1).await;
            assert_eq!(client.cluster.live.requests.load(Relaxed), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn giving_up_on_a_request_closes_its_connection() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http1, None).await;
            let client = Client::new(upstream.address, Settings::default());
            let waiting = tokio::time::timeout(Duration::from_millis(20), client.get("/wait"));
            assert!(waiting.await.is_err());
            until(|| client.cluster.live.connections.load(Relaxed) == 0).await;
            assert_eq!(client.cluster.live.requests.load(Relaxed), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_closed_or_says_more_than_asked_is_not_used_again() {
        locally(async {
            let surplus = format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil");
            for first in [OK, &OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"), &surplus] {
                let first = first.to_owned();
                let (address, accepted) = scripted(move |mut stream, count| {
                    let first = first.clone();
                    async move {
                        reply(&mut stream, if count == 1 { &first } else { OK }).await;
                        if first != OK {
                            // Stays open, but for what it said.
                            read_head(&mut stream).await;
                        }
                    }
                })
                .await;
                let client = Client::new(address, Settings::default());
                assert_eq!(client.get("/").await.unwrap(), "ok");
                let live = &client.cluster.live;
                until(|| live.connections.load(Relaxed) == 0).await;
                assert_eq!(client.get("/").await.unwrap(), "ok");
                assert_eq!(accepted.get(), 2);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_close_in_the_race_of_keep_alive_is_told_from_others() {
        locally(async {
            let (address, _) = scripted(|mut stream, count| async move {
                if count == 1 {
                    reply(&mut stream, OK).await;
                }
                read_head(&mut stream).await;
            })
            .await;
            let client = Client::new(address, Settings::default());
            client.get("/").await.unwrap();
            let reused = client.get("/").await.unwrap_err();
            assert_eq!(reused.reason, UpstreamFailure::ReusedClosed);
            assert!(reused.request.is_none());
            assert_eq!(client.get("/").await.unwrap_err().reason, UpstreamFailure::Closed);
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_no_response_is_a_protocol_error() {
        locally(async {
            let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
            let large = format!("x: {}\r\n", "y".repeat(61 * 1024));
            for bad in [
                "SSH-2.0-OpenSSH_9\r\n\r\n".to_owned(),
                format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
                format!("HTTP/1.1 200 OK\r\n{large}\r\n"),
            ] {
                let (address, _) = scripted(move |mut stream, _| {
                    let bad = bad.clone();
                    async move {
                        reply(&mut stream, &bad).await;
                    }
                })
                .await;
                let client = Client::new(address, Settings::default());
                let error = client.get("/").await.unwrap_err();
                assert_eq!(error.reason, UpstreamFailure::Protocol, "{:?}", error.source);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_request_that_finds_no_connection_is_given_back() {
        locally(async {
            let address = "127.0.0.1:1".parse().unwrap();
            let client = Client::new(address, Settings::default());
            let error = client.get("/a").await.unwrap_err();
            assert_eq!(error.reason, UpstreamFailure::Connect);
            assert_eq!(error.request.unwrap().uri(), "/a");
            assert_eq!(client.cluster.live.connections.load(Relaxed), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn limits_make_requests_wait_and_then_overflow() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http1, None).await;
            let breakers = Breakers {
                connections_max: 1,
                pending_max: 1,
                requests_max: 3,
                ..Breakers::default()
            };
            let settings = Settings { breakers, ..Settings::default() };
            let client = Rc::new(Client::new(upstream.address, settings));
            let live = Arc::clone(&client.cluster.live);
            let spawn = |path: &'static str| {
                let client = Rc::clone(&client);
                tokio::task::spawn_local(async move { client.get(path).await })
            };
            let first = spawn("/wait");
            until(|| upstream.seen.busy.get() == 1).await;
            let second = spawn("/second");
            until(|| live.pending.load(Relaxed) == 1).await;
            let third = client.get("/third").await.unwrap_err();
            assert_eq!(third.reason, UpstreamFailure::Overflow);
            assert!(third.request.is_some());
            upstream.tickets.add_permits(1);
            assert_eq!(first.await.unwrap().unwrap(), "up.test /wait ");
            assert_eq!(second.await.unwrap().unwrap(), "up.test /second ");
            assert_eq!(upstream.accepted(), 1);
            assert_eq!((live.pending.load(Relaxed), live.requests.load(Relaxed)), (0, 0));
        })
        .await;
    }

    #[tokio::test]
    async fn connections_end_by_age_of_idleness_and_by_count() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http1, None).await;
            let mut connection = ConnectionConfig { requests_max: Some(2), ..Default::default() };
            let settings = Settings { connection: connection.clone(), ..Settings::default() };
            let mut client = Client::new(upstream.address, settings);
            let get = |client: Client| {
                Box::pin(async move {
                    client.get("/").await.unwrap();
                    client
                })
            };
            for _ in 0..4 {
                client = get(client).await;
            }
            assert_eq!(upstream.accepted(), 2);
            connection.idle_timeout = Some(Duration::from_millis(5));
            let settings = Settings { connection, ..Settings::default() };
            let client = get(Client::new(upstream.address, settings)).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            get(client).await;
            assert_eq!(upstream.accepted(), 4);
        })
        .await;
    }

    #[tokio::test]
    async fn endpoints_that_stay_keep_their_connections_and_those_that_left_lose_them() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http1, None).await;
            let mut client = Client::new(upstream.address, Settings::default());
            client.get("/").await.unwrap();
            let other = Address::Ip("127.0.0.1:1".parse().unwrap());
            client.relink(endpoints(&[Address::Ip(upstream.address), other.clone()]));
            client.pools.retire();
            client.relink(endpoints(&[Address::Ip(upstream.address)]));
            let unread = client.send(request("/")).await.unwrap();
            assert_eq!(upstream.accepted(), 1);
            client.get("/").await.unwrap();
            client.relink(endpoints(&[other]));
            client.pools.retire();
            until(|| upstream.seen.ended.get() == 1).await;
            // What is busy finishes, and is not kept.
            unread.into_body().collect().await.unwrap();
            until(|| upstream.seen.ended.get() == 2).await;
        })
        .await;
    }

    #[tokio::test]
    async fn many_requests_share_an_http2_connection() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http2 { streams_max: 100 }, None).await;
            let client = Client::new(upstream.address, over_http2(Breakers::default()));
            let all = (0..50).map(|_| client.get("/a"));
            for answer in futures_util::future::join_all(all).await {
                assert_eq!(answer.unwrap(), "up.test /a ");
            }
            assert_eq!(upstream.accepted(), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_http2_connection_makes_requests_wait_or_gets_company() {
        locally(async {
            for (connections_max, expected) in [(1, 1), (8, 5)] {
                let upstream = Upstream::start(Speaks::Http2 { streams_max: 2 }, None).await;
                let breakers = Breakers { connections_max, ..Breakers::default() };
                let client = Client::new(upstream.address, over_http2(breakers));
                // The first answer comes after the upstream has told its limit.
                client.get("/").await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                let all = (0..10).map(|_| client.get("/wait"));
                let give = async {
                    for _ in 0..10 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        upstream.tickets.add_permits(1);
                    }
                };
                let (answers, ()) = tokio::join!(futures_util::future::join_all(all), give);
                assert!(answers.iter().all(Result::is_ok), "{answers:?}");
                assert_eq!(upstream.accepted(), expected);
                assert!(upstream.seen.busiest.get() <= 2 * expected);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_that_goes_away_finishes_and_is_followed_by_another() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http2 { streams_max: 10 }, None).await;
            let client = Rc::new(Client::new(upstream.address, over_http2(Breakers::default())));
            let task = Rc::clone(&client);
            let waiting = tokio::task::spawn_local(async move { task.get("/wait").await });
            until(|| upstream.seen.busy.get() == 1).await;
            upstream.goes_away.set(true);
            until(|| !upstream.goes_away.get()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(client.get("/a").await.unwrap(), "up.test /a ");
            upstream.tickets.add_permits(1);
            assert_eq!(waiting.await.unwrap().unwrap(), "up.test /wait ");
            assert_eq!(upstream.accepted(), 2);
        })
        .await;
    }

    #[tokio::test]
    async fn an_upgrade_gives_the_connection_away() {
        locally(async {
            let (address, _) = scripted(|mut stream, _| async move {
                let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                            upgrade: echo\r\n\r\n";
                reply(&mut stream, head).await;
                let mut said = [0; 4];
                stream.read_exact(&mut said).await.unwrap();
                stream.write_all(&said).await.unwrap();
            })
            .await;
            let client = Client::new(address, Settings::default());
            let mut request = request("/");
            request.headers_mut().insert("connection", "upgrade".parse().unwrap());
            request.headers_mut().insert("upgrade", "echo".parse().unwrap());
            let mut response = client.send(request).await.unwrap();
            assert_eq!(response.status(), 101);
            let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
            let mut tunnel = hyper_util::rt::TokioIo::new(upgraded);
            tunnel.write_all(b"ping").await.unwrap();
            let mut said = [0; 4];
            tunnel.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"ping");
            assert_eq!(client.cluster.live.requests.load(Relaxed), 1);
            drop(response);
            assert_eq!(client.cluster.live.requests.load(Relaxed), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_socket_in_the_file_system_is_an_endpoint_too() {
        locally(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("up.sock");
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_u8().await.unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
            });
            let pipe = Address::Pipe(path.to_str().unwrap().into());
            let client = Client::of(endpoints(&[pipe]), Settings::default());
            assert_eq!(client.get("/").await.unwrap(), "ok");
        })
        .await;
    }

    #[tokio::test]
    async fn after_the_last_sweep_nothing_is_kept() {
        locally(async {
            let upstream = Upstream::start(Speaks::Http1, None).await;
            let client = Client::new(upstream.address, Settings::default());
            client.get("/").await.unwrap();
            let shutdown = CancellationToken::new();
            shutdown.cancel();
            client.pools.sweep(shutdown).await;
            until(|| upstream.seen.ended.get() == 1).await;
            client.get("/").await.unwrap();
            until(|| upstream.seen.ended.get() == 2).await;
        })
        .await;
    }
}
