//! Connections of one worker to endpoints.

mod endpoint;
mod http1;
mod http2;
mod request;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::cluster::Cluster;
use crate::cluster::endpoints::Endpoint;
use crate::cluster::failure::{UpstreamError, UpstreamFailure};
use crate::cluster::live::{EndpointSlot, Slot};
use crate::cluster::pool::endpoint::{Pool, Ready};
use crate::cluster::protocol::UpstreamProtocol;
use crate::telemetry::stats::Limit;
use crate::tls::client::Offer;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// The connections of one worker. Cheap to clone; lives on the worker's thread.
#[derive(Debug, Clone)]
pub struct Pools(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    tasks: TaskTracker,
    /// By the address of the connector, which the pool keeps in its place, and the offer.
    pools: RefCell<HashMap<usize, Rc<Pool>, BuildHasherDefault<AddressHasher>>>,
    is_closed: Cell<bool>,
}

/// What a request in flight takes up: a place under the cluster's limit, and in the endpoint's
/// count. The response to an upgrade carries it in its extensions: keep it while the tunnel stands.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "held for what happens when it is dropped")]
pub struct InFlight(Arc<(Slot, EndpointSlot)>);

impl Pools {
    /// No connection yet. Connections are driven by local tasks of `tasks`.
    pub fn new(tasks: TaskTracker) -> Self {
        let inner = Inner { tasks, pools: RefCell::default(), is_closed: Cell::new(false) };
        Self(Rc::new(inner))
    }

    /// Sends a request and gives the head of the response. The connection is busy until the body
    /// has been read to its end; dropping the body, or this future, cancels the request upstream.
    ///
    /// The request is in origin form with a `host` field, its hop-by-hop fields are gone but for
    /// those of an upgrade; it is put into the form of the protocol that the connection speaks.
    ///
    /// # Errors
    /// Why there is no response, with the request itself when not a byte of it was written.
    pub async fn send(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, UpstreamError> {
        let breakers = &cluster.config.breakers;
        let Some(slot) = Slot::under(&cluster.live, Limit::Requests, breakers) else {
            return Err(UpstreamError::new(UpstreamFailure::Overflow, Some(request), None));
        };
        let in_flight = (slot, EndpointSlot::new(&endpoint.live));
        let pool = self.pool(endpoint, offer(endpoint.connector.config.protocol, &request));
        let ready = match pool.acquire(cluster, endpoint).await {
            Ok(ready) => ready,
            Err(refusal) => {
                let source = refusal.source.map(Into::into);
                return Err(UpstreamError::new(refusal.reason, Some(request), source));
            }
        };
        match ready {
            Ready::Http1(connection) => http1::send(pool, connection, in_flight, request).await,
            Ready::Http2(stream) => http2::send(stream, in_flight, request).await,
        }
    }

    /// Closes connections that lay idle for too long or whose endpoints left, once a second until
    /// `shutdown`; then all that are idle, and from then on each that becomes idle.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
            self.retire();
        }
        self.0.is_closed.set(true);
        let pools = std::mem::take(&mut *self.0.pools.borrow_mut());
        for pool in pools.into_values() {
            pool.close();
        }
    }

    /// Closes connections that lay idle for too long or whose endpoints left.
    pub fn retire(&self) {
        let now = Instant::now();
        self.0.pools.borrow_mut().retain(|_, pool| {
            pool.sweep(now);
            !pool.is_useless()
        });
    }

    fn pool(&self, endpoint: &Endpoint, offer: Offer) -> Rc<Pool> {
        // An address is even, thrice over; the offer fits below.
        let key = Arc::as_ptr(&endpoint.connector).addr() | offer as usize;
        let mut pools = self.0.pools.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| {
            Pool::new(endpoint, offer, self.0.tasks.clone(), self.0.is_closed.get())
        });
        Rc::clone(pool)
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

/// Spreads addresses, which differ in the middle, over all bits.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, value: usize) {
        let mixed = (self.0 ^ value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
