//! What upstream is told of the client's certificate (`x-forwarded-client-cert`).

use http::HeaderValue;

use crate::listener::http::CertificateDetails;
use crate::tls::identity::Identity;

/// The element that this proxy adds for a client; `own_uris` are those of the certificate that the
/// client was shown.
pub(super) fn element(
    client: &Identity,
    own_uris: &[Box<str>],
    details: CertificateDetails,
) -> Option<HeaderValue> {
    let mut out = String::new();
    for uri in own_uris {
        push(&mut out, "By", uri);
    }
    push(&mut out, "Hash", &client.fingerprint());
    if details.certificate {
        push_quoted(&mut out, "Cert", &client.encoded_certificate());
    }
    if details.chain {
        push_quoted(&mut out, "Chain", &client.encoded_chain());
    }
    if details.subject {
        push_quoted(&mut out, "Subject", &client.subject);
    }
    if details.uri {
        client.uris.iter().for_each(|uri| push(&mut out, "URI", uri));
    }
    if details.dns {
        client.dns_names.iter().for_each(|name| push(&mut out, "DNS", name));
    }
    if details.issuer {
        push_quoted(&mut out, "Issuer", &client.issuer);
    }
    HeaderValue::try_from(out).ok()
}

fn push(out: &mut String, key: &str, value: &str) {
    if !out.is_empty() {
        out.push(';');
    }
    out.push_str(key);
    out.push('=');
    out.push_str(value);
}

fn push_quoted(out: &mut String, key: &str, value: &str) {
    push(out, key, "\"");
    out.push_str(value);
    out.push('"');
}
