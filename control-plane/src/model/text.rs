//! The forms of text that fields hold: names, hostnames, header names, durations, expressions.

use crate::finding::codes;
use crate::model::duration;
use crate::model::schema::Report;

/// A form of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Any text of so many bytes at most.
    Free(usize),
    /// Text of one to so many bytes.
    Filled(usize),
    /// A DNS label: `shop-1`.
    Label,
    /// A DNS subdomain: `shop.example`.
    Subdomain,
    /// A DNS subdomain or nothing: an API group.
    Group,
    /// A hostname, whose first label may be `*`.
    Hostname,
    /// A hostname without a wildcard.
    PreciseHostname,
    /// The value of a label, or nothing.
    LabelValue,
    /// The name of a kind: `HTTPRoute`.
    KindName,
    /// A domain and a path: `weighlock.dev/gateway-controller`.
    ControllerName,
    /// A listener's protocol: a word, or a domain and a word.
    Protocol,
    /// The name of a header or of a query parameter.
    HeaderName,
    /// A name of letters, digits and marks, of one to so many bytes: a cookie's.
    Token(usize),
    /// An origin of pages: `*`, or a scheme and a host, whose first label may be `*`, and a port.
    Origin,
    /// The value of a header: printable, of one to so many bytes.
    HeaderValue(usize),
    /// A path to write into a request: no space, no control characters, of so many bytes at most.
    HeaderPath(usize),
    /// A duration: `1m30s`.
    Duration,
    /// An IP address.
    Address,
}

impl Format {
    /// Reports what is wrong with `text`.
    pub fn check(self, text: &str, report: &mut Report) {
        let (min, max) = self.length();
        if text.len() < min {
            report.add(codes::OUT_OF_RANGE, "must not be empty");
        } else if text.len() > max {
            let message = format!("must have at most {max} characters, has {}", text.len());
            report.add(codes::OUT_OF_RANGE, message);
        } else if let Some(wanted) = self.mismatch(text) {
            report.add(codes::BAD_NAME, format!("{text:?} is {wanted}"));
        }
    }

    fn length(self) -> (usize, usize) {
        match self {
            Self::Free(max) | Self::HeaderPath(max) => (0, max),
            Self::Filled(max) | Self::HeaderValue(max) | Self::Token(max) => (1, max),
            Self::Label | Self::KindName => (1, 63),
            Self::Group => (0, 253),
            Self::LabelValue => (0, 63),
            Self::HeaderName => (1, 256),
            Self::Protocol => (1, 255),
            Self::Subdomain
            | Self::Hostname
            | Self::PreciseHostname
            | Self::ControllerName
            | Self::Origin
            | Self::Address => (1, 253),
            Self::Duration => (0, 40),
        }
    }

    /// What it is not, when it is not.
    fn mismatch(self, text: &str) -> Option<&'static str> {
        let (holds, wanted) = match self {
            Self::Free(_) | Self::Filled(_) => (true, ""),
            Self::Label => {
                (is_label(text), "no DNS label (small letters, digits and inner dashes)")
            }
            Self::Subdomain => {
                (is_subdomain(text), "no DNS name (small letters, digits, inner dashes and dots)")
            }
            Self::Group => {
                (text.is_empty() || is_subdomain(text), "no API group (a DNS name, or empty)")
            }
            Self::Hostname => (
                is_subdomain(text.strip_prefix("*.").unwrap_or(text)),
                "no hostname (small letters, digits, inner dashes and dots; the first label may be *)",
            ),
            Self::PreciseHostname => (
                is_subdomain(text),
                "no hostname (small letters, digits, inner dashes and dots, no wildcard)",
            ),
            Self::LabelValue => (
                text.is_empty() || is_word(text),
                "no value of a label (letters, digits and inner dashes, dots and underscores)",
            ),
            Self::KindName => (is_kind_name(text), "no name of a kind"),
            Self::ControllerName => {
                (is_domain_path(text), "no controller name (a domain, a slash and a path)")
            }
            Self::Protocol => (is_protocol(text), "no name of a protocol"),
            Self::HeaderName => {
                (is_token(text), "no header name (letters, digits and !#$%&'*+-.^_`|~)")
            }
            Self::Token(_) => (is_token(text), "no name (letters, digits and !#$%&'*+-.^_`|~)"),
            Self::Origin => {
                (is_origin(text), "no origin (*, or such as https://*.shop.example:8443)")
            }
            Self::HeaderValue(_) => {
                (is_header_value(text), "no header value (no control characters)")
            }
            Self::HeaderPath(_) => {
                (is_written_path(text), "no path (no space, ?, # or control character)")
            }
            Self::Duration => {
                (duration::parse(text).is_some(), "no duration (such as 1h30m, 10s or 500ms)")
            }
            Self::Address => {
                (text.parse::<std::net::IpAddr>().is_ok(), "no IP address (use host for a name)")
            }
        };
        (!holds).then_some(wanted)
    }
}

