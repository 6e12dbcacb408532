//! Endpoints from DNS: names looked up again and again, the last good answer kept.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use xds_proto::convert::Address;

use crate::cluster::endpoints::{EndpointConfig, EndpointsConfig, LocalityConfig};
use crate::cluster::{ClusterConfig, Discovery};

/// How names are looked up.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The endpoints, with names for addresses.
    pub names: Arc<EndpointsConfig>,
    /// Which addresses are taken.
    pub family: Family,
    /// All addresses are one endpoint's, and its first is kept while the answer has it.
    pub is_logical: bool,
    /// Time between lookups. Envoy's default is 5 s.
    pub refresh: Duration,
    /// Time to the next lookup after one that failed, growing up to the second.
    pub failure_refresh: (Duration, Duration),
    /// Up to so much is added to the time between lookups.
    pub jitter: Duration,
}

/// Which addresses of an answer are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv6, or IPv4 where there is none.
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, or IPv6 where there is none.
    V4Preferred,
    /// All.
    All,
}

/// The longest wait for one answer.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// Looks the names of `config` up until `shutdown`, and sends endpoints under the cluster's name
/// whenever they changed. A name that cannot be looked up keeps its last answer, so endpoints
/// without a single address mean that nothing was ever found: they end the wait for the first
/// answer, and need not replace what an earlier watch found.
pub async fn watch(
    config: Arc<ClusterConfig>,
    sink: mpsc::Sender<(Arc<str>, EndpointsConfig)>,
    shutdown: CancellationToken,
) {
    let Discovery::Dns(dns) = &config.discovery else { return };
    let watching = keep_looking(&config.name, dns, &sink, &System);
    shutdown.run_until_cancelled(watching).await;
}

/// Looks one name up.
trait Resolve: Sync {
    fn resolve(
        &self,
        name: &str,
        port: u16,
    ) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// The resolver of the system.
struct System;

impl Resolve for System {
    async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let lookup = tokio::net::lookup_host((name, port));
        let found = tokio::time::timeout(LOOKUP_MAX, lookup).await;
        Ok(found.map_err(|_| io::ErrorKind::TimedOut)??.collect())
    }
}

async fn keep_looking(
    cluster: &Arc<str>,
    dns: &DnsConfig,
    sink: &mpsc::Sender<(Arc<str>, EndpointsConfig)>,
    resolver: &impl Resolve,
) {
    let mut answers = Answers::default();
    let mut sent = None;
    let mut failures = 0;
    loop {
        let is_complete = answers.refresh(cluster, dns, resolver).await;
        failures = if is_complete { 0 } else { failures + 1 };
        let endpoints = answers.endpoints(dns);
        if sent.as_ref() != Some(&endpoints) {
            if sink.send((Arc::clone(cluster), endpoints.clone())).await.is_err() {
                return;
            }
            sent = Some(endpoints);
        }
        tokio::time::sleep(pause(dns, failures)).await;
    }
}

/// The time to the next lookup, after so many failures in a row.
fn pause(dns: &DnsConfig, failures: u32) -> Duration {
    let (base, max) = dns.failure_refresh;
    let pause = match failures.checked_sub(1) {
        None => dns.refresh,
        Some(before) => base.saturating_mul(2_u32.saturating_pow(before)).min(max),
    };
    pause + dns.jitter.mul_f64(fastrand::f64())
}

/// The last good answers, by name and port.
#[derive(Debug, Default)]
struct Answers(BTreeMap<(String, u16), Vec<SocketAddr>>);

impl Answers {
    /// Looks every name up; whether all could be.
    async fn refresh(
        &mut self,
        cluster: &Arc<str>,
        dns: &DnsConfig,
        resolver: &impl Resolve,
    ) -> bool {
        let mut names: Vec<_> = dns.names.localities.iter().flat_map(names).collect();
        names.sort_unstable();
        names.dedup();
        let lookups = names.iter().map(|(name, port)| resolver.resolve(name, *port));
        let found = futures_util::future::join_all(lookups).await;
        let mut is_complete = true;
        for (name, found) in names.into_iter().zip(found) {
            match found.map(|found| choose(dns.family, found)) {
                Ok(found) if !found.is_empty() => self.take(name, found, dns.is_logical),
                Ok(_) => is_complete = false,
                Err(error) => {
                    is_complete = false;
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(cluster = &**cluster, name = name.0, error, "lookup failed");
                }
            }
        }
        is_complete
    }

    fn take(&mut self, name: (String, u16), mut found: Vec<SocketAddr>, is_logical: bool) {
        // Answers come in any order, which is no change.
        let first = found.first().copied();
        found.sort_unstable();
        found.dedup();
        if is_logical {
            let last = self.0.get(&name).and_then(|last| last.first());
            let kept = last.copied().filter(|last| found.contains(last)).or(first);
            found.sort_by_key(|address| Some(*address) != kept);
        }
        self.0.insert(name, found);
    }

