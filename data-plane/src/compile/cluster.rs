//! A `Cluster` resource to a cluster.

mod connection;
mod discovery;
mod policy;

use std::sync::Arc;

use prost::{Message, Name};
use xds_proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use xds_proto::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget as ProtoBudget;
use xds_proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use xds_proto::envoy::config::core::v3::{RoutingPriority, TransportSocket};
use xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use xds_proto::envoy::r#type::v3::Percent;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::{Any, UInt32Value};

use crate::cluster::ClusterConfig;
use crate::cluster::live::{Breakers, RetryBudget};
use crate::cluster::protocol::UpstreamProtocol;
use crate::compile::cluster::connection::ConnectionFields;
use crate::compile::cluster::discovery::DiscoveryFields;
use crate::compile::cluster::policy::PolicyFields;
use crate::compile::tls;
use crate::tls::client::ClientTlsConfig;

/// Compiles a cluster.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn compile(message: Cluster) -> Result<ClusterConfig, FieldError> {
    fields!(message: Cluster,
    read: [
        name, cluster_discovery_type, eds_cluster_config, load_assignment,
        dns_lookup_family, dns_refresh_rate, dns_failure_refresh_rate, dns_jitter,
        lb_policy, lb_config, load_balancing_policy, common_lb_config,
        connect_timeout, typed_extension_protocol_options, max_requests_per_connection,
        common_http_protocol_options, http_protocol_options, http2_protocol_options,
        protocol_selection, upstream_connection_options, transport_socket, circuit_breakers,
    ],
    ignore: [
        // Metrics go by the cluster's name.
        alt_stat_name, stats_matcher, track_timeout_budgets, track_cluster_stats,
        // Buffers have limits of their own.
        per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout,
        // A new cluster always waits for its endpoints; connections are made when needed.
        wait_for_warm_on_init, preconnect_policy,
        // The system's resolver tells no TTL, and decides on TCP itself.
        respect_dns_ttl, use_tcp_for_dns_lookups,
        // Only for types of cluster that are refused.
        cleanup_interval,
        // About health checks, which are refused.
        close_connections_on_host_health_failure, ignore_health_on_host_removal,
        // Load reports: nobody waits for them.
        lrs_server, lrs_report_endpoint_metrics,
        metadata,
    ],
    refuse: [
        transport_socket_matches, transport_socket_matcher, health_checks, outlier_detection,
        upstream_http_protocol_options, dns_resolvers, dns_resolution_config,
        typed_dns_resolver_config, upstream_bind_config, lb_subset_config, filters,
        upstream_config, connection_pool_per_downstream_connection, queuing_policies,
    ]);
    let name: Arc<str> = required_text(name, "name")?.into();
    let discovery = discovery::compile(
        &name,
        DiscoveryFields {
            kind: cluster_discovery_type,
            eds: eds_cluster_config,
            assignment: load_assignment,
            family: dns_lookup_family,
            refresh: dns_refresh_rate,
            failure: dns_failure_refresh_rate,
            jitter: dns_jitter,
        },
    )?;
    let balancer = policy::compile(PolicyFields {
        policy: lb_policy,
        config: lb_config,
        policies: load_balancing_policy,
        common: common_lb_config,
    })?;
    let connection = connection::compile(ConnectionFields {
        timeout: connect_timeout,
        typed: typed_extension_protocol_options,
        requests_max: max_requests_per_connection,
        common: common_http_protocol_options,
        http1: http_protocol_options,
        http2: http2_protocol_options,
        selection: protocol_selection,
        options: upstream_connection_options,
    })?;
    let tls = transport_socket.map(socket).transpose().at("transport_socket")?.flatten();
    if tls.is_none() && connection.protocol == UpstreamProtocol::Auto {
        return Err(FieldError::invalid("auto_config needs TLS, since ALPN decides"))
            .at("transport_socket");
    }
    let breakers = circuit_breakers.map(breakers).transpose().at("circuit_breakers")?;
    Ok(ClusterConfig {
        secret_names: tls.iter().flat_map(ClientTlsConfig::secret_names).map(Arc::clone).collect(),
        name,
        discovery,
        balancer,
        connection: Arc::new(connection),
        tls,
        breakers: breakers.unwrap_or_default(),
    })
}

fn socket(message: TransportSocket) -> Result<Option<ClientTlsConfig>, FieldError> {
    fields!(message: TransportSocket,
        read: [config_type],
        // The type of the configuration says which it is.
        ignore: [name],
        refuse: []);
    let ConfigType::TypedConfig(config) = required(config_type, "typed_config")?;
    let compiled = match &*config.type_url {
        url if url == UpstreamTlsContext::type_url() => {
            unpack(&config).and_then(|context| tls::client(context).map(Some))
        }
        url if url == RawBuffer::type_url() => Ok(None),
        url => Err(FieldError::invalid(format!("{url} is not supported"))),
    };
    compiled.at("typed_config")
}

fn breakers(message: CircuitBreakers) -> Result<Breakers, FieldError> {
    fields!(message: CircuitBreakers,
        read: [thresholds], ignore: [], refuse: [per_host_thresholds]);
    let thresholds = each(thresholds, "thresholds", limits)?;
    // The first for a priority counts. No request has another priority: routes refuse it.
    let of_default = thresholds.into_iter().find(|(priority, _)| *priority == DEFAULT);
    Ok(of_default.map(|(_, breakers)| breakers).unwrap_or_default())
}

const DEFAULT: i32 = RoutingPriority::Default as i32;

fn limits(message: Thresholds) -> Result<(i32, Breakers), FieldError> {
    fields!(message: Thresholds,
        read: [
            priority, max_connections, max_pending_requests, max_requests, max_retries,
            retry_budget,
        ],
        // What is left is always counted.
        ignore: [track_remaining],
        refuse: [max_connection_pools]);
    let defaults = Breakers::default();
    let or = |given: Option<UInt32Value>, default| given.map_or(default, |given| given.value);
    let breakers = Breakers {
        connections_max: or(max_connections, defaults.connections_max),
        pending_max: or(max_pending_requests, defaults.pending_max),
        requests_max: or(max_requests, defaults.requests_max),
        retries_max: or(max_retries, defaults.retries_max),
        retry_budget: retry_budget.map(budget).transpose().at("retry_budget")?,
    };
    Ok((priority, breakers))
}

fn budget(message: ProtoBudget) -> Result<RetryBudget, FieldError> {
    fields!(message: ProtoBudget,
        read: [budget_percent, min_retry_concurrency], ignore: [], refuse: [budget_interval]);
    let percent = budget_percent.map_or(Ok(20.0), percent).at("budget_percent")?;
    Ok(RetryBudget {
        // At most a million.
        share_millionths: (percent * 10_000.0) as u32,
        retries_min: min_retry_concurrency.map_or(3, |min| min.value),
    })
}

/// A percentage of 0 to 100.
fn percent(message: Percent) -> Result<f64, FieldError> {
    if (0.0..=100.0).contains(&message.value) {
        return Ok(message.value);
    }
    Err(FieldError::invalid("must be between 0 and 100"))
}

/// The message that a packed config holds.
fn unpack<M: Message + Name + Default>(config: &Any) -> Result<M, FieldError> {
    M::decode(&*config.value).map_err(|error| FieldError::invalid(error.to_string()))
}
