//! Chooses an endpoint: a share of the traffic, in it a locality, in it an endpoint.

pub mod slow_start;
pub mod subset;
pub mod table;
mod picker;

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::balancer::picker::Picker;
use crate::cluster::balancer::slow_start::SlowStart;
use crate::cluster::balancer::subset::{SubsetConfig, Subsets};
use crate::cluster::balancer::table::TableConfig;
use crate::cluster::endpoints::{Endpoint, Health};
use crate::cluster::priority::{Census, Share, Who, availability, is_panicking, split};
use crate::labels::Labels;
use crate::matcher::hash::HashPolicy;

/// How endpoints are chosen.
#[derive(Debug, Clone)]
pub struct BalancerConfig {
    /// Among the endpoints of a group.
    pub policy: Policy,
    /// Whether localities share by their weights; else all endpoints of a priority are one group.
    pub by_locality: bool,
    /// Below so many percent of healthy endpoints all get traffic. Envoy's default is 50; 0 is
    /// never.
    pub panic_below_percent: u32,
    /// How the weight of an endpoint that came up grows.
    pub slow_start: Option<SlowStart>,
    /// How endpoints are divided by metadata.
    pub subsets: Option<Arc<SubsetConfig>>,
    /// What requests are hashed by, whatever their route says; empty leaves it to the route.
    pub hash_policy: HashPolicy,
    /// Whether all connections are made anew when endpoints come or go.
    pub renews_connections: bool,
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
    /// At random, whatever the weights.
    Random,
    /// By the hash of the request; at random where it has none.
    Hash {
        /// Which hashes go where.
        table: TableConfig,
        /// Whether endpoints are placed by their host names; else by their addresses.
        by_hostname: bool,
    },
}

impl Default for BalancerConfig {
    fn default() -> Self {
        Self {
            policy: Policy::RoundRobin,
            by_locality: false,
            panic_below_percent: 50,
            slow_start: None,
            subsets: None,
            hash_policy: HashPolicy::default(),
            renews_connections: false,
        }
    }
}

/// What a request asks of its endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection<'a> {
    /// Its hash, where one is defined.
    pub hash: Option<u64>,
    /// The metadata that its route asks for.
    pub labels: Option<&'a Labels>,
    /// How many endpoints were passed over.
    pub attempt: u32,
}

/// The endpoints of one priority and locality.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) priority: u32,
    pub(crate) weight: Option<u32>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// The groups of one priority, and how they are balanced.
#[derive(Debug)]
pub(crate) struct Tier<'a> {
    config: &'a BalancerConfig,
    overprovisioning: u32,
    groups: Vec<&'a Group>,
}

/// Groups by priority, the first first.
pub(crate) fn tiers<'a>(
    config: &'a BalancerConfig,
    overprovisioning: u32,
    groups: &'a [Group],
) -> Vec<Tier<'a>> {
    let mut priorities: Vec<u32> = groups.iter().map(|group| group.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let of = |priority: u32| groups.iter().filter(move |group| group.priority == priority);
    let tier = |priority| Tier { config, overprovisioning, groups: of(priority).collect() };
    priorities.into_iter().map(tier).collect()
}

impl Tier<'_> {
    /// Whether it is the priority of this endpoint.
    pub(crate) fn is_of(&self, endpoint: &Endpoint) -> bool {
        self.endpoints().next().is_some_and(|one| {
            one.priority == endpoint.priority && Arc::ptr_eq(&one.home, &endpoint.home)
        })
    }

    /// How much of the traffic it can bear, in percent.
    pub(crate) fn availability(&self) -> u32 {
        availability(&self.census())
    }

    fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.groups.iter().flat_map(|group| &group.endpoints)
    }

    fn census(&self) -> Census {
        let none = Census { overprovisioning: self.overprovisioning, ..Census::default() };
        self.endpoints().fold(none, |mut census, endpoint| {
            census.total += 1;
            match endpoint.health() {
                Health::Healthy => census.healthy += 1,
                Health::Degraded => census.degraded += 1,
                Health::Unhealthy | Health::Draining => {}
            }
            census
        })
    }

    /// Until when weights may be taken for constant.
    fn constant_until(&self, now: Instant) -> Option<Instant> {
        let slow_start = self.config.slow_start?;
        let is_under_way =
            |one: &Arc<Endpoint>| slow_start.is_under_way(one.live.up_since(now), now);
        self.endpoints().any(is_under_way).then(|| now + slow_start.step())
    }
}

