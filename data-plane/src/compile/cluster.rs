//! A `Cluster` resource to a cluster.

mod connection;
mod discovery;
mod health;
mod outlier;
mod policy;
pub mod resolver;
mod socket;

use std::sync::Arc;

use xds_proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use xds_proto::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget as ProtoBudget;
use xds_proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use xds_proto::envoy::config::core::v3::{HealthCheck, RoutingPriority};
use xds_proto::envoy::r#type::v3::Percent;
use xds_proto::field::{At, FieldError, each, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::UInt32Value;

use crate::cluster::health::CheckConfig;
use crate::cluster::live::{Breakers, RetryBudget};
use crate::cluster::{ClusterConfig, Discovery};
use crate::compile::cluster::connection::ConnectionFields;
use crate::compile::cluster::discovery::DiscoveryFields;
use crate::compile::cluster::policy::PolicyFields;
use crate::compile::cluster::resolver::ResolverFields;

/// Compiles a cluster.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn compile(message: Cluster) -> Result<ClusterConfig, FieldError> {
    fields!(message: Cluster,
    read: [
        name, cluster_discovery_type, eds_cluster_config, load_assignment, dns_lookup_family,
        dns_refresh_rate, dns_failure_refresh_rate, dns_jitter, lb_policy, lb_config,
        load_balancing_policy, common_lb_config, connect_timeout, typed_extension_protocol_options,
        max_requests_per_connection, common_http_protocol_options, http_protocol_options,
        http2_protocol_options, protocol_selection, upstream_connection_options,
        upstream_http_protocol_options, transport_socket, transport_socket_matches,
        circuit_breakers, lb_subset_config, health_checks, outlier_detection,
        per_connection_buffer_limit_bytes, respect_dns_ttl, use_tcp_for_dns_lookups, dns_resolvers,
        dns_resolution_config, typed_dns_resolver_config, upstream_bind_config,
    ],
    ignore: [
        // Metrics go by the cluster's name.
        alt_stat_name, stats_matcher, track_timeout_budgets, track_cluster_stats,
        // What reads slowly meets the timeouts of its request.
        per_connection_buffer_high_watermark_timeout,
        // A new cluster always waits for its endpoints; connections are made when needed.
        wait_for_warm_on_init, preconnect_policy,
        // Only for types of cluster that are refused.
        cleanup_interval,
        // What the control plane removes is gone, whatever its health.
        ignore_health_on_host_removal,
        // Load reports: nobody waits for them.
        lrs_server, lrs_report_endpoint_metrics,
        // No filter here reads it.
        metadata,
    ],
    refuse: [
        transport_socket_matcher, close_connections_on_host_health_failure,
        filters, upstream_config, connection_pool_per_downstream_connection, queuing_policies,
    ]);
    let name: Arc<str> = required_text(name, "name")?.into();
    let discovery = DiscoveryFields {
        kind: cluster_discovery_type,
        eds: eds_cluster_config,
        assignment: load_assignment,
        family: dns_lookup_family,
        pace: (dns_refresh_rate, dns_failure_refresh_rate, dns_jitter, respect_dns_ttl),
        resolver: ResolverFields {
            typed: typed_dns_resolver_config,
            resolution: dns_resolution_config,
            servers: dns_resolvers,
            only_tcp: use_tcp_for_dns_lookups,
        },
    };
    let discovery = discovery::compile(&name, discovery)?;
    let balancer = policy::compile(PolicyFields {
        policy: (lb_policy, lb_config, load_balancing_policy),
        common: common_lb_config,
        subset: lb_subset_config,
        is_provided: matches!(discovery, Discovery::Aggregate(_)),
    })?;
    let mut connection = connection::compile(ConnectionFields {
        timeout: connect_timeout,
        typed: typed_extension_protocol_options,
        requests_max: max_requests_per_connection,
        common: common_http_protocol_options,
        http: (http_protocol_options, http2_protocol_options, protocol_selection),
        options: (upstream_connection_options, upstream_bind_config),
        upstream: upstream_http_protocol_options,
        buffer_bytes: per_connection_buffer_limit_bytes,
    })?;
    let (tls, sockets) = socket::all(transport_socket, transport_socket_matches, &mut connection)?;
    Ok(ClusterConfig {
        secrets: socket::secrets(tls.as_ref(), &sockets),
        sockets,
        name,
        discovery,
        balancer,
        connection: Arc::new(connection),
        tls,
        breakers: breakers(circuit_breakers).at("circuit_breakers")?,
        check: check(health_checks)?,
        outlier: outlier_detection.map(outlier::compile).transpose().at("outlier_detection")?,
    })
}

