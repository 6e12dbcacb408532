//! Endpoints from DNS: names looked up again and again, the last good answer kept.

mod answers;
mod files;
pub mod resolver;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::dns::answers::{Answers, names};
use crate::cluster::dns::resolver::{Answer, Resolver};
use crate::cluster::endpoints::EndpointsConfig;
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
    /// When they are looked up again.
    pub pace: Pace,
    /// Who is asked; unset for whom the proxy asks where nothing is said.
    pub resolver: Option<Resolver>,
}

/// The time between lookups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// After an answer. Envoy's default is 5 s.
    pub refresh: Duration,
    /// Whether an answer that says how long it is good decides instead.
    pub by_ttl: bool,
    /// The least that it may decide.
    pub ttl_min: Duration,
    /// After a lookup that failed, growing up to the second.
    pub failure_refresh: (Duration, Duration),
    /// Up to so much is added after an answer.
    pub jitter: Duration,
}

impl Pace {
    /// After an answer that is good for so long.
    fn after_answer(&self, ttl: Option<Duration>) -> Duration {
        let refresh = match ttl {
            Some(ttl) if self.by_ttl => ttl.max(self.ttl_min),
            _ => self.refresh,
        };
        refresh + self.jitter.mul_f64(fastrand::f64())
    }

    /// After so many failures in a row; at least one.
    fn after_failure(&self, failures: u32) -> Duration {
        let (base, max) = self.failure_refresh;
        base.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(max)
    }
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

/// What was found for a cluster, which outlives a change of it.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Answers>>);

/// Looks the names of a cluster up until `shutdown`, and sends endpoints under the cluster's name
/// whenever they changed. A name that cannot be looked up keeps its last answer. The resolver is
/// asked unless the cluster names another.
///
/// The first are sent as soon as there are some, or all names were looked up once.
pub async fn watch(
    (config, resolver): (Arc<ClusterConfig>, Arc<Resolver>),
    memory: Memory,
    sink: mpsc::Sender<(Arc<str>, EndpointsConfig)>,
    shutdown: CancellationToken,
) {
    let Discovery::Dns(dns) = &config.discovery else { return };
    let resolver = dns.resolver.as_ref().unwrap_or(&resolver);
    let watching = keep_looking(&config.name, dns, (&memory, &sink), resolver);
    shutdown.run_until_cancelled(watching).await;
}

/// Looks one name up.
trait Resolve: Sync {
    fn resolve(
        &self,
        name: &str,
        family: Family,
    ) -> impl Future<Output = io::Result<Answer>> + Send;
}

impl Resolve for Resolver {
    async fn resolve(&self, name: &str, family: Family) -> io::Result<Answer> {
        self.resolve(name, family).await
    }
}

async fn keep_looking(
    cluster: &Arc<str>,
    dns: &DnsConfig,
    (memory, sink): (&Memory, &mpsc::Sender<(Arc<str>, EndpointsConfig)>),
    resolver: &impl Resolve,
) {
    let names = names(&dns.names);
    memory.0.lock().unwrap_or_else(PoisonError::into_inner).keep(&names);
    let mut open: BTreeSet<&str> = names.iter().copied().collect();
    let lookups = names.iter().map(|name| Box::pin(lookups(cluster, name, dns, resolver)));
    let mut lookups = stream::select_all(lookups);
    let mut sent = None;
    loop {
        let endpoints = memory.0.lock().unwrap_or_else(PoisonError::into_inner).endpoints(dns);
        let has_some = endpoints.localities.iter().any(|group| !group.endpoints.is_empty());
        let is_due = open.is_empty() || (has_some && open.len() < names.len());
        if is_due && sent.as_ref() != Some(&endpoints) {
            if sink.send((Arc::clone(cluster), endpoints.clone())).await.is_err() {
                return;
            }
            sent = Some(endpoints);
        }
        let Some((name, found)) = lookups.next().await else { return };
        open.remove(name);
        if let Some(found) = found {
            let mut answers = memory.0.lock().unwrap_or_else(PoisonError::into_inner);
            answers.take(name, found, dns.is_logical);
        }
    }
}

/// What a name leads to, each time that it is looked up; nothing where that failed.
fn lookups<'a>(
    cluster: &'a Arc<str>,
    name: &'a str,
    dns: &'a DnsConfig,
    resolver: &'a impl Resolve,
) -> impl Stream<Item = (&'a str, Option<Vec<IpAddr>>)> + Send {
    stream::unfold((Duration::ZERO, 0), move |(pause, failures)| async move {
        tokio::time::sleep(pause).await;
        let found = resolver.resolve(name, dns.family).await.and_then(|answer| {
            // A logical endpoint has an address, a group of endpoints may be empty.
            let is_answer = !(dns.is_logical && answer.addresses.is_empty());
            is_answer.then_some(answer).ok_or_else(|| io::ErrorKind::NotFound.into())
        });
        Some(match found {
            Ok(answer) => {
                if failures > 0 {
                    tracing::info!(cluster = &**cluster, name, failures, "lookup succeeds again");
                }
                let pause = dns.pace.after_answer(answer.ttl);
                ((name, Some(answer.addresses)), (pause, 0))
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                let failures = failures + 1_u32;
                // Once, not each time that it fails again.
                if failures == 1 {
                    tracing::warn!(cluster = &**cluster, name, error, "lookup failed");
                } else {
                    tracing::debug!(cluster = &**cluster, name, error, failures, "lookup failed");
                }
                ((name, None), (dns.pace.after_failure(failures), failures))
            }
        })
    })
}

