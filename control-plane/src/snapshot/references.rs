//! Which resources a resource names, so that what is used arrives before what uses it and leaves after it.

use std::sync::Arc;

use prost::{Message, Name};
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use xds_proto::envoy::config::core::v3::TransportSocket;
use xds_proto::envoy::config::core::v3::transport_socket::ConfigType as SocketConfig;
use xds_proto::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use xds_proto::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use xds_proto::envoy::config::route::v3::route::Action;
use xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use xds_proto::envoy::config::route::v3::{
    RouteAction, RouteConfiguration, ScopedRouteConfiguration, VirtualHost,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter,
    scoped_routes::ConfigSpecifier,
};
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier as TcpTarget;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext,
    common_tls_context::ValidationContextType,
};
use xds_proto::google::protobuf::Any;
use xds_proto::resource::{Resource, ResourceType};

/// That one resource names another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// The type of what is named.
    pub kind: ResourceType,
    /// Its name.
    pub name: Arc<str>,
}

/// The resources that this one names, each once. Only order depends on it: what is not
/// understood, or names its clusters in ways we do not know, is sent without waiting.
pub fn uses(resource: &Resource) -> Box<[Use]> {
    let mut found = Found::default();
    match resource.kind {
        ResourceType::Cluster => found.in_cluster(resource.decode().unwrap_or_default()),
        ResourceType::Listener => found.in_listener(resource.decode().unwrap_or_default()),
        ResourceType::Route => found.in_routes(resource.decode().unwrap_or_default()),
        ResourceType::VirtualHost => found.in_host(resource.decode().unwrap_or_default()),
        ResourceType::ScopedRoute => found.in_scope(resource.decode().unwrap_or_default()),
        ResourceType::Secret
        | ResourceType::Endpoints
        | ResourceType::LbEndpoint
        | ResourceType::ExtensionConfig
        | ResourceType::Runtime => {}
    }
    found.0.sort();
    found.0.dedup();
    found.0.into()
}

#[derive(Default)]
struct Found(Vec<Use>);

impl Found {
    fn add(&mut self, kind: ResourceType, name: &str) {
        if !name.is_empty() {
            self.0.push(Use { kind, name: name.into() });
        }
    }

    fn in_cluster(&mut self, cluster: Cluster) {
        if let Some(ClusterDiscoveryType::Type(kind)) = cluster.cluster_discovery_type
            && kind == DISCOVERY_BY_EDS
        {
            let service = cluster.eds_cluster_config.unwrap_or_default().service_name;
            let name = if service.is_empty() { &cluster.name } else { &service };
            self.add(ResourceType::Endpoints, name);
        }
        let matches = cluster.transport_socket_matches.into_iter();
        let sockets = matches.filter_map(|choice| choice.transport_socket);
        for socket in sockets.chain(cluster.transport_socket) {
            self.in_socket(socket);
        }
    }

    fn in_listener(&mut self, listener: Listener) {
        for chain in listener.filter_chains.into_iter().chain(listener.default_filter_chain) {
            self.in_chain(chain);
        }
        if let Some(api) = listener.api_listener.and_then(|api| api.api_listener) {
            self.in_network_filter(&api);
        }
    }

    fn in_chain(&mut self, chain: FilterChain) {
        for Filter { config_type, .. } in chain.filters {
            match config_type {
                Some(FilterConfig::TypedConfig(config)) => self.in_network_filter(&config),
                Some(FilterConfig::ConfigDiscovery(_)) | None => {}
            }
        }
        if let Some(socket) = chain.transport_socket {
            self.in_socket(socket);
        }
    }

    fn in_network_filter(&mut self, config: &Any) {
        if let Some(manager) = unpack::<HttpConnectionManager>(config) {
            self.in_manager(manager);
        } else if let Some(proxy) = unpack::<TcpProxy>(config) {
            match proxy.cluster_specifier {
                Some(TcpTarget::Cluster(name)) => self.add(ResourceType::Cluster, &name),
                Some(TcpTarget::WeightedClusters(weighted)) => {
                    for cluster in weighted.clusters {
                        self.add(ResourceType::Cluster, &cluster.name);
                    }
                }
                None => {}
            }
        }
    }

