//! Small resources for tests.

use xds_proto::convert::{to_address, to_duration};
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::envoy::config::endpoint::v3 as endpoint;
use xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_proto::envoy::config::listener::v3 as listener;
use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::extensions::filters::http::router::v3::Router;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xds_proto::json::pack;
use xds_proto::resource::Resource;

fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        ..core::ConfigSource::default()
    }
}

/// A cluster whose endpoints come under its own name.
pub(crate) fn cluster(name: &str, connect_timeout_s: u64) -> Resource {
    let message = Cluster {
        name: name.into(),
        connect_timeout: Some(to_duration(std::time::Duration::from_secs(connect_timeout_s))),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..EdsClusterConfig::default()
        }),
        ..Cluster::default()
    };
    Resource::pack(&message).unwrap()
}

/// One endpoint on loopback.
pub(crate) fn endpoints(name: &str, port: u16) -> Resource {
    let one = endpoint::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(to_address("127.0.0.1", port)),
            ..endpoint::Endpoint::default()
        })),
        ..endpoint::LbEndpoint::default()
    };
    let message = endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![one],
            ..endpoint::LocalityLbEndpoints::default()
        }],
        ..endpoint::ClusterLoadAssignment::default()
    };
    Resource::pack(&message).unwrap()
}

fn route_configuration(name: &str, cluster: &str) -> route::RouteConfiguration {
    use route::route_action::ClusterSpecifier;
    use route::route_match::PathSpecifier;
    let action = route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..route::RouteAction::default()
    };
    let only = route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..route::RouteMatch::default()
        }),
        action: Some(route::route::Action::Route(action)),
        ..route::Route::default()
    };
    route::RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![route::VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: vec![only],
            ..route::VirtualHost::default()
        }],
        ..route::RouteConfiguration::default()
    }
}

/// Routes that send everything to one cluster.
pub(crate) fn routes(name: &str, cluster: &str) -> Resource {
    Resource::pack(&route_configuration(name, cluster)).unwrap()
}

/// A listener whose routes come under the name `routes`.
pub(crate) fn listener(name: &str, port: u16, routes: &str) -> Resource {
    use hcm::http_connection_manager::RouteSpecifier;
    let rds = hcm::Rds { config_source: Some(ads()), route_config_name: routes.into() };
    listener_with(name, port, RouteSpecifier::Rds(rds))
}

/// A listener that has its routes in it.
pub(crate) fn listener_inline(name: &str, port: u16, cluster: &str) -> Resource {
    use hcm::http_connection_manager::RouteSpecifier;
    let routes = route_configuration("inline", cluster);
    listener_with(name, port, RouteSpecifier::RouteConfig(routes))
}

fn listener_with(
    name: &str,
    port: u16,
    routes: hcm::http_connection_manager::RouteSpecifier,
) -> Resource {
    let router = hcm::HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(
            pack(&Router::default()).unwrap(),
        )),
        ..hcm::HttpFilter::default()
    };
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "s".into(),
        http_filters: vec![router],
        route_specifier: Some(routes),
        ..hcm::HttpConnectionManager::default()
    };
    let filter = listener::Filter {
        name: "envoy.filters.network.http_connection_manager".into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(pack(&manager).unwrap())),
    };
    let message = listener::Listener {
        name: name.into(),
        address: Some(to_address("127.0.0.1", port)),
        filter_chains: vec![listener::FilterChain {
            filters: vec![filter],
            ..listener::FilterChain::default()
        }],
        ..listener::Listener::default()
    };
    Resource::pack(&message).unwrap()
}

/// A resource from YAML.
pub(crate) fn from_yaml<M>(yaml: &str) -> Resource
where
    M: prost::Message + prost::Name + Default,
{
    Resource::pack::<M>(&xds_proto::json::from_yaml(yaml).unwrap()).unwrap()
}

/// Routes whose virtual hosts come by themselves, but for those in `own`.
pub(crate) fn routes_on_demand(name: &str, own: &str) -> Resource {
    from_yaml::<route::RouteConfiguration>(&format!(
        "{{name: {name}, virtual_hosts: [{own}], vhds: {{config_source: {{ads: {{}}}}}}}}"
    ))
}

/// A virtual host that sends everything to one cluster.
pub(crate) fn virtual_host(name: &str, domains: &str, cluster: &str) -> Resource {
    from_yaml::<route::VirtualHost>(&format!(
        "{{name: {name}, domains: [{domains}], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}"
    ))
}