    /// The endpoints with addresses in place of names; the first of several with one address counts.
    fn endpoints(&self, dns: &DnsConfig) -> EndpointsConfig {
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
        let found = self.0.get(&(name.clone(), *port)).map_or(&[][..], |found| found);
        let also = if is_logical { found.get(1..).unwrap_or_default() } else { &[] };
        let found = if is_logical { found.get(..1).unwrap_or_default() } else { found };
        let at = |address: &SocketAddr| EndpointConfig {
            address: Address::Ip(*address),
            also: also.into(),
            ..endpoint.clone()
        };
        found.iter().map(at).collect()
    }
}

fn names(group: &LocalityConfig) -> Vec<(String, u16)> {
    let names = group.endpoints.iter().filter_map(|endpoint| match &endpoint.address {
        Address::Name(name, port) => Some((name.clone(), *port)),
        Address::Ip(_) | Address::Pipe(_) => None,
    });
    names.collect()
}

/// The addresses that the family allows.
fn choose(family: Family, found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = found.iter().copied().partition(SocketAddr::is_ipv4);
    match family {
        Family::All => found,
        Family::V4Only => v4,
        Family::V6Only => v6,
        Family::V4Preferred if v4.is_empty() => v6,
        Family::V4Preferred => v4,
        Family::Auto if v6.is_empty() => v4,
        Family::Auto => v6,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::cluster::endpoints::{Health, Locality};

    fn dns(is_logical: bool) -> DnsConfig {
        let endpoint = EndpointConfig {
            address: Address::Name("a.test".into(), 80),
            also: Box::default(),
            hostname: "a.test".into(),
            weight: 3,
            health: Health::Healthy,
            labels: Arc::default(),
            sockets: None,
            check: None,
        };
        let group = LocalityConfig {
            locality: Locality::default(),
            priority: 0,
            weight: None,
            endpoints: Box::new([endpoint]),
        };
        let names = EndpointsConfig {
            name: "c".into(),
            localities: Box::new([group]),
            overprovisioning_percent: 140,
        };
        DnsConfig {
            names: Arc::new(names),
            family: Family::V4Preferred,
            is_logical,
            refresh: Duration::from_secs(5),
            failure_refresh: (Duration::from_secs(1), Duration::from_secs(3)),
            jitter: Duration::ZERO,
        }
    }

    /// Answers from a script, then fails.
    struct Script(Mutex<Vec<&'static [&'static str]>>);

    impl Resolve for Script {
        async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            let mut script = self.0.lock().unwrap();
            if script.is_empty() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let answer = script.remove(0);
            Ok(answer.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect())
        }
    }

    async fn played(dns: DnsConfig, script: &[&'static [&'static str]]) -> Vec<Vec<String>> {
        let (sink, mut source) = mpsc::channel(8);
        let resolver = Script(Mutex::new(script.to_vec()));
        let name = "c".into();
        let looking = keep_looking(&name, &dns, &sink, &resolver);
        tokio::time::timeout(Duration::from_secs(60), looking).await.unwrap_err();
        let mut sent = Vec::new();
        while let Ok((_, endpoints)) = source.try_recv() {
            let addresses = endpoints.localities[0].endpoints.iter().map(|one| &one.address);
            sent.push(
                addresses.map(|address| crate::cluster::label(address).to_string()).collect(),
            );
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_another_order_is_no_change_and_a_failure_keeps_the_last() {
        let script: [&[&str]; 3] =
            [&["10.0.0.2", "10.0.0.1", "::1"], &["10.0.0.1", "10.0.0.2"], &["10.0.0.3"]];
        let sent = played(dns(false), &script).await;
        assert_eq!(sent, [vec!["10.0.0.1:80", "10.0.0.2:80"], vec!["10.0.0.3:80"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_logical_endpoint_keeps_its_address_while_the_answer_has_it() {
        let script: [&[&str]; 3] =
            [&["10.0.0.2", "10.0.0.1"], &["10.0.0.1", "10.0.0.2"], &["10.0.0.1"]];
        let sent = played(dns(true), &script).await;
        assert_eq!(sent, [["10.0.0.2:80"], ["10.0.0.1:80"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_failure_is_told_so_that_nobody_waits_for_ever() {
        assert_eq!(played(dns(false), &[]).await, [Vec::<String>::new()]);
    }

    #[test]
    fn failures_are_retried_ever_more_slowly() {
        let pauses: Vec<_> =
            (0..5).map(|failures| pause(&dns(false), failures).as_secs()).collect();
        assert_eq!(pauses, [5, 1, 2, 3, 3]);
    }

    #[test]
    fn the_family_decides_which_addresses_are_taken() {
        let both: Vec<SocketAddr> = ["10.0.0.1:1", "[::1]:1"].map(|a| a.parse().unwrap()).into();
        assert_eq!(choose(Family::Auto, both.clone()), [both[1]]);
        assert_eq!(choose(Family::V4Preferred, both.clone()), [both[0]]);
        assert_eq!(choose(Family::V4Preferred, vec![both[1]]), [both[1]]);
        assert_eq!(choose(Family::V6Only, vec![both[0]]), []);
        assert_eq!(choose(Family::All, both.clone()), both);
    }
}
