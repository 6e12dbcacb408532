//! Route tables and the clusters they need.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use xds_proto::resource::ResourceType;

use super::{ByName, Linker};
use crate::cluster::Cluster;
use crate::compile::Waiting;
use crate::compile::route::RouteConfig;
use crate::route::linked::{Discovered, LinkedRoutes};
use crate::route::virtual_host::VirtualHost;

impl Linker<'_> {
    pub(super) fn routes(&mut self, clusters: &ByName<Cluster>) -> ByName<LinkedRoutes> {
        let mut linked = HashMap::new();
        for (name, config) in self.tables.routes.iter() {
            let previous = self.previous.routes.get(name);
            let missing = self
                .missing_hosts(name, config, previous)
                .or_else(|| self.missing_cluster(name, config, clusters, previous));
            let routes = match missing {
                None => {
                    let hosts = self.discovered(name, clusters, previous);
                    let table = Arc::clone(&config.table);
                    Some(LinkedRoutes::join(table, hosts, clusters, previous))
                }
                Some(waiting) => {
                    self.waits(waiting);
                    previous.map(|previous| hold(previous, clusters))
                }
            };
            if let Some(routes) = routes {
                linked.insert(Arc::clone(name), routes);
            }
        }
        linked
    }

    /// A new table waits for the first word on its virtual hosts, as in Envoy.
    fn missing_hosts(
        &self,
        name: &Arc<str>,
        config: &RouteConfig,
        previous: Option<&Arc<LinkedRoutes>>,
    ) -> Option<Waiting> {
        let is_new = previous.is_none() && config.vhds.is_some();
        let is_known = || {
            self.tables.is_answered(ResourceType::VirtualHost)
                || self.tables.virtual_hosts.of(name).next().is_some()
        };
        if !is_new || is_known() {
            return None;
        }
        let kind = ResourceType::VirtualHost;
        let waiting = Waiting { user: Arc::clone(name), kind, name: Arc::clone(name) };
        (!self.tables.given_up.contains(&waiting)).then_some(waiting)
    }

    /// A cluster that a new table needs and that is not there yet, unless the table before it did
    /// without it already.
    fn missing_cluster(
        &self,
        name: &Arc<str>,
        config: &RouteConfig,
        clusters: &ByName<Cluster>,
        previous: Option<&Arc<LinkedRoutes>>,
    ) -> Option<Waiting> {
        let before = previous.map(|previous| &previous.own);
        if before.is_some_and(|before| Arc::ptr_eq(before, &config.table)) {
            return None;
        }
        let hosts = before.into_iter().flat_map(|before| before.virtual_hosts());
        let known: HashSet<_> = hosts.clone().map(Arc::as_ptr).collect();
        let new = config.table.virtual_hosts().iter();
        let new = new.filter(|host| !known.contains(&Arc::as_ptr(host)));
        self.first_missing(name, new, hosts, clusters)
    }

    /// The first cluster of `hosts` that is not there, and that those before did not do without.
    pub(super) fn first_missing<'h>(
        &self,
        user: &Arc<str>,
        hosts: impl Iterator<Item = &'h Arc<VirtualHost>>,
        before: impl Iterator<Item = &'h Arc<VirtualHost>> + Clone,
        clusters: &ByName<Cluster>,
    ) -> Option<Waiting> {
        let missing = hosts.flat_map(|host| host.cluster_names());
        let missing = missing.filter(|name| !clusters.contains_key(*name));
        let did_without = |cluster: &Arc<str>| {
            before.clone().flat_map(|host| host.cluster_names()).any(|before| before == cluster)
        };
        let waiting = |cluster: &Arc<str>| Waiting {
            user: Arc::clone(user),
            kind: ResourceType::Cluster,
            name: Arc::clone(cluster),
        };
        missing
            .filter(|cluster| !did_without(cluster))
            .map(waiting)
            .find(|waiting| !self.tables.given_up.contains(waiting))
    }

    /// The virtual hosts that came by themselves. One that waits for a cluster leaves the one in its
    /// place that serves.
    fn discovered(
        &mut self,
        table: &Arc<str>,
        clusters: &ByName<Cluster>,
        previous: Option<&Arc<LinkedRoutes>>,
    ) -> Vec<Discovered> {
        let mut discovered = Vec::new();
        for (resource, host) in self.tables.virtual_hosts.of(table) {
            let before = previous.and_then(|previous| previous.discovered(resource));
            let is_new = before.is_none_or(|before| !Arc::ptr_eq(before, host));
            let missing = is_new.then(|| {
                self.first_missing(resource, [host].into_iter(), before.into_iter(), clusters)
            });
            let missing = missing.flatten();
            let (host, is_held) = match (&missing, before) {
                (None, _) => (Some(host), false),
                (Some(_), before) => (before, true),
            };
            discovered.extend(host.map(|host| Discovered {
                resource: Arc::clone(resource),
                host: Arc::clone(host),
                is_held,
            }));
            if let Some(waiting) = missing {
                self.waits(waiting);
            }
        }
        discovered
    }
}

