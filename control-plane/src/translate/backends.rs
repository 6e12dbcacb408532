//! What requests are sent to, and the clusters of it.

use std::fmt;

use crate::model::meta::Place;
use crate::translate::actions::Site;
use crate::translate::draft::ObjectRef;
use crate::translate::plan::RouteKind;

/// The cluster of shares that lead nowhere; there never is one of this name.
pub(super) const INVALID: &str = "invalid";

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A Backend.
    Backend(Place),
    /// A port of a Service.
    Service(Place, u16),
}

impl fmt::Display for Target {
    /// The name of its endpoints, and of its plainest cluster.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(place) => write!(f, "backend/{place}"),
            Self::Service(place, port) => write!(f, "service/{place}/{port}"),
        }
    }
}

impl Target {
    /// The object.
    pub(super) fn object(&self) -> ObjectRef {
        match self {
            Self::Backend(place) => ObjectRef::new("Backend", place.clone()),
            Self::Service(place, _) => ObjectRef::new("Service", place.clone()),
        }
    }
}

/// A target, and what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    /// The target.
    pub(super) target: Target,
    /// Whether it says that it speaks HTTP/2.
    pub(super) speaks_http2: bool,
    /// Whether it is spoken to over TLS.
    pub(super) speaks_tls: bool,
}

/// A cluster: what it leads to, and what those that use it ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClusterKey {
    /// What it leads to.
    pub(super) target: Target,
    /// Whether HTTP/2 is asked for, where the target does not say that it speaks it.
    pub(super) asks_http2: bool,
    /// Whether bytes go there as they are, whatever its policies say of TLS.
    pub(super) is_raw: bool,
    /// The gateway that shows its certificate.
    pub(super) shows_certificate: Option<Place>,
}

impl ClusterKey {
    /// The cluster that routes of this kind, put there, use.
    pub(super) fn new(destination: &Destination, kind: RouteKind, site: Site<'_>) -> Self {
        let is_raw = site.passes_tls;
        let shows = site.shows_certificate.filter(|_| destination.speaks_tls && !is_raw);
        Self {
            target: destination.target.clone(),
            asks_http2: kind == RouteKind::Grpc && !destination.speaks_http2,
            is_raw,
            shows_certificate: shows.cloned(),
        }
    }

    /// Its name. It depends on nothing but the target and what is asked of it.
    pub(super) fn name(&self) -> String {
        let mut name = self.target.to_string();
        if self.asks_http2 {
            name.push_str("/h2");
        }
        if self.is_raw {
            name.push_str("/raw");
        }
        if let Some(gateway) = &self.shows_certificate {
            name.push_str(&format!("@{gateway}"));
        }
        name
    }
}
