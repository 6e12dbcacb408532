//! A client's connection, and the listener that it came in by: what stays while snapshots go.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Version};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client_certificate;
use super::lookup;
use super::streams::Streams;
use super::worker::Worker;
use crate::body::flow::Flow;
use crate::filtering::keep::ConnectionStates;
use crate::format::rare::{Lookup, Rare};
use crate::format::{Context, Flags};
use crate::listener::entry::{ConnectionLimit, EntryFilter, Place};
use crate::listener::http::CertificateDetails;
use crate::listener::matching::ConnectionFacts;
use crate::listener::{FilterChain, Listener};
use crate::overload::plan::Action;
use crate::snapshot::Snapshot;
use crate::telemetry::stats::ListenerStats;
use crate::tls::identity::Identity;
use crate::tls::secret::Certificate;

/// A listener as one worker serves it. It follows the snapshot; its connections follow it.
#[derive(Debug)]
pub struct Serving {
    /// Its name.
    pub name: Arc<str>,
    worker: Rc<Worker>,
    current: RefCell<Rc<View>>,
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    next_id: Cell<u64>,
    says_close: Cell<bool>,
    is_draining: Cell<bool>,
    /// Told when the last connection is gone.
    pub emptied: Notify,
}

/// A listener of one snapshot.
#[derive(Debug)]
pub struct View {
    snapshot: Arc<Snapshot>,
    listener: Arc<Listener>,
}

/// What a request sees of the configuration, whole.
#[derive(Debug, Clone)]
pub struct ChainView {
    view: Rc<View>,
    chain: usize,
}

impl ChainView {
    /// The filter chain.
    pub fn chain(&self) -> Option<&FilterChain> {
        self.view.listener.chains.get(self.chain)
    }

    /// The numbers of the listener.
    pub fn stats(&self) -> &ListenerStats {
        &self.view.listener.stats
    }
}

impl Serving {
    /// The listener `name`, where the snapshot has it.
    pub fn new(name: &Arc<str>, worker: &Rc<Worker>) -> Option<Rc<Self>> {
        let snapshot = worker.snapshot();
        let listener = Arc::clone(snapshot.listeners.get(name)?);
        Some(Rc::new(Self {
            name: Arc::clone(name),
            worker: Rc::clone(worker),
            current: RefCell::new(Rc::new(View { snapshot, listener })),
            connections: RefCell::default(),
            next_id: Cell::new(0),
            says_close: Cell::new(false),
            is_draining: Cell::new(false),
            emptied: Notify::new(),
        }))
    }

    /// The worker that serves it.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The listener as the current snapshot has it, or as it was when it was last there.
    pub fn listener(&self) -> Arc<Listener> {
        Arc::clone(&self.view().listener)
    }

    /// How many connections are open.
    pub fn connection_count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Follows the snapshot, so that an old one is not kept for want of requests.
    pub fn refresh(&self) {
        self.view();
    }

    fn view(&self) -> Rc<View> {
        let newer = self.worker.newer_snapshot(&self.current.borrow().snapshot);
        let Some(snapshot) = newer else { return Rc::clone(&self.current.borrow()) };
        let before = Rc::clone(&self.current.borrow());
        let listener = match snapshot.listeners.get(&self.name) {
            Some(listener) => Arc::clone(listener),
            // Removed: its connections are being drained, and are served as before until then.
            None => Arc::clone(&before.listener),
        };
        let is_new = !Arc::ptr_eq(&listener.config, &before.listener.config);
        let view = Rc::new(View { snapshot, listener });
        *self.current.borrow_mut() = Rc::clone(&view);
        if is_new {
            for connection in self.connections.borrow().values() {
                connection.follow(&before, &view);
            }
        }
        view
    }

