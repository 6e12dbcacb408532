//! Refuses requests that change something when they come from a page of another origin.
//!
//! API: `envoy.extensions.filters.http.csrf.v3.CsrfPolicy`.

use std::sync::Arc;

use http::header::{HOST, HeaderMap, HeaderName, ORIGIN, REFERER};
use http::{Method, Request};
use xds_proto::envoy::extensions::filters::http::csrf::v3 as api;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use super::HttpFilter;
use crate::body::Body;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::filtering::{Verdict, happens, joined};
use crate::matcher::{StringMatcher, compile};
use crate::telemetry::why::Why;

/// Which origins may send requests that change something.
#[derive(Debug, Clone)]
pub struct Csrf(Arc<Policy>);

#[derive(Debug)]
struct Policy {
    /// In how many of a million requests it counts.
    enabled: u32,
    others: Box<[StringMatcher]>,
}

impl HttpFilter for Csrf {
    type Config = api::CsrfPolicy;
    type RouteConfig = api::CsrfPolicy;
    type Route = Self;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::CsrfPolicy,
            read: [filter_enabled, additional_origins],
            // shadow_enabled: has what would be refused only counted.
            ignore: [shadow_enabled],
            refuse: [],
        );
        let enabled = required(filter_enabled, "filter_enabled")?;
        Ok(Self(Arc::new(Policy {
            enabled: compile::fraction(enabled).at("filter_enabled")?,
            others: each(additional_origins, "additional_origins", compile::string)?.into(),
        })))
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self, FieldError> {
        Self::compile(config)
    }

    fn link(&self, routes: &[&Self], _: &mut Linker<'_>) -> Linked<Self> {
        routes.last().map_or(Linked::Same, |route| Linked::New((*route).clone()))
    }

    async fn on_request(&self, request: &mut Request<Body>, _: &mut Stage<'_>) -> Verdict {
        let changes = matches!(
            *request.method(),
            Method::POST | Method::PUT | Method::DELETE | Method::PATCH
        );
        if changes && happens(self.0.enabled) && !self.allows(request.headers()) {
            return Verdict::refuse(Why::CsrfDenied);
        }
        Verdict::Continue
    }
}

impl Csrf {
    fn allows(&self, headers: &HeaderMap) -> bool {
        let said = |name: HeaderName| {
            let value = joined(headers, &name)?;
            Some(host_and_port(value.to_str().ok()?).to_owned()).filter(|host| !host.is_empty())
        };
        let Some(source) = said(ORIGIN).or_else(|| said(REFERER)) else { return false };
        said(HOST).as_ref() == Some(&source)
            || self.0.others.iter().any(|other| other.matches(source.as_bytes()))
    }
}

/// Host and port of a URL; what is none is taken as it is.
fn host_and_port(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return url };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filtering::stage::testing::Scene;

    async fn refuses(policy: &str, method: Method, lines: &[(&str, &str)]) -> bool {
        let filter = Csrf::compile(from_yaml(policy).unwrap()).unwrap();
        let mut request = Request::builder().method(method).header("host", "shop.test:8080");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        let mut scene = Scene::default();
        let verdict = filter.on_request(&mut request, &mut scene.stage()).await;
        matches!(verdict, Verdict::Reply(reply) if reply.why == Why::CsrfDenied)
    }

    const ON: &str = "{filter_enabled: {default_value: {numerator: 100}},
        additional_origins: [{suffix: .friend.test}]}";

    #[tokio::test]
    async fn a_request_that_changes_something_must_come_from_the_same_host() {
        for (lines, refused) in [
            (&[][..], true),
            (&[("origin", "http://shop.test:8080")], false),
            (&[("origin", "http://shop.test")], true),
            (&[("origin", "http://evil.test")], true),
            (&[("origin", "null")], true),
            (&[("origin", "http://me@shop.test:8080")], false),
            (&[("origin", "http://shop.test:8080@evil.test")], true),
            (&[("origin", "http://shop.test:8080"), ("origin", "http://evil.test")], true),
            (&[("origin", "https://a.friend.test")], false),
            (&[("referer", "http://shop.test:8080/form?x#y")], false),
            (&[("origin", ""), ("referer", "http://evil.test/")], true),
        ] {
            assert_eq!(refuses(ON, Method::POST, lines).await, refused, "{lines:?}");
            assert!(!refuses(ON, Method::GET, lines).await, "{lines:?}");
        }
    }

    #[tokio::test]
    async fn it_may_be_off() {
        let off = "{filter_enabled: {default_value: {numerator: 0}}}";
        assert!(!refuses(off, Method::POST, &[("origin", "http://evil.test")]).await);
    }
}
