//! Compiles `RouteConfiguration` into a route table. Linear in the number of routes.

mod action;
mod condition;
mod retry;

use std::collections::HashMap;
use std::sync::Arc;

use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::config::route::v3::virtual_host::TlsRequirementType;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use crate::format::compile::mutations;
use crate::route::action::ClusterIndex;
use crate::route::host::{DomainError, HostIndex};
use crate::route::retry::RetryPolicy;
use crate::route::{Mutations, RequireTls, Route, RouteTable, VirtualHost};

/// What a route's compilation needs to know of what is around it.
#[derive(Debug)]
struct Surroundings {
    clusters: HashMap<Arc<str>, ClusterIndex>,
    cluster_names: Vec<Arc<str>>,
    /// The virtual host's, for routes without their own.
    retry: Option<Arc<RetryPolicy>>,
    /// `max_direct_response_body_size_bytes`.
    body_bytes_max: usize,
}

impl Surroundings {
    /// The index of a cluster, which is new or known.
    fn cluster(&mut self, name: String) -> Result<ClusterIndex, FieldError> {
        if let Some(index) = self.clusters.get(name.as_str()) {
            return Ok(*index);
        }
        let index = u32::try_from(self.cluster_names.len())
            .map(ClusterIndex)
            .map_err(|_| FieldError::invalid("too many clusters"))?;
        let name: Arc<str> = name.into();
        self.cluster_names.push(Arc::clone(&name));
        self.clusters.insert(name, index);
        Ok(index)
    }
}

/// Compiles a route configuration.
///
/// # Errors
/// The first field that is wrong or not supported, with its path.
pub fn compile(message: route::RouteConfiguration) -> Result<RouteTable, FieldError> {
    fields!(message: route::RouteConfiguration,
    read: [
        name, virtual_hosts, request_headers_to_add, request_headers_to_remove,
        response_headers_to_add, response_headers_to_remove,
        most_specific_header_mutations_wins, max_direct_response_body_size_bytes,
        ignore_port_in_host_matching, ignore_path_parameters_in_path_matching,
    ],
    // validate_clusters: a cluster may come later; until then cluster_not_found_response_code.
    // metadata: for the control plane's own use.
    ignore: [validate_clusters, metadata],
    refuse: [
        vhds, internal_only_headers, cluster_specifier_plugins, request_mirror_policies,
        vhost_header, typed_per_filter_config, route_specifiers,
    ]);
    let mutations = Mutations {
        request: mutations(
            (request_headers_to_add, "request_headers_to_add"),
            (request_headers_to_remove, "request_headers_to_remove"),
        )?,
        response: mutations(
            (response_headers_to_add, "response_headers_to_add"),
            (response_headers_to_remove, "response_headers_to_remove"),
        )?,
    };
    let body_bytes_max = max_direct_response_body_size_bytes.map_or(4096, |bytes| bytes.value);
    let mut around = Surroundings {
        clusters: HashMap::new(),
        cluster_names: Vec::new(),
        retry: None,
        body_bytes_max: usize::try_from(body_bytes_max).unwrap_or(usize::MAX),
    };
    let mut hosts = HostIndex::default();
    let mut number = 0_u32;
    let virtual_hosts = each(virtual_hosts, "virtual_hosts", |message| {
        let virtual_host = virtual_host(message, number, &mut hosts, &mut around);
        number = number.saturating_add(1);
        virtual_host
    })?;
    Ok(RouteTable {
        name: name.into(),
        virtual_hosts: virtual_hosts.into(),
        hosts,
        clusters: around.cluster_names.into(),
        mutations,
        ignore_port: ignore_port_in_host_matching,
        ignore_path_parameters: ignore_path_parameters_in_path_matching,
        most_specific_wins: most_specific_header_mutations_wins,
    })
}

fn virtual_host(
    message: route::VirtualHost,
    number: u32,
    hosts: &mut HostIndex,
    around: &mut Surroundings,
) -> Result<VirtualHost, FieldError> {
    fields!(message: route::VirtualHost,
    read: [
        name, domains, routes, require_tls, retry_policy, request_headers_to_add,
        request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
        include_request_attempt_count, include_attempt_count_in_response,
    ],
    // virtual_clusters: only counters. metadata: for the control plane's own use.
    // The buffer limits bound what is kept for a retry; only requests without a body are.
    ignore: [
        virtual_clusters, metadata, per_request_buffer_limit_bytes, request_body_buffer_limit,
    ],
    refuse: [
        matcher, rate_limits, cors, typed_per_filter_config, retry_policy_typed_config,
        hedge_policy, include_is_timeout_retry_header, request_mirror_policies,
        route_specifiers,
    ]);
    let name: Arc<str> = required_text(name, "name")?.into();
    if domains.is_empty() {
        return Err(FieldError::required()).at("domains");
    }
    each(domains, "domains", |domain| {
        hosts.add(&domain, number).map_err(|error| match error {
            DomainError::Empty => FieldError::required(),
            DomainError::Duplicate => FieldError::invalid(format!(
                "only unique domains are permitted, {domain:?} is there already"
            )),
        })
    })?;
    let require_tls = match TlsRequirementType::try_from(require_tls) {
        Ok(TlsRequirementType::None) => RequireTls::None,
        Ok(TlsRequirementType::ExternalOnly) => RequireTls::ExternalOnly,
        Ok(TlsRequirementType::All) => RequireTls::All,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("require_tls"),
    };
    around.retry = retry_policy.map(retry::compile).transpose().at("retry_policy")?.map(Arc::new);
    let routes = each(routes, "routes", |message| route(message, around))?;
    let mutations = Mutations {
        request: mutations(
            (request_headers_to_add, "request_headers_to_add"),
            (request_headers_to_remove, "request_headers_to_remove"),
        )?,
        response: mutations(
            (response_headers_to_add, "response_headers_to_add"),
            (response_headers_to_remove, "response_headers_to_remove"),
        )?,
    };
    Ok(VirtualHost {
        include_request_attempt_count,
        include_attempt_count_in_response,
        require_tls,
        mutations,
        ..VirtualHost::new(name, routes)
    })
}

fn route(message: route::Route, around: &mut Surroundings) -> Result<Route, FieldError> {
    fields!(message: route::Route,
        read: [
            name, r#match, action, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove,
        ],
        // metadata: for the control plane's own use. decorator, tracing: spans are not made here.
        // stat_prefix: only names counters. Buffer limits: as for a virtual host.
        ignore: [
            metadata, decorator, tracing, stat_prefix, per_request_buffer_limit_bytes,
            request_body_buffer_limit,
        ],
        refuse: [typed_per_filter_config, route_specifiers]);
    let condition = condition::compile(required(r#match, "match")?).at("match")?;
    let action = action::compile(required(action, "action")?, around)?;
    let mutations = Mutations {
        request: mutations(
            (request_headers_to_add, "request_headers_to_add"),
            (request_headers_to_remove, "request_headers_to_remove"),
        )?,
        response: mutations(
            (response_headers_to_add, "response_headers_to_add"),
            (response_headers_to_remove, "response_headers_to_remove"),
        )?,
    };
    Ok(Route { name: name.into(), action, condition, mutations })
}
