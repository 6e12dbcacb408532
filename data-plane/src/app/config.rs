//! The config loop: the one task that owns what is accepted, and swaps in what follows from it.

mod hosts;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xds_proto::resource::{Resource, ResourceType};

use crate::admin::Readiness;
use crate::admin::dump::Dump;
use crate::app::demands::Demands;
use crate::app::listening::Listening;
use crate::app::lookups::{Answer, Lookups};
use crate::app::patience::{Patience, Situation};
use crate::app::retired::Retired;
use crate::app::watches::Watches;
use crate::bootstrap::control_plane::Api;
use crate::compile::link::link;
use crate::compile::{Change, Origin, Rejected, Tables, Waiting};
use crate::filtering::on_demand::Ask;
use crate::reference::FETCH_TIMEOUT;
use crate::snapshot::{Snapshot, SnapshotCell};
use crate::telemetry::Registry;
use crate::telemetry::stats::ConfigSource;
use crate::xds::cache::Cache;
use crate::xds::client::{Event, Verdict};
use crate::xds::subscription::{Roots, Wanted};
use crate::xds::{Start, Update};

/// How often people are told that no control plane answers.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// What the loop hears.
#[derive(Debug)]
pub(super) struct Inbox {
    /// From the xDS client.
    pub(super) events: mpsc::Receiver<Event>,
    /// From DNS.
    pub(super) answers: mpsc::Receiver<Answer>,
    /// From those who want to know what the loop knows.
    pub(super) dumps: mpsc::Receiver<oneshot::Sender<Dump>>,
    /// From requests that wait for their virtual hosts.
    pub(super) asks: mpsc::Receiver<Ask>,
    /// When the endpoints of a new cluster may have been checked.
    pub(super) checked: Arc<Notify>,
}

/// What the loop acts on.
#[derive(Debug)]
pub(super) struct Outlets {
    pub(super) snapshots: SnapshotCell,
    pub(super) registry: Arc<Registry>,
    pub(super) listening: Listening,
    pub(super) lookups: Lookups,
    pub(super) watches: Watches,
    pub(super) readiness: watch::Sender<Readiness>,
    /// Tells the xDS client what is wanted.
    pub(super) wanted: watch::Sender<Arc<Wanted>>,
    /// Told when what is saved on disk is out of date.
    pub(super) changed: Arc<Notify>,
}

/// A verdict that waits until the routes or virtual hosts that it is about are in force.
#[derive(Debug)]
struct Held {
    users: Vec<Arc<str>>,
    rejected: Vec<Rejected>,
    reply: oneshot::Sender<Verdict>,
}

/// What is accepted, and what follows from it.
#[derive(Debug)]
pub(super) struct ConfigLoop {
    node_id: String,
    roots: Roots,
    tables: Tables,
    cache: Cache,
    wanted: Arc<Wanted>,
    demands: Demands,
    current: Arc<Snapshot>,
    retired: Retired,
    patience: Patience,
    waiting: Vec<Waiting>,
    held: Vec<Held>,
    source: ConfigSource,
    /// Set while a stream stands: since when.
    connected: Option<Instant>,
    /// When people were last told that no control plane answers.
    complained: Option<Instant>,
    out: Outlets,
}

impl ConfigLoop {
    pub(super) fn new(node_id: String, api: Api, roots: Roots, out: Outlets) -> Self {
        Self {
            node_id,
            roots,
            tables: Tables::new(api),
            cache: Cache::default(),
            wanted: Arc::default(),
            demands: Demands::default(),
            current: out.snapshots.load(),
            retired: Retired::default(),
            patience: Patience::default(),
            waiting: Vec::new(),
            held: Vec::new(),
            source: ConfigSource::Bootstrap,
            connected: None,
            complained: None,
            out,
        }
    }

