//! The connections of one worker to one endpoint: who may use which, open one, or must wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::body::flow::LargeBodies;
use crate::cluster::connect::{ConnectError, Connector, Stream};
use crate::cluster::endpoints::Endpoint;
use crate::cluster::failure::UpstreamFailure;
use crate::cluster::live::{ClusterLive, EndpointLive, EndpointPlace, Slot};
use crate::cluster::pool::Link;
use crate::cluster::pool::http1::{self, Http1};
use crate::cluster::pool::http2::{self, Http2, Http2Stream};
use crate::cluster::purpose::Purpose;
use crate::telemetry::stats::Limit;
use crate::tls::client::Offer;

/// The connections of one worker to one endpoint.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) connector: Arc<Connector>,
    pub(super) tasks: TaskTracker,
    pub(super) large: LargeBodies,
    /// What the endpoint last allowed on an HTTP/2 connection.
    pub(super) streams_max: Cell<Option<usize>>,
    offer: Offer,
    purpose: Purpose,
    /// Gone when no snapshot has the endpoint any more.
    alive: std::sync::Weak<()>,
    is_closed: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one used last is used next, so that the surplus falls idle.
    idle: Vec<Http1>,
    shared: Vec<Rc<Http2>>,
    /// Connections, those in the making among them.
    open: usize,
    /// Connections in the making that may turn out to serve many.
    in_making: usize,
    /// The last connection turned out to be HTTP/1.
    speaks_http1: bool,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// A connection that a request may use.
#[derive(Debug)]
pub(super) enum Ready {
    Http1(Http1),
    Http2(Http2Stream),
}

impl Ready {
    /// The connection, as logs speak of it.
    pub(super) fn link(&self) -> &Rc<Link> {
        match self {
            Self::Http1(connection) => &connection.link,
            Self::Http2(stream) => stream.link(),
        }
    }
}

/// Why a request gets no connection.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: UpstreamFailure,
    pub(super) source: Option<io::Error>,
}

/// What comes to one who waits.
#[derive(Debug)]
enum Turn {
    Use(Ready),
    Connect(Permit),
    Again,
    Failed(UpstreamFailure, io::ErrorKind),
}

/// The right to have one connection open.
#[derive(Debug)]
pub(super) struct Permit {
    pool: Weak<Pool>,
    slot: Option<(Slot, EndpointPlace)>,
    counted: Option<(Arc<ClusterLive>, Arc<EndpointLive>)>,
}

