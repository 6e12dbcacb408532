//! Answers preflight requests, and tells browsers which pages of other origins may read responses.
//!
//! API: `envoy.extensions.filters.http.cors.v3.Cors`; a route says what is allowed.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName,
    HeaderValue, ORIGIN,
};
use http::{Method, Request, Response};
use xds_proto::envoy::extensions::filters::http::cors::v3 as api;
use xds_proto::field::{At, FieldError, each};
use xds_proto::fields;

use super::HttpFilter;
use crate::body::Body;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::filtering::{Verdict, happens, joined};
use crate::matcher::{StringMatcher, compile};
use crate::telemetry::why::Why;

const ASKS_PRIVATE: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOWS_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// What pages of other origins may do; nothing is said where no route says it.
#[derive(Debug, Default)]
pub struct Cors(Option<Arc<Policy>>);

/// What a route says. What it leaves open, the levels around it say.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// In how many of a million requests it counts.
    enabled: u32,
    origins: Box<[StringMatcher]>,
    /// Whether one of these matches `*`: then any origin will do.
    allows_any: bool,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: Option<bool>,
    private_network: Option<bool>,
    forwards_foreign_preflights: Option<bool>,
}

/// The origin of a request that may be answered.
struct Allowed(HeaderValue);

impl HttpFilter for Cors {
    type Config = api::Cors;
    type RouteConfig = api::CorsPolicy;
    type Route = Policy;

    fn compile(_: Self::Config) -> Result<Self, FieldError> {
        Ok(Self::default())
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Policy, FieldError> {
        fields!(config: api::CorsPolicy,
            read: [
                allow_origin_string_match, allow_methods, allow_headers, expose_headers, max_age,
                allow_credentials, filter_enabled, allow_private_network_access,
                forward_not_matching_preflights,
            ],
            // shadow_enabled: has a policy only counted that does not apply.
            ignore: [shadow_enabled],
            refuse: [],
        );
        let enabled = filter_enabled.map(compile::fraction).transpose().at("filter_enabled")?;
        let origins =
            each(allow_origin_string_match, "allow_origin_string_match", compile::string)?;
        Ok(Policy {
            enabled: enabled.unwrap_or(1_000_000),
            allows_any: origins.iter().any(|origin| origin.matches(b"*")),
            origins: origins.into(),
            methods: value(&allow_methods, "allow_methods")?,
            headers: value(&allow_headers, "allow_headers")?,
            exposed: value(&expose_headers, "expose_headers")?,
            max_age: value(&max_age, "max_age")?,
            credentials: allow_credentials.map(|allows| allows.value),
            private_network: allow_private_network_access.map(|allows| allows.value),
            forwards_foreign_preflights: forward_not_matching_preflights.map(|flag| flag.value),
        })
    }

    fn link(&self, routes: &[&Policy], _: &mut Linker<'_>) -> Linked<Self> {
        let Some((specific, around)) = routes.split_last() else { return Linked::Same };
        let policy = around.iter().rev().fold((*specific).clone(), Policy::within);
        Linked::New(Self(Some(Arc::new(policy))))
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        let Some(policy) = self.0.as_ref().filter(|_| stage.is_forwarded) else {
            return Verdict::Continue;
        };
        let origin = joined(request.headers(), &ORIGIN).filter(|origin| !origin.is_empty());
        let Some(origin) = origin.filter(|_| happens(policy.enabled)) else {
            return Verdict::Continue;
        };
        let is_preflight = request.method() == Method::OPTIONS
            && request.headers().get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|m| !m.is_empty());
        if !policy.allows(origin.as_bytes()) {
            if is_preflight && policy.forwards_foreign_preflights == Some(false) {
                return Verdict::answer(Why::CorsPreflight, policy.answer(request.headers()));
            }
            return Verdict::Continue;
        }
        stage.remember(Allowed(origin));
        if !is_preflight {
            return Verdict::Continue;
        }
        Verdict::answer(Why::CorsPreflight, policy.answer(request.headers()))
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let Some(policy) = &self.0 else { return };
        let Some(Allowed(origin)) = stage.recall() else { return };
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if policy.credentials == Some(true) {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(exposed) = &policy.exposed {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }
}

impl Policy {
    fn allows(&self, origin: &[u8]) -> bool {
        self.allows_any || self.origins.iter().any(|allowed| allowed.matches(origin))
    }

    /// The policy with what it leaves open taken from the level around it.
    fn within(self, outer: &&Self) -> Self {
        Self {
            enabled: self.enabled,
            allows_any: if self.origins.is_empty() { outer.allows_any } else { self.allows_any },
            origins: if self.origins.is_empty() { outer.origins.clone() } else { self.origins },
            methods: self.methods.or_else(|| outer.methods.clone()),
            headers: self.headers.or_else(|| outer.headers.clone()),
            exposed: self.exposed.or_else(|| outer.exposed.clone()),
            max_age: self.max_age.or_else(|| outer.max_age.clone()),
            credentials: self.credentials.or(outer.credentials),
            private_network: self.private_network.or(outer.private_network),
            forwards_foreign_preflights: self
                .forwards_foreign_preflights
                .or(outer.forwards_foreign_preflights),
        }
    }

    /// What a preflight request is answered. The origin is said where it is an allowed one.
    fn answer(&self, asked: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        let has_credentials = self.credentials == Some(true);
        // With credentials browsers take `*` for a name (Fetch standard, section 3.3.5), so what is
        // asked for is allowed by its name.
        let named = |said: &Option<HeaderValue>, asked_by: HeaderName| match said {
            Some(all) if all == "*" => {
                Some(joined(asked, &asked_by).unwrap_or(HeaderValue::from_static("")))
            }
            said => said.clone(),
        };
        let methods = named(&self.methods, ACCESS_CONTROL_REQUEST_METHOD);
        let allowed = named(&self.headers, ACCESS_CONTROL_REQUEST_HEADERS);
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, allowed),
            (ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, has_credentials.then_some(TRUE)),
        ] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        let is_private = asked.get(ASKS_PRIVATE).is_some_and(|asks| asks == "true");
        if is_private && self.private_network == Some(true) {
            headers.insert(ALLOWS_PRIVATE, TRUE);
        }
        response
    }
}

