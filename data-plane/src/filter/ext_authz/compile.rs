//! Compiles `ExtAuthz` and what routes say of it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use xds_proto::convert::{duration, optional_duration};
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use xds_proto::envoy::config::core::v3::http_uri::HttpUpstreamType;
use xds_proto::envoy::extensions::filters::http::ext_authz::v3 as api;
use xds_proto::envoy::extensions::filters::http::ext_authz::v3::check_settings::ServiceOverride;
use xds_proto::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use xds_proto::envoy::extensions::filters::http::ext_authz::v3::ext_authz_per_route::Override;
use xds_proto::envoy::r#type::matcher::v3::ListStringMatcher;
use xds_proto::field::{At, FieldError, required, required_text};
use xds_proto::fields;

use super::grpc::GrpcService;
use super::http_service::HttpService;
use super::{BodySettings, Check, ExtAuthz, RouteAuthz, Service, ServiceKind, Settings};
use crate::filtering::header_rules::HeaderRules;
use crate::format::compile::mutations;
use crate::format::mutation::HeaderMutations;
use crate::matcher::StringMatcher;
use crate::matcher::compile::{fraction, metadata, strings};
use crate::retry::{BackOff, RetryOn, RetryPolicy};

/// How long a gRPC service may take when nothing is said.
const GRPC_TIMEOUT: Duration = Duration::from_millis(200);

/// After what an HTTP service is asked again when nothing is said.
const RETRY_ON: &str = "5xx,gateway-error,connect-failure,reset";

type Matchers = Box<[StringMatcher]>;

