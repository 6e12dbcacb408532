//! How an endpoint is chosen.

use prost::Name;
use xds_proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, common_lb_config,
};
use xds_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use xds_proto::envoy::config::core::v3::{RuntimeDouble, TypedExtensionConfig};
use xds_proto::envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig;
use xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::LocalityConfigSpecifier;
use xds_proto::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use xds_proto::envoy::extensions::load_balancing_policies::least_request::v3::least_request::SelectionMethod;
use xds_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use xds_proto::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;
use xds_proto::google::protobuf::UInt32Value;

use crate::cluster::balancer::{BalancerConfig, Policy};
use crate::compile::cluster::{percent, unpack};

/// Policies may nest; Envoy's messages go deeper than any use.
const DEPTH_MAX: usize = 8;

/// The fields of a cluster that say it.
pub(super) struct PolicyFields {
    pub(super) policy: i32,
    pub(super) config: Option<LbConfig>,
    pub(super) policies: Option<LoadBalancingPolicy>,
    pub(super) common: Option<CommonLbConfig>,
}

pub(super) fn compile(fields: PolicyFields) -> Result<BalancerConfig, FieldError> {
    let common = fields.common.map(common).transpose().at("common_lb_config")?;
    let common = common.unwrap_or_default();
    let (policy, by_locality) = match fields.policies {
        Some(policies) => first_known(policies, 0).at("load_balancing_policy")?,
        None => (old(fields.policy, fields.config)?, common.by_locality),
    };
    Ok(BalancerConfig { policy, by_locality, ..common })
}

fn common(message: CommonLbConfig) -> Result<BalancerConfig, FieldError> {
    use common_lb_config::LocalityConfigSpecifier;
    fields!(message: CommonLbConfig,
        read: [healthy_panic_threshold, locality_config_specifier],
        ignore: [
            // Snapshots are swapped whole, whenever they come.
            update_merge_window,
            // About health checks, which are refused.
            ignore_new_hosts_until_first_hc,
            // About policies that are refused.
            consistent_hashing_lb_config, override_host_status,
        ],
        refuse: [close_connections_on_host_set_change]);
    let panic = healthy_panic_threshold.map_or(Ok(50.0), percent).at("healthy_panic_threshold")?;
    let by_locality = match locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        // Needs a local cluster, of which a gateway has none; Envoy ignores it then.
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) | None => false,
    };
    Ok(BalancerConfig {
        by_locality,
        // At most 100.
        panic_below_percent: panic as u32,
        ..BalancerConfig::default()
    })
}

/// The enum, which came before the list of policies.
fn old(policy: i32, config: Option<LbConfig>) -> Result<Policy, FieldError> {
    match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => {
            if let Some(LbConfig::RoundRobinLbConfig(message)) = config {
                round_robin_config(message).at("round_robin_lb_config")?;
            }
            Ok(Policy::RoundRobin)
        }
        Ok(LbPolicy::LeastRequest) => match config {
            Some(LbConfig::LeastRequestLbConfig(message)) => {
                least_request_config(message).at("least_request_lb_config")
            }
            _ => Ok(Policy::LeastRequest { choices: 2 }),
        },
        Ok(LbPolicy::LoadBalancingPolicyConfig) => {
            Err(FieldError::required()).at("load_balancing_policy")
        }
        Ok(other) => Err(FieldError::invalid(format!("{} is not supported", other.as_str_name())))
            .at("lb_policy"),
        Err(_) => Err(FieldError::invalid("unknown value")).at("lb_policy"),
    }
}

fn round_robin_config(message: RoundRobinLbConfig) -> Result<(), FieldError> {
    fields!(message: RoundRobinLbConfig, read: [], ignore: [], refuse: [slow_start_config]);
    Ok(())
}

fn least_request_config(message: LeastRequestLbConfig) -> Result<Policy, FieldError> {
    fields!(message: LeastRequestLbConfig,
        read: [choice_count, active_request_bias], ignore: [], refuse: [slow_start_config]);
    bias(active_request_bias).at("active_request_bias")?;
    choices(choice_count)
}

/// The first policy that we know; Envoy passes over unknown ones too.
fn first_known(message: LoadBalancingPolicy, depth: usize) -> Result<(Policy, bool), FieldError> {
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

fn known(
    config: &TypedExtensionConfig,
    depth: usize,
) -> Option<Result<(Policy, bool), FieldError>> {
    let config = config.typed_config.as_ref()?;
    match &*config.type_url {
        url if url == RoundRobin::type_url() => Some(unpack(config).and_then(round_robin)),
        url if url == LeastRequest::type_url() => Some(unpack(config).and_then(least_request)),
        url if url == WrrLocality::type_url() => {
            Some(unpack(config).and_then(|message| wrr_locality(message, depth)))
        }
        _ => None,
    }
}

fn wrr_locality(message: WrrLocality, depth: usize) -> Result<(Policy, bool), FieldError> {
    fields!(message: WrrLocality, read: [endpoint_picking_policy], ignore: [], refuse: []);
    let inner = required(endpoint_picking_policy, "endpoint_picking_policy")?;
    let (policy, _) = first_known(inner, depth + 1).at("endpoint_picking_policy")?;
    Ok((policy, true))
}

fn round_robin(message: RoundRobin) -> Result<(Policy, bool), FieldError> {
    fields!(message: RoundRobin,
        read: [locality_lb_config], ignore: [], refuse: [slow_start_config]);
    Ok((Policy::RoundRobin, is_by_locality(locality_lb_config)))
}

fn least_request(message: LeastRequest) -> Result<(Policy, bool), FieldError> {
    fields!(message: LeastRequest,
        read: [
            choice_count, active_request_bias, locality_lb_config, enable_full_scan,
            selection_method,
        ],
        ignore: [],
        refuse: [slow_start_config]);
    bias(active_request_bias).at("active_request_bias")?;
    let scans = selection_method == SelectionMethod::FullScan as i32
        || enable_full_scan.is_some_and(|flag| flag.value);
    let policy = choices(choice_count)?;
    let policy = if scans { Policy::LeastRequestOfAll } else { policy };
    Ok((policy, is_by_locality(locality_lb_config)))
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
