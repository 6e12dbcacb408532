//! Upstream clusters: their endpoints, the choice among them, and the connections to them.

pub mod watch;
pub mod pool;
pub mod tunnel;
pub mod dns;
pub mod balancer;
pub mod outlier;
pub mod health;
pub mod endpoints;
pub mod connect;
pub mod live;
pub mod failure;
pub mod protocol;
pub mod proxy_protocol;
pub mod sockets;
mod again;
mod purpose;
mod priority;
mod stride;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use rustls::pki_types::ServerName;
use xds_proto::convert::Address;
use xds_proto::resource::ResourceType;

use crate::cluster::again::Spare;
use crate::cluster::balancer::{Balancer, BalancerConfig, Group, Selection, Tier, tiers};
use crate::cluster::connect::{Connector, EndpointTls};
use crate::cluster::dns::DnsConfig;
use crate::cluster::endpoints::{
    Endpoint, EndpointConfig, EndpointsConfig, Health, Home, LocalityConfig,
};
use crate::cluster::health::CheckConfig;
use crate::cluster::live::{Breakers, ClusterLive, EndpointLive, Mark};
use crate::cluster::outlier::OutlierConfig;
use crate::cluster::protocol::ConnectionConfig;
use crate::cluster::sockets::{LinkedSockets, SocketMatch};
use crate::reference::Reference;
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
    /// Other sockets, for endpoints that have such metadata.
    pub sockets: Box<[SocketMatch]>,
    /// Limits.
    pub breakers: Breakers,
    /// How endpoints are checked.
    pub check: Option<Arc<CheckConfig>>,
    /// When endpoints are left out for how they answer.
    pub outlier: Option<OutlierConfig>,
    pub(crate) secrets: Box<[Reference]>,
}

impl ClusterConfig {
    /// The secrets it needs.
    pub fn secrets(&self) -> &[Reference] {
        &self.secrets
    }

    /// Names to `visit` each resource that it names.
    pub fn references(&self, visit: &mut dyn FnMut(ResourceType, &Reference)) {
        if let Discovery::Eds(endpoints) = &self.discovery {
            visit(ResourceType::Endpoints, endpoints);
        }
        self.secrets.iter().for_each(|secret| visit(ResourceType::Secret, secret));
    }
}

/// Where the endpoints of a cluster come from.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// The cluster names them.
    Static(Arc<EndpointsConfig>),
    /// The control plane sends them under this name.
    Eds(Reference),
    /// Names are looked up.
    Dns(DnsConfig),
    /// It has those of other clusters, which help each other out in this order.
    Aggregate(Box<[Arc<str>]>),
}

