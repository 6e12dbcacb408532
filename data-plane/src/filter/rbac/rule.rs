//! What a policy asks of a request and its sender.

use std::net::SocketAddr;
use std::ops::Range;

use http::Request;

use crate::body::Body;
use crate::filtering::stage::Stage;
use crate::format::Context;
use crate::matcher::StringMatcher;
use crate::matcher::cidr::Cidr;
use crate::matcher::header::{HeaderMatcher, HeaderView};
use crate::matcher::metadata::{Metadata, MetadataMatcher};
use crate::tls::identity::Identity;

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
    LocalPorts(Range<u16>),
    ServerName(StringMatcher),
    /// The client, as far as the proxies in front can be believed.
    Remote(Cidr),
    /// The peer of the connection.
    DirectRemote(Cidr),
    /// A client with a certificate, and one of its names where one is asked for.
    Authenticated(Option<StringMatcher>),
    Metadata(MetadataMatcher),
}

/// What rules look at.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    view: HeaderView<'a>,
    context: &'a Context<'a>,
    client: Option<&'a Identity>,
    metadata: &'a Metadata,
}

impl<'a> Subject<'a> {
    pub(super) fn new(request: &'a Request<Body>, stage: &'a Stage<'_>) -> Self {
        Self {
            view: stage.view(request),
            context: &stage.context,
            client: stage.client,
            metadata: &stage.notes.metadata,
        }
    }
}

impl Rule {
    /// Whether it holds.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> bool {
        let Subject { view, context, client, metadata } = subject;
        let within = |range: &Cidr, address: Option<SocketAddr>| {
            address.is_some_and(|address| range.contains(address.ip()))
        };
        match self {
            Self::Any => true,
            Self::All(rules) => rules.iter().all(|rule| rule.holds(subject)),
            Self::OneOf(rules) => rules.iter().any(|rule| rule.holds(subject)),
            Self::Not(rule) => !rule.holds(subject),
            Self::Header(matcher) => matcher.matches(view),
            Self::Path(matcher) => {
                let path = view.path.unwrap_or_default();
                let end = path.find(['?', '#']).unwrap_or(path.len());
                matcher.matches(&path.as_bytes()[..end])
            }
            Self::LocalAddress(range) => within(range, context.local),
            Self::LocalPort(port) => context.local.is_some_and(|local| local.port() == *port),
            Self::LocalPorts(ports) => {
                context.local.is_some_and(|local| ports.contains(&local.port()))
            }
            Self::ServerName(matcher) => matcher.matches(context.server_name.as_bytes()),
            Self::Remote(range) => within(range, context.remote),
            Self::DirectRemote(range) => within(range, context.direct_remote),
            Self::Authenticated(None) => client.is_some(),
            Self::Authenticated(Some(matcher)) => client.is_some_and(|client| {
                let names = client.uris.iter().chain(&client.dns_names).map(|name| &**name);
                names.chain([&*client.subject]).any(|name| matcher.matches(name.as_bytes()))
            }),
            Self::Metadata(matcher) => matcher.matches(metadata),
        }
    }
}
