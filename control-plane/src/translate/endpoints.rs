//! Endpoints of Backends and Services, by priority and zone.

use std::collections::{BTreeMap, BTreeSet};

use xds_proto::convert;
use xds_proto::envoy::config::core::v3::{Address, HealthStatus, Locality, Pipe, address};
use xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
};

use crate::model::backend::Endpoint;
use crate::model::endpointslice::{EndpointConditions, EndpointSlice};
use crate::model::service::ServicePort;
use crate::translate::envoy::number;

/// Endpoints by priority and zone.
type Localities<'a> = BTreeMap<(u32, &'a str), Vec<LbEndpoint>>;

/// The endpoints of a Backend.
pub(super) fn of_backend(name: &str, endpoints: &[Endpoint]) -> ClusterLoadAssignment {
    let mut localities = Localities::new();
    for endpoint in endpoints {
        let zone = endpoint.zone.as_deref().unwrap_or_default();
        let locality = localities.entry((endpoint.priority, zone)).or_default();
        locality.push(lb_endpoint(address_of(endpoint), endpoint.weight));
    }
    assignment(name, localities)
}

fn address_of(endpoint: &Endpoint) -> Address {
    if let Some(path) = &endpoint.unix {
        let pipe = Pipe { path: path.clone(), ..Default::default() };
        return Address { address: Some(address::Address::Pipe(pipe)) };
    }
    let host = endpoint.ip.as_deref().or(endpoint.host.as_deref()).unwrap_or_default();
    convert::to_address(host, endpoint.port.unwrap_or_default())
}

/// The endpoints of a port of a Service. Those that neither take requests nor end orderly are left
/// out; one that several slices have counts once.
pub(super) fn of_service(
    name: &str,
    port: &ServicePort,
    slices: &[EndpointSlice],
) -> ClusterLoadAssignment {
    let mut localities = Localities::new();
    let mut seen = BTreeSet::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let numbers = slice.ports.iter().filter(|known| known.name == port.name);
        let Some(number) = numbers.filter_map(|known| known.port).next() else { continue };
        for endpoint in &slice.endpoints {
            let health = health(endpoint.conditions);
            let (Some(health), Some(address)) = (health, endpoint.addresses.first()) else {
                continue;
            };
            if seen.insert((address, number)) {
                let zone = endpoint.zone.as_deref().unwrap_or_default();
                let one = lb_endpoint(convert::to_address(address, number), 1);
                let one = LbEndpoint { health_status: health.into(), ..one };
                localities.entry((0, zone)).or_default().push(one);
            }
        }
    }
    assignment(name, localities)
}

/// How an endpoint is used, if at all.
fn health(conditions: EndpointConditions) -> Option<HealthStatus> {
    let EndpointConditions { ready, serving, terminating } = conditions;
    if ready.unwrap_or(true) {
        return Some(HealthStatus::Healthy);
    }
    let drains = serving.unwrap_or(false) && terminating.unwrap_or(false);
    drains.then_some(HealthStatus::Draining)
}

/// Each locality has a weight, without which gRPC ignores it.
fn assignment(name: &str, localities: Localities<'_>) -> ClusterLoadAssignment {
    let locality = |((priority, zone), endpoints): ((u32, &str), Vec<LbEndpoint>)| {
        let weights = endpoints.iter().filter_map(|one| one.load_balancing_weight.as_ref());
        let weight = weights.fold(0_u32, |sum, one| sum.saturating_add(one.value));
        LocalityLbEndpoints {
            locality: Some(Locality { zone: zone.to_owned(), ..Default::default() }),
            priority,
            load_balancing_weight: number(weight),
            lb_endpoints: endpoints,
            ..Default::default()
        }
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: localities.into_iter().map(locality).collect(),
        ..Default::default()
    }
}

fn lb_endpoint(address: Address, weight: u32) -> LbEndpoint {
    LbEndpoint {
        load_balancing_weight: number(weight),
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    }
}
