//! One request and its response: what the log and the numbers will say of them.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Extensions, Method, Request, StatusCode, Uri, Version, request};
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use xds_proto::convert::Address;

use super::connection::{ChainView, Connection};
use super::deadline::Progress;
use super::edge::{Origin, REQUEST_ID};
use super::log;
use crate::body::{Activity, Body, Break, DeadlineKind, Ended, Meter};
use crate::cluster::Cluster;
use crate::cluster::endpoints::Endpoint;
use crate::cluster::pool::Link;
use crate::filtering::is_grpc;
use crate::filtering::stage::Notes;
use crate::format::{Context, Flags};
use crate::framing::http2;
use crate::listener::FilterChain;
use crate::listener::routing::FilterPlace;
use crate::listener::scopes::ScopeNumber;
use crate::route::Found;
use crate::telemetry::stats::RouteStats;
use crate::telemetry::why::Why;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// One request and its response. Dropped, it is over: then it is counted and logged.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) connection: Rc<Connection>,
    pub(super) view: ChainView,
    pub(super) started: Instant,
    /// Found out where it is asked for, and the same from then on.
    started_at: OnceCell<SystemTime>,
    pub(super) version: Version,
    pub(super) method: Method,
    /// Its head could not be read: method and path are not the client's.
    pub(super) is_unread: bool,
    /// An HTTP/1 connection ends with it.
    pub(super) ends_connection: bool,
    /// Whether the client speaks gRPC.
    pub(super) is_grpc: bool,
    /// Path and query as the client sent them, canonical.
    pub(super) uri: Uri,
    /// The headers as they were sent upstream; before that, as they came.
    pub(super) headers: HeaderMap,
    /// The method as it was sent upstream: filters may change it.
    pub(super) sent_method: Method,
    /// Path and query as they were sent upstream.
    pub(super) sent_uri: Option<Uri>,
    /// How the names of its headers are written, where that is kept.
    pub(super) sent_case: Option<Extensions>,
    pub(super) host: Option<HeaderValue>,
    pub(super) origin: Option<Origin>,
    pub(super) activity: Rc<Activity>,
    pub(super) request: Rc<Meter>,
    pub(super) response: Rc<Meter>,
    pub(super) route: Option<RouteNames>,
    pub(super) why: Option<Why>,
    /// All retries that the policy allows were made, and the last try failed too.
    pub(super) is_exhausted: bool,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// The connection that the request went upstream by.
    pub(super) link: Option<Rc<Link>>,
    /// Why no connection came about.
    pub(super) transport_failure: Option<Box<TransportFailure>>,
    /// When upstream answered.
    pub(super) answered_at: Option<Instant>,
    pub(super) attempts: u32,
    /// Time spent waiting for heads from upstream.
    pub(super) upstream_wait: Duration,
    pub(super) head: Option<ResponseHead>,
    /// Which filters the request has.
    pub(super) filters: FilterPlace,
    /// What they left.
    pub(super) notes: Notes,
    /// Which route table it has.
    pub(super) scope: ScopeNumber,
    /// It began again once, with a newer configuration.
    pub(super) has_restarted: bool,
    route_stats: Option<Arc<RouteStats>>,
}

#[derive(Debug)]
pub(super) struct RouteNames {
    pub(super) route: Arc<str>,
    pub(super) virtual_host: Arc<str>,
}

/// Why no connection came about, in Envoy's form.
#[derive(Debug)]
pub(super) struct TransportFailure {
    text: Box<str>,
    details: Box<str>,
}

impl TransportFailure {
    pub(super) fn new(kind: &str, reason: &str) -> Self {
        // What the system adds is its number.
        let reason = reason.split(" (os error").next().unwrap_or_default();
        let text = format!("{kind}: {reason}").replace(' ', "_");
        let details =
            format!("upstream_reset_before_response_started{{remote_connection_failure|{text}}}");
        Self { text: text.into(), details: details.into() }
    }
}

/// What is kept of the head of the response.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) at: Instant,
    pub(super) grpc_status: Option<HeaderValue>,
    /// Kept where an access log may ask for them.
    pub(super) headers: Option<HeaderMap>,
}