    /// Takes in resources that no stream brought. What is wrong with them is given back.
    pub(super) fn load(
        &mut self,
        origin: Origin,
        resources: &[Resource],
    ) -> Vec<(ResourceType, Rejected)> {
        let mut all_rejected = Vec::new();
        for kind in ResourceType::ALL {
            let added: Vec<_> =
                resources.iter().filter(|resource| resource.kind == kind).cloned().collect();
            if added.is_empty() {
                continue;
            }
            let change = Change { origin, kind, added: &added, removed: &[] };
            let rejected =
                self.tables.admit(change, &mut |config| self.out.listening.admit(config));
            if origin == Origin::ControlPlane {
                self.source = ConfigSource::Disk;
                self.cache.record(&added, &rejected, SystemTime::now());
                if kind == ResourceType::VirtualHost {
                    added.iter().for_each(|resource| self.demands.restore(&resource.name));
                }
                // What was refused is not kept: a control plane has to send it again.
                for refused in &rejected {
                    self.cache.forget(kind, &refused.name);
                }
            }
            all_rejected.extend(rejected.into_iter().map(|rejected| (kind, rejected)));
        }
        // A bootstrap that is wrong ends the program: it never becomes ready.
        if origin == Origin::Bootstrap && !all_rejected.is_empty() {
            return all_rejected;
        }
        self.follow_references();
        self.relink();
        all_rejected
    }

    /// Says that what was loaded is all that is needed to serve.
    pub(super) fn mark_complete(&mut self) {
        self.note_all_answered();
        self.review_readiness();
    }

    /// Works until `shutdown`.
    pub(super) async fn run(mut self, mut inbox: Inbox, shutdown: CancellationToken) {
        loop {
            let deadline = self.next_deadline();
            let wait = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = wait => tokio::task::block_in_place(|| self.expire()),
                Some(reply) = inbox.dumps.recv() => {
                    // Who asked may have gone.
                    drop(reply.send(self.dump()));
                }
                Some(event) = inbox.events.recv() => {
                    tokio::task::block_in_place(|| self.hear(event));
                }
                () = self.retired.due() => {
                    tokio::task::block_in_place(|| self.retired.take_down());
                }
                Some(ask) = inbox.asks.recv() => self.hear_requests(ask, &mut inbox.asks),
                () = inbox.checked.notified() => {
                    let is_ready = self.current.warming.values().any(|one| one.is_checked());
                    if is_ready {
                        tokio::task::block_in_place(|| self.relink());
                    }
                }
                Some((cluster, endpoints)) = inbox.answers.recv() => {
                    if self.tables.resolve(&cluster, endpoints) {
                        tokio::task::block_in_place(|| self.relink());
                    }
                }
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Connected { control_plane, reply } => {
                tracing::info!(control_plane = &*control_plane, "control plane connected");
                self.connected = Some(Instant::now());
                self.out.registry.proxy().xds_connected.set(1);
                self.relink();
                drop(reply.send(self.start()));
            }
            Event::Disconnected { control_plane, error } => {
                self.lost(&control_plane, &error);
            }
            Event::Update { update, version, reply } => self.update(update, &version, reply),
        }
    }

    fn lost(&mut self, control_plane: &str, error: &str) {
        let now = Instant::now();
        let is_news = self.connected.is_some()
            || self.complained.is_none_or(|last| now - last >= COMPLAINT_INTERVAL);
        if is_news {
            self.complained = Some(now);
            tracing::warn!(control_plane, error, "control plane lost");
        } else {
            tracing::debug!(control_plane, error, "control plane still lost");
        }
        if self.connected.take().is_some() {
            self.out.registry.proxy().xds_connected.set(0);
            self.relink();
        }
    }

    fn start(&self) -> Start {
        let mut start = Start { wanted: (*self.wanted).clone(), ..Start::default() };
        for kind in ResourceType::ALL {
            start.versions[kind.index()] = self.cache.versions(kind, self.wanted.of(kind));
        }
        start
    }