impl Pool {
    pub(super) fn new(
        endpoint: &Endpoint,
        (offer, purpose): (Offer, Purpose),
        (tasks, large): (TaskTracker, LargeBodies),
        is_closed: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            connector: Arc::clone(&endpoint.connector),
            tasks,
            large,
            streams_max: Cell::new(None),
            offer,
            purpose,
            alive: Arc::downgrade(&endpoint.alive),
            is_closed: Cell::new(is_closed),
            state: RefCell::default(),
        })
    }

    /// A connection for a request: an idle one, a share of one, or one made for it.
    pub(super) async fn acquire(self: &Rc<Self>, endpoint: &Endpoint) -> Result<Ready, Refusal> {
        let home = &*endpoint.home;
        if let Some(ready) = self.ready() {
            return Ok(ready);
        }
        let breakers = &home.config.breakers;
        let Some(_pending) = Slot::under(&home.live, Limit::Pending, breakers) else {
            return Err(Refusal { reason: UpstreamFailure::Overflow, source: None });
        };
        loop {
            let turn = match self.permit(endpoint) {
                Some(permit) => Turn::Connect(permit),
                None => self.wait().await.unwrap_or(Turn::Again),
            };
            match turn {
                Turn::Use(ready) => return Ok(ready),
                // Requests that find a connection need no room for making one.
                Turn::Connect(permit) => return Box::pin(self.connect(permit, endpoint)).await,
                Turn::Failed(reason, kind) => {
                    return Err(Refusal { reason, source: Some(kind.into()) });
                }
                Turn::Again => {
                    if let Some(ready) = self.ready() {
                        return Ok(ready);
                    }
                }
            }
        }
    }

    fn ready(self: &Rc<Self>) -> Option<Ready> {
        let mut state = self.state.borrow_mut();
        if self.offer != Offer::Http1 {
            state.shared.retain(|shared| !shared.is_spent(&self.connector.config));
            let free = state.shared.iter().find(|shared| shared.has_room());
            if let Some(free) = free {
                return Some(Ready::Http2(Http2Stream::new(self, free)));
            }
        }
        let now = Instant::now();
        while let Some(connection) = state.idle.pop() {
            if !connection.is_spent(&self.connector.config, now) {
                return Some(Ready::Http1(connection));
            }
        }
        None
    }

    /// The right to open a connection, unless it is better to wait for one in the making, or the
    /// limit is reached and there is one to wait for.
    fn permit(self: &Rc<Self>, endpoint: &Endpoint) -> Option<Permit> {
        let (home, live) = (&endpoint.home, &endpoint.live);
        let mut state = self.state.borrow_mut();
        if self.offer != Offer::Http1 && state.in_making > 0 && !state.speaks_http1 {
            return None;
        }
        let breakers = &home.config.breakers;
        let place = EndpointPlace::under(live, breakers.endpoint_connections_max);
        let slot = place.and_then(|place| {
            Some((Slot::under(&home.live, Limit::Connections, breakers)?, place))
        });
        let slot = match slot {
            None if state.open > 0 => return None,
            None => (Slot::beyond(&home.live, Limit::Connections), EndpointPlace::beyond(live)),
            Some(slot) => slot,
        };
        state.open += 1;
        Some(Permit { pool: Rc::downgrade(self), slot: Some(slot), counted: None })
    }

    fn wait(&self) -> oneshot::Receiver<Turn> {
        let (sender, receiver) = oneshot::channel();
        let waiting = &mut self.state.borrow_mut().waiting;
        if waiting.len() == waiting.capacity() {
            waiting.retain(|sender| !sender.is_closed());
        }
        waiting.push_back(sender);
        receiver
    }

    async fn connect(
        self: &Rc<Self>,
        permit: Permit,
        endpoint: &Endpoint,
    ) -> Result<Ready, Refusal> {
        let in_making = InMaking::new(self);
        match self.connector.connect(self.offer, &self.purpose).await {
            Ok(stream) => {
                let permit = permit.counted(&endpoint.home.live, &endpoint.live);
                let made = self.open(stream, permit).await;
                drop(in_making);
                self.settle(matches!(made, Ok(Ready::Http2(_))));
                made
            }
            Err(ConnectError { reason, source }) => {
                endpoint.live.failures_total.fetch_add(1, Relaxed);
                drop(in_making);
                let is_last = self.state.borrow().open == 1;
                if is_last {
                    self.fail(reason, source.kind());
                }
                drop(permit);
                Err(Refusal { reason, source: Some(source) })
            }
        }
    }

    async fn open(self: &Rc<Self>, stream: Stream, permit: Permit) -> Result<Ready, Refusal> {
        let is_http2 = match self.offer {
            Offer::Http1 => false,
            Offer::Http2 => true,
            Offer::Both => stream.alpn() == Some(b"h2"),
        };
        if !is_http2 {
            return http1::open(self, stream, permit).await.map(Ready::Http1);
        }
        let shared = http2::open(self, stream, permit).await?;
        let stream = Http2Stream::new(self, &shared);
        self.state.borrow_mut().shared.push(shared);
        Ok(Ready::Http2(stream))
    }

    /// A connection was made: those who waited for it may share it, or look again.
    fn settle(self: &Rc<Self>, is_http2: bool) {
        if self.offer == Offer::Http1 {
            return;
        }
        self.state.borrow_mut().speaks_http1 = !is_http2;
        self.fill();
        for waiting in self.take_waiting() {
            give(waiting, Turn::Again);
        }
    }

    /// No connection is left, and none could be made: nobody has anything to wait for.
    fn fail(&self, reason: UpstreamFailure, kind: io::ErrorKind) {
        for waiting in self.take_waiting() {
            give(waiting, Turn::Failed(reason, kind));
        }
    }

    fn take_waiting(&self) -> VecDeque<oneshot::Sender<Turn>> {
        std::mem::take(&mut self.state.borrow_mut().waiting)
    }

    /// The first who still waits.
    fn next_waiting(&self) -> Option<oneshot::Sender<Turn>> {
        let waiting = &mut self.state.borrow_mut().waiting;
        std::iter::from_fn(|| waiting.pop_front()).find(|sender| !sender.is_closed())
    }

    /// Hands streams of shared connections to those who wait, while there is room.
    pub(super) fn fill(self: &Rc<Self>) {
        while let Some(free) = self.free_for_waiting() {
            let Some(next) = self.next_waiting() else { return };
            give(next, Turn::Use(Ready::Http2(Http2Stream::new(self, &free))));
        }
    }

    fn free_for_waiting(&self) -> Option<Rc<Http2>> {
        let state = self.state.borrow();
        if state.waiting.is_empty() {
            return None;
        }
        let config = &self.connector.config;
        let usable = |shared: &&Rc<Http2>| shared.has_room() && !shared.is_spent(config);
        state.shared.iter().find(usable).map(Rc::clone)
    }

    /// Takes back a connection whose response has been read.
    pub(super) fn put(&self, mut connection: Http1) {
        let now = Instant::now();
        connection.rest(now);
        if self.is_retired() || connection.is_spent(&self.connector.config, now) {
            return;
        }
        match self.next_waiting() {
            Some(next) => give(next, Turn::Use(Ready::Http1(connection))),
            None => self.state.borrow_mut().idle.push(connection),
        }
    }

    fn is_retired(&self) -> bool {
        self.is_closed.get() || self.alive.strong_count() == 0
    }

    /// Closes what is idle for too long, all of it when the endpoint left. Busy connections finish.
    pub(super) fn sweep(&self, now: Instant) {
        let mut state = self.state.borrow_mut();
        if self.is_retired() {
            state.idle.clear();
            state.shared.clear();
            return;
        }
        let config = &self.connector.config;
        state.idle.retain(|connection| !connection.is_spent(config, now));
        state.shared.retain(|shared| !shared.is_spent(config) && !shared.is_stale(config, now));
    }

    /// Closes what is idle, and what becomes idle.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.sweep(Instant::now());
    }

    /// Whether nobody would miss it.
    pub(super) fn is_useless(&self) -> bool {
        let state = self.state.borrow();
        self.alive.strong_count() == 0 || state.open == 0 && state.waiting.is_empty()
    }
}