impl Exchange {
    pub(super) fn new(connection: &Rc<Connection>, head: &request::Parts) -> Box<Self> {
        let view = connection.view();
        view.stats().requests_active.increment();
        connection.request_began();
        if let Some(chain) = view.chain() {
            connection.count_request(chain.config.http.options.requests_max);
        }
        connection.flow.begin(false);
        let activity = Activity::new();
        Box::new(Self {
            connection: Rc::clone(connection),
            view,
            started: activity.last(),
            started_at: OnceCell::new(),
            version: head.version,
            method: head.method.clone(),
            is_unread: false,
            ends_connection: false,
            is_grpc: is_grpc(&head.headers),
            uri: head.uri.clone(),
            headers: HeaderMap::new(),
            sent_method: head.method.clone(),
            sent_uri: None,
            sent_case: None,
            host: None,
            origin: None,
            request: Meter::new(Rc::clone(&activity)),
            response: Meter::new(Rc::clone(&activity)),
            activity,
            route: None,
            why: None,
            is_exhausted: false,
            cluster: None,
            endpoint: None,
            link: None,
            transport_failure: None,
            answered_at: None,
            attempts: 0,
            upstream_wait: Duration::ZERO,
            head: None,
            filters: FilterPlace::default(),
            notes: Notes::default(),
            scope: ScopeNumber::default(),
            has_restarted: false,
            route_stats: None,
        })
    }

    /// A request whose head could not be read; `head` only stands for it.
    pub(super) fn unread(connection: &Rc<Connection>, head: &request::Parts) -> Box<Self> {
        let mut exchange = Self::new(connection, head);
        exchange.is_unread = true;
        exchange.request.complete();
        exchange
    }

    /// Notes the request as it was let in.
    pub(super) fn note_request(&mut self, request: &Request<Body>, origin: Origin) {
        self.uri = request.uri().clone();
        self.host = request.headers().get(HOST).cloned();
        self.origin = Some(origin);
    }

    /// Begins again with the present configuration.
    pub(super) fn restart(&mut self) {
        self.has_restarted = true;
        self.view = self.connection.view();
        (self.notes, self.filters) = (Notes::default(), FilterPlace::default());
        self.scope = ScopeNumber::default();
    }

    /// Notes the request as it goes upstream.
    pub(super) fn note_sent(&mut self, request: &Request<Body>) {
        self.headers = request.headers().clone();
        self.sent_method.clone_from(request.method());
        self.sent_uri = Some(request.uri().clone());
        if self.view.chain().is_some_and(|chain| chain.config.http.options.http1.keeps_case) {
            let mut written = request.extensions().clone();
            written.remove::<OnUpgrade>();
            self.sent_case = Some(written);
        }
    }

    /// Notes which route it took, or that there was none.
    pub(super) fn note_route(&mut self, chain: &FilterChain, found: Option<&Found<'_>>) {
        let registry = &self.connection.worker().settings.registry;
        self.route_stats = Some(Arc::clone(chain.routing(self.scope).stats(found, registry)));
        self.route = found.map(|found| RouteNames {
            route: Arc::clone(&found.route.name),
            virtual_host: Arc::clone(&found.virtual_host.name),
        });
    }

    /// Notes the head of the response. Its headers are kept where an access log may ask for them.
    pub(super) fn note_response(&mut self, status: StatusCode, headers: &HeaderMap) {
        let has_logs = self.view.chain().is_some_and(|chain| !chain.logs.is_empty());
        if has_logs {
            self.response.keep_trailers();
        }
        self.head = Some(ResponseHead {
            status,
            at: Instant::now(),
            grpc_status: self.is_grpc.then(|| headers.get(GRPC_STATUS).cloned()).flatten(),
            headers: has_logs.then(|| headers.clone()),
        });
    }

    /// How far it has come.
    pub(super) fn progress(&self, try_started: Instant) -> Progress {
        Progress {
            started: self.started,
            request_complete: self.request.completed_at(),
            active: self.activity.last(),
            try_started,
        }
    }

    /// Whether the whole request has come.
    pub(super) fn is_request_complete(&self) -> bool {
        self.request.completed_at().is_some()
    }

    /// When it began, by the clock on the wall.
    pub(super) fn started_at(&self) -> SystemTime {
        *self.started_at.get_or_init(|| SystemTime::now() - self.started.elapsed())
    }

    pub(super) fn request_id(&self) -> Option<&HeaderValue> {
        self.headers.get(REQUEST_ID)
    }

    pub(super) fn user_agent(&self) -> Option<&HeaderValue> {
        self.headers.get(USER_AGENT)
    }

