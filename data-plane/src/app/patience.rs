//! How long what is missing is waited for. Pure: time comes in as an argument.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xds_proto::resource::ResourceType;

use crate::compile::Waiting;
use crate::reference::FETCH_TIMEOUT;

/// How long routes wait for a cluster that nobody has announced: it may be on its way behind them,
/// from a control plane that sends routes first.
const STRAY_CLUSTER_TIMEOUT: Duration = Duration::from_secs(1);

/// What is waited for, and until when.
#[derive(Debug, Default)]
pub(super) struct Patience {
    deadlines: HashMap<Waiting, Instant>,
    /// What the control plane says does not exist.
    absent: HashSet<(ResourceType, Arc<str>)>,
}

/// What bears on how long to wait.
#[derive(Clone, Copy)]
pub(super) struct Situation<'a> {
    /// The time.
    pub(super) now: Instant,
    /// Whether a control plane is there that could send what is missing.
    pub(super) is_connected: bool,
    /// Whether a cluster is known, if only by name.
    pub(super) is_known: &'a dyn Fn(&str) -> bool,
    /// Whether the endpoints of a cluster come from DNS.
    pub(super) is_looked_up: &'a dyn Fn(&str) -> bool,
    /// How long something may take, from when a stream stands; none is for ever.
    pub(super) fetch_timeout: &'a dyn Fn(&Waiting) -> Option<Duration>,
}

impl Patience {
    /// Of what is missing, that which need not be waited for any longer.
    pub(super) fn review(&mut self, waiting: &[Waiting], situation: Situation<'_>) -> Vec<Waiting> {
        let mut deadlines = HashMap::new();
        let mut over = Vec::new();
        for one in waiting {
            match self.deadline(one, situation) {
                Some(deadline) if deadline <= situation.now => over.push(one.clone()),
                Some(deadline) => drop(deadlines.insert(one.clone(), deadline)),
                None => {}
            }
        }
        self.deadlines = deadlines;
        over
    }

    fn deadline(&self, waiting: &Waiting, situation: Situation<'_>) -> Option<Instant> {
        let Situation { now, is_connected, is_known, is_looked_up, fetch_timeout } = situation;
        if self.absent.contains(&(waiting.kind, Arc::clone(&waiting.name))) {
            return Some(now);
        }
        let known = self.deadlines.get(waiting).copied();
        let lasts = |timeout| Some(known.unwrap_or(now + timeout));
        match waiting.kind {
            ResourceType::Cluster if is_known(&waiting.name) => lasts(FETCH_TIMEOUT),
            ResourceType::Cluster if is_connected => lasts(STRAY_CLUSTER_TIMEOUT),
            ResourceType::Cluster => Some(now),
            ResourceType::Endpoints if is_looked_up(&waiting.user) => lasts(FETCH_TIMEOUT),
            // The timer runs only while the request can be answered.
            _ if is_connected => fetch_timeout(waiting).and_then(lasts),
            // Whether there are more virtual hosts is asked for each request.
            ResourceType::VirtualHost => Some(now),
            _ => None,
        }
    }

    /// When the next wait is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.deadlines.values().min().copied()
    }

    /// The control plane says that this does not exist.
    pub(super) fn mark_absent(&mut self, kind: ResourceType, name: Arc<str>) {
        self.absent.insert((kind, name));
    }

    /// It has come, or nobody wants it any more.
    pub(super) fn settle(&mut self, kind: ResourceType, name: &Arc<str>) {
        self.absent.remove(&(kind, Arc::clone(name)));
    }

    /// What the control plane says does not exist.
    pub(super) fn absent(&self) -> &HashSet<(ResourceType, Arc<str>)> {
        &self.absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(user: &str, kind: ResourceType, name: &str) -> Waiting {
        Waiting { user: user.into(), kind, name: name.into() }
    }

    fn situation(now: Instant, is_connected: bool) -> Situation<'static> {
        Situation {
            now,
            is_connected,
            is_known: &|name| name == "known",
            is_looked_up: &|name| name == "dns",
            fetch_timeout: &|waiting| match &*waiting.name {
                "ever" => None,
                "short" => Some(Duration::from_secs(1)),
                _ => Some(FETCH_TIMEOUT),
            },
        }
    }

    #[test]
    fn a_resource_is_waited_for_only_while_it_can_come() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let endpoints = [waiting("c", ResourceType::Endpoints, "e")];
        assert!(patience.review(&endpoints, situation(start, false)).is_empty());
        assert_eq!(patience.next(), None);
        assert!(patience.review(&endpoints, situation(start, true)).is_empty());
        assert_eq!(patience.next(), Some(start + FETCH_TIMEOUT));
        let later = situation(start + FETCH_TIMEOUT, true);
        assert_eq!(patience.review(&endpoints, later), endpoints);
    }

    #[test]
    fn who_waits_says_how_long() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let both = ["short", "ever"].map(|name| waiting("c", ResourceType::Endpoints, name));
        assert!(patience.review(&both, situation(start, true)).is_empty());
        assert_eq!(patience.next(), Some(start + Duration::from_secs(1)));
        let later = situation(start + FETCH_TIMEOUT * 100, true);
        assert_eq!(patience.review(&both, later), both[..1]);
        let hosts = [waiting("r", ResourceType::VirtualHost, "r")];
        assert_eq!(patience.review(&hosts, situation(start, false)), hosts);
    }

    #[test]
    fn what_does_not_exist_is_not_waited_for() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let routes = [waiting("l", ResourceType::Route, "r")];
        patience.mark_absent(ResourceType::Route, "r".into());
        assert_eq!(patience.review(&routes, situation(start, true)), routes);
        patience.settle(ResourceType::Route, &"r".into());
        assert!(patience.review(&routes, situation(start, true)).is_empty());
    }

    #[test]
    fn an_unknown_cluster_is_waited_for_shortly_or_not_at_all() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let unknown = [waiting("r", ResourceType::Cluster, "unknown")];
        assert_eq!(patience.review(&unknown, situation(start, false)), unknown);
        patience.review(&unknown, situation(start, true));
        assert_eq!(patience.next(), Some(start + STRAY_CLUSTER_TIMEOUT));
        let known = [waiting("r", ResourceType::Cluster, "known")];
        patience.review(&known, situation(start, true));
        assert_eq!(patience.next(), Some(start + FETCH_TIMEOUT));
        let dns = [waiting("dns", ResourceType::Endpoints, "dns")];
        patience.review(&dns, situation(start, false));
        assert_eq!(patience.next(), Some(start + FETCH_TIMEOUT));
    }
}
