//! How an endpoint is chosen.

mod hashing;
mod subset;

use std::sync::Arc;
use std::time::Duration;

use prost::Name;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LbSubsetConfig, LeastRequestLbConfig, RoundRobinLbConfig,
    SlowStartConfig as OldSlowStart, common_lb_config,
};
use xds_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use xds_proto::envoy::config::core::v3::{RuntimeDouble, TypedExtensionConfig};
use xds_proto::envoy::extensions::load_balancing_policies::cluster_provided::v3::ClusterProvided;
use xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::LocalityConfigSpecifier;
use xds_proto::envoy::extensions::load_balancing_policies::common::v3::{
    LocalityLbConfig, SlowStartConfig,
};
use xds_proto::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use xds_proto::envoy::extensions::load_balancing_policies::least_request::v3::least_request::SelectionMethod;
use xds_proto::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use xds_proto::envoy::extensions::load_balancing_policies::random::v3::Random;
use xds_proto::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
use xds_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use xds_proto::envoy::extensions::load_balancing_policies::subset::v3::Subset;
use xds_proto::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use xds_proto::envoy::r#type::v3::Percent;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;
use xds_proto::google::protobuf::{self, UInt32Value};

use crate::cluster::balancer::slow_start::SlowStart;
use crate::cluster::balancer::{BalancerConfig, Policy};
use crate::compile::cluster::percent;
use crate::compile::unpack;

/// Policies may nest; Envoy's messages go deeper than any use.
const DEPTH_MAX: usize = 8;

/// The fields of a cluster that say it.
pub(super) struct PolicyFields {
    /// By the enum, with its configuration; and by extensions, which count before.
    pub(super) policy: (i32, Option<LbConfig>, Option<LoadBalancingPolicy>),
    pub(super) common: Option<CommonLbConfig>,
    pub(super) subset: Option<LbSubsetConfig>,
    /// Whether the type of the cluster brings its own.
    pub(super) is_provided: bool,
}

pub(super) fn compile(fields: PolicyFields) -> Result<BalancerConfig, FieldError> {
    let common = fields.common.map(common).transpose().at("common_lb_config")?;
    let common = common.unwrap_or_default();
    let (policy, config, policies) = fields.policy;
    let chosen = match policies {
        Some(policies) => first_known(policies, 0).at("load_balancing_policy")?,
        None => {
            let mut chosen = old(policy, config, common.by_hostname)?;
            if let Choice::Balanced(config) = &mut chosen {
                config.by_locality = common.by_locality;
                let subsets = fields.subset.map(subset::old).transpose().at("lb_subset_config")?;
                config.subsets = subsets.map(Arc::new);
            }
            chosen
        }
    };
    let config = match (chosen, fields.is_provided) {
        (Choice::Provided, true) => BalancerConfig::default(),
        (Choice::Balanced(config), false) => config,
        (Choice::Balanced(_), true) => {
            return Err(FieldError::invalid("must be CLUSTER_PROVIDED")).at("lb_policy");
        }
        (Choice::Provided, false) => {
            let reason = "CLUSTER_PROVIDED needs a type of cluster that provides one";
            return Err(FieldError::invalid(reason)).at("lb_policy");
        }
    };
    let Common { panic_below_percent, renews_connections, .. } = common;
    Ok(BalancerConfig { panic_below_percent, renews_connections, ..config })
}

/// What a list of policies, or the enum before it, comes to.
enum Choice {
    Balanced(BalancerConfig),
    /// As the type of the cluster has it.
    Provided,
}

impl From<Policy> for Choice {
    fn from(policy: Policy) -> Self {
        Self::Balanced(BalancerConfig { policy, ..BalancerConfig::default() })
    }
}

/// What all policies share.
struct Common {
    panic_below_percent: u32,
    by_locality: bool,
    by_hostname: bool,
    renews_connections: bool,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            panic_below_percent: 50,
            by_locality: false,
            by_hostname: false,
            renews_connections: false,
        }
    }
}

fn common(message: CommonLbConfig) -> Result<Common, FieldError> {
    use common_lb_config::LocalityConfigSpecifier;
    fields!(message: CommonLbConfig,
        read: [
            healthy_panic_threshold, locality_config_specifier, consistent_hashing_lb_config,
            close_connections_on_host_set_change,
        ],
        ignore: [
            // Snapshots are swapped whole, whenever they come.
            update_merge_window,
            // An endpoint that was not checked yet never takes a share from those that were.
            ignore_new_hosts_until_first_hc,
            // About a policy that is refused.
            override_host_status,
        ],
        refuse: []);
    let panic = healthy_panic_threshold.map_or(Ok(50.0), percent).at("healthy_panic_threshold")?;
    let by_locality = match locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        // Needs a local cluster, of which a gateway has none; Envoy ignores it then.
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) | None => false,
    };
    let field = "consistent_hashing_lb_config";
    let by_hostname = consistent_hashing_lb_config.map(hashing::common).transpose().at(field)?;
    Ok(Common {
        // At most 100.
        panic_below_percent: panic as u32,
        by_locality,
        by_hostname: by_hostname.unwrap_or(false),
        renews_connections: close_connections_on_host_set_change,
    })
}

