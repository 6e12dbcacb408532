//! Delays, breaks off and slows down requests on purpose, to see how others take it.
//!
//! API: `envoy.extensions.filters.http.fault.v3.HTTPFault`.

mod compile;
mod throttle;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use http::{Request, Response, StatusCode};
use xds_proto::envoy::extensions::filters::http::fault::v3 as api;
use xds_proto::field::FieldError;

use self::throttle::Throttled;
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::filtering::{self, Verdict, is_grpc};
use crate::matcher::header::HeaderMatcher;
use crate::telemetry::why::Why;

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_PERCENTAGE: HeaderName =
    HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_PERCENTAGE: HeaderName =
    HeaderName::from_static("x-envoy-fault-abort-request-percentage");
const THROUGHPUT: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response");
const THROUGHPUT_PERCENTAGE: HeaderName =
    HeaderName::from_static("x-envoy-fault-throughput-response-percentage");
const DOWNSTREAM_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");

/// What Envoy's flag for a delay is.
const DELAYED: &str = "DI";

/// Which faults, and when.
#[derive(Debug, Clone)]
pub struct Fault {
    settings: Arc<Settings>,
    /// Requests that have one now.
    active: Arc<AtomicU32>,
}

#[derive(Debug, Default)]
pub(super) struct Settings {
    delay: Option<Delay>,
    abort: Option<Abort>,
    throttle: Option<Throttle>,
    cluster: Box<str>,
    headers: Box<[HeaderMatcher]>,
    nodes: Box<[Box<str>]>,
    active_max: Option<u32>,
}

#[derive(Debug)]
struct Delay {
    /// None: the request says it.
    time: Option<Duration>,
    chance: Chance,
}

#[derive(Debug)]
struct Abort {
    how: AbortKind,
    chance: Chance,
    body: Box<str>,
}

#[derive(Debug)]
enum AbortKind {
    Http(StatusCode),
    Grpc(u32),
    /// The request says it.
    Header,
}

#[derive(Debug)]
struct Throttle {
    /// KiB a second; none: the request says it.
    kib: Option<u64>,
    chance: Chance,
}

/// In how many of `whole` requests; the request may ask for fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chance {
    part: u32,
    whole: u32,
}

/// How slow the response is to be.
struct SlowDown(u64);

/// A request that has a fault, while it lasts.
#[derive(Debug)]
struct Active(Arc<AtomicU32>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpFilter for Fault {
    type Config = api::HttpFault;
    type RouteConfig = api::HttpFault;
    type Route = Self;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        let settings = Arc::new(compile::compile(config)?);
        Ok(Self { settings, active: Arc::default() })
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self, FieldError> {
        Self::compile(config)
    }

    fn link(&self, routes: &[&Self], linker: &mut Linker<'_>) -> Linked<Self> {
        let settings = routes.last().map_or(&self.settings, |route| &route.settings);
        let active = linker.keep(AtomicU32::default);
        Linked::New(Self { settings: Arc::clone(settings), active })
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        if !self.settings.covers(request, stage) {
            return Verdict::Continue;
        }
        let mut is_counted = false;
        if let Some(kib) = self.settings.throttle(request.headers())
            && self.take(stage, &mut is_counted)
        {
            stage.remember(SlowDown(kib));
        }
        if let Some(time) = self.settings.delay(request.headers())
            && self.take(stage, &mut is_counted)
        {
            stage.notes.flags.push(DELAYED);
            tokio::time::sleep(time).await;
        }
        if let Some(response) = self.settings.abort(request.headers())
            && self.take(stage, &mut is_counted)
        {
            return Verdict::reply(Why::FaultAbort, response);
        }
        Verdict::Continue
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        if let Some(SlowDown(kib)) = stage.recall() {
            let kib = *kib;
            let body = std::mem::take(response.body_mut());
            *response.body_mut() = body.wrapped(|body| Throttled::new(body, kib));
        }
    }
}

impl Fault {
    /// Whether one more request may have a fault; counts it until it ends.
    fn take(&self, stage: &mut Stage<'_>, is_counted: &mut bool) -> bool {
        if *is_counted {
            return true;
        }
        let max = self.settings.active_max.unwrap_or(u32::MAX);
        let add = |active: u32| (active < max).then(|| active + 1);
        if self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            return false;
        }
        stage.remember(Active(Arc::clone(&self.active)));
        *is_counted = true;
        true
    }
}

