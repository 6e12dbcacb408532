//! Answers health checks of those in front, or notes what the endpoints behind say to them.
//!
//! API: `envoy.extensions.filters.http.health_check.v3.HealthCheck`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::extensions::filters::http::health_check::v3 as api;
use xds_proto::envoy::r#type::v3::Percent;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use super::HttpFilter;
use crate::body::Body;
use crate::cluster::Cluster;
use crate::cluster::endpoints::Health;
use crate::filtering::collect::collect;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::filtering::{Verdict, text};
use crate::matcher::compile;
use crate::matcher::header::HeaderMatcher;
use crate::telemetry::why::Why;

const CLUSTER: HeaderName = HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const FAILS: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

/// What Envoy's flag for a failed health check is.
const FAILED: &str = "LH";

/// A health check is read to its end; it has no business to be longer.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Which requests are health checks, and what they are told.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    headers: Arc<[HeaderMatcher]>,
    passes_through: bool,
    /// How long the answer of an endpoint counts for others.
    cache_time: Duration,
    /// The least part of healthy endpoints, in per cent, by cluster.
    clusters: Arc<[(Arc<str>, f64)]>,
    linked: Arc<[Option<Arc<Cluster>>]>,
    cache: Option<Arc<Cache>>,
}

/// The last answer of an endpoint.
#[derive(Debug)]
struct Cache {
    began: Instant,
    /// Milliseconds since then, and the status in the lowest 16 bits; 0 is none.
    answer: AtomicU64,
}

/// The request is a health check.
struct IsCheck {
    /// Whether an earlier answer was good enough.
    is_cached: bool,
}

impl HttpFilter for HealthCheck {
    type Config = api::HealthCheck;
    type RouteConfig = Self::Config;
    type Route = Infallible;
    const IS_FOR_ROUTES: bool = false;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::HealthCheck,
            read: [pass_through_mode, cache_time, cluster_min_healthy_percentages, headers],
            ignore: [],
            refuse: [],
        );
        let passes_through = required(pass_through_mode, "pass_through_mode")?.value;
        let cache_time = optional_duration(cache_time.as_ref(), "cache_time")?.unwrap_or_default();
        if !passes_through && !cache_time.is_zero() {
            return Err(FieldError::invalid("needs pass_through_mode")).at("cache_time");
        }
        if passes_through && !cluster_min_healthy_percentages.is_empty() {
            let error = FieldError::invalid("cannot go with pass_through_mode");
            return Err(error).at("cluster_min_healthy_percentages");
        }
        let clusters = cluster_min_healthy_percentages.into_iter();
        let percent = |(name, least): (String, Percent)| {
            if !(0.0..=100.0).contains(&least.value) {
                return Err(FieldError::invalid("must be 0 to 100")).at_key(&name);
            }
            Ok((name.into(), least.value))
        };
        let clusters: Result<Vec<(Arc<str>, f64)>, _> = clusters.map(percent).collect();
        let mut clusters = clusters.at("cluster_min_healthy_percentages")?;
        clusters.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self {
            headers: each(headers, "headers", compile::header)?.into(),
            passes_through,
            cache_time,
            linked: [].into(),
            clusters: clusters.into(),
            cache: None,
        })
    }

    fn clusters(&self) -> Vec<Arc<str>> {
        self.clusters.iter().map(|(name, _)| Arc::clone(name)).collect()
    }

    fn link(&self, _: &[&Infallible], linker: &mut Linker<'_>) -> Linked<Self> {
        let caches = !self.cache_time.is_zero();
        if self.clusters.is_empty() && !caches {
            return Linked::Same;
        }
        let make = || Cache { began: Instant::now(), answer: AtomicU64::new(0) };
        Linked::New(Self {
            linked: self.clusters.iter().map(|(name, _)| linker.cluster(name)).collect(),
            cache: caches.then(|| linker.keep(make)),
            ..self.clone()
        })
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        let view = stage.view(request);
        if !self.headers.iter().all(|matcher| matcher.matches(&view)) {
            return Verdict::Continue;
        }
        let cached = self.cache.as_ref().and_then(|cache| cache.status(self.cache_time));
        stage.notes.is_health_check = true;
        stage.remember(IsCheck { is_cached: cached.is_some() });
        let (status, details) = match (self.passes_through, cached) {
            _ if stage.proxy.is_draining => {
                (StatusCode::SERVICE_UNAVAILABLE, "health_check_failed")
            }
            (true, None) => return Verdict::Continue,
            (true, Some(status)) => (status, "health_check_cached"),
            (false, _) => self.judge(),
        };
        if !request.body().is_empty()
            && collect(std::mem::take(request.body_mut()), BODY_BYTES_MAX).await.is_err()
        {
            return Verdict::refuse(Why::BadRequest);
        }
        if !status.is_success() {
            stage.notes.flags.push(FAILED);
        }
        Verdict::reply(Why::HealthCheck, text(status, "")).detailed(details)
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let Some(IsCheck { is_cached }) = stage.recall() else {
            if stage.proxy.is_draining {
                response.headers_mut().insert(FAILS, HeaderValue::from_static("true"));
            }
            return;
        };
        if let Some(cache) = self.cache.as_ref().filter(|_| !*is_cached) {
            cache.note(response.status());
        }
        if let Ok(cluster) = HeaderValue::from_str(stage.proxy.node_cluster) {
            response.headers_mut().insert(CLUSTER, cluster);
        }
    }
}

