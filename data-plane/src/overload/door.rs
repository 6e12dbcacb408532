//! Who is let in: connections counted against the limits of their listener and of the proxy.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

use super::Overload;
use super::plan::Action;
use crate::descriptors;
use crate::telemetry::stats::{ListenerStats, Refusal};

/// So many connections beyond the limit are told so at a time; what comes beyond that is closed.
const SHEDS_MAX: u64 = 64;

/// How many there are.
#[derive(Debug)]
pub struct Count(pub(super) AtomicU64);

/// One of them. Dropped, it is gone.
#[derive(Debug)]
struct Place(Arc<Count>);

impl Count {
    fn enter(self: &Arc<Self>, max: u64) -> Option<Place> {
        let more = |open: u64| (open < max).then(|| open + 1);
        self.0.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// Where the connections of a listener come in.
#[derive(Debug)]
pub struct Door {
    overload: Arc<Overload>,
    count: Arc<Count>,
    max: u64,
    stats: Arc<ListenerStats>,
    pauses: watch::Receiver<bool>,
}

/// What a listener does not take part in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exempt {
    /// The limit for all listeners together (`ignore_global_conn_limit`).
    pub from_limit: bool,
    /// What is done under pressure (`bypass_overload_manager`).
    pub from_pressure: bool,
}

/// The right to be served, as long as it is kept.
#[derive(Debug)]
pub struct Pass {
    _places: [Option<Place>; 2],
    /// Whether the client is only told to come back later.
    pub is_shed: bool,
}

impl Door {
    pub(super) fn new(
        overload: Arc<Overload>,
        count: Arc<Count>,
        max: Option<u64>,
        stats: Arc<ListenerStats>,
    ) -> Self {
        let pauses = overload.pauses.subscribe();
        Self { overload, count, max: max.unwrap_or(u64::MAX), stats, pauses }
    }

    /// Waits until connections are accepted.
    pub async fn opened(&mut self) {
        // Whoever could close it is part of this.
        drop(self.pauses.wait_for(|pauses| !pauses).await);
    }

    /// Waits until no connections are accepted.
    pub async fn closed(&mut self) {
        drop(self.pauses.wait_for(|pauses| *pauses).await);
    }

    /// Lets a connection in that was accepted.
    ///
    /// # Errors
    /// Why it is to be closed.
    pub fn enter(&self, socket: &impl AsFd, exempt: Exempt) -> Result<Pass, Refusal> {
        let entered = self.judge(socket, exempt);
        if let Err(refusal) = &entered {
            self.stats.refused(*refusal);
        } else if entered.as_ref().is_ok_and(|pass| pass.is_shed) {
            self.stats.refused(Refusal::Limit);
        }
        entered
    }

    fn judge(&self, socket: &impl AsFd, exempt: Exempt) -> Result<Pass, Refusal> {
        if descriptors::is_of_reserve(socket) {
            return Err(Refusal::Descriptors);
        }
        let overload = &self.overload;
        if !exempt.from_pressure && overload.takes(Action::RejectConnections) {
            return Err(Refusal::Overload);
        }
        let own = self.count.enter(self.max).ok_or(Refusal::ListenerLimit)?;
        let limits = &overload.limits;
        let max = if exempt.from_limit { u64::MAX } else { limits.closes_beyond };
        let soft = if exempt.from_limit { u64::MAX } else { limits.sheds_beyond };
        if let Some(place) = overload.connections.enter(max.min(soft)) {
            return Ok(Pass { _places: [Some(own), Some(place)], is_shed: false });
        }
        if max <= soft {
            return Err(Refusal::Limit);
        }
        let place = overload.sheds.enter(SHEDS_MAX).ok_or(Refusal::Limit)?;
        Ok(Pass { _places: [Some(own), Some(place)], is_shed: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::plan::Limits;

    fn enter(door: &Door, exempt: Exempt) -> Result<Pass, Refusal> {
        door.enter(&std::io::stdin(), exempt)
    }

    #[test]
    fn each_limit_counts_for_itself() {
        let limits = Limits {
            closes_beyond: 3,
            listeners: [("a".to_owned(), 1)].into(),
            ..Limits::default()
        };
        let overload = Overload::new(limits);
        let door = |name: &str| overload.door(&name.into(), Arc::default());
        let (a, b) = (door("a"), door("b"));
        let first = enter(&a, Exempt::default()).unwrap();
        assert_eq!(enter(&a, Exempt::default()).unwrap_err(), Refusal::ListenerLimit);
        // Another worker's.
        assert_eq!(enter(&door("a"), Exempt::default()).unwrap_err(), Refusal::ListenerLimit);
        let _more = [enter(&b, Exempt::default()).unwrap(), enter(&b, Exempt::default()).unwrap()];
        assert_eq!(enter(&b, Exempt::default()).unwrap_err(), Refusal::Limit);
        let exempt = Exempt { from_limit: true, from_pressure: false };
        assert!(enter(&b, exempt).is_ok());
        drop(first);
        assert!(enter(&b, Exempt::default()).is_ok());
        assert!(enter(&a, Exempt::default()).is_ok());
    }

    #[test]
    fn some_of_those_beyond_our_own_limit_are_told_so() {
        let overload = Overload::new(Limits { sheds_beyond: 1, ..Limits::default() });
        let door = overload.door(&"a".into(), Arc::default());
        let first = enter(&door, Exempt::default()).unwrap();
        assert!(!first.is_shed);
        let told: Vec<_> = (0..SHEDS_MAX).map(|_| enter(&door, Exempt::default())).collect();
        assert!(told.iter().all(|pass| pass.as_ref().unwrap().is_shed));
        assert_eq!(enter(&door, Exempt::default()).unwrap_err(), Refusal::Limit);
        drop(first);
        assert!(!enter(&door, Exempt::default()).unwrap().is_shed);
    }

    #[test]
    fn under_pressure_nobody_comes_in_but_by_an_exempt_listener() {
        let overload = Overload::new(Limits::default());
        let door = overload.door(&"a".into(), Arc::default());
        overload.set(Action::RejectConnections, 1.0);
        assert_eq!(enter(&door, Exempt::default()).unwrap_err(), Refusal::Overload);
        let exempt = Exempt { from_limit: false, from_pressure: true };
        assert!(enter(&door, exempt).is_ok());
    }
}