/// The enum, which came before the list of policies.
fn old(policy: i32, config: Option<LbConfig>, by_hostname: bool) -> Result<Choice, FieldError> {
    match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => match config {
            Some(LbConfig::RoundRobinLbConfig(message)) => {
                round_robin_config(message).at("round_robin_lb_config")
            }
            _ => Ok(Policy::RoundRobin.into()),
        },
        Ok(LbPolicy::LeastRequest) => match config {
            Some(LbConfig::LeastRequestLbConfig(message)) => {
                least_request_config(message).at("least_request_lb_config")
            }
            _ => Ok(Policy::LeastRequest { choices: 2 }.into()),
        },
        Ok(LbPolicy::Random) => Ok(Policy::Random.into()),
        Ok(LbPolicy::RingHash) => {
            let message = match config {
                Some(LbConfig::RingHashLbConfig(message)) => message,
                _ => Default::default(),
            };
            let table = hashing::old_ring(message).at("ring_hash_lb_config")?;
            Ok(Policy::Hash { table, by_hostname }.into())
        }
        Ok(LbPolicy::Maglev) => {
            let message = match config {
                Some(LbConfig::MaglevLbConfig(message)) => message,
                _ => Default::default(),
            };
            let table = hashing::old_maglev(message).at("maglev_lb_config")?;
            Ok(Policy::Hash { table, by_hostname }.into())
        }
        Ok(LbPolicy::ClusterProvided) => Ok(Choice::Provided),
        Ok(LbPolicy::LoadBalancingPolicyConfig) => {
            Err(FieldError::required()).at("load_balancing_policy")
        }
        Err(_) => Err(FieldError::invalid("unknown value")).at("lb_policy"),
    }
}

fn round_robin_config(message: RoundRobinLbConfig) -> Result<Choice, FieldError> {
    fields!(message: RoundRobinLbConfig, read: [slow_start_config], ignore: [], refuse: []);
    let slow_start = slow_start_config.map(old_slow_start).transpose().at("slow_start_config")?;
    Ok(Choice::Balanced(BalancerConfig {
        slow_start: slow_start.flatten(),
        ..BalancerConfig::default()
    }))
}

fn least_request_config(message: LeastRequestLbConfig) -> Result<Choice, FieldError> {
    fields!(message: LeastRequestLbConfig,
        read: [choice_count, active_request_bias, slow_start_config], ignore: [], refuse: []);
    bias(active_request_bias).at("active_request_bias")?;
    let slow_start = slow_start_config.map(old_slow_start).transpose().at("slow_start_config")?;
    Ok(Choice::Balanced(BalancerConfig {
        policy: choices(choice_count)?,
        slow_start: slow_start.flatten(),
        ..BalancerConfig::default()
    }))
}

fn old_slow_start(message: OldSlowStart) -> Result<Option<SlowStart>, FieldError> {
    fields!(message: OldSlowStart,
        read: [slow_start_window, aggression, min_weight_percent], ignore: [], refuse: []);
    slow_start(slow_start_window.as_ref(), aggression, min_weight_percent)
}

fn new_slow_start(message: SlowStartConfig) -> Result<Option<SlowStart>, FieldError> {
    fields!(message: SlowStartConfig,
        read: [slow_start_window, aggression, min_weight_percent], ignore: [], refuse: []);
    slow_start(slow_start_window.as_ref(), aggression, min_weight_percent)
}

/// None without a window.
fn slow_start(
    window: Option<&protobuf::Duration>,
    aggression: Option<RuntimeDouble>,
    min_weight: Option<Percent>,
) -> Result<Option<SlowStart>, FieldError> {
    let window = optional_duration(window, "slow_start_window")?.unwrap_or(Duration::ZERO);
    let aggression = aggression.map_or(1.0, |aggression| aggression.default_value);
    if aggression.is_nan() || aggression <= 0.0 {
        return Err(FieldError::invalid("must be more than 0")).at("aggression");
    }
    let min_weight = min_weight.map_or(Ok(10.0), percent).at("min_weight_percent")? / 100.0;
    let slow_start = SlowStart { window, aggression, min_weight };
    Ok((!window.is_zero()).then_some(slow_start))
}

/// The first policy that we know; Envoy passes over unknown ones too.
fn first_known(message: LoadBalancingPolicy, depth: usize) -> Result<Choice, FieldError> {
    if depth > DEPTH_MAX {
        return Err(FieldError::invalid("policies are nested too deeply"));
    }
    let mut unknown = Vec::new();
    for (index, policy) in message.policies.into_iter().enumerate() {
        fields!(policy: load_balancing_policy::Policy,
            read: [typed_extension_config], ignore: [], refuse: []);
        let Some(config) = typed_extension_config else { continue };
        match known(&config, depth) {
            Some(compiled) => {
                return compiled
                    .at("typed_config")
                    .at("typed_extension_config")
                    .at_index(index)
                    .at("policies");
            }
            None => unknown.push(config.name),
        }
    }
    Err(FieldError::invalid(format!("none is supported: {}", unknown.join(", ")))).at("policies")
}

