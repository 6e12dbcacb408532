//! What the nodes of a group are due: immutable sets of encoded resources, and the directory of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

use crate::snapshot::table::{Entry, TypeTable};

pub mod references;
pub mod table;

/// All resources that the nodes of one group are due. Cheap to share, never changed.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    tables: [Arc<TypeTable>; ResourceType::ALL.len()],
}

impl Snapshot {
    /// Builds a snapshot. Of two resources with one type and name the later wins.
    pub fn new(resources: Vec<Resource>) -> Self {
        Self::default().next(resources)
    }

    /// Builds the snapshot that follows this one: what did not change is shared, not encoded again.
    pub fn next(&self, resources: Vec<Resource>) -> Self {
        let mut sorted: [Vec<Resource>; ResourceType::ALL.len()] = Default::default();
        for resource in resources {
            if let Some(of_kind) = sorted.get_mut(resource.kind.index()) {
                of_kind.push(resource);
            }
        }
        let mut tables = self.tables.clone();
        for (table, resources) in tables.iter_mut().zip(sorted) {
            *table = TypeTable::next(table, resources);
        }
        Self { tables }
    }

    /// The resource of this type and name.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Entry>> {
        self.kind(kind).get(name)
    }

    /// The resources of one type.
    pub fn kind(&self, kind: ResourceType) -> &Arc<TypeTable> {
        // One table per type: `ALL` and `index` agree, which a test of `xds-proto` holds.
        &self.tables[kind.index()]
    }

    /// The version of all resources of one type together.
    pub fn type_version(&self, kind: ResourceType) -> &Version {
        self.kind(kind).version()
    }

    /// Whether both hold the same resources in the same versions.
    pub fn is_same(&self, other: &Self) -> bool {
        let mut tables = self.tables.iter().zip(&other.tables);
        tables.all(|(a, b)| Arc::ptr_eq(a, b) || a.version() == b.version())
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.entries().len()).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a node's resources come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// Raw xDS resources that someone put into this group.
    Raw(Arc<str>),
    /// What the documents say for this fleet.
    Fleet(Arc<str>),
}

impl Origin {
    /// The group or fleet, without saying which of the two.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Raw(name) | Self::Fleet(name) => name,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(name) => write!(f, "group {name}"),
            Self::Fleet(name) => write!(f, "fleet {name}"),
        }
    }
}

/// Which accepted write a snapshot stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The revision of the store.
    pub revision: u64,
    /// When the write was accepted; lag is counted from here.
    pub accepted_at: SystemTime,
}

impl Default for Stamp {
    fn default() -> Self {
        Self { revision: 0, accepted_at: SystemTime::UNIX_EPOCH }
    }
}

/// What one node is due, and why.
#[derive(Debug, Clone)]
pub struct Published {
    /// Whose resources these are.
    pub origin: Origin,
    /// The resources.
    pub snapshot: Arc<Snapshot>,
    /// The write they stand for.
    pub stamp: Stamp,
}

/// The fleet of nodes that name no cluster.
pub const DEFAULT_FLEET: &str = "default";

/// The raw group of all nodes that have none of their own.
pub const EVERY_NODE: &str = "*";

