//! What trailers may say: nothing that is decided by the head of a message, on either side of the proxy
//! (RFC 9110 section 6.5.1).

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::Frame;

/// A piece of a body; of trailers what may stand there.
pub(super) fn stripped(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        strip(trailers);
    }
    frame
}

fn strip(trailers: &mut HeaderMap) {
    let names: Vec<HeaderName> =
        trailers.keys().filter(|name| belongs_to_head(name.as_str())).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Whether a field frames or routes a message, says who asks or what may be kept, or is of one
/// connection, or of us and the proxies around us.
fn belongs_to_head(name: &str) -> bool {
    matches!(
        name,
        "age"
            | "authorization"
            | "cache-control"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "date"
            | "expect"
            | "expires"
            | "forwarded"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "location"
            | "max-forwards"
            | "pragma"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "range"
            | "retry-after"
            | "set-cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "vary"
            | "via"
            | "warning"
            | "www-authenticate"
            | "x-real-ip"
            | "x-request-id"
    ) || ["if-", "x-forwarded-", "x-envoy-", "x-weighlock-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_head_is_gone() {
        let mut trailers = HeaderMap::new();
        for name in [
            "grpc-status",
            "grpc-message",
            "x-checksum",
            "content-length",
            "transfer-encoding",
            "host",
            "authorization",
            "x-forwarded-for",
            "if-match",
            "set-cookie",
        ] {
            trailers.append(HeaderName::from_static(name), "1".parse().unwrap());
            trailers.append(HeaderName::from_static(name), "2".parse().unwrap());
        }
        strip(&mut trailers);
        let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["grpc-status", "grpc-message", "x-checksum"]);
        assert_eq!(trailers.len(), 6);
    }
}
