//! Asks a service of yours, by HTTP or gRPC, whether a request may pass.
//!
//! API: `envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`.

mod answer;
mod compile;
mod grpc;
mod http_service;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use serde_json::{Map, Value};
use tokio::time::Instant;
use xds_proto::envoy::extensions::filters::http::ext_authz::v3 as api;
use xds_proto::field::FieldError;

use self::answer::{Allowed, Answer, Refusal};
use self::http_service::HttpService;
use super::HttpFilter;
use crate::body::Body;
use crate::cluster::Cluster;
use crate::filtering::call::Call;
use crate::filtering::collect::{Collected, collect};
use crate::filtering::header_rules::HeaderRules;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::filtering::{Verdict, happens, text};
use crate::matcher::StringMatcher;
use crate::matcher::metadata::MetadataMatcher;
use crate::retry::RetryPolicy;
use crate::telemetry::why::Why;

const ALLOWED_BY_FAILURE: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// Where Envoy leaves what the service says beside its answer.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// Whom to ask, and what follows from the answer.
#[derive(Debug, Clone)]
pub struct ExtAuthz {
    settings: Arc<Settings>,
    /// None where only routes say whom to ask.
    service: Option<Arc<Service>>,
    body: Option<BodySettings>,
    /// What routes have the service told.
    extensions: Arc<BTreeMap<String, String>>,
    cluster: Option<Arc<Cluster>>,
}

#[derive(Debug)]
struct Settings {
    fails_open: bool,
    says_failure: bool,
    status_on_error: StatusCode,
    clears_route: bool,
    /// In how many of a million requests the service is asked.
    enabled: u32,
    /// Whether other requests are refused.
    denies_others: bool,
    /// Which headers the service sees; none is all for gRPC, and few for HTTP.
    allowed: Option<Box<[StringMatcher]>>,
    disallowed: Box<[StringMatcher]>,
    says_certificate: bool,
    says_tls: bool,
    /// Whose dynamic metadata the service sees.
    namespaces: Box<[Box<str>]>,
    denied_body_bytes_max: usize,
    /// The service is asked only where this holds.
    enabled_by: Option<MetadataMatcher>,
    /// Whether what it leaves as metadata is taken.
    takes_metadata: bool,
    /// Whether the service sees header lines as they came.
    is_raw: bool,
    /// Whether changes that no message may have are an error.
    is_strict: bool,
    rules: HeaderRules,
}

/// A service to ask.
#[derive(Debug)]
struct Service {
    cluster: Arc<str>,
    timeout: Duration,
    retry: Option<RetryPolicy>,
    kind: ServiceKind,
}

#[derive(Debug)]
enum ServiceKind {
    Http(HttpService),
    Grpc(grpc::GrpcService),
}

/// How much of the body the service sees.
#[derive(Debug, Clone, Copy)]
struct BodySettings {
    bytes_max: usize,
    takes_part: bool,
    is_raw: bool,
}

/// What a route says.
#[derive(Debug)]
pub enum RouteAuthz {
    /// Nobody is asked.
    Disabled,
    /// Somebody else is asked, or more is said.
    Check(Box<Check>),
}

/// What a route changes.
#[derive(Debug, Default)]
pub struct Check {
    extensions: BTreeMap<String, String>,
    has_no_body: bool,
    body: Option<BodySettings>,
    service: Option<Arc<Service>>,
}

/// The body as far as the service sees it.
#[derive(Debug, Clone, Default)]
struct SeenBody {
    data: Bytes,
    /// Bytes that have come, more perhaps than it sees.
    received: usize,
    /// Whether there is more; none where bodies are not shown.
    is_partial: Option<bool>,
    is_raw: bool,
}

/// Headers for the client, where the request passes.
struct ForClient(Allowed);

impl HttpFilter for ExtAuthz {
    type Config = api::ExtAuthz;
    type RouteConfig = api::ExtAuthzPerRoute;
    type Route = RouteAuthz;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        compile::compile(config)
    }

    fn compile_route(config: Self::RouteConfig) -> Result<RouteAuthz, FieldError> {
        compile::route(config)
    }

    fn clusters(&self) -> Vec<Arc<str>> {
        self.service.iter().map(|service| Arc::clone(&service.cluster)).collect()
    }

    fn route_clusters(route: &RouteAuthz) -> Vec<Arc<str>> {
        match route {
            RouteAuthz::Disabled => Vec::new(),
            RouteAuthz::Check(check) => {
                check.service.iter().map(|service| Arc::clone(&service.cluster)).collect()
            }
        }
    }

    fn link(&self, routes: &[&RouteAuthz], linker: &mut Linker<'_>) -> Linked<Self> {
        if matches!(routes.last(), Some(RouteAuthz::Disabled)) {
            return Linked::Off;
        }
        let mut linked = self.clone();
        let mut checks = routes.iter().filter_map(|route| match route {
            RouteAuthz::Disabled => None,
            RouteAuthz::Check(check) => Some(check),
        });
        // The extensions of all levels are told; all else the most specific level says.
        let extensions = checks.clone().flat_map(|check| check.extensions.clone());
        linked.extensions = Arc::new(extensions.collect());
        if let Some(check) = checks.next_back() {
            linked.body = if check.has_no_body { None } else { check.body.or(linked.body) };
            linked.service = check.service.clone().or(linked.service);
        }
        let service = linked.service.as_ref();
        linked.cluster = service.and_then(|service| linker.cluster(&service.cluster));
        Linked::New(linked)
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        let settings = &self.settings;
        let is_meant = |by: &MetadataMatcher| by.matches(&stage.notes.metadata);
        if !happens(settings.enabled) || !settings.enabled_by.as_ref().is_none_or(is_meant) {
            if settings.denies_others {
                return Verdict::reply(Why::AuthorizationFailed, self.refuse(Refusal::default()));
            }
            return Verdict::Continue;
        }
        // Boxed: the futures of all filters are as large as the largest of them.
        match Box::pin(self.ask(request, stage)).await {
            Ok(answer) => self.follow(answer, request, stage),
            Err(why) => Verdict::refuse(why),
        }
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        if let Some(ForClient(allowed)) = stage.recall() {
            allowed.change_response(response.headers_mut());
        }
    }
}

