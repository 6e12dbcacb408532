//! Tables to a snapshot: names become references, and what is not complete yet waits.
//!
//! Make before break: a changed cluster, route table or listener replaces the one that serves only
//! when all it needs is there. What serves meanwhile is the one in the previous snapshot.

mod extensions;
mod routes;
mod scopes;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use xds_proto::envoy::config::route::v3::RouteConfiguration;
use xds_proto::resource::ResourceType;

use self::routes::hold;
use crate::chain::{Discovered, Extension, Made};
use crate::cluster::endpoints::EndpointsConfig;
use crate::cluster::{Cluster, ClusterConfig, Discovery};
use crate::compile::{Tables, Waiting, route};
use crate::listener::scopes::LinkedScope;
use crate::listener::{Listener, ListenerConfig, ListenerParts, Missing};
use crate::route::RouteTable;
use crate::route::linked::LinkedRoutes;
use crate::snapshot::Snapshot;
use crate::telemetry::Registry;
use crate::tls::SecretError;
use crate::tls::secret::Secrets;

/// Aggregates may be in aggregates, but not for ever.
const AGGREGATES_DEEP: usize = 16;

/// A snapshot, and what it lacks.
#[derive(Debug)]
pub struct Linked {
    /// What requests see.
    pub snapshot: Snapshot,
    /// What is not in it, or is in it in an older form.
    pub waiting: Vec<Waiting>,
}

/// Links what is accepted. What did not change since `previous` is shared with it.
pub fn link(tables: &Tables, previous: &Snapshot, registry: &Registry) -> Linked {
    let secrets: Secrets = tables
        .secrets
        .iter()
        .map(|(name, secret)| (Arc::clone(name), Arc::clone(secret)))
        .collect();
    let (waiting, warming) = (Vec::new(), HashMap::new());
    let mut linker = Linker { tables, previous, registry, secrets, waiting, warming };
    let clusters = linker.clusters();
    let routes = linker.routes(&clusters);
    let scopes = linker.scopes(&clusters, &routes);
    let extensions = linker.extensions(&clusters);
    let found = Found { clusters, routes, scopes, extensions };
    let listeners = linker.listeners(&found);
    let Linker { waiting, warming, .. } = linker;
    let Found { clusters, routes, scopes, extensions } = found;
    let snapshot = Snapshot {
        listeners,
        routes,
        scopes,
        extensions,
        clusters,
        warming,
        version: tables.version(),
    };
    Linked { snapshot, waiting }
}

type ByName<T> = HashMap<Arc<str>, Arc<T>>;

struct Linker<'a> {
    tables: &'a Tables,
    previous: &'a Snapshot,
    registry: &'a Registry,
    secrets: Secrets,
    waiting: Vec<Waiting>,
    warming: ByName<Cluster>,
}

