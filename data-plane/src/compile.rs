//! Accepted resources to tables, and tables to a snapshot. Pure: no I/O, no clock.

pub mod link;
mod table;
pub mod listener;
mod entry;
mod header_case;
mod socket_options;
mod http_connection_manager;
mod access_log;
mod tcp_proxy;
pub mod route;
pub mod virtual_hosts;
mod source;
mod extension;
mod scopes;
pub mod cluster;
pub mod endpoints;
pub mod secret;
pub mod tls;
mod labels;
pub(crate) mod hash_policy;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use xds_proto::envoy::service::runtime::v3::Runtime;
use xds_proto::field::{At, FieldError};
use xds_proto::google::protobuf::Any;
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

use crate::bootstrap::control_plane::Api;
use crate::chain::Extension;
use crate::cluster::endpoints::EndpointsConfig;
use crate::cluster::{ClusterConfig, Discovery};
use crate::compile::route::RouteConfig;
use crate::compile::table::Table;
use crate::compile::virtual_hosts::VirtualHosts;
use crate::listener::scopes::{Scope, ScopeKey, ScopeRoutes, ScopeSource};
use crate::listener::{ListenerConfig, RouteSource};
use crate::reference::{FETCH_TIMEOUT, Reference};
use crate::tls::secret::SecretConfig;

/// A resource that was refused, and why. What stood under its name before still stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The resource's name; empty when it has none.
    pub name: Arc<str>,
    /// What is wrong, and where.
    pub error: FieldError,
}

/// Where a resource came from. The bootstrap's own stay, whatever a control plane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// With the bootstrap.
    Bootstrap,
    /// From a control plane, or from the disk, where it was saved for the next start.
    ControlPlane,
}

/// Changes of one type.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Where they come from.
    pub origin: Origin,
    /// The type.
    pub kind: ResourceType,
    /// Added or changed resources.
    pub added: &'a [Resource],
    /// Names of resources that are gone.
    pub removed: &'a [Arc<str>],
}

/// Something that is not here yet, and who waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// The cluster, listener or route table that waits.
    pub user: Arc<str>,
    /// The type of what is missing.
    pub kind: ResourceType,
    /// The name of what is missing.
    pub name: Arc<str>,
}

/// Says whether a listener can be had, by binding its address for example.
pub type Admit<'a> = &'a mut dyn FnMut(&ListenerConfig) -> Result<(), FieldError>;

/// The accepted resources, compiled, by type and name.
#[derive(Debug, Default)]
pub struct Tables {
    secrets: Table<SecretConfig>,
    clusters: Table<ClusterConfig>,
    endpoints: Table<EndpointsConfig>,
    listeners: Table<ListenerConfig>,
    routes: Table<RouteConfig>,
    virtual_hosts: VirtualHosts,
    extensions: Table<Extension>,
    scopes: Table<Scope>,
    /// What a control plane has answered at least once.
    answered: HashSet<ResourceType>,
    /// Whether resources come state of the world, which has no virtual hosts by themselves.
    is_sotw: bool,
    runtime: Table<Runtime>,
    resolved: HashMap<Arc<str>, Arc<EndpointsConfig>>,
    given_up: HashSet<Waiting>,
}

impl Tables {
    /// Tables of what comes by this variant of the protocol.
    pub fn new(api: Api) -> Self {
        Self { is_sotw: api == Api::Sotw, ..Self::default() }
    }

    /// Compiles and takes in what was added or changed, and drops what was removed. Good resources
    /// apply, a refused one keeps its last good form.
    pub fn apply(
        &mut self,
        kind: ResourceType,
        added: &[Resource],
        removed: &[Arc<str>],
    ) -> Vec<Rejected> {
        let change = Change { origin: Origin::ControlPlane, kind, added, removed };
        self.admit(change, &mut |_| Ok(()))
    }

