//! An `HttpConnectionManager` to what a filter chain does with its connections.

mod extensions;
mod filters;
pub(crate) mod local_reply;
mod options;

use std::sync::Arc;

use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use super::access_log;
use super::source::reference;
use crate::listener::{HttpConfig, RouteSource};

/// Compiles an HTTP connection manager.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub(super) fn compile(mut message: HttpConnectionManager) -> Result<HttpConfig, FieldError> {
    let routes = routes(message.route_specifier.take())?;
    let filters = filters::compile(std::mem::take(&mut message.http_filters))?;
    let logs = each(std::mem::take(&mut message.access_log), "access_log", access_log::compile)?;
    let local_replies = message.local_reply_config.take().map(local_reply::compile).transpose();
    let local_replies = local_replies.at("local_reply_config")?.unwrap_or_default();
    let options = options::compile(message)?;
    Ok(HttpConfig { options, routes, filters, logs: logs.into(), local_replies })
}

fn routes(specifier: Option<RouteSpecifier>) -> Result<RouteSource, FieldError> {
    match required(specifier, "route_specifier")? {
        RouteSpecifier::Rds(rds) => {
            fields!(rds: Rds,
                read: [route_config_name, config_source],
                ignore: [],
                refuse: [],
            );
            let name = required_text(route_config_name, "route_config_name").at("rds")?;
            let source = required(config_source, "config_source").at("rds")?;
            let routes = reference(name, source).at("config_source").at("rds")?;
            Ok(RouteSource::Named(routes))
        }
        RouteSpecifier::RouteConfig(message) => {
            let table = super::route::compile(message).at("route_config")?;
            Ok(RouteSource::Inline(Arc::new(table)))
        }
        RouteSpecifier::ScopedRoutes(message) => {
            let scoped = super::scopes::of_manager(message).at("scoped_routes")?;
            Ok(RouteSource::Scoped(Arc::new(scoped)))
        }
    }
}