pub(super) fn compile(config: api::ExtAuthz) -> Result<ExtAuthz, FieldError> {
    fields!(config: api::ExtAuthz,
        read: [
            failure_mode_allow, failure_mode_allow_header_add, with_request_body,
            clear_route_cache, status_on_error, metadata_context_namespaces, filter_enabled,
            deny_at_disable, include_peer_certificate, allowed_headers, disallowed_headers,
            include_tls_session, max_denied_response_body_bytes, services, filter_enabled_metadata,
            encode_raw_headers, decoder_header_mutation_rules, enable_dynamic_metadata_ingestion,
            validate_mutations,
        ],
        // The rest names statistics or spans. transport_api_version: there is only v3.
        // typed_metadata_context_namespaces: no filter here leaves typed metadata.
        ignore: [
            transport_api_version, stat_prefix, charge_cluster_response_stats,
            emit_filter_state_stats, filter_metadata, emit_client_span,
            typed_metadata_context_namespaces,
        ],
        refuse: [
            route_metadata_context_namespaces, route_typed_metadata_context_namespaces,
            bootstrap_metadata_labels_key, enforce_response_header_limits, shadow_mode,
        ],
    );
    let service = match services {
        None => None,
        Some(Services::GrpcService(message)) => Some(grpc(message).at("grpc_service")?),
        Some(Services::HttpService(message)) => Some(http(message).at("http_service")?),
    };
    let status = status_on_error.map_or(403, |status| status.code);
    let enabled = filter_enabled.map(fraction).transpose().at("filter_enabled")?;
    let denies_others = deny_at_disable.and_then(|flag| flag.default_value);
    let settings = Settings {
        fails_open: failure_mode_allow,
        says_failure: failure_mode_allow_header_add,
        status_on_error: u16::try_from(status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .ok_or_else(|| FieldError::invalid("unknown value"))
            .at("status_on_error")?,
        clears_route: clear_route_cache,
        enabled: enabled.unwrap_or(1_000_000),
        denies_others: denies_others.is_some_and(|denies| denies.value),
        allowed: list(allowed_headers, "allowed_headers")?,
        disallowed: list(disallowed_headers, "disallowed_headers")?.unwrap_or_default(),
        says_certificate: include_peer_certificate,
        says_tls: include_tls_session,
        namespaces: metadata_context_namespaces.into_iter().map(Into::into).collect(),
        denied_body_bytes_max: match max_denied_response_body_bytes {
            0 => usize::MAX,
            max => usize::try_from(max).unwrap_or(usize::MAX),
        },
        enabled_by: filter_enabled_metadata
            .map(metadata)
            .transpose()
            .at("filter_enabled_metadata")?,
        takes_metadata: enable_dynamic_metadata_ingestion.is_none_or(|flag| flag.value),
        is_raw: encode_raw_headers,
        is_strict: validate_mutations,
        rules: decoder_header_mutation_rules
            .map(HeaderRules::compile)
            .transpose()
            .at("decoder_header_mutation_rules")?
            .unwrap_or_default(),
    };
    Ok(ExtAuthz {
        settings: Arc::new(settings),
        service: service.map(Arc::new),
        body: with_request_body.map(body).transpose().at("with_request_body")?,
        extensions: Arc::default(),
        cluster: None,
    })
}

pub(super) fn route(config: api::ExtAuthzPerRoute) -> Result<RouteAuthz, FieldError> {
    match required(config.r#override, "override")? {
        Override::Disabled(true) => Ok(RouteAuthz::Disabled),
        // It turns on a filter that is off.
        Override::Disabled(false) => Ok(RouteAuthz::Check(Box::default())),
        Override::CheckSettings(message) => check(message).at("check_settings"),
    }
}

fn check(message: api::CheckSettings) -> Result<RouteAuthz, FieldError> {
    fields!(message: api::CheckSettings,
        read: [
            context_extensions, disable_request_body_buffering, with_request_body,
            service_override,
        ],
        // Nothing is traced.
        ignore: [emit_client_span],
        refuse: []);
    if disable_request_body_buffering && with_request_body.is_some() {
        let error = FieldError::invalid("cannot go with disable_request_body_buffering");
        return Err(error).at("with_request_body");
    }
    let service = match service_override {
        None => None,
        Some(ServiceOverride::GrpcService(message)) => Some(grpc(message).at("grpc_service")?),
        Some(ServiceOverride::HttpService(message)) => Some(http(message).at("http_service")?),
    };
    Ok(RouteAuthz::Check(Box::new(Check {
        extensions: context_extensions.into_iter().collect(),
        has_no_body: disable_request_body_buffering,
        body: with_request_body.map(body).transpose().at("with_request_body")?,
        service: service.map(Arc::new),
    })))
}

fn body(message: api::BufferSettings) -> Result<BodySettings, FieldError> {
    fields!(message: api::BufferSettings,
        read: [max_request_bytes, allow_partial_message, pack_as_bytes], ignore: [], refuse: []);
    if max_request_bytes == 0 {
        return Err(FieldError::invalid("must be above 0")).at("max_request_bytes");
    }
    Ok(BodySettings {
        bytes_max: usize::try_from(max_request_bytes).unwrap_or(usize::MAX),
        takes_part: allow_partial_message,
        is_raw: pack_as_bytes,
    })
}

fn grpc(message: core::GrpcService) -> Result<Service, FieldError> {
    fields!(message: core::GrpcService,
        read: [timeout, initial_metadata, retry_policy, target_specifier],
        ignore: [],
        refuse: []);
    let target = match required(target_specifier, "target_specifier")? {
        TargetSpecifier::EnvoyGrpc(target) => target,
        TargetSpecifier::GoogleGrpc(_) => return Err(FieldError::unsupported()).at("google_grpc"),
    };
    fields!(target: EnvoyGrpc,
        read: [cluster_name, authority],
        // Answers have a limit of their own; the headers say nothing that the service decides by.
        ignore: [max_receive_message_length, skip_envoy_headers],
        refuse: [retry_policy]);
    let cluster = required_text(cluster_name, "cluster_name").at("envoy_grpc")?;
    let authority = if authority.is_empty() { &cluster } else { &authority };
    let authority = HeaderValue::from_str(authority)
        .map_err(|_| FieldError::invalid("has bytes that no header may have"))
        .at("authority")
        .at("envoy_grpc")?;
    let timeout = optional_duration(timeout.as_ref(), "timeout")?.unwrap_or(GRPC_TIMEOUT);
    let metadata = added(initial_metadata, "initial_metadata")?;
    let kind = ServiceKind::Grpc(GrpcService { authority, metadata });
    let retry = retry_policy.map(|policy| self::retry(policy, "")).transpose();
    Ok(Service { cluster: cluster.into(), timeout, retry: retry.at("retry_policy")?, kind })
}

fn http(message: api::HttpService) -> Result<Service, FieldError> {
    fields!(message: api::HttpService,
        read: [
            server_uri, path_prefix, path_override, authorization_request, authorization_response,
            retry_policy,
        ],
        ignore: [],
        refuse: []);
    let uri = required(server_uri, "server_uri")?;
    fields!(uri: core::HttpUri,
        read: [timeout, http_upstream_type],
        // Which endpoint it is, the cluster says.
        ignore: [uri],
        refuse: []);
    let HttpUpstreamType::Cluster(cluster) =
        required(http_upstream_type, "http_upstream_type").at("server_uri")?;
    let cluster = required_text(cluster, "cluster").at("server_uri")?;
    let timeout = duration(&required(timeout, "timeout").at("server_uri")?);
    let timeout = timeout.at("timeout").at("server_uri")?;
    for (path, field) in [(&path_prefix, "path_prefix"), (&path_override, "path_override")] {
        if !path.is_empty() && !path.starts_with('/') {
            return Err(FieldError::invalid("must begin with /")).at(field);
        }
    }
    let request = authorization_request.unwrap_or_default();
    fields!(request: api::AuthorizationRequest,
        read: [allowed_headers, headers_to_add], ignore: [], refuse: []);
    let shown = list(allowed_headers, "allowed_headers").at("authorization_request")?;
    let add = added(headers_to_add, "headers_to_add").at("authorization_request")?;
    let response = authorization_response.unwrap_or_default();
    let service = response_rules(response).at("authorization_response")?;
    let service = HttpService {
        path_prefix: path_prefix.into(),
        path_override: (!path_override.is_empty()).then(|| path_override.into()),
        shown,
        add,
        ..service
    };
    let retry = retry_policy.map(|policy| self::retry(policy, RETRY_ON)).transpose();
    let retry = retry.at("retry_policy")?;
    Ok(Service { cluster: cluster.into(), timeout, retry, kind: ServiceKind::Http(service) })
}

/// When a service is asked again; `default` where the policy does not say after what.
fn retry(message: core::RetryPolicy, default: &str) -> Result<RetryPolicy, FieldError> {
    fields!(message: core::RetryPolicy,
        read: [retry_on, num_retries, retry_back_off],
        // Another endpoint is tried in any case, where there is one.
        ignore: [retry_host_predicate, host_selection_retry_max_attempts],
        refuse: [retry_priority]);
    let on = if retry_on.is_empty() { default } else { &retry_on };
    Ok(RetryPolicy {
        on: RetryOn::parse(on).at("retry_on")?,
        retries: num_retries.map_or(1, |number| number.value),
        back_off: retry_back_off
            .map(back_off)
            .transpose()
            .at("retry_back_off")?
            .unwrap_or_default(),
        ..RetryPolicy::default()
    })
}

fn back_off(message: core::BackoffStrategy) -> Result<BackOff, FieldError> {
    fields!(message: core::BackoffStrategy,
        read: [base_interval, max_interval], ignore: [], refuse: []);
    let base = duration(&required(base_interval, "base_interval")?).at("base_interval")?;
    BackOff::new(base, optional_duration(max_interval.as_ref(), "max_interval")?)
}

/// What of the answer is passed on; the caller sets the rest.
fn response_rules(message: api::AuthorizationResponse) -> Result<HttpService, FieldError> {
    fields!(message: api::AuthorizationResponse,
        read: [
            allowed_upstream_headers, allowed_upstream_headers_to_append, allowed_client_headers,
            allowed_client_headers_on_success, dynamic_metadata_from_headers,
        ],
        ignore: [],
        refuse: []);
    let lines = |message, field| Ok(list(message, field)?.unwrap_or_default());
    let append = "allowed_upstream_headers_to_append";
    Ok(HttpService {
        path_prefix: "".into(),
        path_override: None,
        shown: None,
        add: HeaderMutations::default(),
        upstream: lines(allowed_upstream_headers, "allowed_upstream_headers")?,
        upstream_append: lines(allowed_upstream_headers_to_append, append)?,
        client_denied: list(allowed_client_headers, "allowed_client_headers")?,
        client_allowed: lines(
            allowed_client_headers_on_success,
            "allowed_client_headers_on_success",
        )?,
        metadata: lines(dynamic_metadata_from_headers, "dynamic_metadata_from_headers")?,
    })
}

fn list(
    message: Option<ListStringMatcher>,
    field: &'static str,
) -> Result<Option<Matchers>, FieldError> {
    message.map(strings).transpose().at(field)
}

/// Headers that replace others of their name.
fn added(
    headers: Vec<core::HeaderValue>,
    field: &'static str,
) -> Result<HeaderMutations, FieldError> {
    use core::header_value_option::HeaderAppendAction;
    let option = |header| core::HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..core::HeaderValueOption::default()
    };
    mutations((headers.into_iter().map(option).collect(), field), (Vec::new(), ""))
}