/// The addresses that the family allows.
fn choose(family: Family, found: Vec<IpAddr>) -> Vec<IpAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = found.iter().copied().partition(IpAddr::is_ipv4);
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

    use xds_proto::convert::Address;

    use super::*;
    use crate::cluster::endpoints::{EndpointConfig, Health, Locality, LocalityConfig};

    fn dns(is_logical: bool) -> DnsConfig {
        let endpoint = |name: &str, port| EndpointConfig {
            address: Address::Name(name.into(), port),
            also: Box::default(),
            hostname: name.into(),
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
            endpoints: Box::new([endpoint("a.test", 80)]),
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
            pace: Pace {
                refresh: Duration::from_secs(5),
                by_ttl: true,
                ttl_min: Duration::from_secs(2),
                failure_refresh: (Duration::from_secs(1), Duration::from_secs(3)),
                jitter: Duration::ZERO,
            },
            resolver: None,
        }
    }

    /// Addresses and the seconds for which they are good; or a failure.
    type Reply = Option<(&'static [&'static str], u64)>;

    /// Answers from a script, then fails. Keeps the time of each question.
    struct Script(Mutex<Vec<Reply>>, Mutex<Vec<u64>>, tokio::time::Instant);

    impl Resolve for Script {
        async fn resolve(&self, _: &str, _: Family) -> io::Result<Answer> {
            self.1.lock().unwrap().push(self.2.elapsed().as_secs());
            let mut script = self.0.lock().unwrap();
            if script.is_empty() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let (addresses, ttl) = script.remove(0).ok_or(io::ErrorKind::TimedOut)?;
            let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            Ok(Answer { addresses, ttl: (ttl > 0).then_some(Duration::from_secs(ttl)) })
        }
    }

    /// The addresses that were sent, and when it was asked.
    async fn played(
        dns: &DnsConfig,
        memory: &Memory,
        script: &[Reply],
    ) -> (Vec<Vec<String>>, Vec<u64>) {
        let (sink, mut source) = mpsc::channel(8);
        let script = Mutex::new(script.to_vec());
        let resolver = Script(script, Mutex::default(), tokio::time::Instant::now());
        let name = "c".into();
        let looking = keep_looking(&name, dns, (memory, &sink), &resolver);
        tokio::time::timeout(Duration::from_secs(20), looking).await.unwrap_err();
        let mut sent = Vec::new();
        while let Ok((_, endpoints)) = source.try_recv() {
            let addresses = endpoints.localities[0].endpoints.iter().map(|one| &one.address);
            sent.push(
                addresses.map(|address| crate::cluster::label(address).to_string()).collect(),
            );
        }
        (sent, resolver.1.into_inner().unwrap())
    }

    async fn sent(dns: &DnsConfig, script: &[Reply]) -> Vec<Vec<String>> {
        played(dns, &Memory::default(), script).await.0
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_another_order_is_no_change_and_a_failure_keeps_the_last() {
        let script = [
            Some((&["10.0.0.2", "10.0.0.1"][..], 0)),
            Some((&["10.0.0.1", "10.0.0.2"], 0)),
            None,
            Some((&["10.0.0.3"], 0)),
        ];
        let sent = sent(&dns(false), &script).await;
        assert_eq!(sent, [vec!["10.0.0.1:80", "10.0.0.2:80"], vec!["10.0.0.3:80"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_addresses_has_no_endpoint_but_a_logical_one_keeps_its_own() {
        let script = [Some((&["10.0.0.1"][..], 0)), Some((&[], 0))];
        assert_eq!(sent(&dns(false), &script).await, [vec!["10.0.0.1:80"], vec![]]);
        assert_eq!(sent(&dns(true), &script).await, [["10.0.0.1:80"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_logical_endpoint_keeps_its_address_while_the_answer_has_it() {
        let script = [
            Some((&["10.0.0.2", "10.0.0.1"][..], 0)),
            Some((&["10.0.0.1", "10.0.0.2"], 0)),
            Some((&["10.0.0.1"], 0)),
        ];
        assert_eq!(sent(&dns(true), &script).await, [["10.0.0.2:80"], ["10.0.0.1:80"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_failure_is_told_so_that_nobody_waits_for_ever() {
        assert_eq!(sent(&dns(false), &[]).await, [Vec::<String>::new()]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_before_a_change_stays_while_nothing_else_is_found() {
        let memory = Memory::default();
        let script = [Some((&["10.0.0.1"][..], 0))];
        assert_eq!(played(&dns(false), &memory, &script).await.0, [["10.0.0.1:80"]]);
        let (after, asked) = played(&dns(true), &memory, &[None]).await;
        assert_eq!(after, [["10.0.0.1:80"]]);
        assert_eq!(asked[0], 0);
        let mut nothing = dns(false);
        nothing.names = Arc::new(EndpointsConfig::none(&"c".into()));
        let (sink, _source) = mpsc::channel(8);
        let resolver = Script(Mutex::default(), Mutex::default(), tokio::time::Instant::now());
        keep_looking(&"c".into(), &nothing, (&memory, &sink), &resolver).await;
        let (after, _) = played(&dns(false), &memory, &[]).await;
        assert_eq!(after, [Vec::<String>::new()], "a name that is gone is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_say_when_is_asked_again_and_failures_are_retried_ever_more_slowly() {
        let good_for = |ttl| Some((&["10.0.0.1"][..], ttl));
        let script = [good_for(4), good_for(1), good_for(0), None, None, good_for(7)];
        let mut dns = dns(false);
        let (_, asked) = played(&dns, &Memory::default(), &script).await;
        assert_eq!(asked[..6], [0, 4, 6, 11, 12, 14]);
        dns.pace.by_ttl = false;
        let (_, asked) = played(&dns, &Memory::default(), &script).await;
        assert_eq!(asked[..4], [0, 5, 10, 15]);
        let pauses: Vec<_> =
            (1..5).map(|failures| dns.pace.after_failure(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 3, 3]);
    }

    #[test]
    fn jitter_makes_the_wait_longer_by_less_than_itself() {
        let mut pace = dns(false).pace;
        pace.jitter = Duration::from_secs(2);
        let waits: Vec<_> = (0..100).map(|_| pace.after_answer(None)).collect();
        let (least, most) = (Duration::from_secs(5), Duration::from_secs(7));
        assert!(waits.iter().all(|wait| (least..most).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn the_family_decides_which_addresses_are_taken() {
        let both: Vec<IpAddr> = ["10.0.0.1", "::1"].map(|a| a.parse().unwrap()).into();
        assert_eq!(choose(Family::Auto, both.clone()), [both[1]]);
        assert_eq!(choose(Family::V4Preferred, both.clone()), [both[0]]);
        assert_eq!(choose(Family::V4Preferred, vec![both[1]]), [both[1]]);
        assert_eq!(choose(Family::V4Only, both.clone()), [both[0]]);
        assert_eq!(choose(Family::V6Only, vec![both[0]]), Vec::<IpAddr>::new());
        assert_eq!(choose(Family::All, both.clone()), both);
    }
}