/// A cluster that requests can be sent to.
#[derive(Debug)]
pub struct Cluster {
    /// What it was made of.
    pub config: Arc<ClusterConfig>,
    /// The endpoints as they came.
    pub endpoints_config: Arc<EndpointsConfig>,
    /// All endpoints, the failing ones too; none of an aggregate.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Counts, shared by all workers, kept across swaps.
    pub live: Arc<ClusterLive>,
    /// TLS towards the endpoints.
    pub tls: Option<Arc<ClientTls>>,
    /// The same of its other sockets.
    socket_tls: LinkedSockets,
    /// The clusters of an aggregate.
    members: Box<[Arc<Cluster>]>,
    groups: Vec<Group>,
    balancer: ArcSwap<Balancer>,
    /// The one that retries of late used, which does without some priorities.
    spare: ArcSwapOption<Spare>,
    /// Somebody makes the next balancer.
    is_refreshing: AtomicBool,
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
        let previous_sockets = previous.map(|previous| &previous.socket_tls);
        let socket_tls = sockets::link(&config.sockets, secrets, previous_sockets)?;
        if let Some(previous) = previous
            && Arc::ptr_eq(&previous.config, &config)
            && Arc::ptr_eq(&previous.endpoints_config, &endpoints)
            && sockets::are_same(&previous.socket_tls, &socket_tls)
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
        let home = Arc::new(Home { config: Arc::clone(&config), live: Arc::clone(&live) });
        let mut linker = Linker::new(&home, (tls.as_ref(), &socket_tls), previous);
        linker.renews = config.balancer.renews_connections && linker.is_changed_by(&endpoints);
        let groups = linker.groups(&endpoints);
        let all: Box<[_]> =
            groups.iter().flat_map(|group| &group.endpoints).map(Arc::clone).collect();
        let ejected = all.iter().filter(|endpoint| endpoint.live.has(Mark::Ejected)).count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        live.endpoints.store(number(all.len()), Relaxed);
        live.ejected.store(number(ejected), Relaxed);
        let generation = live.generation();
        let overprovisioning = endpoints.overprovisioning_percent;
        let balancer = Balancer::new(&config.balancer, &groups, overprovisioning, generation);
        count(&all, &live);
        Ok(Arc::new(Self {
            config,
            endpoints_config: endpoints,
            endpoints: all,
            live,
            tls,
            socket_tls,
            members: Box::default(),
            groups,
            balancer: ArcSwap::from_pointee(balancer),
            spare: ArcSwapOption::empty(),
            is_refreshing: AtomicBool::new(false),
        }))
    }

    /// Joins an aggregate with its clusters. Gives `previous` when nothing changed.
    pub fn aggregate(
        config: Arc<ClusterConfig>,
        members: Vec<Arc<Self>>,
        previous: Option<&Arc<Self>>,
        registry: &Registry,
    ) -> Arc<Self> {
        if let Some(previous) = previous
            && Arc::ptr_eq(&previous.config, &config)
            && previous.members.len() == members.len()
            && previous.members.iter().zip(&members).all(|(old, new)| Arc::ptr_eq(old, new))
        {
            return Arc::clone(previous);
        }
        let live = match previous {
            Some(previous) => Arc::clone(&previous.live),
            None => Arc::new(ClusterLive::new(registry.cluster(&config.name))),
        };
        let generation = members.iter().map(|member| member.generation()).sum();
        let tiers: Vec<_> = members.iter().flat_map(|member| member.tiers()).collect();
        let balancer = Balancer::over(&tiers, config.balancer.panic_below_percent, generation);
        drop(tiers);
        Arc::new(Self {
            endpoints_config: Arc::new(EndpointsConfig::none(&config.name)),
            config,
            endpoints: Box::default(),
            live,
            tls: None,
            socket_tls: Box::default(),
            members: members.into(),
            groups: Vec::new(),
            balancer: ArcSwap::from_pointee(balancer),
            spare: ArcSwapOption::empty(),
            is_refreshing: AtomicBool::new(false),
        })
    }

    /// Which changes of health there were.
    fn generation(&self) -> u64 {
        let members = self.members.iter().map(|member| member.generation());
        self.live.generation() + members.sum::<u64>()
    }

    fn tiers(&self) -> Vec<Tier<'_>> {
        let overprovisioning = self.endpoints_config.overprovisioning_percent;
        let own = tiers(&self.config.balancer, overprovisioning, &self.groups);
        own.into_iter().chain(self.members.iter().flat_map(|member| member.tiers())).collect()
    }

    /// The balancer for the health of the endpoints as it is. Made here where that changed; while
    /// somebody else makes it, the last one will do.
    fn balancer(&self) -> Guard<Arc<Balancer>> {
        let current = self.balancer.load();
        let generation = self.generation();
        if current.generation == generation && !current.is_stale() {
            return current;
        }
        if self.is_refreshing.swap(true, Acquire) {
            return current;
        }
        let config = &self.config.balancer;
        let overprovisioning = self.endpoints_config.overprovisioning_percent;
        let balancer = if self.members.is_empty() {
            count(&self.endpoints, &self.live);
            Balancer::new(config, &self.groups, overprovisioning, generation)
        } else {
            Balancer::over(&self.tiers(), config.panic_below_percent, generation)
        };
        self.balancer.store(Arc::new(balancer));
        self.is_refreshing.store(false, Release);
        self.balancer.load()
    }

    /// Takes changes of health into account, so that no request has to.
    pub(crate) fn refresh(&self) {
        drop(self.balancer());
    }

    /// An endpoint for a request; `None` when no endpoint may be used.
    pub fn pick(&self, selection: &Selection<'_>) -> Option<Arc<Endpoint>> {
        self.balancer().pick(selection).map(Arc::clone)
    }

    /// An endpoint for a retry: another one than `tried`, if luck has it.
    pub fn pick_other(&self, tried: &Endpoint, selection: &Selection<'_>) -> Option<Arc<Endpoint>> {
        const DRAWS: u32 = 5;
        let balancer = self.balancer();
        let other = (1..=DRAWS)
            .filter_map(|more| {
                let attempt = selection.attempt + more;
                balancer.pick(&Selection { attempt, ..*selection })
            })
            .find(|endpoint| !Arc::ptr_eq(&endpoint.live, &tried.live));
        other.or_else(|| balancer.pick(selection)).map(Arc::clone)
    }

    /// Whether there is more than one endpoint.
    pub fn has_several_endpoints(&self) -> bool {
        let members = self.members.iter().map(|member| member.endpoints.len());
        self.endpoints.len() + members.sum::<usize>() > 1
    }

    /// Whether the first health check of every endpoint has ended.
    pub fn is_checked(&self) -> bool {
        self.endpoints.iter().all(|one| !one.is_checked() || one.live.has(Mark::Known))
    }
}

