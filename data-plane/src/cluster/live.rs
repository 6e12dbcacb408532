//! Counts of a cluster and its endpoints that survive a swap, and the circuit breakers over them.

use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::cluster::outlier::OutlierLive;
use crate::telemetry::stats::{ClusterStats, Limit};

/// Limits of a cluster across all workers. The defaults are Envoy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakers {
    /// Connections. A worker without one to an endpoint may always open one.
    pub connections_max: u32,
    /// Requests that wait for a connection.
    pub pending_max: u32,
    /// Requests in flight.
    pub requests_max: u32,
    /// Retries in flight, unless there is a budget.
    pub retries_max: u32,
    /// Retries in flight as a share of the requests.
    pub retry_budget: Option<RetryBudget>,
    /// Connections to each endpoint. A worker without one may always open one.
    pub endpoint_connections_max: Option<u32>,
}

/// Retries in flight as a share of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Millionths of the requests in flight and pending.
    pub share_millionths: u32,
    /// So many retries are allowed in any case.
    pub retries_min: u32,
}

impl Default for Breakers {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            pending_max: 1024,
            requests_max: 1024,
            retries_max: 3,
            retry_budget: None,
            endpoint_connections_max: None,
        }
    }
}

/// What is counted of a cluster, by all workers. Kept for as long as a cluster has its name.
#[derive(Debug)]
pub struct ClusterLive {
    /// Open connections.
    pub connections: AtomicU32,
    /// Requests that wait for a connection.
    pub pending: AtomicU32,
    /// Requests in flight.
    pub requests: AtomicU32,
    /// Retries in flight.
    pub retries: AtomicU32,
    /// Endpoints that outlier detection has ejected.
    pub(crate) ejected: AtomicU32,
    /// Endpoints.
    pub(crate) endpoints: AtomicU32,
    /// Counters for `/metrics`.
    pub stats: Arc<ClusterStats>,
    generation: AtomicU64,
}

impl ClusterLive {
    /// Nothing counted yet.
    pub fn new(stats: Arc<ClusterStats>) -> Self {
        Self {
            connections: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            ejected: AtomicU32::new(0),
            endpoints: AtomicU32::new(0),
            stats,
            generation: AtomicU64::new(0),
        }
    }

    /// Which changes of health there were. Balancers that know of fewer are built anew.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// The health of an endpoint changed.
    pub(crate) fn health_changed(&self) {
        self.generation.fetch_add(1, Release);
    }

    /// A place among the retries in flight, unless the breaker is open. Drop it when the retry ends.
    pub fn retry(self: &Arc<Self>, breakers: &Breakers) -> Option<Slot> {
        let max = match breakers.retry_budget {
            None => breakers.retries_max,
            Some(budget) => {
                let busy = self.requests.load(Relaxed).saturating_add(self.pending.load(Relaxed));
                let share = u64::from(busy) * u64::from(budget.share_millionths) / 1_000_000;
                u32::try_from(share).unwrap_or(u32::MAX).max(budget.retries_min)
            }
        };
        Slot::take(self, Limit::Retries, max)
    }

    /// Whether one more would exceed the limit.
    pub fn is_open(&self, limit: Limit, breakers: &Breakers) -> bool {
        self.counter(limit).load(Relaxed) >= maximum(limit, breakers)
    }

    fn counter(&self, limit: Limit) -> &AtomicU32 {
        match limit {
            Limit::Connections => &self.connections,
            Limit::Pending => &self.pending,
            Limit::Requests => &self.requests,
            Limit::Retries => &self.retries,
        }
    }
}

fn maximum(limit: Limit, breakers: &Breakers) -> u32 {
    match limit {
        Limit::Connections => breakers.connections_max,
        Limit::Pending => breakers.pending_max,
        Limit::Requests => breakers.requests_max,
        Limit::Retries => breakers.retries_max,
    }
}

/// One counted thing under a limit, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    live: Arc<ClusterLive>,
    limit: Limit,
    max: u32,
}

impl Slot {
    /// Counts one more, unless there are `max` of them.
    pub(crate) fn take(live: &Arc<ClusterLive>, limit: Limit, max: u32) -> Option<Self> {
        let counter = live.counter(limit);
        let before = counter.fetch_add(1, Relaxed);
        if before >= max {
            counter.fetch_sub(1, Relaxed);
            return None;
        }
        if before + 1 == max {
            live.stats.set_breaker(limit, true);
        }
        Some(Self { live: Arc::clone(live), limit, max })
    }

    /// Counts one more under the limit of the cluster, if it allows.
    pub(crate) fn under(
        live: &Arc<ClusterLive>,
        limit: Limit,
        breakers: &Breakers,
    ) -> Option<Self> {
        Self::take(live, limit, maximum(limit, breakers))
    }

    /// Counts one more, whatever the limit.
    pub(crate) fn beyond(live: &Arc<ClusterLive>, limit: Limit) -> Self {
        live.counter(limit).fetch_add(1, Relaxed);
        Self { live: Arc::clone(live), limit, max: u32::MAX }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let before = self.live.counter(self.limit).fetch_sub(1, Relaxed);
        if before == self.max {
            self.live.stats.set_breaker(self.limit, false);
        }
    }
}

