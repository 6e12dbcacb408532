//! Who may call at all while there are no credentials: programs of this machine.

use std::net::IpAddr;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri, header};

use crate::api::refusal::Refusal;
use crate::finding::codes;

/// Lets only requests through whose `Host` is a loopback name or address and whose `Origin`, if
/// any, is this server's own: a page from elsewhere that a browser shows must not reach it, also
/// not under a name that an attacker lets point here.
pub async fn local_only(request: Request, next: Next) -> Response {
    match check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(detail) => {
            let refusal = Refusal::new(StatusCode::FORBIDDEN, codes::NOT_LOCAL, detail);
            if request.uri().path().starts_with("/v1/") {
                refusal.problem_response(request.uri().path(), "")
            } else {
                refusal.status_response()
            }
        }
    }
}

fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let mut hosts = headers.get_all(header::HOST).iter();
    // HTTP/2 says `:authority`, which stands in the URI.
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let host = authority.or_else(|| hosts.next().and_then(|host| host.to_str().ok()));
    let host = host.ok_or("a Host is required")?;
    if hosts.next().is_some() || !is_loopback(host) {
        return Err(format!("Host {host:?} is no loopback name or address"));
    }
    match text(header::ORIGIN) {
        Some(origin) if origin != format!("http://{host}") => {
            Err(format!("Origin {origin:?} is another"))
        }
        _ => Ok(()),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        check(&Uri::from_static("/v1/fleet"), &headers).is_ok()
    }

    #[test]
    fn only_this_machine_and_its_own_pages_may_call() {
        for host in ["127.0.0.1:18080", "localhost:18080", "LOCALHOST", "[::1]:1", "127.8.8.8"] {
            assert!(verdict(host, None), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:1", "10.0.0.1", "", "[::2]:1"] {
            assert!(!verdict(host, None), "{host}");
        }
        assert!(verdict("localhost:1", Some("http://localhost:1")));
        assert!(!verdict("localhost:1", Some("http://localhost:2")));
        assert!(!verdict("localhost:1", Some("http://evil.example")));
        assert!(!verdict("localhost:1", Some("null")));
        assert!(check(&Uri::from_static("http://evil.example/x"), &HeaderMap::new()).is_err());
    }
}
