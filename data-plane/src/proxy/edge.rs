//! Who the client is, and the headers that say so: Envoy's rules for the edge.

mod detection;

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue, SERVER, VIA};
use uuid::Uuid;

use self::detection::Found;
use crate::guard::Refused;
use crate::listener::http::{EdgeOptions, ForwardCertificate, ServerHeader};

/// The id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The addresses that a request came through.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`, as the client spoke.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// What only proxies inside may say.
const INTERNAL_ONLY: [HeaderName; 14] = [
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// What a client at the edge may not say.
const EDGE_ONLY: [HeaderName; 4] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    HeaderName::from_static("x-envoy-original-path"),
];

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    /// Its address.
    pub remote: SocketAddr,
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// What a client on this machine is called in `x-forwarded-for`.
    pub own_address: IpAddr,
    /// The port that it came to.
    pub local_port: u16,
    /// What is told of its certificate, where it showed one.
    pub certificate: Option<&'a HeaderValue>,
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The client, as far as the proxies in front can be believed; port 0 when they name it.
    pub client: SocketAddr,
    /// Whether the client spoke TLS, here or with a proxy in front.
    pub is_https: bool,
    /// Whether the request comes from inside.
    pub is_internal: bool,
}

/// Says in the headers who the client is, drops what it may not say, and gives the request an id.
/// `random` makes the id.
///
/// # Errors
/// When a client is not served whose address is not found.
pub fn request(
    headers: &mut HeaderMap,
    options: &EdgeOptions,
    peer: Peer<'_>,
    random: u128,
) -> Result<Origin, Refused> {
    let Found { client: found, may_be_internal } = detection::find(headers, options, peer)?;
    let client = found.unwrap_or(peer.remote);
    let scheme = HeaderValue::from_static(if peer.is_tls { "https" } else { "http" });
    if options.use_remote_address && !options.skip_xff_append {
        append_peer(headers, peer);
    }
    let is_untrusted = options.use_remote_address && options.trusted_hops == 0;
    let claims = Claims::of(headers);
    let mut is_https = peer.is_tls;
    if is_untrusted || !claims.proto {
        headers.insert(FORWARDED_PROTO, scheme);
    } else {
        is_https = headers.get(FORWARDED_PROTO).is_some_and(|proto| proto == "https");
    }
    if options.append_port && (is_untrusted || !headers.contains_key(FORWARDED_PORT)) {
        headers.insert(FORWARDED_PORT, HeaderValue::from(peer.local_port));
    }
    let is_internal =
        may_be_internal && options.internal.iter().any(|range| range.contains(client.ip()));
    if claims.certificate || peer.certificate.is_some() {
        tell_certificate(headers, options.certificate, peer.certificate);
    }
    if claims.envoy {
        drop_claims(headers, is_internal, options.use_remote_address);
    }
    if is_internal {
        headers.insert(INTERNAL, HeaderValue::from_static("true"));
    } else if options.use_remote_address
        && let Ok(address) = HeaderValue::try_from(client.ip().to_canonical().to_string())
    {
        headers.insert(EXTERNAL_ADDRESS, address);
    }
    let is_edge = options.use_remote_address && !is_internal;
    if !claims.id || is_edge && !options.preserve_request_id {
        give_id(headers, options, random);
    }
    if let Some(via) = &options.via {
        append(headers, &VIA, ", ", via.as_bytes());
    }
    Ok(Origin { client, is_https, is_internal })
}

/// Adds the peer to `x-forwarded-for`.
fn append_peer(headers: &mut HeaderMap, peer: Peer<'_>) {
    let is_loopback = peer.remote.ip().to_canonical().is_loopback();
    let address = if is_loopback { peer.own_address } else { peer.remote.ip() };
    append(headers, &FORWARDED_FOR, ",", address.to_canonical().to_string().as_bytes());
}

/// Puts `x-forwarded-client-cert` right; `own` is what is told of a certificate that the client
/// showed itself.
fn tell_certificate(
    headers: &mut HeaderMap,
    forward: ForwardCertificate,
    own: Option<&HeaderValue>,
) {
    match (forward, own) {
        (ForwardCertificate::AlwaysForwardOnly, _) | (ForwardCertificate::ForwardOnly, Some(_)) => {
        }
        (ForwardCertificate::AppendForward, Some(own)) => {
            append(headers, &CLIENT_CERTIFICATE, ",", own.as_bytes());
        }
        (ForwardCertificate::SanitizeSet, Some(own)) => {
            headers.insert(CLIENT_CERTIFICATE, own.clone());
        }
        (ForwardCertificate::Sanitize, _) | (_, None) => {
            headers.remove(CLIENT_CERTIFICATE);
        }
    }
}

/// What a request says already of what is said here: one pass instead of a look-up for each, since nearly
/// always there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Claims {
    proto: bool,
    certificate: bool,
    id: bool,
    /// Something that begins with `x-envoy-`.
    envoy: bool,
}

