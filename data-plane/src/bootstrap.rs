//! An Envoy bootstrap, read: who this proxy is, which control planes it asks, what it always serves.

use std::net::SocketAddr;
use std::sync::Arc;

use xds_proto::convert::{self, Address};
use xds_proto::envoy::config::bootstrap::v3 as proto;
use xds_proto::envoy::config::bootstrap::v3::bootstrap::{DynamicResources, StaticResources};
use xds_proto::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::field::{At, FieldError, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::Struct;
use xds_proto::json::{self, JsonError};
use xds_proto::resource::Resource;

pub mod control_plane;
mod overload;
pub mod runtime;

use control_plane::{Api, ControlPlane};
use runtime::ResetLimits;

use crate::overload::plan::{Limits, Plan};

/// What a proxy starts with.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Who this proxy is.
    pub node: core::Node,
    /// Where the admin page listens.
    pub admin: Option<SocketAddr>,
    /// Where configuration comes from, in order of preference.
    pub control_planes: Vec<ControlPlane>,
    /// The variant of ADS.
    pub api: Api,
    /// Whether only the first request of a stream carries the node.
    pub node_once_a_stream: bool,
    /// Whether listeners come by xDS.
    pub dynamic_listeners: bool,
    /// Whether clusters come by xDS.
    pub dynamic_clusters: bool,
    /// The layers of runtime values, lowest first.
    pub runtime: Vec<RuntimeLayer>,
    /// What is watched, and what is done where there is too little of it.
    pub overload: Plan,
    /// How many connections there may be.
    pub limits: Limits,
    /// How many streams of HTTP/2 may be given up early.
    pub resets: ResetLimits,
    /// Who is asked for names, where a cluster does not say.
    pub names: NameServers,
    /// Secrets, clusters and listeners that are always there, in this order.
    pub resources: Vec<Resource>,
}

/// The fields that say who is asked for names.
#[derive(Debug, Clone, Default)]
pub struct NameServers {
    /// By an extension.
    pub typed: Option<core::TypedExtensionConfig>,
    /// By addresses.
    pub resolution: Option<core::DnsResolutionConfig>,
    /// By TCP only.
    pub only_tcp: bool,
}

/// One layer of runtime values.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeLayer {
    /// Its name.
    pub name: Arc<str>,
    /// Its values, or the resource that has them.
    pub source: RuntimeSource,
}

/// Where the values of a runtime layer are.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeSource {
    /// In the bootstrap.
    Static(Struct),
    /// In the runtime resource of this name.
    Resource(Arc<str>),
}

