//! Looks up the addresses of a name: in `/etc/hosts`, then by asking DNS servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};

use crate::cluster::dns::files::{SystemSettings, in_hosts};
use crate::cluster::dns::{Family, choose};

/// Who is asked for the addresses of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolver {
    /// DNS servers.
    Dns(Servers),
    /// `getaddrinfo` of the system's C library.
    System,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::Dns(Servers::default())
    }
}

/// DNS servers, and how they are asked. By default those of `/etc/resolv.conf`, as it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Servers {
    /// Those to ask; the system's where there are none.
    pub addresses: Box<[SocketAddr]>,
    /// Whether they are asked only where the system has none.
    pub are_fallback: bool,
    /// Whether names stand only for themselves, not for those within the system's search domains.
    pub no_search: bool,
    /// Whether all is asked by TCP.
    pub only_tcp: bool,
    /// Whether they are asked in turn, whatever the system says.
    pub rotate: bool,
    /// The wait for one answer, where it is not the system's.
    pub timeout: Option<Duration>,
    /// How often is asked, where it is not as the system says.
    pub tries: Option<u32>,
    /// The longest answer by UDP.
    pub payload_max: Option<u16>,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    /// Its addresses; without any, it surely has none.
    pub(super) addresses: Vec<IpAddr>,
    /// How long they are good, where that is known and not zero.
    pub(super) ttl: Option<Duration>,
}

/// The longest wait for the answers about one name.
const LOOKUP_MAX: Duration = Duration::from_secs(30);
/// How long an answer of `getaddrinfo` is good in Envoy, since it does not say.
const SYSTEM_TTL: Duration = Duration::from_secs(60);
/// How `getaddrinfo` of glibc and of musl says that a name has no address.
const NO_SUCH_NAME: [&str; 4] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
];

