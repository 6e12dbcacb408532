//! Endpoints of a cluster: what a resource says of them, and what a request is sent to.

use std::net::SocketAddr;
use std::sync::Arc;

use xds_proto::convert::Address;

use crate::cluster::ClusterConfig;
use crate::cluster::connect::Connector;
use crate::cluster::live::{ClusterLive, EndpointLive, Mark};
use crate::cluster::sockets::SocketLabels;
use crate::labels::Labels;

/// The endpoints of one cluster, compiled from a `ClusterLoadAssignment` or a DNS answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointsConfig {
    /// The name of the assignment.
    pub name: Arc<str>,
    /// Groups of endpoints; several may have the same priority.
    pub localities: Box<[LocalityConfig]>,
    /// How much more than its share a group can bear, in percent. Envoy's default is 140.
    pub overprovisioning_percent: u32,
}

impl EndpointsConfig {
    /// No endpoint.
    pub(crate) fn none(name: &Arc<str>) -> Self {
        let name = Arc::clone(name);
        Self { name, localities: Box::default(), overprovisioning_percent: 140 }
    }
}

/// Endpoints that lie in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalityConfig {
    /// Where.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Its share among the localities of its priority, where the balancer goes by locality.
    pub weight: Option<u32>,
    /// The endpoints.
    pub endpoints: Box<[EndpointConfig]>,
}

/// A place, as the control plane names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone of the region.
    pub zone: Arc<str>,
    /// Part of the zone.
    pub sub_zone: Arc<str>,
}

/// One endpoint of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Where it listens; a name only where the cluster resolves names.
    pub address: Address,
    /// More addresses, tried where the first does not answer.
    pub also: Box<[SocketAddr]>,
    /// What it is called; empty when nobody said.
    pub hostname: Arc<str>,
    /// Its share among the endpoints of its group, at least 1.
    pub weight: u32,
    /// What the control plane says of its health.
    pub health: Health,
    /// What subsets go by.
    pub labels: Arc<Labels>,
    /// What its socket goes by, where there is anything.
    pub sockets: Option<Arc<SocketLabels>>,
    /// What is special about its health checks.
    pub check: Option<Arc<CheckTarget>>,
}

/// How the health checks of one endpoint differ from its traffic (`HealthCheckConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckTarget {
    /// It is not checked, and counts as healthy.
    pub is_disabled: bool,
    /// Where to check it.
    pub address: Option<Address>,
    /// At which port to check it.
    pub port: Option<u16>,
    /// The host to ask for.
    pub hostname: Arc<str>,
}

/// Health as told by the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Gets requests. What nothing is known of counts as healthy.
    Healthy,
    /// Gets requests when the healthy ones do not suffice.
    Degraded,
    /// Gets no requests but in panic.
    Unhealthy,
    /// Leaves; gets no requests but in panic.
    Draining,
}

impl Health {
    /// The word for it in `/clusters` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        }
    }
}

/// One endpoint as requests see it. Its live state survives a change of its cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// What the resource said.
    pub config: EndpointConfig,
    /// The address as `%UPSTREAM_HOST%` and logs show it.
    pub label: Arc<str>,
    /// Where it lies.
    pub locality: Locality,
    /// The priority of its group.
    pub priority: u32,
    /// Counts, shared by all workers.
    pub live: Arc<EndpointLive>,
    /// The cluster that it belongs to.
    pub(crate) home: Arc<Home>,
    /// How to connect; its identity is the identity of a pool.
    pub(crate) connector: Arc<Connector>,
    /// Held by endpoints only: where none is left, the pool is retired.
    pub(crate) alive: Arc<()>,
}

/// What an endpoint knows of its cluster.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) live: Arc<ClusterLive>,
}

impl Endpoint {
    /// What is known of its health: from the control plane, from checks, from its answers.
    pub fn health(&self) -> Health {
        match self.config.health {
            Health::Unhealthy | Health::Draining => self.config.health,
            Health::Healthy | Health::Degraded
                if self.live.has(Mark::Unchecked) || self.live.has(Mark::Ejected) =>
            {
                Health::Unhealthy
            }
            Health::Healthy if self.live.has(Mark::Degraded) => Health::Degraded,
            told @ (Health::Healthy | Health::Degraded) => told,
        }
    }

    /// Whether it is checked.
    pub(crate) fn is_checked(&self) -> bool {
        let is_disabled = self.config.check.as_ref().is_some_and(|check| check.is_disabled);
        self.home.config.check.is_some() && !is_disabled
    }
}
