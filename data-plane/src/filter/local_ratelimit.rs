//! Lets so many requests through in a time, by itself: each proxy counts its own.
//!
//! API: `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.

mod bucket;
mod compile;
mod dynamic;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use xds_proto::envoy::extensions::filters::http::local_ratelimit::v3 as api;
use xds_proto::field::FieldError;

use self::bucket::{Bucket, Fill};
use self::dynamic::Dynamic;
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::keep::{Key, Linked, Linker};
use crate::filtering::rate_limit::{Descriptor, Entry, Facts, RateLimit, describe};
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
    /// Those without open values, by their entries.
    exact: HashMap<Vec<Entry>, usize>,
    /// Those with open values.
    open: Box<[usize]>,
    /// Buckets for each with open values.
    dynamic_max: usize,
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

/// A descriptor that has a bucket of its own; an empty value stands for any, each with a bucket.
#[derive(Debug)]
struct Limited {
    entries: Vec<Entry>,
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
    descriptors: Box<[Tokens]>,
}

/// The tokens of a descriptor.
#[derive(Debug)]
enum Tokens {
    One(Arc<Bucket>),
    Each(Dynamic),
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
        let reset = counted.as_ref().map(|bucket| bucket.reset_seconds(Instant::now()));
        if let Some(counted) = counted.filter(|_| self.settings.says_limits) {
            stage.remember(Counted(counted));
        }
        if is_allowed {
            return Verdict::Continue;
        }
        if !happens(self.settings.enforced) {
            self.settings.request.apply(request.headers_mut(), Side::Request, &stage.context());
            return Verdict::Continue;
        }
        Verdict::reply(Why::RateLimited, self.settings.refuse(request, stage, reset))
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let Some(Counted(bucket)) = stage.recall() else { return };
        let now = Instant::now();
        let headers = response.headers_mut();
        headers.append(LIMIT, HeaderValue::from(bucket.max()));
        headers.append(REMAINING, HeaderValue::from(bucket.remaining(now)));
        headers.append(RESET, HeaderValue::from(bucket.reset_seconds(now)));
    }
}

impl Limited {
    /// Whether it has open values.
    fn is_open(&self) -> bool {
        self.entries.iter().any(|entry| entry.value.is_empty())
    }

    /// Whether it is for such entries.
    fn is_for(&self, entries: &[Entry]) -> bool {
        let is_same = |(own, other): (&Entry, &Entry)| {
            own.key == other.key && (own.value.is_empty() || own.value == other.value)
        };
        self.entries.len() == entries.len() && self.entries.iter().zip(entries).all(is_same)
    }
}

impl Settings {
    /// Full buckets.
    fn fill(&self) -> Set {
        let now = Instant::now();
        let bucket = |fill: Fill| Arc::new(Bucket::full(fill, now));
        let tokens = |limited: &Limited| {
            if limited.is_open() {
                Tokens::Each(Dynamic::new(limited.fill, self.dynamic_max))
            } else {
                Tokens::One(bucket(limited.fill))
            }
        };
        Set {
            default: self.default.map(bucket),
            descriptors: self.descriptors.iter().map(tokens).collect(),
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
            describe(&self.rules, 0, &facts, &mut descriptors);
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

    /// The buckets for what is counted of a request, slowest first, with how many tokens to take.
    fn buckets(
        &self,
        set: &Set,
        descriptors: &[Descriptor],
        now: Instant,
    ) -> Vec<(&Limited, Arc<Bucket>, u64)> {
        let found = descriptors.iter().filter_map(|descriptor| {
            let entries = &descriptor.entries;
            let is_for = |at: &&usize| self.descriptors[**at].is_for(entries);
            let at = *self.exact.get(entries).or_else(|| self.open.iter().find(is_for))?;
            let bucket = match &set.descriptors[at] {
                Tokens::One(bucket) => Arc::clone(bucket),
                Tokens::Each(dynamic) => dynamic.bucket(entries, now),
            };
            Some((&self.descriptors[at], bucket, descriptor.hits.unwrap_or(1)))
        });
        let mut found: Vec<_> = found.collect();
        found.sort_by(|(a, ..), (b, ..)| a.fill.per_second().total_cmp(&b.fill.per_second()));
        found
    }

    /// Takes tokens from each bucket that is for the request. Whether there were enough, and the
    /// bucket that speaks for the request.
    fn take(&self, set: &Set, descriptors: &[Descriptor]) -> (bool, Option<Arc<Bucket>>) {
        let now = Instant::now();
        let matched = self.buckets(set, descriptors, now);
        for (limited, bucket, hits) in &matched {
            if !bucket.take(*hits, now) && !limited.is_shadow {
                return (false, spoken(bucket));
            }
        }
        let first = matched.first().and_then(|(_, bucket, _)| spoken(bucket));
        match &set.default {
            Some(default) if matched.is_empty() || self.always_takes_default => {
                let is_allowed = default.take(1, now);
                let speaks = if is_allowed { first } else { None };
                (is_allowed, speaks.or_else(|| spoken(default)))
            }
            Some(_) | None => (true, first),
        }
    }

    /// The reply to a request that gets no token.
    fn refuse(
        &self,
        request: &Request<Body>,
        stage: &Stage<'_>,
        reset: Option<u64>,
    ) -> Response<Body> {
        let body = Why::RateLimited.facts().body;
        let mut response = if self.is_exhausted && is_grpc(request.headers()) {
            filtering::grpc(EXHAUSTED, body)
        } else {
            filtering::text(self.status, body)
        };
        let context = Context { request_headers: Some(request.headers()), ..stage.context() };
        self.response.apply(response.headers_mut(), Side::Response, &context);
        let says_when = self.says_retry_after && response.status() == StatusCode::TOO_MANY_REQUESTS;
        if let Some(seconds) = reset.filter(|_| says_when) {
            let seconds = HeaderValue::from(seconds.max(1));
            response.headers_mut().entry(RETRY_AFTER).or_insert(seconds);
        }
        response
    }
}

/// A bucket that speaks for a request; one that never has a token has nothing to say, as in Envoy.
fn spoken(bucket: &Arc<Bucket>) -> Option<Arc<Bucket>> {
    (bucket.max() > 0).then(|| Arc::clone(bucket))
}

#[cfg(test)]
mod tests;
