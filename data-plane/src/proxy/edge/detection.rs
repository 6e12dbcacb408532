//! Which address is the client's, where it is not that of the peer.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::{FORWARDED_FOR, Peer, append_peer};
use crate::guard::Refused;
use crate::listener::http::{Detection, EdgeOptions, ForwardedBy};
use crate::matcher::cidr::Cidr;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The client; port 0 where nobody names one. `None` where it is the peer, or not known.
    pub(super) client: Option<SocketAddr>,
    /// Whether it may count as inside.
    pub(super) may_be_internal: bool,
}

/// Finds the client as far as the proxies in front can be believed.
///
/// # Errors
/// When the client is not served without its address.
pub(super) fn find(
    headers: &mut HeaderMap,
    options: &EdgeOptions,
    peer: Peer<'_>,
) -> Result<Found, Refused> {
    if options.use_remote_address {
        let may_be_internal = !headers.contains_key(FORWARDED_FOR);
        let skip = options.trusted_hops.checked_sub(1);
        let client = skip.and_then(|skip| nth_last(headers, skip).client);
        return Ok(Found { client, may_be_internal });
    }
    if options.detections.is_empty() {
        return Ok(nth_last(headers, options.trusted_hops));
    }
    for detection in &options.detections {
        let (found, appends) = match detection {
            Detection::ForwardedFor { by, appends } => forwarded(headers, by, *appends, peer),
            Detection::Header { name, is_trusted, else_status } => {
                let value = headers.get(name).and_then(|value| value.to_str().ok());
                let client = value.and_then(address);
                if let Some(status) = else_status.filter(|_| client.is_none()) {
                    return Err(Refused::NoClient(status));
                }
                (Found { client, may_be_internal: *is_trusted && client.is_some() }, false)
            }
        };
        if appends {
            append_peer(headers, peer);
        }
        if found.client.is_some() {
            return Ok(found);
        }
    }
    Ok(Found::default())
}

/// What `x-forwarded-for` says, and whether the peer is added to it.
fn forwarded(
    headers: &HeaderMap,
    by: &ForwardedBy,
    appends: bool,
    peer: Peer<'_>,
) -> (Found, bool) {
    match by {
        ForwardedBy::Hops(hops) => (nth_last(headers, *hops), appends),
        ForwardedBy::Proxies(proxies) if is_one_of(proxies, peer.remote.ip()) => {
            (last_before(headers, proxies), appends)
        }
        // Whoever is no proxy of ours has no say, and is added.
        ForwardedBy::Proxies(_) => (Found::default(), true),
    }
}

/// The address in `x-forwarded-for` that `skip` others follow.
fn nth_last(headers: &HeaderMap, skip: u32) -> Found {
    let mut addresses = from_the_last(headers);
    let named = addresses.nth(usize::try_from(skip).unwrap_or(usize::MAX));
    let is_alone = addresses.next().is_none() && skip == 0;
    let client = named.and_then(|text| text.parse().ok()).map(without_port);
    Found { client, may_be_internal: is_alone && client.is_some() }
}

/// The last address in `x-forwarded-for` that is none of the proxies; where all are, the first.
fn last_before(headers: &HeaderMap, proxies: &[Cidr]) -> Found {
    let mut found = Found::default();
    let mut count = 0;
    for text in from_the_last(headers) {
        count += 1;
        let Ok(address) = text.parse() else { return Found::default() };
        found.client = Some(without_port(address));
        if !is_one_of(proxies, address) {
            break;
        }
    }
    found.may_be_internal = count == 1 && from_the_last(headers).nth(1).is_none();
    found
}

fn from_the_last(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.rsplit(',')).map(str::trim)
}

fn is_one_of(ranges: &[Cidr], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

fn address(text: &str) -> Option<SocketAddr> {
    text.trim().parse().ok().map(without_port)
}

fn without_port(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 0)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, StatusCode};

    use super::*;

    /// The client, whether it may be inside, and what `x-forwarded-for` says then.
    fn found(detection: Detection, remote: &str, sent: &[(&'static str, &str)]) -> String {
        let lines = sent
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut headers: HeaderMap = lines.collect();
        let peer = Peer {
            remote: SocketAddr::new(remote.parse().unwrap(), 7),
            is_tls: false,
            own_address: IpAddr::from([192, 0, 2, 2]),
            local_port: 80,
            certificate: None,
        };
        let options = EdgeOptions { detections: [detection].into(), ..EdgeOptions::default() };
        let Found { client, may_be_internal } = match find(&mut headers, &options, peer) {
            Ok(found) => found,
            Err(refused) => return format!("{refused:?}"),
        };
        let client = client.map_or("-".to_owned(), |client| client.ip().to_string());
        let rest = headers.get(FORWARDED_FOR).map_or("-", |value| value.to_str().unwrap());
        format!("{client} {may_be_internal} {rest}")
    }

    #[test]
    fn a_header_may_name_the_client_and_be_required() {
        let by = |is_trusted, else_status| Detection::Header {
            name: HeaderName::from_static("x-real"),
            is_trusted,
            else_status,
        };
        let sent = [("x-real", "1.2.3.4")];
        assert_eq!(found(by(true, None), "10.0.0.1", &sent), "1.2.3.4 true -");
        assert_eq!(found(by(false, None), "127.0.0.1", &sent), "1.2.3.4 false -");
        assert_eq!(found(by(true, None), "10.0.0.1", &[]), "- false -");
        let refused = found(by(true, Some(StatusCode::UNAUTHORIZED)), "10.0.0.1", &[]);
        assert_eq!(refused, "NoClient(401)");
    }

    #[test]
    fn proxies_of_ours_are_passed_over() {
        let by = || Detection::ForwardedFor {
            by: ForwardedBy::Proxies([Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap()].into()),
            appends: false,
        };
        for (remote, sent, want) in [
            ("10.0.0.1", "9.9.9.9, 1.2.3.4, 10.0.0.2", "1.2.3.4 false 9.9.9.9, 1.2.3.4, 10.0.0.2"),
            ("10.0.0.1", "1.2.3.4", "1.2.3.4 true 1.2.3.4"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3 false 10.0.0.3, 10.0.0.2"),
            ("10.0.0.1", "1.2.3.4, junk", "- false 1.2.3.4, junk"),
            ("8.8.8.8", "1.2.3.4", "- false 1.2.3.4,8.8.8.8"),
        ] {
            assert_eq!(found(by(), remote, &[("x-forwarded-for", sent)]), want);
        }
    }
}
