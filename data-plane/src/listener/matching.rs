//! Which filter chain a connection belongs to: Envoy's rules, most specific first, no way back.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::matcher::cidr::Cidr;

/// What is known of a connection before its filter chain is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The client's address; where a proxy in front says who it is, that one.
    pub remote: SocketAddr,
    /// The address at the other end of the socket.
    pub peer: SocketAddr,
    /// Whether the client speaks TLS.
    pub is_tls: bool,
    /// The host that the client asked for in its TLS hello, in lower case.
    pub server_name: Option<Box<str>>,
    /// The protocols that the client offered in its TLS hello, in its order.
    pub application_protocols: Box<[Box<[u8]>]>,
}

/// Which connections a filter chain is for. What is empty is for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// The port connected to.
    pub destination_port: Option<u16>,
    /// The address connected to.
    pub destination: Vec<Cidr>,
    /// Hosts in lower case; `*.` stands for one label or more.
    pub server_names: Vec<Box<str>>,
    /// TLS, or not.
    pub is_tls: Option<bool>,
    /// A protocol that the client offers.
    pub application_protocols: Vec<Box<[u8]>>,
    /// The peer's address, whatever it says of whom it speaks for.
    pub direct_source: Vec<Cidr>,
    /// Whether the client is on this machine.
    pub is_local_source: Option<bool>,
    /// The client's address.
    pub source: Vec<Cidr>,
    /// The client's port.
    pub source_ports: Vec<u16>,
}

impl ChainMatch {
    /// Whether it looks at what only a TLS hello tells.
    pub fn needs_hello(&self) -> bool {
        !self.server_names.is_empty()
            || self.is_tls.is_some()
            || !self.application_protocols.is_empty()
    }
}

/// The chain for a connection among `matches`, by position.
pub fn select<'a>(
    matches: impl Iterator<Item = &'a ChainMatch>,
    facts: &ConnectionFacts,
) -> Option<usize> {
    let mut left: Vec<(usize, &ChainMatch)> = matches.enumerate().collect();
    if let [(index, only)] = left.as_slice()
        && **only == ChainMatch::default()
    {
        return Some(*index);
    }
    let name = facts.server_name.as_deref();
    keep_best(&mut left, |chain| exact(chain.destination_port, facts.local.port()));
    keep_best(&mut left, |chain| prefix(&chain.destination, facts.local.ip()));
    keep_best(&mut left, |chain| host(&chain.server_names, name));
    keep_best(&mut left, |chain| exact(chain.is_tls, facts.is_tls));
    keep_best(&mut left, |chain| protocol(&chain.application_protocols, facts));
    keep_best(&mut left, |chain| prefix(&chain.direct_source, facts.peer.ip()));
    keep_best(&mut left, |chain| exact(chain.is_local_source, is_local(facts)));
    keep_best(&mut left, |chain| prefix(&chain.source, facts.remote.ip()));
    keep_best(&mut left, |chain| match chain.source_ports.as_slice() {
        [] => Some(0),
        ports => ports.contains(&facts.remote.port()).then_some(1),
    });
    left.first().map(|(index, _)| *index)
}

/// Keeps the chains that match most specifically; `None` is no match.
fn keep_best(
    left: &mut Vec<(usize, &ChainMatch)>,
    specificity: impl Fn(&ChainMatch) -> Option<usize>,
) {
    let Some(best) = left.iter().filter_map(|(_, chain)| specificity(chain)).max() else {
        left.clear();
        return;
    };
    left.retain(|(_, chain)| specificity(chain) == Some(best));
}

fn exact<T: PartialEq>(wanted: Option<T>, is: T) -> Option<usize> {
    match wanted {
        None => Some(0),
        Some(wanted) => (wanted == is).then_some(1),
    }
}

fn prefix(ranges: &[Cidr], address: IpAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    let matching = ranges.iter().filter(|range| range.contains(address));
    matching.map(|range| usize::from(range.bits()) + 1).max()
}

/// An exact name beats a wildcard, a longer wildcard a shorter one, any of them none.
fn host(names: &[Box<str>], name: Option<&str>) -> Option<usize> {
    if names.is_empty() {
        return Some(0);
    }
    let name = name?;
    let specificity = |pattern: &str| match pattern.strip_prefix('*') {
        None => (pattern == name).then_some(usize::MAX),
        Some(suffix) => {
            (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len())
        }
    };
    names.iter().filter_map(|pattern| specificity(pattern)).max()
}

/// What the client offers first counts most.
fn protocol(wanted: &[Box<[u8]>], facts: &ConnectionFacts) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    let offered = &facts.application_protocols;
    let position = offered.iter().position(|offered| wanted.contains(offered))?;
    Some(offered.len() - position)
}

fn is_local(facts: &ConnectionFacts) -> bool {
    facts.remote.ip().to_canonical().is_loopback()
        || facts.remote.ip().to_canonical() == facts.local.ip().to_canonical()
}

/// The first two chains, by position, that some connection matches equally well.
pub fn conflict(matches: &[&ChainMatch]) -> Option<(usize, usize)> {
    let mut seen: std::collections::HashMap<Key<'_>, usize> = std::collections::HashMap::new();
    let mut own: HashSet<Key<'_>> = HashSet::new();
    for (index, chain) in matches.iter().enumerate() {
        own.clear();
        own.extend(keys(chain));
        for key in own.drain() {
            if let Some(other) = seen.insert(key, index) {
                return Some((other, index));
            }
        }
    }
    None
}

