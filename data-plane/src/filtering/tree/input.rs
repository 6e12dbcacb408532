//! What a matcher tree looks at.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::filtering::subject::Subject;
use crate::matcher::header::MatchedName;

/// Where a value comes from.
#[derive(Debug)]
pub(super) enum Input {
    /// A header, several lines joined with a comma.
    Header(MatchedName),
    Metadata {
        namespace: Box<str>,
        path: Box<[Box<str>]>,
    },
    Address(End),
    Port(End),
    ServerName,
    /// What the client's certificate names.
    Uris,
    DnsNames,
    Subject,
}

/// An end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The client, as far as the proxies in front can be believed.
    Source,
    /// The peer.
    DirectSource,
    /// What the client connected to.
    Destination,
}

impl End {
    fn of(self, subject: &Subject<'_>) -> Option<SocketAddr> {
        match self {
            Self::Source => subject.facts.remote,
            Self::DirectSource => subject.facts.direct_remote,
            Self::Destination => subject.facts.local,
        }
    }

    fn address(self, subject: &Subject<'_>) -> Option<IpAddr> {
        self.of(subject).map(|address| address.ip().to_canonical())
    }
}

impl Input {
    /// Whether it is a header.
    pub(super) fn is_header(&self) -> bool {
        matches!(self, Self::Header(_))
    }

    /// The value as text; none where there is none.
    pub(super) fn text<'a>(&self, subject: &Subject<'a>) -> Option<Cow<'a, [u8]>> {
        let owned = |text: String| Some(Cow::Owned(text.into_bytes()));
        let borrowed = |text: &'a str| (!text.is_empty()).then_some(Cow::Borrowed(text.as_bytes()));
        let names =
            |names: &[Box<str>]| (!names.is_empty()).then(|| names.join(",")).and_then(owned);
        match self {
            Self::Header(name) => name.joined(&subject.view),
            Self::Metadata { .. } => {
                let text = self.metadata(subject)?.as_str()?;
                Some(Cow::Borrowed(text.as_bytes()))
            }
            Self::Address(end) => owned(end.address(subject)?.to_string()),
            Self::Port(end) => owned(end.of(subject)?.port().to_string()),
            Self::ServerName => borrowed(subject.facts.server_name),
            Self::Uris => names(&subject.client?.uris),
            Self::DnsNames => names(&subject.client?.dns_names),
            Self::Subject => borrowed(&subject.client?.subject),
        }
    }

    /// The value as an address; none where it is none.
    pub(super) fn address(&self, subject: &Subject<'_>) -> Option<IpAddr> {
        match self {
            Self::Address(end) => end.address(subject),
            other => std::str::from_utf8(&other.text(subject)?).ok()?.parse().ok(),
        }
    }

    /// The value of the metadata.
    pub(super) fn metadata<'a>(&self, subject: &Subject<'a>) -> Option<&'a Value> {
        match self {
            Self::Metadata { namespace, path } => subject.metadata.value(namespace, path),
            _ => None,
        }
    }
}
