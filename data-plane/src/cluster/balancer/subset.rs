//! Balances among those endpoints only that have the metadata which the route asks for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::{BalancerConfig, Group, Selection, Shares, tiers};
use crate::cluster::endpoints::Endpoint;
use crate::labels::Labels;

/// How endpoints are divided (`LbSubsetConfig`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsetConfig {
    /// What becomes of a request that no subset is for.
    pub fallback: Fallback,
    /// The endpoints of [`Fallback::Default`] have these.
    pub default: Labels,
    /// The names that subsets are made by.
    pub selectors: Box<[Selector]>,
    /// Whether the weights of localities count.
    pub locality_weight_aware: bool,
    /// Whether, instead of no endpoint, any will do (`panic_mode_any`).
    pub panic_mode_any: bool,
    /// Whether an endpoint with a list of values is in the subset of each.
    pub list_as_any: bool,
}

/// Endpoints that agree in the values of these names are a subset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The names, sorted.
    pub keys: Box<[Box<str>]>,
    /// What becomes of a request that gives the names other values; `None`: as for the cluster.
    pub fallback: Option<Fallback>,
}

/// What becomes of a request that no subset is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fallback {
    /// It gets no endpoint.
    None,
    /// Any endpoint.
    Any,
    /// One that has [`SubsetConfig::default`].
    Default,
    /// One of the subset by these of its names, which are sorted.
    Keys(Box<[Box<str>]>),
}

/// The subsets of a cluster.
#[derive(Debug)]
pub(super) struct Subsets {
    config: Arc<SubsetConfig>,
    /// By the place of the selector and the values.
    sets: Box<[HashMap<Box<str>, Shares>]>,
    default: Option<Shares>,
}

/// Endpoints of one subset, by group.
type Members = BTreeMap<usize, Vec<Arc<Endpoint>>>;

impl Subsets {
    pub(super) fn new(
        config: &Arc<SubsetConfig>,
        balancer: &BalancerConfig,
        overprovisioning: u32,
        (groups, now): (&[Group], Option<Instant>),
    ) -> Self {
        let inner = BalancerConfig {
            by_locality: balancer.by_locality && config.locality_weight_aware,
            ..balancer.clone()
        };
        let shares = |members: Members| {
            let of_subset = members.into_iter().map(|(index, endpoints)| Group {
                priority: groups[index].priority,
                weight: groups[index].weight,
                endpoints,
            });
            let of_subset: Vec<_> = of_subset.collect();
            let tiers = tiers(&inner, overprovisioning, &of_subset);
            Shares::new(&tiers, inner.panic_below_percent, now)
        };
        let all = || {
            let groups = groups.iter().enumerate();
            groups.flat_map(|(index, group)| group.endpoints.iter().map(move |one| (index, one)))
        };
        let of_selector = |selector: &Selector| {
            let mut sets: HashMap<Box<str>, Members> = HashMap::new();
            for (index, endpoint) in all() {
                let keys = endpoint.config.labels.keys_of(&selector.keys, config.list_as_any);
                for key in keys {
                    let members = sets.entry(key).or_default();
                    members.entry(index).or_default().push(Arc::clone(endpoint));
                }
            }
            sets.into_iter().map(|(key, members)| (key, shares(members))).collect()
        };
        let needs_default = config.fallback == Fallback::Default
            || config.selectors.iter().any(|one| one.fallback == Some(Fallback::Default));
        let default = needs_default.then(|| {
            let mut members = Members::new();
            for (index, endpoint) in all() {
                if endpoint.config.labels.include(&config.default, config.list_as_any) {
                    members.entry(index).or_default().push(Arc::clone(endpoint));
                }
            }
            shares(members)
        });
        let sets = config.selectors.iter().map(of_selector).collect();
        Self { config: Arc::clone(config), sets, default }
    }

