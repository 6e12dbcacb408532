//! A route table with its clusters at hand, so that no request looks one up by name.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use super::action::ClusterIndex;
use super::virtual_host::VirtualHost;
use super::{HostNumber, RouteTable};
use crate::cluster::Cluster;

type ByName = HashMap<Arc<str>, Arc<Cluster>>;

/// A route table and the clusters it names.
#[derive(Debug)]
pub struct LinkedRoutes {
    /// The table.
    pub table: Arc<RouteTable>,
    /// By [`HostNumber`].
    hosts: Box<[Arc<LinkedHost>]>,
    /// All clusters, where a route takes the name from a header.
    by_name: Option<ByName>,
}

/// The clusters of a virtual host.
#[derive(Debug)]
struct LinkedHost {
    host: Arc<VirtualHost>,
    /// By [`ClusterIndex`]; none where no such cluster is known.
    clusters: Box<[Option<Arc<Cluster>>]>,
}

impl LinkedRoutes {
    /// Links a table; gives `previous` back when it would come out the same.
    pub fn link(
        table: Arc<RouteTable>,
        clusters: &ByName,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let before = previous.map(|previous| Places::new(&previous.hosts, |linked| &linked.host));
        let link = |(number, host): (usize, &Arc<VirtualHost>)| {
            let linked: Box<[_]> =
                host.cluster_names().iter().map(|name| clusters.get(name).cloned()).collect();
            match before.as_ref().and_then(|before| before.get(number, host)) {
                Some(known) if are_same(&known.clusters, &linked) => Arc::clone(known),
                _ => Arc::new(LinkedHost { host: Arc::clone(host), clusters: linked }),
            }
        };
        let hosts: Box<[_]> = table.virtual_hosts().iter().enumerate().map(link).collect();
        let has_header = table.virtual_hosts().iter().any(|host| host.has_cluster_header());
        let by_name = has_header.then(|| clusters.clone());
        match previous {
            Some(previous)
                if Arc::ptr_eq(&previous.table, &table)
                    && previous.hosts.iter().zip(&hosts).all(|(a, b)| Arc::ptr_eq(a, b))
                    && are_same_by_name(previous.by_name.as_ref(), by_name.as_ref()) =>
            {
                Arc::clone(previous)
            }
            _ => Arc::new(Self { table, hosts, by_name }),
        }
    }

    /// A cluster of a virtual host; none when it is not known.
    pub fn cluster(&self, host: HostNumber, index: ClusterIndex) -> Option<&Arc<Cluster>> {
        self.hosts.get(host.index())?.clusters.get(index.0 as usize)?.as_ref()
    }

    /// The cluster that a header names (`cluster_header`); none when it is not known.
    pub fn named(&self, name: &HeaderValue) -> Option<&Arc<Cluster>> {
        self.by_name.as_ref()?.get(name.to_str().ok()?)
    }

    /// Whether a cluster that is known here is not in others of the same table.
    pub fn has_more_than(&self, other: &Self) -> bool {
        fn all(routes: &LinkedRoutes) -> impl Iterator<Item = &Option<Arc<Cluster>>> {
            routes.hosts.iter().flat_map(|host| &*host.clusters)
        }
        all(self).zip(all(other)).any(|(mine, other)| mine.is_some() && other.is_none())
    }
}

/// Finds what was made of a virtual host in an earlier table, wherever it stood there.
#[derive(Debug)]
pub(crate) struct Places<'a, T> {
    made: &'a [T],
    host: fn(&T) -> &Arc<VirtualHost>,
    moved: std::cell::OnceCell<HashMap<*const VirtualHost, usize>>,
}

impl<'a, T> Places<'a, T> {
    pub(crate) fn new(made: &'a [T], host: fn(&T) -> &Arc<VirtualHost>) -> Self {
        Self { made, host, moved: std::cell::OnceCell::new() }
    }

    /// What was made of `host`, which stands in the `number`th place by now.
    pub(crate) fn get(&self, number: usize, host: &Arc<VirtualHost>) -> Option<&'a T> {
        let in_place = self.made.get(number);
        if let Some(made) = in_place.filter(|made| Arc::ptr_eq((self.host)(made), host)) {
            return Some(made);
        }
        let moved = self.moved.get_or_init(|| {
            let places = self.made.iter().enumerate();
            places.map(|(place, made)| (Arc::as_ptr((self.host)(made)), place)).collect()
        });
        self.made.get(*moved.get(&Arc::as_ptr(host))?)
    }
}

fn are_same(a: &[Option<Arc<Cluster>>], b: &[Option<Arc<Cluster>>]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        })
}

fn are_same_by_name(a: Option<&ByName>, b: Option<&ByName>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| Arc::ptr_eq(a, b)))
        }
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Arc<VirtualHost> {
        let (domains, clusters) = ([name.into()].into(), ["a".into()].into());
        Arc::new(VirtualHost { domains, clusters, ..VirtualHost::new(name.into(), Vec::new()) })
    }

    fn table(hosts: &[&Arc<VirtualHost>]) -> Arc<RouteTable> {
        let hosts = hosts.iter().map(|host| Arc::clone(host)).collect();
        Arc::new(RouteTable::new(Arc::default(), hosts, None).unwrap())
    }

    fn link(table: Arc<RouteTable>, previous: Option<&Arc<LinkedRoutes>>) -> Arc<LinkedRoutes> {
        LinkedRoutes::link(table, &HashMap::new(), previous)
    }

    #[test]
    fn the_same_links_are_given_back() {
        let one = table(&[&host("a")]);
        let first = link(Arc::clone(&one), None);
        assert!(Arc::ptr_eq(&first, &link(one, Some(&first))));
        assert!(!Arc::ptr_eq(&first, &link(table(&[&host("a")]), Some(&first))));
    }

    #[test]
    fn a_virtual_host_that_stays_is_shared_wherever_it_stands() {
        let (a, b, c) = (host("a"), host("b"), host("c"));
        let first = link(table(&[&a, &c]), None);
        let second = link(table(&[&a, &b, &c]), Some(&first));
        assert!(Arc::ptr_eq(&first.hosts[0], &second.hosts[0]));
        assert!(Arc::ptr_eq(&first.hosts[1], &second.hosts[2]));
        assert!(!Arc::ptr_eq(&first.hosts[1], &second.hosts[1]));
    }

    #[test]
    fn a_cluster_that_is_not_known_is_none() {
        let linked = link(table(&[&host("a")]), None);
        assert!(linked.cluster(HostNumber(0), ClusterIndex(0)).is_none());
        assert!(linked.cluster(HostNumber(0), ClusterIndex(7)).is_none());
        assert!(linked.cluster(HostNumber(7), ClusterIndex(0)).is_none());
        assert!(linked.named(&HeaderValue::from_static("a")).is_none());
    }
}
