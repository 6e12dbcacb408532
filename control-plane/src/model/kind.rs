//! The kinds that Weighlock serves: names, schema and columns of each, in one table.

use serde_json::Value;

use crate::finding::suggest::did_you_mean;
use crate::finding::{Finding, Severity, codes};
use crate::model::schema::{self, Problem, Report, Schema};
use crate::model::{
    backend, configmap, endpointslice, gateway, gatewayclass, grpcroute, httproute, l4route,
    listenerset, namespace, referencegrant, secret, service,
};

/// One kind of document.
#[derive(Debug)]
pub struct Kind {
    /// The API group; empty for the core kinds.
    pub group: &'static str,
    /// The version that is stored.
    pub version: &'static str,
    /// Versions that are taken and given back too; the schema is the same.
    pub also_versions: &'static [&'static str],
    /// `HTTPRoute`.
    pub kind: &'static str,
    /// `httproutes`.
    pub plural: &'static str,
    /// `httproute`.
    pub singular: &'static str,
    /// `gtw`.
    pub short_names: &'static [&'static str],
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    /// Whether its objects have a status that we write.
    pub has_status: bool,
    /// What a table shows of an object, after its name and before its age.
    pub columns: &'static [Column],
    /// What a document of this kind looks like, from its root.
    pub schema: Schema,
    /// What the schema cannot say or normalise; runs when the schema holds.
    pub extra: fn(&mut Value, &mut Report),
}

/// One column of a table.
#[derive(Debug)]
pub struct Column {
    /// Its head, in capitals.
    pub name: &'static str,
    /// Whether only a wide table shows it.
    pub wide: bool,
    /// The text for one object; empty when there is none.
    pub text: fn(&Value) -> String,
}

/// Every kind, in the order in which documents that refer to one another should be read.
pub static KINDS: &[&Kind] = &[
    &namespace::KIND,
    &secret::KIND,
    &configmap::KIND,
    &gatewayclass::KIND,
    &referencegrant::KIND,
    &service::KIND,
    &endpointslice::KIND,
    &backend::KIND,
    &gateway::KIND,
    &listenerset::KIND,
    &httproute::KIND,
    &grpcroute::KIND,
    &l4route::TLS,
    &l4route::TCP,
];

/// The kind of this group and kind name, whatever the version.
pub fn kind_by(group: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|known| known.group == group && known.kind == kind)
}

/// The kind with this group, version and plural: the parts of a URL.
pub fn kind_by_path(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    let fits = |known: &&Kind| {
        known.group == group && known.plural == plural && known.serves_version(version)
    };
    KINDS.iter().copied().find(fits)
}

/// The kind that a person means by its plural, singular, short or full name, in any case, with or
/// without `.group`.
pub fn kind_by_word(word: &str) -> Option<&'static Kind> {
    let word = word.to_lowercase();
    let (name, group) = word.split_once('.').unwrap_or((&word, ""));
    KINDS.iter().copied().find(|kind| {
        let named = kind.plural == name
            || kind.singular == name
            || kind.short_names.contains(&name)
            || kind.kind.to_lowercase() == name;
        named && (group.is_empty() || kind.group == group)
    })
}

/// The kind that a document says it is.
///
/// # Errors
/// A finding that names the kind or version that was meant.
pub fn kind_of(document: &Value) -> Result<&'static Kind, Box<Finding>> {
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let finding = |code, field: &str, message: String, help| {
        let object = format!("{kind} {}", name_of(document));
        Box::new(Finding {
            code,
            severity: Severity::Error,
            object: object.trim().to_owned(),
            field: field.to_owned(),
            message,
            help,
        })
    };
    if kind.is_empty() || api_version.is_empty() {
        let field = if kind.is_empty() { "kind" } else { "apiVersion" };
        return Err(finding(codes::REQUIRED, field, "required".into(), None));
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let Some(known) = kind_by(group, kind) else {
        let elsewhere = KINDS.iter().find(|known| known.kind == kind);
        let help = match elsewhere {
            Some(known) => Some(format!("{kind} is of apiVersion {}", known.api_version())),
            None => did_you_mean(kind, KINDS.iter().map(|known| known.kind)),
        };
        let message = format!("{api_version} {kind} is no kind that is served here");
        return Err(finding(codes::UNKNOWN_KIND, "kind", message, help));
    };
    if !known.serves_version(version) {
        let message = format!("{kind} has no version {version}");
        let help = Some(format!("use apiVersion {}", known.api_version()));
        return Err(finding(codes::UNKNOWN_KIND, "apiVersion", message, help));
    }
    Ok(known)
}

