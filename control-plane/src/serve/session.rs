//! One stream without its I/O: requests and publications in, responses and a report out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use xds_proto::resource::ResourceType;

use crate::fleet::Moment;
use crate::fleet::report::{Report, TypeReport};
use crate::serve::order::{Order, Protocol, SUBSCRIBE_TIMEOUT, Subscriptions};
use crate::serve::response::{Draft, Response};
use crate::serve::subscription::{Change, Flight, Subscription};
use crate::serve::{delta, sotw};
use crate::snapshot::references::Use;
use crate::snapshot::table::{Entry, TypeTable};
use crate::snapshot::{Published, Stamp};

#[cfg(test)]
mod property;

/// How long the first answer to a client that resumes waits for the client's other requests: what
/// may go depends on what it still uses, which it says with them.
const RESUME_PAUSE: Duration = Duration::from_millis(20);

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    is_aggregated: bool,
    subscriptions: Subscriptions,
    published: Option<Published>,
    /// Endpoints to send again to a client that has not asked for them on this stream yet.
    rewarm: BTreeSet<Arc<str>>,
    nonces: u64,
    not_before: Option<Instant>,
    wake: Option<Instant>,
    synced: Option<Stamp>,
    behind_since: Option<Instant>,
}

impl Session {
    /// A stream that nothing was said on yet. `is_aggregated`: it carries all types.
    pub fn new(protocol: Protocol, is_aggregated: bool) -> Self {
        Self {
            protocol,
            is_aggregated,
            subscriptions: Default::default(),
            published: None,
            rewarm: BTreeSet::new(),
            nonces: 0,
            not_before: None,
            wake: None,
            synced: None,
            behind_since: None,
        }
    }

    /// Takes in what the node is due from here on.
    pub fn publish(&mut self, published: Published) {
        for subscription in self.subscriptions.iter_mut().flatten() {
            subscription.review(published.snapshot.kind(subscription.kind));
        }
        self.published = Some(published);
    }

    /// Takes in a state-of-the-world request.
    pub fn sotw(&mut self, kind: ResourceType, request: &DiscoveryRequest, now: Moment) {
        let Some(place) = self.subscriptions.get_mut(kind.index()) else { return };
        let is_first = place.is_none();
        let subscription = place.get_or_insert_with(|| Subscription::new(kind));
        sotw::request(subscription, request, is_first, now);
        self.pause_if_resumed(kind, is_first, now.instant);
    }

    /// Takes in an incremental request.
    pub fn delta(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest, now: Moment) {
        let table = self.table(kind);
        let nothing = BTreeSet::new();
        let rewarm = if kind == ResourceType::Endpoints { &self.rewarm } else { &nothing };
        let context = delta::Context { table: &table, rewarm, now };
        let Some(place) = self.subscriptions.get_mut(kind.index()) else { return };
        let is_first = place.is_none();
        let subscription = place.get_or_insert_with(|| Subscription::new(kind));
        delta::request(subscription, request, is_first, &context);
        self.pause_if_resumed(kind, is_first, now.instant);
    }

    /// The next response, if one is due. Ask again until there is none.
    pub fn next(&mut self, now: Instant) -> Option<Response> {
        self.wake = self.not_before.filter(|pause| *pause > now);
        if self.wake.is_some() {
            return None;
        }
        let published = self.published.clone()?;
        for kind in ResourceType::ALL {
            if let Some(draft) = self.draft(kind, &published, now) {
                return Some(self.depart(published.snapshot.kind(kind), draft, (kind, now)));
            }
        }
        self.note_standing(&published, now);
        None
    }

    /// When to ask for the next response if nothing else happens.
    pub fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// Since when the client has been behind what is published.
    pub fn behind_since(&self) -> Option<Instant> {
        self.behind_since
    }

