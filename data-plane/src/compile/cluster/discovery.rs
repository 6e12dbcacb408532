//! Where the endpoints of a cluster come from.

use std::sync::Arc;
use std::time::Duration;

use prost::Name;
use xds_proto::convert::optional_duration;
use xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, EdsClusterConfig,
    RefreshRate,
};
use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_proto::envoy::extensions::clusters::aggregate::v3::ClusterConfig as AggregateCluster;
use xds_proto::envoy::extensions::clusters::dns::v3::DnsCluster;
use xds_proto::envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate as DnsRefreshRate;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;
use xds_proto::google::protobuf;

use crate::cluster::Discovery;
use crate::cluster::dns::resolver::Resolver;
use crate::cluster::dns::{DnsConfig, Family, Pace};
use crate::cluster::endpoints::EndpointsConfig;
use crate::compile::cluster::resolver::{self, ResolverFields};
use crate::compile::endpoints::{Names, compile_as};
use crate::compile::source::reference;
use crate::compile::unpack;

/// The fields of a cluster that say it.
pub(super) struct DiscoveryFields {
    pub(super) kind: Option<ClusterDiscoveryType>,
    pub(super) eds: Option<EdsClusterConfig>,
    pub(super) assignment: Option<ClusterLoadAssignment>,
    pub(super) family: i32,
    /// How often names are looked up, how often after failures, the jitter, whether the TTL counts.
    pub(super) pace:
        (Option<protobuf::Duration>, Option<RefreshRate>, Option<protobuf::Duration>, bool),
    pub(super) resolver: ResolverFields,
}

pub(super) fn compile(name: &Arc<str>, fields: DiscoveryFields) -> Result<Discovery, FieldError> {
    let kind = match fields.kind.clone() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind)
            .map_err(|_| FieldError::invalid("unknown value"))
            .at("type")?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return self::custom(custom, fields).at("cluster_type");
        }
    };
    match kind {
        DiscoveryType::Static => {
            let endpoints = match fields.assignment {
                None => EndpointsConfig::none(name),
                Some(message) => compile_as(message, Names::Refused).at("load_assignment")?,
            };
            Ok(Discovery::Static(Arc::new(endpoints)))
        }
        DiscoveryType::Eds => {
            eds(name, required(fields.eds, "eds_cluster_config")?).at("eds_cluster_config")
        }
        DiscoveryType::StrictDns => dns(fields, false).map(Discovery::Dns),
        DiscoveryType::LogicalDns => dns(fields, true).map(Discovery::Dns),
        DiscoveryType::OriginalDst => Err(FieldError::unsupported()).at("type"),
    }
}

fn eds(name: &Arc<str>, message: EdsClusterConfig) -> Result<Discovery, FieldError> {
    fields!(message: EdsClusterConfig,
        read: [eds_config, service_name], ignore: [], refuse: []);
    let source = required(eds_config, "eds_config")?;
    let service_name = if service_name.is_empty() { Arc::clone(name) } else { service_name.into() };
    reference(service_name, source).map(Discovery::Eds).at("eds_config")
}

fn dns(fields: DiscoveryFields, is_logical: bool) -> Result<DnsConfig, FieldError> {
    let names = names(fields.assignment, is_logical)?;
    let (refresh, failure, jitter, by_ttl) = fields.pace;
    let failure = failure.map(|RefreshRate { base_interval, max_interval }| {
        failure_refresh(base_interval.as_ref(), max_interval.as_ref())
    });
    let failure = failure.transpose().at("dns_failure_refresh_rate")?;
    Ok(DnsConfig {
        names,
        family: family(fields.family, |value| DnsLookupFamily::try_from(value).ok())?,
        is_logical,
        pace: Pace { by_ttl, ..pace(refresh.as_ref(), failure, jitter.as_ref())? },
        resolver: resolver::compile(fields.resolver)?,
    })
}

fn pace(
    refresh: Option<&protobuf::Duration>,
    failure: Option<(Duration, Duration)>,
    jitter: Option<&protobuf::Duration>,
) -> Result<Pace, FieldError> {
    let refresh = interval(refresh, "dns_refresh_rate")?.unwrap_or(REFRESH);
    Ok(Pace {
        refresh,
        by_ttl: false,
        ttl_min: Duration::ZERO,
        failure_refresh: failure.unwrap_or((refresh, refresh)),
        jitter: optional_duration(jitter, "dns_jitter")?.unwrap_or_default(),
    })
}

/// Envoy's time between lookups.
const REFRESH: Duration = Duration::from_secs(5);

fn names(
    assignment: Option<ClusterLoadAssignment>,
    is_logical: bool,
) -> Result<Arc<EndpointsConfig>, FieldError> {
    let message = required(assignment, "load_assignment")?;
    let are_many = |message: &ClusterLoadAssignment| {
        message.endpoints.len() != 1 || message.endpoints[0].lb_endpoints.len() != 1
    };
    if is_logical && are_many(&message) {
        let reason = "LOGICAL_DNS needs exactly one locality with exactly one endpoint";
        return Err(FieldError::invalid(reason)).at("load_assignment");
    }
    Ok(Arc::new(compile_as(message, Names::Resolved).at("load_assignment")?))
}

