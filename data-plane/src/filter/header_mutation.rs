//! Sets or removes headers of requests and responses.
//!
//! API: `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`.

use http::{Request, Response};
use xds_proto::envoy::extensions::filters::http::header_mutation::v3 as api;
use xds_proto::field::{At, FieldError, each};
use xds_proto::fields;

use super::HttpFilter;
use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::format::compile::mutation;
use crate::format::mutation::{HeaderMutations, Side};

/// Header changes, in order.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutation {
    request: Vec<HeaderMutations>,
    response: Vec<HeaderMutations>,
    /// Whether what a route says comes after what is said around it, and so wins.
    most_specific_wins: bool,
}

impl HttpFilter for HeaderMutation {
    type Config = api::HeaderMutation;
    type RouteConfig = api::HeaderMutationPerRoute;
    type Route = Self;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::HeaderMutation,
            read: [mutations, most_specific_header_mutations_wins],
            ignore: [],
            refuse: [],
        );
        let mutations = Self::both(mutations.unwrap_or_default()).at("mutations")?;
        Ok(Self { most_specific_wins: most_specific_header_mutations_wins, ..mutations })
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self, FieldError> {
        fields!(config: api::HeaderMutationPerRoute, read: [mutations], ignore: [], refuse: []);
        Self::both(mutations.unwrap_or_default()).at("mutations")
    }

    /// First what the listener says, then what all levels of the route say, in Envoy's order.
    fn link(&self, routes: &[&Self], _: &mut Linker<'_>) -> Linked<Self> {
        let mut linked = self.clone();
        let mut add = |route: &Self| {
            linked.request.extend(route.request.iter().cloned());
            linked.response.extend(route.response.iter().cloned());
        };
        if self.most_specific_wins {
            routes.iter().for_each(|route| add(route));
        } else {
            routes.iter().rev().for_each(|route| add(route));
        }
        if routes.is_empty() { Linked::Same } else { Linked::New(linked) }
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        for change in &self.request {
            change.apply(request.headers_mut(), Side::Request, &stage.context);
        }
        Verdict::Continue
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        for change in &self.response {
            change.apply(response.headers_mut(), Side::Response, &stage.context);
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
        let request = each(request_mutations, "request_mutations", mutation)?;
        let response = each(response_mutations, "response_mutations", mutation)?;
        Ok(Self { request, response, most_specific_wins: false })
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filtering::keep::testing::alone;
    use crate::filtering::stage::testing::Scene;

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
        let mut scene = Scene::default();
        filter.on_request(&mut request, &mut scene.stage()).await;
        assert_eq!(request.headers()["x-a"], "two");
        assert_eq!(request.headers().len(), 1);
        let mut response = Response::new(Body::empty());
        scene.context.response_code = Some(200);
        filter.on_response(&mut response, &mut scene.stage()).await;
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

    #[tokio::test]
    async fn levels_of_a_route_are_applied_in_envoys_order() {
        let level = |value: &str| {
            let text = format!(
                "mutations: {{request_mutations: [{{append: {{header: {{key: x, value: {value}}}}}}}]}}"
            );
            HeaderMutation::compile_route(from_yaml(&text).unwrap()).unwrap()
        };
        let (host, route) = (level("host"), level("route"));
        for (wins, want) in [(false, ["route", "host"]), (true, ["host", "route"])] {
            let filter = compiled(&format!("most_specific_header_mutations_wins: {wins}")).unwrap();
            let linked = alone(|linker| filter.link(&[&host, &route], linker));
            let filter = linked.made().unwrap();
            let mut request = Request::new(Body::empty());
            filter.on_request(&mut request, &mut Scene::default().stage()).await;
            let values: Vec<_> = request.headers().get_all("x").iter().collect();
            assert_eq!(values, want);
        }
    }
}