impl Settings {
    fn covers(&self, request: &Request<Body>, stage: &Stage<'_>) -> bool {
        let node = || request.headers().get(DOWNSTREAM_NODE).map(|node| node.as_bytes());
        let view = stage.view(request);
        (self.cluster.is_empty() || *self.cluster == *stage.facts.cluster)
            && (self.nodes.is_empty()
                || self.nodes.iter().any(|known| Some(known.as_bytes()) == node()))
            && self.headers.iter().all(|matcher| matcher.matches(&view))
    }

    fn delay(&self, headers: &HeaderMap) -> Option<Duration> {
        let delay = self.delay.as_ref()?;
        let time = match delay.time {
            Some(time) => time,
            None => Duration::from_millis(number(headers, &DELAY)?),
        };
        let asked = delay.time.is_none().then(|| number(headers, &DELAY_PERCENTAGE)).flatten();
        delay.chance.happens(asked).then_some(time)
    }

    fn throttle(&self, headers: &HeaderMap) -> Option<u64> {
        let throttle = self.throttle.as_ref()?;
        let kib = throttle.kib.or_else(|| number(headers, &THROUGHPUT)).filter(|kib| *kib > 0)?;
        let is_asked = throttle.kib.is_none();
        let asked = is_asked.then(|| number(headers, &THROUGHPUT_PERCENTAGE)).flatten();
        throttle.chance.happens(asked).then_some(kib)
    }

    /// The reply that breaks a request off.
    fn abort(&self, headers: &HeaderMap) -> Option<Response<Body>> {
        let abort = self.abort.as_ref()?;
        let (status, grpc) = match abort.how {
            AbortKind::Http(status) => (Some(status), None),
            AbortKind::Grpc(code) => (None, Some(code)),
            AbortKind::Header => (
                number(headers, &ABORT)
                    .and_then(|status| u16::try_from(status).ok())
                    .filter(|status| (200..600).contains(status))
                    .and_then(|status| StatusCode::from_u16(status).ok()),
                number(headers, &ABORT_GRPC).and_then(|code| u32::try_from(code).ok()),
            ),
        };
        let is_header = matches!(abort.how, AbortKind::Header);
        let asked = is_header.then(|| number(headers, &ABORT_PERCENTAGE)).flatten();
        if (status.is_none() && grpc.is_none()) || !abort.chance.happens(asked) {
            return None;
        }
        Some(match (status, grpc) {
            (None, Some(code)) if is_grpc(headers) => filtering::grpc(code, &abort.body),
            // A gRPC status says nothing to others, and is told as a success, as Envoy does.
            (status, _) => filtering::text(status.unwrap_or(StatusCode::OK), &*abort.body),
        })
    }
}

