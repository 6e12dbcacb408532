//! Sets or removes headers of requests and responses.
//!
//! API: `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`.

use http::{Request, Response};
use xds_proto::envoy::config::common::mutation_rules::v3::HeaderMutation as Rule;
use xds_proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use xds_proto::envoy::extensions::filters::http::header_mutation::v3 as api;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use super::{HttpFilter, Verdict};
use crate::body::Body;
use crate::format::Context;
use crate::format::compile::mutations as header_changes;
use crate::format::mutation::{HeaderMutations, Side};

/// Header changes, in order.
#[derive(Debug)]
pub struct HeaderMutation {
    request: Box<[HeaderMutations]>,
    response: Box<[HeaderMutations]>,
}

impl HttpFilter for HeaderMutation {
    type Config = api::HeaderMutation;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::HeaderMutation,
            read: [mutations],
            // Levels are compared per route, and routes refuse filter overrides.
            ignore: [most_specific_header_mutations_wins],
            refuse: [],
        );
        let mutations = mutations.unwrap_or_default();
        Self::both(mutations).at("mutations")
    }

    async fn on_request(&self, request: &mut Request<Body>, context: &Context<'_>) -> Verdict {
        for change in &self.request {
            change.apply(request.headers_mut(), Side::Request, context);
        }
        Verdict::Continue
    }

    async fn on_response(&self, response: &mut Response<Body>, context: &Context<'_>) {
        for change in &self.response {
            change.apply(response.headers_mut(), Side::Response, context);
        }
    }
}

impl HeaderMutation {
    fn both(mutations: api::Mutations) -> Result<Self, FieldError> {
        fields!(mutations: api::Mutations,
            read: [request_mutations, response_mutations],
            ignore: [],
            refuse: [
                query_parameter_mutations, response_trailers_mutations, request_trailers_mutations,
            ],
        );
        let request = each(request_mutations, "request_mutations", rule)?;
        let response = each(response_mutations, "response_mutations", rule)?;
        Ok(Self { request: request.into(), response: response.into() })
    }
}

/// One change; a list of them is applied one after the other.
fn rule(message: Rule) -> Result<HeaderMutations, FieldError> {
    match required(message.action, "action")? {
        Action::Remove(name) => header_changes((Vec::new(), "append"), (vec![name], "remove")),
        Action::Append(option) => header_changes((vec![option], "append"), (Vec::new(), "remove")),
        Action::RemoveOnMatch(_) => Err(FieldError::unsupported()).at("remove_on_match"),
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(text: &str) -> Result<HeaderMutation, String> {
        HeaderMutation::compile(from_yaml(text).unwrap()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn changes_are_made_in_order_both_ways() {
        let filter = compiled(
            "mutations:
  request_mutations:
  - append: {header: {key: x-a, value: '%REQ(x-b)%'}}
  - remove: x-b
  - append: {header: {key: x-a, value: two}, append_action: OVERWRITE_IF_EXISTS}
  response_mutations:
  - append: {header: {key: x-code, value: '%RESPONSE_CODE%'}}",
        )
        .unwrap();
        let mut request = Request::builder().header("x-b", "one").body(Body::empty()).unwrap();
        filter.on_request(&mut request, &Context::default()).await;
        assert_eq!(request.headers()["x-a"], "two");
        assert_eq!(request.headers().len(), 1);
        let mut response = Response::new(Body::empty());
        let context = Context { response_code: Some(200), ..Context::default() };
        filter.on_response(&mut response, &context).await;
        assert_eq!(response.headers()["x-code"], "200");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        assert_eq!(
            compiled("mutations: {request_mutations: [{remove: x}, {remove: ':path'}]}")
                .unwrap_err(),
            "mutations.request_mutations[1].remove[0]: :-prefixed or host headers may not be removed"
        );
    }
}