    /// Takes in a connection; `None` when no filter chain is for it.
    pub fn admit(self: &Rc<Self>, facts: ConnectionFacts) -> Option<Admitted> {
        let view = self.view();
        let Some(chain) = view.listener.select(&facts) else {
            self.log_unserved(&view, &facts);
            return None;
        };
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let connection = Rc::new(Connection {
            id,
            serving: Rc::clone(self),
            facts,
            tls_version: Cell::new(""),
            tls_cipher: Cell::new(""),
            protocol: Cell::new(None),
            public_id: OnceCell::new(),
            identities: OnceCell::new(),
            certificate_element: RefCell::default(),
            states: ConnectionStates::default(),
            flow: Flow::new(view.listener.config.buffer_bytes, self.worker.pools.large_bodies()),
            chain: Cell::new(chain),
            left_behind: RefCell::default(),
            requests: Cell::new(0),
            requests_total: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            says_close: Cell::new(self.says_close.get()),
            is_shed: Cell::new(false),
            streams: Streams::default(),
            is_tunnel: Cell::new(false),
            tunnel_ended: Notify::new(),
            changed: Notify::new(),
            began: (Instant::now(), SystemTime::now()),
            place: OnceCell::new(),
            refusal: OnceCell::new(),
            is_logged: Cell::new(false),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        if self.is_draining.get() {
            connection.drain.cancel();
        }
        self.connections.borrow_mut().insert(id, Rc::clone(&connection));
        Some(Admitted(connection))
    }

    /// Writes the listener's line for a connection that no chain is for.
    fn log_unserved(&self, view: &View, facts: &ConnectionFacts) {
        let context = Context {
            start: Some(SystemTime::now()),
            duration: Some(Duration::ZERO),
            details: "filter_chain_not_found",
            flags: Flags { noted: &[], ends: ["NR", ""] },
            hostname: &self.worker.settings.hostname,
            ..context_of(facts)
        };
        self.worker.log_all(&view.listener.logs, &context);
    }

    /// Has HTTP/1 responses say that their connection ends, also on connections to come.
    pub fn say_close(&self) {
        self.says_close.set(true);
        for connection in self.connections.borrow().values() {
            connection.says_close.set(true);
        }
    }

    /// Asks all connections to end, those to come too: without a request now, else with the last one.
    pub fn drain(&self) {
        self.say_close();
        self.is_draining.set(true);
        for connection in self.connections.borrow().values() {
            connection.drain.cancel();
        }
    }

    /// As [`Self::drain`], for one part of so many of the connections that are there.
    pub fn drain_part(&self, part: u32, parts: u32) {
        let parts = u64::from(parts.max(1));
        let connections = self.connections.borrow();
        for connection in connections.values().filter(|one| one.id % parts == u64::from(part)) {
            connection.drain.cancel();
        }
    }

    /// Ends all connections, whatever is under way.
    pub fn cut_off(&self) {
        for connection in self.connections.borrow().values() {
            connection.cut.cancel();
        }
    }
}

/// A connection that was taken in. Dropped, it is gone.
#[derive(Debug)]
pub struct Admitted(Rc<Connection>);

impl Admitted {
    /// The connection.
    pub fn connection(&self) -> &Rc<Connection> {
        &self.0
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.log_end();
        let mut connections = self.0.serving.connections.borrow_mut();
        connections.remove(&self.0.id);
        if connections.is_empty() {
            self.0.serving.emptied.notify_waiters();
        }
    }
}

/// The certificates of both sides.
#[derive(Debug)]
struct Identities {
    client: Identity,
    own: Option<Arc<Certificate>>,
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    serving: Rc<Serving>,
    /// What is known of it.
    pub facts: ConnectionFacts,
    /// The version of TLS that it speaks; empty where it speaks none.
    pub tls_version: Cell<&'static str>,
    /// Its cipher; empty as well.
    pub tls_cipher: Cell<&'static str>,
    /// The version of HTTP that it speaks.
    pub protocol: Cell<Option<Version>>,
    public_id: OnceCell<u64>,
    identities: OnceCell<Identities>,
    certificate_element: RefCell<Option<(CertificateDetails, HeaderValue)>>,
    /// Whether its client is only told to come back later.
    pub is_shed: Cell<bool>,
    /// What filters keep for it.
    pub states: ConnectionStates,
    /// What is written to it, where it speaks HTTP/1.
    pub flow: Arc<Flow>,
    chain: Cell<usize>,
    /// What it is served by when the listener has no chain for it any more.
    left_behind: RefCell<Option<Rc<View>>>,
    requests: Cell<u32>,
    requests_total: Cell<u32>,
    idle_since: Cell<Instant>,
    says_close: Cell<bool>,
    pub(super) streams: Streams,
    /// Whether it became a tunnel, as a connection of HTTP/1 may.
    is_tunnel: Cell<bool>,
    tunnel_ended: Notify,
    /// Told when another configuration is there, or it is given up.
    pub(super) changed: Notify,
    began: (Instant, SystemTime),
    place: OnceCell<Place>,
    refusal: OnceCell<String>,
    is_logged: Cell<bool>,
    drain: CancellationToken,
    cut: CancellationToken,
}

impl Connection {
    /// The worker that serves it.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.serving.worker
    }

    /// A number that no other connection of the proxy has, but by an unlikely chance.
    pub(super) fn public_id(&self) -> u64 {
        *self.public_id.get_or_init(|| fastrand::u64(..))
    }

    /// Notes the certificates that both sides showed.
    pub fn identify(&self, client: Identity, own: Option<Arc<Certificate>>) {
        // A connection has one handshake.
        let _is_first = self.identities.set(Identities { client, own });
    }

    /// The client by its certificate, where it showed one.
    pub fn client(&self) -> Option<&Identity> {
        self.identities.get().map(|identities| &identities.client)
    }

    /// What upstream is told of the client's certificate, where it showed one.
    pub(super) fn certificate_element(&self, details: CertificateDetails) -> Option<HeaderValue> {
        let identities = self.identities.get()?;
        let mut element = self.certificate_element.borrow_mut();
        match &*element {
            Some((of, value)) if *of == details => Some(value.clone()),
            _ => {
                let own_uris = identities.own.as_ref().map_or(&[][..], |own| &own.uris);
                let value = client_certificate::element(&identities.client, own_uris, details)?;
                *element = Some((details, value.clone()));
                Some(value)
            }
        }
    }

    /// The name of its listener.
    pub fn listener_name(&self) -> &Arc<str> {
        &self.serving.name
    }

    /// What the next request sees.
    pub fn view(&self) -> ChainView {
        let current = self.serving.view();
        let view = self.left_behind.borrow().clone().unwrap_or(current);
        ChainView { view, chain: self.chain.get() }
    }

    /// The numbers of its listener.
    pub fn stats(&self) -> Arc<ListenerStats> {
        Arc::clone(&self.serving.current.borrow().listener.stats)
    }

    /// Chooses a chain of the new configuration. Where there is none, or one that wants another
    /// handshake than there was, the connection is served as before and asked to end.
    fn follow(&self, before: &Rc<View>, after: &View) {
        if self.left_behind.borrow().is_some() {
            return;
        }
        let old = before.listener.chains.get(self.chain.get());
        let chosen = after.listener.select(&self.facts).filter(|chosen| {
            let new = after.listener.chains.get(*chosen);
            old.zip(new).is_some_and(|(old, new)| is_served_alike(old, new))
        });
        match chosen {
            Some(chosen) => {
                self.chain.set(chosen);
                self.changed.notify_one();
            }
            None => {
                *self.left_behind.borrow_mut() = Some(Rc::clone(before));
                self.says_close.set(true);
                self.changed.notify_one();
            }
        }
    }

    /// Whether the listener has no chain for it any more.
    pub fn is_left_behind(&self) -> bool {
        self.left_behind.borrow().is_some()
    }

    /// It becomes a tunnel.
    pub(super) fn begin_tunnel(&self) {
        self.is_tunnel.set(true);
    }

    /// The tunnel that it became ends.
    pub(super) fn end_tunnel(&self) {
        self.is_tunnel.set(false);
        self.tunnel_ended.notify_one();
    }

    /// Waits for the end of the tunnel that it became, if it did.
    pub async fn tunnel_ended(&self) {
        while self.is_tunnel.get() {
            self.tunnel_ended.notified().await;
        }
    }

    /// Waits until another configuration is there, or it is given up.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Has responses of HTTP/1 say that the connection ends.
    pub fn say_close(&self) {
        self.says_close.set(true);
    }

    /// Counts a request, of which there may be so many; asks the connection to end with the last.
    pub(super) fn count_request(&self, requests_max: Option<u32>) {
        let total = self.requests_total.get().saturating_add(1);
        self.requests_total.set(total);
        if requests_max.is_some_and(|max| total >= max)
            || self.is_shed.get()
            || self.suffers(Action::StopKeepalive)
        {
            self.says_close.set(true);
            self.drain.cancel();
        }
    }

    /// Whether an action against overload is to be taken that concerns it.
    fn suffers(&self, action: Action) -> bool {
        self.serving.worker.settings.overload.takes(action)
            && !self.serving.current.borrow().listener.config.exempt.from_pressure
    }

    /// Whether a request of it is not to be served, since there is too much to do.
    pub(super) fn sheds_request(&self) -> bool {
        self.is_shed.get() || self.suffers(Action::StopRequests)
    }

    /// Takes its place where the connections of its chain are limited.
    ///
    /// # Errors
    /// The limit, where there are enough already.
    pub fn take_place(&self) -> Result<(), ConnectionLimit> {
        let view = self.view();
        let Some(chain) = view.chain() else { return Ok(()) };
        let limits = chain.config.entry.iter().filter_map(|filter| match filter {
            EntryFilter::Limit(limit) => Some(*limit),
            EntryFilter::Rbac(_) => None,
        });
        let Some(limit) = limits.min_by_key(|limit| limit.max) else { return Ok(()) };
        let place = chain.occupancy.enter(limit.max).ok_or(limit)?;
        // It takes one once.
        let _is_first = self.place.set(place);
        Ok(())
    }

    /// Whether the rules of its chain refuse it, and how long it is to be kept waiting then.
    pub fn is_refused(&self) -> Option<Option<Duration>> {
        let view = self.view();
        let facts = Context { tls_version: self.tls_version.get(), ..context_of(&self.facts) };
        view.chain()?.config.entry.iter().find_map(|filter| match filter {
            EntryFilter::Limit(_) => None,
            EntryFilter::Rbac(rules) => {
                let refusal = rules.refusal(&facts, self.client())?;
                let _is_first = self.refusal.set(refusal);
                Some(rules.delay)
            }
        })
    }

    /// Why the rules of its chain refuse it, where they do.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }

    /// Writes the listener's line; `context` is what the line of its chain says.
    pub(super) fn log(&self, view: &ChainView, context: &Context<'_>) {
        self.is_logged.set(true);
        let context = Context { log_type: "NotSet", ..*context };
        self.worker().log_all(&view.view.listener.logs, &context);
    }

    fn log_end(&self) {
        let view = self.view();
        if self.is_logged.get() || view.view.listener.logs.is_empty() {
            return;
        }
        let lookup = OfConnection(self, &view);
        let context = Context {
            start: Some(self.began.1),
            duration: Some(self.began.0.elapsed()),
            tls_version: self.tls_version.get(),
            protocol: self.protocol.get(),
            termination_details: self.refusal().unwrap_or_default(),
            hostname: &self.worker().settings.hostname,
            lookup: Some(&lookup),
            ..context_of(&self.facts)
        };
        self.log(&view, &context);
    }

    /// Waits until the connection is asked to end.
    pub async fn drained(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until the connection has to end.
    pub async fn cut_off(&self) {
        self.cut.cancelled().await;
    }

    /// A request began, or what stands for one.
    pub(super) fn request_began(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// A request ended at `now`.
    pub(super) fn request_ended(&self, now: Instant) {
        self.requests.set(self.requests.get().saturating_sub(1));
        self.idle_since.set(now);
    }

    /// Since when it has no request; `None` while it has one.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.requests.get() == 0).then(|| self.idle_since.get())
    }

    /// Whether responses of this version are to say that the connection ends.
    pub(super) fn says_close(&self, version: Version) -> bool {
        self.says_close.get() && version < Version::HTTP_2
    }
}

/// What is seldom asked of a connection.
#[derive(Debug)]
struct OfConnection<'a>(&'a Connection, &'a ChainView);

impl Lookup for OfConnection<'_> {
    fn write(&self, asked: &Rare, out: &mut String) -> bool {
        lookup::of_connection(self.0, self.1, asked, out)
    }
}

/// What is known of every connection.
fn context_of(facts: &ConnectionFacts) -> Context<'_> {
    Context {
        remote: Some(facts.remote),
        direct_remote: Some(facts.peer),
        local: Some(facts.local),
        server_name: facts.server_name.as_deref().unwrap_or_default(),
        ..Context::default()
    }
}

/// Whether a connection of the one chain may be served by the other: it needs the same of the
/// client's handshake. Certificates of ours may differ.
fn is_served_alike(old: &FilterChain, new: &FilterChain) -> bool {
    if old.config.tcp.is_some() != new.config.tcp.is_some() {
        return false;
    }
    match (&old.config.tls, &new.config.tls) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            old.validation == new.validation
                && old.requires_client_certificate == new.requires_client_certificate
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}
