//! What the compilation of a route needs to know of what is around it.

use std::collections::HashMap;
use std::sync::Arc;

use xds_proto::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use xds_proto::field::FieldError;
use xds_proto::google::protobuf::Any;

use super::mirror;
use crate::chain::overrides::{self, FilterSet, Levels, OverrideTable};
use crate::matcher::uri_template::UriTemplate;
use crate::retry::RetryPolicy;
use crate::route::action::ClusterIndex;
use crate::route::mirror::MirrorPolicy;

/// What the virtual hosts of a route configuration have of it.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// `max_direct_response_body_size_bytes`.
    pub(super) body_bytes_max: usize,
    /// What the configuration says of filters, and where in it that is.
    pub(super) overrides: OverrideTable,
    pub(super) filters: FilterSet,
    /// The clusters that this names.
    pub(super) clusters: Vec<Arc<str>>,
    pub(super) mirrors: Vec<RequestMirrorPolicy>,
}

/// What a route's compilation needs to know of what is around it.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) clusters: HashMap<Arc<str>, ClusterIndex>,
    pub(super) cluster_names: Vec<Arc<str>>,
    /// The virtual host's, for routes without their own.
    pub(super) retry: Option<Arc<RetryPolicy>>,
    /// How much of a request is kept for a retry.
    pub(super) kept_bytes_max: usize,
    /// Those of the levels above, for routes without their own.
    pub(super) mirrors: Arc<[MirrorPolicy]>,
    /// The template that the route's paths match, for its rewrite.
    pub(super) template: Option<UriTemplate>,
    /// `max_direct_response_body_size_bytes`.
    pub(super) body_bytes_max: usize,
    pub(super) overrides: OverrideTable,
    /// What the level around says of filters, and where that is.
    pub(super) filters: FilterSet,
    pub(super) place: Arc<str>,
    /// The name of routes without one, which they share.
    pub(super) nameless: Arc<str>,
    /// The number of the route in its virtual host.
    pub(super) route: usize,
}

impl Surroundings {
    /// What is around the routes of a virtual host.
    pub(super) fn of_host(inherited: &Inherited) -> Result<Self, FieldError> {
        let mut around = Self {
            body_bytes_max: inherited.body_bytes_max,
            overrides: inherited.overrides.clone(),
            filters: inherited.filters,
            ..Self::default()
        };
        for cluster in &inherited.clusters {
            around.cluster(cluster.to_string())?;
        }
        around.mirrors = mirror::compile(inherited.mirrors.clone(), &mut around, &Arc::from([]))?;
        Ok(around)
    }

    /// The index of a cluster, which is new or known.
    pub(super) fn cluster(&mut self, name: String) -> Result<ClusterIndex, FieldError> {
        if let Some(index) = self.clusters.get(name.as_str()) {
            return Ok(*index);
        }
        let index = u32::try_from(self.cluster_names.len())
            .map(ClusterIndex)
            .map_err(|_| FieldError::invalid("too many clusters"))?;
        let name: Arc<str> = name.into();
        self.cluster_names.push(Arc::clone(&name));
        self.clusters.insert(name, index);
        Ok(index)
    }

    /// What is said of filters at a level of this name below the present one.
    pub(super) fn filters(
        &mut self,
        configs: HashMap<String, Any>,
        name: impl FnOnce() -> String,
    ) -> Result<FilterSet, FieldError> {
        if configs.is_empty() {
            return Ok(self.filters);
        }
        let place = format!("{}/{}", self.place, name()).into();
        let levels = overrides::compile(configs, &place)?;
        self.join(levels)
    }

    fn join(&mut self, levels: Levels) -> Result<FilterSet, FieldError> {
        for cluster in overrides::clusters(&levels) {
            self.cluster(cluster.to_string())?;
        }
        self.overrides.join(self.filters, levels)
    }
}
