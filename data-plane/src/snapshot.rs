//! The tables that one request sees, and the cell that swaps them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use xds_proto::version::Version;

use crate::chain::Extension;
use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::listener::scopes::LinkedScope;
use crate::route::linked::LinkedRoutes;

/// Everything a request needs, consistent and immutable.
#[derive(Debug)]
pub struct Snapshot {
    /// Listeners by name.
    pub listeners: HashMap<Arc<str>, Arc<Listener>>,
    /// Route tables that came by name, shared by the listeners that use them.
    pub routes: HashMap<Arc<str>, Arc<LinkedRoutes>>,
    /// Scopes of routes that came by name.
    pub scopes: HashMap<Arc<str>, Arc<LinkedScope>>,
    /// Configurations of filters that came by name.
    pub extensions: HashMap<Arc<str>, Arc<Extension>>,
    /// Clusters by name.
    pub clusters: HashMap<Arc<str>, Arc<Cluster>>,
    /// Clusters that no request is sent to before their endpoints were checked once.
    pub warming: HashMap<Arc<str>, Arc<Cluster>>,
    /// The version of the resources it was made of.
    pub version: Version,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            listeners: HashMap::new(),
            routes: HashMap::new(),
            scopes: HashMap::new(),
            extensions: HashMap::new(),
            clusters: HashMap::new(),
            warming: HashMap::new(),
            version: Version::foreign(""),
        }
    }
}

/// The current snapshot. Readers never wait; a reader keeps what it loaded.
#[derive(Debug, Clone, Default)]
pub struct SnapshotCell(Arc<ArcSwap<Snapshot>>);

impl SnapshotCell {
    /// The current snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Replaces the snapshot for requests that start from now on.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.0.store(snapshot);
    }

    /// A reader for one worker: loading an unchanged snapshot costs one pointer compare.
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader(Cache::new(Arc::clone(&self.0)))
    }
}

/// Reads the cell for one worker.
#[derive(Debug, Clone)]
pub struct SnapshotReader(Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

impl SnapshotReader {
    /// The current snapshot.
    pub fn get(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_was_published_last() {
        let cell = SnapshotCell::default();
        let mut reader = cell.reader();
        let before = Arc::clone(reader.get());
        let snapshot = Snapshot { version: Version::foreign("2"), ..Snapshot::default() };
        cell.publish(Arc::new(snapshot));
        assert_eq!(reader.get().version.as_str(), "2");
        assert_eq!(before.version.as_str(), "");
    }
}
