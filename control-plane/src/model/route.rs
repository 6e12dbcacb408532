//! What all kinds of routes have: parents, hostnames and backends.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::finding::codes;
use crate::model::filter::HttpFilter;
use crate::model::kind::Column;
use crate::model::meta::{condition, joined};
use crate::model::schema::{
    Field, ObjectSchema, Report, Schema, defaulted, list, optional, required,
};
use crate::model::text::Format;

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

/// Where a share of the requests goes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendRef {
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
    #[serde(default = "one")]
    pub weight: u32,
    /// What is done to its share.
    #[serde(default)]
    pub filters: Vec<HttpFilter>,
}

fn one() -> u32 {
    1
}

/// `spec.parentRefs`.
pub(super) const PARENTS: Field = optional("parentRefs", list(&PARENT, 32));

static PARENT: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        defaulted("group", "\"gateway.networking.k8s.io\"", Schema::Text(Format::Group)),
        defaulted("kind", "\"Gateway\"", Schema::Text(Format::KindName)),
        optional("namespace", Schema::Text(Format::Label)),
        required("name", Schema::Text(Format::Filled(253))),
        optional("sectionName", Schema::Text(Format::Subdomain)),
        optional("port", Schema::Integer { min: 1, max: 65535 }),
    ],
    rules: &[],
});

/// `spec.hostnames` of routes of HTTP.
pub(super) const HOSTNAMES: Field = optional("hostnames", list(&HOSTNAME, 16));

/// One hostname.
pub(super) const HOSTNAME: Schema = Schema::Text(Format::Hostname);

/// `name` of a rule.
pub(super) const RULE_NAME: Field = optional("name", Schema::Text(Format::Subdomain));

/// The group of a backend.
pub(super) const BACKEND_GROUP: Field = defaulted("group", "\"\"", Schema::Text(Format::Group));
/// The kind of a backend.
pub(super) const BACKEND_KIND: Field =
    defaulted("kind", "\"Service\"", Schema::Text(Format::KindName));
/// The name of a backend.
pub(super) const BACKEND_NAME: Field = required("name", Schema::Text(Format::Filled(253)));
/// The namespace of a backend.
pub(super) const BACKEND_NAMESPACE: Field = optional("namespace", Schema::Text(Format::Label));
/// The port of a backend.
pub(super) const BACKEND_PORT: Field = optional("port", Schema::Integer { min: 1, max: 65535 });
/// The weight of a backend.
pub(super) const BACKEND_WEIGHT: Field =
    defaulted("weight", "1", Schema::Integer { min: 0, max: 1_000_000 });

/// Where a copy goes, or whom to ask: a backend without a weight.
pub(super) const BACKEND_OBJECT: Schema = Schema::Object(&ObjectSchema {
    fields: &[BACKEND_GROUP, BACKEND_KIND, BACKEND_NAME, BACKEND_NAMESPACE, BACKEND_PORT],
    rules: &[port_by_kind],
});

/// A Service is reached at a port; a Backend names its ports itself.
pub(super) fn port_by_kind(reference: &Value, report: &mut Report) {
    let kind = (reference["group"].as_str(), reference["kind"].as_str());
    let has_port = !reference["port"].is_null();
    if kind == (Some(""), Some("Service")) && !has_port {
        report.add_at("port", codes::REQUIRED, "required for a Service");
        report.help(Some("for a Backend, give group: weighlock.dev and kind: Backend".to_owned()));
    } else if kind == (Some("weighlock.dev"), Some("Backend")) && has_port {
        report.add_at("port", codes::CONTRADICTION, "a Backend names its ports itself");
    }
}

