//! What is watched, and from when on what is done: data, and the arithmetic of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often resources are looked at, where nobody says. Envoy's.
pub const REFRESH: Duration = Duration::from_secs(1);

/// Something that is done under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Requests are answered with 503.
    StopRequests,
    /// Connections end with the next answer.
    StopKeepalive,
    /// Connections wait to be accepted.
    StopConnections,
    /// Connections are closed as soon as they are accepted.
    RejectConnections,
}

impl Action {
    /// All of them; the place of each is its number.
    pub const ALL: [Self; 4] =
        [Self::StopRequests, Self::StopKeepalive, Self::StopConnections, Self::RejectConnections];

    /// Envoy's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::StopRequests => "stop_accepting_requests",
            Self::StopKeepalive => "disable_http_keepalive",
            Self::StopConnections => "stop_accepting_connections",
            Self::RejectConnections => "reject_incoming_connections",
        }
    }
}

/// How many connections there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections beyond are told 503.
    pub sheds_beyond: u64,
    /// Connections beyond are closed.
    pub closes_beyond: u64,
    /// The same, by listener.
    pub listeners: HashMap<String, u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sheds_beyond: u64::MAX, closes_beyond: u64::MAX, listeners: HashMap::new() }
    }
}

/// What is watched, and what is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// How often resources are looked at.
    pub refresh: Duration,
    /// What is looked at.
    pub monitors: Vec<Monitor>,
    /// What is done.
    pub reactions: Vec<Reaction>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { refresh: REFRESH, monitors: Vec::new(), reactions: Vec::new() }
    }
}

/// A resource that is looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitor {
    /// Its name in metrics and logs.
    pub name: Arc<str>,
    /// What it is.
    pub resource: Resource,
}

/// What there may be too little of.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// Memory that the process has for itself, of so many bytes.
    Own(u64),
    /// Memory of its control group, of the limit that this has; of so many bytes at most.
    Group(Option<u64>),
    /// What a file says, from 0 to 1.
    File(PathBuf),
}

/// When an action is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Reaction {
    /// The action.
    pub action: Action,
    /// It is taken as much as the first of these wants.
    pub triggers: Vec<Trigger>,
}

impl Reaction {
    /// How much it is taken: the most that one of the triggers asks for.
    pub fn share(&self, pressures: &[f64]) -> f64 {
        let wanted = self.triggers.iter().filter_map(|trigger| {
            pressures.get(trigger.monitor).map(|pressure| trigger.share(*pressure))
        });
        wanted.fold(0.0, f64::max)
    }
}

/// How the pressure of a resource becomes the share of an action.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trigger {
    /// Which monitor tells the pressure.
    pub monitor: usize,
    /// Up to here nothing is done.
    pub from: f64,
    /// From here on all of it.
    pub to: f64,
}

impl Trigger {
    fn share(&self, pressure: f64) -> f64 {
        if pressure >= self.to {
            1.0
        } else if pressure <= self.from {
            0.0
        } else {
            (pressure - self.from) / (self.to - self.from)
        }
    }
}

/// How much of the process's memory limit is in use when all requests are refused.
const REQUESTS_TO: f64 = 1.1;

/// From when on, and when all of them, connections are refused: parts of the memory that there is.
const CONNECTIONS_FROM: f64 = 0.92;
const CONNECTIONS_TO: f64 = 0.97;

impl Plan {
    /// Adds what is done where the process may use so much memory: from there on more and more
    /// requests are refused, and their connections end. Where next to nothing is left of what is
    /// `available`, connections are refused too.
    pub fn limit_memory(&mut self, bytes: u64, available: Option<u64>) {
        // Nobody looks less often than that at a limit that keeps the process alive.
        self.refresh = self.refresh.min(Duration::from_millis(250));
        let monitor = self.watch("memory", bytes);
        for action in [Action::StopRequests, Action::StopKeepalive] {
            self.react(action, Trigger { monitor, from: 1.0, to: REQUESTS_TO });
        }
        if let Some(available) = available {
            let monitor = self.watch("available_memory", available);
            let (from, to) = (CONNECTIONS_FROM, CONNECTIONS_TO);
            self.react(Action::RejectConnections, Trigger { monitor, from, to });
        }
    }

    fn watch(&mut self, name: &str, bytes: u64) -> usize {
        self.monitors.push(Monitor { name: name.into(), resource: Resource::Own(bytes) });
        self.monitors.len() - 1
    }

    /// Has an action taken where a trigger says so, too.
    pub fn react(&mut self, action: Action, trigger: Trigger) {
        match self.reactions.iter_mut().find(|reaction| reaction.action == action) {
            Some(reaction) => reaction.triggers.push(trigger),
            None => self.reactions.push(Reaction { action, triggers: vec![trigger] }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_has_a_threshold_or_a_slope() {
        let share = |from, to, pressure| Trigger { monitor: 0, from, to }.share(pressure);
        for (from, to, pressure, wanted) in [
            (0.9, 0.9, 0.89, 0.0),
            (0.9, 0.9, 0.9, 1.0),
            (0.5, 1.0, 0.5, 0.0),
            (0.5, 1.0, 0.75, 0.5),
            (0.5, 1.0, 1.0, 1.0),
            (0.5, 1.0, 9.0, 1.0),
            (0.5, 1.0, f64::NAN, 0.0),
        ] {
            let given = share(from, to, pressure);
            assert!((given - wanted).abs() < 1e-9 || pressure.is_nan(), "{pressure}: {given}");
        }
    }

    #[test]
    fn the_most_that_is_asked_for_is_done() {
        let mut plan = Plan::default();
        plan.react(Action::StopRequests, Trigger { monitor: 0, from: 0.0, to: 1.0 });
        plan.react(Action::StopRequests, Trigger { monitor: 1, from: 0.5, to: 0.5 });
        assert_eq!(plan.reactions.len(), 1);
        let share = |pressures: &[f64]| plan.reactions[0].share(pressures);
        assert_eq!(share(&[0.25, 0.4]).to_string(), "0.25");
        assert_eq!(share(&[0.25, 0.5]).to_string(), "1");
        assert_eq!(share(&[]).to_string(), "0");
    }

    #[test]
    fn a_limit_of_memory_refuses_requests_before_connections() {
        let mut plan = Plan::default();
        plan.limit_memory(800, Some(1000));
        let shares = |bytes: f64| {
            plan.reactions
                .iter()
                .map(|reaction| format!("{:.1}", reaction.share(&[bytes / 800.0, bytes / 1000.0])))
                .collect::<Vec<_>>()
        };
        assert_eq!(plan.reactions[2].action, Action::RejectConnections);
        assert_eq!(shares(800.0), ["0.0", "0.0", "0.0"]);
        assert_eq!(shares(840.0), ["0.5", "0.5", "0.0"]);
        assert_eq!(shares(900.0), ["1.0", "1.0", "0.0"]);
        assert_eq!(shares(970.0), ["1.0", "1.0", "1.0"]);
    }
}