/// Chooses endpoints, as their health was at one moment.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// Which changes of health it knows of.
    pub(crate) generation: u64,
    stale_at: Option<Instant>,
    all: Shares,
    subsets: Option<Subsets>,
}

impl Balancer {
    /// Balances over the groups of a cluster.
    pub(crate) fn new(
        config: &BalancerConfig,
        groups: &[Group],
        overprovisioning: u32,
        generation: u64,
    ) -> Self {
        let tiers = tiers(config, overprovisioning, groups);
        let mut balancer = Self::over(&tiers, config.panic_below_percent, generation);
        let now = balancer.stale_at.map(|_| Instant::now());
        let subsets = config.subsets.as_ref();
        balancer.subsets =
            subsets.map(|subsets| Subsets::new(subsets, config, overprovisioning, (groups, now)));
        balancer
    }

    /// Balances over tiers, which may be balanced in different ways.
    pub(crate) fn over(tiers: &[Tier<'_>], panic_below_percent: u32, generation: u64) -> Self {
        let grows = tiers.iter().any(|tier| tier.config.slow_start.is_some());
        let now = grows.then(Instant::now);
        let stale_at =
            now.and_then(|now| tiers.iter().filter_map(|tier| tier.constant_until(now)).min());
        let all = Shares::new(tiers, panic_below_percent, now.filter(|_| stale_at.is_some()));
        Self { generation, stale_at, all, subsets: None }
    }

    /// Whether weights have grown since.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale_at.is_some_and(|at| Instant::now() >= at)
    }

    pub(crate) fn pick(&self, selection: &Selection<'_>) -> Option<&Arc<Endpoint>> {
        match &self.subsets {
            None => self.all.pick(selection),
            Some(subsets) => subsets.pick(selection, &self.all),
        }
    }
}

/// Shares of the traffic, in percent, and who takes them.
#[derive(Debug)]
struct Shares(Box<[(u32, Picker)]>);

