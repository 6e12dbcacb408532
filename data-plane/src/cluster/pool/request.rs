//! Puts a request into the form of the protocol that its connection speaks.

use http::header::{CONNECTION, EXPECT, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use hyper::ext::Protocol;

use crate::body::Body;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Origin form, with a `host` field.
pub(super) fn make_http1(request: &mut Request<Body>) {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str());
        if !request.headers().contains_key(HOST)
            && let Ok(host) = host
        {
            request.headers_mut().insert(HOST, host);
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    *request.version_mut() = Version::HTTP_11;
}

/// Scheme, authority and path in the URI, no `host` field; an upgrade as CONNECT (RFC 8441). Gives the
/// request back when it cannot be said in HTTP/2: it has no valid host.
pub(super) fn for_http2(
    mut request: Request<Body>,
    is_tls: bool,
) -> Result<Request<Body>, Box<Request<Body>>> {
    let authority = match request.headers().get(HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).ok(),
        None => request.uri().authority().cloned(),
    };
    let Some(authority) = authority else { return Err(Box::new(request)) };
    let uri = std::mem::take(request.uri_mut()).into_parts();
    let mut parts = http::uri::Parts::default();
    parts.scheme = uri.scheme.or(Some(scheme(request.headers(), is_tls)));
    parts.authority = Some(authority);
    parts.path_and_query = uri.path_and_query.or(Some(PathAndQuery::from_static("/")));
    let Ok(uri) = Uri::from_parts(parts) else { return Err(Box::new(request)) };
    *request.uri_mut() = uri;
    request.headers_mut().remove(HOST);
    // The codec does not tell of the answer that would be waited for.
    request.headers_mut().remove(EXPECT);
    if let Some(upgrade) = request.headers_mut().remove(UPGRADE)
        && let Ok(protocol) = upgrade.to_str()
    {
        request.headers_mut().remove(CONNECTION);
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    *request.version_mut() = Version::HTTP_2;
    Ok(request)
}

/// What the client of a request spoke, where that is told; else what is spoken with the endpoint.
fn scheme(headers: &HeaderMap, is_tls: bool) -> Scheme {
    match headers.get(FORWARDED_PROTO).map(HeaderValue::as_bytes) {
        Some(b"https") => Scheme::HTTPS,
        Some(b"http") => Scheme::HTTP,
        _ if is_tls => Scheme::HTTPS,
        _ => Scheme::HTTP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, host: Option<&str>) -> Request<Body> {
        let mut builder = Request::builder().uri(uri);
        if let Some(host) = host {
            builder = builder.header(HOST, host);
        }
        builder.body(Body::empty()).unwrap()
    }

    #[test]
    fn http2_has_everything_in_the_uri() {
        let said = for_http2(request("/a?b=c", Some("x.test:80")), true).unwrap();
        assert_eq!(said.uri().to_string(), "https://x.test:80/a?b=c");
        assert!(!said.headers().contains_key(HOST));
        for (told, is_tls, scheme) in [
            ("http", true, "http"),
            ("https", false, "https"),
            ("ftp", false, "http"),
            ("", true, "https"),
        ] {
            let mut asked = request("/", Some("x.test"));
            asked.headers_mut().insert(FORWARDED_PROTO, HeaderValue::from_static(told));
            let said = for_http2(asked, is_tls).unwrap();
            assert_eq!(said.uri().scheme_str(), Some(scheme), "{told}");
        }
        assert!(for_http2(request("/", None), true).is_err());
        assert!(for_http2(request("/", Some("a b")), true).is_err());
    }

    #[test]
    fn an_upgrade_is_a_connect_in_http2() {
        let mut asked = request("/ws", Some("x.test"));
        asked.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        asked.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        let said = for_http2(asked, false).unwrap();
        assert_eq!(
            (said.method(), said.uri().to_string()),
            (&Method::CONNECT, "http://x.test/ws".into())
        );
        assert_eq!(said.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
        assert!(said.headers().is_empty());
    }

    #[test]
    fn http1_has_the_host_in_a_field() {
        let mut said = request("http://x.test/a?b=c", None);
        make_http1(&mut said);
        assert_eq!(said.uri().to_string(), "/a?b=c");
        assert_eq!(said.headers()[HOST], "x.test");
        let mut said = request("/", Some("y.test"));
        make_http1(&mut said);
        assert_eq!(said.headers()[HOST], "y.test");
    }
}
