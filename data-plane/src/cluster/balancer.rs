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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use xds_proto::convert::Address;

    use super::*;
    use crate::cluster::Cluster;
    use crate::cluster::endpoints::{EndpointConfig, EndpointsConfig, Locality, LocalityConfig};
    use crate::cluster::pool::testing::of_config;

    /// A group: priority, weight, and the weight and health of endpoints by port.
    type Given<'a> = (u32, Option<u32>, &'a [(u16, u32, Health)]);

    fn cluster(balancer: BalancerConfig, groups: &[Given<'_>]) -> Arc<Cluster> {
        let groups = groups.iter().map(|(priority, weight, endpoints)| LocalityConfig {
            locality: Locality::default(),
            priority: *priority,
            weight: *weight,
            endpoints: endpoints.iter().map(|one| endpoint(*one)).collect(),
        });
        let endpoints = EndpointsConfig {
            name: "c".into(),
            localities: groups.collect(),
            overprovisioning_percent: 140,
        };
        of_config(balancer, Arc::new(endpoints))
    }

    fn endpoint((port, weight, health): (u16, u32, Health)) -> EndpointConfig {
        let address = Address::Ip(([127, 0, 0, 1], port).into());
        EndpointConfig { address, hostname: "".into(), weight, health }
    }

    /// The percentage of picks by port.
    fn picks(cluster: &Cluster) -> BTreeMap<u16, u32> {
        let mut picks = BTreeMap::<u16, u32>::new();
        for _ in 0..10_000 {
            let endpoint = cluster.pick().unwrap();
            let Address::Ip(address) = endpoint.config.address else { unreachable!() };
            *picks.entry(address.port()).or_default() += 1;
        }
        picks.into_iter().map(|(port, count)| (port, (count + 50) / 100)).collect()
    }

    const UP: Health = Health::Healthy;

    #[test]
    fn round_robin_goes_by_weight() {
        let cluster = cluster(BalancerConfig::default(), &[(0, None, &[(1, 9, UP), (2, 1, UP)])]);
        assert_eq!(picks(&cluster), [(1, 90), (2, 10)].into());
    }

    #[test]
    fn least_request_goes_by_weight_without_load_and_by_load_under_it() {
        let policy = Policy::LeastRequest { choices: 2 };
        let config = BalancerConfig { policy, ..BalancerConfig::default() };
        let weighted = cluster(config.clone(), &[(0, None, &[(1, 3, UP), (2, 1, UP)])]);
        let share = picks(&weighted)[&1];
        assert!((72..=78).contains(&share), "{share}");
        let equal = cluster(config, &[(0, None, &[(1, 1, UP), (2, 1, UP)])]);
        equal.endpoints[0].live.requests.store(5, Relaxed);
        let share = picks(&equal)[&2];
        assert!((72..=78).contains(&share), "{share}");
        let policy = Policy::LeastRequestOfAll;
        let config = BalancerConfig { policy, ..BalancerConfig::default() };
        let all = self::cluster(config, &[(0, None, &[(1, 1, UP), (2, 1, UP), (3, 1, UP)])]);
        all.endpoints[0].live.requests.store(5, Relaxed);
        all.endpoints[1].live.requests.store(4, Relaxed);
        assert_eq!(picks(&all), [(3, 100)].into());
    }

    #[test]
    fn localities_share_by_weight_only_where_asked() {
        let groups: [Given<'_>; 3] = [
            (0, Some(3), &[(1, 1, UP)]),
            (0, Some(1), &[(2, 1, UP), (3, 1, UP)]),
            (0, None, &[(4, 1, UP)]),
        ];
        let flat = cluster(BalancerConfig::default(), &groups);
        assert_eq!(picks(&flat), [(1, 25), (2, 25), (3, 25), (4, 25)].into());
        let config = BalancerConfig { by_locality: true, ..BalancerConfig::default() };
        assert_eq!(picks(&cluster(config, &groups)), [(1, 75), (2, 13), (3, 13)].into());
    }

    #[test]
    fn what_is_not_healthy_gets_nothing_and_the_next_priority_helps() {
        let down = Health::Draining;
        let groups: [Given<'_>; 2] =
            [(0, None, &[(1, 1, UP), (2, 1, down)]), (1, None, &[(3, 1, UP)])];
        let shares = picks(&cluster(BalancerConfig::default(), &groups));
        assert!((67..=73).contains(&shares[&1]), "{shares:?}");
        assert_eq!(shares.keys().copied().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn nobody_healthy_is_panic_or_nobody() {
        let down: [Given<'_>; 1] = [(0, None, &[(1, 1, Health::Unhealthy)])];
        assert!(cluster(BalancerConfig::default(), &down).pick().is_some());
        let config = BalancerConfig { panic_below_percent: 0, ..BalancerConfig::default() };
        assert!(cluster(config, &down).pick().is_none());
        assert!(cluster(BalancerConfig::default(), &[]).pick().is_none());
    }

    #[test]
    fn a_retry_goes_elsewhere_if_it_can() {
        let pair: [Given<'_>; 1] = [(0, None, &[(1, 1, UP), (2, 1, UP)])];
        let cluster = cluster(BalancerConfig::default(), &pair);
        let tried = cluster.pick().unwrap();
        assert!(!Arc::ptr_eq(&tried, &cluster.pick_other(&tried).unwrap()));
        let only = self::cluster(BalancerConfig::default(), &[(0, None, &[(1, 1, UP)])]);
        let tried = only.pick().unwrap();
        assert!(Arc::ptr_eq(&tried, &only.pick_other(&tried).unwrap()));
    }
}