/// The bootstrap cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BootstrapError {
    /// It is no bootstrap; the reason has the line and the place in it.
    #[error(transparent)]
    Syntax(#[from] JsonError),
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// Reads a file that the bootstrap names.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> std::io::Result<Vec<u8>>;

/// Reads a bootstrap in YAML or JSON. Files that its static resources name are read by `read` and
/// put in their place.
///
/// # Errors
/// A place and a reason.
pub fn parse(text: &str, read: ReadFile<'_>) -> Result<Bootstrap, BootstrapError> {
    let message: proto::Bootstrap = json::from_yaml(text)?;
    let message = json::inline_files(&message, &mut |path| {
        read(path).map_err(|error| format!("cannot read {path}: {error}"))
    })?;
    Ok(compile(message)?)
}

fn compile(message: proto::Bootstrap) -> Result<Bootstrap, FieldError> {
    fields!(message: proto::Bootstrap,
        read: [
            node, static_resources, dynamic_resources, layered_runtime, admin, overload_manager,
            typed_dns_resolver_config, dns_resolution_config, use_tcp_for_dns_lookups,
        ],
        // How Envoy measures and watches itself, and which of its own parts it uses.
        ignore: [
            node_context_params, stats_flush_interval, stats_config, deferred_stat_options,
            watchdog, watchdogs, enable_dispatcher_stats, stats_server_version_override,
            default_socket_interface, inline_headers, perf_tracing_file_path, default_regex_engine,
            listener_manager, application_log_config, grpc_async_client_manager_config,
            memory_allocator_manager, enable_worker_cpu_affinity, stats_flush, stats_eviction,
            flags_path, bootstrap_extensions, fatal_actions, xds_config_tracker_extension,
        ],
        refuse: [
            cluster_manager, hds_config, stats_sinks, tracing, header_prefix,
            config_sources, default_config_source, certificate_provider_instances,
            xds_delegate_extension,
        ],
    );
    let statics = static_resources.unwrap_or_default();
    let mut bootstrap = Bootstrap { node: node.unwrap_or_default(), ..Bootstrap::default() };
    if let Some(dynamic) = dynamic_resources {
        read_dynamic(dynamic, &statics, &mut bootstrap).at("dynamic_resources")?;
    }
    bootstrap.resources = read_static(statics).at("static_resources")?;
    bootstrap.admin = admin.map(read_admin).transpose().at("admin")?.flatten();
    bootstrap.names = NameServers {
        typed: typed_dns_resolver_config,
        resolution: dns_resolution_config,
        only_tcp: use_tcp_for_dns_lookups,
    };
    if let Some(layered) = layered_runtime {
        bootstrap.runtime =
            xds_proto::field::each(layered.layers, "layers", read_layer).at("layered_runtime")?;
    }
    if let Some(manager) = overload_manager {
        bootstrap.overload =
            overload::compile(manager, &mut bootstrap.limits).at("overload_manager")?;
    }
    let values = runtime::Values::of(&bootstrap.runtime);
    bootstrap.resets = runtime::resets(&values).at("layered_runtime")?;
    runtime::connections(&values, &mut bootstrap.limits).at("layered_runtime")?;
    Ok(bootstrap)
}

fn read_static(message: StaticResources) -> Result<Vec<Resource>, FieldError> {
    fields!(message: StaticResources,
        read: [listeners, clusters, secrets], ignore: [], refuse: []);
    let mut resources = pack_each(&secrets, "secrets")?;
    resources.extend(pack_each(&clusters, "clusters")?);
    resources.extend(pack_each(&listeners, "listeners")?);
    Ok(resources)
}

fn pack_each<M: prost::Message + prost::Name>(
    messages: &[M],
    field: &'static str,
) -> Result<Vec<Resource>, FieldError> {
    xds_proto::field::each(messages, field, |message| {
        Resource::pack(message).map_err(|error| FieldError::invalid(error.to_string()))
    })
}

fn read_dynamic(
    message: DynamicResources,
    statics: &StaticResources,
    bootstrap: &mut Bootstrap,
) -> Result<(), FieldError> {
    fields!(message: DynamicResources,
        read: [lds_config, cds_config, ads_config],
        ignore: [],
        refuse: [lds_resources_locator, cds_resources_locator],
    );
    bootstrap.dynamic_listeners = is_by_ads(lds_config).at("lds_config")?;
    bootstrap.dynamic_clusters = is_by_ads(cds_config).at("cds_config")?;
    if let Some(ads) = ads_config {
        let ads = control_plane::read_ads(ads, statics).at("ads_config")?;
        bootstrap.api = ads.api;
        bootstrap.node_once_a_stream = ads.node_once_a_stream;
        bootstrap.control_planes = ads.control_planes;
    } else if bootstrap.dynamic_listeners || bootstrap.dynamic_clusters {
        return Err(FieldError::required()).at("ads_config");
    }
    Ok(())
}

/// Whether a source is given; it must be the aggregated stream.
#[expect(deprecated, reason = "the deprecated kind of source is refused by name")]
fn is_by_ads(source: Option<core::ConfigSource>) -> Result<bool, FieldError> {
    let Some(source) = source else { return Ok(false) };
    fields!(source: core::ConfigSource,
        read: [config_source_specifier],
        // Version 3 is the only one left; the does-not-exist timer is the same for every type.
        ignore: [resource_api_version, initial_fetch_timeout],
        refuse: [authorities],
    );
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})) => Ok(true),
        None => Err(FieldError::required()).at("ads"),
        Some(ConfigSourceSpecifier::Path(_)) => Err(FieldError::unsupported()).at("path"),
        Some(ConfigSourceSpecifier::PathConfigSource(_)) => {
            Err(FieldError::unsupported()).at("path_config_source")
        }
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => {
            Err(FieldError::unsupported()).at("api_config_source")
        }
        Some(ConfigSourceSpecifier::Self_(_)) => Err(FieldError::unsupported()).at("self"),
    }
}

fn read_admin(message: proto::Admin) -> Result<Option<SocketAddr>, FieldError> {
    fields!(message: proto::Admin,
        read: [address],
        // The admin page writes no access log and no profile.
        ignore: [access_log, access_log_path, profile_path, ignore_global_conn_limit],
        refuse: [socket_options, allow_paths],
    );
    if address.is_none() {
        return Ok(None);
    }
    match convert::address(address)? {
        Address::Ip(address) => Ok(Some(address)),
        Address::Name(name, _) => {
            Err(FieldError::invalid(format!("{name:?} is no IP address"))).at("address")
        }
        Address::Pipe(_) => Err(FieldError::unsupported()).at("pipe").at("address"),
    }
}