    /// As [`Self::apply`]; a listener is taken in only if `admit` has no objection.
    pub fn admit(&mut self, change: Change<'_>, admit: Admit<'_>) -> Vec<Rejected> {
        let Change { origin, kind, added, removed } = change;
        self.given_up.retain(|waiting| {
            let is_about = |name: &Arc<str>| {
                waiting.user == *name || (waiting.kind == kind && waiting.name == *name)
            };
            !added.iter().any(|resource| is_about(&resource.name))
        });
        match kind {
            ResourceType::Listener => self.admit_listeners(change, admit),
            ResourceType::Cluster => {
                removed.iter().for_each(|name| self.clusters.remove(name));
                let names = removed.iter().chain(added.iter().map(|resource| &resource.name));
                names.for_each(|name| drop(self.resolved.remove(name)));
                self.clusters.take(added, origin, cluster::compile)
            }
            // What a listener or cluster still names keeps its last good form, as in Envoy.
            ResourceType::Endpoints => self.endpoints.take(added, origin, endpoints::compile),
            ResourceType::Secret => self.secrets.take(added, origin, secret::compile),
            ResourceType::Route => self.admit_routes(origin, added),
            ResourceType::VirtualHost => {
                removed.iter().for_each(|name| self.virtual_hosts.remove(name));
                let routes = &self.routes;
                self.virtual_hosts.take(added, |table| routes.get(table).map(|config| &**config))
            }
            ResourceType::Runtime => self.runtime.take(added, origin, Ok),
            ResourceType::ExtensionConfig => {
                removed.iter().for_each(|name| self.extensions.remove(name));
                let chains = self.listeners.iter().flat_map(|(_, config)| config.all_chains());
                let users: Vec<_> =
                    chains.flat_map(|chain| chain.http.filters.discovered()).collect();
                self.extensions.take(added, origin, |message| {
                    extension::compile(message, users.iter().copied())
                })
            }
            ResourceType::ScopedRoute => self.admit_scopes(change),
            ResourceType::LbEndpoint => added
                .iter()
                .map(|resource| Rejected {
                    name: Arc::clone(&resource.name),
                    error: FieldError::unsupported(),
                })
                .collect(),
        }
    }

    fn admit_listeners(&mut self, change: Change<'_>, admit: Admit<'_>) -> Vec<Rejected> {
        let Change { origin, added, removed, .. } = change;
        removed.iter().for_each(|name| self.listeners.remove(name));
        let (mut rejected, mut compiled) = (Vec::new(), Vec::new());
        for resource in added {
            match self.listeners.compile(resource, origin, listener::compile) {
                Ok(config) => compiled.push((resource, config)),
                Err(refused) => rejected.push(refused),
            }
        }
        // An address may move from one listener to another within one change.
        let changing: HashSet<&str> = compiled.iter().map(|(r, _)| &*r.name).collect();
        let staying = self.listeners.iter().filter(|(name, _)| !changing.contains(&***name));
        let mut owners: HashMap<SocketAddr, Arc<str>> =
            staying.map(|(name, config)| (config.address, Arc::clone(name))).collect();
        for (resource, config) in compiled {
            let refused = match owners.get(&config.address) {
                Some(owner) if config.address.port() != 0 => Err(FieldError::invalid(format!(
                    "{} is the address of listener {owner:?}",
                    config.address
                ))
                .at("address")),
                _ => admit(&config),
            };
            match refused {
                Ok(()) => {
                    owners.insert(config.address, Arc::clone(&resource.name));
                    self.listeners.insert(resource, origin, config);
                }
                Err(error) => {
                    rejected.push(Rejected { name: Arc::clone(&resource.name), error });
                }
            }
        }
        rejected
    }

    /// A key belongs to one scope, but may move within one change.
    fn admit_scopes(&mut self, change: Change<'_>) -> Vec<Rejected> {
        let Change { origin, added, removed, .. } = change;
        removed.iter().for_each(|name| self.scopes.remove(name));
        let changing: HashSet<&str> = added.iter().map(|resource| &*resource.name).collect();
        let staying = self.scopes.iter().filter(|(name, _)| !changing.contains(&***name));
        let mut owners: HashMap<ScopeKey, Arc<str>> =
            staying.map(|(name, scope)| (scope.key.clone(), Arc::clone(name))).collect();
        let mut rejected = Vec::new();
        for resource in added {
            let scope = self.scopes.compile(resource, origin, scopes::compile);
            let scope = scope.and_then(|scope| match owners.get(&scope.key) {
                None => Ok(scope),
                Some(owner) => Err(Rejected {
                    name: Arc::clone(&resource.name),
                    error: FieldError::invalid(format!("is the key of scope {owner:?}")).at("key"),
                }),
            });
            match scope {
                Ok(scope) => {
                    owners.insert(scope.key.clone(), Arc::clone(&resource.name));
                    self.scopes.insert(resource, origin, scope);
                }
                Err(refused) => rejected.push(refused),
            }
        }
        rejected
    }

