//! Taken so that Envoy configurations that have it serve here: gRPC calls are counted anyway.
//!
//! API: `envoy.extensions.filters.http.grpc_stats.v3.FilterConfig`.

use std::convert::Infallible;

use xds_proto::envoy::extensions::filters::http::grpc_stats::v3 as api;
use xds_proto::field::FieldError;
use xds_proto::fields;

use super::HttpFilter;

/// Does nothing.
#[derive(Debug)]
pub struct GrpcStats;

impl HttpFilter for GrpcStats {
    type Config = api::FilterConfig;
    type RouteConfig = Self::Config;
    type Route = Infallible;
    const IS_FOR_ROUTES: bool = false;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::FilterConfig,
            read: [],
            // All of it says which statistics Envoy keeps under which names.
            ignore: [
                emit_filter_state, enable_upstream_stats, replace_dots_in_grpc_service_name,
                per_method_stat_specifier,
            ],
            refuse: [],
        );
        Ok(Self)
    }
}
