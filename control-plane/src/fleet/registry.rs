//! The table behind the fleet: pure, told the time by its caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::identity::Identity;
use crate::fleet::report::{Nack, Report};
use crate::fleet::status::{Laggard, NackStatus, NodeState, NodeStatus, TypeStatus, rfc3339};
use crate::fleet::{InSync, LOST_FOR, Moment, STALE_AFTER};
use crate::snapshot::Origin;
use xds_proto::resource::ResourceType;

/// One stream of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(u64);

/// Every node that is or was lately connected.
#[derive(Debug, Default)]
pub struct Registry {
    nodes: BTreeMap<Arc<str>, Node>,
    last_stream: u64,
}

#[derive(Debug)]
struct Node {
    identity: Identity,
    since: Moment,
    gone: Option<Moment>,
    streams: BTreeMap<StreamId, Stream>,
    /// The last report of a stream that ended, shown while the node is lost.
    last: Report,
    revision: Option<u64>,
    lag: Option<Duration>,
}

#[derive(Debug)]
struct Stream {
    report: Report,
    opened: Instant,
}

impl Registry {
    /// Enters a stream. A node that comes back within [`LOST_FOR`] keeps its revision.
    pub fn connect(&mut self, identity: Identity, now: Moment) -> StreamId {
        self.forget_lost(now);
        self.last_stream += 1;
        let id = StreamId(self.last_stream);
        let node = self.nodes.entry(identity.node.clone()).or_insert_with(|| Node {
            identity: identity.clone(),
            since: now,
            gone: None,
            streams: BTreeMap::new(),
            last: Report::default(),
            revision: None,
            lag: None,
        });
        if node.gone.take().is_some() {
            node.since = now;
        }
        node.identity = identity;
        node.streams.insert(id, Stream { report: Report::default(), opened: now.instant });
        id
    }

    /// Ends a stream.
    pub fn disconnect(&mut self, node: &str, stream: StreamId, now: Moment) {
        self.forget_lost(now);
        let Some(node) = self.nodes.get_mut(node) else { return };
        if let Some(stream) = node.streams.remove(&stream) {
            node.last = stream.report;
        }
        if node.streams.is_empty() {
            node.gone = Some(now);
        }
    }

    /// Takes in how a stream stands. Says whether that is news.
    pub fn report(&mut self, node: &str, stream: StreamId, report: Report, now: Moment) -> bool {
        let Some(node) = self.nodes.get_mut(node) else { return false };
        let Some(known) = node.streams.get_mut(&stream) else { return false };
        if known.report == report {
            return false;
        }
        let first = known.report.synced.is_none();
        let synced = report.synced;
        known.report = report;
        let revisions = node.streams.values().map(|stream| stream.report.synced);
        let served = revisions.collect::<Option<Vec<_>>>();
        let served = served.and_then(|all| all.iter().map(|stamp| stamp.revision).min());
        if served.is_some() && served != node.revision {
            node.revision = served;
            let lag = synced.and_then(|stamp| now.time.duration_since(stamp.accepted_at).ok());
            node.lag = lag.filter(|_| !first);
        }
        true
    }

    /// All nodes, sorted by id.
    pub fn nodes(&mut self, now: Moment) -> Vec<NodeStatus> {
        self.forget_lost(now);
        self.nodes.values().map(|node| node.status(now)).collect()
    }

    /// Whether the connected nodes of these origins serve a revision, or who does not.
    ///
    /// # Errors
    /// The nodes that do not.
    pub fn standing(
        &mut self,
        revision: u64,
        origins: Option<&[Origin]>,
        now: Moment,
    ) -> Result<InSync, Vec<Laggard>> {
        let mut laggards = Vec::new();
        let mut in_sync = InSync { nodes: 0, lag: None };
        for node in self.nodes.values().filter(|node| node.is_of(origins)) {
            if node.serves(revision) {
                in_sync.nodes += 1;
                if node.revision == Some(revision) {
                    in_sync.lag = in_sync.lag.max(node.lag);
                }
            } else {
                laggards.push(Laggard {
                    node: node.identity.node.clone(),
                    state: node.state(now),
                    revision: node.revision,
                    nack: node.nack(),
                });
            }
        }
        if laggards.is_empty() { Ok(in_sync) } else { Err(laggards) }
    }

