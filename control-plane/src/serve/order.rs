//! Make before break: what must wait for a client's answer to something else, and until when.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xds_proto::resource::ResourceType;

use crate::serve::subscription::{Change, Subscription};
use crate::serve::view::{Gate, View};
use crate::snapshot::Snapshot;
use crate::snapshot::references::Use;
use crate::snapshot::table::Entry;

/// How long a client that took a cluster may take to ask for its endpoints.
pub const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The types that name others, users first: how long routes stay depends on the listeners.
const USERS: [ResourceType; 5] = [
    ResourceType::Listener,
    ResourceType::ScopedRoute,
    ResourceType::Route,
    ResourceType::VirtualHost,
    ResourceType::Cluster,
];

/// The two ways of speaking xDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

/// The subscriptions of a stream, by type.
pub type Subscriptions = [Option<Subscription>; ResourceType::ALL.len()];

/// One stream at one moment.
#[derive(Debug)]
pub struct Order<'a> {
    subscriptions: &'a Subscriptions,
    snapshot: &'a Snapshot,
    protocol: Protocol,
    /// One stream carries all types.
    is_aggregated: bool,
    now: Instant,
    /// What the client still uses and will stop using, and until when that is waited for.
    leaving: OnceCell<HashMap<&'a Use, Gate>>,
}

impl<'a> Order<'a> {
    /// Looks at a stream.
    pub fn new(
        subscriptions: &'a Subscriptions,
        snapshot: &'a Snapshot,
        (protocol, is_aggregated): (Protocol, bool),
        now: Instant,
    ) -> Self {
        Self { subscriptions, snapshot, protocol, is_aggregated, now, leaving: OnceCell::new() }
    }

    /// What the client should hold of this type right now.
    pub fn view(&self, subscription: &Subscription) -> View {
        let table = self.snapshot.kind(subscription.kind);
        let mut view = View::default();
        if subscription.is_wildcard {
            for entry in table.entries() {
                self.admit(subscription, entry, &mut view);
            }
        } else {
            let names = subscription.names.iter().chain(subscription.implied.keys());
            for entry in names.filter_map(|name| table.get(name)) {
                self.admit(subscription, entry, &mut view);
            }
        }
        let mut is_mixed = !subscription.implied.is_empty();
        for held in subscription.held.entries() {
            if table.get(&held.name).is_none() && self.is_kept(subscription, held, &mut view) {
                view.entries.push(held.clone());
                is_mixed = true;
            }
        }
        if is_mixed {
            view.entries.sort_by(|a, b| a.name.cmp(&b.name));
            view.entries.dedup_by(|a, b| a.name == b.name);
        }
        view
    }

    fn admit(&self, subscription: &Subscription, due: &Arc<Entry>, view: &mut View) {
        let held = subscription.held.get(&due.name);
        if held.is_some_and(|held| held.version == due.version) {
            view.entries.push(due.clone());
            return;
        }
        let is_owed = subscription.owed.contains(&due.name);
        let is_first = subscription.must_answer && !subscription.is_resumed && held.is_none();
        let gate = if is_owed || is_first {
            Gate::Open
        } else if subscription.has_refused(due) {
            Gate::Shut
        } else {
            self.gate(subscription.kind, due)
        };
        match gate {
            Gate::Open => view.entries.push(due.clone()),
            Gate::Until(_) | Gate::Shut => {
                view.hold_back(gate);
                match held {
                    Some(held) => view.entries.push(held.clone()),
                    None => view.has_gaps = true,
                }
            }
        }
    }

    /// Whether something that is no longer published must stay a little.
    fn is_kept(&self, subscription: &Subscription, held: &Entry, view: &mut View) -> bool {
        if subscription.owed.contains(&held.name) {
            return false;
        }
        let gate = self.leave(subscription.kind, &held.name);
        if gate != Gate::Open {
            view.hold_back(gate);
        }
        gate != Gate::Open
    }

