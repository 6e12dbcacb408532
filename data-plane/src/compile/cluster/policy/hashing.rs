//! Policies that place endpoints by a hash.

use xds_proto::envoy::config::cluster::v3::cluster::common_lb_config::ConsistentHashingLbConfig as OldCommon;
use xds_proto::envoy::config::cluster::v3::cluster::ring_hash_lb_config::HashFunction as OldFunction;
use xds_proto::envoy::config::cluster::v3::cluster::{MaglevLbConfig, RingHashLbConfig};
use xds_proto::envoy::extensions::load_balancing_policies::common::v3::ConsistentHashingLbConfig;
use xds_proto::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use xds_proto::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
use xds_proto::envoy::extensions::load_balancing_policies::ring_hash::v3::ring_hash::HashFunction as Function;
use xds_proto::field::{At, FieldError};
use xds_proto::fields;
use xds_proto::google::protobuf::UInt64Value;

use crate::cluster::balancer::table::{HashFunction, TableConfig};
use crate::cluster::balancer::{BalancerConfig, Policy};
use crate::compile::hash_policy;
use crate::matcher::hash::HashPolicy;

/// Envoy's largest ring.
const RING_MAX: u64 = 8 * 1024 * 1024;
/// Envoy's largest table.
const MAGLEV_MAX: u64 = 5_000_011;

/// Whether endpoints go by their host names.
pub(super) fn common(message: OldCommon) -> Result<bool, FieldError> {
    fields!(message: OldCommon,
        read: [use_hostname_for_hashing], ignore: [], refuse: [hash_balance_factor]);
    Ok(use_hostname_for_hashing)
}

fn new_common(message: ConsistentHashingLbConfig) -> Result<(bool, HashPolicy), FieldError> {
    fields!(message: ConsistentHashingLbConfig,
        read: [use_hostname_for_hashing, hash_policy],
        ignore: [],
        refuse: [hash_balance_factor]);
    Ok((use_hostname_for_hashing, hash_policy::compile(hash_policy)?))
}

pub(super) fn old_ring(message: RingHashLbConfig) -> Result<TableConfig, FieldError> {
    fields!(message: RingHashLbConfig,
        read: [minimum_ring_size, hash_function, maximum_ring_size], ignore: [], refuse: []);
    let function = match OldFunction::try_from(hash_function) {
        Ok(OldFunction::XxHash) => HashFunction::Xx,
        Ok(OldFunction::MurmurHash2) => HashFunction::Murmur2,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("hash_function"),
    };
    ring_of(minimum_ring_size, maximum_ring_size, function)
}

fn ring_of(
    min: Option<UInt64Value>,
    max: Option<UInt64Value>,
    function: HashFunction,
) -> Result<TableConfig, FieldError> {
    let size_min = min.map_or(1024, |size| size.value);
    let size_max = max.map_or(RING_MAX, |size| size.value);
    for (size, field) in [(size_min, "minimum_ring_size"), (size_max, "maximum_ring_size")] {
        if !(1..=RING_MAX).contains(&size) {
            return Err(FieldError::invalid("must be between 1 and 8388608")).at(field);
        }
    }
    if size_min > size_max {
        return Err(FieldError::invalid("is more than maximum_ring_size")).at("minimum_ring_size");
    }
    Ok(TableConfig::Ring { size_min, size_max, function })
}

pub(super) fn ring(message: RingHash) -> Result<BalancerConfig, FieldError> {
    fields!(message: RingHash,
        read: [
            hash_function, minimum_ring_size, maximum_ring_size, use_hostname_for_hashing,
            consistent_hashing_lb_config, locality_weighted_lb_config,
        ],
        ignore: [],
        refuse: [hash_balance_factor]);
    let function = match Function::try_from(hash_function) {
        Ok(Function::DefaultHash | Function::XxHash) => HashFunction::Xx,
        Ok(Function::MurmurHash2) => HashFunction::Murmur2,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("hash_function"),
    };
    let table = ring_of(minimum_ring_size, maximum_ring_size, function)?;
    let common = consistent_hashing_lb_config.map(new_common).transpose();
    let (by_hostname, hash_policy) = common.at("consistent_hashing_lb_config")?.unwrap_or_default();
    let by_hostname = by_hostname || use_hostname_for_hashing;
    Ok(BalancerConfig {
        policy: Policy::Hash { table, by_hostname },
        by_locality: locality_weighted_lb_config.is_some(),
        hash_policy,
        ..BalancerConfig::default()
    })
}

pub(super) fn old_maglev(message: MaglevLbConfig) -> Result<TableConfig, FieldError> {
    fields!(message: MaglevLbConfig, read: [table_size], ignore: [], refuse: []);
    maglev_of(table_size)
}

fn maglev_of(size: Option<UInt64Value>) -> Result<TableConfig, FieldError> {
    let size = size.map_or(65537, |size| size.value);
    if !(2..=MAGLEV_MAX).contains(&size) {
        return Err(FieldError::invalid("must be between 2 and 5000011")).at("table_size");
    }
    let divides = |divisor: u64| size.is_multiple_of(divisor);
    if (2..).take_while(|divisor| divisor * divisor <= size).any(divides) {
        return Err(FieldError::invalid("must be a prime")).at("table_size");
    }
    // At most MAGLEV_MAX.
    Ok(TableConfig::Maglev { size: size as u32 })
}

pub(super) fn maglev(message: Maglev) -> Result<BalancerConfig, FieldError> {
    fields!(message: Maglev,
        read: [table_size, consistent_hashing_lb_config, locality_weighted_lb_config],
        ignore: [],
        refuse: []);
    let table = maglev_of(table_size)?;
    let common = consistent_hashing_lb_config.map(new_common).transpose();
    let (by_hostname, hash_policy) = common.at("consistent_hashing_lb_config")?.unwrap_or_default();
    Ok(BalancerConfig {
        policy: Policy::Hash { table, by_hostname },
        by_locality: locality_weighted_lb_config.is_some(),
        hash_policy,
        ..BalancerConfig::default()
    })
}