/// Keeps routes in use with their clusters up to date. A cluster that is gone stays for them: it was
/// removed because the routes that wait do not need it.
pub(super) fn hold(previous: &Arc<LinkedRoutes>, clusters: &ByName<Cluster>) -> Arc<LinkedRoutes> {
    let table = &previous.table;
    let hosts = table.virtual_hosts().iter().skip(previous.own.virtual_hosts().len());
    let hosts = previous.discovered.iter().zip(hosts).map(|(resource, host)| Discovered {
        resource: Arc::clone(resource),
        host: Arc::clone(host),
        is_held: true,
    });
    let own = Arc::clone(&previous.own);
    let linked = LinkedRoutes::join(own, hosts.collect(), clusters, Some(previous));
    if previous.has_more_than(&linked) { Arc::clone(previous) } else { linked }
}

#[cfg(test)]
mod tests {
    use xds_proto::resource::Resource;

    use super::*;
    use crate::compile::link::tests::Proxy;
    use crate::compile::sample;

    impl Proxy {
        fn take(&mut self, resources: &[Resource]) {
            resources.iter().for_each(|resource| self.apply(resource.clone()));
        }

        fn routes(&self) -> &Arc<LinkedRoutes> {
            &self.snapshot.routes["r"]
        }

        /// The clusters that the virtual host of a resource names.
        fn clusters(&self, resource: &str) -> Option<&[Arc<str>]> {
            Some(self.routes().discovered(resource)?.cluster_names())
        }
    }

    fn cluster(name: &str) -> [Resource; 2] {
        [sample::cluster(name, 1), sample::endpoints(name, 80)]
    }

    /// A proxy with routes on demand and the host `r/x`.
    fn proxy() -> Proxy {
        let mut proxy = Proxy::default();
        proxy.take(&cluster("a"));
        proxy.take(&[sample::routes_on_demand("r", "{name: own, domains: [own.test]}")]);
        proxy.take(&[sample::virtual_host("r/x", "x.test", "a")]);
        assert!(proxy.link().is_empty());
        proxy
    }

    #[test]
    fn a_table_waits_for_the_first_word_on_its_hosts() {
        let mut proxy = Proxy::default();
        proxy.take(&[sample::routes_on_demand("r", ""), sample::listener("l", 80, "r")]);
        assert_eq!(proxy.link(), ["r waits for VHDS r", "l waits for RDS r"]);
        proxy.tables.note_answer(ResourceType::VirtualHost);
        assert!(proxy.link().is_empty());
        assert!(proxy.snapshot.listeners.contains_key("l"));
    }

    #[test]
    fn hosts_come_and_go_and_the_others_are_shared() {
        let mut proxy = proxy();
        let before = Arc::clone(proxy.routes());
        proxy.take(&[sample::virtual_host("r/a", "a.test", "a")]);
        assert!(proxy.link().is_empty());
        let after = Arc::clone(proxy.routes());
        assert!(after.table.has_host("a.test") && after.table.has_host("own.test"));
        let hosts = |routes: &LinkedRoutes| routes.table.virtual_hosts().to_vec();
        assert!(Arc::ptr_eq(&hosts(&before)[1], &hosts(&after)[2]));
        proxy.tables.apply(ResourceType::VirtualHost, &[], &["r/x".into()]);
        assert!(proxy.link().is_empty());
        assert!(!proxy.routes().table.has_host("x.test"));
    }

    #[test]
    fn a_host_that_needs_a_cluster_waits_and_the_others_do_not() {
        let mut proxy = proxy();
        proxy.take(&[sample::virtual_host("r/x", "x.test", "b")]);
        proxy.take(&[sample::virtual_host("r/y", "y.test", "b")]);
        proxy.take(&[sample::virtual_host("r/z", "z.test", "a")]);
        proxy.tables.apply(ResourceType::Cluster, &[], &["a".into()]);
        proxy.take(&cluster("a"));
        assert_eq!(proxy.link(), ["r/x waits for CDS b", "r/y waits for CDS b"]);
        assert_eq!(proxy.clusters("r/x"), Some(&["a".into()][..]), "it serves as before");
        assert_eq!(proxy.clusters("r/y"), None);
        assert_eq!(proxy.clusters("r/z"), Some(&["a".into()][..]));
        proxy.take(&cluster("b"));
        assert!(proxy.link().is_empty());
        assert_eq!(proxy.clusters("r/x"), Some(&["b".into()][..]));
        assert!(proxy.routes().table.has_host("y.test"));
    }

    #[test]
    fn a_host_that_is_held_keeps_a_cluster_that_is_removed_meanwhile() {
        use crate::route::HostNumber;
        use crate::route::action::ClusterIndex;
        let mut proxy = proxy();
        proxy.take(&[sample::virtual_host("r/x", "x.test", "b")]);
        proxy.tables.apply(ResourceType::Cluster, &[], &["a".into()]);
        assert_eq!(proxy.link(), ["r/x waits for CDS b"]);
        assert!(proxy.routes().cluster(HostNumber(1), ClusterIndex(0)).is_some());
        assert!(!proxy.snapshot.clusters.contains_key("a"));
    }
}
