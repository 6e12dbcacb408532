//! Who is connected and what they said: one entry per node id, kept from what its streams report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::fleet::identity::Identity;
use crate::fleet::registry::{Registry, StreamId};
use crate::fleet::report::Report;
use crate::fleet::status::{Laggard, NodeState, NodeStatus};
use crate::snapshot::Origin;

pub mod identity;
pub mod registry;
pub mod report;
pub mod status;

/// How long a node may take to answer before it counts as stale.
pub const STALE_AFTER: Duration = Duration::from_secs(5);

/// How long a node that lost its stream is still shown.
pub const LOST_FOR: Duration = Duration::from_secs(10 * 60);

/// A point in time on both clocks: one that never jumps, and one that people read.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For durations.
    pub instant: Instant,
    /// For people.
    pub time: SystemTime,
}

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }
}

/// The nodes that are or were lately connected.
#[derive(Debug)]
pub struct Fleet {
    registry: Mutex<Registry>,
    changed: watch::Sender<u64>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { registry: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

/// All nodes that were waited for serve the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InSync {
    /// How many they are.
    pub nodes: usize,
    /// The longest time from the accepted write to the last ACK. `None` when no node had to ACK.
    pub lag: Option<Duration>,
}

impl Fleet {
    /// The nodes, sorted by id.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.with(|registry| registry.nodes(Moment::now()))
    }

    /// Tells of every change. The number grows by one each time.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Enters a stream of this node. The stream counts until the handle is dropped.
    pub fn connect(self: &Arc<Self>, identity: Identity) -> Connection {
        let node = identity.node.clone();
        let stream = self.with(|registry| registry.connect(identity, Moment::now()));
        self.tell();
        Connection { fleet: self.clone(), node, stream }
    }

    /// Waits until every connected node that gets its resources from one of `origins` (`None`:
    /// every connected node) serves this revision or a later one. A node to which the revision
    /// brings nothing serves it at once.
    ///
    /// # Errors
    /// The nodes that do not, and why: as soon as only refusals are left, at the latest after
    /// `timeout`.
    pub async fn wait_in_sync(
        &self,
        revision: u64,
        origins: Option<&[Origin]>,
        timeout: Duration,
    ) -> Result<InSync, Vec<Laggard>> {
        let deadline = Instant::now() + timeout;
        let mut changed = self.changed();
        loop {
            changed.mark_unchanged();
            let standing =
                || self.with(|registry| registry.standing(revision, origins, Moment::now()));
            let laggards = match standing() {
                Ok(in_sync) => return Ok(in_sync),
                Err(laggards) => laggards,
            };
            if laggards.iter().all(|laggard| laggard.state == NodeState::Nack) {
                return Err(laggards);
            }
            if !matches!(timeout_at(deadline, changed.changed()).await, Ok(Ok(()))) {
                return standing();
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Registry) -> T) -> T {
        act(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self) {
        self.changed.send_modify(|generation| *generation += 1);
    }
}

/// One stream of a node, as the fleet knows it.
#[derive(Debug)]
pub struct Connection {
    fleet: Arc<Fleet>,
    node: Arc<str>,
    stream: StreamId,
}

impl Connection {
    /// Says how the stream stands.
    pub fn report(&self, report: Report) {
        let now = Moment::now();
        let is_news =
            self.fleet.with(|registry| registry.report(&self.node, self.stream, report, now));
        if is_news {
            self.fleet.tell();
        }
    }
}

impl Connection {
    /// Says that time alone may have changed how the node stands.
    pub fn touch(&self) {
        self.fleet.tell();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.fleet.with(|registry| registry.disconnect(&self.node, self.stream, Moment::now()));
        self.fleet.tell();
    }
}

/// How many nodes are in each state.
pub fn count_states(nodes: &[NodeStatus]) -> BTreeMap<NodeState, usize> {
    let mut counts = BTreeMap::new();
    for node in nodes {
        *counts.entry(node.state).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Stamp;

    fn identity(node: &str) -> Identity {
        Identity { node: node.into(), ..Identity::default() }
    }

    fn synced(revision: u64) -> Report {
        Report { synced: Some(Stamp { revision, ..Stamp::default() }), ..Report::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_when_the_last_node_serves_the_revision() {
        let fleet = Arc::new(Fleet::default());
        let (a, b) = (fleet.connect(identity("a")), fleet.connect(identity("b")));
        a.report(synced(2));
        b.report(synced(1));
        let waiting = fleet.wait_in_sync(2, None, Duration::from_secs(9));
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            b.report(synced(2));
        };
        let (result, ()) = tokio::join!(waiting, later);
        assert_eq!(result.unwrap().nodes, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_names_who_did_not_answer() {
        let fleet = Arc::new(Fleet::default());
        let _a = fleet.connect(identity("a"));
        let laggards = fleet.wait_in_sync(1, None, Duration::from_secs(9)).await.unwrap_err();
        assert_eq!(laggards.len(), 1);
        assert_eq!(&*laggards[0].node, "a");
        assert_eq!(laggards[0].state, NodeState::Stale);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_connected_is_in_sync() {
        let fleet = Arc::new(Fleet::default());
        drop(fleet.connect(identity("a")));
        let result = fleet.wait_in_sync(1, None, Duration::from_secs(9)).await;
        assert_eq!(result, Ok(InSync { nodes: 0, lag: None }));
    }
}