    fn update(&mut self, update: Update, version: &str, reply: oneshot::Sender<Verdict>) {
        let kind = update.kind;
        let removed = self.removed_by(&update);
        let interest = self.wanted.of(kind);
        let names: Vec<_> = update.added.iter().map(|added| Arc::clone(&added.name)).collect();
        let added: Vec<_> = update
            .added
            .into_iter()
            .filter(|resource| interest.covers(&resource.name))
            .filter(|resource| !self.cache.is_current(resource))
            .collect();
        let change =
            Change { origin: Origin::ControlPlane, kind, added: &added, removed: &removed };
        let compiled = self.tables.admit(change, &mut |config| self.out.listening.admit(config));
        self.cache.record(&added, &compiled, SystemTime::now());
        self.settle(kind, &added, &removed);
        let is_first = !self.tables.is_answered(kind);
        self.tables.note_answer(kind);
        self.source = ConfigSource::Xds;
        let mut rejected = update.refused;
        rejected.extend(compiled);
        self.log(kind, version, &rejected);
        if kind == ResourceType::VirtualHost {
            let known = names.iter().map(|name| (name, name));
            let aliases = update.aliases.iter().map(|(alias, name)| (alias, name));
            self.note_hosts(known.chain(aliases), update.bodiless.iter().chain(&removed));
        }
        if added.is_empty() && removed.is_empty() && !is_first {
            self.review_readiness();
        } else {
            self.follow_references();
            self.relink();
            self.out.changed.notify_one();
        }
        self.answer_requests();
        let users: Vec<_> = match kind {
            ResourceType::Route | ResourceType::VirtualHost | ResourceType::ExtensionConfig => {
                added.iter().map(|resource| Arc::clone(&resource.name)).collect()
            }
            _ => Vec::new(),
        };
        self.held.push(Held { users, rejected, reply });
        self.release();
    }

    /// The resources that a response says are gone, by name or by leaving them out.
    fn removed_by(&self, update: &Update) -> Vec<Arc<str>> {
        // Something without a name may be any of those that are missing.
        if !update.is_complete || update.refused.iter().any(|refused| refused.name.is_empty()) {
            return update.removed.clone();
        }
        let present: HashSet<&str> = update
            .added
            .iter()
            .map(|resource| &*resource.name)
            .chain(update.refused.iter().map(|refused| &*refused.name))
            .collect();
        let known = self.cache.of(update.kind).keys();
        known.filter(|name| !present.contains(&***name)).cloned().collect()
    }

    fn settle(&mut self, kind: ResourceType, added: &[Resource], removed: &[Arc<str>]) {
        for resource in added {
            self.patience.settle(kind, &resource.name);
        }
        for name in removed {
            if self.tables.contains(kind, name) {
                continue;
            }
            self.cache.forget(kind, name);
            // What nobody names is not waited for; virtual hosts are remembered apart.
            let is_named = !matches!(
                kind,
                ResourceType::Listener | ResourceType::Cluster | ResourceType::VirtualHost
            );
            if is_named && self.wanted.of(kind).covers(name) {
                self.patience.mark_absent(kind, Arc::clone(name));
            }
        }
    }

    /// Derives what is wanted, and drops what nothing names any more.
    fn follow_references(&mut self) {
        let derive = |demands: &Demands, tables: &Tables| {
            Wanted::derive(&self.roots, tables, demands.names())
        };
        let wanted = derive(&self.demands, &self.tables);
        for kind in [
            ResourceType::Secret,
            ResourceType::Endpoints,
            ResourceType::Route,
            ResourceType::ExtensionConfig,
        ] {
            for name in self.wanted.of(kind).names.difference(&wanted.of(kind).names) {
                self.tables.forget(kind, name);
                self.cache.forget(kind, name);
                self.patience.settle(kind, name);
            }
        }
        self.forget_hosts(&wanted);
        if wanted.of(ResourceType::ScopedRoute).is_empty() {
            let scopes: Vec<_> = self.tables.scopes().cloned().collect();
            for name in &scopes {
                self.tables.forget(ResourceType::ScopedRoute, name);
                self.cache.forget(ResourceType::ScopedRoute, name);
            }
        }
        self.want(wanted);
    }

    /// Tells the xDS client what is wanted.
    fn want(&mut self, wanted: Wanted) {
        if *self.wanted != wanted {
            self.wanted = Arc::new(wanted);
            self.out.wanted.send_replace(Arc::clone(&self.wanted));
        }
    }

