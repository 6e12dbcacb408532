//! What is known of names, and the endpoints that follow from it.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use xds_proto::convert::Address;

use crate::cluster::dns::DnsConfig;
use crate::cluster::endpoints::{EndpointConfig, EndpointsConfig, LocalityConfig};

/// The last good answers, by name.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<String, Vec<IpAddr>>);

impl Answers {
    /// Takes an answer in. Where all addresses are one endpoint's, its first stays first while the
    /// answer has it.
    pub(super) fn take(&mut self, name: &str, mut found: Vec<IpAddr>, is_logical: bool) {
        // Answers come in any order, which is no change.
        let first = found.first().copied();
        found.sort_unstable();
        found.dedup();
        if is_logical {
            let last = self.0.get(name).and_then(|last| last.first());
            let kept = last.copied().filter(|last| found.contains(last)).or(first);
            found.sort_by_key(|address| Some(*address) != kept);
        }
        self.0.insert(name.to_owned(), found);
    }

    /// Forgets all other names.
    pub(super) fn keep(&mut self, names: &[&str]) {
        self.0.retain(|name, _| names.contains(&&**name));
    }

    /// The endpoints with addresses in place of names; the first of several with one address counts.
    pub(super) fn endpoints(&self, dns: &DnsConfig) -> EndpointsConfig {
        let mut seen = HashSet::new();
        let localities = dns.names.localities.iter().map(|group| {
            let resolved = |endpoint| self.resolved(endpoint, dns.is_logical);
            let endpoints = group.endpoints.iter().flat_map(resolved);
            let endpoints = endpoints.filter(|endpoint| seen.insert(endpoint.address.clone()));
            LocalityConfig { endpoints: endpoints.collect(), ..group.clone() }
        });
        EndpointsConfig { localities: localities.collect(), ..(*dns.names).clone() }
    }

    /// An endpoint for each address; or one that has them all.
    fn resolved(&self, endpoint: &EndpointConfig, is_logical: bool) -> Vec<EndpointConfig> {
        let Address::Name(name, port) = &endpoint.address else { return vec![endpoint.clone()] };
        let found = self.0.get(name).map_or(&[][..], |found| found);
        let found: Vec<_> = found.iter().map(|ip| SocketAddr::new(*ip, *port)).collect();
        let also = if is_logical { found.get(1..).unwrap_or_default() } else { &[] };
        let found = if is_logical { found.get(..1).unwrap_or_default() } else { &found };
        let at = |address: &SocketAddr| EndpointConfig {
            address: Address::Ip(*address),
            also: also.into(),
            ..endpoint.clone()
        };
        found.iter().map(at).collect()
    }
}

/// The names to look up, each once.
pub(super) fn names(endpoints: &EndpointsConfig) -> Vec<&str> {
    let endpoints = endpoints.localities.iter().flat_map(|group| &group.endpoints);
    let names = endpoints.filter_map(|endpoint| match &endpoint.address {
        Address::Name(name, _) => Some(&**name),
        Address::Ip(_) | Address::Pipe(_) => None,
    });
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}
