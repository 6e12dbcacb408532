//! Backends and Services as clusters.

use std::collections::HashMap;
use std::time::Duration;

use xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use xds_proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster, circuit_breakers};
use xds_proto::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common,
};
use xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use xds_proto::envoy::extensions::clusters::dns::v3::DnsCluster;
use xds_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};

use crate::model::Model;
use crate::model::backend::{Backend, Dns};
use crate::model::duration as model_duration;
use crate::translate::backends::{ClusterKey, Target};
use crate::translate::endpoints;
use crate::translate::envoy::{ads, any, duration, number};

/// A connection to a backend must stand within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle connection is closed after this: before servers do, which avoids the race of a request
/// with their close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The limits of a cluster's circuit breaker (Envoy's own, written out).
const CONNECTIONS_MAX: u32 = 1024;
const RETRIES_MAX: u32 = 3;
/// Names are resolved again after this.
const DNS_REFRESH: Duration = Duration::from_secs(30);
/// The cluster type that resolves names.
const DNS_CLUSTER: &str = "envoy.clusters.dns";
/// How much of a message is kept while the other side is slow.
pub(super) const BUFFER_LIMIT: u32 = 32 * 1024;
/// Windows and streams of HTTP/2, as Envoy's edge guide gives them.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;
/// The window of a connection.
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams of a connection.
pub(super) const STREAMS_MAX: u32 = 100;
/// The key of HTTP options in a cluster.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster, and its endpoints when they are sent apart; none when what it leads to is gone.
pub(super) fn cluster(
    model: &Model,
    key: &ClusterKey,
) -> Option<(Cluster, Option<ClusterLoadAssignment>)> {
    match &key.target {
        Target::Backend(place) => model.backends.get(place).map(|backend| of_backend(key, backend)),
        Target::Service(place, port) => {
            let port = model.services.get(place)?.port(*port)?;
            let slices = model.slices.get(place).map(Vec::as_slice).unwrap_or_default();
            let assignment = endpoints::of_service(&key.target.to_string(), port, slices);
            let cluster = Cluster {
                eds_cluster_config: Some(eds(key)),
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
                ..base(key, &port.app_protocol)
            };
            Some((cluster, Some(assignment)))
        }
    }
}

/// A cluster but for its endpoints.
fn base(key: &ClusterKey, app_protocol: &str) -> Cluster {
    let is_http2 = key.asks_http2 || matches!(app_protocol, "grpc" | "kubernetes.io/h2c");
    Cluster {
        name: key.name(),
        connect_timeout: duration(CONNECT_TIMEOUT),
        per_connection_buffer_limit_bytes: number(BUFFER_LIMIT),
        lb_policy: LbPolicy::LeastRequest.into(),
        circuit_breakers: Some(circuit_breakers()),
        typed_extension_protocol_options: HashMap::from([(
            HTTP_OPTIONS.to_owned(),
            any(&http_options(is_http2)),
        )]),
        ..Default::default()
    }
}

fn of_backend(key: &ClusterKey, backend: &Backend) -> (Cluster, Option<ClusterLoadAssignment>) {
    let assignment = endpoints::of_backend(&key.target.to_string(), &backend.spec.endpoints);
    let mut cluster = base(key, &backend.spec.app_protocol);
    let first = backend.spec.endpoints.first();
    if first.is_some_and(|endpoint| endpoint.ip.is_some()) {
        cluster.eds_cluster_config = Some(eds(key));
        cluster.cluster_discovery_type =
            Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
        return (cluster, Some(assignment));
    }
    let is_socket = first.is_some_and(|endpoint| endpoint.unix.is_some());
    cluster.cluster_discovery_type = Some(if is_socket {
        ClusterDiscoveryType::Type(DiscoveryType::Static.into())
    } else {
        ClusterDiscoveryType::ClusterType(dns_cluster(backend.spec.dns.as_ref()))
    });
    cluster.load_assignment = Some(assignment);
    (cluster, None)
}

/// Where the endpoints of a cluster come from: clusters of one target share them.
fn eds(key: &ClusterKey) -> EdsClusterConfig {
    let target = key.target.to_string();
    let service_name = if target == key.name() { String::new() } else { target };
    EdsClusterConfig { eds_config: Some(ads()), service_name }
}

/// How the names of a cluster are resolved: each address an endpoint of its own, or all one.
fn dns_cluster(dns: Option<&Dns>) -> CustomClusterType {
    let refresh = dns.and_then(|dns| model_duration::parse(&dns.refresh));
    let family = match dns.map(|dns| dns.family.as_str()) {
        Some("V4") => DnsLookupFamily::V4Only,
        Some("V6") => DnsLookupFamily::V6Only,
        // A name with both answers, such as localhost, is served on its IPv4 side more often.
        _ => DnsLookupFamily::V4Preferred,
    };
    let config = DnsCluster {
        dns_refresh_rate: duration(refresh.unwrap_or(DNS_REFRESH)),
        respect_dns_ttl: dns.is_none_or(|dns| dns.respect_ttl),
        dns_lookup_family: family.into(),
        all_addresses_in_single_endpoint: dns.is_some_and(|dns| dns.addresses == "One"),
        ..Default::default()
    };
    CustomClusterType { name: DNS_CLUSTER.to_owned(), typed_config: Some(any(&config)) }
}

fn circuit_breakers() -> CircuitBreakers {
    let thresholds = circuit_breakers::Thresholds {
        max_connections: number(CONNECTIONS_MAX),
        max_pending_requests: number(CONNECTIONS_MAX),
        max_requests: number(CONNECTIONS_MAX),
        max_retries: number(RETRIES_MAX),
        ..Default::default()
    };
    CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

fn http_options(is_http2: bool) -> HttpProtocolOptions {
    let protocol = if is_http2 {
        ProtocolConfig::Http2ProtocolOptions(http2_options())
    } else {
        ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())
    };
    HttpProtocolOptions {
        common_http_protocol_options: Some(Common {
            idle_timeout: duration(IDLE_TIMEOUT),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig { protocol_config: Some(protocol) },
        )),
        ..Default::default()
    }
}

/// HTTP/2 with limits, on either side.
pub(super) fn http2_options() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: number(STREAMS_MAX),
        initial_stream_window_size: number(STREAM_WINDOW),
        initial_connection_window_size: number(CONNECTION_WINDOW),
        ..Default::default()
    }
}
