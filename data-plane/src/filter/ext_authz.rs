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
use xds_proto::envoy::extensions::filters::http::ext_authz::v3 as api;
use xds_proto::field::FieldError;

use self::answer::{Allowed, Answer};
use self::http_service::HttpService;
use super::HttpFilter;
use crate::body::Body;
use crate::cluster::Cluster;
use crate::cluster::balancer::Selection;
use crate::filtering::collect::{Collected, collect};
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::filtering::{Verdict, happens, text};
use crate::matcher::StringMatcher;
use crate::telemetry::why::Why;

const ALLOWED_BY_FAILURE: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// Where Envoy leaves what the service says beside its answer.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// Whom to ask, and what follows from the answer.
#[derive(Debug, Clone)]
pub struct ExtAuthz {
    settings: Arc<Settings>,
    service: Arc<Service>,
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
}

/// A service to ask.
#[derive(Debug)]
struct Service {
    cluster: Arc<str>,
    timeout: Duration,
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
        vec![Arc::clone(&self.service.cluster)]
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
        let mut extensions = (*self.extensions).clone();
        for route in routes {
            let RouteAuthz::Check(check) = route else { continue };
            extensions.extend(check.extensions.clone());
            linked.body = if check.has_no_body { None } else { check.body.or(linked.body) };
            if let Some(service) = &check.service {
                linked.service = Arc::clone(service);
            }
        }
        linked.extensions = Arc::new(extensions);
        linked.cluster = linker.cluster(&linked.service.cluster);
        Linked::New(linked)
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        if !happens(self.settings.enabled) {
            if self.settings.denies_others {
                return Verdict::reply(Why::AuthorizationFailed, self.refusal());
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
        let Some(cluster) = &self.cluster else { return Ok(Answer::Failed) };
        let Some(endpoint) = cluster.pick(&Selection::default()) else { return Ok(Answer::Failed) };
        let check = match &self.service.kind {
            ServiceKind::Http(service) => service.request(self, request, &body, stage),
            ServiceKind::Grpc(service) => service.request(self, request, &body, stage),
        };
        let exchange = async {
            let response = stage.proxy.pools.send(&endpoint, check).await;
            let response = response.inspect_err(|error| {
                let error: &dyn std::error::Error = error;
                tracing::debug!(cluster = &*self.service.cluster, error, "nobody to authorize");
            });
            match (&self.service.kind, response) {
                (_, Err(_)) => Answer::Failed,
                (ServiceKind::Http(service), Ok(response)) => service.read(response).await,
                (ServiceKind::Grpc(_), Ok(response)) => grpc::read(response).await,
            }
        };
        let answer = tokio::time::timeout(self.service.timeout, exchange).await;
        Ok(answer.unwrap_or(Answer::Failed))
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
        data.truncate(settings.bytes_max);
        *request.body_mut() = read.into_body();
        Ok(SeenBody { data, is_partial: Some(is_partial), is_raw: settings.is_raw })
    }

    fn follow(
        &self,
        answer: Answer,
        request: &mut Request<Body>,
        stage: &mut Stage<'_>,
    ) -> Verdict {
        match answer {
            Answer::Allowed(mut allowed) => {
                let changes = allowed.change_request(request);
                if changes && self.settings.clears_route {
                    stage.notes.is_route_stale = true;
                }
                if let Some(values) = allowed.metadata.take() {
                    stage.notes.metadata.merge(NAMESPACE, values);
                }
                if allowed.has_response_headers() {
                    stage.remember(ForClient(*allowed));
                }
                Verdict::Continue
            }
            Answer::Denied { status, headers, body, metadata } => {
                if let Some(values) = metadata {
                    stage.notes.metadata.merge(NAMESPACE, values);
                }
                let max = self.settings.denied_body_bytes_max;
                let body = String::from_utf8_lossy(body.get(..max).unwrap_or(&body)).into_owned();
                let mut response = text(status, body);
                set_all(response.headers_mut(), headers);
                Verdict::reply(Why::AuthorizationDenied, response)
            }
            Answer::Failed if self.settings.fails_open => {
                if self.settings.says_failure {
                    let yes = HeaderValue::from_static("true");
                    request.headers_mut().insert(ALLOWED_BY_FAILURE, yes);
                }
                Verdict::Continue
            }
            Answer::Failed => Verdict::reply(Why::AuthorizationFailed, self.refusal()),
        }
    }

    fn refusal(&self) -> Response<Body> {
        text(self.settings.status_on_error, "")
    }
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
