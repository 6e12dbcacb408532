//! Operators that are seldom asked for: what they mean is looked up only then.

use std::fmt;

use serde_json::{Map, Value};
use xds_proto::field::FieldError;

/// Who knows what is seldom asked for.
pub trait Lookup: fmt::Debug {
    /// Appends what is asked for; says whether there is such a thing.
    fn write(&self, asked: &Rare, out: &mut String) -> bool;
}

/// What filters left under a name.
#[derive(Debug, Clone, Copy)]
pub enum Left<'a> {
    /// One value.
    One(&'a Value),
    /// All values of a filter.
    All(&'a Map<String, Value>),
}

/// Where filters left something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataPath {
    /// Whose values.
    pub namespace: Box<str>,
    /// Which of them; empty is all.
    pub path: Box<[Box<str>]>,
}

/// What is seldom asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rare {
    /// A number that tells the client's connection from others, `%CONNECTION_ID%`.
    ConnectionId,
    /// What tells the request from others, `%STREAM_ID%`.
    StreamId,
    /// The filter chain, `%FILTER_CHAIN_NAME%`.
    FilterChain,
    /// The cipher of the client's connection, `%DOWNSTREAM_TLS_CIPHER%`.
    Cipher,
    /// The endpoint's host name, with its port or without, `%UPSTREAM_HOST_NAME%`.
    EndpointName {
        /// With its port.
        with_port: bool,
    },
    /// What the certificate of the client says, `%DOWNSTREAM_PEER_…%`.
    Peer(Peer),
    /// The time between two moments of the exchange, `%COMMON_DURATION(…)%`.
    Between {
        /// The first moment.
        from: Moment,
        /// The second.
        to: Moment,
        /// How finely it is told.
        unit: Unit,
    },
}

/// What a certificate of a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Its subject.
    Subject,
    /// Who issued it.
    Issuer,
    /// The URIs of its subject.
    Uris,
    /// The DNS names of its subject.
    DnsNames,
    /// Its SHA-256.
    Fingerprint,
    /// Its serial number.
    Serial,
    /// All of it, as URL-encoded PEM.
    Certificate,
}

/// A moment in the life of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The request began.
    RequestBegan,
    /// The request was there as a whole.
    RequestEnded,
    /// The head of the response came.
    ResponseBegan,
    /// The response was sent as a whole.
    ResponseEnded,
}

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Thousandths of a second.
    Milliseconds,
    /// Millionths.
    Microseconds,
    /// Billionths.
    Nanoseconds,
}

/// An operator of this name with this argument; none where there is no such name.
pub(super) fn parse(name: &str, argument: Option<&str>) -> Option<Result<Rare, FieldError>> {
    let plain = match name {
        "CONNECTION_ID" => Some(Rare::ConnectionId),
        "STREAM_ID" => Some(Rare::StreamId),
        "FILTER_CHAIN_NAME" => Some(Rare::FilterChain),
        "DOWNSTREAM_TLS_CIPHER" => Some(Rare::Cipher),
        "UPSTREAM_HOST_NAME" => Some(Rare::EndpointName { with_port: true }),
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Some(Rare::EndpointName { with_port: false }),
        _ => name.strip_prefix("DOWNSTREAM_PEER_").and_then(peer).map(Rare::Peer),
    };
    if let Some(plain) = plain {
        let refused = || FieldError::invalid(format!("%{name}% takes no argument"));
        return Some(argument.map_or(Ok(plain), |_| Err(refused())));
    }
    let argument = argument.unwrap_or_default();
    match name {
        "COMMON_DURATION" => Some(between(argument)),
        _ => None,
    }
}

fn peer(name: &str) -> Option<Peer> {
    Some(match name {
        "SUBJECT" => Peer::Subject,
        "ISSUER" => Peer::Issuer,
        "URI_SAN" => Peer::Uris,
        "DNS_SAN" => Peer::DnsNames,
        "FINGERPRINT_256" => Peer::Fingerprint,
        "SERIAL" => Peer::Serial,
        "CERT" => Peer::Certificate,
        _ => return None,
    })
}

impl MetadataPath {
    /// `namespace:key:key`, the argument of the operator `name`.
    pub(super) fn parse(name: &str, argument: &str) -> Result<Self, FieldError> {
        let mut parts = argument.split(':').map(Box::<str>::from);
        match parts.next().filter(|namespace| !str::is_empty(namespace)) {
            Some(namespace) => Ok(Self { namespace, path: parts.collect() }),
            None => Err(FieldError::invalid(format!("%{name}% needs the name of a filter"))),
        }
    }
}

impl Left<'_> {
    /// Appends it: a text as it is, all else as JSON.
    pub(super) fn write(self, out: &mut String) {
        match self {
            Self::One(Value::String(text)) => out.push_str(text),
            other => other.write_json(out),
        }
    }

    /// Appends it as JSON.
    pub(super) fn write_json(self, out: &mut String) {
        let json = match self {
            Self::One(value) => serde_json::to_string(value),
            Self::All(values) => serde_json::to_string(values),
        };
        // What was JSON is JSON.
        out.push_str(&json.unwrap_or_default());
    }
}

/// `from:to:unit`.
fn between(argument: &str) -> Result<Rare, FieldError> {
    let unknown = |part: &str| {
        FieldError::invalid(format!("%COMMON_DURATION({argument})%: {part:?} is not supported"))
    };
    let mut parts = argument.split(':');
    let mut moment = || {
        let part = parts.next().unwrap_or_default();
        Ok(match part {
            "DS_RX_BEG" => Moment::RequestBegan,
            "DS_RX_END" => Moment::RequestEnded,
            "US_RX_BEG" => Moment::ResponseBegan,
            "DS_TX_END" => Moment::ResponseEnded,
            _ => return Err(unknown(part)),
        })
    };
    let (from, to) = (moment()?, moment()?);
    let unit = match parts.next() {
        None | Some("ms") => Unit::Milliseconds,
        Some("us") => Unit::Microseconds,
        Some("ns") => Unit::Nanoseconds,
        Some(other) => return Err(unknown(other)),
    };
    Ok(Rare::Between { from, to, unit })
}

impl Rare {
    /// Whether the value is a number.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::ConnectionId | Self::Between { .. })
    }
}

impl Unit {
    /// How many of it there are.
    pub fn of(self, duration: std::time::Duration) -> u128 {
        match self {
            Self::Milliseconds => duration.as_millis(),
            Self::Microseconds => duration.as_micros(),
            Self::Nanoseconds => duration.as_nanos(),
        }
    }
}
