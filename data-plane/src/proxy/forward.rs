//! A request on its way upstream: which cluster, which endpoint, how long, and whether once more.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderName, HeaderValue, SET_COOKIE};
use http::{Request, Response, StatusCode, request};
use tokio::time::Instant;
use xds_proto::convert::Address;

use super::deadline::{Expired, Limits};
use super::exchange::{Exchange, TransportFailure, path_of};
use super::mirror;
use super::miss::Miss;
use super::overrides::Overrides;
use super::reply::{self, Local};
use super::selection::{choose, hash_view, observed, select};
use super::timeouts::{self, milliseconds, say_stream_limit, say_timeout};
use crate::body::kept::Kept;
use crate::body::{Body, Break, Deadlines, Ended};
use crate::cluster::Cluster;
use crate::cluster::balancer::Selection;
use crate::cluster::endpoints::{Endpoint, Health};
use crate::cluster::failure::{UpstreamError, UpstreamFailure};
use crate::cluster::live::Slot;
use crate::cluster::outlier::observe;
use crate::cluster::proxy_protocol::Ends;
use crate::guard;
use crate::listener::FilterChain;
use crate::matcher::header::HeaderView;
use crate::retry::{Failure, Outcome, RetryPolicy, jittered};
use crate::route::Found;
use crate::route::action::{Forward, WeightedCluster};
use crate::route::linked::LinkedRoutes;
use crate::telemetry::stats::UpstreamFailureKind;
use crate::telemetry::why::Why;

pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Where a request goes, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) chain: &'a FilterChain,
    pub(super) routes: &'a LinkedRoutes,
    pub(super) found: &'a Found<'a>,
    pub(super) forward: &'a Forward,
    /// Whether the client may and wants to switch protocols.
    pub(super) is_upgrade: bool,
    pub(super) random: u64,
    /// The retry policy: the route's, or what the request made of it.
    pub(super) retry: Option<&'a RetryPolicy>,
}

impl Plan<'_> {
    pub(super) fn adds_envoy_headers(&self) -> bool {
        !self.chain.config.http.filters.router.is_some_and(|router| router.suppress_envoy_headers)
    }
}

/// Sends a request to the cluster of its route. Gives the response with the route's changes, or a
/// reply of our own.
pub(super) async fn forward(
    exchange: &mut Exchange,
    plan: Plan<'_>,
    request: Box<Request<Body>>,
) -> Response<Body> {
    let view = hash_view(exchange, &request);
    let (cluster, picked) = choose(&plan, &view);
    let mut cookies = Vec::new();
    let target = match cluster {
        None => Err(Local::with_status(Why::NoCluster, plan.forward.cluster_not_found)),
        Some(cluster) => {
            exchange.cluster = Some(Arc::clone(cluster));
            let selection = select(&plan, cluster, (picked, &view), &mut cookies);
            pick(exchange, cluster, &selection).map(|endpoint| Target {
                cluster: Arc::clone(cluster),
                selection,
                endpoint,
            })
        }
    };
    let answered = match target {
        Ok(target) => send(exchange, (plan, picked), target, request).await,
        Err(local) => {
            exchange.headers = request.into_parts().0.headers;
            Err(local)
        }
    };
    match answered {
        Ok(mut response) => {
            let cookies = cookies.into_iter().map(|cookie| (SET_COOKIE, cookie));
            response.headers_mut().extend(cookies);
            response
        }
        Err(local) => {
            let taken = Some((plan.found, picked));
            // A filter that broke off the body of the request says why it did.
            let objection = exchange.notes.objection().map(|reply| *reply);
            let reply = objection.unwrap_or_else(|| local.into());
            exchange.notes.details = reply.details;
            reply::local(exchange, taken, reply.why, reply.response)
        }
    }
}

/// Where a request goes.
struct Target<'p> {
    cluster: Arc<Cluster>,
    selection: Selection<'p>,
    endpoint: Arc<Endpoint>,
}

