//! Who is asked for names: the fields of a cluster, of a bootstrap, and the extensions behind them.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Name;
use xds_proto::convert::{Address, address};
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::{DnsResolutionConfig, DnsResolverOptions};
use xds_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use xds_proto::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use crate::bootstrap::NameServers;
use crate::cluster::dns::resolver::{DNS_PORT, Resolver, Servers};
use crate::compile::unpack;

/// The fields that say it. The first that is set counts.
#[derive(Debug, Default)]
pub(super) struct ResolverFields {
    pub(super) typed: Option<core::TypedExtensionConfig>,
    pub(super) resolution: Option<DnsResolutionConfig>,
    pub(super) servers: Vec<core::Address>,
    pub(super) only_tcp: bool,
}

/// Who is asked where a cluster does not say.
///
/// # Errors
/// The first field that is out of range or not implemented.
pub fn of_bootstrap(names: NameServers) -> Result<Resolver, FieldError> {
    let NameServers { typed, resolution, only_tcp } = names;
    let fields = ResolverFields { typed, resolution, servers: Vec::new(), only_tcp };
    Ok(compile(fields)?.unwrap_or_default())
}

/// Nothing where the fields say nothing.
pub(super) fn compile(fields: ResolverFields) -> Result<Option<Resolver>, FieldError> {
    if let Some(typed) = fields.typed {
        return self::typed(typed).map(Some).at("typed_dns_resolver_config");
    }
    if let Some(resolution) = fields.resolution {
        return self::resolution(resolution).map(Some).at("dns_resolution_config");
    }
    if fields.servers.is_empty() && !fields.only_tcp {
        return Ok(None);
    }
    let addresses = each(fields.servers, "dns_resolvers", server)?.into();
    Ok(Some(Resolver::Dns(Servers { addresses, only_tcp: fields.only_tcp, ..Servers::default() })))
}

fn typed(message: core::TypedExtensionConfig) -> Result<Resolver, FieldError> {
    fields!(message: core::TypedExtensionConfig,
        read: [name, typed_config], ignore: [], refuse: []);
    let config = required(typed_config, "typed_config")?;
    let url = &config.type_url;
    if *url == CaresDnsResolverConfig::type_url() {
        return unpack(&config).and_then(cares).map(Resolver::Dns).at("typed_config");
    }
    if *url == GetAddrInfoDnsResolverConfig::type_url() {
        return unpack(&config).and_then(getaddrinfo).at("typed_config");
    }
    Err(FieldError::invalid(format!("{name} is not supported"))).at("name")
}

fn cares(message: CaresDnsResolverConfig) -> Result<Servers, FieldError> {
    fields!(message: CaresDnsResolverConfig,
        read: [
            resolvers, use_resolvers_as_fallback, dns_resolver_options, query_timeout_seconds,
            query_tries, rotate_nameservers, edns0_max_payload_size,
        ],
        ignore: [
            // Each question goes over a socket of its own.
            udp_max_queries, max_udp_channel_duration, reinit_channel_on_timeout,
            // An answer is kept by who looks it up again; nobody asks more often.
            qcache_max_ttl,
        ],
        refuse: [filter_unroutable_families]);
    let options = dns_resolver_options.map(options).unwrap_or_default();
    let zero = |field| Err(FieldError::invalid("must be at least 1")).at(field);
    let timeout = match query_timeout_seconds.map(|seconds| seconds.value) {
        Some(0) => return zero("query_timeout_seconds"),
        seconds => seconds.map(Duration::from_secs),
    };
    let tries = match query_tries.map(|tries| tries.value) {
        Some(0) => return zero("query_tries"),
        tries => tries,
    };
    let payload_max = edns0_max_payload_size.map(|size| match u16::try_from(size.value) {
        Ok(size @ 512..=4096) => Ok(size),
        _ => Err(FieldError::invalid("must be between 512 and 4096")).at("edns0_max_payload_size"),
    });
    Ok(Servers {
        addresses: each(resolvers, "resolvers", server)?.into(),
        are_fallback: use_resolvers_as_fallback,
        rotate: rotate_nameservers,
        timeout,
        tries,
        payload_max: payload_max.transpose()?,
        ..options
    })
}

fn getaddrinfo(message: GetAddrInfoDnsResolverConfig) -> Result<Resolver, FieldError> {
    fields!(message: GetAddrInfoDnsResolverConfig,
        read: [],
        // A name that was not found is looked up again at the rate of failures; the runtime has threads.
        ignore: [num_retries, num_resolver_threads],
        refuse: []);
    Ok(Resolver::System)
}

fn resolution(message: DnsResolutionConfig) -> Result<Resolver, FieldError> {
    fields!(message: DnsResolutionConfig,
        read: [resolvers, dns_resolver_options], ignore: [], refuse: []);
    if resolvers.is_empty() {
        return Err(FieldError::required()).at("resolvers");
    }
    let addresses = each(resolvers, "resolvers", server)?.into();
    let options = dns_resolver_options.map(options).unwrap_or_default();
    Ok(Resolver::Dns(Servers { addresses, ..options }))
}

