//! Copies of requests for other clusters, whose answers nobody sees (`request_mirror_policies`).

use http::{HeaderName, HeaderValue};

use super::action::ClusterIndex;

/// Where copies of a route's requests go.
#[derive(Debug, Clone)]
pub struct MirrorPolicy {
    /// The cluster.
    pub cluster: MirrorCluster,
    /// How many of a million requests are copied (`runtime_fraction.default_value`).
    pub millionths: u32,
    /// Whether the host of the copy ends in `-shadow` (`disable_shadow_host_suffix_append` is off).
    pub marks_host: bool,
    /// The host of the copy (`host_rewrite_literal`).
    pub host_rewrite: Option<HeaderValue>,
}

/// Which cluster gets the copies.
#[derive(Debug, Clone)]
pub enum MirrorCluster {
    /// Always this one.
    One(ClusterIndex),
    /// The one this request header names; none where it names none.
    Header(HeaderName),
}

impl MirrorPolicy {
    /// The host of the copy of a request for `host`.
    pub fn host(&self, host: &HeaderValue) -> HeaderValue {
        if let Some(host) = &self.host_rewrite {
            return host.clone();
        }
        if !self.marks_host {
            return host.clone();
        }
        let bytes = host.as_bytes();
        let port = host.to_str().ok().and_then(super::host::port_start).unwrap_or(bytes.len());
        let marked = [&bytes[..port], b"-shadow", &bytes[port..]].concat();
        HeaderValue::from_bytes(&marked).unwrap_or_else(|_| host.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_copy_is_marked_before_its_port() {
        let policy = MirrorPolicy {
            cluster: MirrorCluster::One(ClusterIndex(0)),
            millionths: 1_000_000,
            marks_host: true,
            host_rewrite: None,
        };
        for (host, want) in
            [("a.test", "a.test-shadow"), ("a.test:81", "a.test-shadow:81"), ("", "-shadow")]
        {
            assert_eq!(policy.host(&HeaderValue::from_static(host)), want);
        }
        let plain = MirrorPolicy { marks_host: false, ..policy.clone() };
        assert_eq!(plain.host(&HeaderValue::from_static("a.test:81")), "a.test:81");
        let other =
            MirrorPolicy { host_rewrite: Some(HeaderValue::from_static("b.test")), ..policy };
        assert_eq!(other.host(&HeaderValue::from_static("a.test")), "b.test");
    }
}
