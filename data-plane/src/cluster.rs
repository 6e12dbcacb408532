//! Upstream clusters: their endpoints, the choice among them, and the connections to them.

pub mod pool;
pub mod dns;
pub mod balancer;
pub mod endpoints;
pub mod connect;
pub mod live;
pub mod failure;
pub mod protocol;
mod priority;
mod stride;

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use xds_proto::convert::Address;

use crate::cluster::balancer::{Balancer, BalancerConfig, Group};
use crate::cluster::connect::{Connector, EndpointTls};
use crate::cluster::dns::DnsConfig;
use crate::cluster::endpoints::{
    Endpoint, EndpointConfig, EndpointsConfig, Health, LocalityConfig,
};
use crate::cluster::live::{Breakers, ClusterLive};
use crate::cluster::protocol::ConnectionConfig;
use crate::telemetry::Registry;
use crate::telemetry::stats::EndpointState;
use crate::tls::SecretError;
use crate::tls::client::{ClientTls, ClientTlsConfig};
use crate::tls::secret::Secrets;

/// A cluster, compiled.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub balancer: BalancerConfig,
    /// How connections are made and how long they live.
    pub connection: Arc<ConnectionConfig>,
    /// TLS towards the endpoints.
    pub tls: Option<ClientTlsConfig>,
    /// Limits.
    pub breakers: Breakers,
    pub(crate) secret_names: Box<[Arc<str>]>,
}

impl ClusterConfig {
    /// The secrets it needs.
    pub fn secret_names(&self) -> &[Arc<str>] {
        &self.secret_names
    }
}

/// Where the endpoints of a cluster come from.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// The cluster names them.
    Static(Arc<EndpointsConfig>),
    /// The control plane sends them under this name.
    Eds {
        /// The name of the `ClusterLoadAssignment`.
        service_name: Arc<str>,
    },
    /// Names are looked up.
    Dns(DnsConfig),
}

/// A cluster that requests can be sent to.
#[derive(Debug)]
pub struct Cluster {
    /// What it was made of.
    pub config: Arc<ClusterConfig>,
    /// The endpoints as they came.
    pub endpoints_config: Arc<EndpointsConfig>,
    /// All endpoints, the failing ones too.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Counts, shared by all workers, kept across swaps.
    pub live: Arc<ClusterLive>,
    /// TLS towards the endpoints.
    pub tls: Option<Arc<ClientTls>>,
    balancer: Balancer,
}

impl Cluster {
    /// Joins a cluster with its endpoints and secrets. Gives `previous` when nothing changed; else
    /// what is counted and the pools live on, where address, connection settings and TLS are the
    /// same.
    ///
    /// # Errors
    /// When a secret is missing or is no use.
    pub fn link(
        config: Arc<ClusterConfig>,
        endpoints: Arc<EndpointsConfig>,
        secrets: &Secrets,
        previous: Option<&Arc<Self>>,
        registry: &Registry,
    ) -> Result<Arc<Self>, SecretError> {
        let previous_tls = previous.and_then(|previous| previous.tls.as_ref());
        let tls = match &config.tls {
            None => None,
            Some(tls) => Some(ClientTls::link(tls, secrets, previous_tls)?),
        };
        if let Some(previous) = previous
            && Arc::ptr_eq(&previous.config, &config)
            && Arc::ptr_eq(&previous.endpoints_config, &endpoints)
            && previous_tls.map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr)
        {
            return Ok(Arc::clone(previous));
        }
        if previous_tls.is_none() && tls.as_ref().is_some_and(|tls| tls.is_lax()) {
            tracing::warn!(cluster = &*config.name, "the names of upstreams are not verified");
        }
        let live = match previous {
            Some(previous) => Arc::clone(&previous.live),
            None => Arc::new(ClusterLive::new(registry.cluster(&config.name))),
        };
        let groups = Linker::new(&config, tls.as_ref(), previous).groups(&endpoints);
        let balancer = Balancer::new(&config.balancer, &groups, endpoints.overprovisioning_percent);
        let all: Box<[_]> = groups.into_iter().flat_map(|group| group.endpoints).collect();
        count(&all, &live);
        Ok(Arc::new(Self {
            config,
            endpoints_config: endpoints,
            endpoints: all,
            live,
            tls,
            balancer,
        }))
    }

    /// An endpoint for the next request; `None` when no endpoint may be used.
    pub fn pick(&self) -> Option<Arc<Endpoint>> {
        self.balancer.pick().map(Arc::clone)
    }

    /// An endpoint for a retry: another one than `tried`, if luck has it.
    pub fn pick_other(&self, tried: &Endpoint) -> Option<Arc<Endpoint>> {
        const DRAWS: usize = 5;
        let other = (0..DRAWS)
            .filter_map(|_| self.balancer.pick())
            .find(|endpoint| !Arc::ptr_eq(&endpoint.live, &tried.live));
        other.map(Arc::clone).or_else(|| self.pick())
    }
}