/// Envoy takes no more than one either.
fn check(messages: Vec<HealthCheck>) -> Result<Option<Arc<CheckConfig>>, FieldError> {
    if messages.len() > 1 {
        return Err(FieldError::invalid("only one is supported")).at_index(1).at("health_checks");
    }
    Ok(each(messages, "health_checks", health::compile)?.pop().map(Arc::new))
}

fn breakers(message: Option<CircuitBreakers>) -> Result<Breakers, FieldError> {
    let Some(message) = message else { return Ok(Breakers::default()) };
    fields!(message: CircuitBreakers,
        read: [thresholds, per_host_thresholds], ignore: [], refuse: []);
    let thresholds = each(thresholds, "thresholds", limits)?;
    // The first for a priority counts. No request has another priority: routes refuse it.
    let all = thresholds.into_iter().find(|(priority, _)| *priority == DEFAULT);
    let of_hosts = each(per_host_thresholds, "per_host_thresholds", of_host)?;
    let of_hosts = of_hosts.into_iter().find(|(priority, _)| *priority == DEFAULT);
    let endpoint_connections_max = of_hosts.and_then(|(_, max)| max);
    let all = all.map(|(_, breakers)| breakers).unwrap_or_default();
    Ok(Breakers { endpoint_connections_max, ..all })
}

