//! What the proxy wants of each type: everything, or what accepted resources name.

use std::collections::BTreeSet;
use std::sync::Arc;

use xds_proto::resource::ResourceType;

use crate::compile::Tables;
use crate::compile::virtual_hosts::table_of;
use crate::reference::Reference;

/// What is wanted of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// Everything that the server has for this node.
    pub wildcard: bool,
    /// Resources by name.
    pub names: BTreeSet<Arc<str>>,
    /// Whatever the server has to say of resources below these names (`NAME/...`), asked for or
    /// not: the route configurations whose virtual hosts come by themselves.
    pub below: BTreeSet<Arc<str>>,
}

impl Interest {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty() && self.below.is_empty()
    }

    /// Whether this resource is wanted.
    pub fn covers(&self, name: &str) -> bool {
        let is_below = || table_of(name).is_some_and(|above| self.below.contains(above));
        self.wildcard || self.names.contains(name) || is_below()
    }
}

/// What is wanted, by type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted([Interest; ResourceType::ALL.len()]);

/// What the bootstrap asks for; all else follows from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// Whether listeners come by xDS.
    pub listeners: bool,
    /// Whether clusters come by xDS.
    pub clusters: bool,
    /// The runtime layers that come by xDS.
    pub runtime: Vec<Arc<str>>,
}

impl Wanted {
    /// What the roots and the accepted resources ask for, and requests that wait for their virtual
    /// hosts (`hosts`).
    pub fn derive<'h>(
        roots: &Roots,
        tables: &Tables,
        hosts: impl Iterator<Item = &'h Arc<str>>,
    ) -> Self {
        let mut wanted = Self::default();
        wanted.of_mut(ResourceType::Listener).wildcard = roots.listeners;
        wanted.of_mut(ResourceType::Cluster).wildcard = roots.clusters;
        wanted.of_mut(ResourceType::Runtime).names.extend(roots.runtime.iter().cloned());
        tables.references(&mut |kind, Reference { name, .. }| {
            // A listener takes all scopes that there are.
            if kind == ResourceType::ScopedRoute {
                wanted.of_mut(kind).wildcard = true;
                return;
            }
            let names = &mut wanted.of_mut(kind).names;
            if !names.contains(name) {
                names.insert(Arc::clone(name));
            }
        });
        let routes = wanted.of(ResourceType::Route).names.iter();
        let below = routes.filter(|name| tables.has_discovered_hosts(name)).cloned().collect();
        let virtual_hosts = wanted.of_mut(ResourceType::VirtualHost);
        virtual_hosts.below = below;
        let is_below =
            |name: &&Arc<str>| virtual_hosts.below.contains(table_of(name).unwrap_or(""));
        virtual_hosts.names = hosts.filter(is_below).cloned().collect();
        wanted
    }

    /// What is wanted of this type.
    pub fn of(&self, kind: ResourceType) -> &Interest {
        &self.0[kind.index()]
    }

    /// What is wanted of this type, to change it.
    pub fn of_mut(&mut self, kind: ResourceType) -> &mut Interest {
        &mut self.0[kind.index()]
    }
}

/// The order in which types are asked for: Envoy's, runtime first, then what is used before what
/// uses it.
pub fn request_order() -> impl Iterator<Item = ResourceType> {
    std::iter::once(ResourceType::Runtime)
        .chain(ResourceType::ALL.into_iter().filter(|kind| *kind != ResourceType::Runtime))
}
