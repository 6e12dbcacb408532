//! When there is too much to do: what is watched, and what is done about it.
//!
//! A sampler looks at the resources and leaves what follows in atomics; workers only read those.

pub mod door;
pub mod memory;
pub mod plan;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use self::door::{Count, Door};
use self::plan::{Action, Limits};
use crate::telemetry::stats::ListenerStats;

/// An action that is taken always, in the units that it is kept in.
const FULL: u32 = 1_000_000;

/// What the whole proxy does about too much work.
#[derive(Debug)]
pub struct Overload {
    limits: Limits,
    /// How much of each action is taken: of [`FULL`].
    shares: [AtomicU32; Action::ALL.len()],
    /// Client connections that are served.
    connections: Arc<Count>,
    /// Client connections that are only told to come back later.
    sheds: Arc<Count>,
    listeners: Mutex<HashMap<Arc<str>, Arc<Count>>>,
    /// Whether connections wait to be accepted.
    pauses: watch::Sender<bool>,
}

impl Overload {
    /// A proxy with nothing to do.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            shares: std::array::from_fn(|_| AtomicU32::new(0)),
            connections: Arc::default(),
            sheds: Arc::default(),
            listeners: Mutex::default(),
            pauses: watch::Sender::new(false),
        })
    }

    /// Whether an action is to be taken: where it is taken in part, by chance.
    pub fn takes(&self, action: Action) -> bool {
        match self.shares[action as usize].load(Relaxed) {
            0 => false,
            share => share >= FULL || fastrand::u32(..FULL) < share,
        }
    }

    /// Sets how much of an action is taken, from 0 to 1. Gives how much it was.
    pub fn set(&self, action: Action, share: f64) -> f64 {
        // From 0 to a million.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let new = (share.clamp(0.0, 1.0) * f64::from(FULL)) as u32;
        let before = self.shares[action as usize].swap(new, Relaxed);
        if action == Action::StopConnections {
            // A part of it is nothing: connections wait, or they do not.
            self.pauses
                .send_if_modified(|pauses| std::mem::replace(pauses, new == FULL) != (new == FULL));
        }
        f64::from(before) / f64::from(FULL)
    }

    /// How many client connections are served.
    pub fn connections(&self) -> u64 {
        self.connections.value()
    }

    /// Where the connections of a listener come in.
    pub fn door(self: &Arc<Self>, listener: &Arc<str>, stats: Arc<ListenerStats>) -> Door {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let count = Arc::clone(listeners.entry(Arc::clone(listener)).or_default());
        let max = self.limits.listeners.get(&**listener).copied();
        Door::new(Arc::clone(self), count, max, stats)
    }
}

impl Count {
    fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Default for Count {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_taken_as_often_as_its_share_says() {
        let overload = Overload::new(Limits::default());
        assert!(!overload.takes(Action::StopRequests));
        overload.set(Action::StopRequests, 0.25);
        let taken = (0..10_000).filter(|_| overload.takes(Action::StopRequests)).count();
        assert!((1_500..3_500).contains(&taken), "{taken}");
        assert_eq!(overload.set(Action::StopRequests, 7.0).to_string(), "0.25");
        assert!((0..100).all(|_| overload.takes(Action::StopRequests)));
        assert!(!overload.takes(Action::StopKeepalive));
    }

    #[test]
    fn connections_wait_only_while_all_of_them_are_to() {
        let overload = Overload::new(Limits::default());
        let pauses = overload.pauses.subscribe();
        overload.set(Action::StopConnections, 0.9);
        assert!(!*pauses.borrow());
        overload.set(Action::StopConnections, 1.0);
        assert!(*pauses.borrow());
        overload.set(Action::StopConnections, 0.0);
        assert!(!*pauses.borrow());
    }
}