fn count(endpoints: &[Arc<Endpoint>], live: &ClusterLive) {
    let of = |states: &[Health]| {
        endpoints.iter().filter(|endpoint| states.contains(&endpoint.config.health)).count()
    };
    let usable = of(&[Health::Healthy, Health::Degraded]);
    live.stats.set_endpoints(EndpointState::Healthy, usable);
    live.stats.set_endpoints(EndpointState::Unhealthy, of(&[Health::Unhealthy]));
    live.stats.set_endpoints(EndpointState::Draining, of(&[Health::Draining]));
}

/// Makes endpoints, taking over what the previous ones had.
struct Linker<'a> {
    config: &'a ClusterConfig,
    tls: Option<&'a Arc<ClientTls>>,
    previous: HashMap<&'a Address, &'a Arc<Endpoint>>,
}

impl<'a> Linker<'a> {
    fn new(
        config: &'a ClusterConfig,
        tls: Option<&'a Arc<ClientTls>>,
        previous: Option<&'a Arc<Cluster>>,
    ) -> Self {
        let previous = previous.into_iter().flat_map(|previous| &previous.endpoints);
        let previous = previous.map(|endpoint| (&endpoint.config.address, endpoint)).collect();
        Self { config, tls, previous }
    }

    fn groups(&self, endpoints: &EndpointsConfig) -> Vec<Group> {
        let groups = endpoints.localities.iter().map(|group| Group {
            priority: group.priority,
            weight: group.weight,
            endpoints: group.endpoints.iter().map(|one| self.endpoint(group, one)).collect(),
        });
        groups.collect()
    }

    fn endpoint(&self, group: &LocalityConfig, config: &EndpointConfig) -> Arc<Endpoint> {
        let previous = self.previous.get(&config.address);
        let connector = Connector {
            address: config.address.clone(),
            config: Arc::clone(&self.config.connection),
            tls: self
                .tls
                .map(|tls| EndpointTls { name: server_name(tls, config), tls: Arc::clone(tls) }),
        };
        let (live, label) = match previous {
            Some(previous) => (Arc::clone(&previous.live), Arc::clone(&previous.label)),
            None => (Arc::default(), label(&config.address)),
        };
        let (connector, alive) = match previous {
            Some(previous) if *previous.connector == connector => {
                (Arc::clone(&previous.connector), Arc::clone(&previous.alive))
            }
            _ => (Arc::new(connector), Arc::default()),
        };
        Arc::new(Endpoint {
            config: config.clone(),
            label,
            locality: group.locality.clone(),
            priority: group.priority,
            live,
            connector,
            alive,
        })
    }
}

/// The name to ask for. Where nobody gave one it is the address, which is never sent.
fn server_name(tls: &ClientTls, endpoint: &EndpointConfig) -> ServerName<'static> {
    if tls.config.sni_from_host
        && let Ok(name) = ServerName::try_from(endpoint.hostname.to_string())
    {
        return name;
    }
    if let Some(name) = &tls.config.sni {
        return name.clone();
    }
    let ip = match &endpoint.address {
        Address::Ip(address) => address.ip(),
        Address::Name(..) | Address::Pipe(_) => std::net::Ipv4Addr::LOCALHOST.into(),
    };
    ServerName::IpAddress(ip.into())
}

fn label(address: &Address) -> Arc<str> {
    match address {
        Address::Ip(address) => address.to_string().into(),
        Address::Name(name, port) => format!("{name}:{port}").into(),
        Address::Pipe(path) => path.as_str().into(),
    }
}
