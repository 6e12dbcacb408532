//! A virtual host: a table of its own, whatever table it stands in.

use std::sync::Arc;

use xds_proto::version::Version;

use super::action::{Action, ClusterChoice, ClusterIndex};
use super::condition::{Condition, PathKind};
use super::index::{IndexEntry, PathIndex};
use super::mirror::MirrorCluster;
use super::{Mutations, RequestView};
use crate::chain::overrides::{FilterSet, OverrideTable};
use crate::filtering::rate_limit::RateLimit;

/// Routes of some domains (`VirtualHost`).
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Its domains, as they were given.
    pub domains: Box<[Box<str>]>,
    /// What it was made of: its bytes, and what is around it. None where nobody asked.
    pub(crate) source: Option<Version>,
    /// The clusters it names; a [`ClusterIndex`] is a position here.
    pub(crate) clusters: Box<[Arc<str>]>,
    /// What the levels of its routes say of filters.
    pub(crate) overrides: OverrideTable,
    /// Whether upstream requests carry `x-envoy-attempt-count` (`include_request_attempt_count`).
    pub include_request_attempt_count: bool,
    /// Whether responses do (`include_attempt_count_in_response`).
    pub include_attempt_count_in_response: bool,
    pub(crate) require_tls: RequireTls,
    pub(crate) mutations: Mutations,
    pub(crate) rate_limits: Box<[RateLimit]>,
    /// Whether a route takes its cluster's name from a header.
    pub(crate) has_cluster_header: bool,
    pub(crate) routes: Box<[Arc<Route>]>,
    pub(crate) index: Arc<PathIndex>,
}

/// Which requests are sent to https first (`VirtualHost.require_tls`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RequireTls {
    #[default]
    None,
    /// All but those marked with `x-envoy-internal`.
    ExternalOnly,
    All,
}

/// One route of a virtual host.
#[derive(Debug)]
pub struct Route {
    /// Its name; empty when it has none.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    pub(crate) condition: Condition,
    pub(crate) mutations: Mutations,
    /// What is said of filters here and around (`typed_per_filter_config`).
    pub(crate) filters: FilterSet,
}

impl VirtualHost {
    /// A virtual host with its routes indexed; the caller sets the rest.
    pub(crate) fn new(name: Arc<str>, routes: Vec<Route>) -> Self {
        Self::following(None, name, routes.into_iter().map(Arc::new).collect())
    }

    /// As [`Self::new`], in the place of `previous`, with which it shares what is the same.
    pub(crate) fn following(
        previous: Option<&Self>,
        name: Arc<str>,
        routes: Vec<Arc<Route>>,
    ) -> Self {
        let has_same_paths = |previous: &&Self| {
            let mut pairs = previous.routes.iter().zip(&routes);
            previous.routes.len() == routes.len()
                && pairs.all(|(a, b)| Arc::ptr_eq(a, b) || a.index_entry() == b.index_entry())
        };
        let index = match previous.filter(has_same_paths) {
            Some(previous) => Arc::clone(&previous.index),
            None => Arc::new(PathIndex::new(routes.iter().map(|route| route.index_entry()))),
        };
        Self {
            name,
            domains: [].into(),
            source: None,
            clusters: [].into(),
            overrides: OverrideTable::default(),
            include_request_attempt_count: false,
            include_attempt_count_in_response: false,
            require_tls: RequireTls::None,
            mutations: Mutations::default(),
            rate_limits: [].into(),
            has_cluster_header: routes.iter().any(|route| route.has_cluster_header()),
            routes: routes.into(),
            index,
        }
    }

    /// Its routes, in order.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The clusters it names; a [`ClusterIndex`] is a position here.
    pub fn cluster_names(&self) -> &[Arc<str>] {
        &self.clusters
    }

    /// The name of a cluster.
    pub(crate) fn cluster_name(&self, index: ClusterIndex) -> Option<&str> {
        self.clusters.get(index.0 as usize).map(|name| &**name)
    }

    /// The first route that matches, and its number.
    pub(super) fn find(&self, path: &str, request: &RequestView<'_>) -> Option<(u32, &Route)> {
        let number = self.index.find(path, &mut |number| {
            self.routes.get(number as usize).is_some_and(|route| {
                route.condition.path.matches_behind(path)
                    && route.condition.rest.as_ref().is_none_or(|rest| rest.match_request(request))
            })
        })?;
        Some((number, self.routes.get(number as usize)?))
    }
}

impl Route {
    fn index_entry(&self) -> IndexEntry<'_> {
        IndexEntry {
            text: &self.condition.path.text,
            is_exact: matches!(self.condition.path.kind, PathKind::Exact),
            case_sensitive: self.condition.path.case_sensitive,
        }
    }

    /// Whether it takes its cluster's name from a header.
    fn has_cluster_header(&self) -> bool {
        let Action::Forward(forward) = &self.action else { return false };
        let mut mirrors = forward.mirrors.iter();
        matches!(forward.cluster, ClusterChoice::Header(_))
            || mirrors.any(|mirror| matches!(mirror.cluster, MirrorCluster::Header(_)))
    }

    /// The clusters that it names, but for those of its filters.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = ClusterIndex> + '_ {
        let forward = match &self.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Direct(_) => None,
        };
        forward.into_iter().flat_map(|forward| {
            let (one, several) = match &forward.cluster {
                ClusterChoice::One(index) => (Some(*index), &[][..]),
                ClusterChoice::Weighted(weighted) => (None, weighted.clusters()),
                ClusterChoice::Header(_) => (None, &[][..]),
            };
            let mirrors = forward.mirrors.iter().filter_map(|mirror| match mirror.cluster {
                MirrorCluster::One(index) => Some(index),
                MirrorCluster::Header(_) => None,
            });
            one.into_iter().chain(several.iter().map(|cluster| cluster.index)).chain(mirrors)
        })
    }
}

impl RequireTls {
    pub(super) fn holds(self, request: &RequestView<'_>) -> bool {
        let is_internal =
            || request.headers.get("x-envoy-internal").is_some_and(|value| value == "true");
        match self {
            Self::None => false,
            Self::ExternalOnly => request.forwarded_proto() != "https" && !is_internal(),
            Self::All => request.forwarded_proto() != "https",
        }
    }
}