fn read_layer(message: proto::RuntimeLayer) -> Result<RuntimeLayer, FieldError> {
    fields!(message: proto::RuntimeLayer, read: [name, layer_specifier], ignore: [], refuse: []);
    let name = required_text(name, "name")?.into();
    let source = match layer_specifier {
        Some(LayerSpecifier::StaticLayer(values)) => RuntimeSource::Static(values),
        // Nothing can be set over the admin page, so this layer stays empty.
        Some(LayerSpecifier::AdminLayer(_)) => RuntimeSource::Static(Struct::default()),
        Some(LayerSpecifier::RtdsLayer(layer)) => {
            if !is_by_ads(layer.rtds_config).at("rtds_config").at("rtds_layer")? {
                return Err(FieldError::required()).at("rtds_config").at("rtds_layer");
            }
            RuntimeSource::Resource(required_text(layer.name, "name").at("rtds_layer")?.into())
        }
        Some(LayerSpecifier::DiskLayer(_)) => {
            return Err(FieldError::unsupported()).at("disk_layer");
        }
        None => return Err(FieldError::required()).at("layer_specifier"),
    };
    Ok(RuntimeLayer { name, source })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What people who come from Envoy start with: everything over one stream.
    const TEMPLATE: &str = r#"
node: {id: "n1", cluster: "edge", locality: {region: r1, zone: z1}, metadata: {role: edge}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
dynamic_resources:
  ads_config:
    api_type: GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{envoy_grpc: {cluster_name: xds_cluster}}]
  cds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 5s}
  lds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 5s}
static_resources:
  clusters:
  - name: xds_cluster
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: xds_cluster
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: "127.0.0.1", port_value: 18000}}}
        - endpoint: {address: {socket_address: {address: "::1", port_value: 18000}}}
layered_runtime:
  layers:
  - {name: static, static_layer: {overload.global_downstream_max_connections: 50000}}
  - {name: rtds, rtds_layer: {name: rt, rtds_config: {ads: {}, resource_api_version: V3}}}
"#;

    fn parse_it(text: &str) -> Result<Bootstrap, String> {
        let no_files: ReadFile<'_> = &|_| Err(std::io::Error::other("no files here"));
        parse(text, no_files).map_err(|error| error.to_string())
    }

    #[test]
    fn an_envoy_bootstrap_is_read() {
        let bootstrap = parse_it(TEMPLATE).unwrap();
        assert_eq!((&*bootstrap.node.id, &*bootstrap.node.cluster), ("n1", "edge"));
        assert_eq!(bootstrap.admin, Some("127.0.0.1:9901".parse().unwrap()));
        assert!(bootstrap.dynamic_listeners && bootstrap.dynamic_clusters);
        assert!(bootstrap.node_once_a_stream);
        assert_eq!(bootstrap.api, Api::Sotw);
        let authorities: Vec<_> =
            bootstrap.control_planes.iter().map(ControlPlane::authority).collect();
        assert_eq!(authorities, ["127.0.0.1:18000", "[::1]:18000"]);
        assert_eq!(bootstrap.control_planes[0].connect_timeout, Duration::from_secs(1));
        assert_eq!(bootstrap.resources.len(), 1);
        assert_eq!(bootstrap.runtime[1].source, RuntimeSource::Resource("rt".into()));
    }

    #[test]
    fn json_is_yaml_too() {
        assert_eq!(parse_it(r#"{"node": {"id": "n"}}"#).unwrap().node.id, "n");
    }

    #[test]
    fn an_error_names_the_place() {
        for (text, wanted) in [
            ("tracing: {http: {name: x}}", "tracing: not supported"),
            (
                "dynamic_resources: {cds_config: {ads: {}}}",
                "dynamic_resources.ads_config: required",
            ),
            (
                "dynamic_resources: {cds_config: {path: /x}}",
                "dynamic_resources.cds_config.path: not supported",
            ),
            (
                "dynamic_resources: {ads_config: {api_type: REST}}",
                "dynamic_resources.ads_config.api_type: not supported",
            ),
            (
                "dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}",
                "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: \
                 \"x\" is none of static_resources.clusters",
            ),
            (
                "admin: {address: {socket_address: {address: a.test, port_value: 1}}}",
                "admin.address: \"a.test\" is no IP address",
            ),
            (
                "static_resources: {secrets: [{name: s, tls_certificate: {private_key: {filename: /k}}}]}",
                "static_resources.secrets[0].tls_certificate.private_key.filename: \
                 cannot read /k: no files here",
            ),
        ] {
            assert_eq!(parse_it(text).unwrap_err(), wanted);
        }
    }

    #[test]
    fn a_control_plane_may_have_tls() {
        let text = TEMPLATE.replace(
            "    connect_timeout: 1s\n",
            r#"
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: control.test
        common_tls_context:
          tls_certificates:
          - {certificate_chain: {inline_string: chain}, private_key: {inline_string: key}}
          validation_context: {trusted_ca: {inline_string: ca}}
"#,
        );
        let bootstrap = parse_it(&text).unwrap();
        let tls = bootstrap.control_planes[0].tls.as_ref().unwrap();
        assert_eq!((&*tls.ca, tls.server_name.as_deref()), (&b"ca"[..], Some("control.test")));
        assert_eq!(tls.identity, Some((b"chain".to_vec(), b"key".to_vec())));
        assert!(!format!("{tls:?}").contains("key"));
        let error = parse_it(&text.replace("trusted_ca", "crl")).unwrap_err();
        assert!(error.contains("validation_context"), "{error}");
    }
}