fn give(to: oneshot::Sender<Turn>, turn: Turn) {
    // Who is gone by now lets go of it, which passes it on.
    drop(to.send(turn));
}

/// Counts a connection in the making, until it is made, or not.
struct InMaking(Rc<Pool>);

impl InMaking {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.state.borrow_mut().in_making += 1;
        Self(Rc::clone(pool))
    }
}

impl Drop for InMaking {
    fn drop(&mut self) {
        self.0.state.borrow_mut().in_making -= 1;
    }
}

impl Permit {
    /// The connection stands.
    fn counted(mut self, cluster: &Arc<ClusterLive>, endpoint: &Arc<EndpointLive>) -> Self {
        cluster.stats.connections.increment();
        cluster.stats.connections_total.increment();
        endpoint.connections.fetch_add(1, Relaxed);
        self.counted = Some((Arc::clone(cluster), Arc::clone(endpoint)));
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((cluster, endpoint)) = self.counted.take() {
            cluster.stats.connections.decrement();
            endpoint.connections.fetch_sub(1, Relaxed);
        }
        let Some(pool) = self.pool.upgrade() else { return };
        // One who waits may have a connection in its place.
        match pool.next_waiting() {
            Some(next) => {
                let slot = self.slot.take();
                give(next, Turn::Connect(Self { pool: self.pool.clone(), slot, counted: None }));
            }
            None => pool.state.borrow_mut().open -= 1,
        }
    }
}