impl Chance {
    /// Whether it happens; the request may ask for a smaller part.
    fn happens(self, asked: Option<u64>) -> bool {
        let asked = asked.and_then(|asked| u32::try_from(asked).ok());
        let part = asked.map_or(self.part, |asked| asked.min(self.part));
        part >= self.whole || (part > 0 && fastrand::u32(..self.whole) < part)
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filtering::keep::testing::alone;
    use crate::filtering::stage::testing::Scene;

    fn filter(text: &str) -> Fault {
        Fault::compile(from_yaml(text).unwrap()).unwrap()
    }

    async fn ask(filter: &Fault, scene: &mut Scene, lines: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder();
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        match filter.on_request(&mut request, &mut scene.stage()).await {
            Verdict::Continue => None,
            Verdict::Reply(reply) => Some(reply.response.status().as_u16()),
        }
    }

    #[tokio::test]
    async fn requests_are_broken_off_by_chance() {
        let (always, never) = ("{numerator: 100}", "{numerator: 0}");
        for (percentage, want) in [(always, Some(418)), (never, None)] {
            let filter = filter(&format!("abort: {{http_status: 418, percentage: {percentage}}}"));
            assert_eq!(ask(&filter, &mut Scene::default(), &[]).await, want);
        }
        let half = Chance { part: 5_000, whole: 10_000 };
        let hits = (0..1000).filter(|_| half.happens(None)).count();
        assert!((350..650).contains(&hits), "{hits}");
        assert!(!half.happens(Some(0)));
    }

    #[tokio::test]
    async fn a_request_may_say_how_it_is_broken_off() {
        let filter = filter("abort: {header_abort: {}, percentage: {numerator: 100}}");
        for (lines, want) in [
            (&[][..], None),
            (&[("x-envoy-fault-abort-request", "503")], Some(503)),
            (&[("x-envoy-fault-abort-request", "100")], None),
            (&[("x-envoy-fault-abort-grpc-request", "5")], Some(200)),
            (
                &[
                    ("x-envoy-fault-abort-request", "503"),
                    ("x-envoy-fault-abort-request-percentage", "0"),
                ],
                None,
            ),
            (
                &[("x-envoy-fault-abort-grpc-request", "5"), ("content-type", "application/grpc")],
                Some(200),
            ),
        ] {
            assert_eq!(ask(&filter, &mut Scene::default(), lines).await, want, "{lines:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_comes_before_anything_else() {
        let filter = filter(
            "{delay: {fixed_delay: 2s, percentage: {numerator: 100}},
              abort: {http_status: 500, percentage: {numerator: 100}}}",
        );
        let (mut scene, started) = (Scene::default(), Instant::now());
        assert_eq!(ask(&filter, &mut scene, &[]).await, Some(500));
        assert_eq!(started.elapsed().as_secs(), 2);
        assert_eq!(scene.notes.flags, ["DI"]);
    }

    #[tokio::test]
    async fn only_the_requests_meant_have_a_fault() {
        let filter = filter(
            "{abort: {http_status: 500, percentage: {numerator: 100}}, upstream_cluster: c,
              headers: [{name: x, present_match: true}], downstream_nodes: [n]}",
        );
        let mut scene = Scene::default();
        scene.facts.cluster = "c";
        let meant = [("x", "1"), ("x-envoy-downstream-service-node", "n")];
        assert_eq!(ask(&filter, &mut scene, &meant).await, Some(500));
        assert_eq!(ask(&filter, &mut scene, &meant[..1]).await, None);
        assert_eq!(ask(&filter, &mut scene, &meant[1..]).await, None);
        scene.facts.cluster = "d";
        assert_eq!(ask(&filter, &mut scene, &meant).await, None);
    }

    #[tokio::test]
    async fn no_more_requests_than_allowed_have_one_at_a_time() {
        let base = filter(
            "{abort: {http_status: 500, percentage: {numerator: 100}}, max_active_faults: 1}",
        );
        let filter = alone(|linker| base.link(&[], linker)).made().unwrap();
        let mut first = Scene::default();
        assert_eq!(ask(&filter, &mut first, &[]).await, Some(500));
        assert_eq!(ask(&filter, &mut Scene::default(), &[]).await, None);
        drop(first);
        assert_eq!(ask(&filter, &mut Scene::default(), &[]).await, Some(500));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, want) in [
            ("{abort: {http_status: 600}}", "abort.http_status: must be 200 to 599"),
            ("{abort: {grpc_status: 17}}", "abort.grpc_status: must be at most 16"),
            ("{abort: {}}", "abort.error_type: required"),
            ("{delay: {fixed_delay: 0s}}", "delay.fixed_delay: must be above 0"),
        ] {
            let error = Fault::compile(from_yaml(text).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }
}
