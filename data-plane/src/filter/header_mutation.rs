//! Sets or removes headers, trailers and query parameters of requests and responses.
//!
//! API: `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`.

mod compile;
mod trailers;

use http::{Request, Response};
use xds_proto::envoy::extensions::filters::http::header_mutation::v3 as api;
use xds_proto::field::FieldError;

use self::trailers::Changed;
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::header_change::HeaderChange;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::query::Query;
use crate::filtering::stage::Stage;
use crate::format::mutation::{AppendAction, Side};
use crate::format::{Context, Template};

/// Changes, in order.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutation {
    request: Vec<HeaderChange>,
    query: Vec<QueryChange>,
    request_trailers: Vec<HeaderChange>,
    response: Vec<HeaderChange>,
    response_trailers: Vec<HeaderChange>,
    /// Whether what a route says comes after what is said around it, and so wins.
    most_specific_wins: bool,
}

/// A change of query parameters.
#[derive(Debug, Clone)]
enum QueryChange {
    Remove(Box<str>),
    Put { name: Box<str>, value: Template, action: AppendAction },
}

impl HttpFilter for HeaderMutation {
    type Config = api::HeaderMutation;
    type RouteConfig = api::HeaderMutationPerRoute;
    type Route = Self;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        compile::compile(config)
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self, FieldError> {
        compile::route(config)
    }

    /// First what the listener says, then what all levels of the route say, in Envoy's order.
    fn link(&self, routes: &[&Self], _: &mut Linker<'_>) -> Linked<Self> {
        let mut linked = self.clone();
        if self.most_specific_wins {
            routes.iter().for_each(|route| linked.add(route));
        } else {
            routes.iter().rev().for_each(|route| linked.add(route));
        }
        if routes.is_empty() { Linked::Same } else { Linked::New(linked) }
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        let context = stage.context();
        for change in &self.request {
            change.apply(request.headers_mut(), Side::Request, &context);
        }
        if !self.query.is_empty() {
            let headers = request.headers().clone();
            let context = Context { request_headers: Some(&headers), ..context };
            Query::change(request, |query| {
                self.query.iter().for_each(|change| change.apply(query, &context));
            });
        }
        if !self.request_trailers.is_empty() {
            let context = Context { request_headers: Some(request.headers()), ..context };
            let changes = self.request_trailers.iter().map(|one| one.fixed(&context)).collect();
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = body.wrapped(|body| Changed::new(body, changes, Side::Request));
        }
        Verdict::Continue
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let context = stage.context();
        for change in &self.response {
            change.apply(response.headers_mut(), Side::Response, &context);
        }
        if !self.response_trailers.is_empty() && !response.body().is_empty() {
            let context = Context { response_headers: Some(response.headers()), ..context };
            let changes = self.response_trailers.iter().map(|one| one.fixed(&context)).collect();
            let body = std::mem::take(response.body_mut());
            *response.body_mut() = body.wrapped(|body| Changed::new(body, changes, Side::Response));
        }
    }
}

impl HeaderMutation {
    fn add(&mut self, route: &Self) {
        self.request.extend(route.request.iter().cloned());
        self.query.extend(route.query.iter().cloned());
        self.request_trailers.extend(route.request_trailers.iter().cloned());
        self.response.extend(route.response.iter().cloned());
        self.response_trailers.extend(route.response_trailers.iter().cloned());
    }
}

impl QueryChange {
    fn apply(&self, query: &mut Query, context: &Context<'_>) {
        let (name, template, action) = match self {
            Self::Remove(name) => return query.remove(name),
            Self::Put { name, value, action } => (name, value, action),
        };
        let mut value = String::new();
        template.render(context, &mut value);
        match action {
            AppendAction::AppendIfExistsOrAdd => query.add(name, &value),
            AppendAction::AddIfAbsent if query.has(name) => {}
            AppendAction::AddIfAbsent => query.add(name, &value),
            AppendAction::OverwriteIfExistsOrAdd => query.set(name, &value),
            AppendAction::OverwriteIfExists if !query.has(name) => {}
            AppendAction::OverwriteIfExists => query.set(name, &value),
        }
    }
}

#[cfg(test)]
mod tests;