    /// How the stream stands.
    pub fn report(&self) -> Report {
        let reports = self.subscriptions.iter().flatten();
        Report {
            origin: self.published.as_ref().map(|published| published.origin.clone()),
            synced: self.synced,
            behind_since: self.behind_since,
            types: reports
                .map(|of_type| (of_type.kind, report(of_type)))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn draft(&mut self, kind: ResourceType, published: &Published, now: Instant) -> Option<Draft> {
        let table = published.snapshot.kind(kind);
        if let Some(subscription) = self.subscriptions.get_mut(kind.index())?.as_mut() {
            sotw::recognize(subscription, table);
        }
        let subscription = self.subscriptions.get(kind.index())?.as_ref()?;
        let is_settled = subscription.settled.as_ref().is_some_and(|done| Arc::ptr_eq(done, table));
        let is_news = !is_settled || !subscription.owed.is_empty();
        let is_free = subscription.flights.is_empty() && is_news;
        if !is_free && !subscription.is_asked && !subscription.must_answer {
            return None;
        }
        if self.protocol == Protocol::Delta
            && let Some(step) = delta::step(subscription, table)
        {
            if step.is_none() {
                let subscription = self.subscriptions.get_mut(kind.index())?.as_mut()?;
                subscription.is_asked = false;
                subscription.settle(table);
            }
            return step;
        }
        let manner = (self.protocol, self.is_aggregated);
        let order = Order::new(&self.subscriptions, &published.snapshot, manner, now);
        let view = order.view(subscription);
        let subscription = self.subscriptions.get_mut(kind.index())?.as_mut()?;
        let draft = match self.protocol {
            Protocol::Sotw => sotw::due(subscription, &view, table),
            Protocol::Delta => delta::due(subscription, &view, table),
        };
        subscription.is_asked = false;
        if draft.is_none() {
            let waits = view.is_held_back || view.has_gaps || !subscription.flights.is_empty();
            if !waits && subscription.owed.is_empty() {
                subscription.settle(table);
            }
            self.wake = [self.wake, view.wake].into_iter().flatten().min();
        }
        draft
    }

    fn depart(
        &mut self,
        table: &Arc<TypeTable>,
        draft: Draft,
        (kind, now): (ResourceType, Instant),
    ) -> Response {
        if kind == ResourceType::Cluster {
            self.warm(&draft.changes);
        }
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        if kind == ResourceType::Endpoints {
            for change in &draft.changes {
                self.rewarm.remove(change.name());
            }
        }
        let Draft { version, resources, removed, changes, is_all } = draft;
        let completes = is_all.then(|| table.clone());
        if let Some(subscription) =
            self.subscriptions.get_mut(kind.index()).and_then(Option::as_mut)
        {
            subscription.must_answer = false;
            subscription.is_resumed = false;
            let (nonce, version) = (nonce.clone(), version.clone());
            let flight = Flight { nonce, version, sent_at: now, changes, completes };
            subscription.depart(flight);
        }
        Response { kind, nonce, version, resources, removed }
    }

    /// Envoy warms a changed cluster until it gets an answer for its endpoints, so those are sent
    /// again though they did not change: <https://github.com/envoyproxy/envoy/issues/13009>.
    fn warm(&mut self, changes: &[Change]) {
        let Some(published) = self.published.clone() else { return };
        let [Some(clusters), endpoints] = self.clusters_and_endpoints() else { return };
        let starts_with_nothing = clusters.must_answer && !clusters.is_resumed;
        let mut owed = Vec::new();
        let mut rewarm = Vec::new();
        for change in changes {
            let Change::Set(cluster) = change else { continue };
            let held = clusters.expected(&cluster.name);
            let is_changed = held.is_some_and(|held| held.version != cluster.version);
            for name in endpoints_of(cluster) {
                let is_published = published.snapshot.get(ResourceType::Endpoints, name).is_some();
                let covers = endpoints.is_some_and(|endpoints| endpoints.covers(name));
                // Another cluster may have brought these endpoints, so nothing would ask for them.
                let is_shared = endpoints.is_some_and(|has| has.expected(name).is_some());
                if is_published && covers && (is_changed || (is_shared && !starts_with_nothing)) {
                    owed.push(name.clone());
                } else if is_published && !covers && is_changed {
                    rewarm.push(name.clone());
                }
            }
        }
        self.rewarm.extend(rewarm);
        let place = self.subscriptions.get_mut(ResourceType::Endpoints.index());
        if let Some(endpoints) = place.and_then(Option::as_mut) {
            endpoints.owed.extend(owed);
        }
    }

    fn clusters_and_endpoints(&self) -> [Option<&Subscription>; 2] {
        [ResourceType::Cluster, ResourceType::Endpoints]
            .map(|kind| self.subscriptions.get(kind.index()).and_then(Option::as_ref))
    }

    fn pause_if_resumed(&mut self, kind: ResourceType, is_first: bool, now: Instant) {
        let resumed = self.subscriptions.get(kind.index()).and_then(Option::as_ref);
        let is_resumed = resumed.is_some_and(|subscription| subscription.is_resumed);
        if is_first && is_resumed && self.is_aggregated && self.not_before.is_none() {
            self.not_before = Some(now + RESUME_PAUSE);
        }
    }

    /// Notes whether the client serves all that is published for it. Called when nothing is left
    /// to send.
    fn note_standing(&mut self, published: &Published, now: Instant) {
        let mut subscriptions = self.subscriptions.iter().flatten();
        let is_settled = subscriptions.all(|of_type| {
            let table = published.snapshot.kind(of_type.kind);
            of_type.flights.is_empty()
                && of_type.settled.as_ref().is_some_and(|settled| Arc::ptr_eq(settled, table))
        });
        let has_begun = self.subscriptions.iter().any(Option::is_some);
        let is_known = self.synced == Some(published.stamp) && self.behind_since.is_none();
        if !has_begun || !is_settled {
            self.behind_since.get_or_insert(now);
        } else if !is_known && let Some(until) = self.will_ask(published, now) {
            self.behind_since.get_or_insert(now);
            self.wake = Some(self.wake.map_or(until, |wake| wake.min(until)));
        } else {
            self.behind_since = None;
            self.synced = Some(published.stamp);
        }
    }

    /// Until when the client may be expected to ask for what the things it took name.
    fn will_ask(&self, published: &Published, now: Instant) -> Option<Instant> {
        if !self.is_aggregated {
            return None;
        }
        let waits = self.subscriptions.iter().flatten().filter_map(|users| {
            let until = users.acked_at? + SUBSCRIBE_TIMEOUT;
            let uses = users.held.entries().iter().flat_map(|user| &user.uses);
            let is_open = |used: &Use| {
                let place = self.subscriptions.get(used.kind.index());
                let asked = place.and_then(Option::as_ref);
                asked.is_none_or(|asked| !asked.covers(&used.name))
                    && published.snapshot.get(used.kind, &used.name).is_some()
            };
            let is_open = until > now && uses.into_iter().any(is_open);
            is_open.then_some(until)
        });
        waits.min()
    }

    fn table(&self, kind: ResourceType) -> Arc<TypeTable> {
        let published = self.published.as_ref();
        published.map(|published| published.snapshot.kind(kind).clone()).unwrap_or_default()
    }
}

fn endpoints_of(cluster: &Entry) -> impl Iterator<Item = &Arc<str>> {
    let uses = cluster.uses.iter().filter(|used| used.kind == ResourceType::Endpoints);
    uses.map(|used| &used.name)
}

fn report(subscription: &Subscription) -> TypeReport {
    // A client that resumed with all it needs was sent nothing, and has it all the same.
    let settled = subscription.settled.as_ref().map(|table| table.version().clone());
    TypeReport {
        sent: subscription.sent.clone().or_else(|| settled.clone()),
        acked: settled.or_else(|| subscription.acked.clone()),
        held: subscription.held.entries().len(),
        nack: subscription.nack.clone(),
    }
}
