//! Where resources are gathered, by fleet, with the objects that made them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::{Message, Name};
use xds_proto::resource::{Resource, ResourceType};

use crate::finding::{Finding, Severity, codes};
use crate::model::Model;
use crate::translate::backends::ClusterKey;
use crate::translate::cluster::cluster;
use crate::translate::draft::{ObjectRef, Owners};

/// Resources by fleet, and what they came from.
#[derive(Debug, Default)]
pub(super) struct Output {
    fleets: BTreeMap<String, BTreeMap<(ResourceType, Arc<str>), Resource>>,
    clusters: BTreeMap<(String, ClusterKey), BTreeSet<ObjectRef>>,
    owners: Owners,
    failures: Vec<Finding>,
}

impl Output {
    /// The fleet exists, whether anything is sent to it or not.
    pub(super) fn fleet(&mut self, fleet: &str) {
        self.fleets.entry(fleet.to_owned()).or_default();
    }

    /// Adds a resource of a fleet.
    pub(super) fn add<M: Message + Name>(
        &mut self,
        fleet: &str,
        message: &M,
        owners: BTreeSet<ObjectRef>,
    ) {
        match Resource::pack(message) {
            Ok(resource) => {
                let key = (resource.kind, Arc::clone(&resource.name));
                self.owners.entry(key.clone()).or_default().extend(owners);
                self.fleets.entry(fleet.to_owned()).or_default().insert(key, resource);
            }
            Err(error) => self.failures.push(Finding {
                code: codes::INTERNAL,
                severity: Severity::Error,
                object: owners.first().map(ToString::to_string).unwrap_or_default(),
                field: String::new(),
                message: format!("{} cannot be packed: {error}", M::full_name()),
                help: None,
            }),
        }
    }

    /// A route of the fleet uses a cluster.
    pub(super) fn use_cluster(&mut self, fleet: &str, key: ClusterKey, route: ObjectRef) {
        self.clusters.entry((fleet.to_owned(), key)).or_default().insert(route);
    }

    /// Adds the clusters that are used, and their endpoints.
    pub(super) fn add_clusters(&mut self, model: &Model) {
        for ((fleet, key), mut owners) in std::mem::take(&mut self.clusters) {
            let Some((cluster, endpoints)) = cluster(model, &key) else { continue };
            owners.insert(key.target.object());
            if let Some(endpoints) = endpoints {
                self.add(&fleet, &endpoints, owners.clone());
            }
            self.add(&fleet, &cluster, owners);
        }
    }

    /// All of it: resources by fleet in make-before-break order, owners, and failures of our own.
    pub(super) fn finish(self) -> (BTreeMap<String, Vec<Resource>>, Owners, Vec<Finding>) {
        let fleets = self
            .fleets
            .into_iter()
            .map(|(fleet, resources)| (fleet, resources.into_values().collect()))
            .collect();
        (fleets, self.owners, self.failures)
    }
}
