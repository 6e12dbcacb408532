//! What a path under `/api` and `/apis` means.

use http::StatusCode;

use crate::api::refusal::Refusal;
use crate::model::kind::{KINDS, Kind, kind_by_path};
use crate::store::state::ObjectKey;

/// Objects of a kind, one of them, or its status.
#[derive(Debug, Clone)]
pub struct Target {
    /// The kind.
    pub kind: &'static Kind,
    /// The version that was asked for.
    pub version: String,
    /// The namespace, where the path names one.
    pub namespace: Option<String>,
    /// The name, where the path names one.
    pub name: Option<String>,
    /// Whether it is about the status.
    pub is_status: bool,
}

/// What a path is about.
#[derive(Debug, Clone)]
pub enum Path {
    /// The kinds of a group and version.
    Resources {
        /// Empty for the core kinds.
        group: String,
        /// `v1`.
        version: String,
    },
    /// Objects.
    Objects(Target),
}

impl Target {
    /// The key of an object of this name.
    pub fn key(&self, name: &str) -> ObjectKey {
        let namespace = match &self.namespace {
            Some(namespace) if self.kind.namespaced => namespace.clone(),
            _ => String::new(),
        };
        ObjectKey { kind: self.kind, namespace, name: name.to_owned() }
    }

    /// `apiVersion` of the version that was asked for.
    pub fn api_version(&self) -> String {
        self.kind.api_version_of(&self.version)
    }
}

/// Reads what stands after `/api/` (`group` is empty then) or after `/apis/GROUP/`.
///
/// # Errors
/// 404.
pub fn parse(group: &str, rest: &str) -> Result<Path, Refusal> {
    let mut parts = rest.trim_end_matches('/').split('/');
    let version = parts.next().unwrap_or_default();
    let known = KINDS.iter().any(|kind| kind.group == group && kind.serves_version(version));
    if !known {
        return Err(no_such_path(group, version));
    }
    let parts: Vec<&str> = parts.collect();
    let (namespace, parts) = match parts.as_slice() {
        [] => {
            return Ok(Path::Resources { group: group.to_owned(), version: version.to_owned() });
        }
        // `namespaces/NS` and `namespaces/NS/status` are the Namespace itself.
        ["namespaces", _, "status"] | ["namespaces", _] | ["namespaces"] if group.is_empty() => {
            (None, parts.as_slice())
        }
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, name, is_status) = match parts {
        [plural] => (plural, None, false),
        [plural, name] => (plural, Some(*name), false),
        [plural, name, "status"] => (plural, Some(*name), true),
        _ => return Err(no_such_path(group, version)),
    };
    let kind = kind_by_path(group, version, plural).ok_or_else(|| no_such_path(group, version))?;
    let wants_namespace = kind.namespaced && name.is_some();
    if (wants_namespace && namespace.is_none())
        || (!kind.namespaced && namespace.is_some())
        || (is_status && !kind.has_status)
    {
        return Err(no_such_path(group, version));
    }
    let (version, name) = (version.to_owned(), name.map(str::to_owned));
    Ok(Path::Objects(Target { kind, version, namespace, name, is_status }))
}

fn no_such_path(group: &str, version: &str) -> Refusal {
    let place = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let detail = format!("the server could not find the requested resource in {place}");
    Refusal::new(StatusCode::NOT_FOUND, crate::finding::codes::NOT_FOUND, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "gateway.networking.k8s.io";

    fn shown(group: &str, rest: &str) -> String {
        match parse(group, rest) {
            Ok(Path::Objects(t)) => {
                format!("{} {:?} {:?} {}", t.kind.kind, t.namespace, t.name, t.is_status)
            }
            Ok(Path::Resources { version, .. }) => format!("resources {version}"),
            Err(refusal) => refusal.status.as_str().to_owned(),
        }
    }

    #[test]
    fn paths_mean_what_they_mean_in_kubernetes() {
        for (group, rest, expected) in [
            ("", "v1", "resources v1"),
            ("", "v1/namespaces", "Namespace None None false"),
            ("", "v1/namespaces/shop", "Namespace None Some(\"shop\") false"),
            ("", "v1/namespaces/shop/secrets", "Secret Some(\"shop\") None false"),
            ("", "v1/namespaces/shop/secrets/s", "Secret Some(\"shop\") Some(\"s\") false"),
            ("", "v1/secrets", "Secret None None false"),
            ("", "v1/secrets/s", "404"),
            (GROUP, "v1beta1/httproutes", "HTTPRoute None None false"),
            (
                GROUP,
                "v1/namespaces/a/httproutes/b/status",
                "HTTPRoute Some(\"a\") Some(\"b\") true",
            ),
            (GROUP, "v1/gatewayclasses/weighlock", "GatewayClass None Some(\"weighlock\") false"),
            (GROUP, "v1/namespaces/a/gatewayclasses/weighlock", "404"),
            (GROUP, "v1/namespaces/a/httproutes/b/scale", "404"),
            (GROUP, "v2/httproutes", "404"),
            (GROUP, "v1/namespaces/a", "404"),
            ("x", "v1", "404"),
        ] {
            assert_eq!(shown(group, rest), expected, "{group} {rest}");
        }
    }
}