    /// Whether a new or changed resource may go out.
    fn gate(&self, kind: ResourceType, entry: &Entry) -> Gate {
        if !waits_for_others(kind) {
            return Gate::Open;
        }
        entry.uses.iter().map(|used| self.gate_of_use(used)).max().unwrap_or(Gate::Open)
    }

    fn gate_of_use(&self, used: &Use) -> Gate {
        match used.kind {
            ResourceType::Cluster => self.gate_of_cluster(&used.name),
            // A listener that brings routes of its own waits for the clusters of those routes.
            ResourceType::Route => {
                let routes = self.of(ResourceType::Route);
                if routes.is_some_and(|routes| routes.expected(&used.name).is_some()) {
                    return Gate::Open;
                }
                let table = self.snapshot.get(ResourceType::Route, &used.name);
                let uses = table.map(|table| &*table.uses).unwrap_or_default();
                let clusters = uses.iter().filter(|used| used.kind == ResourceType::Cluster);
                let gates = clusters.map(|used| self.gate_of_cluster(&used.name));
                gates.max().unwrap_or(Gate::Open)
            }
            _ => Gate::Open,
        }
    }

    /// A route to a cluster that the client does not have yet answers 503: it waits for the
    /// client to take the cluster and its endpoints.
    fn gate_of_cluster(&self, name: &str) -> Gate {
        let Some(clusters) = self.of(ResourceType::Cluster) else { return Gate::Open };
        let Some(due) = self.snapshot.get(ResourceType::Cluster, name) else { return Gate::Open };
        if !clusters.covers(name) {
            return Gate::Open;
        }
        let held = clusters.held.get(name);
        if held.is_some_and(|held| held.version == due.version) {
            return self.gate_of_endpoints(clusters, due);
        }
        match clusters.in_flight(name) {
            Some((Change::Set(sent), deadline)) if sent.version == due.version => {
                if held.is_some() { Gate::Open } else { self.until(deadline) }
            }
            _ if clusters.has_refused(due) => {
                if held.is_some() {
                    Gate::Open
                } else {
                    Gate::Shut
                }
            }
            _ => clusters.deadline().map_or(Gate::Open, |deadline| self.until(deadline)),
        }
    }

    fn gate_of_endpoints(&self, clusters: &Subscription, cluster: &Entry) -> Gate {
        let uses = cluster.uses.iter().filter(|used| used.kind == ResourceType::Endpoints);
        let gates = uses.map(|used| {
            let Some(due) = self.snapshot.get(used.kind, &used.name) else { return Gate::Open };
            let subscription = self.of(used.kind).filter(|found| found.covers(&used.name));
            let Some(endpoints) = subscription else {
                let asked_by = clusters.acked_at.map(|acked_at| acked_at + SUBSCRIBE_TIMEOUT);
                let asked_by = asked_by.filter(|_| self.is_aggregated);
                return asked_by.map_or(Gate::Open, |deadline| self.until(deadline));
            };
            if endpoints.held.get(&used.name).is_some() {
                Gate::Open
            } else if endpoints.has_refused(due) {
                Gate::Shut
            } else {
                endpoints.deadline().map_or(Gate::Open, |deadline| self.until(deadline))
            }
        });
        gates.max().unwrap_or(Gate::Open)
    }

    /// Whether something that is no longer published may be taken from the client: not while the
    /// client holds something that uses it and is about to be told to stop.
    fn leave(&self, kind: ResourceType, name: &Arc<str>) -> Gate {
        let leaving = self.leaving.get_or_init(|| self.leaving());
        let known = leaving.get(&Use { kind, name: name.clone() }).copied();
        known.unwrap_or(Gate::Open).max(self.leave_strangers(kind))
    }

