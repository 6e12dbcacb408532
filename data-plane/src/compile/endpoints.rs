//! A `ClusterLoadAssignment` resource to endpoints.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use xds_proto::convert::{self, Address};
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, endpoint::AdditionalAddress,
    endpoint::HealthCheckConfig,
};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::UInt32Value;

use crate::cluster::endpoints::{
    CheckTarget, EndpointConfig, EndpointsConfig, Health, Locality, LocalityConfig,
};

use crate::compile::labels::{of_metadata, of_socket};
use crate::labels::Labels;

/// Envoy's limit.
const PRIORITY_MAX: u32 = 128;

/// Compiles endpoints that the control plane sends: their addresses are IPs or paths.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn compile(message: ClusterLoadAssignment) -> Result<EndpointsConfig, FieldError> {
    compile_as(message, Names::Refused)
}

/// Whether an address may be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// They are looked up.
    Resolved,
    /// Nobody looks them up.
    Refused,
}

/// Compiles endpoints whose addresses may be names, or not.
pub(crate) fn compile_as(
    message: ClusterLoadAssignment,
    names: Names,
) -> Result<EndpointsConfig, FieldError> {
    fields!(message: ClusterLoadAssignment,
        read: [cluster_name, endpoints, policy],
        ignore: [],
        refuse: [named_endpoints]);
    let name = required_text(cluster_name, "cluster_name")?.into();
    let overprovisioning_percent = policy.map_or(Ok(140), overprovisioning).at("policy")?;
    let mut seen = HashSet::new();
    let localities =
        each(endpoints, "endpoints", |group| locality(group, names, &mut seen))?.into();
    Ok(EndpointsConfig { name, localities, overprovisioning_percent })
}

fn overprovisioning(message: Policy) -> Result<u32, FieldError> {
    fields!(message: Policy,
        read: [overprovisioning_factor],
        ignore: [],
        refuse: [drop_overloads, endpoint_stale_after, weighted_priority_health]);
    match overprovisioning_factor.map(|factor| factor.value) {
        None => Ok(140),
        Some(0) => Err(FieldError::invalid("must be at least 1")).at("overprovisioning_factor"),
        Some(factor) => Ok(factor),
    }
}

fn locality(
    message: LocalityLbEndpoints,
    names: Names,
    seen: &mut HashSet<Address>,
) -> Result<LocalityConfig, FieldError> {
    fields!(message: LocalityLbEndpoints,
        read: [locality, lb_endpoints, load_balancing_weight, priority, metadata],
        // Unused in Envoy too.
        ignore: [proximity],
        refuse: [lb_config]);
    if priority > PRIORITY_MAX {
        return Err(FieldError::invalid("must be at most 128")).at("priority");
    }
    let weight = weight(load_balancing_weight.as_ref())?;
    let sockets = metadata.as_ref().map(of_socket).unwrap_or_default();
    let mut endpoints = each(lb_endpoints, "lb_endpoints", |one| endpoint(one, names, &sockets))?;
    sum_of_weights(&endpoints).at("lb_endpoints")?;
    // As in Envoy, the first of several with one address counts.
    endpoints.retain(|endpoint| seen.insert(endpoint.address.clone()));
    let locality = locality.unwrap_or_default();
    Ok(LocalityConfig {
        locality: Locality {
            region: locality.region.into(),
            zone: locality.zone.into(),
            sub_zone: locality.sub_zone.into(),
        },
        priority,
        weight,
        endpoints: endpoints.into(),
    })
}

fn sum_of_weights(endpoints: &[EndpointConfig]) -> Result<(), FieldError> {
    let sum: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    if sum > u64::from(u32::MAX) {
        return Err(FieldError::invalid("the weights add up to more than 4294967295"));
    }
    Ok(())
}

fn weight(message: Option<&UInt32Value>) -> Result<Option<u32>, FieldError> {
    match message.map(|message| message.value) {
        Some(0) => Err(FieldError::invalid("must be at least 1")).at("load_balancing_weight"),
        weight => Ok(weight),
    }
}

/// `sockets`: what its locality says about its socket.
fn endpoint(
    message: LbEndpoint,
    names: Names,
    sockets: &Labels,
) -> Result<EndpointConfig, FieldError> {
    fields!(message: LbEndpoint,
        read: [health_status, load_balancing_weight, host_identifier, metadata],
        ignore: [],
        refuse: []);
    let weight = weight(load_balancing_weight.as_ref())?.unwrap_or(1);
    let health = health(health_status).at("health_status")?;
    let ((address, also), hostname, check) = match required(host_identifier, "endpoint")? {
        HostIdentifier::Endpoint(host) => place(host, names).at("endpoint")?,
        HostIdentifier::EndpointName(_) => {
            return Err(FieldError::unsupported()).at("endpoint_name");
        }
    };
    let own = metadata.as_ref().map(of_socket).unwrap_or_default();
    let has_none = own.is_empty() && sockets.is_empty();
    let sockets = (!has_none).then(|| Arc::new([own, sockets.clone()]));
    let labels = Arc::new(metadata.map(of_metadata).unwrap_or_default());
    Ok(EndpointConfig { address, also, hostname, weight, health, labels, sockets, check })
}

