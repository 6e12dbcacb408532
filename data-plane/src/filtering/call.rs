//! Requests of filters to services of their own: authorization, limits, processing.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::time::Instant;
use tokio::time::{sleep, timeout};

use crate::body::Body;
use crate::cluster::Cluster;
use crate::cluster::balancer::Selection;
use crate::cluster::endpoints::Endpoint;
use crate::cluster::failure::UpstreamError;
use crate::cluster::outlier::{Observed, observe};
use crate::cluster::pool::Pools;
use crate::retry::{Outcome, RetryPolicy};
use crate::telemetry::stats::UpstreamFailureKind;

/// How a service is asked.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Connections to endpoints.
    pub pools: &'a Pools,
    /// Where the service is.
    pub cluster: &'a Arc<Cluster>,
    /// How long it may take to begin its answer, all tries together.
    pub timeout: Duration,
    /// When it is asked again; the body of the request must then be known as a whole.
    pub retry: Option<&'a RetryPolicy>,
}

impl Call<'_> {
    /// The head of the answer, and its body as it comes; none where there is none in time.
    pub async fn ask(self, request: Request<Body>) -> Option<Response<Body>> {
        let stats = &self.cluster.live.stats;
        match timeout(self.timeout, self.tries(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                stats.failure(UpstreamFailureKind::Timeout);
                None
            }
        }
    }

    async fn tries(self, mut request: Request<Body>) -> Option<Response<Body>> {
        let mut retries = 0;
        let mut endpoint = self.cluster.pick(&Selection::default())?;
        loop {
            let copy = self.retry.and_then(|_| copy(&request));
            let answer = self.attempt(&endpoint, request, retries > 0).await;
            let again = self.retry.zip(copy).filter(|(policy, _)| {
                let outcome = match &answer {
                    Ok(response) => {
                        Outcome::Answered { status: response.status(), headers: response.headers() }
                    }
                    Err(error) => Outcome::Failed(error.reason.outcome(error.request.is_some())),
                };
                retries < policy.retries && policy.should_retry(&outcome)
            });
            let slot =
                again.as_ref().and_then(|_| self.cluster.live.retry(&self.cluster.config.breakers));
            let (Some((policy, copy)), Some(_slot)) = (again, slot) else { return answer.ok() };
            retries += 1;
            sleep(policy.back_off.wait(retries, fastrand::u64(..))).await;
            endpoint = self.cluster.pick_other(&endpoint, &Selection::default())?;
            request = copy;
        }
    }

    async fn attempt(
        self,
        endpoint: &Arc<Endpoint>,
        request: Request<Body>,
        is_retry: bool,
    ) -> Result<Response<Body>, UpstreamError> {
        let stats = &self.cluster.live.stats;
        let began = Instant::now();
        let answer = self.pools.send(endpoint, request).await;
        let observed = match &answer {
            Ok(response) => Some(Observed::Answer(response.status())),
            Err(error) => Observed::failure(error.reason),
        };
        if let Some(observed) = observed {
            observe(endpoint, observed);
        }
        let attempts = if is_retry { &stats.retries } else { &stats.first_attempts };
        attempts.count(answer.as_ref().ok().map(Response::status));
        match &answer {
            Ok(_) => stats.duration.record(began.elapsed()),
            Err(error) => {
                stats.failure(error.reason.kind());
                let error: &dyn std::error::Error = error;
                let cluster = &*self.cluster.config.name;
                tracing::debug!(cluster, error, "a service gave no answer");
            }
        }
        answer
    }
}

/// The request once more; none where its body is not known as a whole.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(Body::full(request.body().known()?.clone()));
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}