    fn forget_lost(&mut self, now: Moment) {
        self.nodes.retain(|_, node| {
            node.gone.is_none_or(|gone| now.instant.duration_since(gone.instant) < LOST_FOR)
        });
    }
}

impl Node {
    fn is_of(&self, origins: Option<&[Origin]>) -> bool {
        let of = |report: &Report| match (origins, &report.origin) {
            (None, _) | (_, None) => true,
            (Some(origins), Some(origin)) => origins.contains(origin),
        };
        self.streams.values().any(|stream| of(&stream.report))
    }

    fn serves(&self, revision: u64) -> bool {
        self.streams
            .values()
            .all(|stream| stream.report.synced.is_some_and(|stamp| stamp.revision >= revision))
    }

    fn reports(&self) -> impl Iterator<Item = &Report> {
        let last = self.streams.is_empty().then_some(&self.last);
        self.streams.values().map(|stream| &stream.report).chain(last)
    }

    fn state(&self, now: Moment) -> NodeState {
        if self.streams.is_empty() {
            return NodeState::Lost;
        }
        self.streams.values().map(|s| s.state(now.instant)).max().unwrap_or(NodeState::Lost)
    }

    fn nack(&self) -> Option<NackStatus> {
        let nacks = self.reports().flat_map(|report| {
            report.types.iter().filter_map(|(kind, report)| Some((*kind, report.nack.as_ref()?)))
        });
        nacks.min_by_key(|(kind, _)| *kind).map(|(kind, nack)| shown(kind, nack))
    }

    fn status(&self, now: Moment) -> NodeStatus {
        let origin = self.reports().find_map(|report| report.origin.as_ref());
        let fleet = origin.map_or(&self.identity.cluster, Origin::name).clone();
        let mut types = BTreeMap::new();
        for (kind, report) in self.reports().flat_map(|report| &report.types) {
            types.insert(
                kind.short_name(),
                TypeStatus {
                    sent: report.sent.as_ref().map(ToString::to_string),
                    acked: report.acked.as_ref().map(ToString::to_string),
                    resources: report.held,
                },
            );
        }
        NodeStatus {
            node: self.identity.node.clone(),
            kind: self.identity.kind,
            version: self.identity.version.clone(),
            fleet,
            state: self.state(now),
            revision: self.revision,
            lag_ms: self.lag.and_then(|lag| u64::try_from(lag.as_millis()).ok()),
            connected_since: rfc3339(self.since.time),
            lost_since: self.gone.map(|gone| rfc3339(gone.time)),
            types,
            nack: self.nack(),
        }
    }
}

impl Stream {
    fn state(&self, now: Instant) -> NodeState {
        if self.report.types.values().any(|report| report.nack.is_some()) {
            return NodeState::Nack;
        }
        let waiting = self.report.synced.is_none().then_some(self.opened);
        match self.report.behind_since.or(waiting) {
            None => NodeState::Synced,
            Some(since) if now.duration_since(since) < STALE_AFTER => NodeState::Pending,
            Some(_) => NodeState::Stale,
        }
    }
}