/// The rules of a route.
pub(super) fn rules_of(spec: &Value) -> &[Value] {
    spec["rules"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A route has at most 128 matches.
pub(super) fn not_too_many_matches(spec: &Value, report: &mut Report) {
    let count: usize =
        rules_of(spec).iter().filter_map(|rule| rule["matches"].as_array()).map(Vec::len).sum();
    if count > 128 {
        let message = format!("must have at most 128 matches over all rules, has {count}");
        report.add_at("rules", codes::OUT_OF_RANGE, message);
    }
}

/// Rules that are named have names of their own.
pub(super) fn rule_names_differ(spec: &Value, report: &mut Report) {
    let rules = rules_of(spec);
    for (index, rule) in rules.iter().enumerate() {
        let first = rules.iter().take(index).position(|other| other["name"] == rule["name"]);
        if let (false, Some(first)) = (rule["name"].is_null(), first) {
            let message = format!("given twice: the name of rule {first}");
            report.add_at(&format!("rules[{index}].name"), codes::DUPLICATE, message);
        }
    }
}

/// Several references to one parent must each name a section, and each another one.
pub(super) fn parents_differ(spec: &Value, report: &mut Report) {
    let parents = spec["parentRefs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let parent =
        |entry: &Value| ["group", "kind", "namespace", "name"].map(|field| entry[field].clone());
    let section = |entry: &Value| [entry["sectionName"].clone(), entry["port"].clone()];
    for (index, entry) in parents.iter().enumerate() {
        let before = parents.iter().take(index).filter(|other| parent(other) == parent(entry));
        for other in before {
            let place = format!("parentRefs[{index}]");
            if other["sectionName"].is_null() != entry["sectionName"].is_null() {
                let message = "must be given when one parent is referred to twice";
                report.add_at(&format!("{place}.sectionName"), codes::CONTRADICTION, message);
                break;
            } else if section(other) == section(entry) {
                report.add_at(&place, codes::DUPLICATE, "given twice");
                break;
            }
        }
    }
}

/// A rule whose weights are all zero would answer every request with an error.
pub(super) fn some_weight(rule: &Value, report: &mut Report) {
    let references = rule["backendRefs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !references.is_empty() && references.iter().all(|reference| reference["weight"] == 0) {
        let message = "the weights must not all be 0: no backend would get a request";
        report.add_at("backendRefs", codes::OUT_OF_RANGE, message);
    }
}

pub(super) const HOSTNAMES_COLUMN: Column =
    Column { name: "HOSTNAMES", wide: false, text: |value| joined(&value["spec"]["hostnames"]) };
pub(super) const ACCEPTED_COLUMN: Column =
    Column { name: "ACCEPTED", wide: false, text: accepted_text };
pub(super) const BACKENDS_COLUMN: Column =
    Column { name: "BACKENDS", wide: true, text: backends_text };

/// `True` when every parent accepted it, else the first that did not.
fn accepted_text(document: &Value) -> String {
    let parents = document["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut states = parents.iter().map(|parent| condition(&parent["conditions"], "Accepted"));
    let first = states.next().unwrap_or_default();
    states.find(|state| state != "True").unwrap_or(first)
}

/// Every backend with its weight.
fn backends_text(document: &Value) -> String {
    let rules = rules_of(&document["spec"]);
    let references = rules.iter().filter_map(|rule| rule["backendRefs"].as_array()).flatten();
    let one = |reference: &Value| {
        format!("{}={}", reference["name"].as_str().unwrap_or_default(), reference["weight"])
    };
    references.map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Finding;
    use crate::model::kind::Kind;

    /// A spec with its defaults, and what is wrong with it.
    pub(in crate::model) fn checked(kind: &Kind, spec: Value) -> (Value, Vec<String>) {
        let mut document = json!({
            "apiVersion": format!("{}/{}", kind.group, kind.version), "kind": kind.kind,
            "metadata": {"name": "r"}, "spec": spec,
        });
        let findings = kind.check(&mut document);
        let text = |f: &Finding| format!("{} {}: {}", f.code, f.field, f.message);
        (document["spec"].take(), findings.iter().map(text).collect())
    }
}
