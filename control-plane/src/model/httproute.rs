//! HTTPRoute: which requests go where, and what is done to them on the way.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::duration;
use crate::model::kind::{Column, Kind, no_extra};
use crate::model::meta::{Metadata, condition, document, joined};

pub mod filter;
mod schema;

use filter::HttpFilter;

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
    pub rules: Vec<HttpRule>,
    /// Whether it attaches to default gateways.
    pub use_default_gateways: Option<String>,
}

/// A parent reference, read and as it was written: status must repeat it word for word.
#[derive(Debug, Clone, PartialEq)]
pub struct Parent {
    /// As it was written.
    pub written: Value,
    /// What it says.
    pub parent: ParentRef,
}

/// What a route attaches to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// The API group of the parent.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; none is the route's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The listener; none is all.
    pub section_name: Option<String>,
    /// The listener's port; none is any.
    pub port: Option<u16>,
}

impl<'de> Deserialize<'de> for Parent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Value::deserialize(deserializer)?;
        let parent = ParentRef::deserialize(&written).map_err(serde::de::Error::custom)?;
        Ok(Self { written, parent })
    }
}

/// One rule: requests that match any of `matches` are filtered and sent to `backend_refs`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRule {
    /// Its name within the route.
    pub name: Option<String>,
    /// The requests it is for.
    #[serde(default)]
    pub matches: Vec<HttpMatch>,
    /// What is done to them.
    #[serde(default)]
    pub filters: Vec<HttpFilter>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<HttpBackendRef>,
    /// How long they may take.
    pub timeouts: Option<Timeouts>,
    /// When they are sent again.
    pub retry: Option<Value>,
    /// What keeps a client at its backend.
    pub session_persistence: Option<Value>,
}

/// How long a request may take; zero is for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// All of it.
    #[serde(default, deserialize_with = "optional_duration")]
    pub request: Option<Duration>,
    /// One try of it.
    #[serde(default, deserialize_with = "optional_duration")]
    pub backend_request: Option<Duration>,
}

fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| duration::parse(&text).ok_or_else(|| serde::de::Error::custom("no duration")))
        .transpose()
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

/// What a header or query parameter must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueMatch {
    /// How the value is compared.
    #[serde(rename = "type")]
    pub match_type: ValueMatchType,
    /// The name.
    pub name: String,
    /// The value or expression.
    pub value: String,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ValueMatchType {
    /// They are equal.
    Exact,
    /// All of it matches the expression.
    RegularExpression,
}

/// Where a share of the requests goes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpBackendRef {
    /// The API group of the backend.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; none is the route's.
    pub namespace: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Its share beside the others.
    pub weight: u32,
    /// What is done to its share.
    #[serde(default)]
    pub filters: Vec<HttpFilter>,
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
    columns: &[
        Column {
            name: "HOSTNAMES",
            wide: false,
            text: |value| joined(&value["spec"]["hostnames"]),
        },
        Column { name: "ACCEPTED", wide: false, text: accepted_text },
        Column { name: "BACKENDS", wide: true, text: backends_text },
    ],
    schema: document!(crate::model::schema::required("spec", schema::SPEC)),
    extra: no_extra,
};

/// `True` when every parent accepted it, else the first that did not.
fn accepted_text(document: &Value) -> String {
    let parents = document["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut states = parents.iter().map(|parent| condition(&parent["conditions"], "Accepted"));
    let first = states.next().unwrap_or_default();
    states.find(|state| state != "True").unwrap_or(first)
}

fn backends_text(document: &Value) -> String {
    let rules = document["spec"]["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    let references = rules.iter().filter_map(|rule| rule["backendRefs"].as_array()).flatten();
    let one = |reference: &Value| {
        format!("{}={}", reference["name"].as_str().unwrap_or_default(), reference["weight"])
    };
    references.map(one).collect::<Vec<_>>().join(",")
}
