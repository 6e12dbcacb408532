//! How endpoints are divided by their metadata.

use std::sync::Arc;

use xds_proto::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use xds_proto::envoy::config::cluster::v3::cluster::lb_subset_config::LbSubsetSelector as OldSelector;
use xds_proto::envoy::extensions::load_balancing_policies::subset::v3::Subset;
use xds_proto::envoy::extensions::load_balancing_policies::subset::v3::subset::{
    LbSubsetFallbackPolicy, LbSubsetSelector,
    lb_subset_selector::LbSubsetSelectorFallbackPolicy as SelectorFallback,
};
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;
use xds_proto::google::protobuf::Struct;

use crate::cluster::balancer::BalancerConfig;
use crate::cluster::balancer::subset::{Fallback, Selector, SubsetConfig};
use crate::compile::cluster::policy::inner;
use crate::compile::labels::labels;

pub(super) fn old(message: LbSubsetConfig) -> Result<SubsetConfig, FieldError> {
    fields!(message: LbSubsetConfig,
        read: [
            fallback_policy, default_subset, subset_selectors, locality_weight_aware,
            panic_mode_any, list_as_any,
        ],
        ignore: [],
        refuse: [scale_locality_weight, metadata_fallback_policy]);
    let selectors = each(subset_selectors, "subset_selectors", |message| {
        fields!(message: OldSelector,
            read: [keys, fallback_policy, fallback_keys_subset],
            ignore: [],
            refuse: [single_host_per_subset]);
        // The values of both enums are the same.
        selector(keys, fallback_policy, fallback_keys_subset)
    })?;
    Ok(SubsetConfig {
        fallback: fallback(fallback_policy)?,
        default: labels(default_subset.unwrap_or_default()),
        selectors: distinct(selectors)?,
        locality_weight_aware,
        panic_mode_any,
        list_as_any,
    })
}

pub(super) fn compile(message: Subset, depth: usize) -> Result<BalancerConfig, FieldError> {
    fields!(message: Subset,
        read: [
            fallback_policy, default_subset, subset_selectors, locality_weight_aware,
            panic_mode_any, list_as_any, subset_lb_policy,
        ],
        ignore: [],
        refuse: [allow_redundant_keys, scale_locality_weight, metadata_fallback_policy]);
    let selectors = each(subset_selectors, "subset_selectors", |message| {
        fields!(message: LbSubsetSelector,
            read: [keys, fallback_policy, fallback_keys_subset],
            ignore: [],
            refuse: [single_host_per_subset]);
        selector(keys, fallback_policy, fallback_keys_subset)
    })?;
    let config = SubsetConfig {
        fallback: fallback(fallback_policy)?,
        default: labels(default_subset.unwrap_or_else(Struct::default)),
        selectors: distinct(selectors)?,
        locality_weight_aware,
        panic_mode_any,
        list_as_any,
    };
    let policy = required(subset_lb_policy, "subset_lb_policy")?;
    let balancer = inner(policy, depth).at("subset_lb_policy")?;
    if balancer.subsets.is_some() {
        return Err(FieldError::invalid("subsets cannot be divided again")).at("subset_lb_policy");
    }
    Ok(BalancerConfig { subsets: Some(Arc::new(config)), ..balancer })
}

fn fallback(policy: i32) -> Result<Fallback, FieldError> {
    match LbSubsetFallbackPolicy::try_from(policy) {
        Ok(LbSubsetFallbackPolicy::NoFallback) => Ok(Fallback::None),
        Ok(LbSubsetFallbackPolicy::AnyEndpoint) => Ok(Fallback::Any),
        Ok(LbSubsetFallbackPolicy::DefaultSubset) => Ok(Fallback::Default),
        Err(_) => Err(FieldError::invalid("unknown value")).at("fallback_policy"),
    }
}

fn sorted(keys: Vec<String>) -> Box<[Box<str>]> {
    let mut keys: Vec<_> = keys.into_iter().map(String::into_boxed_str).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into()
}

fn selector(keys: Vec<String>, policy: i32, subset: Vec<String>) -> Result<Selector, FieldError> {
    let keys = sorted(keys);
    if keys.is_empty() {
        return Err(FieldError::required()).at("keys");
    }
    let fallback = match SelectorFallback::try_from(policy) {
        Ok(SelectorFallback::NotDefined) => None,
        Ok(SelectorFallback::NoFallback) => Some(Fallback::None),
        Ok(SelectorFallback::AnyEndpoint) => Some(Fallback::Any),
        Ok(SelectorFallback::DefaultSubset) => Some(Fallback::Default),
        Ok(SelectorFallback::KeysSubset) => {
            let subset = sorted(subset);
            let is_part = subset.iter().all(|key| keys.contains(key)) && subset.len() < keys.len();
            if subset.is_empty() || !is_part {
                return Err(FieldError::invalid("must be some of keys, but not all"))
                    .at("fallback_keys_subset");
            }
            Some(Fallback::Keys(subset))
        }
        Err(_) => return Err(FieldError::invalid("unknown value")).at("fallback_policy"),
    };
    Ok(Selector { keys, fallback })
}

/// The first of several by the same names counts, as in Envoy.
fn distinct(selectors: Vec<Selector>) -> Result<Box<[Selector]>, FieldError> {
    let mut kept: Vec<Selector> = Vec::with_capacity(selectors.len());
    for selector in selectors {
        if kept.iter().all(|other| other.keys != selector.keys) {
            kept.push(selector);
        }
    }
    for (index, selector) in kept.iter().enumerate() {
        if let Some(Fallback::Keys(keys)) = &selector.fallback
            && kept.iter().all(|other| other.keys != *keys)
        {
            return Err(FieldError::invalid("no selector has these keys"))
                .at("fallback_keys_subset")
                .at_index(index)
                .at("subset_selectors");
        }
    }
    Ok(kept.into())
}
