//! `wlctl apply`: files as one bundle, one revision.

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
use super::{ApplyArgs, delete, files, rollout};

pub(super) async fn run(session: &Session, args: &ApplyArgs) -> Result<Exit, Problem> {
    let body = files::multipart(&files::read(&args.files)?);
    if args.prune && !args.dry_run && !args.yes {
        let plan = rollout::change(session, &ask(session, args, &body, true)).await?;
        let gone = pruned(&plan);
        if !gone.is_empty() {
            delete::confirm(session, false, &gone)?;
        }
    }
    let answer = rollout::change(session, &ask(session, args, &body, args.dry_run)).await?;
    let summary = rollout::summary(&answer);
    let what = match (args.dry_run, summary.as_str()) {
        (true, _) => format!("stays, this is a dry run: {summary}"),
        (false, "nothing to change") => "unchanged: nothing to change".to_owned(),
        (false, _) => format!("applied: {summary}"),
    };
    rollout::report(session, &answer, &what)
}

fn ask(session: &Session, args: &ApplyArgs, body: &(String, Bytes), dry_run: bool) -> Ask {
    let mut ask = Ask { method: Method::POST, ..Ask::get("/v1/apply") };
    ask.body = Some(body.clone());
    ask = ask.query("namespace", session.namespace.as_str());
    for (name, value) in
        [("owner", &args.owner), ("ifRevision", &args.if_revision), ("reason", &args.reason)]
    {
        if let Some(value) = value {
            ask = ask.query(name, value.as_str());
        }
    }
    if args.prune {
        ask = ask.query("prune", "true");
    }
    if dry_run {
        ask.query("dryRun", "true")
    } else {
        rollout::waiting(ask, args.wait.limit(session.timeout))
    }
}

/// The objects that would go.
fn pruned(plan: &Value) -> Vec<String> {
    let changed = plan.get("changed").and_then(Value::as_array).into_iter().flatten();
    let text = |change: &Value, field: &str| change.get(field)?.as_str().map(str::to_owned);
    changed
        .filter(|change| text(change, "action").as_deref() == Some("deleted"))
        .filter_map(|change| text(change, "object"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_would_be_pruned_is_known_before() {
        let plan = json!({"changed": [{"object": "Backend default/a", "action": "deleted"},
            {"object": "Backend default/b", "action": "updated"}]});
        assert_eq!(pruned(&plan), ["Backend default/a"]);
    }
}
