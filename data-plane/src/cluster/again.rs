//! An endpoint for a retry: not where the tries before went, as its policy says.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cluster::balancer::{Balancer, Selection, Tier};
use crate::cluster::endpoints::Endpoint;
use crate::retry::Elsewhere;

/// A balancer that does without some priorities.
#[derive(Debug)]
pub(super) struct Spare {
    /// Those, as bits.
    left_out: u128,
    balancer: Balancer,
}

impl Cluster {
    /// An endpoint for the next try after these; `None` when no endpoint may be used.
    pub fn pick_again(
        &self,
        tried: &[Arc<Endpoint>],
        elsewhere: &Elsewhere,
        selection: &Selection<'_>,
    ) -> Option<Arc<Endpoint>> {
        let spare = self.spare(tried, elsewhere);
        let pick = |selection: &Selection<'_>| {
            let of_spare = spare.as_ref().and_then(|spare| spare.balancer.pick(selection));
            of_spare.map(Arc::clone).or_else(|| self.pick(selection))
        };
        let is_unwanted = |endpoint: &Arc<Endpoint>| {
            let was_tried = || tried.iter().any(|one| Arc::ptr_eq(&one.live, &endpoint.live));
            let labels = &endpoint.config.labels;
            let is_labelled = || elsewhere.not_labelled.iter().any(|not| labels.include(not, true));
            (elsewhere.not_tried && was_tried()) || is_labelled()
        };
        let mut picked = pick(selection)?;
        for draw in 1..=elsewhere.draws {
            if !is_unwanted(&picked) {
                break;
            }
            let attempt = selection.attempt + draw;
            picked = pick(&Selection { attempt, ..*selection })?;
        }
        Some(picked)
    }

    /// A balancer without the priorities that were tried; nothing where all may be used.
    fn spare(&self, tried: &[Arc<Endpoint>], elsewhere: &Elsewhere) -> Option<Arc<Spare>> {
        let policy = elsewhere.priorities?;
        let tiers = self.tiers();
        let of = |endpoint: &Arc<Endpoint>| tiers.iter().position(|tier| tier.is_of(endpoint));
        let availability: Vec<_> = tiers.iter().map(Tier::availability).collect();
        let tried: Vec<_> = tried.iter().filter_map(of).collect();
        let left_out = policy.left_out(&tried, &availability);
        if left_out == 0 {
            return None;
        }
        let generation = self.generation();
        let known = self.spare.load_full().filter(|spare| {
            let balancer = &spare.balancer;
            spare.left_out == left_out && balancer.generation == generation && !balancer.is_stale()
        });
        Some(known.unwrap_or_else(|| {
            let is_panic_over = availability.iter().sum::<u32>() >= 100;
            let balancer = self.without(left_out, is_panic_over, generation);
            let spare = Arc::new(Spare { left_out, balancer });
            self.spare.store(Some(Arc::clone(&spare)));
            spare
        }))
    }

    /// `is_calm`: all priorities together bear the traffic, so none of them panics.
    fn without(&self, left_out: u128, is_calm: bool, generation: u64) -> Balancer {
        let is_left = |tier: usize| {
            u32::try_from(tier).ok().and_then(|tier| left_out.checked_shr(tier)).unwrap_or(0) & 1
                == 0
        };
        let mut config = self.config.balancer.clone();
        if is_calm {
            config.panic_below_percent = 0;
        }
        let tiers = self.tiers();
        if self.members.is_empty() && config.subsets.is_some() {
            let left: Vec<_> =
                tiers.iter().enumerate().filter(|(index, _)| is_left(*index)).collect();
            let groups = self.groups.iter().filter(|group| {
                let has =
                    |endpoint: &Arc<Endpoint>| left.iter().any(|(_, tier)| tier.is_of(endpoint));
                group.endpoints.first().is_some_and(has)
            });
            let groups: Vec<_> = groups.cloned().collect();
            let overprovisioning = self.endpoints_config.overprovisioning_percent;
            return Balancer::new(&config, &groups, overprovisioning, generation);
        }
        let left = tiers.into_iter().enumerate().filter(|(index, _)| is_left(*index));
        let left: Vec<_> = left.map(|(_, tier)| tier).collect();
        Balancer::over(&left, config.panic_below_percent, generation)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    use xds_proto::convert::Address;

    use super::*;
    use crate::cluster::balancer::table::TableConfig;
    use crate::cluster::balancer::{BalancerConfig, Policy};
    use crate::cluster::endpoints::{
        EndpointConfig, EndpointsConfig, Health, Locality, LocalityConfig,
    };
    use crate::cluster::pool::testing::of_config;
    use crate::labels::{Label, Labels};
    use crate::retry::PreviousPriorities;

    fn labels(name: &str) -> Labels {
        Labels::new([(name.into(), Label::new("true"))].into(), None)
    }

    /// Endpoints by priority, port and label.
    fn cluster(policy: Policy, given: &[(u32, u16, &str)]) -> Arc<Cluster> {
        let localities = given.iter().map(|(priority, port, label)| {
            let endpoint = EndpointConfig {
                address: Address::Ip(([127, 0, 0, 1], *port).into()),
                also: Box::default(),
                hostname: "".into(),
                weight: 1,
                health: Health::Healthy,
                labels: Arc::new(labels(label)),
                sockets: None,
                check: None,
            };
            LocalityConfig {
                locality: Locality::default(),
                priority: *priority,
                weight: None,
                endpoints: Box::new([endpoint]),
            }
        });
        let endpoints = EndpointsConfig {
            name: "c".into(),
            localities: localities.collect(),
            overprovisioning_percent: 140,
        };
        of_config(BalancerConfig { policy, ..BalancerConfig::default() }, Arc::new(endpoints))
    }

    fn port(endpoint: &Endpoint) -> u16 {
        let Address::Ip(address) = endpoint.config.address else { unreachable!() };
        address.port()
    }

    /// Where so many tries go.
    fn tries(cluster: &Cluster, elsewhere: &Elsewhere, count: usize) -> Vec<u16> {
        let selection = Selection { hash: Some(7), ..Selection::default() };
        let mut tried = vec![cluster.pick(&selection).unwrap()];
        while tried.len() < count {
            tried.push(cluster.pick_again(&tried, elsewhere, &selection).unwrap());
        }
        tried.iter().map(|endpoint| port(endpoint)).collect()
    }

    #[test]
    fn no_endpoint_is_tried_twice_while_there_is_another() {
        let given: Vec<_> = (1..=4).map(|port| (0, port, "x")).collect();
        let maglev = Policy::Hash { table: TableConfig::Maglev { size: 1021 }, by_hostname: false };
        for policy in [Policy::RoundRobin, Policy::Random, maglev] {
            let cluster = cluster(policy, &given);
            let elsewhere = Elsewhere { not_tried: true, draws: 200, ..Elsewhere::default() };
            for _ in 0..20 {
                let mut ports = tries(&cluster, &elsewhere, 4);
                ports.sort_unstable();
                assert_eq!(ports, [1, 2, 3, 4], "{policy:?}");
            }
        }
    }

    #[test]
    fn without_a_wish_a_hash_stays_where_it_is() {
        let given: Vec<_> = (1..=4).map(|port| (0, port, "x")).collect();
        let maglev = Policy::Hash { table: TableConfig::Maglev { size: 1021 }, by_hostname: false };
        let ports = tries(&cluster(maglev, &given), &Elsewhere::default(), 3);
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn labelled_endpoints_are_left_out_and_the_last_drawn_is_taken() {
        let cluster =
            cluster(Policy::RoundRobin, &[(0, 1, "canary"), (0, 2, "x"), (0, 3, "canary")]);
        let not_labelled = Box::new([labels("canary")]);
        let elsewhere = Elsewhere { not_labelled, draws: 9, ..Elsewhere::default() };
        for _ in 0..10 {
            assert_eq!(tries(&cluster, &elsewhere, 3)[1..], [2, 2]);
        }
        let all =
            Elsewhere { not_labelled: Box::new([labels("canary"), labels("x")]), ..elsewhere };
        assert_eq!(tries(&cluster, &all, 2).len(), 2);
    }

    #[test]
    fn priorities_that_were_tried_are_left_out_until_none_is_left() {
        let cluster = cluster(Policy::RoundRobin, &[(0, 1, "x"), (1, 2, "x"), (2, 3, "x")]);
        let every = NonZeroU32::new(1).unwrap();
        let priorities = Some(PreviousPriorities { every });
        let elsewhere = Elsewhere { priorities, ..Elsewhere::default() };
        assert_eq!(tries(&cluster, &elsewhere, 7), [1, 2, 3, 1, 2, 3, 1]);
        let mut counts = BTreeMap::<u16, usize>::new();
        for _ in 0..100 {
            *counts.entry(port(&cluster.pick(&Selection::default()).unwrap())).or_default() += 1;
        }
        assert_eq!(counts, [(1, 100)].into(), "other requests go where they went");
    }
}
