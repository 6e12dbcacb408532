//! The authority of a request: one, and valid.

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderValue, Request, StatusCode, Version};

use super::Refused;
use crate::listener::http::{HostOptions, HttpOptions, StripPort};
use crate::telemetry::why::Why;

pub(super) const INVALID_AUTHORITY: Refused =
    Refused::Detail(Why::BadRequest, "http.invalid_authority");

/// Leaves one `host` header, valid and as the options want it.
pub(super) fn settle<B>(
    request: &mut Request<B>,
    options: &HttpOptions,
    local_port: u16,
) -> Result<(), Refused> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(INVALID_AUTHORITY);
    }
    let uri = request.uri().authority().map(http::uri::Authority::as_str);
    if uri.is_some() && options.http1.refuse_absolute_url && request.version() < Version::HTTP_2 {
        return Err(Refused::Status(StatusCode::NOT_FOUND, "absolute_path_rejected"));
    }
    let host = match (uri, header) {
        // Those in front of us may have gone by the one, those behind may go by the other.
        (Some(uri), Some(header)) if !is_same_authority(uri, header, request.uri().scheme()) => {
            return Err(INVALID_AUTHORITY);
        }
        (Some(uri), _) => uri,
        (None, Some(header)) => header.to_str().map_err(|_| INVALID_AUTHORITY)?,
        (None, None) => {
            return Err(Refused::Status(StatusCode::BAD_REQUEST, "missing_host_header"));
        }
    };
    let (name, port) = split_port(host);
    if !is_valid(name, port) {
        return Err(INVALID_AUTHORITY);
    }
    let stripped = strip(host, (name, port), options.host, local_port);
    if header.is_none_or(|header| header.as_bytes() != stripped.as_bytes()) {
        let value = HeaderValue::from_str(stripped).map_err(|_| INVALID_AUTHORITY)?;
        request.headers_mut().insert(HOST, value);
    }
    Ok(())
}

/// Whether target and `host` name the same place; the port of the scheme may be left out.
fn is_same_authority(uri: &str, host: &HeaderValue, scheme: Option<&Scheme>) -> bool {
    let own = if scheme == Some(&Scheme::HTTPS) { ":443" } else { ":80" };
    let Ok(host) = host.to_str() else { return false };
    let name = |authority: &'_ str| authority.strip_suffix(own).unwrap_or(authority).len();
    uri[..name(uri)].eq_ignore_ascii_case(&host[..name(host)])
}

/// Whether this is a host with or without a port, and nothing else (RFC 3986 section 3.2.2).
fn is_valid(host: &str, port: Option<&str>) -> bool {
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'));
    let is_host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte))
        }
    };
    is_host && is_port
}

/// The host, and the port where there is one.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    // Too short for a search by machine words.
    match authority.bytes().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if authority.as_bytes()[at] == b':' => {
            let (host, port) = authority.split_at(at);
            (host, port.get(1..))
        }
        _ => (authority, None),
    }
}

fn strip<'a>(
    authority: &'a str,
    (host, port): (&'a str, Option<&str>),
    options: HostOptions,
    local_port: u16,
) -> &'a str {
    let strips_port = match options.strip_port {
        StripPort::No => false,
        StripPort::Matching => port.and_then(|port| port.parse().ok()) == Some(local_port),
        StripPort::Any => true,
    };
    let kept = if strips_port || port.is_none() { host } else { authority };
    if options.strip_trailing_dot { kept.strip_suffix('.').unwrap_or(kept) } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_and_a_host_that_differ_are_told_apart() {
        for (scheme, target, host, is_same) in [
            (Scheme::HTTP, "a.test", "b.test", false),
            (Scheme::HTTP, "a.test:81", "a.test", false),
            (Scheme::HTTP, "a.test", "a.test:443", false),
            (Scheme::HTTPS, "a.test", "a.test:80", false),
            (Scheme::HTTP, "a.test:80", "A.test", true),
            (Scheme::HTTPS, "a.test", "a.test:443", true),
        ] {
            let value = HeaderValue::from_static(host);
            assert_eq!(
                is_same_authority(target, &value, Some(&scheme)),
                is_same,
                "{target} {host}"
            );
        }
    }

    #[test]
    fn ports_and_dots_are_taken_off_as_told() {
        let host = |strip_port, strip_trailing_dot, host: &str| {
            strip(host, split_port(host), HostOptions { strip_port, strip_trailing_dot }, 80)
                .to_owned()
        };
        assert_eq!(host(StripPort::No, false, "a.test:80"), "a.test:80");
        assert_eq!(host(StripPort::Matching, false, "a.test:80"), "a.test");
        assert_eq!(host(StripPort::Matching, false, "a.test:81"), "a.test:81");
        assert_eq!(host(StripPort::Any, false, "[::1]:81"), "[::1]");
        assert_eq!(host(StripPort::Any, true, "a.test.:81"), "a.test");
        assert_eq!(host(StripPort::No, true, "a.test."), "a.test");
    }
}