impl Claims {
    fn of(headers: &HeaderMap) -> Self {
        let mut claims = Self::default();
        for name in headers.keys() {
            let Some(rest) = name.as_str().strip_prefix("x-") else { continue };
            match rest {
                "forwarded-proto" => claims.proto = true,
                "forwarded-client-cert" => claims.certificate = true,
                "request-id" => claims.id = true,
                _ => claims.envoy |= rest.starts_with("envoy-"),
            }
        }
        claims
    }
}

fn drop_claims(headers: &mut HeaderMap, is_internal: bool, is_edge_listener: bool) {
    headers.remove(INTERNAL);
    if is_internal {
        return;
    }
    for name in INTERNAL_ONLY {
        headers.remove(name);
    }
    if is_edge_listener {
        headers.remove(EXTERNAL_ADDRESS);
        for name in EDGE_ONLY {
            headers.remove(name);
        }
    }
}

fn give_id(headers: &mut HeaderMap, options: &EdgeOptions, random: u128) {
    if !options.generate_request_id {
        return;
    }
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = uuid::Builder::from_random_bytes(random.to_ne_bytes()).into_uuid();
    let id: &str = Uuid::hyphenated(id).encode_lower(&mut text);
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Adds to a header that is kept as one line.
pub(super) fn append(headers: &mut HeaderMap, name: &HeaderName, separator: &str, value: &[u8]) {
    let mut line = Vec::new();
    for present in headers.get_all(name) {
        line.extend_from_slice(present.as_bytes());
        line.extend_from_slice(separator.as_bytes());
    }
    line.extend_from_slice(value);
    if let Ok(line) = HeaderValue::from_bytes(&line) {
        headers.insert(name, line);
    }
}

/// Says in the headers of a response who answers. `request_id` is that of the request, where it is told.
pub fn response(
    headers: &mut HeaderMap,
    options: &EdgeOptions,
    server: &ServerHeader,
    request_id: Option<&HeaderValue>,
) {
    match server {
        ServerHeader::Overwrite(name) => {
            headers.insert(SERVER, name.clone());
        }
        ServerHeader::AppendIfAbsent(name) => {
            headers.entry(SERVER).or_insert_with(|| name.clone());
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(id) = request_id {
        headers.insert(REQUEST_ID, id.clone());
    }
    if let Some(via) = &options.via {
        append(headers, &VIA, ", ", via.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::cidr::Cidr;

    const OWN: &str = "192.0.2.2";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        });
        pairs.collect()
    }

    /// The headers that come out, in order of name, without the id.
    fn out(options: &EdgeOptions, remote: &str, sent: &[(&str, &str)]) -> (String, IpAddr) {
        let mut headers = headers(sent);
        let peer = Peer {
            remote: SocketAddr::new(remote.parse().unwrap(), 1234),
            is_tls: false,
            own_address: OWN.parse().unwrap(),
            local_port: 80,
            certificate: None,
        };
        let origin = request(&mut headers, options, peer, 7).unwrap();
        let mut lines: Vec<_> = headers
            .iter()
            .filter(|(name, _)| **name != REQUEST_ID)
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        (lines.join(" "), origin.client.ip())
    }

    #[test]
    fn inside_a_mesh_the_proxies_in_front_are_believed() {
        let options = EdgeOptions::default();
        for (sent, lines, client) in [
            (vec![], "x-forwarded-proto=http", "203.0.113.9"),
            (
                vec![("x-forwarded-for", "1.2.3.4, 5.6.7.8"), ("x-forwarded-proto", "https")],
                "x-forwarded-for=1.2.3.4, 5.6.7.8 x-forwarded-proto=https",
                "5.6.7.8",
            ),
            (
                vec![("x-forwarded-for", "junk")],
                "x-forwarded-for=junk x-forwarded-proto=http",
                "203.0.113.9",
            ),
            (
                vec![("x-envoy-max-retries", "9"), ("x-envoy-internal", "true")],
                "x-forwarded-proto=http",
                "203.0.113.9",
            ),
        ] {
            assert_eq!(
                out(&options, "203.0.113.9", &sent),
                (lines.to_owned(), client.parse().unwrap())
            );
        }
    }

    #[test]
    fn at_the_edge_the_peer_is_the_client() {
        let options = EdgeOptions { use_remote_address: true, ..EdgeOptions::default() };
        let (lines, client) = out(
            &options,
            "203.0.113.9",
            &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")],
        );
        assert_eq!(
            lines,
            "x-envoy-external-address=203.0.113.9 x-forwarded-for=1.2.3.4,203.0.113.9 x-forwarded-proto=http"
        );
        assert_eq!(client.to_string(), "203.0.113.9");
        let (lines, client) = out(&options, "127.0.0.1", &[]);
        assert_eq!(
            lines,
            "x-envoy-external-address=127.0.0.1 x-forwarded-for=192.0.2.2 x-forwarded-proto=http"
        );
        assert_eq!(client.to_string(), "127.0.0.1");
    }

    #[test]
    fn trusted_hops_are_counted_from_the_end() {
        let edge = EdgeOptions {
            use_remote_address: true,
            trusted_hops: 1,
            skip_xff_append: true,
            ..EdgeOptions::default()
        };
        let sent = [("x-forwarded-for", "9.9.9.9, 1.2.3.4"), ("x-forwarded-proto", "https")];
        let (lines, client) = out(&edge, "203.0.113.9", &sent);
        assert_eq!(client.to_string(), "1.2.3.4");
        assert!(lines.contains("x-forwarded-proto=https"));
        let mesh = EdgeOptions { trusted_hops: 1, ..EdgeOptions::default() };
        assert_eq!(out(&mesh, "203.0.113.9", &sent).1.to_string(), "9.9.9.9");
        let mesh = EdgeOptions { trusted_hops: 5, ..EdgeOptions::default() };
        assert_eq!(out(&mesh, "203.0.113.9", &sent).1.to_string(), "203.0.113.9");
    }

    #[test]
    fn a_client_inside_keeps_what_it_says() {
        let options = EdgeOptions {
            use_remote_address: true,
            internal: [Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap()].into(),
            ..EdgeOptions::default()
        };
        let (lines, _) = out(&options, "10.1.2.3", &[("x-envoy-max-retries", "9")]);
        assert_eq!(
            lines,
            "x-envoy-internal=true x-envoy-max-retries=9 x-forwarded-for=10.1.2.3 x-forwarded-proto=http"
        );
    }

    #[test]
    fn a_certificate_is_told_as_far_as_it_was_shown() {
        use ForwardCertificate::*;
        let (theirs, ours) = (HeaderValue::from_static("By=x"), HeaderValue::from_static("Hash=1"));
        for (forward, shown, hidden) in [
            (Sanitize, "-", "-"),
            (ForwardOnly, "By=x", "-"),
            (AppendForward, "By=x,Hash=1", "-"),
            (SanitizeSet, "Hash=1", "-"),
            (AlwaysForwardOnly, "By=x", "By=x"),
        ] {
            for (own, want) in [(Some(&ours), shown), (None, hidden)] {
                let mut headers = HeaderMap::from_iter([(CLIENT_CERTIFICATE, theirs.clone())]);
                tell_certificate(&mut headers, forward, own);
                let told = headers.get(CLIENT_CERTIFICATE).map_or("-", |v| v.to_str().unwrap());
                assert_eq!(told, want, "{forward:?}");
            }
        }
    }

    #[test]
    fn an_id_is_kept_or_made_as_the_place_demands() {
        let id = |options: &EdgeOptions, sent: &[(&str, &str)]| {
            let mut headers = headers(sent);
            let peer = Peer {
                remote: "203.0.113.9:1".parse().unwrap(),
                is_tls: false,
                own_address: OWN.parse().unwrap(),
                local_port: 80,
                certificate: None,
            };
            request(&mut headers, options, peer, 7).unwrap();
            headers.get(REQUEST_ID).map(|id| id.to_str().unwrap().to_owned())
        };
        let mesh = EdgeOptions::default();
        let edge = EdgeOptions { use_remote_address: true, ..mesh.clone() };
        let lenient = EdgeOptions { preserve_request_id: true, ..edge.clone() };
        let off = EdgeOptions { generate_request_id: false, ..mesh.clone() };
        let sent = [("x-request-id", "mine")];
        assert_eq!(id(&mesh, &sent).as_deref(), Some("mine"));
        assert_eq!(id(&mesh, &[]).map(|id| id.len()), Some(36));
        assert_eq!(id(&edge, &sent).map(|id| id.len()), Some(36));
        assert_eq!(id(&lenient, &sent).as_deref(), Some("mine"));
        assert_eq!(id(&off, &[]), None);
    }

    #[test]
    fn a_response_names_the_server_as_told() {
        let server = |server: &ServerHeader, sent: &[(&str, &str)]| {
            let mut headers = headers(sent);
            response(&mut headers, &EdgeOptions::default(), server, None);
            headers.get(SERVER).map(|server| server.to_str().unwrap().to_owned())
        };
        let ours = HeaderValue::from_static("envoy");
        let theirs = [("server", "them")];
        assert_eq!(server(&ServerHeader::Overwrite(ours.clone()), &theirs).unwrap(), "envoy");
        assert_eq!(server(&ServerHeader::AppendIfAbsent(ours.clone()), &theirs).unwrap(), "them");
        assert_eq!(server(&ServerHeader::AppendIfAbsent(ours), &[]).unwrap(), "envoy");
        assert_eq!(server(&ServerHeader::PassThrough, &[]), None);
    }
}