fn shown(kind: ResourceType, nack: &Nack) -> NackStatus {
    NackStatus {
        r#type: kind.short_name(),
        resources: nack.resources.clone(),
        text: nack.text.clone(),
        since: rfc3339(nack.since),
        tries: nack.tries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::report::TypeReport;
    use crate::snapshot::Stamp;
    use std::time::SystemTime;
    use xds_proto::version::Version;

    fn start() -> Moment {
        Moment { instant: Instant::now(), time: SystemTime::UNIX_EPOCH }
    }

    fn after(start: Moment, seconds: u64) -> Moment {
        let passed = Duration::from_secs(seconds);
        Moment { instant: start.instant + passed, time: start.time + passed }
    }

    fn connected(now: Moment) -> (Registry, StreamId) {
        let mut registry = Registry::default();
        let identity = Identity { node: "n".into(), cluster: "c".into(), ..Identity::default() };
        let stream = registry.connect(identity, now);
        (registry, stream)
    }

    fn synced(revision: u64, now: Moment) -> Report {
        let stamp = Stamp { revision, accepted_at: now.time };
        let types = BTreeMap::from([(ResourceType::Route, TypeReport::default())]);
        Report { synced: Some(stamp), types, ..Report::default() }
    }

    fn state(registry: &mut Registry, now: Moment) -> NodeState {
        registry.nodes(now)[0].state
    }

    #[test]
    fn a_node_that_does_not_answer_is_pending_and_after_five_seconds_stale() {
        let now = start();
        let (mut registry, stream) = connected(now);
        registry.report("n", stream, synced(1, now), now);
        assert_eq!(state(&mut registry, now), NodeState::Synced);
        let behind = Report { behind_since: Some(now.instant), ..synced(1, now) };
        registry.report("n", stream, behind, now);
        assert_eq!(state(&mut registry, after(now, 4)), NodeState::Pending);
        assert_eq!(state(&mut registry, after(now, 5)), NodeState::Stale);
    }

    #[test]
    fn a_node_that_refused_is_nack_and_keeps_the_revision_it_serves() {
        let now = start();
        let (mut registry, stream) = connected(now);
        registry.report("n", stream, synced(1, now), now);
        let mut report = synced(1, now);
        let nack = Nack {
            resources: vec!["r".into()],
            version: Version::foreign("v"),
            text: "r: no".into(),
            since: now.time,
            tries: 1,
        };
        report
            .types
            .insert(ResourceType::Route, TypeReport { nack: Some(nack), ..TypeReport::default() });
        registry.report("n", stream, report, now);
        let status = &registry.nodes(now)[0];
        assert_eq!((status.state, status.revision), (NodeState::Nack, Some(1)));
        let nack = status.nack.as_ref().unwrap();
        assert_eq!((nack.r#type, nack.text.as_str()), ("RDS", "r: no"));
    }

    #[test]
    fn a_lost_node_is_shown_for_ten_minutes() {
        let now = start();
        let (mut registry, stream) = connected(now);
        registry.report("n", stream, synced(1, now), now);
        registry.disconnect("n", stream, now);
        let status = &registry.nodes(after(now, 599))[0];
        assert_eq!((status.state, status.revision), (NodeState::Lost, Some(1)));
        assert!(registry.nodes(after(now, 600)).is_empty());
    }

    #[test]
    fn a_node_is_one_entry_whatever_the_number_of_its_streams() {
        let now = start();
        let (mut registry, first) = connected(now);
        let second = registry.connect(registry.nodes["n"].identity.clone(), now);
        registry.report("n", first, synced(2, now), now);
        assert_eq!(state(&mut registry, now), NodeState::Pending);
        registry.report("n", second, synced(1, now), now);
        let nodes = registry.nodes(now);
        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].state, nodes[0].revision), (NodeState::Synced, Some(1)));
        registry.disconnect("n", first, now);
        assert_eq!(state(&mut registry, now), NodeState::Synced);
    }

    #[test]
    fn lag_counts_from_the_accepted_write_and_not_for_what_a_node_found_when_it_came() {
        let now = start();
        let (mut registry, stream) = connected(now);
        registry.report("n", stream, synced(1, now), after(now, 60));
        assert_eq!(registry.nodes(now)[0].lag_ms, None);
        registry.report("n", stream, synced(2, now), after(now, 3));
        assert_eq!(registry.nodes(now)[0].lag_ms, Some(3000));
    }

    #[test]
    fn only_nodes_of_the_touched_origins_are_waited_for() {
        let now = start();
        let (mut registry, stream) = connected(now);
        let origin = Origin::Fleet("c".into());
        let report = Report { origin: Some(origin.clone()), ..synced(1, now) };
        registry.report("n", stream, report, now);
        assert!(registry.standing(2, Some(&[origin]), now).is_err());
        let other = Origin::Raw("c".into());
        assert_eq!(registry.standing(2, Some(&[other]), now).unwrap().nodes, 0);
    }
}
