//! What a policy asks of a request and its sender.

use std::net::SocketAddr;
use std::ops::Range;

use crate::filtering::subject::Subject;
use crate::matcher::StringMatcher;
use crate::matcher::cidr::Cidr;
use crate::matcher::header::HeaderMatcher;
use crate::matcher::metadata::MetadataMatcher;

/// A permission or a principal.
#[derive(Debug)]
pub(super) enum Rule {
    Any,
    All(Box<[Self]>),
    OneOf(Box<[Self]>),
    Not(Box<Self>),
    Header(HeaderMatcher),
    Path(StringMatcher),
    /// The address and port that the client connected to.
    LocalAddress(Cidr),
    LocalPort(u16),
    LocalPorts(Range<u32>),
    ServerName(StringMatcher),
    /// The client, as far as the proxies in front can be believed.
    Remote(Cidr),
    /// The peer of the connection.
    DirectRemote(Cidr),
    /// A client of an encrypted connection, and one of the names in its certificate where one is
    /// asked for.
    Authenticated(Option<StringMatcher>),
    Metadata(MetadataMatcher),
}

impl Rule {
    /// Whether it asks for what only a request has.
    pub(super) fn asks_for_requests(&self) -> bool {
        match self {
            Self::Header(_) | Self::Path(_) => true,
            Self::All(rules) | Self::OneOf(rules) => rules.iter().any(Self::asks_for_requests),
            Self::Not(rule) => rule.asks_for_requests(),
            Self::Any
            | Self::LocalAddress(_)
            | Self::LocalPort(_)
            | Self::LocalPorts(_)
            | Self::ServerName(_)
            | Self::Remote(_)
            | Self::DirectRemote(_)
            | Self::Authenticated(_)
            | Self::Metadata(_) => false,
        }
    }

    /// Whether it holds.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> bool {
        let Subject { view, facts, client, metadata } = subject;
        let within = |range: &Cidr, address: Option<SocketAddr>| {
            address.is_some_and(|address| range.contains(address.ip()))
        };
        match self {
            Self::Any => true,
            Self::All(rules) => rules.iter().all(|rule| rule.holds(subject)),
            Self::OneOf(rules) => rules.iter().any(|rule| rule.holds(subject)),
            Self::Not(rule) => !rule.holds(subject),
            Self::Header(matcher) => matcher.matches(view),
            Self::Path(matcher) => matcher.matches(subject.path().as_bytes()),
            Self::LocalAddress(range) => within(range, facts.local),
            Self::LocalPort(port) => facts.local.is_some_and(|local| local.port() == *port),
            Self::LocalPorts(ports) => {
                facts.local.is_some_and(|local| ports.contains(&local.port().into()))
            }
            Self::ServerName(matcher) => matcher.matches(facts.server_name.as_bytes()),
            Self::Remote(range) => within(range, facts.remote),
            Self::DirectRemote(range) => within(range, facts.direct_remote),
            Self::Authenticated(_) if !subject.is_tls() => false,
            Self::Authenticated(None) => true,
            Self::Authenticated(Some(matcher)) => match client {
                // Who shows no certificate has the empty name.
                None => matcher.matches(b""),
                Some(client) => {
                    let names = client.uris.iter().chain(&client.dns_names).map(|name| &**name);
                    names.chain([&*client.subject]).any(|name| matcher.matches(name.as_bytes()))
                }
            },
            Self::Metadata(matcher) => matcher.matches(metadata),
        }
    }
}