/// Of an endpoint only connections have a limit.
fn of_host(message: Thresholds) -> Result<(i32, Option<u32>), FieldError> {
    fields!(message: Thresholds,
    read: [priority, max_connections],
    // What is left is always counted.
    ignore: [track_remaining],
    refuse: [
        max_pending_requests, max_requests, max_retries, retry_budget, max_connection_pools,
    ]);
    Ok((priority, max_connections.map(|max| max.value)))
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
        endpoint_connections_max: None,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xds_proto::convert::Address;
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::cluster::balancer::{BalancerConfig, Policy};
    use crate::cluster::dns::Family;
    use crate::cluster::failure::UpstreamFailure;
    use crate::cluster::pool::testing::{Client, Speaks, Upstream, endpoints, locally};
    use crate::cluster::protocol::{ConnectionConfig, UpstreamProtocol};
    use crate::compile::tls;
    use crate::tls::secret::Secrets;
    use crate::tls::server::ServerTls;
    use crate::tls::testing::{Authority, quoted};

    fn compiled(yaml: &str) -> Result<ClusterConfig, String> {
        compile(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

    fn packed(kind: &str, more: &str) -> String {
        format!("{{'@type': '{EXTENSIONS}.{kind}'{more}}}")
    }

    #[test]
    fn what_is_unset_means_what_it_means_to_envoy() {
        let config = compiled("{name: c}").unwrap();
        assert!(matches!(&config.discovery, Discovery::Static(none) if none.localities.is_empty()));
        assert_eq!(config.balancer.policy, BalancerConfig::default().policy);
        assert_eq!(*config.connection, ConnectionConfig::default());
        assert_eq!(config.breakers, Breakers::default());
        assert!(config.tls.is_none());
    }

    #[test]
    fn what_envoy_gateway_always_sets_is_taken() {
        let least_request = packed(
            "load_balancing_policies.least_request.v3.LeastRequest",
            ", locality_lb_config: {locality_weighted_lb_config: {}}",
        );
        let config = compiled(&format!(
            "{{name: a/b, type: EDS, eds_cluster_config: {{service_name: s, eds_config: {{ads: {{}},
               resource_api_version: V3}}}}, connect_timeout: 10s,
               per_connection_buffer_limit_bytes: 32768, common_lb_config: {{}},
               ignore_health_on_host_removal: true, dns_lookup_family: V4_PREFERRED,
               circuit_breakers: {{thresholds: [{{max_retries: 1024}}]}},
               load_balancing_policy: {{policies: [{{typed_extension_config: {{name: l,
               typed_config: {least_request}}}}}]}}, metadata: {{filter_metadata: {{x: {{}}}}}}}}"
        ))
        .unwrap();
        assert!(matches!(&config.discovery, Discovery::Eds(endpoints) if &*endpoints.name == "s"));
        assert_eq!(config.balancer.policy, Policy::LeastRequest { choices: 2 });
        assert!(config.balancer.by_locality);
        assert_eq!(config.connection.connect_timeout, Duration::from_secs(10));
        assert_eq!(config.breakers.retries_max, 1024);
    }

    #[test]
    fn names_are_looked_up_by_type_and_by_extension() {
        let host = "{endpoint: {address: {socket_address: {address: a.test, port_value: 80}}}}";
        let assignment = |hosts: &[&str]| {
            let hosts = hosts.join(", ");
            format!(
                "load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{hosts}]}}]}}"
            )
        };
        let typed = packed(
            "clusters.dns.v3.DnsCluster",
            ", dns_lookup_family: V4_PREFERRED, dns_refresh_rate: 30s, respect_dns_ttl: true",
        );
        let typed = format!("cluster_type: {{name: envoy.cluster.dns, typed_config: {typed}}}");
        for (how, is_logical, refresh, family) in [
            ("type: STRICT_DNS", false, 5, Family::Auto),
            (
                "type: LOGICAL_DNS, dns_refresh_rate: 7s, respect_dns_ttl: true",
                true,
                7,
                Family::Auto,
            ),
            (&typed, false, 30, Family::V4Preferred),
        ] {
            let config = compiled(&format!("{{name: c, {how}, {}}}", assignment(&[host]))).unwrap();
            let Discovery::Dns(dns) = config.discovery else { unreachable!() };
            assert_eq!((dns.is_logical, dns.family), (is_logical, family), "{how}");
            assert_eq!(dns.pace.refresh, Duration::from_secs(refresh));
            assert_eq!(dns.pace.by_ttl, how.contains("respect_dns_ttl"));
            assert_eq!(&*dns.names.localities[0].endpoints[0].hostname, "a.test");
        }
        let two = format!("{{name: c, type: LOGICAL_DNS, {}}}", assignment(&[host, host]));
        assert_eq!(
            compiled(&two).unwrap_err(),
            "load_assignment: LOGICAL_DNS needs exactly one locality with exactly one endpoint"
        );
    }

    #[test]
    fn unknown_policies_are_passed_over_and_nested_ones_opened() {
        let policy =
            |typed: &str| format!("{{typed_extension_config: {{name: n, typed_config: {typed}}}}}");
        let round_robin = policy(&packed("load_balancing_policies.round_robin.v3.RoundRobin", ""));
        let unknown = policy(&packed("load_balancing_policies.pick_first.v3.PickFirst", ""));
        let wrr = policy(&packed(
            "load_balancing_policies.wrr_locality.v3.WrrLocality",
            &format!(", endpoint_picking_policy: {{policies: [{round_robin}]}}"),
        ));
        let with = |policies: &str| {
            compiled(&format!("{{name: c, load_balancing_policy: {{policies: [{policies}]}}}}"))
        };
        let config = with(&format!("{unknown}, {round_robin}")).unwrap();
        assert_eq!(
            (config.balancer.policy, config.balancer.by_locality),
            (Policy::RoundRobin, false)
        );
        let config = with(&wrr).unwrap();
        assert_eq!(
            (config.balancer.policy, config.balancer.by_locality),
            (Policy::RoundRobin, true)
        );
        let error = "load_balancing_policy.policies: none is supported: n";
        assert_eq!(with(&unknown).unwrap_err(), error);
    }

    #[test]
    fn policies_are_told_by_the_enum_and_by_extensions() {
        use crate::cluster::balancer::table::{HashFunction, TableConfig};
        let typed = |kind: &str, more: &str| {
            let typed = packed(&format!("load_balancing_policies.{kind}"), more);
            format!(
                "load_balancing_policy: {{policies: [{{typed_extension_config: {{name: n, typed_config: {typed}}}}}]}}"
            )
        };
        let ring =
            |size_min, size_max, function| TableConfig::Ring { size_min, size_max, function };
        let hash = |table, by_hostname| Policy::Hash { table, by_hostname };
        let (xx, murmur) = (HashFunction::Xx, HashFunction::Murmur2);
        let most = 8 * 1024 * 1024;
        for (how, policy) in [
            ("lb_policy: RANDOM", Policy::Random),
            ("lb_policy: RING_HASH", hash(ring(1024, most, xx), false)),
            (
                "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 9, maximum_ring_size: 99,
                 hash_function: MURMUR_HASH_2}, common_lb_config: {consistent_hashing_lb_config:
                 {use_hostname_for_hashing: true}}",
                hash(ring(9, 99, murmur), true),
            ),
            ("lb_policy: MAGLEV", hash(TableConfig::Maglev { size: 65537 }, false)),
            (&typed("random.v3.Random", ""), Policy::Random),
            (
                &typed("ring_hash.v3.RingHash", ", use_hostname_for_hashing: true"),
                hash(ring(1024, most, xx), true),
            ),
            (
                &typed("maglev.v3.Maglev", ", table_size: 1021"),
                hash(TableConfig::Maglev { size: 1021 }, false),
            ),
        ] {
            let config = compiled(&format!("{{name: c, {how}}}")).unwrap();
            assert_eq!(config.balancer.policy, policy, "{how}");
        }
        for (how, error) in [
            (
                "lb_policy: MAGLEV, maglev_lb_config: {table_size: 65536}",
                "maglev_lb_config.table_size: must be a prime",
            ),
            (
                "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 9, maximum_ring_size: 8}",
                "ring_hash_lb_config.minimum_ring_size: is more than maximum_ring_size",
            ),
            (
                "lb_subset_config: {subset_selectors: [{keys: [a], fallback_policy: KEYS_SUBSET,
                 fallback_keys_subset: [b]}]}",
                "lb_subset_config.subset_selectors[0].fallback_keys_subset: must be some of keys, but not all",
            ),
        ] {
            assert_eq!(compiled(&format!("{{name: c, {how}}}")).unwrap_err(), error);
        }
    }

    #[test]
    fn the_protocol_is_what_the_options_say() {
        let tls = packed("transport_sockets.tls.v3.UpstreamTlsContext", "");
        let tls = format!(", transport_socket: {{name: tls, typed_config: {tls}}}");
        let with = |how: &str, tls: &str| {
            let options = packed("upstreams.http.v3.HttpProtocolOptions", &format!(", {how}"));
            compiled(&format!(
                "{{name: c, typed_extension_protocol_options:
                  {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {options}}}{tls}}}"
            ))
        };
        for (how, protocol) in [
            ("explicit_http_config: {http_protocol_options: {}}", UpstreamProtocol::Http1),
            ("explicit_http_config: {http2_protocol_options: {}}", UpstreamProtocol::Http2),
            ("use_downstream_protocol_config: {}", UpstreamProtocol::Downstream),
            ("auto_config: {http_protocol_options: {}}", UpstreamProtocol::Auto),
        ] {
            assert_eq!(with(how, &tls).unwrap().connection.protocol, protocol);
        }
        assert_eq!(
            with("auto_config: {}", "").unwrap_err(),
            "transport_socket: auto_config needs TLS, since ALPN decides"
        );
        let connection = with(
            "common_http_protocol_options: {idle_timeout: 0s, max_requests_per_connection: 3},
             explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 7,
             connection_keepalive: {interval: 30s, timeout: 5s}}}",
            "",
        );
        let connection = connection.unwrap().connection;
        assert_eq!((connection.idle_timeout, connection.requests_max), (None, Some(3)));
        assert_eq!(connection.http2.streams_max, 7);
        assert_eq!(connection.http2.ping_interval, Some(Duration::from_secs(30)));
    }

    #[test]
    fn connections_come_from_addresses_in_their_order_and_endpoints_have_limits() {
        let at = |ip: &str| format!("{{address: '{ip}', port_value: 0}}");
        let (a, b, c) = (at("127.0.0.9"), at("::1"), at("127.0.0.8"));
        let sources = |bind: &str| {
            let config = compiled(&format!("{{name: c, upstream_bind_config: {{{bind}}}}}"));
            config
                .unwrap()
                .connection
                .sources
                .iter()
                .map(|source| source.ip().to_string())
                .collect()
        };
        let (first, rest) = (format!("source_address: {a}"), format!("[{{address: {b}}}]"));
        for (bind, expected) in [
            (first.clone(), vec!["127.0.0.9"]),
            (format!("{first}, extra_source_addresses: {rest}"), vec!["127.0.0.9", "::1"]),
            (
                format!("{first}, additional_source_addresses: [{c}]"),
                vec!["127.0.0.9", "127.0.0.8"],
            ),
            (
                format!("extra_source_addresses: {rest}, additional_source_addresses: [{c}]"),
                vec!["::1"],
            ),
        ] {
            let found: Vec<String> = sources(&bind);
            assert_eq!(found, expected, "{bind}");
        }
        let limits = "circuit_breakers: {thresholds: [{max_connections: 7}], per_host_thresholds:
            [{priority: HIGH, max_connections: 1}, {max_connections: 2}, {max_connections: 3}]}";
        let breakers = compiled(&format!("{{name: c, {limits}}}")).unwrap().breakers;
        assert_eq!((breakers.connections_max, breakers.endpoint_connections_max), (7, Some(2)));
    }

    #[test]
    fn what_is_wrong_or_not_implemented_is_refused_by_name() {
        for (yaml, error) in [
            ("{type: STATIC}", "name: required"),
            ("{name: c, type: EDS}", "eds_cluster_config: required"),
            (
                "{name: c, type: EDS, eds_cluster_config: {}}",
                "eds_cluster_config.eds_config: required",
            ),
            ("{name: c, type: ORIGINAL_DST}", "type: not supported"),
            ("{name: c, type: STRICT_DNS}", "load_assignment: required"),
            ("{name: c, connect_timeout: 0s}", "connect_timeout: must be more than 0"),
            ("{name: c, health_checks: [{}]}", "health_checks[0].interval: required"),
            (
                "{name: c, lb_policy: CLUSTER_PROVIDED}",
                "lb_policy: CLUSTER_PROVIDED needs a type of cluster that provides one",
            ),
            (
                "{name: c, lb_policy: LEAST_REQUEST, least_request_lb_config: {choice_count: 1}}",
                "least_request_lb_config.choice_count: must be at least 2",
            ),
            (
                "{name: c, typed_extension_protocol_options: {x: {'@type': \
                 type.googleapis.com/google.protobuf.Empty, value: {}}}}",
                "typed_extension_protocol_options[\"x\"]: not supported",
            ),
            (
                "{name: c, circuit_breakers: {per_host_thresholds: [{max_requests: 1}]}}",
                "circuit_breakers.per_host_thresholds[0].max_requests: not supported",
            ),
            (
                "{name: c, upstream_bind_config: {freebind: true}}",
                "upstream_bind_config.freebind: not supported",
            ),
            (
                "{name: c, upstream_bind_config: {source_address: {address: a.test, port_value: 0}}}",
                "upstream_bind_config.source_address.address: must be an IP address",
            ),
            (
                "{name: c, common_lb_config: {healthy_panic_threshold: {value: 101}}}",
                "common_lb_config.healthy_panic_threshold: must be between 0 and 100",
            ),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), error);
        }
    }

    #[tokio::test]
    async fn alpn_decides_and_a_wrong_name_is_no_connection() {
        let authority = Authority::new();
        let shown = authority.issue(&["up.test"]).yaml();
        for (alpn, name, expected) in [
            ("h2, http/1.1", "up.test", Ok("up.test /a ")),
            ("http/1.1", "up.test", Ok("up.test /a ")),
            ("h2", "other.test", Err(UpstreamFailure::Tls)),
        ] {
            let server = format!(
                "{{common_tls_context: {{tls_certificates: [{shown}], alpn_protocols: [{alpn}]}}}}"
            );
            let server = Arc::new(tls::server(from_yaml(&server).unwrap()).unwrap());
            let server = ServerTls::link(&server, &Secrets::new(), None).unwrap();
            let context = packed(
                "transport_sockets.tls.v3.UpstreamTlsContext",
                &format!(
                    ", sni: up.test, common_tls_context: {{validation_context: {{trusted_ca:
                     {{inline_string: {}}}, match_typed_subject_alt_names: [{{san_type: DNS,
                     matcher: {{exact: {name}}}}}]}}}}",
                    quoted(&authority.pem())
                ),
            );
            let options = packed("upstreams.http.v3.HttpProtocolOptions", ", auto_config: {}");
            let config = compiled(&format!(
                "{{name: c, transport_socket: {{name: t, typed_config: {context}}},
                  typed_extension_protocol_options:
                  {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {options}}}}}"
            ));
            locally(async {
                let speaks = if alpn.starts_with("h2") {
                    Speaks::Http2 { streams_max: 10 }
                } else {
                    Speaks::Http1
                };
                let upstream = Upstream::start(speaks, Some(Arc::clone(&server.acceptor))).await;
                let endpoints = endpoints(&[Address::Ip(upstream.address)]);
                let client = Client::linked(config.unwrap(), endpoints);
                // Those that wait while the first handshake is under way fare no worse.
                let all = (0..4).map(|_| client.get("/a"));
                for answer in futures_util::future::join_all(all).await {
                    let answer = answer.map_err(|error| error.reason);
                    assert_eq!(answer.as_deref(), expected.as_ref().map(|text| *text), "{alpn}");
                }
            })
            .await;
        }
    }
}