fn count(endpoints: &[Arc<Endpoint>], live: &ClusterLive) {
    let of = |states: &[Health]| {
        endpoints.iter().filter(|endpoint| states.contains(&endpoint.health())).count()
    };
    let ejected = endpoints.iter().filter(|endpoint| endpoint.live.has(Mark::Ejected)).count();
    let usable = of(&[Health::Healthy, Health::Degraded]);
    live.stats.set_endpoints(EndpointState::Healthy, usable);
    live.stats.set_endpoints(EndpointState::Ejected, ejected);
    let unhealthy = of(&[Health::Unhealthy]).saturating_sub(ejected);
    live.stats.set_endpoints(EndpointState::Unhealthy, unhealthy);
    live.stats.set_endpoints(EndpointState::Draining, of(&[Health::Draining]));
}

/// Makes endpoints, taking over what the previous ones had.
struct Linker<'a> {
    home: &'a Arc<Home>,
    tls: Option<&'a Arc<ClientTls>>,
    socket_tls: &'a LinkedSockets,
    previous: HashMap<&'a Address, &'a Arc<Endpoint>>,
    /// Whether no connection is taken over.
    renews: bool,
}

impl<'a> Linker<'a> {
    fn new(
        home: &'a Arc<Home>,
        (tls, socket_tls): (Option<&'a Arc<ClientTls>>, &'a LinkedSockets),
        previous: Option<&'a Arc<Cluster>>,
    ) -> Self {
        let previous = previous.into_iter().flat_map(|previous| &previous.endpoints);
        let previous = previous.map(|endpoint| (&endpoint.config.address, endpoint)).collect();
        Self { home, tls, socket_tls, previous, renews: false }
    }

    /// Whether endpoints come or go.
    fn is_changed_by(&self, endpoints: &EndpointsConfig) -> bool {
        let all = || endpoints.localities.iter().flat_map(|group| &group.endpoints);
        let stay = all().filter(|one| self.previous.contains_key(&one.address)).count();
        stay != all().count() || stay != self.previous.len()
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
        let home = &self.home.config;
        let (connection, tls) = match sockets::choose(&home.sockets, config) {
            Some(index) => {
                let tls = self.socket_tls.get(index).and_then(Option::as_ref);
                (&home.sockets[index].connection, tls)
            }
            None => (&home.connection, self.tls),
        };
        let connector = Connector {
            address: config.address.clone(),
            also: config.also.clone(),
            config: Arc::clone(connection),
            tls: tls
                .map(|tls| EndpointTls { name: server_name(tls, config), tls: Arc::clone(tls) }),
        };
        let (live, label) = match previous {
            Some(previous) => (Arc::clone(&previous.live), Arc::clone(&previous.label)),
            None => (Arc::default(), label(&config.address)),
        };
        let (connector, alive) = match previous {
            Some(previous) if *previous.connector == connector && !self.renews => {
                (Arc::clone(&previous.connector), Arc::clone(&previous.alive))
            }
            _ => (Arc::new(connector), Arc::default()),
        };
        let endpoint = Endpoint {
            config: config.clone(),
            label,
            locality: group.locality.clone(),
            priority: group.priority,
            live,
            home: Arc::clone(self.home),
            connector,
            alive,
        };
        set_marks(&endpoint, previous.map(|previous| &previous.live));
        Arc::new(endpoint)
    }
}

/// What a cluster no longer looks for is forgotten; what is to be checked is not used before.
fn set_marks(endpoint: &Endpoint, known: Option<&Arc<EndpointLive>>) {
    let live = &endpoint.live;
    if !endpoint.is_checked() {
        for mark in [Mark::Unchecked, Mark::Degraded, Mark::Known] {
            live.mark(mark, false);
        }
    } else if known.is_none() {
        live.mark(Mark::Unchecked, true);
    }
    if endpoint.home.config.outlier.is_none() {
        live.mark(Mark::Ejected, false);
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
