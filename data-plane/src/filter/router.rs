//! The end of every chain: what forwards requests. The proxy does it; this is what it was told.
//!
//! API: `envoy.extensions.filters.http.router.v3.Router`.

use xds_proto::envoy::extensions::filters::http::router::v3 as api;
use xds_proto::field::FieldError;
use xds_proto::fields;

/// What the router was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Router {
    /// Add no `x-envoy-` headers to requests and responses.
    pub suppress_envoy_headers: bool,
}

/// Compiles the router.
///
/// # Errors
/// The first field that is not implemented.
pub fn compile(config: api::Router) -> Result<Router, FieldError> {
    fields!(config: api::Router,
        read: [suppress_envoy_headers],
        // Statistics and spans that this proxy does not keep; an early CONNECT is always refused.
        ignore: [
            dynamic_stats, start_child_span, suppress_grpc_request_failure_code_stats,
            upstream_log_options, reject_connect_request_early_data,
        ],
        refuse: [
            upstream_log, strict_check_headers, respect_expected_rq_timeout,
            upstream_http_filters,
        ],
    );
    Ok(Router { suppress_envoy_headers })
}