    fn leaving(&self) -> HashMap<&'a Use, Gate> {
        let mut leaving = HashMap::new();
        for users in USERS.iter().filter_map(|kind| self.of(*kind)) {
            self.leaving_with(users, &mut leaving);
        }
        leaving
    }

    fn leaving_with(&self, users: &'a Subscription, leaving: &mut HashMap<&'a Use, Gate>) {
        for user in users.held.entries() {
            let due = self.snapshot.get(users.kind, &user.name);
            if due.is_some_and(|due| due.version == user.version) {
                continue;
            }
            let gate = if due.is_none() && self.is_silent_about(users.kind) {
                // Nothing will tell the client: it goes when its own users go.
                let own = Use { kind: users.kind, name: user.name.clone() };
                leaving.get(&own).copied().unwrap_or(Gate::Open)
            } else {
                self.until_replaced(users, user, due)
            };
            for used in &user.uses {
                let stays = due.is_some_and(|due| due.uses.binary_search(used).is_ok());
                if !stays && gate != Gate::Open {
                    let known = leaving.entry(used).or_insert(gate);
                    *known = gate.max(*known);
                }
            }
        }
    }

    /// What a client brought along from an earlier stream may use anything.
    fn leave_strangers(&self, kind: ResourceType) -> Gate {
        let users: &[ResourceType] = match kind {
            ResourceType::Cluster => &[ResourceType::Listener, ResourceType::Route],
            ResourceType::Endpoints => &[ResourceType::Cluster],
            _ => &[],
        };
        let users = users.iter().filter_map(|kind| self.of(*kind));
        let gates = users.flat_map(|users| {
            let strangers = users.held.entries().iter().filter(|user| user.is_foreign());
            strangers.map(|user| {
                let due = self.snapshot.get(users.kind, &user.name);
                self.until_replaced(users, user, due)
            })
        });
        gates.max().unwrap_or(Gate::Open)
    }

    fn until_replaced(
        &self,
        subscription: &Subscription,
        user: &Entry,
        due: Option<&Arc<Entry>>,
    ) -> Gate {
        if due.is_some_and(|due| subscription.has_refused(due)) {
            return Gate::Shut;
        }
        match subscription.in_flight(&user.name) {
            Some((_, deadline)) => self.until(deadline),
            None => subscription.deadline().map_or(Gate::Shut, |deadline| self.until(deadline)),
        }
    }

    /// State of the world has no words for the removal of a single resource of most types.
    fn is_silent_about(&self, kind: ResourceType) -> bool {
        self.protocol == Protocol::Sotw && !kind.is_complete_in_sotw()
    }

    fn of(&self, kind: ResourceType) -> Option<&'a Subscription> {
        self.subscriptions.get(kind.index())?.as_ref()
    }

    fn until(&self, deadline: Instant) -> Gate {
        if deadline > self.now { Gate::Until(deadline) } else { Gate::Open }
    }
}

