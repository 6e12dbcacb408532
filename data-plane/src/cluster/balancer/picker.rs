//! Chooses among the endpoints of one priority: a locality, in it an endpoint.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::table::{Seat, Table};
use super::{BalancerConfig, Group, Policy, Selection, Tier};
use crate::cluster::endpoints::{Endpoint, Health};
use crate::cluster::priority::Who;
use crate::cluster::stride::Stride;

/// Chooses among the endpoints of one priority.
#[derive(Debug)]
pub(super) enum Picker {
    /// Localities take turns.
    Turns { turns: Stride, sets: Box<[Set]> },
    /// The hash of the request decides.
    Hash(Table),
}

fn is_in(endpoint: &Endpoint, who: Who) -> bool {
    match who {
        Who::Healthy => endpoint.health() == Health::Healthy,
        Who::Degraded => endpoint.health() == Health::Degraded,
        Who::Everyone => true,
    }
}

fn taking_part(group: &Group, who: Who) -> Vec<Arc<Endpoint>> {
    group.endpoints.iter().filter(|endpoint| is_in(endpoint, who)).map(Arc::clone).collect()
}

impl Picker {
    /// `now`: where weights grow with time.
    pub(super) fn new(tier: &Tier<'_>, who: Who, now: Option<Instant>) -> Self {
        match tier.config.policy {
            Policy::Hash { table, by_hostname } => {
                Self::Hash(Table::new(table, by_hostname, seats(tier, who)))
            }
            Policy::RoundRobin
            | Policy::LeastRequest { .. }
            | Policy::LeastRequestOfAll
            | Policy::Random => Self::turns(tier, who, now),
        }
    }

    fn turns(tier: &Tier<'_>, who: Who, now: Option<Instant>) -> Self {
        let mut weights = Vec::new();
        let mut sets = Vec::new();
        if tier.config.by_locality {
            for group in &tier.groups {
                let endpoints = taking_part(group, who);
                // A locality without a weight gets nothing where localities go by weight.
                let weight = u64::from(group.weight.unwrap_or(0));
                // An ailing locality gives up what it cannot bear.
                let able = (endpoints.len() as u64 * u64::from(tier.overprovisioning)
                    / group.endpoints.len().max(1) as u64)
                    .min(100);
                let weight = u32::try_from(weight * able).unwrap_or(u32::MAX);
                if weight > 0 {
                    weights.push(weight);
                    sets.push(Set::new(tier.config, endpoints, now));
                }
            }
        }
        if sets.is_empty() {
            weights = vec![1];
            let endpoints = tier.groups.iter().flat_map(|group| taking_part(group, who)).collect();
            sets = vec![Set::new(tier.config, endpoints, now)];
        }
        Self::Turns { turns: Stride::new(&weights, fastrand::u64(0..1 << 20)), sets: sets.into() }
    }

    pub(super) fn pick(&self, selection: &Selection<'_>) -> Option<&Arc<Endpoint>> {
        match self {
            Self::Turns { turns, sets } => sets.get(turns.take())?.pick(),
            Self::Hash(table) => {
                let hash = selection.hash.unwrap_or_else(|| fastrand::u64(..));
                table.pick(hash, selection.attempt)
            }
        }
    }
}

/// Endpoints with their part of the traffic: by weight, and by the weight of their locality.
fn seats(tier: &Tier<'_>, who: Who) -> Vec<Seat> {
    let taking_part = |group: &&Group| taking_part(group, who);
    let sum = |endpoints: &[Arc<Endpoint>]| -> f64 {
        endpoints.iter().map(|endpoint| f64::from(endpoint.config.weight)).sum()
    };
    let seat = |endpoint: Arc<Endpoint>, of: f64, sum: f64| {
        let share = f64::from(endpoint.config.weight) * of / sum;
        Seat { endpoint, share }
    };
    if tier.config.by_locality {
        let groups: Vec<_> = tier
            .groups
            .iter()
            .map(|group| (f64::from(group.weight.unwrap_or(0)), taking_part(group)))
            .filter(|(weight, endpoints)| *weight > 0.0 && !endpoints.is_empty())
            .collect();
        let all: f64 = groups.iter().map(|(weight, _)| *weight).sum();
        let seats = groups.into_iter().flat_map(|(weight, endpoints)| {
            let sum = sum(&endpoints);
            endpoints.into_iter().map(move |endpoint| seat(endpoint, weight / all, sum))
        });
        return seats.collect();
    }
    let endpoints: Vec<_> = tier.groups.iter().flat_map(taking_part).collect();
    let sum = sum(&endpoints);
    endpoints.into_iter().map(|endpoint| seat(endpoint, 1.0, sum)).collect()
}

/// Endpoints of one locality, or of all.
#[derive(Debug)]
pub(super) struct Set {
    policy: Policy,
    turns: Stride,
    /// Weights added up; empty when all weigh the same.
    sums: Box<[u64]>,
    endpoints: Box<[Arc<Endpoint>]>,
}

impl Set {
    fn new(config: &BalancerConfig, endpoints: Vec<Arc<Endpoint>>, now: Option<Instant>) -> Self {
        let weight = |endpoint: &Endpoint| match (config.slow_start, now) {
            (Some(slow_start), Some(now)) => {
                slow_start.weight(endpoint.config.weight, endpoint.live.up_since(now), now)
            }
            _ => endpoint.config.weight,
        };
        let weights: Vec<_> = endpoints.iter().map(|endpoint| weight(endpoint)).collect();
        let turns = Stride::new(&weights, fastrand::u64(0..1 << 20));
        let are_equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        let sums = if are_equal { Box::default() } else { sums.collect() };
        Self { policy: config.policy, turns, sums, endpoints: endpoints.into() }
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
            Policy::Random | Policy::Hash { .. } => fastrand::choice(&*self.endpoints),
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