impl HealthCheck {
    /// What the clusters give reason to say.
    fn judge(&self) -> (StatusCode, &'static str) {
        let failed = |details| (StatusCode::SERVICE_UNAVAILABLE, details);
        for ((_, least), cluster) in self.clusters.iter().zip(&*self.linked) {
            let Some(cluster) = cluster else {
                return failed("health_check_failed_no_cluster_found");
            };
            let is_good = |health: Health| matches!(health, Health::Healthy | Health::Degraded);
            let good = cluster.endpoints.iter().filter(|one| is_good(one.health())).count();
            // Envoy takes whole per cents.
            let least = least.trunc();
            if least > 0.0 && cluster.endpoints.is_empty() {
                return failed("health_check_failed_cluster_empty");
            }
            if !is_enough(good, cluster.endpoints.len(), least) {
                return failed("health_check_failed_cluster_unhealthy");
            }
        }
        let is_bare = self.clusters.is_empty();
        (
            StatusCode::OK,
            if is_bare { "health_check_ok" } else { "health_check_ok_cluster_healthy" },
        )
    }
}

/// Whether so many of all are at least so many per cent.
#[expect(clippy::cast_precision_loss, reason = "no cluster has 2^53 endpoints")]
fn is_enough(good: usize, all: usize, least: f64) -> bool {
    good as f64 * 100.0 >= all as f64 * least
}

impl Cache {
    fn now(&self) -> u64 {
        // One more, so that no time is 0.
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn note(&self, status: StatusCode) {
        let answer = self.now() << 16 | u64::from(status.as_u16());
        self.answer.store(answer, Ordering::Relaxed);
    }

    fn status(&self, time: Duration) -> Option<StatusCode> {
        let answer = self.answer.load(Ordering::Relaxed);
        let age = self.now().checked_sub(answer >> 16)?;
        let is_young = answer != 0 && u128::from(age) < time.as_millis();
        let status = u16::try_from(answer & 0xffff).ok()?;
        StatusCode::from_u16(status).ok().filter(|_| is_young)
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filtering::keep::testing::alone;
    use crate::filtering::stage::testing::Scene;

    fn filter(text: &str) -> HealthCheck {
        let text =
            format!("{{headers: [{{name: ':path', string_match: {{exact: /up}}}}], {text}}}");
        let filter = HealthCheck::compile(from_yaml(&text).unwrap()).unwrap();
        match alone(|linker| filter.link(&[], linker)) {
            Linked::New(filter) => filter,
            Linked::Same | Linked::Off => filter,
        }
    }

    /// The status of the filter's answer, and what the response then says.
    async fn ask(filter: &HealthCheck, path: &str, scene: &mut Scene) -> (Option<u16>, String) {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        let (mut response, status) = match filter.on_request(&mut request, &mut scene.stage()).await
        {
            Verdict::Continue => (Response::new(Body::empty()), None),
            Verdict::Reply(reply) => {
                let status = reply.response.status().as_u16();
                scene.notes.details = reply.details;
                (reply.response, Some(status))
            }
        };
        filter.on_response(&mut response, &mut scene.stage()).await;
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        (status, headers.collect())
    }

    const CHECKED: &str = "x-envoy-upstream-healthchecked-cluster=edge";

    #[tokio::test]
    async fn a_health_check_is_answered_here() {
        let filter = filter("pass_through_mode: false");
        assert_eq!(ask(&filter, "/up", &mut Scene::default()).await, (Some(200), CHECKED.into()));
        assert_eq!(ask(&filter, "/x", &mut Scene::default()).await, (None, String::new()));
        let mut draining = Scene { is_draining: true, ..Scene::default() };
        assert_eq!(ask(&filter, "/up", &mut draining).await, (Some(503), CHECKED.into()));
        let mut draining = Scene { is_draining: true, ..Scene::default() };
        let through = self::filter("pass_through_mode: true");
        assert_eq!(ask(&through, "/up", &mut draining).await, (Some(503), CHECKED.into()));
        let mut draining = Scene { is_draining: true, ..Scene::default() };
        let fails = "x-envoy-immediate-health-check-fail=true";
        assert_eq!(ask(&filter, "/x", &mut draining).await, (None, fails.into()));
    }

    #[tokio::test]
    async fn a_cluster_that_is_not_there_fails_it() {
        let filter =
            filter("pass_through_mode: false, cluster_min_healthy_percentages: {c: {value: 50}}");
        let mut scene = Scene::default();
        assert_eq!(ask(&filter, "/up", &mut scene).await.0, Some(503));
        assert_eq!(scene.notes.details.as_deref(), Some("health_check_failed_no_cluster_found"));
        assert_eq!(scene.notes.flags, ["LH"]);
        assert!(is_enough(1, 2, 50.0) && !is_enough(1, 2, 51.0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_of_an_endpoint_counts_for_a_while() {
        let filter = filter("pass_through_mode: true, cache_time: 1s");
        let status = |filter: &HealthCheck| {
            let filter = filter.clone();
            async move { ask(&filter, "/up", &mut Scene::default()).await.0 }
        };
        assert_eq!(status(&filter).await, None);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(status(&filter).await, Some(200));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(status(&filter).await, None);
    }
}