/// A request in flight to an endpoint, until it is dropped.
#[derive(Debug)]
pub(crate) struct EndpointSlot(Arc<EndpointLive>);

impl EndpointSlot {
    pub(crate) fn new(live: &Arc<EndpointLive>) -> Self {
        live.requests.fetch_add(1, Relaxed);
        live.requests_total.fetch_add(1, Relaxed);
        Self(Arc::clone(live))
    }
}

impl Drop for EndpointSlot {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// One of the connections that an endpoint may have, made or in the making, until it is dropped.
#[derive(Debug)]
pub(crate) struct EndpointPlace(Arc<EndpointLive>);

impl EndpointPlace {
    /// Takes one, unless there are `max` of them.
    pub(crate) fn under(live: &Arc<EndpointLive>, max: Option<u32>) -> Option<Self> {
        let place = Self::beyond(live);
        let has_room = max.is_none_or(|max| live.places.load(Relaxed) <= max);
        has_room.then_some(place)
    }

    /// Takes one, whatever the limit.
    pub(crate) fn beyond(live: &Arc<EndpointLive>) -> Self {
        live.places.fetch_add(1, Relaxed);
        Self(Arc::clone(live))
    }
}

impl Drop for EndpointPlace {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Relaxed);
    }
}

/// What is found out about the health of an endpoint, beside what the control plane says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Its last health checks failed, or none has ended yet.
    Unchecked = 1,
    /// It says of itself that it is degraded.
    Degraded = 2,
    /// Outlier detection has ejected it.
    Ejected = 4,
    /// The first health check has ended.
    Known = 8,
}

/// What is counted and found out of an endpoint, by all workers. Kept for as long as its cluster
/// has the address.
#[derive(Debug, Default)]
pub struct EndpointLive {
    /// Requests in flight.
    pub requests: AtomicU32,
    /// Requests sent.
    pub requests_total: AtomicU64,
    /// Requests that failed before a response.
    pub failures_total: AtomicU64,
    /// Open connections.
    pub connections: AtomicU32,
    pub(crate) outlier: OutlierLive,
    places: AtomicU32,
    marks: AtomicU8,
    up_since: Mutex<Option<Instant>>,
}

impl EndpointLive {
    /// Whether a mark is set.
    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.marks.load(Relaxed) & mark as u8 != 0
    }

    /// Sets or clears a mark; whether that changed it.
    pub(crate) fn mark(&self, mark: Mark, is_set: bool) -> bool {
        let bit = mark as u8;
        let before = if is_set {
            self.marks.fetch_or(bit, AcqRel)
        } else {
            self.marks.fetch_and(!bit, AcqRel)
        };
        (before & bit != 0) != is_set
    }

    /// Since when it may get requests: from `now` on, where nobody asked before.
    pub(crate) fn up_since(&self, now: Instant) -> Instant {
        *self.up_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now)
    }

    /// It may get requests from `now` on.
    pub(crate) fn came_up(&self, now: Instant) {
        *self.up_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_changes_once() {
        let live = EndpointLive::default();
        assert!(live.mark(Mark::Ejected, true));
        assert!(!live.mark(Mark::Ejected, true));
        assert!(live.has(Mark::Ejected) && !live.has(Mark::Unchecked));
        assert!(live.mark(Mark::Ejected, false));
        assert!(!live.mark(Mark::Ejected, false));
    }

    fn live() -> Arc<ClusterLive> {
        Arc::new(ClusterLive::new(Arc::default()))
    }

    #[test]
    fn a_limit_lets_in_so_many_and_no_more() {
        let live = live();
        let breakers = Breakers { requests_max: 1, ..Breakers::default() };
        let first = Slot::under(&live, Limit::Requests, &breakers);
        assert!(first.is_some());
        assert!(live.is_open(Limit::Requests, &breakers));
        assert!(Slot::under(&live, Limit::Requests, &breakers).is_none());
        drop(first);
        assert!(Slot::under(&live, Limit::Requests, &breakers).is_some());
    }

    #[test]
    fn an_endpoint_has_so_many_places_and_no_more_unless_it_must() {
        let live = Arc::new(EndpointLive::default());
        let first = EndpointPlace::under(&live, Some(1));
        assert!(first.is_some());
        assert!(EndpointPlace::under(&live, Some(1)).is_none());
        let beyond = EndpointPlace::beyond(&live);
        assert!(EndpointPlace::under(&live, None).is_some());
        drop(first);
        assert!(EndpointPlace::under(&live, Some(1)).is_none());
        drop(beyond);
        assert!(EndpointPlace::under(&live, Some(1)).is_some());
    }

    #[test]
    fn a_retry_budget_is_a_share_of_the_requests_but_never_less_than_its_minimum() {
        let live = live();
        let budget = RetryBudget { share_millionths: 200_000, retries_min: 1 };
        let breakers =
            Breakers { retry_budget: Some(budget), retries_max: 0, ..Breakers::default() };
        let first = live.retry(&breakers);
        assert!(first.is_some());
        assert!(live.retry(&breakers).is_none());
        live.requests.store(10, Relaxed);
        assert!(live.retry(&breakers).is_some());
    }
}