impl Linker<'_> {
    fn clusters(&mut self) -> ByName<Cluster> {
        let mut linked = HashMap::new();
        for (name, config) in self.tables.clusters.iter() {
            if matches!(config.discovery, Discovery::Aggregate(_)) {
                continue;
            }
            let serving = self.previous.clusters.get(name);
            let previous = serving.or_else(|| self.previous.warming.get(name));
            let cluster = self.endpoints(config).and_then(|endpoints| {
                let config = Arc::clone(config);
                Cluster::link(config, endpoints, &self.secrets, previous, self.registry)
                    .map_err(|error| secret_waits(name, error))
            });
            match cluster {
                Ok(cluster) if serving.is_none() && self.must_warm(&cluster) => {
                    self.warming.insert(Arc::clone(name), cluster);
                }
                Ok(cluster) => drop(linked.insert(Arc::clone(name), cluster)),
                Err(waiting) => {
                    self.waits(waiting);
                    if let Some(serving) = serving {
                        linked.insert(Arc::clone(name), Arc::clone(serving));
                    }
                }
            }
        }
        for (name, _) in self.tables.clusters.iter() {
            self.aggregate(name, &mut linked, 0);
        }
        linked
    }

    /// Whether a new cluster is not used yet, since nobody knows whether its endpoints are up.
    fn must_warm(&mut self, cluster: &Cluster) -> bool {
        let name = &cluster.config.name;
        let waiting =
            Waiting { user: Arc::clone(name), kind: ResourceType::Cluster, name: Arc::clone(name) };
        if cluster.is_checked() || self.tables.given_up.contains(&waiting) {
            return false;
        }
        self.waits(waiting);
        true
    }

    /// Links an aggregate, and before it the aggregates that it has in it. A cluster that is not
    /// there, or that has this one in it, is left out, as in Envoy.
    fn aggregate(&self, name: &Arc<str>, linked: &mut ByName<Cluster>, depth: usize) {
        let Some(config) = self.tables.clusters.get(name) else { return };
        let Discovery::Aggregate(members) = &config.discovery else { return };
        if linked.contains_key(name) || depth > AGGREGATES_DEEP {
            return;
        }
        let mut found = Vec::new();
        for member in members {
            self.aggregate(member, linked, depth + 1);
            found.extend(linked.get(member).map(Arc::clone));
        }
        let previous = self.previous.clusters.get(name);
        let cluster = Cluster::aggregate(Arc::clone(config), found, previous, self.registry);
        linked.insert(Arc::clone(name), cluster);
    }

    fn endpoints(&self, config: &ClusterConfig) -> Result<Arc<EndpointsConfig>, Waiting> {
        let (found, name) = match &config.discovery {
            Discovery::Static(endpoints) => return Ok(Arc::clone(endpoints)),
            Discovery::Eds(endpoints) => {
                (self.tables.endpoints.get(&endpoints.name), &endpoints.name)
            }
            Discovery::Dns(_) => (self.tables.resolved.get(&config.name), &config.name),
            Discovery::Aggregate(_) => return Ok(Arc::new(EndpointsConfig::none(&config.name))),
        };
        if let Some(found) = found {
            return Ok(Arc::clone(found));
        }
        let waiting = Waiting {
            user: Arc::clone(&config.name),
            kind: ResourceType::Endpoints,
            name: Arc::clone(name),
        };
        if !self.tables.given_up.contains(&waiting) {
            return Err(waiting);
        }
        // A cluster whose endpoints never came has none; what served before it serves on.
        let previous = self.previous.clusters.get(&config.name);
        Ok(match previous {
            Some(previous) => Arc::clone(&previous.endpoints_config),
            None => Arc::new(EndpointsConfig::none(name)),
        })
    }

    fn listeners(&mut self, found: &Found) -> ByName<Listener> {
        let mut linked = HashMap::new();
        for (name, config) in self.tables.listeners.iter() {
            let previous = self.previous.listeners.get(name);
            let is_new = previous.is_none_or(|before| !Arc::ptr_eq(&before.config, config));
            let parts = Parts { linker: self, listener: name, found, is_new, holds: false };
            let listener = match self.missing_inline_cluster(config, &found.clusters, previous) {
                Some(waiting) => Err(waiting),
                None => Listener::link(config, &parts, previous, self.registry)
                    .map_err(|missing| missing_waits(name, missing)),
            };
            let listener = match listener {
                Ok(listener) => Some(listener),
                Err(waiting) => {
                    let parts = Parts { holds: true, is_new: false, ..parts };
                    let serving = previous.map(|previous| {
                        Listener::link(&previous.config, &parts, Some(previous), self.registry)
                            .unwrap_or_else(|_| Arc::clone(previous))
                    });
                    self.waits(waiting);
                    serving
                }
            };
            if let Some(listener) = listener {
                linked.insert(Arc::clone(name), listener);
            }
        }
        linked
    }

    /// As [`Self::missing_cluster`], for the routes that stand in a listener.
    fn missing_inline_cluster(
        &self,
        config: &Arc<ListenerConfig>,
        clusters: &ByName<Cluster>,
        previous: Option<&Arc<Listener>>,
    ) -> Option<Waiting> {
        if previous.is_some_and(|previous| Arc::ptr_eq(&previous.config, config)) {
            return None;
        }
        let did_without: HashSet<_> =
            previous.into_iter().flat_map(|previous| previous.config.cluster_names()).collect();
        config
            .cluster_names()
            .filter(|cluster| !clusters.contains_key(cluster) && !did_without.contains(cluster))
            .map(|name| Waiting {
                user: Arc::clone(&config.name),
                kind: ResourceType::Cluster,
                name,
            })
            .find(|waiting| !self.tables.given_up.contains(waiting))
    }

    /// Notes what waits, but for what was given up; that is left out of the snapshot for good.
    fn waits(&mut self, waiting: Waiting) {
        if !self.tables.given_up.contains(&waiting) {
            self.waiting.push(waiting);
        }
    }
}

/// What listeners may name.
struct Found {
    clusters: ByName<Cluster>,
    routes: ByName<LinkedRoutes>,
    scopes: ByName<LinkedScope>,
    extensions: ByName<Extension>,
}