/// Whether a new or changed resource of this type waits for what it names.
pub fn waits_for_others(kind: ResourceType) -> bool {
    match kind {
        ResourceType::Listener
        | ResourceType::ScopedRoute
        | ResourceType::Route
        | ResourceType::VirtualHost => true,
        ResourceType::Secret
        | ResourceType::Cluster
        | ResourceType::Endpoints
        | ResourceType::LbEndpoint
        | ResourceType::ExtensionConfig
        | ResourceType::Runtime => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::*;
    use xds_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use xds_proto::resource::Resource;

    const BOTH: [Protocol; 2] = [Protocol::Sotw, Protocol::Delta];

    type Wanted = [(ResourceType, &'static [&'static str]); 4];

    const WANTED: Wanted =
        [(Cluster, &[]), (Endpoints, &["a", "b"]), (Listener, &[]), (Route, &["r"])];

    fn world(clusters: &[&str], to: &str) -> Vec<Resource> {
        let of = clusters.iter().flat_map(|name| [cluster(name, 0), endpoints(name, 0)]);
        of.chain([listener("l", "r"), routes("r", to)]).collect()
    }

    fn settled(protocol: Protocol, resources: Vec<Resource>) -> Talk {
        let mut talk = Talk::new(protocol, resources);
        talk.settle(&WANTED);
        talk
    }

    #[test]
    fn a_change_of_all_types_arrives_in_order_without_waiting() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a"], "a"));
            let next =
                vec![routes("r", "x"), listener("l", "q"), endpoints("a", 1), cluster("a", 1)];
            talk.publish(next);
            assert_eq!(order_of(&talk.all()), ["CDS", "EDS", "LDS", "RDS"]);
        }
    }

    #[test]
    fn a_route_to_a_new_cluster_waits_until_the_client_took_cluster_and_endpoints() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a"], "a"));
            talk.publish(world(&["a", "b"], "b"));
            // The client asked for the endpoints of b before, so they need no request.
            let sent = talk.all();
            assert_eq!(order_of(&sent), ["CDS", "EDS"]);
            talk.ack(&sent[0], &[]);
            talk.silence();
            talk.ack(&sent[1], &["a", "b"]);
            assert_eq!(order_of(&talk.all()), ["RDS"]);
        }
    }

    #[test]
    fn a_client_that_does_not_answer_does_not_hold_up_routes_for_ever() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a"], "a"));
            talk.publish(world(&["a", "b"], "b"));
            talk.all();
            let wake = talk.session.wake().unwrap();
            talk.wait(wake - talk.now());
            assert_eq!(order_of(&talk.all()), ["RDS"]);
        }
    }

    #[test]
    fn a_client_may_take_a_moment_to_ask_for_the_endpoints_of_a_new_cluster() {
        let mut talk = settled(Protocol::Delta, world(&["a"], "a"));
        let mut next = world(&["a", "c"], "c");
        next.push(endpoints("b", 0));
        talk.publish(next);
        let sent = talk.all();
        for got in &sent {
            talk.ack(got, &[]);
        }
        talk.silence();
        talk.wait(SUBSCRIBE_TIMEOUT);
        assert_eq!(order_of(&talk.all()), ["RDS"]);
    }

    #[test]
    fn a_route_to_a_refused_cluster_is_held_back() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a"], "a"));
            talk.publish(world(&["a", "b"], "b"));
            let sent = talk.all();
            talk.nack(&sent[0], &[], "b: no");
            talk.ack(&sent[1], &["a", "b"]);
            talk.wait(Duration::from_secs(60));
            talk.silence();
            let mut fixed = world(&["a", "b"], "b");
            fixed[2] = cluster("b", 1);
            talk.publish(fixed);
            let came = talk.drain(&WANTED);
            assert_eq!(order_of(&came).last().map(String::as_str), Some("RDS"));
        }
    }

    #[test]
    fn a_new_listener_waits_for_the_clusters_of_its_routes() {
        for protocol in BOTH {
            let mut talk = settled(protocol, vec![cluster("a", 0), endpoints("a", 0)]);
            talk.publish(world(&["a", "b"], "b"));
            let sent = talk.all();
            // The routes themselves were asked for, and wait as well.
            assert_eq!(order_of(&sent), ["CDS", "EDS"]);
            talk.ack(&sent[0], &[]);
            talk.ack(&sent[1], &["a", "b"]);
            assert_eq!(order_of(&talk.all()), ["LDS", "RDS"]);
        }
    }

    #[test]
    fn a_cluster_leaves_after_the_client_took_the_routes_that_dropped_it() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a", "b"], "a"));
            talk.publish(world(&["b"], "b"));
            let sent = talk.one();
            assert_eq!(sent.kind, Route);
            talk.ack(&sent, &["r"]);
            let sent = talk.one();
            assert_eq!(sent.kind, Cluster);
            assert_eq!(sent.removed.contains(&"a".into()), protocol == Protocol::Delta);
            assert!(!sent.names.contains(&"a".into()));
            talk.ack(&sent, &[]);
            if protocol == Protocol::Delta {
                assert_eq!(talk.one().removed, ["a"], "the endpoints go last");
            }
        }
    }

    #[test]
    fn a_cluster_leaves_in_the_end_though_the_client_does_not_answer() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a", "b"], "a"));
            talk.publish(world(&["b"], "b"));
            talk.all();
            let wake = talk.session.wake().unwrap();
            talk.wait(wake - talk.now());
            assert_eq!(talk.all()[0].kind, Cluster);
        }
    }

    #[test]
    fn a_cluster_stays_as_long_as_the_routes_that_dropped_it_are_refused() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a", "b"], "a"));
            talk.publish(world(&["b"], "b"));
            let sent = talk.one();
            talk.nack(&sent, &["r"], "no");
            talk.wait(Duration::from_secs(60));
            talk.silence();
        }
    }

    #[test]
    fn everything_at_once_leaves_listener_first() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a"], "a"));
            talk.publish(vec![]);
            let came = talk.drain(&WANTED);
            let expected: &[&str] = match protocol {
                Protocol::Sotw => &["LDS", "CDS"],
                Protocol::Delta => &["LDS-", "RDS-", "CDS-", "EDS-"],
            };
            assert_eq!(order_of(&came), expected);
        }
    }

    #[test]
    fn the_endpoints_of_a_changed_cluster_are_sent_again() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a", "b"], "a"));
            let mut next = world(&["a", "b"], "a");
            next[0] = cluster("a", 1);
            talk.publish(next);
            let sent = talk.all();
            assert_eq!(order_of(&sent), ["CDS", "EDS"]);
            assert_eq!(sent[1].names, ["a"]);
        }
    }

    #[test]
    fn a_client_that_resumes_keeps_its_routes_and_clusters_until_the_new_ones_can_be_used() {
        let mut talk = Talk::new(Protocol::Delta, world(&["b"], "b"));
        let know = |names: &[&str]| DeltaDiscoveryRequest {
            initial_resource_versions: names
                .iter()
                .map(|n| (n.to_string(), "old".into()))
                .collect(),
            ..Default::default()
        };
        let named = |names: &[&str]| DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..know(names)
        };
        talk.delta(Cluster, know(&["a"]));
        talk.delta(Endpoints, named(&["a"]));
        talk.delta(Listener, know(&[]));
        talk.delta(Route, named(&["r"]));
        talk.wait(Duration::from_secs(1));
        let mut came = talk.all();
        assert_eq!(order_of(&came), ["CDS", "LDS"]);
        talk.change(Endpoints, &["b"], &[]);
        came.extend(talk.all());
        for got in &came {
            talk.ack(got, &[]);
        }
        let routes = talk.one();
        assert_eq!((routes.kind, &*routes.names), (Route, &["r".to_owned()][..]));
        talk.ack(&routes, &[]);
        assert_eq!(order_of(&talk.drain(&[])), ["CDS-", "EDS-"]);
    }

    #[test]
    fn endpoints_come_again_for_a_client_that_resumes_with_a_cluster_that_changed() {
        let mut talk = Talk::new(Protocol::Delta, world(&["a"], "a"));
        let known = |version: &str| DeltaDiscoveryRequest {
            initial_resource_versions: [("a".to_owned(), version.to_owned())].into(),
            ..Default::default()
        };
        talk.delta(Cluster, known("older"));
        talk.wait(Duration::from_secs(1));
        assert_eq!(talk.one().names, ["a"]);
        let version = endpoints("a", 0).version;
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: vec!["a".into()],
            ..known(version.as_str())
        };
        talk.delta(Endpoints, request);
        assert_eq!(talk.one().names, ["a"]);
    }

    #[test]
    fn endpoints_move_without_anything_else() {
        for protocol in BOTH {
            let mut talk = settled(protocol, world(&["a", "b"], "a"));
            let mut next = world(&["a", "b"], "a");
            next[1] = endpoints("a", 1);
            talk.publish(next);
            assert_eq!(order_of(&talk.all()), ["EDS"]);
        }
    }

    #[test]
    fn a_request_is_answered_with_all_that_exists_whatever_else_waits() {
        for protocol in BOTH {
            let mut talk = Talk::new(protocol, world(&["a"], "a"));
            let wanted: Wanted =
                [(Route, &["r"]), (Listener, &[]), (Endpoints, &["a"]), (Cluster, &[])];
            for (kind, names) in wanted {
                match protocol {
                    Protocol::Sotw => talk.name(kind, names, None),
                    Protocol::Delta => talk.change(kind, names, &[]),
                }
                assert_eq!(talk.one().kind, kind);
            }
        }
    }
}
