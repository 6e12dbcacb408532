//! CORS: what pages of other origins may do.

use xds_proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use xds_proto::envoy::r#type::matcher::v3::StringMatcher;
use xds_proto::google::protobuf::{Any, BoolValue};

use crate::model::filter::{Cors, HttpFilter};
use crate::translate::envoy::{any, exactly, matching};
use crate::translate::filters::escaped;
use crate::translate::http_filters::CORS;

/// The policy among filters.
pub(super) fn of_filters(filters: &[HttpFilter]) -> Option<&Cors> {
    filters.iter().find_map(|filter| match filter {
        HttpFilter::Cors { cors } => Some(cors),
        _ => None,
    })
}

/// What a route says to the filter. A preflight request of an origin that may not ask is answered
/// without saying so, and goes to no backend.
pub(super) fn config(cors: &Cors) -> (&'static str, Any) {
    let policy = CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(|one| origin(one)).collect(),
        allow_methods: cors.allow_methods.join(", "),
        allow_headers: cors.allow_headers.join(", "),
        expose_headers: cors.expose_headers.join(", "),
        max_age: cors.max_age.to_string(),
        allow_credentials: Some(BoolValue { value: cors.allow_credentials }),
        forward_not_matching_preflights: Some(BoolValue { value: false }),
        ..Default::default()
    };
    (CORS, any(&policy))
}

/// Browsers write origins in lower case and without the port that the scheme has by itself.
fn origin(written: &str) -> StringMatcher {
    let written = written.to_lowercase();
    let (scheme, rest) = written.split_once("://").unwrap_or(("", &written));
    if scheme.is_empty() {
        return matching(".*");
    }
    let own_port = if scheme == "https" { "443" } else { "80" };
    let (host, port) = rest.split_once(':').unwrap_or((rest, own_port));
    let port = if port == own_port { String::new() } else { format!(":{port}") };
    match host.strip_prefix('*') {
        None => exactly(&format!("{scheme}://{host}{port}")),
        Some(suffix) => matching(&format!("{scheme}://[^/:]+{}{port}", escaped(suffix))),
    }
}

#[cfg(test)]
mod tests {
    use data_plane::matcher::regex::Regex;
    use xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

    use super::*;

    fn matches(written: &str, asks: &str) -> bool {
        match origin(written).match_pattern {
            Some(MatchPattern::Exact(exact)) => exact == asks,
            Some(MatchPattern::SafeRegex(regex)) => {
                Regex::compile(&regex.regex).unwrap().matches(asks.as_bytes())
            }
            _ => false,
        }
    }

    #[test]
    fn origins_match_as_browsers_write_them() {
        for (written, asks, holds) in [
            ("*", "https://a.example:8443", true),
            ("*", "null", true),
            ("https://a.example", "https://a.example", true),
            ("https://A.example:443", "https://a.example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("http://a.example:8080", "http://a.example:8080", true),
            ("https://*.a.example", "https://b.a.example", true),
            ("https://*.a.example", "https://c.b.a.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://ba.example", false),
            ("https://*.a.example", "https://b.aXexample", false),
            ("https://*.a.example:8443", "https://b.a.example:8443", true),
            ("https://*.a.example:8443", "https://b.a.example", false),
            ("http://*", "http://anything", true),
            ("http://*", "http://anything:8080", false),
        ] {
            assert_eq!(matches(written, asks), holds, "{written} {asks}");
        }
    }
}