fn options(message: DnsResolverOptions) -> Servers {
    fields!(message: DnsResolverOptions,
        read: [use_tcp_for_dns_lookups, no_default_search_domain], ignore: [], refuse: []);
    Servers {
        only_tcp: use_tcp_for_dns_lookups,
        no_search: no_default_search_domain,
        ..Servers::default()
    }
}

fn server(mut message: core::Address) -> Result<SocketAddr, FieldError> {
    // Whether it is asked by UDP or TCP stands elsewhere.
    if let Some(core::address::Address::SocketAddress(socket)) = &mut message.address {
        socket.protocol = 0;
    }
    match address(Some(message))? {
        Address::Ip(mut address) => {
            if address.port() == 0 {
                address.set_port(DNS_PORT);
            }
            Ok(address)
        }
        Address::Name(..) | Address::Pipe(_) => {
            Err(FieldError::invalid("must be an IP address")).at("address")
        }
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::envoy::config::cluster::v3::Cluster;
    use xds_proto::json::from_yaml;

    use super::*;

    #[expect(deprecated, reason = "the fields before the extensions are read too")]
    fn compiled(yaml: &str) -> Result<Option<Resolver>, String> {
        let cluster: Cluster = from_yaml(yaml).unwrap();
        let fields = ResolverFields {
            typed: cluster.typed_dns_resolver_config,
            resolution: cluster.dns_resolution_config,
            servers: cluster.dns_resolvers,
            only_tcp: cluster.use_tcp_for_dns_lookups,
        };
        compile(fields).map_err(|error| error.to_string())
    }

    fn typed(kind: &str, more: &str) -> String {
        format!(
            "{{typed_dns_resolver_config: {{name: n, typed_config: {{'@type':
             type.googleapis.com/envoy.extensions.network.dns_resolver.{kind}{more}}}}}}}"
        )
    }

    const CARES: &str = "cares.v3.CaresDnsResolverConfig";
    const SERVER: &str = "{socket_address: {address: 127.0.0.1, port_value: 5353, protocol: UDP}}";

    fn servers() -> Servers {
        Servers { addresses: ["127.0.0.1:5353".parse().unwrap()].into(), ..Servers::default() }
    }

    #[test]
    fn servers_are_told_in_every_form() {
        let tcp = Servers { only_tcp: true, ..Servers::default() };
        let options = "{use_tcp_for_dns_lookups: true, no_default_search_domain: true}";
        let strict = Servers { only_tcp: true, no_search: true, ..servers() };
        for (yaml, expected) in [
            ("{}".to_owned(), None),
            ("{use_tcp_for_dns_lookups: true}".into(), Some(Resolver::Dns(tcp))),
            (format!("{{dns_resolvers: [{SERVER}]}}"), Some(Resolver::Dns(servers()))),
            (
                format!(
                    "{{dns_resolution_config: {{resolvers: [{SERVER}], dns_resolver_options: {options}}}}}"
                ),
                Some(Resolver::Dns(strict.clone())),
            ),
            (
                typed(CARES, &format!(", resolvers: [{SERVER}], dns_resolver_options: {options}")),
                Some(Resolver::Dns(strict)),
            ),
            (
                typed(
                    CARES,
                    ", resolvers: [{socket_address: {address: '::1', port_value: 0}}],
                     use_resolvers_as_fallback: true, query_timeout_seconds: 3, query_tries: 7,
                     rotate_nameservers: true, edns0_max_payload_size: 1400, udp_max_queries: 9",
                ),
                Some(Resolver::Dns(Servers {
                    addresses: ["[::1]:53".parse().unwrap()].into(),
                    are_fallback: true,
                    rotate: true,
                    timeout: Some(Duration::from_secs(3)),
                    tries: Some(7),
                    payload_max: Some(1400),
                    ..Servers::default()
                })),
            ),
            (typed(CARES, ""), Some(Resolver::default())),
            (
                typed("getaddrinfo.v3.GetAddrInfoDnsResolverConfig", ", num_retries: 3"),
                Some(Resolver::System),
            ),
        ] {
            assert_eq!(compiled(&yaml), Ok(expected), "{yaml}");
        }
    }

    #[test]
    fn what_nobody_can_ask_is_refused_by_name() {
        let within = "typed_dns_resolver_config.typed_config";
        for (yaml, error) in [
            (
                typed("apple.v3.AppleDnsResolverConfig", ""),
                "typed_dns_resolver_config.name: n is not supported".to_owned(),
            ),
            (
                typed(CARES, ", filter_unroutable_families: true"),
                format!("{within}.filter_unroutable_families: not supported"),
            ),
            (typed(CARES, ", query_tries: 0"), format!("{within}.query_tries: must be at least 1")),
            (
                typed(CARES, ", edns0_max_payload_size: 5000"),
                format!("{within}.edns0_max_payload_size: must be between 512 and 4096"),
            ),
            (
                "{dns_resolvers: [{socket_address: {address: a.test, port_value: 1}}]}".into(),
                "dns_resolvers[0].address: must be an IP address".into(),
            ),
            (
                "{dns_resolution_config: {}}".into(),
                "dns_resolution_config.resolvers: required".into(),
            ),
        ] {
            assert_eq!(compiled(&yaml), Err(error));
        }
    }
}
