//! Which document is meant: a kind, and `[namespace/]name[/rule]`.

use super::problem::{Exit, Problem};
use crate::finding::suggest::suggest;
use crate::model::kind::{KINDS, Kind, kind_by_word};

/// A document, or all of a kind.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) kind: &'static Kind,
    pub(super) namespace: String,
    pub(super) name: Option<String>,
}

impl Target {
    /// What `KIND [NAME]`, `KIND/NAME` or `KIND/NAMESPACE/NAME` mean.
    pub(super) fn parse(kind: &str, name: Option<&str>, namespace: &str) -> Result<Self, Problem> {
        let (word, name) = match (kind.split_once('/'), name) {
            (Some(_), Some(_)) => {
                return Err(Problem::usage("the name is given twice")
                    .help("write KIND NAME or KIND/NAME, not both"));
            }
            (Some((word, name)), None) => (word, Some(name)),
            (None, name) => (kind, name),
        };
        let kind = self::kind(word)?;
        let (namespace, name) = match name.and_then(|name| name.split_once('/')) {
            Some((namespace, name)) => (namespace, Some(name)),
            None => (namespace, name),
        };
        if name.is_some_and(|name| name.is_empty() || name.contains('/')) {
            return Err(Problem::usage(format!(
                "{word}: no such name as {:?}",
                name.unwrap_or_default()
            ))
            .help("a name is NAME or NAMESPACE/NAME"));
        }
        Ok(Self { kind, namespace: namespace.to_owned(), name: name.map(str::to_owned) })
    }

    /// Its place in the Kubernetes-shaped API. Without a name, the list of a namespace.
    pub(super) fn path(&self) -> String {
        let mut path = root(self.kind);
        if self.kind.namespaced {
            path += &format!("/namespaces/{}", self.namespace);
        }
        path += &format!("/{}", self.kind.plural);
        if let Some(name) = &self.name {
            path += &format!("/{name}");
        }
        path
    }

    /// The list of all namespaces.
    pub(super) fn path_everywhere(&self) -> String {
        format!("{}/{}", root(self.kind), self.kind.plural)
    }
}

fn root(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    }
}

/// The kind that this word names.
fn kind(word: &str) -> Result<&'static Kind, Problem> {
    if let Some(kind) = kind_by_word(word) {
        return Ok(kind);
    }
    let problem = Problem::new(Exit::WrongInput, "WL0006", format!("unknown kind {word:?}"));
    let words = KINDS.iter().flat_map(|kind| [kind.singular, kind.plural]);
    Err(match suggest(&word.to_lowercase(), words) {
        Some(meant) => problem.help(format!("did you mean {meant}?")),
        None => {
            let known: Vec<&str> = KINDS.iter().map(|kind| kind.plural).collect();
            problem.help(format!("kinds: {}", known.join(", ")))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kind: &str, name: Option<&str>) -> String {
        Target::parse(kind, name, "shop").map(|target| target.path()).unwrap_or_else(|p| p.title)
    }

    #[test]
    fn kinds_and_names_are_read_in_every_form() {
        let routes = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";
        assert_eq!(path("HTTPRoute", None), routes);
        assert_eq!(path("httproutes/a", None), format!("{routes}/a"));
        assert_eq!(path("httproute", Some("a")), format!("{routes}/a"));
        assert_eq!(path("secret", Some("x/a")), "/api/v1/namespaces/x/secrets/a");
        assert_eq!(path("gc", Some("a")), "/apis/gateway.networking.k8s.io/v1/gatewayclasses/a");
    }

    #[test]
    fn an_unknown_kind_names_the_one_that_was_meant() {
        let problem = Target::parse("htproute", None, "x").unwrap_err();
        assert_eq!(problem.help.as_deref(), Some("did you mean httproute?"));
        let problem = Target::parse("pod", None, "x").unwrap_err();
        assert!(problem.help.unwrap().starts_with("kinds: "));
        assert!(Target::parse("httproute/a", Some("b"), "x").is_err());
        assert!(Target::parse("httproute/a/b/c", None, "x").is_err());
    }
}