fn known(config: &TypedExtensionConfig, depth: usize) -> Option<Result<Choice, FieldError>> {
    let config = config.typed_config.as_ref()?;
    let balanced = |compiled: Result<BalancerConfig, FieldError>| compiled.map(Choice::Balanced);
    Some(match &*config.type_url {
        url if url == RoundRobin::type_url() => balanced(unpack(config).and_then(round_robin)),
        url if url == LeastRequest::type_url() => balanced(unpack(config).and_then(least_request)),
        url if url == Random::type_url() => balanced(unpack(config).and_then(random)),
        url if url == RingHash::type_url() => balanced(unpack(config).and_then(hashing::ring)),
        url if url == Maglev::type_url() => balanced(unpack(config).and_then(hashing::maglev)),
        url if url == WrrLocality::type_url() => {
            balanced(unpack(config).and_then(|message| wrr_locality(message, depth)))
        }
        url if url == Subset::type_url() => {
            balanced(unpack(config).and_then(|message| subset::compile(message, depth)))
        }
        url if url == ClusterProvided::type_url() => Ok(Choice::Provided),
        _ => return None,
    })
}

/// The policy within another one.
fn inner(message: LoadBalancingPolicy, depth: usize) -> Result<BalancerConfig, FieldError> {
    match first_known(message, depth + 1)? {
        Choice::Balanced(config) => Ok(config),
        Choice::Provided => Err(FieldError::invalid("cannot be that of the cluster's type")),
    }
}

fn wrr_locality(message: WrrLocality, depth: usize) -> Result<BalancerConfig, FieldError> {
    fields!(message: WrrLocality, read: [endpoint_picking_policy], ignore: [], refuse: []);
    let policy = required(endpoint_picking_policy, "endpoint_picking_policy")?;
    let config = inner(policy, depth).at("endpoint_picking_policy")?;
    Ok(BalancerConfig { by_locality: true, ..config })
}

fn random(message: Random) -> Result<BalancerConfig, FieldError> {
    fields!(message: Random, read: [locality_lb_config], ignore: [], refuse: []);
    let by_locality = is_by_locality(locality_lb_config);
    Ok(BalancerConfig { policy: Policy::Random, by_locality, ..BalancerConfig::default() })
}

fn round_robin(message: RoundRobin) -> Result<BalancerConfig, FieldError> {
    fields!(message: RoundRobin,
        read: [locality_lb_config, slow_start_config], ignore: [], refuse: []);
    let slow_start = slow_start_config.map(new_slow_start).transpose().at("slow_start_config")?;
    Ok(BalancerConfig {
        policy: Policy::RoundRobin,
        by_locality: is_by_locality(locality_lb_config),
        slow_start: slow_start.flatten(),
        ..BalancerConfig::default()
    })
}

fn least_request(message: LeastRequest) -> Result<BalancerConfig, FieldError> {
    fields!(message: LeastRequest,
        read: [
            choice_count, active_request_bias, locality_lb_config, enable_full_scan,
            selection_method, slow_start_config,
        ],
        ignore: [],
        refuse: []);
    bias(active_request_bias).at("active_request_bias")?;
    let scans = selection_method == SelectionMethod::FullScan as i32
        || enable_full_scan.is_some_and(|flag| flag.value);
    let policy = choices(choice_count)?;
    let slow_start = slow_start_config.map(new_slow_start).transpose().at("slow_start_config")?;
    Ok(BalancerConfig {
        policy: if scans { Policy::LeastRequestOfAll } else { policy },
        by_locality: is_by_locality(locality_lb_config),
        slow_start: slow_start.flatten(),
        ..BalancerConfig::default()
    })
}

fn choices(count: Option<UInt32Value>) -> Result<Policy, FieldError> {
    match count.map_or(2, |count| count.value) {
        0 | 1 => Err(FieldError::invalid("must be at least 2")).at("choice_count"),
        choices => Ok(Policy::LeastRequest { choices }),
    }
}

/// Only Envoy's default: the load counts as it is.
fn bias(message: Option<RuntimeDouble>) -> Result<(), FieldError> {
    match message {
        Some(bias) if (bias.default_value - 1.0).abs() > f64::EPSILON => {
            Err(FieldError::unsupported())
        }
        _ => Ok(()),
    }
}

fn is_by_locality(message: Option<LocalityLbConfig>) -> bool {
    match message.and_then(|message| message.locality_config_specifier) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        // Needs a local cluster, of which a gateway has none; Envoy ignores it then.
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) | None => false,
    }
}
