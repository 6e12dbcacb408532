//! HTTP filters: one file each. A new filter is a new file, and its line in the table here.

pub mod router;
mod buffer;
mod compressor;
mod cors;
mod csrf;
mod ext_authz;
mod fault;
mod grpc_stats;
mod grpc_web;
mod header_mutation;
mod health_check;
mod local_ratelimit;
mod lua;
mod on_demand;
pub mod rbac;
mod stateful_session;

use std::sync::Arc;

use http::{Request, Response};
use prost::{Message, Name};
use xds_proto::field::{At, FieldError};
use xds_proto::google::protobuf::Any;

use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;

/// A filter that compiles from one Envoy message and takes part in a request.
///
/// `compile`, `compile_route` and `link` are pure. The hooks run per request on the worker and must
/// not block.
pub trait HttpFilter: Sized {
    /// The Envoy message that configures the filter.
    type Config: Message + Name + Default;
    /// The message that a virtual host, a route or one of its clusters may configure it with. A
    /// filter that has none names its own configuration here.
    type RouteConfig: Message + Name + Default;
    /// That message, compiled; [`Infallible`](std::convert::Infallible) where there is none.
    type Route;
    /// Whether there is such a message.
    const IS_FOR_ROUTES: bool = true;

    /// Turns the message into the runtime filter, or says which field is wrong.
    ///
    /// # Errors
    /// The first field that is missing, out of range or not implemented.
    fn compile(config: Self::Config) -> Result<Self, FieldError>;

    /// Turns what a route says into what [`Self::link`] takes.
    ///
    /// # Errors
    /// The first field that is missing, out of range or not implemented.
    fn compile_route(config: Self::RouteConfig) -> Result<Self::Route, FieldError> {
        let _ = config;
        Err(FieldError::invalid("a route cannot configure this filter"))
    }

    /// The clusters that it asks by itself, of its own configuration and of what a route says.
    fn clusters(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    /// The clusters that what a route says has it ask.
    fn route_clusters(route: &Self::Route) -> Vec<Arc<str>> {
        let _ = route;
        Vec::new()
    }

    /// Joins the filter with what routes say of it, least specific first, with clusters and with
    /// what it kept so far.
    fn link(&self, routes: &[&Self::Route], linker: &mut Linker<'_>) -> Linked<Self> {
        let _ = (routes, linker);
        Linked::Same
    }

    /// Runs on the way in, in chain order.
    fn on_request(
        &self,
        request: &mut Request<Body>,
        stage: &mut Stage<'_>,
    ) -> impl Future<Output = Verdict> {
        let _ = (request, stage);
        std::future::ready(Verdict::Continue)
    }

    /// Runs on the way out, in reverse chain order; on the proxy's own replies too, even where the
    /// request did not come as far as this filter.
    fn on_response(
        &self,
        response: &mut Response<Body>,
        stage: &mut Stage<'_>,
    ) -> impl Future<Output = ()> {
        let _ = (response, stage);
        std::future::ready(())
    }
}

fn decode<M: Message + Default>(config: &Any) -> Result<M, FieldError> {
    M::decode(config.value.as_slice()).map_err(|error| FieldError::invalid(error.to_string()))
}

fn unknown(config: &Any) -> FieldError {
    let name = config.type_url.rsplit('/').next().unwrap_or_default();
    FieldError::invalid(format!("unknown filter {name:?}")).at("type_url")
}

macro_rules! filters {
    ($($module:ident::$Filter:ident),+ $(,)?) => {
        /// Every filter this proxy knows.
        #[derive(Debug)]
        #[expect(missing_docs, reason = "each variant is documented by its own file")]
        pub enum Filter { $($Filter($module::$Filter)),+ }

        /// What a route says of a filter.
        #[derive(Debug)]
        #[expect(missing_docs, reason = "each variant is documented by its own file")]
        pub enum RouteSetting { $($Filter(<$module::$Filter as HttpFilter>::Route)),+ }

        /// Whether there is a filter that this message configures as a whole.
        pub fn is_known(type_url: &str) -> bool {
            $(type_url == <$module::$Filter as HttpFilter>::Config::type_url())||+
        }

        /// Whether there is a filter that a route can configure with this message.
        pub fn is_known_to_routes(type_url: &str) -> bool {
            $(<$module::$Filter as HttpFilter>::IS_FOR_ROUTES
                && type_url == <$module::$Filter as HttpFilter>::RouteConfig::type_url())||+
        }

        /// Compiles a filter from its packed config.
        ///
        /// # Errors
        /// An unknown type URL, undecodable bytes, or a field that is wrong.
        pub fn compile(config: &Any) -> Result<Filter, FieldError> {
            $(if config.type_url == <$module::$Filter as HttpFilter>::Config::type_url() {
                return $module::$Filter::compile(decode(config)?).map(Filter::$Filter);
            })+
            Err(unknown(config))
        }

        /// Compiles what a route says of a filter.
        ///
        /// # Errors
        /// An unknown type URL, undecodable bytes, or a field that is wrong.
        pub fn compile_route(config: &Any) -> Result<RouteSetting, FieldError> {
            $(if config.type_url == <$module::$Filter as HttpFilter>::RouteConfig::type_url() {
                return $module::$Filter::compile_route(decode(config)?).map(RouteSetting::$Filter);
            })+
            if is_known(&config.type_url) {
                let reason = "configures the filter of a listener, not that of a route";
                return Err(FieldError::invalid(reason)).at("type_url");
            }
            Err(unknown(config))
        }

        impl RouteSetting {
            /// The clusters that it has the filter ask.
            pub fn clusters(&self) -> Vec<Arc<str>> {
                match self { $(Self::$Filter(route) => $module::$Filter::route_clusters(route)),+ }
            }
        }

        impl Filter {
            /// The clusters that it asks by itself.
            pub fn clusters(&self) -> Vec<Arc<str>> {
                match self { $(Self::$Filter(filter) => filter.clusters()),+ }
            }

            /// Joins it with what routes say of it, least specific first. What is said of another
            /// filter says nothing.
            pub fn link(&self, routes: &[&RouteSetting], linker: &mut Linker<'_>) -> Linked<Self> {
                match self { $(Self::$Filter(filter) => {
                    let routes: Vec<_> = routes.iter().filter_map(|route| match route {
                        RouteSetting::$Filter(route) => Some(route),
                        _ => None,
                    }).collect();
                    match filter.link(&routes, linker) {
                        Linked::Same => Linked::Same,
                        Linked::New(linked) => Linked::New(Self::$Filter(linked)),
                        Linked::Off => Linked::Off,
                    }
                }),+ }
            }

            /// Runs it on the way in.
            pub async fn on_request(
                &self,
                request: &mut Request<Body>,
                stage: &mut Stage<'_>,
            ) -> Verdict {
                match self { $(Self::$Filter(filter) => filter.on_request(request, stage).await),+ }
            }

            /// Runs it on the way out.
            pub async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
                match self { $(Self::$Filter(filter) => filter.on_response(response, stage).await),+ }
            }
        }
    };
}

filters! {
    buffer::Buffer,
    compressor::Compressor,
    cors::Cors,
    csrf::Csrf,
    ext_authz::ExtAuthz,
    fault::Fault,
    grpc_stats::GrpcStats,
    grpc_web::GrpcWeb,
    header_mutation::HeaderMutation,
    health_check::HealthCheck,
    local_ratelimit::LocalRateLimit,
    lua::Lua,
    on_demand::OnDemand,
    rbac::Rbac,
    stateful_session::StatefulSession,
}