/// What a listener is joined with.
struct Parts<'a> {
    linker: &'a Linker<'a>,
    listener: &'a Arc<str>,
    found: &'a Found,
    /// It is not the one that serves.
    is_new: bool,
    /// The listener that serves is kept, as the next one is not complete.
    holds: bool,
}

impl ListenerParts for Parts<'_> {
    fn routes(&self, name: &str) -> Option<Arc<LinkedRoutes>> {
        if let Some(routes) = self.found.routes.get(name) {
            return Some(Arc::clone(routes));
        }
        let waiting = Waiting {
            user: Arc::clone(self.listener),
            kind: ResourceType::Route,
            name: name.into(),
        };
        // Routes that never came are no routes: every request is answered with 404, as in Envoy.
        let is_given_up = self.linker.tables.given_up.contains(&waiting);
        let message = RouteConfiguration { name: name.to_owned(), ..Default::default() };
        let table = is_given_up.then(|| route::compile(message).ok()).flatten()?;
        Some(LinkedRoutes::link(Arc::new(table), &self.found.clusters, None))
    }

    fn inline(
        &self,
        table: &Arc<RouteTable>,
        previous: Option<&Arc<LinkedRoutes>>,
    ) -> Arc<LinkedRoutes> {
        match previous {
            Some(previous) if self.holds && Arc::ptr_eq(&previous.table, table) => {
                hold(previous, &self.found.clusters)
            }
            _ => LinkedRoutes::link(Arc::clone(table), &self.found.clusters, previous),
        }
    }

    fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.found.clusters.get(name).cloned()
    }

    fn scopes(&self) -> Result<Vec<Arc<LinkedScope>>, Missing> {
        let tables = self.linker.tables;
        let (user, name) = (Arc::clone(self.listener), "*".into());
        let waiting = Waiting { user, kind: ResourceType::ScopedRoute, name };
        let is_known = tables.is_answered(ResourceType::ScopedRoute)
            || tables.scopes.iter().next().is_some()
            || tables.given_up.contains(&waiting);
        if !is_known {
            return Err(Missing::Scopes);
        }
        // A listener begins with all that there is.
        let mut missing = self
            .linker
            .waiting
            .iter()
            .filter(|waiting| self.is_new && tables.scopes.contains(&waiting.user));
        match missing.find(|waiting| waiting.kind == ResourceType::Route) {
            Some(waiting) => Err(Missing::Routes(Arc::clone(&waiting.name))),
            None => {
                let mut scopes: Vec<_> = self.found.scopes.iter().collect();
                scopes.sort_by(|(a, _), (b, _)| b.cmp(a));
                Ok(scopes.into_iter().map(|(_, scope)| Arc::clone(scope)).collect())
            }
        }
    }

    fn discovered(&self, filter: &Discovered) -> Result<Option<Made>, Missing> {
        let name = &filter.resource.name;
        let found = self.found.extensions.get(name).filter(|found| filter.takes(&found.type_name));
        if let Some(found) = found {
            return Ok(Some(found.made.clone()));
        }
        let waiting = Waiting {
            user: Arc::clone(self.listener),
            kind: ResourceType::ExtensionConfig,
            name: Arc::clone(name),
        };
        let is_over = filter.needs_no_warming || self.linker.tables.given_up.contains(&waiting);
        if is_over { Ok(filter.default.clone()) } else { Err(Missing::Extension(Arc::clone(name))) }
    }

    fn secrets(&self) -> &Secrets {
        &self.linker.secrets
    }
}

fn missing_waits(listener: &Arc<str>, missing: Missing) -> Waiting {
    match missing {
        Missing::Routes(name) => {
            Waiting { user: Arc::clone(listener), kind: ResourceType::Route, name }
        }
        Missing::Scopes => Waiting {
            user: Arc::clone(listener),
            kind: ResourceType::ScopedRoute,
            name: "*".into(),
        },
        Missing::Extension(name) => {
            Waiting { user: Arc::clone(listener), kind: ResourceType::ExtensionConfig, name }
        }
        Missing::Secret(error) => secret_waits(listener, error),
    }
}

