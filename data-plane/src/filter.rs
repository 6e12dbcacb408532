//! HTTP filters: one file each. A new filter is a new file, and its line in the table here.

pub mod router;
mod header_mutation;

use http::{Request, Response};
use prost::{Message, Name};
use xds_proto::field::{At, FieldError};
use xds_proto::google::protobuf::Any;

use crate::body::Body;
use crate::format::Context;
use crate::telemetry::why::Why;

/// A filter that compiles from one Envoy message and takes part in a request.
///
/// `compile` is pure. The hooks run per request on the worker and must not block.
pub trait HttpFilter: Sized {
    /// The Envoy message that configures the filter.
    type Config: Message + Name + Default;

    /// Turns the message into the runtime filter, or says which field is wrong.
    ///
    /// # Errors
    /// The first field that is missing, out of range or not implemented.
    fn compile(config: Self::Config) -> Result<Self, FieldError>;

    /// Runs on the way in, in chain order.
    fn on_request(
        &self,
        request: &mut Request<Body>,
        context: &Context<'_>,
    ) -> impl Future<Output = Verdict> {
        let _ = (request, context);
        std::future::ready(Verdict::Continue)
    }

    /// Runs on the way out, in reverse chain order; on the proxy's own replies too.
    fn on_response(
        &self,
        response: &mut Response<Body>,
        context: &Context<'_>,
    ) -> impl Future<Output = ()> {
        let _ = (response, context);
        std::future::ready(())
    }
}

/// What a filter decides about a request.
#[derive(Debug)]
pub enum Verdict {
    /// Hand the request to the next filter.
    Continue,
    /// Answer now, without an upstream.
    Reply(Why, Box<Response<Body>>),
}

macro_rules! filters {
    ($($module:ident::$Filter:ident),+ $(,)?) => {
        /// Every filter this proxy knows.
        #[derive(Debug)]
        #[expect(missing_docs, reason = "each variant is documented by its own file")]
        pub enum Filter { $($Filter($module::$Filter)),+ }

        /// Whether there is a filter that this message configures.
        pub fn is_known(type_url: &str) -> bool {
            $(type_url == <$module::$Filter as HttpFilter>::Config::type_url())||+
        }

        /// Compiles a filter from its packed config.
        ///
        /// # Errors
        /// An unknown type URL, undecodable bytes, or a field that is wrong.
        pub fn compile(config: &Any) -> Result<Filter, FieldError> {
            $(if config.type_url == <$module::$Filter as HttpFilter>::Config::type_url() {
                let config = <$module::$Filter as HttpFilter>::Config::decode(config.value.as_slice())
                    .map_err(|error| FieldError::invalid(error.to_string()))?;
                return $module::$Filter::compile(config).map(Filter::$Filter);
            })+
            let name = config.type_url.rsplit('/').next().unwrap_or_default();
            Err(FieldError::invalid(format!("unknown filter {name:?}"))).at("type_url")
        }

        impl Filter {
            async fn on_request(&self, request: &mut Request<Body>, context: &Context<'_>) -> Verdict {
                match self { $(Self::$Filter(filter) => filter.on_request(request, context).await),+ }
            }

            async fn on_response(&self, response: &mut Response<Body>, context: &Context<'_>) {
                match self { $(Self::$Filter(filter) => filter.on_response(response, context).await),+ }
            }
        }
    };
}

filters! {
    header_mutation::HeaderMutation,
}

/// The filters of a chain in order, the router apart: it is the proxy itself.
#[derive(Debug, Default)]
pub struct Chain {
    filters: Box<[Filter]>,
    /// What the router at the end was told.
    pub router: router::Router,
}

impl Chain {
    /// A chain that runs `filters` in order and ends in `router`.
    pub fn new(filters: Vec<Filter>, router: router::Router) -> Self {
        Self { filters: filters.into(), router }
    }

    /// Runs the chain on the way in; stops at the first reply. Gives how many filters have run.
    pub async fn on_request(
        &self,
        request: &mut Request<Body>,
        context: &Context<'_>,
    ) -> (usize, Verdict) {
        for (index, filter) in self.filters.iter().enumerate() {
            if let verdict @ Verdict::Reply(..) = filter.on_request(request, context).await {
                return (index + 1, verdict);
            }
        }
        (self.filters.len(), Verdict::Continue)
    }

    /// Runs the first `ran` filters on the way out, last filter first.
    pub async fn on_response(
        &self,
        ran: usize,
        response: &mut Response<Body>,
        context: &Context<'_>,
    ) {
        for filter in self.filters.iter().take(ran).rev() {
            filter.on_response(response, context).await;
        }
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }
}