impl Resolver {
    /// An answer without addresses is one too; an error means that nobody knew.
    pub(super) async fn resolve(&self, name: &str, family: Family) -> io::Result<Answer> {
        let answer = async {
            match self {
                Self::Dns(servers) => servers.resolve(name, family).await,
                Self::System => ask_system(name, family).await,
            }
        };
        tokio::time::timeout(LOOKUP_MAX, answer).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

async fn ask_system(name: &str, family: Family) -> io::Result<Answer> {
    // The port is nobody's.
    let found = match tokio::net::lookup_host((name, 0)).await {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) if NO_SUCH_NAME.iter().any(|text| error.to_string().contains(text)) => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    Ok(Answer { addresses: choose(family, found), ttl: Some(SYSTEM_TTL) })
}

impl Servers {
    /// The system's files are read each time, so that they count as they are.
    async fn resolve(&self, name: &str, family: Family) -> io::Result<Answer> {
        let listed = in_hosts(&text_of("/etc/hosts").await, name);
        if !listed.is_empty() {
            return Ok(Answer { addresses: choose(family, listed), ttl: None });
        }
        let settings = SystemSettings::parse(&text_of("/etc/resolv.conf").await);
        let clients = self.clients(&settings)?;
        for name in settings.candidates(name, !self.no_search) {
            let answer = self.ask_all(&clients, &settings, (&name, family)).await?;
            if !answer.addresses.is_empty() {
                return Ok(answer);
            }
        }
        Ok(Answer::default())
    }

    /// Asks one server after the other, and all again as often as is said, until one knows.
    async fn ask_all(
        &self,
        clients: &[TokioResolver],
        settings: &SystemSettings,
        (name, family): (&str, Family),
    ) -> io::Result<Answer> {
        let rotates = self.rotate || settings.rotates;
        let first = if rotates { fastrand::usize(..clients.len().max(1)) } else { 0 };
        let tries = self.tries.map_or(settings.tries, |tries| tries as usize);
        let all = clients.iter().cycle().skip(first).take(clients.len().saturating_mul(tries));
        let mut outcome = Err(io::ErrorKind::NotConnected.into());
        for client in all {
            outcome = ask_family(client, name, family).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// One for each server: who asks several at once, or gives one all the time, is no resolver of
    /// resolv.conf(5).
    fn clients(&self, settings: &SystemSettings) -> io::Result<Vec<TokioResolver>> {
        let mut options = ResolverOpts::default();
        options.timeout = self.timeout.unwrap_or(settings.timeout);
        options.attempts = 0;
        if let Some(payload_max) = self.payload_max {
            options.edns_payload_len = payload_max;
        }
        let client = |address: &SocketAddr| {
            let config = ResolverConfig::from_name_servers(vec![self.server(*address)]);
            let client = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
            client.with_options(options.clone()).build().map_err(io::Error::other)
        };
        self.servers(&settings.servers).iter().map(client).collect()
    }

    /// Those to ask, of which the system knows these.
    fn servers(&self, of_system: &[IpAddr]) -> Vec<SocketAddr> {
        let mut of_system: Vec<_> =
            of_system.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT)).collect();
        let are_wanted = !self.are_fallback || of_system.is_empty();
        if are_wanted && !self.addresses.is_empty() {
            return self.addresses.to_vec();
        }
        if of_system.is_empty() {
            // As resolv.conf(5) says.
            of_system.push((Ipv4Addr::LOCALHOST, DNS_PORT).into());
        }
        of_system
    }

    fn server(&self, address: SocketAddr) -> NameServerConfig {
        let mut ways = vec![ConnectionConfig::tcp()];
        if !self.only_tcp {
            ways.insert(0, ConnectionConfig::udp());
        }
        ways.iter_mut().for_each(|way| way.port = address.port());
        NameServerConfig::new(address.ip(), true, ways)
    }
}

/// Where DNS is served.
pub(crate) const DNS_PORT: u16 = 53;

/// A file that cannot be read says nothing.
async fn text_of(path: &str) -> String {
    let bytes = tokio::fs::read(path).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks for the kinds of addresses that the family allows, the second only where the first are none.
async fn ask_family(client: &TokioResolver, name: &str, family: Family) -> io::Result<Answer> {
    let (v4, v6) = (|| ask(client, name, RecordType::A), || ask(client, name, RecordType::AAAA));
    match family {
        Family::V4Only => v4().await,
        Family::V6Only => v6().await,
        Family::V4Preferred => either(v4().await, v6).await,
        Family::Auto => either(v6().await, v4).await,
        Family::All => {
            let (v4, v6) = tokio::join!(v4(), v6());
            both(v4, v6)
        }
    }
}

async fn either(
    first: io::Result<Answer>,
    second: impl AsyncFnOnce() -> io::Result<Answer>,
) -> io::Result<Answer> {
    match first {
        Ok(answer) if !answer.addresses.is_empty() => Ok(answer),
        first => both(first, second().await),
    }
}

/// Two answers in one. Where one of them is missing, the other counts only with addresses.
fn both(first: io::Result<Answer>, second: io::Result<Answer>) -> io::Result<Answer> {
    match (first, second) {
        (Ok(mut first), Ok(second)) => {
            first.addresses.extend(second.addresses);
            first.ttl = [first.ttl, second.ttl].into_iter().flatten().min();
            Ok(first)
        }
        (Ok(answer), Err(_)) | (Err(_), Ok(answer)) if !answer.addresses.is_empty() => Ok(answer),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

async fn ask(client: &TokioResolver, name: &str, kind: RecordType) -> io::Result<Answer> {
    let name = Name::from_ascii(name).map_err(io::Error::other)?;
    match client.lookup(name, kind).await {
        Ok(found) => {
            let records = found.answers();
            let ttl = records.iter().map(|record| record.ttl).min().filter(|ttl| *ttl > 0);
            Ok(Answer {
                addresses: records.iter().filter_map(|record| record.data.ip_addr()).collect(),
                ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())),
            })
        }
        Err(NetError::Dns(error)) if is_of_nothing(&error) => Ok(Answer::default()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Whether the servers say that there is no such name, or no such address of it.
fn is_of_nothing(error: &DnsError) -> bool {
    match error {
        DnsError::NoRecordsFound(none) => {
            matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
        }
        DnsError::ResponseCode(code) => *code == ResponseCode::NXDomain,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(addresses: &[&str], ttl: u64) -> Answer {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Answer { addresses, ttl: (ttl > 0).then_some(Duration::from_secs(ttl)) }
    }

    fn failure() -> io::Result<Answer> {
        Err(io::ErrorKind::TimedOut.into())
    }

    #[test]
    fn two_answers_last_as_long_as_the_shorter_and_half_of_none_is_no_answer() {
        let (v4, v6) = (answer(&["1.1.1.1"], 9), answer(&["::1"], 5));
        let joined = both(Ok(v4.clone()), Ok(v6.clone())).unwrap();
        assert_eq!(joined, answer(&["1.1.1.1", "::1"], 5));
        assert_eq!(both(Ok(Answer::default()), Ok(v4.clone())).unwrap(), v4);
        assert_eq!(both(failure(), Ok(v6.clone())).unwrap(), v6);
        assert_eq!(both(Ok(v6.clone()), failure()).unwrap(), v6);
        assert!(both(Ok(Answer::default()), failure()).is_err());
        assert!(both(failure(), failure()).is_err());
    }

    #[tokio::test]
    async fn the_second_kind_is_asked_for_only_where_the_first_is_missing() {
        let first = either(Ok(answer(&["::1"], 5)), async || unreachable!()).await;
        assert_eq!(first.unwrap(), answer(&["::1"], 5));
        let second = either(Ok(Answer::default()), async || Ok(answer(&["1.1.1.1"], 0))).await;
        assert_eq!(second.unwrap(), answer(&["1.1.1.1"], 0));
    }

    #[test]
    fn given_servers_stand_before_or_behind_those_of_the_system() {
        let given: Box<[SocketAddr]> = Box::new(["9.9.9.9:5353".parse().unwrap()]);
        let asked = |addresses: &[SocketAddr], are_fallback, of_system: &[IpAddr]| {
            let servers =
                Servers { addresses: addresses.into(), are_fallback, ..Servers::default() };
            servers.servers(of_system).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let system = ["10.0.0.1".parse().unwrap()];
        assert_eq!(asked(&given, false, &system), ["9.9.9.9:5353"]);
        assert_eq!(asked(&given, true, &system), ["10.0.0.1:53"]);
        assert_eq!(asked(&given, true, &[]), ["9.9.9.9:5353"]);
        assert_eq!(asked(&[], false, &system), ["10.0.0.1:53"]);
        assert_eq!(asked(&[], false, &[]), ["127.0.0.1:53"]);
    }
}
