//! Compiles a `VirtualHost` and its routes.

use std::sync::Arc;

use bytes::Bytes;
use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::config::route::v3::virtual_host::TlsRequirementType;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::{UInt32Value, UInt64Value};

use super::around::{Inherited, Surroundings};
use super::known::Known;
use super::{action, both_ways, condition, decode_route, mirror, retry};
use crate::body::kept::KEPT_BYTES_MAX;
use crate::filtering::rate_limit;
use crate::route::virtual_host::{RequireTls, Route, VirtualHost};

/// Compiles a virtual host. Its routes come one after the other: decoded at once, tens of thousands
/// of them take a hundred times the memory.
///
/// # Errors
/// The first field that is wrong or not supported, with its path.
pub(super) fn compile(
    message: route::VirtualHost,
    routes: impl Iterator<Item = Result<route::Route, FieldError>>,
    inherited: &Inherited,
) -> Result<VirtualHost, FieldError> {
    let (host, mut around) = outside(message, inherited)?;
    let mut compiled = Vec::with_capacity(routes.size_hint().0);
    for (index, message) in routes.enumerate() {
        let route = message.and_then(|message| route(message, index + 1, &mut around));
        compiled.push(Arc::new(route.at_index(index).at("routes")?));
    }
    Ok(around_routes(host, around, None, compiled))
}

/// Compiles a virtual host that was there before in the same surroundings, and shares routes with
/// that. None where nothing can be shared, since what routes name has changed.
///
/// # Errors
/// As [`compile`].
pub(super) fn compile_changed(
    message: route::VirtualHost,
    routes: &[Bytes],
    inherited: &Inherited,
    known: &Known,
) -> Result<Option<VirtualHost>, FieldError> {
    let (host, mut around) = outside(message, inherited)?;
    // What routes say of filters lies in the order of the routes.
    if known.host.overrides.sets().len() != around.overrides.sets().len() {
        return Ok(None);
    }
    // Routes know clusters by their places.
    for cluster in known.host.cluster_names() {
        around.cluster(cluster.to_string())?;
    }
    let shared = known.share(routes);
    let mut compiled = Vec::with_capacity(routes.len());
    for (index, (encoded, same)) in routes.iter().zip(&shared.same).enumerate() {
        compiled.push(match same {
            Some(same) => Arc::clone(same),
            None => {
                let message = decode_route(encoded);
                let route = message.and_then(|message| route(message, index + 1, &mut around));
                Arc::new(route.at_index(index).at("routes")?)
            }
        });
    }
    if shared.loses_a_cluster(&compiled) {
        return Ok(None);
    }
    Ok(Some(around_routes(host, around, Some(&known.host), compiled)))
}

/// All of a virtual host but its routes, and what is around these.
fn outside(
    message: route::VirtualHost,
    inherited: &Inherited,
) -> Result<(VirtualHost, Surroundings), FieldError> {
    fields!(message: route::VirtualHost,
    read: [
        name, domains, routes, require_tls, retry_policy, request_headers_to_add,
        request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
        include_request_attempt_count, include_attempt_count_in_response,
        request_mirror_policies, typed_per_filter_config, rate_limits,
        per_request_buffer_limit_bytes, request_body_buffer_limit,
    ],
    // virtual_clusters: only counters. metadata: for the control plane's own use.
    ignore: [virtual_clusters, metadata],
    refuse: [
        matcher, cors, retry_policy_typed_config, hedge_policy, include_is_timeout_retry_header,
        route_specifiers,
    ]);
    let _compiled_apart = routes;
    let name: Arc<str> = required_text(name, "name")?.into();
    if domains.is_empty() {
        return Err(FieldError::required()).at("domains");
    }
    let require_tls = match TlsRequirementType::try_from(require_tls) {
        Ok(TlsRequirementType::None) => RequireTls::None,
        Ok(TlsRequirementType::ExternalOnly) => RequireTls::ExternalOnly,
        Ok(TlsRequirementType::All) => RequireTls::All,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("require_tls"),
    };
    let mut around = Surroundings::of_host(inherited)?;
    around.retry = retry_policy.map(retry::compile).transpose().at("retry_policy")?.map(Arc::new);
    let mirrors = Arc::clone(&around.mirrors);
    around.mirrors = mirror::compile(request_mirror_policies, &mut around, &mirrors)?;
    around.filters = around.filters(typed_per_filter_config, || name.to_string())?;
    around.place = Arc::clone(&name);
    around.kept_bytes_max =
        kept_bytes_max(request_body_buffer_limit, per_request_buffer_limit_bytes, KEPT_BYTES_MAX);
    let mutations = both_ways(
        (request_headers_to_add, request_headers_to_remove),
        (response_headers_to_add, response_headers_to_remove),
    )?;
    let host = VirtualHost {
        domains: domains.into_iter().map(String::into_boxed_str).collect(),
        include_request_attempt_count,
        include_attempt_count_in_response,
        require_tls,
        mutations,
        rate_limits: each(rate_limits, "rate_limits", rate_limit::compile)?.into(),
        ..VirtualHost::new(name, Vec::new())
    };
    Ok((host, around))
}

fn around_routes(
    host: VirtualHost,
    around: Surroundings,
    previous: Option<&VirtualHost>,
    routes: Vec<Arc<Route>>,
) -> VirtualHost {
    let VirtualHost { has_cluster_header, routes, index, .. } =
        VirtualHost::following(previous, Arc::clone(&host.name), routes);
    VirtualHost {
        clusters: around.cluster_names.into(),
        overrides: around.overrides,
        has_cluster_header,
        routes,
        index,
        ..host
    }
}

/// How much of a request is kept for a retry. The older field cannot ask for more than there is anyway.
fn kept_bytes_max(limit: Option<UInt64Value>, old: Option<UInt32Value>, inherited: usize) -> usize {
    match (limit, old) {
        (Some(limit), _) => usize::try_from(limit.value).unwrap_or(usize::MAX),
        (None, Some(old)) => KEPT_BYTES_MAX.min(old.value as usize),
        (None, None) => inherited,
    }
}

/// `number` names routes that have no name.
fn route(
    message: route::Route,
    number: usize,
    around: &mut Surroundings,
) -> Result<Route, FieldError> {
    fields!(message: route::Route,
        read: [
            name, r#match, action, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, typed_per_filter_config,
            per_request_buffer_limit_bytes, request_body_buffer_limit,
        ],
        // metadata: for the control plane's own use. decorator, tracing: spans are not made here.
        // stat_prefix: only names counters.
        ignore: [metadata, decorator, tracing, stat_prefix],
        refuse: [route_specifiers]);
    let condition = condition::compile(required(r#match, "match")?).at("match")?;
    let (condition, template) = condition;
    around.template = template;
    let id = || if name.is_empty() { format!("#{number}") } else { name.clone() };
    let outer = around.filters;
    let filters = around.filters(typed_per_filter_config, id)?;
    (around.filters, around.route) = (filters, number);
    let hosts = around.kept_bytes_max;
    around.kept_bytes_max =
        kept_bytes_max(request_body_buffer_limit, per_request_buffer_limit_bytes, hosts);
    let action = action::compile(required(action, "action")?, around)?;
    (around.filters, around.kept_bytes_max) = (outer, hosts);
    let mutations = both_ways(
        (request_headers_to_add, request_headers_to_remove),
        (response_headers_to_add, response_headers_to_remove),
    )?;
    let name = if name.is_empty() { Arc::clone(&around.nameless) } else { name.into() };
    Ok(Route { name, action, condition, mutations, filters })
}
