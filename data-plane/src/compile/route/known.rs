//! What a changed virtual host shares with the one before it: the routes whose bytes are the same.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::route::action::ClusterIndex;
use crate::route::virtual_host::{Route, VirtualHost};

/// A virtual host that was compiled before, in the same surroundings, and the bytes of its routes.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) host: Arc<VirtualHost>,
    pub(super) encoded: Vec<Bytes>,
}

/// What of the routes before is still there.
#[derive(Debug)]
pub(super) struct Shared<'k> {
    /// For each route the one before that has the same bytes.
    pub(super) same: Vec<Option<&'k Arc<Route>>>,
    /// Those before that are gone.
    gone: Vec<&'k Arc<Route>>,
}

impl Known {
    /// What routes of these bytes share with those before. Costs a comparison of all bytes, and a
    /// look-up for each route between the first and the last that differ.
    pub(super) fn share(&self, encoded: &[Bytes]) -> Shared<'_> {
        let (before, routes) = (&self.encoded[..], self.host.routes());
        let start = before.iter().zip(encoded).take_while(|(a, b)| a == b).count();
        let (left, right) = (&before[start..], &encoded[start..]);
        let end = left.iter().rev().zip(right.iter().rev()).take_while(|(a, b)| a == b).count();
        let (left, right) = (&left[..left.len() - end], &right[..right.len() - end]);
        let old: HashMap<&[u8], &Arc<Route>> =
            left.iter().map(|bytes| &**bytes).zip(&routes[start..]).collect();
        let new: HashSet<&[u8]> = right.iter().map(|bytes| &**bytes).collect();
        let between = right.iter().map(|bytes| old.get(&**bytes).copied());
        let (first, last) = (&routes[..start], &routes[start + left.len()..]);
        Shared {
            same: first.iter().map(Some).chain(between).chain(last.iter().map(Some)).collect(),
            gone: old
                .iter()
                .filter(|(bytes, _)| !new.contains(**bytes))
                .map(|(_, route)| *route)
                .collect(),
        }
    }
}

impl Shared<'_> {
    /// Whether a route that is gone named a cluster that none of these does.
    pub(super) fn loses_a_cluster(&self, routes: &[Arc<Route>]) -> bool {
        let gone = self.gone.iter().flat_map(|route| route.clusters());
        let mut lost: HashSet<ClusterIndex> = gone.collect();
        let mut named = routes.iter().flat_map(|route| route.clusters());
        while !lost.is_empty()
            && let Some(index) = named.next()
        {
            lost.remove(&index);
        }
        !lost.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use xds_proto::envoy::config::route::v3 as proto;

    use super::*;
    use crate::compile::route::{RouteConfig, tests::ask};

    /// A path, the cluster that it goes to, and whether the route has a name of its own.
    type Plan = (u8, u8, bool);

    fn encoded(plans: &[Plan], domains: &[&str]) -> Bytes {
        let route = |(path, cluster, is_named): &Plan| {
            let name = if *is_named { format!("n{path}") } else { String::new() };
            let yaml = format!(
                "{{name: '{name}', match: {{path: /{path}}}, route: {{cluster: c{cluster}}}}}"
            );
            xds_proto::json::from_yaml::<proto::Route>(&yaml).unwrap()
        };
        let host = proto::VirtualHost {
            name: "v".into(),
            domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            routes: plans.iter().map(route).collect(),
            ..proto::VirtualHost::default()
        };
        let name = "r".to_owned();
        let virtual_hosts = vec![host];
        let config = proto::RouteConfiguration { name, virtual_hosts, ..Default::default() };
        config.encode_to_vec().into()
    }

    fn compile(plans: &[Plan], previous: Option<&RouteConfig>) -> RouteConfig {
        RouteConfig::compile(encoded(plans, &["*"]), previous).unwrap()
    }

    fn host(config: &RouteConfig) -> &Arc<VirtualHost> {
        &config.table.virtual_hosts()[0]
    }

    /// How many routes of the second were in the first.
    fn shared(before: &RouteConfig, after: &RouteConfig) -> usize {
        let known: HashSet<_> = host(before).routes().iter().map(Arc::as_ptr).collect();
        host(after).routes().iter().filter(|route| known.contains(&Arc::as_ptr(route))).count()
    }

    fn plans() -> impl Strategy<Value = Vec<Plan>> {
        proptest::collection::vec((0..6_u8, 0..4_u8, any::<bool>()), 0..8)
    }

    proptest! {
        #[test]
        fn a_table_that_shares_is_the_one_that_does_not(
            pushes in proptest::collection::vec(plans(), 1..6),
        ) {
            let mut before: Option<RouteConfig> = None;
            for plans in &pushes {
                let after = compile(plans, before.as_ref());
                let fresh = compile(plans, None);
                let names = |config: &RouteConfig| {
                    host(config).cluster_names().iter().cloned().collect::<HashSet<_>>()
                };
                prop_assert_eq!(names(&after), names(&fresh));
                for path in 0..7 {
                    let path = format!("/{path}");
                    let got = ask(&after.table, "h", &path, &[]);
                    prop_assert_eq!(got, ask(&fresh.table, "h", &path, &[]), "{}", path);
                }
                let route_names = |config: &RouteConfig| -> Vec<_> {
                    host(config).routes().iter().map(|route| Arc::clone(&route.name)).collect()
                };
                prop_assert_eq!(route_names(&after), route_names(&fresh));
                before = Some(after);
            }
        }
    }

    const BEFORE: [Plan; 4] = [(1, 0, false), (2, 0, true), (3, 1, false), (4, 1, true)];

    #[test]
    fn routes_that_stay_are_shared_wherever_they_are() {
        let before = compile(&BEFORE, None);
        for (plans, want) in [
            (&[(1, 0, false), (2, 1, true), (3, 1, false), (4, 1, true)][..], 3),
            (&[(9, 0, false), (1, 0, false), (2, 0, true), (3, 1, false), (4, 1, true)], 4),
            (&[(4, 1, true), (3, 1, false), (5, 2, false), (2, 0, true)], 3),
            (&[(3, 1, false), (1, 0, false)], 2),
        ] {
            assert_eq!(shared(&before, &compile(plans, Some(&before))), want, "{plans:?}");
        }
    }

    #[test]
    fn an_index_is_shared_while_paths_are_the_same() {
        let before = compile(&BEFORE, None);
        let mut plans = BEFORE;
        plans[3].1 = 0;
        let after = compile(&plans, Some(&before));
        assert!(Arc::ptr_eq(&host(&before).index, &host(&after).index));
        assert_eq!(ask(&after.table, "h", "/4", &[]), "c0");
        plans[3].0 = 5;
        let after = compile(&plans, Some(&before));
        assert!(!Arc::ptr_eq(&host(&before).index, &host(&after).index));
        assert_eq!(ask(&after.table, "h", "/5", &[]), "c0");
    }

    #[test]
    fn what_is_said_around_the_routes_is_not_shared() {
        let before = compile(&BEFORE, None);
        let after = RouteConfig::compile(encoded(&BEFORE, &["a"]), Some(&before)).unwrap();
        assert_eq!(shared(&before, &after), 0);
    }

    #[test]
    fn a_wrong_route_is_named_by_its_place() {
        let before = compile(&BEFORE, None);
        let mut message = proto::RouteConfiguration::decode(encoded(&BEFORE, &["*"])).unwrap();
        message.virtual_hosts[0].routes[2].action = None;
        let error = RouteConfig::compile(message.encode_to_vec().into(), Some(&before));
        assert_eq!(error.unwrap_err().to_string(), "virtual_hosts[0].routes[2].action: required");
    }
}
