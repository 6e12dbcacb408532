//! A route table with its clusters at hand, so that no request looks one up by name.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use super::RouteTable;
use super::action::ClusterIndex;
use crate::cluster::Cluster;

/// A route table and the clusters it names.
#[derive(Debug)]
pub struct LinkedRoutes {
    /// The table.
    pub table: Arc<RouteTable>,
    /// By [`ClusterIndex`]; none where no such cluster is known.
    pub clusters: Box<[Option<Arc<Cluster>>]>,
    /// All clusters, where a route takes the name from a header.
    by_name: Option<HashMap<Arc<str>, Arc<Cluster>>>,
}

impl LinkedRoutes {
    /// Links a table; gives `previous` back when it would come out the same.
    pub fn link(
        table: Arc<RouteTable>,
        clusters: &HashMap<Arc<str>, Arc<Cluster>>,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let linked: Box<[_]> =
            table.cluster_names().iter().map(|name| clusters.get(name).cloned()).collect();
        let by_name = table.has_cluster_header().then(|| clusters.clone());
        match previous {
            Some(previous)
                if Arc::ptr_eq(&previous.table, &table)
                    && are_same(&previous.clusters, &linked)
                    && are_same_by_name(previous.by_name.as_ref(), by_name.as_ref()) =>
            {
                Arc::clone(previous)
            }
            _ => Arc::new(Self { table, clusters: linked, by_name }),
        }
    }

    /// The cluster of an index; none when it is not known.
    pub fn cluster(&self, index: ClusterIndex) -> Option<&Arc<Cluster>> {
        self.clusters.get(index.0 as usize)?.as_ref()
    }

    /// The cluster that a header names (`cluster_header`); none when it is not known.
    pub fn named(&self, name: &HeaderValue) -> Option<&Arc<Cluster>> {
        self.by_name.as_ref()?.get(name.to_str().ok()?)
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

type ByName = HashMap<Arc<str>, Arc<Cluster>>;

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
    use super::super::Mutations;
    use super::super::host::HostIndex;
    use super::*;

    fn table() -> Arc<RouteTable> {
        Arc::new(RouteTable {
            name: "r".into(),
            virtual_hosts: [].into(),
            hosts: HostIndex::default(),
            clusters: ["a".into()].into(),
            overrides: crate::chain::overrides::OverrideTable::default(),
            mutations: Mutations::default(),
            internal_only: [].into(),
            ignore_port: false,
            ignore_path_parameters: false,
            most_specific_wins: false,
        })
    }

    #[test]
    fn the_same_links_are_given_back() {
        let (one, other) = (table(), table());
        let clusters = HashMap::new();
        let first = LinkedRoutes::link(Arc::clone(&one), &clusters, None);
        assert!(Arc::ptr_eq(&first, &LinkedRoutes::link(one, &clusters, Some(&first))));
        assert!(!Arc::ptr_eq(&first, &LinkedRoutes::link(other, &clusters, Some(&first))));
    }

    #[test]
    fn a_cluster_that_is_not_known_is_none() {
        let linked = LinkedRoutes::link(table(), &HashMap::new(), None);
        assert!(linked.cluster(ClusterIndex(0)).is_none());
        assert!(linked.cluster(ClusterIndex(7)).is_none());
        assert!(linked.named(&HeaderValue::from_static("a")).is_none());
    }
}
