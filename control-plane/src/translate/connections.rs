//! Connections whose bytes are carried: which clusters they go to.

use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster,
};

use crate::translate::actions::Site;
use crate::translate::backends::{ClusterKey, INVALID};
use crate::translate::draft::ObjectRef;
use crate::translate::listener::{Chain, ChainTls, Work};
use crate::translate::listeners::{ListenerPlan, Protocol};
use crate::translate::plan::{RoutePlan, Share};
use crate::translate::tables::{Plans, domains};

/// A connection to nowhere is closed.
fn nowhere() -> ClusterSpecifier {
    ClusterSpecifier::Cluster(INVALID.to_owned())
}

/// The chain of a TCP listener: all its connections go to its oldest route.
pub(super) fn tcp_chain<'a>(
    name: &str,
    listener: &ListenerPlan<'_>,
    plans: &Plans<'_>,
) -> Chain<'a> {
    let clusters = oldest(listener.attached.keys(), plans)
        .map_or_else(nowhere, |plan| clusters(plan, listener.site("")));
    Chain {
        name: name.to_owned(),
        server_name: "*".to_owned(),
        is_for_tls: false,
        tls: None,
        work: Work::Bytes(clusters),
    }
}

/// The chains of a TLS listener: one for each server name, whose connections go to the oldest route
/// that has it.
pub(super) fn tls_chains<'a>(
    name: &str,
    listener: &'a ListenerPlan<'_>,
    all: &[&ListenerPlan<'_>],
    plans: &Plans<'_>,
) -> Vec<Chain<'a>> {
    let chain = |(domain, routes): (String, Vec<&ObjectRef>)| {
        let plan = oldest(routes.into_iter(), plans);
        let clusters = plan.map_or_else(nowhere, |plan| clusters(plan, listener.site("")));
        let ends = listener.protocol() == Protocol::Terminate;
        Chain {
            name: format!("{name}/{domain}"),
            is_for_tls: true,
            tls: ends.then(|| ChainTls {
                secrets: &listener.secrets,
                is_tls13_only: listener.is_tls13_only(),
                alpn: &[],
                clients: None,
            }),
            server_name: domain,
            work: Work::Bytes(clusters),
        }
    };
    domains(listener, all).into_iter().map(chain).collect()
}

/// The chain of a listener that lets nobody in: its server name is kept from less specific ones.
pub(super) fn closed_chain<'a>(name: &str, listener: &ListenerPlan<'_>) -> Chain<'a> {
    Chain {
        name: name.to_owned(),
        server_name: listener.hostname.to_owned(),
        is_for_tls: true,
        tls: None,
        work: Work::Bytes(nowhere()),
    }
}

fn oldest<'a, 'b>(
    routes: impl Iterator<Item = &'b ObjectRef>,
    plans: &'a Plans<'a>,
) -> Option<&'a RoutePlan<'a>> {
    let plans = routes.filter_map(|route| plans.get(route));
    plans.min_by_key(|plan| plan.metadata.age_order())
}

fn clusters(plan: &RoutePlan<'_>, site: Site<'_>) -> ClusterSpecifier {
    let rules = plan.rules.iter().filter_map(|rule| rule.shares.as_deref().ok());
    let shares: Vec<&Share<'_>> = rules.flatten().collect();
    let name = |share: &Share<'_>| match &share.to {
        Some(to) => ClusterKey::new(to, plan.kind, site).name(),
        None => INVALID.to_owned(),
    };
    match shares.as_slice() {
        [] => nowhere(),
        [one] => ClusterSpecifier::Cluster(name(one)),
        shares => {
            let used = shares.iter().filter(|share| share.weight > 0);
            let weight = |share: &&Share<'_>| ClusterWeight {
                name: name(share),
                weight: share.weight,
                ..Default::default()
            };
            let clusters: Vec<ClusterWeight> = used.map(weight).collect();
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })
        }
    }
}
