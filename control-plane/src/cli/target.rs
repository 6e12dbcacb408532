//! Which document is meant: a kind, and `[namespace/]name[/rule]`.

use serde_json::Value;

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
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

    /// The document, or what else is asked of its path. Where there is none, the refusal says which
    /// name was meant.
    pub(super) async fn fetch(&self, session: &Session, ask: &Ask) -> Result<Value, Problem> {
        match session.client.json(ask).await {
            Err(problem) if problem.code == "WL0404" => Err(self.explain(session, problem).await),
            answer => answer,
        }
    }

    /// Adds to a refusal about a document that is not there what may have been meant.
    pub(super) async fn explain(&self, session: &Session, problem: Problem) -> Problem {
        let Some(name) = &self.name else { return problem };
        let list = Self { name: None, ..self.clone() };
        let Ok(list) = session.client.json(&Ask::get(list.path())).await else { return problem };
        problem.help(meant(self.kind, name, &list))
    }

    /// The list of all namespaces.
    pub(super) fn path_everywhere(&self) -> String {
        format!("{}/{}", root(self.kind), self.kind.plural)
    }
}

/// The name in the list that is like this one, or where all of them stand.
fn meant(kind: &Kind, name: &str, list: &Value) -> String {
    let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
    let names = items.filter_map(|item| item.pointer("/metadata/name")?.as_str());
    match suggest(name, names) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("wlctl get {} -A lists what there is", kind.plural),
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
    use serde_json::json;

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
    fn a_name_that_is_not_there_names_the_one_that_was_meant() {
        let target = Target::parse("httproute/shpo", None, "x").unwrap();
        let list = json!({"items": [{"metadata": {"name": "shop"}}, {"metadata": {"name": "a"}}]});
        assert_eq!(meant(target.kind, "shpo", &list), "did you mean shop?");
        let help = meant(target.kind, "other", &list);
        assert_eq!(help, "wlctl get httproutes -A lists what there is");
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