    fn in_manager(&mut self, manager: HttpConnectionManager) {
        for filter in manager.http_filters {
            if let Some(http_filter::ConfigType::ConfigDiscovery(_)) = filter.config_type {
                self.add(ResourceType::ExtensionConfig, &filter.name);
            }
        }
        match manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => {
                self.add(ResourceType::Route, &rds.route_config_name);
            }
            Some(RouteSpecifier::RouteConfig(routes)) => self.in_routes(routes),
            Some(RouteSpecifier::ScopedRoutes(scoped)) => {
                if let Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) =
                    scoped.config_specifier
                {
                    for scope in list.scoped_route_configurations {
                        self.in_scope(scope);
                    }
                }
            }
            None => {}
        }
    }

    fn in_scope(&mut self, scope: ScopedRouteConfiguration) {
        self.add(ResourceType::Route, &scope.route_configuration_name);
        if let Some(routes) = scope.route_configuration {
            self.in_routes(routes);
        }
    }

    fn in_routes(&mut self, routes: RouteConfiguration) {
        for host in routes.virtual_hosts {
            self.in_host(host);
        }
        for mirror in routes.request_mirror_policies {
            self.add(ResourceType::Cluster, &mirror.cluster);
        }
    }

    fn in_host(&mut self, host: VirtualHost) {
        for route in host.routes {
            if let Some(Action::Route(action)) = route.action {
                self.in_action(action);
            }
        }
        for mirror in host.request_mirror_policies {
            self.add(ResourceType::Cluster, &mirror.cluster);
        }
    }

    fn in_action(&mut self, action: RouteAction) {
        match action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => self.add(ResourceType::Cluster, &name),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                for cluster in weighted.clusters {
                    self.add(ResourceType::Cluster, &cluster.name);
                }
            }
            Some(
                ClusterSpecifier::ClusterHeader(_)
                | ClusterSpecifier::ClusterSpecifierPlugin(_)
                | ClusterSpecifier::InlineClusterSpecifierPlugin(_),
            )
            | None => {}
        }
        for mirror in action.request_mirror_policies {
            self.add(ResourceType::Cluster, &mirror.cluster);
        }
    }

    fn in_socket(&mut self, socket: TransportSocket) {
        let Some(SocketConfig::TypedConfig(config)) = socket.config_type else { return };
        let common = unpack::<DownstreamTlsContext>(&config)
            .map(|context| context.common_tls_context)
            .or_else(|| unpack::<UpstreamTlsContext>(&config).map(|c| c.common_tls_context));
        if let Some(common) = common.flatten() {
            self.in_tls(common);
        }
    }

    fn in_tls(&mut self, common: CommonTlsContext) {
        for secret in common.tls_certificate_sds_secret_configs {
            if secret.sds_config.is_some() {
                self.add(ResourceType::Secret, &secret.name);
            }
        }
        let validation = match common.validation_context_type {
            Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => Some(secret),
            Some(ValidationContextType::CombinedValidationContext(combined)) => {
                combined.validation_context_sds_secret_config
            }
            _ => None,
        };
        if let Some(secret) = validation.filter(|secret| secret.sds_config.is_some()) {
            self.add(ResourceType::Secret, &secret.name);
        }
    }
}

/// `envoy.config.cluster.v3.Cluster.DiscoveryType.EDS`.
const DISCOVERY_BY_EDS: i32 =
    xds_proto::envoy::config::cluster::v3::cluster::DiscoveryType::Eds as i32;

fn unpack<M: Message + Name + Default>(any: &Any) -> Option<M> {
    (any.type_url == M::type_url()).then(|| M::decode(&*any.value).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use xds_proto::json::any_from_json;

    fn uses_of(value: serde_json::Value) -> Vec<(ResourceType, String)> {
        let (type_url, body) = any_from_json(value).unwrap();
        let resource = Resource::from_bytes(&type_url, &body).unwrap();
        uses(&resource).iter().map(|used| (used.kind, used.name.to_string())).collect()
    }

    #[test]
    fn a_cluster_names_its_endpoints_and_secrets() {
        let found = uses_of(json!({
            "@type": ResourceType::Cluster.type_url(), "name": "c", "type": "EDS",
            "eds_cluster_config": {"service_name": "s"},
            "transport_socket": {"name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {"tls_certificate_sds_secret_configs":
                    [{"name": "client", "sds_config": {"ads": {}}}, {"name": "static"}]},
            }},
        }));
        assert_eq!(
            found,
            [(ResourceType::Secret, "client".into()), (ResourceType::Endpoints, "s".into())]
        );
    }

    #[test]
    fn a_listener_names_its_routes_and_the_clusters_of_inline_routes() {
        let manager = |route: serde_json::Value| {
            json!({"filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "x", "rds": route.get("rds"), "route_config": route.get("route_config"),
            }}]})
        };
        let found = uses_of(json!({
            "@type": ResourceType::Listener.type_url(), "name": "l",
            "filter_chains": [
                manager(json!({"rds": {"route_config_name": "r", "config_source": {"ads": {}}}})),
                manager(json!({"route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}]}})),
            ],
        }));
        assert_eq!(found, [(ResourceType::Cluster, "c".into()), (ResourceType::Route, "r".into())]);
    }

    #[test]
    fn routes_name_clusters_weighted_and_mirrored_ones_too() {
        let found = uses_of(json!({
            "@type": ResourceType::Route.type_url(), "name": "r",
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"prefix": "/a"}, "route": {"weighted_clusters": {"clusters":
                    [{"name": "b", "weight": 1}, {"name": "a", "weight": 1}]}}},
                {"match": {"prefix": "/"}, "route": {"cluster": "a",
                    "request_mirror_policies": [{"cluster": "m"}]}},
            ]}],
        }));
        let names: Vec<_> = found.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "m"]);
    }
}