/// Small letters and digits, and dashes between them.
pub fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Labels with dots between them.
pub fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// Letters and digits, and dashes, dots and underscores between them.
fn is_word(text: &str) -> bool {
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    outer(text.bytes().next()) && outer(text.bytes().last()) && text.bytes().all(inner)
}

/// A word of up to 63 characters, perhaps with a domain before it: the key of a label.
pub fn is_qualified_name(text: &str) -> bool {
    let is_name = |name: &str| name.len() <= 63 && is_word(name);
    match text.split_once('/') {
        None => is_name(text),
        Some((domain, name)) => domain.len() < 253 && is_subdomain(domain) && is_name(name),
    }
}

fn is_kind_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    text.bytes().all(inner)
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !text.ends_with('-')
}

fn is_domain_path(text: &str) -> bool {
    let path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    text.split_once('/').is_some_and(|(domain, rest)| {
        is_subdomain(domain) && !rest.is_empty() && rest.bytes().all(path)
    })
}

fn is_protocol(text: &str) -> bool {
    let word = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !text.is_empty()
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    match text.split_once('/') {
        None => word(text),
        Some((domain, rest)) => is_subdomain(domain) && word(rest),
    }
}

fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_origin(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http").map(|rest| rest.strip_prefix('s').unwrap_or(rest))
    else {
        return text == "*";
    };
    let Some(rest) = rest.strip_prefix("://") else { return false };
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_host = host == "*" || host.strip_prefix("*.").unwrap_or(host).split('.').all(label);
    is_host && port.is_none_or(|port| port.len() <= 5 && port.parse::<u16>().is_ok())
}

fn is_written_path(text: &str) -> bool {
    text.bytes().all(|byte| byte > 0x20 && byte < 0x7f && byte != b'#' && byte != b'?')
}

fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(format: Format, text: &str) -> bool {
        let mut report = Report::default();
        format.check(text, &mut report);
        report.problems.is_empty()
    }

    #[test]
    fn forms_take_what_they_should() {
        for (format, good, bad) in [
            (Format::Label, "a-1", "a.b"),
            (Format::Subdomain, "a.b-c", "a..b"),
            (Format::Group, "", "A"),
            (Format::Hostname, "*.shop.example", "*.*.example"),
            (Format::PreciseHostname, "shop.example", "*.shop.example"),
            (Format::LabelValue, "v1.2_a", "-x"),
            (Format::KindName, "HTTPRoute", "-x"),
            (Format::ControllerName, "weighlock.dev/gateway-controller", "weighlock.dev"),
            (Format::Protocol, "example.com/QUIC", "a_b"),
            (Format::HeaderName, "X-Version", "x version"),
            (Format::HeaderValue(9), "a b\tc", "a\nb"),
            (Format::Token(9), "a_b", "a=b"),
            (Format::Origin, "*", "*.a"),
            (Format::Origin, "https://*.a.example:8443", "https://a.*.example"),
            (Format::Origin, "http://*", "ftp://a"),
            (Format::Origin, "http://a-1", "http://a/"),
            (Format::Origin, "http://a:80", "http://a:99999"),
            (Format::Duration, "1m30s", "90"),
            (Format::Address, "::1", "localhost"),
            (Format::Filled(3), "abc", ""),
            (Format::Free(3), "", "abcd"),
        ] {
            assert!(holds(format, good), "{format:?} {good:?}");
            assert!(!holds(format, bad), "{format:?} {bad:?}");
        }
    }
}
