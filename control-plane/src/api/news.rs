//! What happens, as events: a ring of the last ones, and the task that fills it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::api::fleet::node;
use crate::api::{Api, revisions};
use crate::fleet::count_states;
use crate::fleet::status::{NodeState, NodeStatus};

/// How many events are kept.
const KEPT: usize = 10_000;
const SUMMARY_EVERY: Duration = Duration::from_secs(5);

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Its number; later ones are greater, also after a restart.
    pub id: u64,
    /// `fleet`, `gone`, `revision`, `summary`.
    pub event: &'static str,
    /// What it is about.
    pub data: Value,
}

impl News {
    /// The word by which it is asked for.
    pub fn topic(&self) -> &'static str {
        if self.event == "gone" { "fleet" } else { self.event }
    }
}

/// The last events.
#[derive(Debug)]
pub struct Ring {
    kept: Mutex<Kept>,
    added: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    /// The number of the newest event that is not kept.
    floor: u64,
    news: VecDeque<Arc<News>>,
}

impl Default for Ring {
    fn default() -> Self {
        // Numbers begin at the time, so that none from before a restart is mistaken for one of ours.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let floor = u64::try_from(since.as_micros()).unwrap_or_default();
        let kept = Mutex::new(Kept { floor, news: VecDeque::new() });
        Self { kept, added: watch::Sender::new(floor) }
    }
}

impl Ring {
    /// Takes an event in.
    pub fn push(&self, event: &'static str, data: Value) {
        let mut kept = self.kept();
        let id = kept.newest() + 1;
        kept.news.push_back(Arc::new(News { id, event, data }));
        if kept.news.len() > KEPT
            && let Some(gone) = kept.news.pop_front()
        {
            kept.floor = gone.id;
        }
        drop(kept);
        self.added.send_replace(id);
    }

    /// The number of the newest event.
    pub fn newest(&self) -> u64 {
        self.kept().newest()
    }

    /// What came after this event; `None` when some of it is not kept.
    pub fn after(&self, id: u64) -> Option<Vec<Arc<News>>> {
        let kept = self.kept();
        if id < kept.floor || id > kept.newest() {
            return None;
        }
        Some(kept.news.iter().filter(|news| news.id > id).cloned().collect())
    }

    /// Told of each event.
    pub fn added(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn newest(&self) -> u64 {
        self.news.back().map_or(self.floor, |news| news.id)
    }
}

/// Fills the ring until shutdown.
pub async fn collect(api: &Api) {
    let mut seen = Seen {
        revision: api.store.state().revision,
        done: api.store.state().revision,
        nodes: BTreeMap::new(),
    };
    let (mut stored, mut fleet) = (api.store.changed(), api.fleet.changed());
    let mut summary = interval(SUMMARY_EVERY);
    summary.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut is_summary = false;
        tokio::select! {
            changed = stored.changed() => if changed.is_err() { return },
            changed = fleet.changed() => if changed.is_err() { return },
            _ = summary.tick() => is_summary = true,
            () = api.shutdown.cancelled() => return,
        }
        // What is marked seen here is read below.
        stored.mark_unchanged();
        fleet.mark_unchanged();
        let nodes = api.fleet.nodes();
        seen.revisions(api, &nodes);
        seen.nodes(api, &nodes);
        seen.done(api, &nodes);
        if is_summary {
            api.news.push("summary", summary_of(&nodes));
        }
    }
}

struct Seen {
    revision: u64,
    /// The newest revision that every node was seen to serve.
    done: u64,
    nodes: BTreeMap<Arc<str>, NodeStatus>,
}

impl Seen {
    fn revisions(&mut self, api: &Api, nodes: &[NodeStatus]) {
        let newest = api.store.state().revision;
        for number in self.revision + 1..=newest {
            tell_revision(api, number, "accepted", nodes);
        }
        self.revision = newest;
    }

    fn nodes(&mut self, api: &Api, nodes: &[NodeStatus]) {
        for status in nodes {
            if self.nodes.get(&status.node).is_none_or(|before| differs(before, status)) {
                api.news.push("fleet", node(api, status));
                self.nodes.insert(status.node.clone(), status.clone());
            }
        }
        self.nodes.retain(|name, _| {
            let stays = nodes.iter().any(|status| status.node == *name);
            if !stays {
                api.news.push("gone", json!({"node": &**name}));
            }
            stays
        });
    }

    fn done(&mut self, api: &Api, nodes: &[NodeStatus]) {
        let (acked, connected) = acked(self.revision, nodes);
        if self.done < self.revision && connected > 0 && acked == connected {
            self.done = self.revision;
            tell_revision(api, self.revision, "done", nodes);
        }
    }
}

fn tell_revision(api: &Api, number: u64, state: &str, nodes: &[NodeStatus]) {
    let Ok(record) = api.store.revision(number) else { return };
    let mut data = revisions::brief(&record);
    data["rollout"] = rollout(number, nodes);
    data["rollout"]["state"] = state.into();
    api.news.push("revision", data);
}

/// How far a revision has got among the connected nodes.
pub fn rollout(revision: u64, nodes: &[NodeStatus]) -> Value {
    let (acked, connected) = acked(revision, nodes);
    let refuses = |node: &&NodeStatus| node.state == NodeState::Nack && !serves(node, revision);
    let nacked = nodes.iter().filter(refuses).count();
    json!({"acked": acked, "nodes": connected, "nacked": nacked})
}

fn serves(node: &NodeStatus, revision: u64) -> bool {
    node.revision.is_some_and(|served| served >= revision)
}

/// How many nodes serve a revision, of how many that are connected.
fn acked(revision: u64, nodes: &[NodeStatus]) -> (usize, usize) {
    let connected = nodes.iter().filter(|node| node.state != NodeState::Lost);
    let acked = connected.clone().filter(|node| serves(node, revision));
    (acked.count(), connected.count())
}

/// Whether people would see a difference, times and versions aside.
fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let refused = |status: &NodeStatus| status.nack.as_ref().map(|nack| nack.text.clone());
    (a.state, a.revision, &a.fleet, &a.version) != (b.state, b.revision, &b.fleet, &b.version)
        || refused(a) != refused(b)
}

fn summary_of(nodes: &[NodeStatus]) -> Value {
    let counts = count_states(nodes);
    let count = |state| counts.get(&state).copied().unwrap_or(0);
    json!({
        "nodes": nodes.len() - count(NodeState::Lost), "synced": count(NodeState::Synced),
        "pending": count(NodeState::Pending), "nack": count(NodeState::Nack),
        "stale": count(NodeState::Stale), "lost": count(NodeState::Lost),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_are_forgotten_and_that_is_told() {
        let ring = Ring::default();
        let start = ring.newest();
        (0..=KEPT).for_each(|n| ring.push("summary", json!(n)));
        assert!(ring.after(start).is_none());
        assert_eq!(ring.after(start + 1).map(|news| news.len()), Some(KEPT));
        assert_eq!(ring.after(ring.newest()), Some(Vec::new()));
        assert!(ring.after(ring.newest() + 1).is_none());
    }
}