    fn admit_routes(&mut self, origin: Origin, added: &[Resource]) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        for resource in added {
            let config = self.routes.compile_encoded(resource, origin, RouteConfig::compile);
            let with_hosts = config.and_then(|config| {
                let refuse = |error| Rejected { name: Arc::clone(&resource.name), error };
                if self.is_sotw && config.vhds.is_some() {
                    let error = FieldError::invalid("needs incremental xDS (DELTA_GRPC)");
                    return Err(refuse(error.at("vhds")));
                }
                let hosts = self.virtual_hosts.under(&config).map_err(refuse)?;
                Ok((config, hosts))
            });
            match with_hosts {
                Ok((config, hosts)) => {
                    self.virtual_hosts.replace(&resource.name, hosts);
                    self.routes.insert(resource, origin, config);
                }
                Err(refused) => rejected.push(refused),
            }
        }
        rejected
    }

    /// Whether there is a resource of this type and name.
    pub fn contains(&self, kind: ResourceType, name: &str) -> bool {
        match kind {
            ResourceType::Secret => self.secrets.contains(name),
            ResourceType::Cluster => self.clusters.contains(name),
            ResourceType::Endpoints => self.endpoints.contains(name),
            ResourceType::Listener => self.listeners.contains(name),
            ResourceType::Route => self.routes.contains(name),
            ResourceType::Runtime => self.runtime.contains(name),
            ResourceType::VirtualHost => self.virtual_hosts.contains(name),
            ResourceType::ExtensionConfig => self.extensions.contains(name),
            ResourceType::ScopedRoute => self.scopes.contains(name),
            ResourceType::LbEndpoint => false,
        }
    }

    /// Drops a resource that nothing names any more.
    pub fn forget(&mut self, kind: ResourceType, name: &Arc<str>) {
        self.given_up.retain(|waiting| waiting.kind != kind || waiting.name != *name);
        match kind {
            ResourceType::Secret => self.secrets.remove(name),
            ResourceType::Endpoints => self.endpoints.remove(name),
            ResourceType::Route => self.routes.remove(name),
            ResourceType::Runtime => self.runtime.remove(name),
            ResourceType::VirtualHost => self.virtual_hosts.remove(name),
            ResourceType::ExtensionConfig => self.extensions.remove(name),
            ResourceType::ScopedRoute => self.scopes.remove(name),
            ResourceType::Cluster | ResourceType::Listener | ResourceType::LbEndpoint => {}
        }
    }

    /// Drops the virtual hosts of a route configuration that nothing names any more; gives their
    /// names.
    pub fn forget_virtual_hosts(&mut self, table: &str) -> Vec<Arc<str>> {
        self.virtual_hosts.forget(table)
    }

    /// Notes that a control plane has answered for this type.
    pub fn note_answer(&mut self, kind: ResourceType) {
        self.answered.insert(kind);
    }

    /// Whether a control plane has answered for this type.
    pub fn is_answered(&self, kind: ResourceType) -> bool {
        self.answered.contains(&kind)
    }

    /// No longer waits for something: who needs it makes do without.
    pub fn give_up(&mut self, waiting: Waiting) {
        self.given_up.insert(waiting);
    }

    /// Takes in what DNS said of a cluster. Whether it is still wanted.
    pub fn resolve(&mut self, cluster: &Arc<str>, endpoints: EndpointsConfig) -> bool {
        let is_wanted = self.is_looked_up(cluster);
        if is_wanted {
            self.resolved.insert(Arc::clone(cluster), Arc::new(endpoints));
        }
        is_wanted
    }

    /// Whether the endpoints of this cluster come from DNS.
    pub fn is_looked_up(&self, cluster: &str) -> bool {
        let config = self.clusters.get(cluster);
        config.is_some_and(|config| matches!(config.discovery, Discovery::Dns(_)))
    }

    /// The clusters whose names must be looked up.
    pub fn dns_clusters(&self) -> impl Iterator<Item = &Arc<ClusterConfig>> {
        let configs = self.clusters.iter().map(|(_, config)| config);
        configs.filter(|config| matches!(config.discovery, Discovery::Dns(_)))
    }

    /// The listeners.
    pub fn listeners(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<ListenerConfig>)> {
        self.listeners.iter()
    }

    /// Names to `visit` each resource that a cluster, listener or scope refers to.
    pub fn references(&self, visit: &mut dyn FnMut(ResourceType, &Reference)) {
        self.clusters.iter().for_each(|(_, config)| config.references(visit));
        self.listeners.iter().for_each(|(_, config)| config.references(visit));
        let Some(fetch_timeout) = self.scoped_routes_timeout() else { return };
        for (_, scope) in self.scopes.iter() {
            if let ScopeRoutes::Named(name) = &scope.routes {
                let name = Arc::clone(name);
                visit(ResourceType::Route, &Reference { name, fetch_timeout });
            }
        }
    }

    /// How long the routes of scopes are waited for, where a listener has scopes that come by
    /// themselves.
    fn scoped_routes_timeout(&self) -> Option<Option<Duration>> {
        let mut chains = self.listeners.iter().flat_map(|(_, config)| config.all_chains());
        chains.find_map(|chain| match &chain.http.routes {
            RouteSource::Scoped(scoped) => match &scoped.source {
                ScopeSource::Discovered { routes, .. } => Some(*routes),
                ScopeSource::Inline(_) => None,
            },
            RouteSource::Inline(_) | RouteSource::Named(_) => None,
        })
    }

    /// The names of the scopes that came by themselves.
    pub fn scopes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.scopes.iter().map(|(name, _)| name)
    }

    /// Whether this route configuration has virtual hosts that come by themselves.
    pub fn has_discovered_hosts(&self, routes: &str) -> bool {
        self.routes.get(routes).is_some_and(|config| config.vhds.is_some())
    }

    /// The virtual hosts that came by themselves for a route configuration, by name.
    pub fn virtual_hosts(&self, routes: &str) -> impl Iterator<Item = &Arc<str>> {
        self.virtual_hosts.of(routes).map(|(name, _)| name)
    }

    /// How long something is waited for, as who waits has it; none is for ever.
    pub fn fetch_timeout(&self, waiting: &Waiting) -> Option<Duration> {
        let mut timeout = Some(FETCH_TIMEOUT);
        let mut visit = |kind, reference: &Reference| {
            if kind == waiting.kind && reference.name == waiting.name {
                timeout = reference.fetch_timeout;
            }
        };
        if let Some(config) = self.clusters.get(&waiting.user) {
            config.references(&mut visit);
        }
        if let Some(config) = self.listeners.get(&waiting.user) {
            config.references(&mut visit);
        }
        if self.scopes.contains(&waiting.user)
            && let Some(routes) = self.scoped_routes_timeout()
        {
            visit(
                ResourceType::Route,
                &Reference { name: waiting.name.clone(), fetch_timeout: routes },
            );
        }
        if let Some(hosts) = self.routes.get(&waiting.user).and_then(|c| c.vhds.as_ref()) {
            visit(ResourceType::VirtualHost, hosts);
        }
        timeout
    }

    /// The version of everything that is accepted.
    fn version(&self) -> Version {
        let types = [
            self.secrets.versions().collect::<Vec<_>>(),
            self.clusters.versions().collect(),
            self.endpoints.versions().collect(),
            self.listeners.versions().collect(),
            self.routes.versions().collect(),
            self.virtual_hosts.versions().collect(),
            self.extensions.versions().collect(),
            self.scopes.versions().collect(),
        ]
        .map(Version::of_set);
        Version::of_set(types.iter().map(|version| ("", version)))
    }
}