/// What is published now, for every group and fleet.
///
/// Nobody is served before [`Snapshots::open`]: a node that reconnects while a control plane is
/// still reading its store must not be told that everything is gone.
#[derive(Debug)]
pub struct Snapshots {
    directory: Mutex<Directory>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Directory {
    is_open: bool,
    published: HashMap<Origin, Published>,
    latest: Stamp,
    nothing: Arc<Snapshot>,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { directory: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Snapshots {
    /// Publishes what the documents say for one fleet. The same content under a new stamp sends
    /// nothing; it moves the revision that the nodes of the fleet are known to serve.
    pub fn publish_fleet(&self, fleet: &str, snapshot: Arc<Snapshot>, stamp: Stamp) {
        self.publish(Origin::Fleet(fleet.into()), snapshot, stamp);
    }

    /// Publishes the raw resources of one group.
    pub fn publish_raw(&self, group: &str, snapshot: Arc<Snapshot>, stamp: Stamp) {
        self.publish(Origin::Raw(group.into()), snapshot, stamp);
    }

    /// Forgets a raw group: its nodes get the next group that fits, else their fleet.
    pub fn remove_raw(&self, group: &str) {
        self.remove(&Origin::Raw(group.into()));
    }

    /// Forgets a fleet: its nodes get nothing.
    pub fn remove_fleet(&self, fleet: &str) {
        self.remove(&Origin::Fleet(fleet.into()));
    }

    /// Moves everybody who gets nothing to this stamp: the write brings them nothing.
    pub fn advance(&self, stamp: Stamp) {
        self.change(|directory| {
            if stamp.revision >= directory.latest.revision {
                directory.latest = stamp;
            }
        });
    }

    /// Says that what is published is complete. From here on nodes are served.
    pub fn open(&self) {
        self.change(|directory| directory.is_open = true);
    }

    /// What a node is due: the raw group named like its id, else like its cluster, else `*`;
    /// where there is no such group, the fleet named like its cluster. `None` before `open`.
    pub fn for_node(&self, id: &str, cluster: &str) -> Option<Published> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        if !directory.is_open {
            return None;
        }
        let raw = [id, cluster, EVERY_NODE].into_iter().filter(|name| !name.is_empty());
        let found = raw
            .map(|name| Origin::Raw(name.into()))
            .find_map(|origin| directory.published.get(&origin));
        let fleet = Origin::Fleet(if cluster.is_empty() { DEFAULT_FLEET } else { cluster }.into());
        let found = found.or_else(|| directory.published.get(&fleet));
        Some(found.cloned().unwrap_or_else(|| Published {
            origin: fleet,
            snapshot: directory.nothing.clone(),
            stamp: directory.latest,
        }))
    }

    /// What is published for this group or fleet.
    pub fn published(&self, origin: &Origin) -> Option<Published> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        directory.published.get(origin).cloned()
    }

    /// Tells of every change. The number grows by one each time.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn publish(&self, origin: Origin, snapshot: Arc<Snapshot>, stamp: Stamp) {
        self.change(|directory| {
            if stamp.revision >= directory.latest.revision {
                directory.latest = stamp;
            }
            let published = Published { origin: origin.clone(), snapshot, stamp };
            directory.published.insert(origin, published);
        });
    }

    fn remove(&self, origin: &Origin) {
        self.change(|directory| {
            directory.published.remove(origin);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Directory)) {
        change(&mut self.directory.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|generation| *generation += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_proto::envoy::config::cluster::v3::Cluster;

    fn cluster(name: &str, alt: &str) -> Resource {
        let message =
            Cluster { name: name.into(), alt_stat_name: alt.into(), ..Default::default() };
        Resource::pack(&message).unwrap()
    }

    fn published(snapshots: &Snapshots, id: &str, cluster: &str) -> Origin {
        snapshots.for_node(id, cluster).unwrap().origin
    }

    #[test]
    fn a_node_gets_the_group_of_its_id_then_of_its_cluster_then_the_star_then_its_fleet() {
        let snapshots = Snapshots::default();
        snapshots.open();
        let empty = Arc::new(Snapshot::default());
        let raw = |name: &str| Origin::Raw(name.into());
        let fleet = |name: &str| Origin::Fleet(name.into());
        assert_eq!(published(&snapshots, "n", "c"), fleet("c"));
        assert_eq!(published(&snapshots, "n", ""), fleet("default"));
        snapshots.publish_raw("*", empty.clone(), Stamp::default());
        assert_eq!(published(&snapshots, "n", "c"), raw("*"));
        snapshots.publish_raw("c", empty.clone(), Stamp::default());
        assert_eq!(published(&snapshots, "n", "c"), raw("c"));
        snapshots.publish_raw("n", empty, Stamp::default());
        assert_eq!(published(&snapshots, "n", "c"), raw("n"));
        snapshots.remove_raw("n");
        assert_eq!(published(&snapshots, "n", "c"), raw("c"));
    }

    #[test]
    fn nobody_is_served_before_the_directory_is_open() {
        let snapshots = Snapshots::default();
        snapshots.publish_raw("*", Arc::default(), Stamp::default());
        assert!(snapshots.for_node("n", "c").is_none());
        snapshots.open();
        assert!(snapshots.for_node("n", "c").is_some());
    }

    #[test]
    fn what_did_not_change_is_shared_by_the_next_snapshot() {
        let first = Snapshot::new(vec![cluster("a", ""), cluster("b", "")]);
        let same = first.next(vec![cluster("b", ""), cluster("a", "")]);
        assert!(Arc::ptr_eq(first.kind(ResourceType::Cluster), same.kind(ResourceType::Cluster)));
        let next = first.next(vec![cluster("a", "x"), cluster("b", "")]);
        let entry =
            |snapshot: &Snapshot, name| snapshot.get(ResourceType::Cluster, name).unwrap().clone();
        assert!(Arc::ptr_eq(&entry(&first, "b"), &entry(&next, "b")));
        assert_ne!(entry(&first, "a").version, entry(&next, "a").version);
        assert_ne!(
            first.type_version(ResourceType::Cluster),
            next.type_version(ResourceType::Cluster)
        );
        assert!(Arc::ptr_eq(first.kind(ResourceType::Route), next.kind(ResourceType::Route)));
    }
}
