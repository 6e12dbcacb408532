//! Active health checks: what is asked of an endpoint, how often, and what follows from the answers.

pub(crate) mod probe;

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::format::mutation::HeaderMutations;
use crate::matcher::StringMatcher;

/// How the endpoints of a cluster are checked (`HealthCheck`).
#[derive(Debug)]
pub struct CheckConfig {
    /// How long one check may take.
    pub timeout: Duration,
    /// Time between checks.
    pub intervals: Intervals,
    /// How much times vary.
    pub jitter: Jitter,
    /// So many failures in a row until an endpoint is unhealthy.
    pub failures: u32,
    /// So many successes in a row until it is healthy again; the first check of all decides alone.
    pub successes: u32,
    /// The port to check, instead of the one that serves.
    pub port: Option<u16>,
    /// Whether one connection serves many checks.
    pub reuses: bool,
    /// What is asked.
    pub question: Question,
}

/// Time between checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// While healthy.
    pub healthy: Duration,
    /// While unhealthy.
    pub unhealthy: Duration,
    /// After a success that does not suffice yet.
    pub healthy_edge: Duration,
    /// After a failure that does not suffice yet.
    pub unhealthy_edge: Duration,
    /// While the cluster has never had a connection. Envoy's default is 60 s.
    pub no_traffic: Duration,
    /// As `no_traffic`, while healthy.
    pub no_traffic_healthy: Duration,
}

/// How much times vary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Jitter {
    /// Up to so long until the first check.
    pub initial: Duration,
    /// Up to so much is added to each interval.
    pub interval: Duration,
    /// Up to so many percent of the interval are added to it.
    pub percent: u32,
}

/// What is asked of an endpoint.
#[derive(Debug)]
pub enum Question {
    /// An HTTP request.
    Http(Box<HttpQuestion>),
    /// A connection, and an exchange of bytes on it.
    Tcp(TcpQuestion),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcQuestion),
}

/// An HTTP request, and the answers that are good.
#[derive(Debug)]
pub struct HttpQuestion {
    /// The host to ask for; `None`: what the endpoint or the cluster is called.
    pub host: Option<Box<str>>,
    /// The path, query included.
    pub path: Box<str>,
    /// The method.
    pub method: Method,
    /// The body.
    pub body: Bytes,
    /// Changes of the request's headers.
    pub headers: HeaderMutations,
    /// Whether HTTP/2 is spoken.
    pub is_http2: bool,
    /// The statuses that are good.
    pub expected: Box<[RangeInclusive<u16>]>,
    /// The statuses that count as one failure; others make the endpoint unhealthy at once.
    pub retriable: Box<[RangeInclusive<u16>]>,
    /// What the body must have in it, in this order.
    pub receives: Box<[Bytes]>,
    /// How much of the body is looked at. Envoy's default is 1024 bytes.
    pub body_max: usize,
    /// What the endpoint must say that it serves.
    pub service: Option<StringMatcher>,
}

/// What is sent on a connection, and what must come back.
#[derive(Debug)]
pub struct TcpQuestion {
    /// What is sent.
    pub sends: Bytes,
    /// What must come, in this order.
    pub receives: Box<[Bytes]>,
}

/// A question for a gRPC service.
#[derive(Debug)]
pub struct GrpcQuestion {
    /// The service; empty for the server as a whole.
    pub service: Box<str>,
    /// The host to ask for; `None`: what the endpoint or the cluster is called.
    pub authority: Option<Box<str>>,
    /// More metadata.
    pub metadata: HeaderMutations,
}

/// What one check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Healthy,
    Degraded,
    /// It answered that it is not healthy.
    Refused,
    /// It did not answer, or gave an answer that counts as none.
    Failed,
}

/// What the checks of one endpoint have found so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Findings {
    pub(crate) is_up: bool,
    pub(crate) is_degraded: bool,
    /// Whether a check has ended.
    is_known: bool,
    successes: u32,
    failures: u32,
}

impl Findings {
    /// What is known of an endpoint that was checked before.
    pub(crate) fn resumed(is_up: bool) -> Self {
        Self { is_up, is_known: true, ..Self::default() }
    }
}

