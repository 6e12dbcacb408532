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
    /// The table without the virtual hosts that came by themselves.
    pub own: Arc<RouteTable>,
    /// The resources of these, which are the last ones of the table.
    pub discovered: Box<[Arc<str>]>,
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

/// A virtual host that came by itself.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// The name of its resource.
    pub resource: Arc<str>,
    /// It.
    pub host: Arc<VirtualHost>,
    /// A newer one waits, so that it keeps clusters that are gone.
    pub is_held: bool,
}

impl LinkedRoutes {
    /// Links a table; gives `previous` back when it would come out the same.
    pub fn link(
        table: Arc<RouteTable>,
        clusters: &ByName,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        Self::join(table, Vec::new(), clusters, previous)
    }

    /// Links a table and the virtual hosts that came by themselves for it.
    pub fn join(
        own: Arc<RouteTable>,
        discovered: Vec<Discovered>,
        clusters: &ByName,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let (table, discovered) = whole(&own, discovered, previous);
        let before = previous.map(|previous| Places::new(&previous.hosts, |linked| &linked.host));
        let own_count = own.virtual_hosts().len();
        let link = |(number, host): (usize, &Arc<VirtualHost>)| {
            let linked: Box<[_]> =
                host.cluster_names().iter().map(|name| clusters.get(name).cloned()).collect();
            let linked = LinkedHost { host: Arc::clone(host), clusters: linked };
            let discovered = number.checked_sub(own_count).and_then(|at| discovered.get(at));
            let is_held = discovered.is_some_and(|host| host.is_held);
            match before.as_ref().and_then(|before| before.get(number, host)) {
                Some(known)
                    if are_same(&known.clusters, &linked.clusters)
                        || (is_held && known.has_more_than(&linked)) =>
                {
                    Arc::clone(known)
                }
                _ => Arc::new(linked),
            }
        };
        let hosts: Box<[_]> = table.virtual_hosts().iter().enumerate().map(link).collect();
        let has_header = table.virtual_hosts().iter().any(|host| host.has_cluster_header);
        let by_name = has_header.then(|| clusters.clone());
        match previous {
            Some(previous)
                if Arc::ptr_eq(&previous.table, &table)
                    && previous.hosts.iter().zip(&hosts).all(|(a, b)| Arc::ptr_eq(a, b))
                    && are_same_by_name(previous.by_name.as_ref(), by_name.as_ref()) =>
            {
                Arc::clone(previous)
            }
            _ => {
                let discovered = discovered.into_iter().map(|host| host.resource).collect();
                Arc::new(Self { table, own, discovered, hosts, by_name })
            }
        }
    }

    /// The virtual host that came by itself in this resource.
    pub fn discovered(&self, resource: &str) -> Option<&Arc<VirtualHost>> {
        let place = self.discovered.iter().position(|name| **name == *resource)?;
        self.table.virtual_hosts().get(self.own.virtual_hosts().len() + place)
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
        self.hosts.iter().zip(&other.hosts).any(|(mine, other)| mine.has_more_than(other))
    }
}

impl LinkedHost {
    fn has_more_than(&self, other: &Self) -> bool {
        let mut pairs = self.clusters.iter().zip(&other.clusters);
        pairs.any(|(mine, other)| mine.is_some() && other.is_none())
    }
}

/// The table of all virtual hosts. One whose domain another has already, which lasts only while
/// something is held, is left out.
fn whole(
    own: &Arc<RouteTable>,
    mut discovered: Vec<Discovered>,
    previous: Option<&Arc<LinkedRoutes>>,
) -> (Arc<RouteTable>, Vec<Discovered>) {
    if discovered.is_empty() {
        return (Arc::clone(own), discovered);
    }
    let is_same = |previous: &&Arc<LinkedRoutes>| {
        let hosts = previous.table.virtual_hosts().iter().skip(own.virtual_hosts().len());
        let mut pairs = previous.discovered.iter().zip(hosts).zip(&discovered);
        Arc::ptr_eq(&previous.own, own)
            && previous.discovered.len() == discovered.len()
            && pairs
                .all(|((name, host), new)| *name == new.resource && Arc::ptr_eq(host, &new.host))
    };
    if let Some(previous) = previous.filter(is_same) {
        return (Arc::clone(&previous.table), discovered);
    }
    let before = previous.map(|previous| &*previous.table);
    loop {
        let all = own.virtual_hosts().iter().chain(discovered.iter().map(|one| &one.host));
        match RouteTable::new(Arc::clone(&own.frame), all.cloned().collect(), before) {
            Ok(table) => return (Arc::new(table), discovered),
            Err(wrong) => match wrong.host.checked_sub(own.virtual_hosts().len()) {
                Some(place) if place < discovered.len() => drop(discovered.remove(place)),
                _ => return (Arc::clone(own), Vec::new()),
            },
        }
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
    fn virtual_hosts_that_came_by_themselves_stand_behind_the_own() {
        let discovered = |host: &Arc<VirtualHost>| Discovered {
            resource: format!("r/{}", host.name).into(),
            host: Arc::clone(host),
            is_held: false,
        };
        let (a, b, other_b) = (host("a"), host("b"), host("b"));
        let own = table(&[&a]);
        let join = |hosts: &[&Arc<VirtualHost>], previous| {
            let hosts = hosts.iter().map(|host| discovered(host)).collect();
            LinkedRoutes::join(Arc::clone(&own), hosts, &HashMap::new(), previous)
        };
        let first = join(&[&b], None);
        assert!(Arc::ptr_eq(first.discovered("r/b").unwrap(), &b));
        assert!(Arc::ptr_eq(&first, &join(&[&b], Some(&first))));
        let second = join(&[&b, &other_b], Some(&first));
        assert_eq!(second.table.virtual_hosts().len(), 2, "a domain has one host");
        let third = join(&[], Some(&first));
        assert!(Arc::ptr_eq(&third.table, &own) && third.discovered("r/b").is_none());
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
