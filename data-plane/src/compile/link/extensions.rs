//! Configurations of filters that came by themselves, and the clusters they need.

use std::collections::HashMap;
use std::sync::Arc;

use xds_proto::resource::ResourceType;

use super::{ByName, Linker};
use crate::chain::Extension;
use crate::cluster::Cluster;
use crate::compile::Waiting;

impl Linker<'_> {
    /// One that needs a cluster that is not there yet leaves the one in its place that serves.
    pub(super) fn extensions(&mut self, clusters: &ByName<Cluster>) -> ByName<Extension> {
        let mut linked = HashMap::new();
        for (name, extension) in self.tables.extensions.iter() {
            let previous = self.previous.extensions.get(name);
            let is_new = previous.is_none_or(|previous| !Arc::ptr_eq(previous, extension));
            let missing = is_new.then(|| self.missing(name, extension, clusters)).flatten();
            let serving = match missing {
                None => Some(extension),
                Some(waiting) => {
                    self.waits(waiting);
                    previous
                }
            };
            if let Some(serving) = serving {
                linked.insert(Arc::clone(name), Arc::clone(serving));
            }
        }
        linked
    }

    fn missing(
        &self,
        name: &Arc<str>,
        extension: &Extension,
        clusters: &ByName<Cluster>,
    ) -> Option<Waiting> {
        let needed = extension.made.filter.clusters().into_iter();
        let missing = needed.filter(|cluster| !clusters.contains_key(cluster));
        let waiting = missing.map(|cluster| Waiting {
            user: Arc::clone(name),
            kind: ResourceType::Cluster,
            name: cluster,
        });
        waiting.into_iter().find(|waiting| !self.tables.given_up.contains(waiting))
    }
}
