//! Compiles a `VirtualHost` and its routes.

use std::sync::Arc;

use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::config::route::v3::virtual_host::TlsRequirementType;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use super::around::{Inherited, Surroundings};
use super::{action, condition, mirror, retry};
use crate::filtering::rate_limit;
use crate::format::compile::mutations;
use crate::route::Mutations;
use crate::route::virtual_host::{RequireTls, Route, VirtualHost};

/// Compiles a virtual host.
///
/// # Errors
/// The first field that is wrong or not supported, with its path.
pub(super) fn compile(
    message: route::VirtualHost,
    inherited: &Inherited,
) -> Result<VirtualHost, FieldError> {
    fields!(message: route::VirtualHost,
    read: [
        name, domains, routes, require_tls, retry_policy, request_headers_to_add,
        request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
        include_request_attempt_count, include_attempt_count_in_response,
        request_mirror_policies, typed_per_filter_config, rate_limits,
    ],
    // virtual_clusters: only counters. metadata: for the control plane's own use.
    // The buffer limits bound what is kept for a retry; only requests without a body are.
    ignore: [
        virtual_clusters, metadata, per_request_buffer_limit_bytes, request_body_buffer_limit,
    ],
    refuse: [
        matcher, cors, retry_policy_typed_config, hedge_policy, include_is_timeout_retry_header,
        route_specifiers,
    ]);
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
    let mut number = 0_usize;
    let routes = each(routes, "routes", |message| {
        number += 1;
        route(message, number, &mut around)
    })?;
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
        domains: domains.into_iter().map(String::into_boxed_str).collect(),
        clusters: around.cluster_names.into(),
        overrides: around.overrides,
        include_request_attempt_count,
        include_attempt_count_in_response,
        require_tls,
        mutations,
        rate_limits: each(rate_limits, "rate_limits", rate_limit::compile)?.into(),
        ..VirtualHost::new(name, routes)
    })
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
        ],
        // metadata: for the control plane's own use. decorator, tracing: spans are not made here.
        // stat_prefix: only names counters. Buffer limits: as for a virtual host.
        ignore: [
            metadata, decorator, tracing, stat_prefix, per_request_buffer_limit_bytes,
            request_body_buffer_limit,
        ],
        refuse: [route_specifiers]);
    let condition = condition::compile(required(r#match, "match")?).at("match")?;
    let (condition, template) = condition;
    around.template = template;
    let id = || if name.is_empty() { format!("#{number}") } else { name.clone() };
    let outer = around.filters;
    let filters = around.filters(typed_per_filter_config, id)?;
    (around.filters, around.route) = (filters, number);
    let action = action::compile(required(action, "action")?, around)?;
    around.filters = outer;
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
    Ok(Route { name: name.into(), action, condition, mutations, filters })
}