/// One combination of criteria; chains that share one cannot be told apart.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    port: Option<u16>,
    destination: Option<Cidr>,
    name: Option<&'a str>,
    is_tls: Option<bool>,
    protocol: Option<&'a [u8]>,
    direct_source: Option<Cidr>,
    is_local_source: Option<bool>,
    source: Option<Cidr>,
    source_port: Option<u16>,
}

/// The values, or `None` where there are none.
fn or_any<T>(values: &[T]) -> impl Iterator<Item = Option<&T>> {
    values.iter().map(Some).chain(values.is_empty().then_some(None))
}

fn keys(chain: &ChainMatch) -> impl Iterator<Item = Key<'_>> {
    or_any(&chain.destination).flat_map(move |destination| {
        or_any(&chain.server_names).flat_map(move |name| {
            or_any(&chain.application_protocols).flat_map(move |protocol| {
                sources(chain).map(move |(direct_source, source, source_port)| Key {
                    port: chain.destination_port,
                    destination: destination.copied(),
                    name: name.map(|name| &**name),
                    is_tls: chain.is_tls,
                    protocol: protocol.map(|protocol| &**protocol),
                    direct_source,
                    is_local_source: chain.is_local_source,
                    source,
                    source_port,
                })
            })
        })
    })
}

fn sources(
    chain: &ChainMatch,
) -> impl Iterator<Item = (Option<Cidr>, Option<Cidr>, Option<u16>)> + '_ {
    or_any(&chain.direct_source).flat_map(move |direct| {
        or_any(&chain.source).flat_map(move |source| {
            or_any(&chain.source_ports)
                .map(move |port| (direct.copied(), source.copied(), port.copied()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(server_name: Option<&str>, protocols: &[&str]) -> ConnectionFacts {
        ConnectionFacts {
            local: "10.0.0.1:443".parse().unwrap(),
            remote: "192.0.2.7:5555".parse().unwrap(),
            peer: "192.0.2.7:5555".parse().unwrap(),
            is_tls: server_name.is_some(),
            server_name: server_name.map(Into::into),
            application_protocols: protocols
                .iter()
                .map(|name| name.as_bytes().to_vec().into_boxed_slice())
                .collect(),
        }
    }

    fn names(names: &[&str]) -> ChainMatch {
        ChainMatch {
            server_names: names.iter().map(|name| (*name).into()).collect(),
            ..ChainMatch::default()
        }
    }

    fn range(text: &str, bits: u8) -> Vec<Cidr> {
        vec![Cidr::new(text.parse().unwrap(), bits).unwrap()]
    }

    #[test]
    fn the_most_specific_server_name_wins() {
        let chains = [names(&["*.test"]), names(&["*.a.test"]), names(&["b.a.test"]), names(&[])];
        let chosen = |name| select(chains.iter(), &facts(name, &[]));
        assert_eq!(chosen(Some("b.a.test")), Some(2));
        assert_eq!(chosen(Some("c.a.test")), Some(1));
        assert_eq!(chosen(Some("d.c.a.test")), Some(1));
        assert_eq!(chosen(Some("a.test")), Some(0));
        assert_eq!(chosen(Some("test")), Some(3));
        assert_eq!(chosen(None), Some(3));
    }

    #[test]
    fn an_earlier_criterion_is_not_taken_back() {
        // The exact name wins, and then its protocol does not match: no chain, although the second
        // would do.
        let first =
            ChainMatch { application_protocols: vec![(*b"h2").into()], ..names(&["a.test"]) };
        let chains = [first, names(&["*.test"])];
        assert_eq!(select(chains.iter(), &facts(Some("a.test"), &["http/1.1"])), None);
        assert_eq!(select(chains.iter(), &facts(Some("a.test"), &["http/1.1", "h2"])), Some(0));
        assert_eq!(select(chains.iter(), &facts(Some("b.test"), &[])), Some(1));
    }

    #[test]
    fn ports_transport_and_addresses_choose_in_envoys_order() {
        let port = ChainMatch { destination_port: Some(443), ..ChainMatch::default() };
        let other_port = ChainMatch { destination_port: Some(80), ..ChainMatch::default() };
        let tls = ChainMatch { is_tls: Some(true), ..ChainMatch::default() };
        let wide = ChainMatch { source: range("192.0.2.0", 24), ..ChainMatch::default() };
        let narrow = ChainMatch { source: range("192.0.2.7", 32), ..ChainMatch::default() };
        let far = ChainMatch { source: range("10.0.0.0", 8), ..ChainMatch::default() };
        let chosen =
            |chains: &[&ChainMatch]| select(chains.iter().copied(), &facts(Some("a.test"), &[]));
        assert_eq!(chosen(&[&tls, &port]), Some(1));
        assert_eq!(chosen(&[&other_port, &tls]), Some(1));
        assert_eq!(chosen(&[&wide, &narrow]), Some(1));
        assert_eq!(chosen(&[&far]), None);
        assert_eq!(chosen(&[&far, &wide]), Some(1));
        assert_eq!(chosen(&[]), None);
        let local = ChainMatch { is_local_source: Some(true), ..ChainMatch::default() };
        assert_eq!(chosen(&[&local]), None);
    }

    #[test]
    fn chains_that_cannot_be_told_apart_are_found() {
        let a = names(&["a.test", "b.test"]);
        let b = names(&["c.test", "b.test"]);
        let tls = ChainMatch { is_tls: Some(true), ..names(&["b.test"]) };
        assert_eq!(conflict(&[&a, &tls, &b]), Some((0, 2)));
        assert_eq!(conflict(&[&a, &tls]), None);
        assert_eq!(conflict(&[&ChainMatch::default(), &ChainMatch::default()]), Some((0, 1)));
        assert_eq!(conflict(&[&names(&["a.test", "a.test"])]), None);
    }
}