impl ExtAuthz {
    /// What the service says.
    ///
    /// # Errors
    /// Why the request itself is refused.
    async fn ask(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Result<Answer, Why> {
        let body = self.take_in(request).await?;
        let Some((service, cluster)) = self.service.as_deref().zip(self.cluster.as_ref()) else {
            return Ok(Answer::Failed(None));
        };
        let timeout = service.timeout;
        let check = match &service.kind {
            ServiceKind::Http(http) => http.request(self, (request, timeout), &body, stage),
            ServiceKind::Grpc(grpc) => grpc.request(self, (request, timeout), &body, stage),
        };
        let retry = service.retry.as_ref();
        let call = Call { pools: stage.proxy.pools, cluster, timeout, retry };
        let began = Instant::now();
        let exchange = async {
            let Some(response) = call.ask(check).await else { return Answer::Failed(None) };
            match &service.kind {
                ServiceKind::Http(http) => http.read(response).await,
                ServiceKind::Grpc(_) => grpc::read(response, self.settings.is_strict).await,
            }
        };
        let answer = tokio::time::timeout(timeout, exchange).await;
        let mut answer = answer.unwrap_or(Answer::Failed(None));
        answer.note_duration(began.elapsed());
        Ok(answer)
    }

    /// Reads the body, as far as the service is to see it.
    async fn take_in(&self, request: &mut Request<Body>) -> Result<SeenBody, Why> {
        let has_none = request.body().is_empty() || request.headers().contains_key(UPGRADE);
        let Some(settings) = self.body.filter(|_| !has_none) else {
            return Ok(SeenBody::default());
        };
        let body = std::mem::take(request.body_mut());
        let read = collect(body, settings.bytes_max).await.map_err(|_| Why::BadRequest)?;
        let is_partial = matches!(read, Collected::Start { .. });
        if is_partial && !settings.takes_part {
            return Err(Why::PayloadTooLarge);
        }
        let mut data = read.data().clone();
        let received = data.len();
        data.truncate(settings.bytes_max);
        *request.body_mut() = read.into_body();
        Ok(SeenBody { data, received, is_partial: Some(is_partial), is_raw: settings.is_raw })
    }

    fn follow(
        &self,
        answer: Answer,
        request: &mut Request<Body>,
        stage: &mut Stage<'_>,
    ) -> Verdict {
        match answer {
            Answer::Allowed(mut allowed) => {
                let changes = allowed.has_request_changes();
                if !allowed.change_request(request, &self.settings.rules) {
                    return invalid();
                }
                if changes && self.settings.clears_route {
                    stage.notes.is_route_stale = true;
                }
                self.leave(allowed.metadata.take(), stage);
                if allowed.has_response_headers() {
                    stage.remember(ForClient(*allowed));
                }
                Verdict::Continue
            }
            Answer::Denied(mut refusal) => {
                self.leave(refusal.metadata.take(), stage);
                Verdict::reply(Why::AuthorizationDenied, self.refuse(*refusal))
            }
            Answer::Failed(_) if self.settings.fails_open => {
                if self.settings.says_failure {
                    let yes = HeaderValue::from_static("true");
                    request.headers_mut().insert(ALLOWED_BY_FAILURE, yes);
                }
                Verdict::Continue
            }
            Answer::Failed(refusal) => {
                let refusal = refusal.map(|refusal| *refusal).unwrap_or_default();
                Verdict::reply(Why::AuthorizationFailed, self.refuse(refusal))
            }
            Answer::Invalid => invalid(),
        }
    }

    fn leave(&self, metadata: Option<Map<String, Value>>, stage: &mut Stage<'_>) {
        if let Some(values) = metadata.filter(|_| self.settings.takes_metadata) {
            stage.notes.metadata.merge(NAMESPACE, values);
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        let Refusal { status, headers, body, metadata: _ } = refusal;
        let max = self.settings.denied_body_bytes_max;
        let body = String::from_utf8_lossy(body.get(..max).unwrap_or(&body)).into_owned();
        let mut response = text(status.unwrap_or(self.settings.status_on_error), body);
        set_all(response.headers_mut(), headers);
        response
    }
}

/// The reply where the service wants what may not be.
fn invalid() -> Verdict {
    let response = text(StatusCode::INTERNAL_SERVER_ERROR, "");
    Verdict::reply(Why::AuthorizationFailed, response).detailed("ext_authz_invalid")
}

impl Settings {
    /// Whether the service sees this header, `by_default` where nothing is said of it.
    fn shows(&self, name: &str, by_default: bool) -> bool {
        let is_in = |list: &[StringMatcher]| list.iter().any(|one| one.matches(name.as_bytes()));
        !is_in(&self.disallowed)
            && (by_default || self.allowed.as_ref().is_some_and(|allowed| is_in(allowed)))
    }
}

/// Replaces headers; several lines of one name stay several lines.
fn set_all(headers: &mut HeaderMap, new: HeaderMap) {
    for name in new.keys() {
        headers.remove(name);
    }
    headers.extend(new);
}

#[cfg(test)]
mod tests;
