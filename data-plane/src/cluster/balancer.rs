//! Chooses an endpoint: a share of the traffic, in it a locality, in it an endpoint.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::cluster::endpoints::{Endpoint, Health};
use crate::cluster::priority::{Census, Share, Who, split};
use crate::cluster::stride::Stride;

/// How endpoints are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerConfig {
    /// Among the endpoints of a group.
    pub policy: Policy,
    /// Whether localities share by their weights; else all endpoints of a priority are one group.
    pub by_locality: bool,
    /// Below so many percent of healthy endpoints all get traffic. Envoy's default is 50; 0 is
    /// never.
    pub panic_below_percent: u32,
}

/// How an endpoint of a group is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// Of so many drawn by weight, the one with the fewest requests in flight for its weight.
    LeastRequest {
        /// How many are drawn, at least 2. Envoy's default is 2.
        choices: u32,
    },
    /// Of all, the one with the fewest requests in flight for its weight.
    LeastRequestOfAll,
}

impl Default for BalancerConfig {
    fn default() -> Self {
        Self { policy: Policy::RoundRobin, by_locality: false, panic_below_percent: 50 }
    }
}

/// The endpoints of one priority and locality.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) priority: u32,
    pub(crate) weight: Option<u32>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// Chooses endpoints.
#[derive(Debug)]
pub(crate) struct Balancer {
    shares: Box<[(u32, Picker)]>,
}

#[derive(Debug)]
struct Picker {
    turns: Stride,
    sets: Box<[Set]>,
}

#[derive(Debug)]
struct Set {
    policy: Policy,
    turns: Stride,
    /// Weights added up; empty when all weigh the same.
    sums: Box<[u64]>,
    endpoints: Box<[Arc<Endpoint>]>,
}

impl Balancer {
    pub(crate) fn new(config: &BalancerConfig, groups: &[Group], overprovisioning: u32) -> Self {
        let mut priorities: Vec<u32> = groups.iter().map(|group| group.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let of = |priority: u32| groups.iter().filter(move |group| group.priority == priority);
        let census: Vec<_> = priorities.iter().map(|priority| census(of(*priority))).collect();
        let shares = split(&census, overprovisioning, config.panic_below_percent)
            .into_iter()
            .map(|Share { priority, who, percent }| {
                let groups: Vec<_> = of(priorities[priority]).collect();
                (percent, Picker::new(config, &groups, who, overprovisioning))
            })
            .collect();
        Self { shares }
    }

    pub(crate) fn pick(&self) -> Option<&Arc<Endpoint>> {
        let picker = match &*self.shares {
            [] => return None,
            [(_, only)] => only,
            many => {
                let mut at = fastrand::u32(0..100);
                let drawn = many.iter().find(|(percent, _)| {
                    let is_here = at < *percent;
                    at = at.saturating_sub(*percent);
                    is_here
                });
                &drawn.or(many.last())?.1
            }
        };
        picker.sets.get(picker.turns.take())?.pick()
    }
}

fn census<'a>(groups: impl Iterator<Item = &'a Group>) -> Census {
    groups.flat_map(|group| &group.endpoints).fold(Census::default(), |mut census, endpoint| {
        census.total += 1;
        match endpoint.config.health {
            Health::Healthy => census.healthy += 1,
            Health::Degraded => census.degraded += 1,
            Health::Unhealthy | Health::Draining => {}
        }
        census
    })
}

fn is_in(endpoint: &Endpoint, who: Who) -> bool {
    match who {
        Who::Healthy => endpoint.config.health == Health::Healthy,
        Who::Degraded => endpoint.config.health == Health::Degraded,
        Who::Everyone => true,
    }
}

impl Picker {
    fn new(config: &BalancerConfig, groups: &[&Group], who: Who, overprovisioning: u32) -> Self {
        let taking_part = |group: &Group| -> Vec<Arc<Endpoint>> {
            group.endpoints.iter().filter(|endpoint| is_in(endpoint, who)).map(Arc::clone).collect()
        };
        let mut weights = Vec::new();
        let mut sets = Vec::new();
        if config.by_locality {
            for group in groups {
                let endpoints = taking_part(group);
                // A locality without a weight gets nothing where localities go by weight.
                let weight = u64::from(group.weight.unwrap_or(0));
                // An ailing locality gives up what it cannot bear.
                let able = (endpoints.len() as u64 * u64::from(overprovisioning)
                    / group.endpoints.len().max(1) as u64)
                    .min(100);
                let weight = u32::try_from(weight * able).unwrap_or(u32::MAX);
                if weight > 0 {
                    weights.push(weight);
                    sets.push(Set::new(config.policy, endpoints));
                }
            }
        }
        if sets.is_empty() {
            weights = vec![1];
            let endpoints = groups.iter().flat_map(|group| taking_part(group)).collect();
            sets = vec![Set::new(config.policy, endpoints)];
        }
        Self { turns: Stride::new(&weights, fastrand::u64(0..1 << 20)), sets: sets.into() }
    }
}

impl Set {
    fn new(policy: Policy, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let weights: Vec<_> = endpoints.iter().map(|endpoint| endpoint.config.weight).collect();
        let turns = Stride::new(&weights, fastrand::u64(0..1 << 20));
        let are_equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        let sums = if are_equal { Box::default() } else { sums.collect() };
        Self { policy, turns, sums, endpoints: endpoints.into() }
    }

    fn pick(&self) -> Option<&Arc<Endpoint>> {
        match self.policy {
            Policy::RoundRobin => self.endpoints.get(self.turns.take()),
            Policy::LeastRequest { choices } => {
                // The first wins a tie: without load each gets its share.
                let mut best = self.draw()?;
                for _ in 1..choices {
                    let other = self.draw()?;
                    if is_less_loaded(other, best) {
                        best = other;
                    }
                }
                Some(best)
            }
            Policy::LeastRequestOfAll => {
                let start = self.turns.take();
                let all = self.endpoints.iter().cycle().skip(start).take(self.endpoints.len());
                all.reduce(|best, other| if is_less_loaded(other, best) { other } else { best })
            }
        }
    }

    /// Draws at random, by weight.
    fn draw(&self) -> Option<&Arc<Endpoint>> {
        let Some(total) = self.sums.last() else { return fastrand::choice(&*self.endpoints) };
        let at = fastrand::u64(0..*total);
        self.endpoints.get(self.sums.partition_point(|sum| *sum <= at))
    }
}

fn is_less_loaded(one: &Endpoint, other: &Endpoint) -> bool {
    let load = |endpoint: &Endpoint| u64::from(endpoint.live.requests.load(Relaxed));
    load(one) * u64::from(other.config.weight) < load(other) * u64::from(one.config.weight)
}