/// Sends a request, more than once if need be.
async fn send(
    exchange: &mut Exchange,
    (plan, picked): (Plan<'_>, Option<&WeightedCluster>),
    target: Target<'_>,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, Local> {
    let overrides = Overrides::take(request.headers_mut(), plan.retry);
    let plan = Plan { retry: overrides.retry.as_deref().or(plan.retry), ..plan };
    let limits = overrides.apply(timeouts::limits(&plan, request.headers()));
    prepare(exchange, &plan, picked, (&mut request, &limits));
    exchange.note_sent(&request);
    mirror::send(exchange, &plan, &mut request, limits.response);
    let once_more = match plan.retry {
        _ if request.body().is_empty() => OnceMore::Empty,
        Some(policy) if policy.retries > 0 && !plan.is_upgrade => {
            let (body, kept) =
                Kept::new(std::mem::take(request.body_mut()), plan.forward.kept_bytes_max);
            *request.body_mut() = body;
            OnceMore::Kept(kept)
        }
        _ => OnceMore::Gone,
    };
    let Target { cluster, selection, endpoint } = target;
    let mut tries = Tries {
        exchange,
        plan,
        cluster,
        selection,
        limits,
        once_more,
        tried: Vec::new(),
        slot: None,
    };
    let answered = tries.run(request, endpoint).await;
    let response = answered.map_err(|mut local| {
        let may_be_nothing = overrides.answers_timeout_with_nothing;
        if may_be_nothing && matches!(local.why, Why::UpstreamTimeout | Why::PerTryTimeout) {
            local.status = Some(StatusCode::NO_CONTENT);
        }
        // The other limits are not the router's in Envoy.
        let is_router =
            !matches!(local.why, Why::RequestTimeout | Why::IdleTimeout | Why::StreamTimeout);
        if is_router && plan.found.virtual_host.include_attempt_count_in_response {
            local.attempts = Some(exchange.attempts);
        }
        local
    })?;
    Ok(finish(exchange, &plan, picked, (response, &limits)))
}

/// The endpoint that a filter asks for, or else the balancer's.
fn pick(
    exchange: &Exchange,
    cluster: &Cluster,
    selection: &Selection<'_>,
) -> Result<Arc<Endpoint>, Local> {
    let balanced = || cluster.pick(selection).ok_or_else(|| Local::new(Why::NoHealthyEndpoint));
    let Some(asked) = exchange.notes.destination else { return balanced() };
    let is_asked = |endpoint: &&Arc<Endpoint>| {
        asked.address.is_some_and(|address| endpoint.config.address == Address::Ip(address))
            && matches!(endpoint.health(), Health::Healthy | Health::Degraded)
    };
    match cluster.endpoints.iter().find(is_asked) {
        Some(endpoint) => Ok(Arc::clone(endpoint)),
        None => match asked.else_status {
            Some(status) => Err(Local::with_status(Why::SessionLost, status)),
            None => balanced(),
        },
    }
}

/// The headers that the router adds, and the changes of the route.
fn prepare(
    exchange: &Exchange,
    plan: &Plan<'_>,
    picked: Option<&WeightedCluster>,
    (request, limits): (&mut Request<Body>, &Limits),
) {
    say_timeout(plan, request.headers_mut(), limits, Duration::ZERO);
    say_stream_limit(request.headers_mut(), limits);
    if plan.found.changes_request(picked) {
        let context = crate::format::Context { attempts: 1, ..exchange.context() };
        let keeps_originals = plan.adds_envoy_headers();
        change_head(request, |head| {
            plan.found.rewrite_request(head, picked, &context, keeps_originals);
        });
    }
}

fn change_head(request: &mut Request<Body>, change: impl FnOnce(&mut request::Parts)) {
    let taken = std::mem::replace(request, Request::new(Body::empty()));
    let (mut head, body) = taken.into_parts();
    change(&mut head);
    *request = Request::from_parts(head, body);
}

/// The changes of the route to a response, and its deadlines.
fn finish(
    exchange: &Exchange,
    plan: &Plan<'_>,
    picked: Option<&WeightedCluster>,
    (mut response, limits): (Response<Body>, &Limits),
) -> Response<Body> {
    let headers = response.headers_mut();
    let (complete_at, answered_at) = (exchange.request.completed_at(), exchange.answered_at);
    if let Some((from, to)) = complete_at.zip(answered_at)
        && plan.adds_envoy_headers()
    {
        let took = milliseconds(to.saturating_duration_since(from));
        headers.insert(SERVICE_TIME, number(took));
    }
    if plan.found.virtual_host.include_attempt_count_in_response {
        headers.insert(ATTEMPT_COUNT, HeaderValue::from(exchange.attempts));
    }
    if plan.found.changes_response(picked) {
        let status = response.status();
        let context = exchange.context();
        let context = crate::format::Context {
            response_code: Some(status.as_u16()),
            details: if context.details.is_empty() { "via_upstream" } else { context.details },
            ..context
        };
        plan.found.mutate_response(response.headers_mut(), picked, &context);
    }
    let progress = exchange.progress(exchange.started);
    let deadlines = Deadlines { idle: limits.idle, end: limits.end(&progress) };
    let meter = std::rc::Rc::clone(&exchange.response);
    response.map(|body| body.watched(meter, deadlines))
}

/// A number in a header; nearly always it has one digit, and needs no memory.
fn number(number: u64) -> HeaderValue {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let digit = usize::try_from(number).ok().and_then(|number| DIGITS.get(number));
    digit.map_or_else(|| number.into(), |digit| HeaderValue::from_static(digit))
}

/// The tries to have a request answered.
struct Tries<'e, 'p> {
    exchange: &'e mut Exchange,
    plan: Plan<'p>,
    cluster: Arc<Cluster>,
    selection: Selection<'p>,
    limits: Limits,
    once_more: OnceMore,
    /// The endpoints of the tries before this one.
    tried: Vec<Arc<Endpoint>>,
    /// The place of the present try among the retries of the cluster.
    slot: Option<Slot>,
}

/// What a request that is gone can be sent again with.
enum OnceMore {
    /// It had no body.
    Empty,
    /// Its body is kept.
    Kept(Kept),
    /// Nothing.
    Gone,
}

/// Whether a request is sent again.
enum Again {
    /// With the time that the answer asks to wait.
    Yes(Box<Request<Body>>, Option<Slot>, Option<Duration>),
    No(Result<Response<Body>, Miss>),
}

impl Tries<'_, '_> {
    async fn run(
        &mut self,
        mut request: Box<Request<Body>>,
        mut endpoint: Arc<Endpoint>,
    ) -> Result<Response<Body>, Local> {
        loop {
            self.exchange.endpoint = Some(Arc::clone(&endpoint));
            let tried = self.attempt(&endpoint, request).await?;
            match self.again(tried) {
                Again::No(last) => return last.map_err(|miss| self.give_up(&miss)),
                Again::Yes(again, slot, told) => {
                    self.slot = slot;
                    self.tried.push(endpoint);
                    self.back_off(told).await?;
                    let other = self.pick_again();
                    endpoint = other.ok_or_else(|| Local::new(Why::NoHealthyEndpoint))?;
                    request = again;
                }
            }
        }
    }

    /// Whether the request is sent again, given how it went.
    fn again(&mut self, tried: Result<Response<Body>, Miss>) -> Again {
        // The place of the retry that just ended is free for the next.
        self.slot = None;
        match tried {
            Ok(response) => {
                let (status, headers) = (response.status(), response.headers());
                if !self.may_retry(&Outcome::Answered { status, headers }) {
                    return Again::No(Ok(response));
                }
                let told = self.plan.retry.and_then(|policy| policy.told.as_ref());
                let told = told.and_then(|told| told.wait(headers, SystemTime::now()));
                let Some(slot) = self.retry_slot() else { return Again::No(Ok(response)) };
                match self.copy() {
                    Some(copy) => Again::Yes(copy, Some(slot), told),
                    None => Again::No(Ok(response)),
                }
            }
            Err(mut miss) => {
                let is_safe = self.is_safe(&miss);
                let is_asked = self.may_retry(&Outcome::Failed(miss.failure));
                if !is_safe && !is_asked {
                    return Again::No(Err(miss));
                }
                self.exchange.is_exhausted = false;
                // What nobody has acted on does not load anybody twice, so no limit is asked.
                let slot = if is_safe { None } else { self.retry_slot() };
                if !is_safe && slot.is_none() {
                    return Again::No(Err(miss));
                }
                match miss.unsent.take().or_else(|| self.copy()) {
                    Some(again) => Again::Yes(again, slot, None),
                    None => Again::No(Err(miss)),
                }
            }
        }
    }

    fn retry_slot(&self) -> Option<Slot> {
        self.cluster.live.retry(&self.cluster.config.breakers)
    }

    fn policy(&self) -> Option<&RetryPolicy> {
        let policy = self.plan.retry?;
        let exchange = &self.exchange;
        let view = HeaderView {
            method: Some(&exchange.method),
            path: Some(path_of(&exchange.uri)),
            host: exchange.host.as_ref().and_then(|host| host.to_str().ok()),
            scheme: None,
            headers: &exchange.headers,
        };
        policy.covers(&view).then_some(policy)
    }

    /// Whether the policy has the request tried again after this.
    fn may_retry(&mut self, outcome: &Outcome<'_>) -> bool {
        let Some(policy) = self.policy() else { return false };
        if !policy.should_retry(outcome) {
            return false;
        }
        let may = self.retries() < policy.retries;
        self.exchange.is_exhausted = !may;
        may
    }

    /// Whether the request may be sent once more without being asked: nobody can have acted on it.
    fn is_safe(&self, miss: &Miss) -> bool {
        let has_other = self.cluster.has_several_endpoints();
        let is_connect = miss.failure == Failure::Connect;
        self.tried.is_empty()
            && miss.is_unprocessed
            && miss.failure != Failure::Overflow
            && (has_other || !is_connect)
    }

    /// The request as it was sent, where it had no body or that is kept.
    fn copy(&self) -> Option<Box<Request<Body>>> {
        let body = match &self.once_more {
            OnceMore::Empty => Body::empty(),
            OnceMore::Kept(kept) => kept.again()?,
            OnceMore::Gone => return None,
        };
        let exchange = &self.exchange;
        let mut copy = Box::new(Request::new(body));
        *copy.method_mut() = exchange.sent_method.clone();
        *copy.uri_mut() = exchange.sent_uri.clone()?;
        *copy.version_mut() = exchange.version;
        copy.headers_mut().clone_from(&exchange.headers);
        if let Some(written) = &exchange.sent_case {
            copy.extensions_mut().clone_from(written);
        }
        Some(copy)
    }

    /// The endpoint of a retry. What is sent once more unasked goes elsewhere if it can.
    fn pick_again(&self) -> Option<Arc<Endpoint>> {
        let wish = self.policy().map(|policy| &policy.elsewhere);
        match (wish.filter(|wish| !wish.is_anywhere()), self.tried.last()) {
            (Some(wish), _) => self.cluster.pick_again(&self.tried, wish, &self.selection),
            // Only what nobody has acted on has no place among the retries.
            (None, Some(tried)) if self.slot.is_none() => {
                self.cluster.pick_other(tried, &self.selection)
            }
            (None, _) => self.cluster.pick(&self.selection),
        }
    }

    async fn back_off(&self, told: Option<Duration>) -> Result<(), Local> {
        let Some(policy) = self.policy() else { return Ok(()) };
        let random = fastrand::u64(..);
        let wait = match told {
            Some(told) => jittered(told, random),
            None => policy.back_off.wait(self.retries(), random),
        };
        self.hold(Instant::now(), tokio::time::sleep(wait))
            .await
            .map_err(|at| self::expired(self.exchange, at))
    }

    fn retries(&self) -> u32 {
        u32::try_from(self.tried.len()).unwrap_or(u32::MAX)
    }

    async fn hold<T>(
        &self,
        try_started: Instant,
        future: impl Future<Output = T>,
    ) -> Result<T, Expired> {
        self.limits.hold(|| self.exchange.progress(try_started), future).await
    }

    /// One try. The outer error is final.
    async fn attempt(
        &mut self,
        endpoint: &Arc<Endpoint>,
        mut request: Box<Request<Body>>,
    ) -> Result<Result<Response<Body>, Miss>, Local> {
        let started = Instant::now();
        self.exchange.attempts += 1;
        self.address(endpoint, &mut request);
        let pools = self.exchange.connection.worker().pools.clone();
        let mut link = None;
        let sent = {
            // Held by a reference, so that it is not moved.
            let sending = pin!(pools.send_by(endpoint, request, &mut link));
            self.hold(started, sending).await
        };
        self.exchange.link = link;
        let took = started.elapsed();
        self.exchange.upstream_wait += took;
        if let Some(observed) = observed(&sent) {
            observe(endpoint, observed);
        }
        let sent = match sent {
            Ok(Ok(response)) => self.check(response).map_err(Some),
            Ok(Err(error)) => Err(Some(self.miss(error)?)),
            Err(expired) => {
                self.count(None, took);
                self.cluster.live.stats.failure(UpstreamFailureKind::Timeout);
                if expired != Expired::PerTry {
                    return Err(self::expired(self.exchange, expired));
                }
                Err(None)
            }
        };
        match sent {
            Ok(response) => {
                self.exchange.answered_at = Some(started + took);
                self.count(Some(response.status()), took);
                Ok(Ok(response))
            }
            Err(miss) => Ok(Err(match miss {
                Some(miss) => {
                    self.count(None, took);
                    miss
                }
                None => Miss {
                    why: Why::PerTryTimeout,
                    failure: Failure::Reset,
                    unsent: None,
                    is_unprocessed: false,
                },
            })),
        }
    }

    /// What a request says of the endpoint and the try.
    fn address(&self, endpoint: &Endpoint, request: &mut Request<Body>) {
        if self.plan.found.virtual_host.include_request_attempt_count {
            request.headers_mut().insert(ATTEMPT_COUNT, HeaderValue::from(self.exchange.attempts));
        }
        if !self.tried.is_empty() {
            let complete = self.exchange.request.completed_at();
            let elapsed = complete.map(|at| at.elapsed()).unwrap_or_default();
            say_timeout(&self.plan, request.headers_mut(), &self.limits, elapsed);
        }
        if !endpoint.config.hostname.is_empty()
            && let Ok(host) = HeaderValue::from_str(&endpoint.config.hostname)
        {
            let keeps_originals = self.plan.adds_envoy_headers() && self.tried.is_empty();
            change_head(request, |head| {
                self.plan.found.rewrite_host_to(head, &host, keeps_originals);
            });
        }
        if endpoint.connector.config.proxy_protocol.is_some() {
            let facts = &self.exchange.connection.facts;
            let remote = self.exchange.origin.map_or(facts.remote, |origin| origin.client);
            request.extensions_mut().insert(Ends { remote, local: facts.local });
        }
    }

    fn check(&self, mut response: Response<Body>) -> Result<Response<Body>, Miss> {
        match guard::response(&mut response, self.plan.is_upgrade) {
            Ok(()) => Ok(response),
            Err(_) => {
                self.cluster.live.stats.failure(UpstreamFailureKind::Protocol);
                Err(Miss {
                    why: Why::UpstreamProtocolError,
                    failure: Failure::Reset,
                    unsent: None,
                    is_unprocessed: false,
                })
            }
        }
    }

    fn count(&self, status: Option<StatusCode>, took: Duration) {
        let stats = &self.cluster.live.stats;
        let attempts = if self.tried.is_empty() { &stats.first_attempts } else { &stats.retries };
        attempts.count(status);
        if status.is_some() {
            stats.duration.record(took);
        }
    }

    /// What a failure means; an error where it is the client's.
    fn miss(&mut self, error: UpstreamError) -> Result<Miss, Local> {
        tracing::debug!(
            cluster = &*self.cluster.config.name,
            error = &error as &dyn std::error::Error,
            "no response"
        );
        if error.reason == UpstreamFailure::Request {
            return Err(self.request_failed());
        }
        self.cluster.live.stats.failure(error.reason.kind());
        let kind = match error.reason {
            UpstreamFailure::Connect => Some("delayed_connect_error"),
            UpstreamFailure::Tls => Some("TLS_error"),
            _ => None,
        };
        if let Some((kind, source)) = kind.zip(error.source.as_ref()) {
            let failure = TransportFailure::new(kind, &source.to_string());
            self.exchange.transport_failure = Some(Box::new(failure));
        }
        Ok(Miss::new(error, &self.exchange.method))
    }

    /// The request's own body broke off.
    fn request_failed(&self) -> Local {
        match self.exchange.request.ended() {
            Some(Ended::Deadline(_)) => Local::new(Why::RequestTimeout),
            Some(Ended::Sender(Break::Closed | Break::Reset | Break::Truncated)) => {
                Local::with_status(Why::ClientClosed, StatusCode::BAD_REQUEST)
            }
            Some(Ended::Sender(Break::Malformed) | Ended::Complete) | None => {
                Local::new(Why::BadRequest)
            }
        }
    }

    fn give_up(&self, miss: &Miss) -> Local {
        Local { was_retried: !self.tried.is_empty(), ..Local::new(miss.why) }
    }
}

/// A limit of the exchange was reached before there was a response.
pub(super) fn expired(exchange: &Exchange, expired: Expired) -> Local {
    let status = if exchange.is_request_complete() {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::REQUEST_TIMEOUT
    };
    match expired {
        Expired::Response => Local::new(Why::UpstreamTimeout),
        Expired::PerTry => Local::new(Why::PerTryTimeout),
        Expired::Idle => Local::with_status(Why::IdleTimeout, status),
        Expired::Request => Local::new(Why::RequestTimeout),
        Expired::Stream => Local::with_status(Why::StreamTimeout, status),
    }
}