    /// Links what is accepted, swaps it in, and lets sockets and look-ups follow.
    fn relink(&mut self) {
        let began = Instant::now();
        let linked = loop {
            let linked = link(&self.tables, &self.current, &self.out.registry);
            let over = self.review_patience(&linked.waiting);
            if over.is_empty() {
                break linked;
            }
            for waiting in over {
                tracing::debug!(?waiting, "no longer waited for");
                self.tables.give_up(waiting);
            }
        };
        self.waiting = linked.waiting;
        let before = std::mem::replace(&mut self.current, Arc::new(linked.snapshot));
        self.out.snapshots.publish(Arc::clone(&self.current));
        self.retired.add(before);
        self.retired.take_down();
        let tables = &self.tables;
        self.out
            .listening
            .follow(&self.current, |name| tables.contains(ResourceType::Listener, name));
        self.out.lookups.follow(self.tables.dns_clusters());
        self.out.watches.follow(&self.current);
        self.out.registry.proxy().swapped(self.source, began.elapsed());
        self.release();
        self.answer_requests();
        self.review_readiness();
    }

    fn review_patience(&mut self, waiting: &[Waiting]) -> Vec<Waiting> {
        let tables = &self.tables;
        self.patience.review(
            waiting,
            Situation {
                now: Instant::now(),
                is_connected: self.connected.is_some(),
                is_known: &|name| tables.contains(ResourceType::Cluster, name),
                is_looked_up: &|name| tables.is_looked_up(name),
                fetch_timeout: &|waiting| tables.fetch_timeout(waiting),
            },
        )
    }

    /// Answers responses whose routes and virtual hosts are in force.
    fn release(&mut self) {
        let waiting: HashSet<&str> = self
            .waiting
            .iter()
            .filter(|waiting| waiting.kind == ResourceType::Cluster)
            .map(|waiting| &*waiting.user)
            .collect();
        let (held, done) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.users.iter().any(|name| waiting.contains(&**name)));
        self.held = held;
        for Held { rejected, reply, .. } in done {
            // The stream may have gone; the next one starts with what is applied.
            drop(reply.send(Verdict { rejected }));
        }
    }

    fn log(&self, kind: ResourceType, version: &str, rejected: &[Rejected]) {
        let stats = self.out.registry.proxy();
        if rejected.is_empty() {
            stats.acked(kind, SystemTime::now());
            return;
        }
        stats.nacked(kind);
        for refused in rejected {
            tracing::warn!(
                node = self.node_id,
                type_url = kind.type_url(),
                version,
                resource = &*refused.name,
                error = %refused.error,
                "resource refused"
            );
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let first =
            self.connected.filter(|_| !self.is_answered()).map(|since| since + FETCH_TIMEOUT);
        [first, self.patience.next()].into_iter().flatten().min()
    }

    fn expire(&mut self) {
        if self.connected.is_some_and(|since| since.elapsed() >= FETCH_TIMEOUT) {
            self.note_all_answered();
        }
        self.relink();
    }

    fn note_all_answered(&mut self) {
        self.tables.note_answer(ResourceType::Listener);
        self.tables.note_answer(ResourceType::Cluster);
    }

    fn is_answered(&self) -> bool {
        let is_answered = |kind| !self.wanted.of(kind).wildcard || self.tables.is_answered(kind);
        is_answered(ResourceType::Listener) && is_answered(ResourceType::Cluster)
    }

    fn review_readiness(&self) {
        if self.is_answered() && self.waiting.is_empty() {
            self.out.readiness.send_if_modified(|readiness| {
                let is_first = *readiness == Readiness::Starting;
                if is_first {
                    *readiness = Readiness::Ready;
                    tracing::info!("ready");
                }
                is_first
            });
        }
    }

    fn dump(&self) -> Dump {
        Dump {
            cache: self.cache.clone(),
            wanted: (*self.wanted).clone(),
            absent: self.patience.absent().clone(),
            listening: self.out.listening.addresses(),
        }
    }
}
