//! Lets so many requests through in a time, by itself: each proxy counts its own.
//!
//! API: `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.

mod bucket;
mod compile;

use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use xds_proto::envoy::extensions::filters::http::local_ratelimit::v3 as api;
use xds_proto::field::FieldError;

use self::bucket::{Bucket, Fill};
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::keep::{Key, Linked, Linker};
use crate::filtering::rate_limit::{Descriptor, Facts, RateLimit, describe};
use crate::filtering::stage::Stage;
use crate::filtering::{self, Verdict, happens, is_grpc};
use crate::format::Context;
use crate::format::mutation::{HeaderMutations, Side};
use crate::telemetry::why::Why;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// gRPC's RESOURCE_EXHAUSTED.
const EXHAUSTED: u32 = 8;

/// How many requests go through.
#[derive(Debug, Clone)]
pub struct LocalRateLimit {
    settings: Arc<Settings>,
    buckets: Buckets,
}

#[derive(Debug)]
struct Settings {
    status: StatusCode,
    default: Option<Fill>,
    descriptors: Box<[Limited]>,
    /// In how many of a million requests tokens are taken.
    enabled: u32,
    /// In how many of a million requests without a token it counts.
    enforced: u32,
    request: HeaderMutations,
    response: HeaderMutations,
    stage: u32,
    /// Its own ways to count; without them those of routes.
    rules: Box<[RateLimit]>,
    virtual_host: VirtualHostRules,
    is_per_connection: bool,
    always_takes_default: bool,
    says_limits: bool,
    says_retry_after: bool,
    is_exhausted: bool,
}

/// Whether what a virtual host says is counted too (`vh_rate_limits`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VirtualHostRules {
    /// Where the route says nothing.
    IfRouteHasNone,
    Always,
    Never,
}

/// A descriptor that has a bucket of its own.
#[derive(Debug)]
struct Limited {
    descriptor: Descriptor,
    fill: Fill,
    /// It is counted, and nothing else.
    is_shadow: bool,
}

/// Where tokens are.
#[derive(Debug, Clone)]
enum Buckets {
    /// Not joined.
    Nowhere,
    Shared(Arc<Set>),
    /// One set for each connection, which keeps it under this key.
    PerConnection(Key),
}

#[derive(Debug)]
struct Set {
    default: Option<Arc<Bucket>>,
    /// In the order of the settings.
    descriptors: Box<[Arc<Bucket>]>,
}

/// What a bucket said of the request.
struct Counted(Arc<Bucket>);

impl HttpFilter for LocalRateLimit {
    type Config = api::LocalRateLimit;
    type RouteConfig = api::LocalRateLimit;
    type Route = Self;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        let settings = Arc::new(compile::compile(config)?);
        Ok(Self { settings, buckets: Buckets::Nowhere })
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self, FieldError> {
        if config.token_bucket.is_none() {
            return Err(xds_proto::field::At::at(FieldError::required(), "token_bucket"));
        }
        Self::compile(config)
    }

    fn link(&self, routes: &[&Self], linker: &mut Linker<'_>) -> Linked<Self> {
        let settings = Arc::clone(&routes.last().unwrap_or(&self).settings);
        let buckets = if settings.is_per_connection {
            Buckets::PerConnection(linker.key().clone())
        } else {
            Buckets::Shared(linker.keep(|| settings.fill()))
        };
        Linked::New(Self { settings, buckets })
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        if !happens(self.settings.enabled) {
            return Verdict::Continue;
        }
        let (of_connection, set): (Rc<Set>, &Set);
        match &self.buckets {
            Buckets::Nowhere => return Verdict::Continue,
            Buckets::Shared(shared) => set = shared,
            Buckets::PerConnection(key) => {
                of_connection = stage.connection.keep(key, || self.settings.fill());
                set = &of_connection;
            }
        }
        let descriptors = self.settings.describe(request, stage);
        let (is_allowed, counted) = self.settings.take(set, &descriptors);
        let retry_after = counted.as_ref().map(|bucket| bucket.reset_seconds(Instant::now()));
        if let Some(counted) = counted.filter(|_| self.settings.says_limits) {
            stage.remember(Counted(counted));
        }
        if is_allowed {
            return Verdict::Continue;
        }
        if !happens(self.settings.enforced) {
            self.settings.request.apply(request.headers_mut(), Side::Request, &stage.context);
            return Verdict::Continue;
        }
        Verdict::reply(Why::RateLimited, self.settings.refuse(request, stage, retry_after))
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let Some(Counted(bucket)) = stage.recall() else { return };
        let now = Instant::now();
        let headers = response.headers_mut();
        headers.insert(LIMIT, HeaderValue::from(bucket.max()));
        headers.insert(REMAINING, HeaderValue::from(bucket.remaining(now)));
        headers.insert(RESET, HeaderValue::from(bucket.reset_seconds(now)));
    }
}