impl CheckConfig {
    /// Takes a check into account. Gives the time until the next one.
    pub(crate) fn take(
        &self,
        findings: &mut Findings,
        found: Found,
        has_traffic: bool,
    ) -> Duration {
        let is_first = !std::mem::replace(&mut findings.is_known, true);
        let is_success = matches!(found, Found::Healthy | Found::Degraded);
        let mut is_pending = false;
        if is_success {
            findings.failures = 0;
            findings.is_degraded = found == Found::Degraded;
            if !findings.is_up {
                findings.successes += 1;
                findings.is_up = is_first || findings.successes >= self.successes;
                is_pending = !findings.is_up;
            }
        } else {
            findings.successes = 0;
            if findings.is_up {
                findings.failures += 1;
                let is_over = found == Found::Refused || findings.failures >= self.failures;
                findings.is_up = !is_over;
                is_pending = findings.is_up;
            }
        }
        self.interval(is_success, is_pending, has_traffic)
    }

    fn interval(&self, is_success: bool, is_pending: bool, has_traffic: bool) -> Duration {
        let intervals = &self.intervals;
        match (has_traffic, is_success, is_pending) {
            (false, true, false) => intervals.no_traffic_healthy,
            (false, _, _) => intervals.no_traffic,
            (true, true, false) => intervals.healthy,
            (true, true, true) => intervals.healthy_edge,
            (true, false, false) => intervals.unhealthy,
            (true, false, true) => intervals.unhealthy_edge,
        }
    }

    /// A wait with its jitter; `random` is between 0 and 1.
    pub(crate) fn jittered(&self, wait: Duration, random: f64) -> Duration {
        let most = self.jitter.interval + wait * self.jitter.percent / 100;
        // A wait of nothing would keep a processor busy.
        (wait + most.mul_f64(random)).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A check of TCP with intervals that tell each other apart, in seconds.
    pub(crate) fn check() -> CheckConfig {
        let seconds = Duration::from_secs;
        CheckConfig {
            timeout: seconds(1),
            intervals: Intervals {
                healthy: seconds(1),
                unhealthy: seconds(2),
                healthy_edge: seconds(3),
                unhealthy_edge: seconds(4),
                no_traffic: seconds(5),
                no_traffic_healthy: seconds(6),
            },
            jitter: Jitter::default(),
            failures: 2,
            successes: 3,
            port: None,
            reuses: true,
            question: Question::Tcp(TcpQuestion { sends: Bytes::new(), receives: Box::default() }),
        }
    }

    fn play(found: &[Found], has_traffic: bool) -> Vec<(bool, u64)> {
        let (check, mut findings) = (check(), Findings::default());
        let take = |found: &Found| {
            let wait = check.take(&mut findings, *found, has_traffic);
            (findings.is_up, wait.as_secs())
        };
        found.iter().map(take).collect()
    }

    use Found::{Degraded, Failed, Healthy, Refused};

    #[test]
    fn the_first_check_decides_and_then_it_takes_several() {
        assert_eq!(play(&[Healthy, Failed], true), [(true, 1), (true, 4)]);
        let found = [Failed, Healthy, Healthy, Failed, Healthy, Healthy, Healthy, Degraded];
        let (down, nearly, up) = ((false, 2), (false, 3), (true, 1));
        assert_eq!(play(&found, true), [down, nearly, nearly, down, nearly, nearly, up, up]);
        let found = [Healthy, Failed, Healthy, Failed, Failed];
        assert_eq!(play(&found, true), [(true, 1), (true, 4), (true, 1), (true, 4), (false, 2)]);
    }

    #[test]
    fn a_refusal_is_enough() {
        assert_eq!(play(&[Healthy, Refused], true), [(true, 1), (false, 2)]);
    }

    #[test]
    fn without_traffic_there_is_no_hurry() {
        assert_eq!(play(&[Healthy, Failed, Failed], false), [(true, 6), (true, 5), (false, 5)]);
    }

    #[test]
    fn jitter_is_added_and_no_wait_is_nothing() {
        let jitter = Jitter { interval: Duration::from_secs(1), percent: 50, ..Jitter::default() };
        let check = CheckConfig { jitter, ..check() };
        assert_eq!(check.jittered(Duration::from_secs(2), 0.0).as_secs_f64(), 2.0);
        assert_eq!(check.jittered(Duration::from_secs(2), 1.0).as_secs_f64(), 4.0);
        assert_eq!(check.jittered(Duration::ZERO, 0.0), Duration::from_millis(1));
    }
}