impl Shares {
    fn new(tiers: &[Tier<'_>], panic_below_percent: u32, now: Option<Instant>) -> Self {
        let census: Vec<_> = tiers.iter().map(Tier::census).collect();
        let shares = split(&census, panic_below_percent).into_iter().map(|share| {
            let Share { priority, who, percent } = share;
            let own_threshold = tiers[priority].config.panic_below_percent;
            // An aggregate chooses the priority; the cluster that it is of, whether that panics.
            let is_calm = !is_panicking(census[priority], own_threshold);
            let who = if who == Who::Everyone && is_calm { Who::Healthy } else { who };
            (percent, Picker::new(&tiers[priority], who, now))
        });
        Self(shares.collect())
    }

    fn pick(&self, selection: &Selection<'_>) -> Option<&Arc<Endpoint>> {
        let picker = match &*self.0 {
            [] => return None,
            [(_, only)] => only,
            many => {
                let mut at = match selection.hash {
                    // What is hashed stays in its priority.
                    Some(hash) => (hash % 100) as u32,
                    None => fastrand::u32(0..100),
                };
                let drawn = many.iter().find(|(percent, _)| {
                    let is_here = at < *percent;
                    at = at.saturating_sub(*percent);
                    is_here
                });
                &drawn.or(many.last())?.1
            }
        };
        picker.pick(selection)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::Ordering::Relaxed;

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
        EndpointConfig {
            address,
            also: Box::default(),
            hostname: "".into(),
            weight,
            health,
            labels: Arc::default(),
            sockets: None,
            check: None,
        }
    }

    /// The percentage of picks by port.
    fn picks(cluster: &Cluster) -> BTreeMap<u16, u32> {
        let mut picks = BTreeMap::<u16, u32>::new();
        for _ in 0..10_000 {
            let endpoint = cluster.pick(&Selection::default()).unwrap();
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
        assert!(cluster(BalancerConfig::default(), &down).pick(&Selection::default()).is_some());
        let config = BalancerConfig { panic_below_percent: 0, ..BalancerConfig::default() };
        assert!(cluster(config, &down).pick(&Selection::default()).is_none());
        assert!(cluster(BalancerConfig::default(), &[]).pick(&Selection::default()).is_none());
    }

    #[test]
    fn at_random_weights_do_not_count() {
        let config = BalancerConfig { policy: Policy::Random, ..BalancerConfig::default() };
        let shares = picks(&cluster(config, &[(0, None, &[(1, 9, UP), (2, 1, UP)])]));
        assert!((47..=53).contains(&shares[&1]), "{shares:?}");
    }

    const MAGLEV: Policy =
        Policy::Hash { table: TableConfig::Maglev { size: 1021 }, by_hostname: false };

    #[test]
    fn a_hash_goes_to_one_endpoint_and_its_retries_to_others() {
        let config = BalancerConfig { policy: MAGLEV, ..BalancerConfig::default() };
        let groups: [Given<'_>; 1] = [(0, None, &[(1, 1, UP), (2, 1, UP), (3, 2, UP)])];
        let (one, same) = (cluster(config.clone(), &groups), cluster(config, &groups));
        for hash in 0..100_u64 {
            let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let selection = Selection { hash: Some(hash), ..Selection::default() };
            let picked = one.pick(&selection).unwrap();
            assert_eq!(picked.label, same.pick(&selection).unwrap().label);
            let other = one.pick_other(&picked, &selection).unwrap();
            assert_ne!(picked.label, other.label);
        }
        let shares = picks(&one);
        assert!((45..=55).contains(&shares[&3]), "without a hash it goes by weight: {shares:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_came_up_gets_little_at_first() {
        use std::time::Duration;
        let slow_start =
            SlowStart { window: Duration::from_secs(100), aggression: 1.0, min_weight: 0.1 };
        for policy in [Policy::RoundRobin, Policy::LeastRequest { choices: 2 }] {
            let slow_start = Some(slow_start);
            let config = BalancerConfig { policy, slow_start, ..BalancerConfig::default() };
            let cluster = cluster(config, &[(0, None, &[(1, 1, UP), (2, 1, UP)])]);
            tokio::time::advance(Duration::from_secs(100)).await;
            cluster.endpoints[1].live.came_up(Instant::now());
            cluster.live.health_changed();
            let share = picks(&cluster)[&2];
            assert!((7..=11).contains(&share), "{share}");
            tokio::time::advance(Duration::from_secs(50)).await;
            let share = picks(&cluster)[&2];
            assert!((31..=36).contains(&share), "{share}");
            tokio::time::advance(Duration::from_secs(50)).await;
            let share = picks(&cluster)[&2];
            assert!((48..=52).contains(&share), "{share}");
        }
    }

    #[test]
    fn a_retry_goes_elsewhere_if_it_can() {
        let pair: [Given<'_>; 1] = [(0, None, &[(1, 1, UP), (2, 1, UP)])];
        let cluster = cluster(BalancerConfig::default(), &pair);
        let tried = cluster.pick(&Selection::default()).unwrap();
        assert!(!Arc::ptr_eq(&tried, &cluster.pick_other(&tried, &Selection::default()).unwrap()));
        let only = self::cluster(BalancerConfig::default(), &[(0, None, &[(1, 1, UP)])]);
        let tried = only.pick(&Selection::default()).unwrap();
        assert!(Arc::ptr_eq(&tried, &only.pick_other(&tried, &Selection::default()).unwrap()));
    }
}