impl Settings {
    /// Full buckets.
    fn fill(&self) -> Set {
        let now = Instant::now();
        let bucket = |fill: Fill| Arc::new(Bucket::full(fill, now));
        Set {
            default: self.default.map(bucket),
            descriptors: self.descriptors.iter().map(|limited| bucket(limited.fill)).collect(),
        }
    }

    /// What is counted of a request.
    fn describe(&self, request: &Request<Body>, stage: &Stage<'_>) -> Vec<Descriptor> {
        let mut descriptors = Vec::new();
        if self.descriptors.is_empty() {
            return descriptors;
        }
        let facts = Facts::new(stage.view(request), stage);
        if !self.rules.is_empty() {
            describe(&self.rules, self.stage, &facts, &mut descriptors);
            return descriptors;
        }
        let said = stage.rate_limits;
        describe(said.route, self.stage, &facts, &mut descriptors);
        let adds_virtual_host = said.includes_virtual_host
            || match self.virtual_host {
                VirtualHostRules::IfRouteHasNone => said.route.is_empty(),
                VirtualHostRules::Always => true,
                VirtualHostRules::Never => false,
            };
        if adds_virtual_host {
            describe(said.virtual_host, self.stage, &facts, &mut descriptors);
        }
        descriptors
    }

    /// Takes a token from each bucket that is for the request, slowest first. Whether there was
    /// one, and the bucket that speaks for the request.
    fn take(&self, set: &Set, descriptors: &[Descriptor]) -> (bool, Option<Arc<Bucket>>) {
        let now = Instant::now();
        let known = self.descriptors.iter().zip(&set.descriptors);
        let mut matched: Vec<_> =
            known.filter(|(limited, _)| descriptors.contains(&limited.descriptor)).collect();
        matched.sort_by(|(a, _), (b, _)| a.fill.per_second().total_cmp(&b.fill.per_second()));
        for (limited, bucket) in &matched {
            if !bucket.take(now) && !limited.is_shadow {
                return (false, Some(Arc::clone(bucket)));
            }
        }
        let first = matched.first().map(|(_, bucket)| Arc::clone(bucket));
        match &set.default {
            Some(default) if matched.is_empty() || self.always_takes_default => {
                let is_allowed = default.take(now);
                let speaks = if is_allowed { first } else { None };
                (is_allowed, speaks.or_else(|| Some(Arc::clone(default))))
            }
            Some(_) | None => (true, first),
        }
    }

    /// The reply to a request that gets no token.
    fn refuse(
        &self,
        request: &Request<Body>,
        stage: &Stage<'_>,
        retry_after: Option<u64>,
    ) -> Response<Body> {
        let body = Why::RateLimited.facts().body;
        let mut response = if self.is_exhausted && is_grpc(request.headers()) {
            filtering::grpc(EXHAUSTED, body)
        } else {
            filtering::text(self.status, body)
        };
        if let Some(seconds) = retry_after.filter(|_| self.says_retry_after) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let context = Context { request_headers: Some(request.headers()), ..stage.context };
        self.response.apply(response.headers_mut(), Side::Response, &context);
        response
    }
}

#[cfg(test)]
mod tests;