    /// An endpoint of the subset that is asked for, or what is done instead.
    pub(super) fn pick<'a>(
        &'a self,
        selection: &Selection<'_>,
        all: &'a Shares,
    ) -> Option<&'a Arc<Endpoint>> {
        let picked = self.find(selection.labels, all).and_then(|shares| shares.pick(selection));
        match picked {
            None if self.config.panic_mode_any => all.pick(selection),
            picked => picked,
        }
    }

    fn find<'a>(&'a self, labels: Option<&Labels>, all: &'a Shares) -> Option<&'a Shares> {
        let selectors = &self.config.selectors;
        let wanted = labels.filter(|labels| !labels.is_empty());
        let at = wanted.and_then(|labels| selectors.iter().position(|s| labels.are_named(&s.keys)));
        let (Some(mut at), Some(labels)) = (at, wanted) else {
            return self.fall_back(&self.config.fallback, all);
        };
        if let Some(shares) = self.sets.get(at)?.get(labels.key()) {
            return Some(shares);
        }
        // Each step asks for fewer names, so this ends.
        loop {
            match selectors.get(at)?.fallback.as_ref().unwrap_or(&self.config.fallback) {
                Fallback::Keys(keys) => {
                    at = selectors.iter().position(|selector| selector.keys == *keys)?;
                    if let Some(shares) = self.sets.get(at)?.get(&labels.key_of(keys)?) {
                        return Some(shares);
                    }
                }
                other => return self.fall_back(other, all),
            }
        }
    }

    fn fall_back<'a>(&'a self, fallback: &Fallback, all: &'a Shares) -> Option<&'a Shares> {
        match fallback {
            Fallback::None | Fallback::Keys(_) => None,
            Fallback::Any => Some(all),
            Fallback::Default => self.default.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use xds_proto::convert::Address;

    use super::*;
    use crate::cluster::Cluster;
    use crate::cluster::endpoints::{EndpointsConfig, LocalityConfig};
    use crate::cluster::pool::testing::{endpoints, of_config};
    use crate::labels::Label;

    fn labels(values: &[(&str, Label)]) -> Labels {
        Labels::new(
            values.iter().map(|(name, label)| ((*name).into(), label.clone())).collect(),
            None,
        )
    }

    fn text(text: &str) -> Label {
        Label::new(text)
    }

    /// Endpoints at ports from 1 on, in versions.
    fn cluster(config: SubsetConfig, versions: &[Label]) -> Arc<Cluster> {
        let addresses: Vec<_> =
            (1..=versions.len() as u16).map(|p| Address::Ip(([127, 0, 0, 1], p).into())).collect();
        let all = endpoints(&addresses);
        let mut group = all.localities[0].clone();
        for (endpoint, version) in group.endpoints.iter_mut().zip(versions) {
            endpoint.labels = Arc::new(labels(&[("v", version.clone())]));
        }
        let localities = Box::new([LocalityConfig { ..group }]);
        let all = EndpointsConfig { localities, ..(*all).clone() };
        let subsets = Some(Arc::new(config));
        of_config(BalancerConfig { subsets, ..BalancerConfig::default() }, Arc::new(all))
    }

    fn config(fallback: Fallback) -> SubsetConfig {
        SubsetConfig {
            fallback,
            default: labels(&[("v", text("1"))]),
            selectors: Box::new([Selector { keys: Box::new(["v".into()]), fallback: None }]),
            locality_weight_aware: false,
            panic_mode_any: false,
            list_as_any: false,
        }
    }

    /// The ports that requests for a version go to.
    fn ports(cluster: &Cluster, version: Option<&str>) -> BTreeSet<u16> {
        let labels = version.map(|version| labels(&[("v", text(version))]));
        let selection = Selection { labels: labels.as_ref(), ..Selection::default() };
        let picked = (0..20).filter_map(|_| cluster.pick(&selection));
        let port = |endpoint: Arc<Endpoint>| match endpoint.config.address {
            Address::Ip(address) => address.port(),
            Address::Name(..) | Address::Pipe(_) => 0,
        };
        picked.map(port).collect()
    }

    #[test]
    fn what_no_subset_is_for_falls_back() {
        let versions = [text("1"), text("1"), text("2")];
        for (fallback, expected) in [
            (Fallback::None, [].into()),
            (Fallback::Any, [1, 2, 3].into()),
            (Fallback::Default, [1, 2].into()),
        ] {
            let cluster = cluster(config(fallback), &versions);
            assert_eq!(ports(&cluster, Some("2")), [3].into());
            assert_eq!(ports(&cluster, Some("3")), expected);
            assert_eq!(ports(&cluster, None), expected);
        }
    }

    #[test]
    fn anyone_is_better_than_nobody_where_said() {
        let config = SubsetConfig { panic_mode_any: true, ..config(Fallback::None) };
        assert_eq!(ports(&cluster(config, &[text("1"), text("2")]), Some("3")), [1, 2].into());
    }

    #[test]
    fn an_endpoint_may_be_in_several_subsets() {
        let list = Label::list("[1,2]", Box::new(["1".into(), "2".into()]));
        let versions = [list, text("2")];
        let config = SubsetConfig { list_as_any: true, ..config(Fallback::None) };
        let cluster = cluster(config, &versions);
        assert_eq!(ports(&cluster, Some("1")), [1].into());
        assert_eq!(ports(&cluster, Some("2")), [1, 2].into());
    }
}
