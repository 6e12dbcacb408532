//! What format strings seldom ask for, of an exchange and of a connection.

use std::fmt::Write as _;

use tokio::time::Instant;

use super::connection::{ChainView, Connection};
use super::exchange::{Exchange, socket_address};
use crate::cluster::endpoints::Endpoint;
use crate::format::rare::{Lookup, Moment, Peer, Rare};
use crate::tls::identity::Identity;

impl Lookup for Exchange {
    fn write(&self, asked: &Rare, out: &mut String) -> bool {
        match asked {
            Rare::StreamId => {
                let id = self.request_id().and_then(|id| id.to_str().ok());
                id.map(|id| out.push_str(id)).is_some()
            }
            Rare::EndpointName { with_port } => {
                self.endpoint.as_deref().is_some_and(|one| write_name(one, *with_port, out))
            }
            Rare::Between { from, to, unit } => {
                let (Some(from), Some(to)) = (self.at(*from), self.at(*to)) else { return false };
                let Some(took) = to.checked_duration_since(from) else { return false };
                push(out, format_args!("{}", unit.of(took)))
            }
            Rare::ConnectionId | Rare::FilterChain | Rare::Cipher | Rare::Peer(_) => {
                of_connection(&self.connection, &self.view, asked, out)
            }
        }
    }
}

impl Exchange {
    fn at(&self, moment: Moment) -> Option<Instant> {
        match moment {
            Moment::RequestBegan => Some(self.started),
            Moment::RequestEnded => self.request.completed_at(),
            Moment::ResponseBegan => self.answered_at,
            Moment::ResponseEnded => self.response.completed_at(),
        }
    }
}

/// What is known of a connection alone.
pub(super) fn of_connection(
    connection: &Connection,
    view: &ChainView,
    asked: &Rare,
    out: &mut String,
) -> bool {
    match asked {
        Rare::ConnectionId => push(out, format_args!("{}", connection.public_id())),
        Rare::FilterChain => text(view.chain().map_or("", |chain| &chain.config.name), out),
        Rare::Cipher => text(connection.tls_cipher.get(), out),
        Rare::Peer(asked) => connection.client().is_some_and(|client| of_peer(client, *asked, out)),
        Rare::StreamId | Rare::EndpointName { .. } | Rare::Between { .. } => false,
    }
}

fn of_peer(client: &Identity, asked: Peer, out: &mut String) -> bool {
    match asked {
        Peer::Subject => text(&client.subject, out),
        Peer::Issuer => text(&client.issuer, out),
        Peer::Uris => text(&client.uris.join(","), out),
        Peer::DnsNames => text(&client.dns_names.join(","), out),
        Peer::Fingerprint => text(&client.fingerprint(), out),
        Peer::Serial => text(&client.serial(), out),
        Peer::Certificate => text(&client.encoded_certificate(), out),
    }
}

/// The endpoint's host name, or else its address.
fn write_name(endpoint: &Endpoint, with_port: bool, out: &mut String) -> bool {
    let address = socket_address(endpoint);
    let hostname = &*endpoint.config.hostname;
    match (hostname, address, with_port) {
        ("", Some(address), true) => push(out, format_args!("{address}")),
        ("", Some(address), false) => push(out, format_args!("{}", address.ip())),
        ("", None, _) => false,
        (name, Some(address), true) => push(out, format_args!("{name}:{}", address.port())),
        (name, _, _) => text(name, out),
    }
}

fn text(text: &str, out: &mut String) -> bool {
    out.push_str(text);
    !text.is_empty()
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) -> bool {
    out.write_fmt(text).is_ok()
}
