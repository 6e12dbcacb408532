//! HTTPRoute: which requests go where, and what is done to them on the way.

use serde::Deserialize;

use crate::model::kind::{Kind, no_extra};
use crate::model::meta::{Metadata, document};
use crate::model::route::{ACCEPTED_COLUMN, BACKENDS_COLUMN, HOSTNAMES_COLUMN, Parent};
use crate::model::rule::{Rule, ValueMatch};

mod schema;

/// A route.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HttpRoute {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: HttpRouteSpec,
}

/// What a route asks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteSpec {
    /// The gateways or sections that it attaches to; each is kept as it was written beside it.
    #[serde(default)]
    pub parent_refs: Vec<Parent>,
    /// The hostnames that it answers for; none is all of the listener.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Its rules.
    pub rules: Vec<Rule<HttpMatch>>,
    /// Whether it attaches to default gateways.
    pub use_default_gateways: Option<String>,
}

/// What a request must be; all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// Its path.
    pub path: PathMatch,
    /// Its headers.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
    /// Its query parameters.
    #[serde(default)]
    pub query_params: Vec<ValueMatch>,
    /// Its method.
    pub method: Option<String>,
}

impl Default for HttpMatch {
    /// Every request.
    fn default() -> Self {
        Self {
            path: PathMatch::PathPrefix("/".to_owned()),
            headers: Vec::new(),
            query_params: Vec::new(),
            method: None,
        }
    }
}

/// What a path must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum PathMatch {
    /// This.
    Exact(String),
    /// This, or this and more segments.
    PathPrefix(String),
    /// All of it matches this expression.
    RegularExpression(String),
}

/// The kind.
pub static KIND: Kind = Kind {
    group: "gateway.networking.k8s.io",
    version: "v1",
    also_versions: &["v1beta1"],
    kind: "HTTPRoute",
    plural: "httproutes",
    singular: "httproute",
    short_names: &[],
    namespaced: true,
    has_status: true,
    columns: &[HOSTNAMES_COLUMN, ACCEPTED_COLUMN, BACKENDS_COLUMN],
    schema: document!(crate::model::schema::required("spec", schema::SPEC)),
    extra: no_extra,
};