/// `namespace/name` of a document, or its name alone.
pub fn name_of(document: &Value) -> String {
    let metadata = &document["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    match (text("namespace"), text("name")) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

impl Kind {
    /// `apiVersion` of the stored version.
    pub fn api_version(&self) -> String {
        self.api_version_of(self.version)
    }

    /// `apiVersion` of some version.
    pub fn api_version_of(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// Whether documents may have this version.
    pub fn serves_version(&self, version: &str) -> bool {
        self.version == version || self.also_versions.contains(&version)
    }

    /// Checks everything inside one document, strictly, and fills in defaults as an API server
    /// does. `apiVersion` becomes the stored version.
    pub fn check(&self, document: &mut Value) -> Vec<Finding> {
        let mut report = Report::default();
        if self.namespaced
            && let Some(metadata) = document["metadata"].as_object_mut()
            && metadata
                .get("namespace")
                .is_none_or(|namespace| namespace.is_null() || namespace == "")
        {
            metadata.insert("namespace".into(), "default".into());
        }
        schema::check(&self.schema, document, &mut report);
        if let Some(version) = document.get_mut("apiVersion") {
            *version = self.api_version().into();
        }
        if report.problems.is_empty() {
            (self.extra)(document, &mut report);
        }
        let object = format!("{} {}", self.kind, name_of(document)).trim().to_owned();
        report.problems.into_iter().map(|problem| finding(&object, problem)).collect()
    }
}

fn finding(object: &str, problem: Problem) -> Finding {
    let Problem { code, field, message, help } = problem;
    Finding { code, severity: Severity::Error, object: object.to_owned(), field, message, help }
}

/// Nothing that the schema does not say.
pub(crate) fn no_extra(_: &mut Value, _: &mut Report) {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_found_by_what_people_call_them() {
        for word in ["gtw", "Gateway", "gateways", "gateway.gateway.networking.k8s.io"] {
            assert_eq!(kind_by_word(word).map(|kind| kind.kind), Some("Gateway"), "{word}");
        }
        assert!(kind_by_word("gatway").is_none());
    }

    #[test]
    fn a_wrong_kind_or_version_is_named() {
        let wrong = |api_version: &str, kind: &str| {
            let document =
                json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
            kind_of(&document).map(|kind| kind.kind).map_err(|finding| finding.to_string())
        };
        assert_eq!(wrong("gateway.networking.k8s.io/v1beta1", "HTTPRoute"), Ok("HTTPRoute"));
        assert_eq!(
            wrong("gateway.networking.k8s.io/v1", "HttpRoute").unwrap_err(),
            "WL0006 HttpRoute x: kind: gateway.networking.k8s.io/v1 HttpRoute is no kind that is \
             served here (did you mean HTTPRoute?)"
        );
        assert_eq!(
            wrong("gateway.networking.k8s.io/v2", "HTTPRoute").unwrap_err(),
            "WL0006 HTTPRoute x: apiVersion: HTTPRoute has no version v2 (use apiVersion \
             gateway.networking.k8s.io/v1)"
        );
        assert_eq!(wrong("", "HTTPRoute").unwrap_err(), "WL0005 HTTPRoute x: apiVersion: required");
    }

    #[test]
    fn a_document_without_namespace_lies_in_default() {
        let mut document = json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "HTTPRoute",
            "metadata": {"name": "x"}, "spec": {"ruels": []},
        });
        let findings = kind_of(&document).unwrap().check(&mut document);
        assert_eq!(
            findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["WL0002 HTTPRoute default/x: spec.ruels: unknown field (did you mean rules?)"]
        );
        assert_eq!(document["metadata"]["namespace"], "default");
        assert_eq!(document["apiVersion"], "gateway.networking.k8s.io/v1");
    }
}
