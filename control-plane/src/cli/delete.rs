//! `wlctl delete`: documents go, all of them in one revision.

use std::io::{self, BufRead};

use http::Method;
use serde_json::{Value, json};

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
use super::target::Target;
use super::{DeleteArgs, files, rollout, show};
use crate::source::documents;

/// More than these are counted, not listed.
const LISTED_MAX: usize = 20;

pub(super) async fn run(session: &Session, args: &DeleteArgs) -> Result<Exit, Problem> {
    let target = args.files.is_empty().then(|| target(session, args)).transpose()?;
    let documents = match &target {
        Some(target) => vec![named(target)],
        None => from_files(args)?,
    };
    if documents.is_empty() {
        return Err(Problem::usage("the files hold no documents"));
    }
    let names: Vec<String> =
        documents.iter().map(|document| name(document, &session.namespace)).collect();
    confirm(session, args.yes, &names)?;
    let mut ask = Ask { method: Method::POST, ..Ask::get("/v1/apply") }.query("delete", "true");
    ask.body = Some((
        "application/json".into(),
        json!({"apiVersion": "v1", "kind": "List", "items": documents}).to_string().into(),
    ));
    ask = ask.query("namespace", session.namespace.as_str());
    if let Some(reason) = &args.reason {
        ask = ask.query("reason", reason.as_str());
    }
    let ask = rollout::waiting(ask, args.wait.limit(session.timeout));
    let answer = match (rollout::change(session, &ask).await, &target) {
        (Err(problem), Some(target)) if problem.code == "WL0404" => {
            return Err(target.explain(session, problem).await);
        }
        (answer, _) => answer.map_err(how_to_go_on)?,
    };
    let summary = rollout::summary(&answer);
    let what = match summary.as_str() {
        "nothing to change" => "unchanged: nothing to delete".to_owned(),
        summary => format!("applied: {summary}"),
    };
    rollout::report(session, &answer, &what)
}

/// What stays would refer to what goes: it has to go too, or refer to something else.
fn how_to_go_on(problem: Problem) -> Problem {
    let breaks_others = problem.exit == Exit::WrongInput && problem.code.starts_with("WL003");
    if !breaks_others || problem.help.is_some() {
        return problem;
    }
    problem.help("change what refers to it first, or delete all of it together: wlctl delete -f")
}

/// What the command line names.
fn target(session: &Session, args: &DeleteArgs) -> Result<Target, Problem> {
    let kind = args.kind.as_deref().unwrap_or_default();
    let target = Target::parse(kind, args.name.as_deref(), &session.namespace)?;
    if target.name.is_none() {
        return Err(Problem::usage(format!("which {}?", target.kind.singular))
            .help(format!("wlctl delete {} NAME", target.kind.singular)));
    }
    Ok(target)
}

/// The one document that the command line names.
fn named(target: &Target) -> Value {
    let version = match target.kind.group {
        "" => target.kind.version.to_owned(),
        group => format!("{group}/{}", target.kind.version),
    };
    let mut metadata = json!({"name": target.name});
    if target.kind.namespaced {
        metadata["namespace"] = json!(target.namespace);
    }
    json!({"apiVersion": version, "kind": target.kind.kind, "metadata": metadata})
}

/// Names only: what else the documents say does not matter.
fn from_files(args: &DeleteArgs) -> Result<Vec<Value>, Problem> {
    let mut found = Vec::new();
    for file in files::read(&args.files)? {
        let documents = documents::parse(&file.name, &file.text).map_err(|error| {
            Problem::new(Exit::WrongInput, "WL0001", "not YAML").detail(error.to_string())
        })?;
        for document in documents {
            let text = |path: &str| document.value.pointer(path).cloned().unwrap_or_default();
            let mut metadata = json!({"name": text("/metadata/name")});
            if let Value::String(namespace) = text("/metadata/namespace") {
                metadata["namespace"] = namespace.into();
            }
            found.push(json!({
                "apiVersion": text("/apiVersion"), "kind": text("/kind"), "metadata": metadata
            }));
        }
    }
    Ok(found)
}

/// `HTTPRoute default/shop`.
fn name(document: &Value, namespace: &str) -> String {
    let text = |path: &str| document.pointer(path).and_then(Value::as_str);
    let is_namespaced = crate::model::kind::KINDS
        .iter()
        .find(|kind| Some(kind.kind) == text("/kind"))
        .is_none_or(|kind| kind.namespaced);
    let name = text("/metadata/name").unwrap_or("?");
    let kind = text("/kind").unwrap_or("?");
    if is_namespaced {
        format!("{kind} {}/{name}", text("/metadata/namespace").unwrap_or(namespace))
    } else {
        format!("{kind} {name}")
    }
}

/// Says what will go, and asks.
pub(super) fn confirm(session: &Session, yes: bool, names: &[String]) -> Result<(), Problem> {
    if yes {
        return Ok(());
    }
    let mut list: Vec<String> = names.iter().take(LISTED_MAX).cloned().collect();
    if names.len() > LISTED_MAX {
        list.push(format!("and {} more", names.len() - LISTED_MAX));
    }
    if !show::stdin_is_terminal() {
        let mut problem = Problem::new(Exit::WrongInput, "WL0010", "deleting needs --yes");
        problem.detail = list;
        return Err(problem.help("this is no terminal, so nobody can be asked; add --yes"));
    }
    let mut text = String::from("this deletes, in one revision:\n");
    for name in list {
        text += &format!("  - {name}\n");
    }
    session.ask(&format!("{text}delete? [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim().to_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(Problem::new(Exit::Failed, "", "nothing was deleted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_that_breaks_others_says_how_to_go_on() {
        let refused = Problem::new(Exit::WrongInput, "WL0033", "listener does not exist");
        assert!(how_to_go_on(refused).help.unwrap().contains("wlctl delete -f"));
        let conflict = Problem::new(Exit::Conflict, "WL0409", "changed by someone else");
        assert_eq!(how_to_go_on(conflict).help, None);
    }

    #[test]
    fn documents_are_named_with_their_namespace() {
        let route = json!({"kind": "HTTPRoute", "metadata": {"name": "a"}});
        assert_eq!(name(&route, "n"), "HTTPRoute n/a");
        let class = json!({"kind": "GatewayClass", "metadata": {"name": "a"}});
        assert_eq!(name(&class, "n"), "GatewayClass a");
    }
}