fn value(text: &str, field: &'static str) -> Result<Option<HeaderValue>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(text)
        .map(Some)
        .map_err(|_| FieldError::invalid("has bytes that no header may have"))
        .at(field)
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filtering::keep::testing::alone;
    use crate::filtering::stage::testing::Scene;

    fn policy(text: &str) -> Policy {
        Cors::compile_route(from_yaml(text).unwrap()).unwrap()
    }

    fn filter(levels: &[&str]) -> Cors {
        let levels: Vec<_> = levels.iter().map(|text| policy(text)).collect();
        let levels: Vec<_> = levels.iter().collect();
        alone(|linker| Cors::default().link(&levels, linker)).made().unwrap()
    }

    /// Headers of the response, and whether the filter answered.
    async fn ask(filter: &Cors, method: Method, lines: &[(&str, &str)]) -> (String, bool) {
        let mut request = Request::builder().method(method);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        let mut scene = Scene::default();
        let (mut response, answered) =
            match filter.on_request(&mut request, &mut scene.stage()).await {
                Verdict::Continue => (Response::new(Body::empty()), false),
                Verdict::Reply(reply) => (reply.response, true),
            };
        filter.on_response(&mut response, &mut scene.stage()).await;
        let mut lines: Vec<_> = response
            .headers()
            .iter()
            .map(|(name, value)| {
                let name = name.as_str().trim_start_matches("access-control-");
                format!("{name}={}", value.to_str().unwrap())
            })
            .collect();
        lines.sort();
        (lines.join(" "), answered)
    }

    const ALL: &str = "{allow_origin_string_match: [{exact: 'http://a'}], allow_methods: 'GET,PUT',
        allow_headers: x-a, expose_headers: x-b, max_age: '60', allow_credentials: true}";

    #[tokio::test]
    async fn a_preflight_is_answered_and_other_requests_are_marked() {
        let filter = filter(&[ALL]);
        let asks = [("origin", "http://a"), ("access-control-request-method", "PUT")];
        assert_eq!(
            ask(&filter, Method::OPTIONS, &asks).await,
            (
                "allow-credentials=true allow-headers=x-a allow-methods=GET,PUT \
                 allow-origin=http://a expose-headers=x-b max-age=60"
                    .into(),
                true
            )
        );
        let marks = "allow-credentials=true allow-origin=http://a expose-headers=x-b".to_owned();
        assert_eq!(ask(&filter, Method::GET, &asks[..1]).await, (marks.clone(), false));
        assert_eq!(ask(&filter, Method::OPTIONS, &asks[..1]).await, (marks, false));
    }

    #[tokio::test]
    async fn other_origins_are_left_alone() {
        let preflight = [("origin", "http://b"), ("access-control-request-method", "PUT")];
        let open = filter(&[ALL]);
        assert_eq!(ask(&open, Method::OPTIONS, &preflight).await, (String::new(), false));
        let shut = filter(&[ALL, "{forward_not_matching_preflights: false}"]);
        let said = "allow-credentials=true allow-headers=x-a allow-methods=GET,PUT max-age=60";
        assert_eq!(ask(&shut, Method::OPTIONS, &preflight).await, (said.to_owned(), true));
    }

    #[tokio::test]
    async fn a_route_takes_from_the_levels_around_it_what_it_leaves_open() {
        let filter = filter(&[ALL, "{allow_origin_string_match: [{prefix: 'http://b'}]}"]);
        let marks = "allow-credentials=true allow-origin=http://b1 expose-headers=x-b".to_owned();
        assert_eq!(ask(&filter, Method::GET, &[("origin", "http://b1")]).await, (marks, false));
        assert_eq!(ask(&filter, Method::GET, &[("origin", "http://a")]).await.0, "");
    }

    #[tokio::test]
    async fn without_a_policy_nothing_happens() {
        let asks = [("origin", "http://a"), ("access-control-request-method", "PUT")];
        let answer = ask(&Cors::default(), Method::OPTIONS, &asks).await;
        assert_eq!(answer, (String::new(), false));
    }
}