fn custom(custom: CustomClusterType, fields: DiscoveryFields) -> Result<Discovery, FieldError> {
    fields!(custom: CustomClusterType, read: [name, typed_config], ignore: [], refuse: []);
    let config = required(typed_config, "typed_config")?;
    if config.type_url == AggregateCluster::type_url() {
        let config = unpack::<AggregateCluster>(&config).and_then(aggregate);
        return config.at("typed_config");
    }
    if config.type_url != DnsCluster::type_url() {
        return Err(FieldError::invalid(format!("{name} is not supported"))).at("name");
    }
    let config = unpack::<DnsCluster>(&config).at("typed_config")?;
    typed_dns(config, fields.assignment).map(Discovery::Dns).at("typed_config")
}

fn aggregate(message: AggregateCluster) -> Result<Discovery, FieldError> {
    fields!(message: AggregateCluster, read: [clusters], ignore: [], refuse: []);
    if clusters.is_empty() {
        return Err(FieldError::required()).at("clusters");
    }
    Ok(Discovery::Aggregate(clusters.into_iter().map(Arc::from).collect()))
}

fn typed_dns(
    message: DnsCluster,
    assignment: Option<ClusterLoadAssignment>,
) -> Result<DnsConfig, FieldError> {
    fields!(message: DnsCluster,
        read: [
            dns_refresh_rate, dns_failure_refresh_rate, dns_jitter, dns_lookup_family,
            all_addresses_in_single_endpoint, respect_dns_ttl, dns_min_refresh_rate,
            typed_dns_resolver_config,
        ],
        ignore: [],
        refuse: []);
    let failure = dns_failure_refresh_rate.map(|DnsRefreshRate { base_interval, max_interval }| {
        failure_refresh(base_interval.as_ref(), max_interval.as_ref())
    });
    let failure = failure.transpose().at("dns_failure_refresh_rate")?;
    Ok(DnsConfig {
        names: names(assignment, all_addresses_in_single_endpoint)?,
        family: typed_family(dns_lookup_family)?,
        is_logical: all_addresses_in_single_endpoint,
        pace: Pace {
            by_ttl: respect_dns_ttl,
            ttl_min: ttl_min(dns_min_refresh_rate.as_ref())?,
            ..pace(dns_refresh_rate.as_ref(), failure, dns_jitter.as_ref())?
        },
        resolver: of_type(typed_dns_resolver_config)?,
    })
}

fn of_type(typed: Option<TypedExtensionConfig>) -> Result<Option<Resolver>, FieldError> {
    resolver::compile(ResolverFields { typed, ..ResolverFields::default() })
}

fn ttl_min(value: Option<&protobuf::Duration>) -> Result<Duration, FieldError> {
    match optional_duration(value, "dns_min_refresh_rate")? {
        Some(short) if short < Duration::from_secs(1) => {
            Err(FieldError::invalid("must be at least 1 s")).at("dns_min_refresh_rate")
        }
        least => Ok(least.unwrap_or_default()),
    }
}

fn typed_family(value: i32) -> Result<Family, FieldError> {
    use xds_proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as Typed;
    family(value, |value| match Typed::try_from(value).ok()? {
        Typed::Unspecified | Typed::Auto => Some(DnsLookupFamily::Auto),
        Typed::V4Only => Some(DnsLookupFamily::V4Only),
        Typed::V6Only => Some(DnsLookupFamily::V6Only),
        Typed::V4Preferred => Some(DnsLookupFamily::V4Preferred),
        Typed::All => Some(DnsLookupFamily::All),
    })
}

fn family(value: i32, read: impl Fn(i32) -> Option<DnsLookupFamily>) -> Result<Family, FieldError> {
    match read(value) {
        Some(DnsLookupFamily::Auto) => Ok(Family::Auto),
        Some(DnsLookupFamily::V4Only) => Ok(Family::V4Only),
        Some(DnsLookupFamily::V6Only) => Ok(Family::V6Only),
        Some(DnsLookupFamily::V4Preferred) => Ok(Family::V4Preferred),
        Some(DnsLookupFamily::All) => Ok(Family::All),
        None => Err(FieldError::invalid("unknown value")).at("dns_lookup_family"),
    }
}

fn interval(
    value: Option<&protobuf::Duration>,
    field: &'static str,
) -> Result<Option<Duration>, FieldError> {
    match optional_duration(value, field)? {
        Some(short) if short < Duration::from_millis(1) => {
            Err(FieldError::invalid("must be at least 1 ms")).at(field)
        }
        interval => Ok(interval),
    }
}

fn failure_refresh(
    base: Option<&protobuf::Duration>,
    max: Option<&protobuf::Duration>,
) -> Result<(Duration, Duration), FieldError> {
    let base = required(interval(base, "base_interval")?, "base_interval")?;
    // Envoy's default.
    let max = interval(max, "max_interval")?.unwrap_or(base * 10);
    if max < base {
        return Err(FieldError::invalid("is less than base_interval")).at("max_interval");
    }
    Ok((base, max))
}