fn health(status: i32) -> Result<Health, FieldError> {
    match core::HealthStatus::try_from(status) {
        Ok(core::HealthStatus::Unknown | core::HealthStatus::Healthy) => Ok(Health::Healthy),
        Ok(core::HealthStatus::Degraded) => Ok(Health::Degraded),
        Ok(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) => Ok(Health::Unhealthy),
        Ok(core::HealthStatus::Draining) => Ok(Health::Draining),
        Err(_) => Err(FieldError::invalid("unknown value")),
    }
}

/// Where an endpoint is and may be too, what it is called, and what is special about its health checks.
type Place = ((Address, Box<[SocketAddr]>), Arc<str>, Option<Arc<CheckTarget>>);

fn place(message: Endpoint, names: Names) -> Result<Place, FieldError> {
    fields!(message: Endpoint,
        read: [address, hostname, health_check_config, additional_addresses],
        // Names of statistics; ours are named by the address.
        ignore: [observability_name],
        refuse: []);
    let also = each(additional_addresses, "additional_addresses", additional)?.into();
    let check = health_check_config.map(check_target).transpose().at("health_check_config")?;
    let check = check.filter(|check| *check != CheckTarget::default()).map(Arc::new);
    let address = convert::address(address)?;
    match &address {
        Address::Name(name, _) if names == Names::Refused => Err(FieldError::invalid(format!(
            "malformed IP address: {name}; only clusters of type STRICT_DNS and LOGICAL_DNS look \
             names up"
        )))
        .at("address")
        .at("socket_address")
        .at("address"),
        // The name is what `auto_host_rewrite` and `auto_host_sni` go by.
        Address::Name(name, _) if hostname.is_empty() => {
            let hostname = name.as_str().into();
            Ok(((address, also), hostname, check))
        }
        Address::Name(..) | Address::Ip(_) | Address::Pipe(_) => {
            Ok(((address, also), hostname.into(), check))
        }
    }
}

fn additional(message: AdditionalAddress) -> Result<SocketAddr, FieldError> {
    fields!(message: AdditionalAddress, read: [address], ignore: [], refuse: []);
    match convert::address(address)? {
        Address::Ip(address) => Ok(address),
        Address::Name(..) | Address::Pipe(_) => {
            Err(FieldError::invalid("must be an IP address")).at("address")
        }
    }
}

fn check_target(message: HealthCheckConfig) -> Result<CheckTarget, FieldError> {
    fields!(message: HealthCheckConfig,
        read: [port_value, hostname, address, disable_active_health_check],
        ignore: [],
        refuse: []);
    let port = u16::try_from(port_value)
        .map_err(|_| FieldError::invalid("must be at most 65535"))
        .at("port_value")?;
    Ok(CheckTarget {
        is_disabled: disable_active_health_check,
        address: address.map(|address| convert::address(Some(address))).transpose()?,
        port: (port > 0).then_some(port),
        hostname: hostname.into(),
    })
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(yaml: &str) -> Result<EndpointsConfig, String> {
        compile(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    fn at(port: u16, more: &str) -> String {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}{more}}}"
        )
    }

    #[test]
    fn endpoints_have_weight_health_and_place() {
        let one = at(1, ", load_balancing_weight: 3");
        let two = at(2, ", health_status: DRAINING");
        let config = compiled(&format!(
            "{{cluster_name: c, endpoints: [{{locality: {{region: r, zone: z}}, priority: 1,
              load_balancing_weight: 7, lb_endpoints: [{one}, {two}]}}]}}"
        ))
        .unwrap();
        let group = &config.localities[0];
        assert_eq!((group.priority, group.weight, &*group.locality.zone), (1, Some(7), "z"));
        let [one, two] = [0, 1].map(|index| &group.endpoints[index]);
        assert_eq!((one.weight, one.health), (3, Health::Healthy));
        assert_eq!((two.weight, two.health), (1, Health::Draining));
    }

    #[test]
    fn the_first_of_two_with_one_address_counts() {
        let (one, two) = (at(1, ""), at(1, ", load_balancing_weight: 2"));
        let yaml = format!(
            "{{cluster_name: c, endpoints: [{{lb_endpoints: [{one}]}}, {{lb_endpoints: [{two}]}}]}}"
        );
        let config = compiled(&yaml).unwrap();
        assert_eq!(config.localities[0].endpoints.len(), 1);
        assert_eq!(config.localities[1].endpoints.len(), 0);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let weightless = at(1, ", load_balancing_weight: 0");
        let name = "{endpoint: {address: {socket_address: {address: localhost, port_value: 1}}}}";
        for (yaml, error) in [
            ("{}".to_owned(), "cluster_name: required"),
            (
                format!("{{cluster_name: c, endpoints: [{{lb_endpoints: [{weightless}]}}]}}"),
                "endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1",
            ),
            (
                format!("{{cluster_name: c, endpoints: [{{lb_endpoints: [{name}]}}]}}"),
                "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed \
                 IP address: localhost; only clusters of type STRICT_DNS and LOGICAL_DNS look \
                 names up",
            ),
            (
                "{cluster_name: c, endpoints: [{priority: 129}]}".to_owned(),
                "endpoints[0].priority: must be at most 128",
            ),
            (
                "{cluster_name: c, policy: {drop_overloads: [{category: x}]}}".to_owned(),
                "policy.drop_overloads: not supported",
            ),
        ] {
            assert_eq!(compiled(&yaml).unwrap_err(), error);
        }
    }
}