    /// What format strings read.
    pub(super) fn context(&self) -> Context<'_> {
        let facts = &self.connection.facts;
        let client = self.origin.map_or(facts.remote, |origin| origin.client);
        let is_https = self.origin.is_some_and(|origin| origin.is_https);
        let head = self.head.as_ref();
        Context {
            request_headers: Some(&self.headers),
            response_headers: head.and_then(|head| head.headers.as_ref()),
            response_trailers: self.response.trailers(),
            method: (!self.is_unread).then_some(&self.method),
            path: if self.is_unread {
                ""
            } else {
                path_of(self.sent_uri.as_ref().unwrap_or(&self.uri))
            },
            host: self.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
            scheme: if is_https { "https" } else { "http" },
            protocol: Some(self.version),
            upstream_protocol: self.link.as_ref().map(|link| link.protocol),
            upstream_local: self.link.as_ref().and_then(|link| link.local.as_ref()),
            transport_failure: self.transport_failure.as_ref().map_or("", |failure| &failure.text),
            response_code: head.map(|head| head.status.as_u16()),
            details: self.details(),
            start: Some(self.started_at()),
            remote: Some(client),
            direct_remote: Some(facts.peer),
            local: Some(facts.local),
            endpoint: self.endpoint.as_deref().and_then(socket_address),
            cluster: self.cluster.as_ref().map_or("", |cluster| &cluster.config.name),
            attempts: self.attempts,
            route_name: self.route.as_ref().map_or("", |route| &route.route),
            virtual_host: self.route.as_ref().map_or("", |route| &route.virtual_host),
            bytes_received: self.request.bytes(),
            bytes_sent: self.response.bytes(),
            server_name: facts.server_name.as_deref().unwrap_or_default(),
            tls_version: self.connection.tls_version.get(),
            hostname: &self.connection.worker().settings.hostname,
            is_grpc: self.is_grpc,
            is_health_check: self.notes.is_health_check,
            lookup: Some(self),
            flags: self.flags(),
            metadata: Some(&self.notes.metadata),
            ..Context::default()
        }
    }

    /// Envoy's words for who answered, and why so.
    fn details(&self) -> &str {
        match (&self.notes.details, self.why, &self.transport_failure) {
            (Some(details), ..) => details,
            (None, Some(Why::UpstreamConnectFailed | Why::UpstreamTlsFailed), Some(failure)) => {
                &failure.details
            }
            (None, Some(why), _) => why.facts().details,
            // Before there is a response nothing is known of how it came about.
            (None, None, _) if self.head.is_none() => "",
            (None, None, _) => "via_upstream",
        }
    }

    /// Envoy's flags of what went wrong.
    pub(super) fn flags(&self) -> Flags<'_> {
        let own = self.why.map_or("", |why| why.facts().flag);
        let exhausted = if self.is_exhausted { Why::RetriesExhausted.facts().flag } else { "" };
        Flags { noted: &self.notes.flags, ends: [exhausted, own] }
    }

    /// Why a response that began did not end, if so.
    fn note_end(&mut self) {
        let interrupted = match (&self.head, self.response.ended()) {
            (Some(_), Some(Ended::Complete)) => return,
            (None, _) | (Some(_), None) if let Some(fault) = self.connection.fault() => {
                self.notes.details = Some(http2::details(fault).into());
                Why::ClientFault
            }
            (None, _) | (Some(_), None) if self.connection.has_streams() => Why::ClientReset,
            (None, _) | (Some(_), None) => Why::ClientClosed,
            (Some(_), Some(Ended::Sender(Break::Reset))) => Why::ResponseReset,
            (Some(_), Some(Ended::Sender(Break::Closed))) => Why::ResponseClosed,
            (Some(_), Some(Ended::Sender(Break::Truncated | Break::Malformed))) => {
                Why::ResponseBroken
            }
            (Some(_), Some(Ended::Deadline(DeadlineKind::Idle))) => Why::IdleTimeout,
            (Some(_), Some(Ended::Deadline(DeadlineKind::Overall))) => Why::UpstreamTimeout,
        };
        self.why = Some(interrupted);
    }

    fn count(&self, took: Duration) {
        let Some(stats) = &self.route_stats else { return };
        stats.requests.count(self.head.as_ref().map(|head| head.status));
        stats.duration.record(took);
        stats.gateway_duration.record(self.gateway_time());
        stats.request_body_bytes.add(self.request.bytes());
        stats.response_body_bytes.add(self.response.bytes());
    }

    /// Counts a reply of our own.
    pub(super) fn count_local_reply(&self, why: Why) {
        if let Some(stats) = &self.route_stats {
            stats.local_reply(why);
        }
    }

    /// Time spent in the gateway itself: until the head of the response, without the wait for it.
    pub(super) fn gateway_time(&self) -> Duration {
        let head = self.head.as_ref().map_or_else(Instant::now, |head| head.at);
        head.duration_since(self.started).saturating_sub(self.upstream_wait)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.note_end();
        let now = Instant::now();
        let took = now.duration_since(self.started);
        self.count(took);
        log::write(self, took);
        if self.version < Version::HTTP_2 {
            self.connection.flow.end();
        } else {
            let is_unanswered = self.head.is_none() && self.why == Some(Why::ClientReset);
            self.connection.stream_ended(is_unanswered, took);
        }
        self.view.stats().requests_active.decrement();
        self.connection.request_ended(now);
    }
}

pub(super) fn socket_address(endpoint: &Endpoint) -> Option<SocketAddr> {
    match &endpoint.config.address {
        Address::Ip(address) => Some(*address),
        Address::Name(..) | Address::Pipe(_) => None,
    }
}

pub(super) fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}
