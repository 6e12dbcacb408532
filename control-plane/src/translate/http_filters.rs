//! The filters of every HTTP connection manager. All but the router stand there switched off, and are
//! switched on by the routes that use them: so a listener stays as it is whatever routes ask for.

use prost::{Message, Name};
use xds_proto::envoy::extensions::filters::http::cors::v3::Cors;
use xds_proto::envoy::extensions::filters::http::router::v3::Router;
use xds_proto::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};

use crate::translate::envoy::any;

/// Answers preflight requests.
pub(super) const CORS: &str = "envoy.filters.http.cors";
/// Keeps sessions at their endpoints.
pub(super) const STATEFUL_SESSION: &str = "envoy.filters.http.stateful_session";
/// Forwards requests.
const ROUTER: &str = "envoy.filters.http.router";

/// The filters, in the order in which requests pass them.
pub(super) fn all() -> Vec<HttpFilter> {
    vec![
        off(CORS, &Cors::default()),
        off(STATEFUL_SESSION, &StatefulSession::default()),
        HttpFilter { disabled: false, ..off(ROUTER, &Router::default()) },
    ]
}

fn off<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        disabled: true,
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}