fn secret_waits(user: &Arc<str>, error: SecretError) -> Waiting {
    let name = match error {
        SecretError::Missing(name) | SecretError::WrongKind(name, _) => name,
        // No other secret helps, but a later form of the same may.
        SecretError::Refused(reason) => {
            tracing::warn!(user = &**user, error = reason, "TLS cannot be set up");
            "".into()
        }
    };
    Waiting { user: Arc::clone(user), kind: ResourceType::Secret, name }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cluster::balancer::Selection;
    use crate::compile::sample;
    use crate::route::HostNumber;
    use crate::route::action::ClusterIndex;

    /// Tables, and what was linked last.
    #[derive(Default)]
    pub(super) struct Proxy {
        pub(super) tables: Tables,
        pub(super) snapshot: Snapshot,
        registry: Registry,
    }

    impl Proxy {
        pub(super) fn apply(&mut self, resource: xds_proto::resource::Resource) {
            assert_eq!(self.tables.apply(resource.kind, &[resource], &[]), []);
        }

        /// Links, and gives what waits for what.
        pub(super) fn link(&mut self) -> Vec<String> {
            let linked = link(&self.tables, &self.snapshot, &self.registry);
            self.snapshot = linked.snapshot;
            let waiting = linked.waiting.iter();
            waiting.map(|w| format!("{} waits for {} {}", w.user, w.kind, w.name)).collect()
        }

        /// The clusters that the routes in force name.
        fn names(&self, routes: &str) -> Vec<&str> {
            self.snapshot.routes[routes].table.cluster_names().map(|name| &**name).collect()
        }

        fn give_up(&mut self) {
            let linked = link(&self.tables, &self.snapshot, &self.registry);
            linked.waiting.into_iter().for_each(|waiting| self.tables.give_up(waiting));
        }
    }

    #[test]
    fn a_cluster_waits_for_its_endpoints_once() {
        let mut proxy = Proxy::default();
        proxy.apply(sample::cluster("a", 1));
        assert_eq!(proxy.link(), ["a waits for EDS a"]);
        assert!(proxy.snapshot.clusters.is_empty());
        proxy.apply(sample::endpoints("a", 80));
        assert!(proxy.link().is_empty());
        let before = Arc::clone(&proxy.snapshot.clusters["a"]);
        assert!(proxy.link().is_empty());
        assert!(Arc::ptr_eq(&before, &proxy.snapshot.clusters["a"]));
        // Endpoints that are known serve the changed cluster at once.
        proxy.apply(sample::cluster("a", 2));
        assert!(proxy.link().is_empty());
        assert!(!Arc::ptr_eq(&before, &proxy.snapshot.clusters["a"]));
    }

    #[test]
    fn a_cluster_without_endpoints_has_none_after_a_while() {
        let mut proxy = Proxy::default();
        proxy.apply(sample::cluster("a", 1));
        proxy.link();
        proxy.give_up();
        assert!(proxy.link().is_empty());
        assert!(proxy.snapshot.clusters["a"].pick(&Selection::default()).is_none());
    }

    #[test]
    fn routes_do_not_lead_to_a_cluster_that_is_still_to_come() {
        let mut proxy = Proxy::default();
        proxy.apply(sample::cluster("a", 1));
        proxy.apply(sample::endpoints("a", 80));
        proxy.apply(sample::routes("r", "a"));
        assert!(proxy.link().is_empty());
        proxy.apply(sample::cluster("b", 1));
        proxy.apply(sample::routes("r", "b"));
        assert_eq!(proxy.link(), ["b waits for EDS b", "r waits for CDS b"]);
        assert_eq!(proxy.names("r"), ["a"]);
        proxy.apply(sample::endpoints("b", 80));
        assert!(proxy.link().is_empty());
        assert_eq!(proxy.names("r"), ["b"]);
        proxy.apply(sample::routes("r", "unknown"));
        assert_eq!(proxy.link(), ["r waits for CDS unknown"]);
        proxy.give_up();
        assert!(proxy.link().is_empty());
        assert_eq!(proxy.names("r"), ["unknown"]);
    }

    #[test]
    fn routes_that_are_held_keep_a_cluster_that_is_removed_meanwhile() {
        let mut proxy = Proxy::default();
        proxy.apply(sample::cluster("a", 1));
        proxy.apply(sample::endpoints("a", 80));
        proxy.apply(sample::routes("r", "a"));
        proxy.apply(sample::listener_inline("l", 80, "a"));
        assert!(proxy.link().is_empty());
        proxy.apply(sample::cluster("b", 1));
        proxy.apply(sample::routes("r", "b"));
        proxy.apply(sample::listener_inline("l", 80, "b"));
        proxy.tables.apply(ResourceType::Cluster, &[], &["a".into()]);
        assert_eq!(proxy.link().len(), 3);
        let first = |routes: &LinkedRoutes| {
            routes.cluster(HostNumber::default(), ClusterIndex(0)).is_some()
        };
        assert!(first(&proxy.snapshot.routes["r"]));
        assert!(first(&proxy.snapshot.listeners["l"].chains[0].routing.routes));
        assert!(!proxy.snapshot.clusters.contains_key("a"));
    }

    #[test]
    fn a_listener_waits_for_its_routes() {
        let mut proxy = Proxy::default();
        proxy.apply(sample::listener("l", 80, "r"));
        assert_eq!(proxy.link(), ["l waits for RDS r"]);
        assert!(proxy.snapshot.listeners.is_empty());
        proxy.give_up();
        assert!(proxy.link().is_empty());
        assert!(proxy.snapshot.listeners.contains_key("l"), "every request gets 404");
    }

    /// A cluster by YAML, its endpoints under its own name.
    fn cluster(yaml: &str) -> xds_proto::resource::Resource {
        use xds_proto::envoy::config::cluster::v3::Cluster as Message;
        let message: Message = xds_proto::json::from_yaml(yaml).unwrap();
        xds_proto::resource::Resource::pack(&message).unwrap()
    }

    #[test]
    fn a_new_cluster_waits_for_its_first_checks_and_a_changed_one_does_not() {
        let yaml = |timeout: u32| {
            format!(
                "{{name: a, type: STATIC, connect_timeout: {timeout}s, load_assignment: {{cluster_name: a,
                  endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address:
                  {{address: 127.0.0.1, port_value: 1}}}}}}}}]}}]}}, health_checks: [{{timeout: 1s,
                  interval: 1s, healthy_threshold: 1, unhealthy_threshold: 1, tcp_health_check: {{}}}}]}}"
            )
        };
        let mut proxy = Proxy::default();
        proxy.apply(cluster(&yaml(1)));
        assert_eq!(proxy.link(), ["a waits for CDS a"]);
        assert!(!proxy.snapshot.clusters.contains_key("a"));
        let warming = Arc::clone(&proxy.snapshot.warming["a"]);
        warming.endpoints[0].live.mark(crate::cluster::live::Mark::Known, true);
        assert!(proxy.link().is_empty());
        assert!(Arc::ptr_eq(&warming, &proxy.snapshot.clusters["a"]));
        assert!(proxy.snapshot.warming.is_empty());
        proxy.apply(cluster(&yaml(2)));
        assert!(proxy.link().is_empty());
        assert!(!Arc::ptr_eq(&warming, &proxy.snapshot.clusters["a"]));
    }

    #[test]
    fn an_aggregate_follows_its_clusters() {
        let aggregate = |name: &str, members: &str| {
            cluster(&format!(
                "{{name: {name}, lb_policy: CLUSTER_PROVIDED, cluster_type: {{name: x, typed_config:
                  {{'@type': type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig,
                  clusters: [{members}]}}}}}}"
            ))
        };
        let mut proxy = Proxy::default();
        // One that has itself in it comes to nothing, and does no harm.
        proxy.apply(aggregate("all", "inner, absent, all"));
        proxy.apply(aggregate("inner", "a"));
        assert!(proxy.link().is_empty());
        assert!(proxy.snapshot.clusters["all"].pick(&Selection::default()).is_none());
        proxy.apply(sample::cluster("a", 1));
        proxy.apply(sample::endpoints("a", 80));
        assert!(proxy.link().is_empty());
        let picked = proxy.snapshot.clusters["all"].pick(&Selection::default()).unwrap();
        assert_eq!(&*picked.label, "127.0.0.1:80");
        proxy.apply(sample::endpoints("a", 81));
        assert!(proxy.link().is_empty());
        let picked = proxy.snapshot.clusters["all"].pick(&Selection::default()).unwrap();
        assert_eq!(&*picked.label, "127.0.0.1:81");
    }

    #[test]
    fn a_listener_that_is_not_complete_leaves_the_one_that_serves() {
        let mut proxy = Proxy::default();
        proxy.apply(sample::cluster("a", 1));
        proxy.apply(sample::endpoints("a", 80));
        proxy.apply(sample::listener_inline("l", 80, "a"));
        assert!(proxy.link().is_empty());
        let before = Arc::clone(&proxy.snapshot.listeners["l"]);
        proxy.apply(sample::listener_inline("l", 80, "b"));
        assert_eq!(proxy.link(), ["l waits for CDS b"]);
        assert!(Arc::ptr_eq(&before, &proxy.snapshot.listeners["l"]));
        proxy.apply(sample::listener("l", 80, "r"));
        assert_eq!(proxy.link(), ["l waits for RDS r"]);
        proxy.apply(sample::routes("r", "a"));
        assert!(proxy.link().is_empty());
        assert!(!Arc::ptr_eq(&before, &proxy.snapshot.listeners["l"]));
    }
}
