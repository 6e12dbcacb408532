//! `wlctl shift`: traffic from one backend of a rule to another, as one revision.

use http::Method;
use serde_json::{Value, json};

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
use super::target::Target;
use super::{ShiftArgs, rollout, weights};

/// How often it is tried again when the route's status was written in between.
const TRIES: usize = 10;

pub(super) async fn run(session: &Session, args: &ShiftArgs) -> Result<Exit, Problem> {
    let (target, rule) = target(args, &session.namespace)?;
    let wanted = weights::parse(&args.weights)?;
    let mut first = None;
    let mut tries = 1;
    loop {
        let mut route = target.fetch(session, &Ask::get(target.path())).await?;
        let content = route.pointer("/metadata/generation").cloned();
        let before = route.clone();
        let shares = weights::put(&mut route, rule.as_deref(), &wanted)?;
        let word = if route == before { "unchanged" } else { "shifted" };
        match rollout::change(session, &ask(session, args, &mut route, &shares)).await {
            // Statuses move the resourceVersion too. Only new content is somebody else's change.
            Err(problem)
                if problem.code == "WL0409"
                    && tries < TRIES
                    && *first.get_or_insert_with(|| content.clone()) == content =>
            {
                tries += 1;
            }
            answer => return rollout::report(session, &answer?, &format!("{word}: {shares}")),
        }
    }
}

fn ask(session: &Session, args: &ShiftArgs, route: &mut Value, shares: &str) -> Ask {
    let name = route.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let reason = args.reason.clone().unwrap_or_else(|| format!("shift {name}: {shares}"));
    trim(route);
    let mut ask = Ask { method: Method::POST, ..Ask::get("/v1/apply") };
    ask.body = Some(("application/json".into(), route.to_string().into()));
    rollout::waiting(ask.query("reason", reason), args.wait.limit(session.timeout))
}

/// `httproute/[NAMESPACE/]NAME[/RULE]`, and the rule that the flag names.
fn target(args: &ShiftArgs, namespace: &str) -> Result<(Target, Option<String>), Problem> {
    let help = "write httproute/NAME, httproute/NAMESPACE/NAME or httproute/NAMESPACE/NAME/RULE";
    let parts: Vec<&str> = args.route.split('/').collect();
    let (kind, namespace, name, rule) = match parts.as_slice() {
        [kind, name] => (*kind, namespace, *name, None),
        [kind, namespace, name] => (*kind, *namespace, *name, None),
        [kind, namespace, name, rule] => (*kind, *namespace, *name, Some((*rule).to_owned())),
        _ => return Err(Problem::usage(format!("{:?} names no route", args.route)).help(help)),
    };
    let target = Target::parse(kind, Some(name), namespace)?;
    if target.kind.kind != "HTTPRoute" {
        return Err(Problem::usage(format!("a {} has no weights", target.kind.kind)).help(help));
    }
    match (&args.rule, rule) {
        (Some(_), Some(_)) => Err(Problem::usage("the rule is given twice")),
        (flag, rule) => Ok((target, rule.or_else(|| flag.clone()))),
    }
}

/// Leaves what a writer says: the server's own fields go, the `resourceVersion` stays as condition.
fn trim(route: &mut Value) {
    let metadata = route.get("metadata").cloned().unwrap_or_default();
    let mut kept = json!({});
    for name in ["name", "namespace", "labels", "annotations", "resourceVersion"] {
        if let (Some(value), Some(kept)) = (metadata.get(name), kept.as_object_mut()) {
            kept.insert(name.to_owned(), value.clone());
        }
    }
    if let Some(object) = route.as_object_mut() {
        object.insert("metadata".into(), kept);
        object.shift_remove("status");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::WaitArgs;

    fn read(route: &str, rule: Option<&str>) -> Result<(String, Option<String>), Problem> {
        let args = ShiftArgs {
            route: route.into(),
            weights: "a=1".into(),
            rule: rule.map(str::to_owned),
            wait: WaitArgs { wait: false, no_wait: false },
            reason: None,
        };
        target(&args, "n").map(|(target, rule)| {
            (format!("{}/{}", target.namespace, target.name.unwrap_or_default()), rule)
        })
    }

    #[test]
    fn a_route_is_named_with_namespace_and_rule() {
        assert_eq!(read("httproute/shop", None), Ok(("n/shop".into(), None)));
        assert_eq!(read("httproute/x/shop", Some("r")), Ok(("x/shop".into(), Some("r".into()))));
        assert_eq!(read("httproute/x/shop/r", None), Ok(("x/shop".into(), Some("r".into()))));
        for (route, rule) in [("shop", None), ("gateway/a", None), ("httproute/a/b/c", Some("c"))] {
            assert!(read(route, rule).is_err(), "{route}");
        }
    }

    #[test]
    fn what_the_server_owns_is_not_sent_back() {
        let mut route = json!({"kind": "HTTPRoute", "metadata": {"name": "a", "uid": "u",
            "resourceVersion": "7", "generation": 3}, "spec": {}, "status": {}});
        trim(&mut route);
        let kept = json!({"kind": "HTTPRoute", "metadata": {"name": "a", "resourceVersion": "7"}, "spec": {}});
        assert_eq!(route, kept);
    }
}
