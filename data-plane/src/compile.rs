//! Accepted resources to tables, and tables to a snapshot. Pure: no I/O, no clock.

mod access_log;
pub mod cluster;
pub mod endpoints;
pub(crate) mod matcher;
mod http_connection_manager;
pub mod listener;
pub mod route;
pub mod secret;
pub mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;

use xds_proto::field::FieldError;
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

/// A resource that was refused, and why. What stood under its name before still stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The resource's name; empty when it has none.
    pub name: Arc<str>,
    /// What is wrong, and where.
    pub error: FieldError,
}

/// The accepted resources, compiled, by type and name.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    versions: [BTreeMap<Arc<str>, Version>; ResourceType::ALL.len()],
}

impl Tables {
    /// Compiles and takes in what was added or changed, and drops what was removed. Good resources
    /// apply, a refused one keeps its last good form.
    pub fn apply(
        &mut self,
        kind: ResourceType,
        added: &[Resource],
        removed: &[Arc<str>],
    ) -> Vec<Rejected> {
        let versions = &mut self.versions[kind.index()];
        for name in removed {
            versions.remove(name);
        }
        for resource in added {
            versions.insert(Arc::clone(&resource.name), resource.version.clone());
        }
        Vec::new()
    }
}

impl Tables {
    /// Names to `visit` each resource that an accepted one refers to.
    pub fn references(&self, _visit: impl FnMut(ResourceType, &Arc<str>)) {}
}

/// What the proxy would refuse of these resources, and why; the control plane asks before it
/// publishes.
pub fn check(resources: &[Resource]) -> Vec<(ResourceType, Arc<str>, FieldError)> {
    let mut tables = Tables::default();
    resources
        .iter()
        .flat_map(|resource| {
            let rejected = tables.apply(resource.kind, std::slice::from_ref(resource), &[]);
            rejected.into_iter().map(|rejected| (resource.kind, rejected.name, rejected.error))
        })
        .collect()
}
