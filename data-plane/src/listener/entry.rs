//! What a chain asks of connections before it serves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::filter::rbac::network::ConnectionRbac;

/// A network filter that comes before the last one of a chain.
#[derive(Debug)]
pub enum EntryFilter {
    /// No more than so many connections.
    Limit(ConnectionLimit),
    /// Only those that rules allow.
    Rbac(ConnectionRbac),
}

/// How many connections a chain may have (`ConnectionLimit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// So many.
    pub max: u64,
    /// How long one too many is kept waiting for its end.
    pub delay: Option<Duration>,
}

/// How many connections a chain has, of all workers.
#[derive(Debug, Clone, Default)]
pub struct Occupancy(Arc<AtomicU64>);

impl Occupancy {
    /// A place among `max`; none where there are as many already.
    pub fn enter(&self, max: u64) -> Option<Place> {
        let more = |open: u64| (open < max).then_some(open + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(Arc::clone(&self.0)))
    }
}

/// A connection's place. Dropped, it is free.
#[derive(Debug)]
pub struct Place(Arc<AtomicU64>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_left_is_free() {
        let all = Occupancy::default();
        let (first, second) = (all.enter(2), all.enter(2));
        assert!(first.is_some() && second.is_some() && all.enter(2).is_none());
        drop(first);
        assert!(all.enter(2).is_some());
    }
}