/// What the proxy would refuse of these resources, and why; the control plane asks before it
/// publishes.
pub fn check(resources: &[Resource]) -> Vec<(ResourceType, Arc<str>, FieldError)> {
    let mut tables = Tables::default();
    let mut refused = Vec::new();
    for kind in ResourceType::ALL {
        let added: Vec<_> = resources.iter().filter(|r| r.kind == kind).cloned().collect();
        let rejected = tables.apply(kind, &added, &[]);
        refused.extend(rejected.into_iter().map(|rejected| (kind, rejected.name, rejected.error)));
    }
    refused
}

/// The message that a packed config holds.
fn unpack<M: Message + Default>(config: &Any) -> Result<M, FieldError> {
    M::decode(&*config.value).map_err(|error| FieldError::invalid(error.to_string()))
}

#[cfg(test)]
mod sample;

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(mut resource: Resource, body: &'static [u8]) -> Resource {
        resource.body = bytes::Bytes::from_static(body);
        resource
    }

    #[test]
    fn a_refused_resource_keeps_its_last_good_form() {
        let mut tables = Tables::default();
        let kind = ResourceType::Route;
        let resources = [sample::routes("a", "x"), sample::routes("b", "x")];
        assert_eq!(tables.apply(kind, &resources, &[]), []);
        let before = Arc::clone(&tables.routes.get("a").unwrap().table);
        let bad = [renamed(sample::routes("a", "x"), b"\xff"), sample::routes("b", "y")];
        let rejected = tables.apply(kind, &bad, &[]);
        assert_eq!(rejected.len(), 1);
        assert!(rejected[0].error.to_string().starts_with("undecodable bytes"), "{rejected:?}");
        assert!(Arc::ptr_eq(&before, &tables.routes.get("a").unwrap().table));
        assert!(tables.routes.get("b").unwrap().table.cluster_names().eq([&"y".into()]));
    }

    #[test]
    fn what_the_bootstrap_has_stays() {
        let mut tables = Tables::default();
        let (kind, added) = (ResourceType::Cluster, [sample::cluster("a", 1)]);
        let change = Change { origin: Origin::Bootstrap, kind, added: &added, removed: &[] };
        assert_eq!(tables.admit(change, &mut |_| Ok(())), []);
        let rejected = tables.apply(kind, &added, &["a".into()]);
        assert!(rejected[0].error.to_string().contains("the bootstrap has one of this name"));
        assert!(tables.contains(kind, "a"));
    }

    #[test]
    fn an_address_belongs_to_one_listener_but_may_move() {
        let mut tables = Tables::default();
        let kind = ResourceType::Listener;
        assert_eq!(tables.apply(kind, &[sample::listener("a", 80, "r")], &[]), []);
        let taken = tables.apply(kind, &[sample::listener("b", 80, "r")], &[]);
        assert_eq!(
            taken[0].error.to_string(),
            "address: 127.0.0.1:80 is the address of listener \"a\""
        );
        let moved = tables.apply(kind, &[sample::listener("b", 80, "r")], &["a".into()]);
        assert_eq!(moved, []);
        let swapped = [sample::listener("b", 81, "r"), sample::listener("c", 80, "r")];
        assert_eq!(tables.apply(kind, &swapped, &[]), []);
    }

    #[test]
    fn a_listener_without_its_address_is_refused() {
        let mut tables = Tables::default();
        let added = [sample::listener("a", 80, "r")];
        let kind = ResourceType::Listener;
        let change = Change { origin: Origin::ControlPlane, kind, added: &added, removed: &[] };
        let rejected = tables.admit(change, &mut |_| Err(FieldError::invalid("taken")));
        assert_eq!(rejected[0].error.to_string(), "taken");
        assert!(!tables.contains(kind, "a"));
    }

    #[test]
    fn references_lead_to_what_must_be_asked_for() {
        let mut tables = Tables::default();
        tables.apply(ResourceType::Cluster, &[sample::cluster("a", 1)], &[]);
        tables.apply(ResourceType::Listener, &[sample::listener("l", 80, "r")], &[]);
        let mut seen = Vec::new();
        tables.references(&mut |kind, to| seen.push(format!("{kind} {}", to.name)));
        assert_eq!(seen, ["EDS a", "RDS r"]);
    }

    #[test]
    fn a_check_names_type_resource_and_place() {
        let resources = [renamed(sample::cluster("a", 1), b"\xff"), sample::routes("r", "a")];
        let refused = check(&resources);
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].0, &*refused[0].1), (ResourceType::Cluster, "a"));
    }
}
