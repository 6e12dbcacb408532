//! What became of a change among the proxies, in one line.

use std::time::Duration;

use serde_json::Value;

use super::client::{Ask, Reply, finding_lines, refusal};
use super::problem::{Exit, Problem};
use super::session::Session;
use super::show::{Mark, Style};
use super::{WaitArgs, clock, status};

/// How long a change may take to reach the fleet, unless one says otherwise.
const WAIT: Duration = Duration::from_secs(10);

impl WaitArgs {
    /// How long to wait for the proxies; `None` not to wait.
    pub(super) fn limit(&self, timeout: Option<Duration>) -> Option<Duration> {
        (!self.no_wait).then(|| timeout.unwrap_or(WAIT))
    }
}

/// Adds to a question that its answer should wait for the proxies.
pub(super) fn waiting(mut ask: Ask, limit: Option<Duration>) -> Ask {
    if let Some(limit) = limit {
        ask.wait = limit;
        ask = ask.query("wait", "acked").query("timeout", format!("{}ms", limit.as_millis()));
    }
    ask
}

/// Sends a change and reads its answer, also where it is stored and not every node has it.
pub(super) async fn change(session: &Session, ask: &Ask) -> Result<Value, Problem> {
    let reply = session.client.send(ask).await?;
    if reply.status.is_success() || is_stored(&reply) {
        return reply.json();
    }
    Err(refusal(&reply))
}

/// The change is stored, but nodes refused it or have not answered.
fn is_stored(reply: &Reply) -> bool {
    let code = |body: &Value| body.get("code").and_then(Value::as_str).map(str::to_owned);
    let is_late = |body: Value| matches!(code(&body).as_deref(), Some("WL0501" | "WL0504"));
    (reply.status == 409 || reply.status == 504) && reply.json().is_ok_and(is_late)
}

/// Prints what a change did, and says how the command ends.
pub(super) fn report(session: &Session, answer: &Value, what: &str) -> Result<Exit, Problem> {
    for warning in answer.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        match warning.as_str() {
            Some(text) => session.warn(text),
            None => session.warn(&finding_lines(warning).join("\n    ")),
        }
    }
    let (mark, text, exit) = sentence(answer, what);
    if !session.print_raw(answer)? {
        session.print(&format!("{} {text}\n", session.out.mark(mark)))?;
        session.print(&tell_laggards(answer, &session.out))?;
    }
    Ok(exit)
}

/// `r185 applied: 1 added, 1 changed. 4/4 nodes in sync after 38ms`.
fn sentence(answer: &Value, what: &str) -> (Mark, String, Exit) {
    let text = match answer.get("revision").and_then(Value::as_str) {
        Some(revision) => format!("{revision} {what}"),
        None => what.to_owned(),
    };
    let laggards = laggards(answer);
    if !laggards.is_empty() {
        let refused = laggards.iter().filter(|laggard| state(laggard) == "NACK").count();
        let late = laggards.len() - refused;
        let nodes = |count: usize| format!("{count} node{}", if count == 1 { "" } else { "s" });
        let (told, exit) = match (refused, late) {
            (refused, 0) => (format!("{} refused it", nodes(refused)), Exit::Failed),
            (0, late) => (format!("{} did not answer in time", nodes(late)), Exit::TimedOut),
            (refused, late) => {
                let told =
                    format!("{} refused it and {} did not answer", nodes(refused), nodes(late));
                (told, Exit::Failed)
            }
        };
        return (Mark::Bad, format!("{text}, but {told}"), exit);
    }
    let Some(rollout) = answer.get("rollout") else {
        return (Mark::Good, text, Exit::Done);
    };
    let is_done = rollout.get("state").and_then(Value::as_str) == Some("Done");
    let number = |name: &str| rollout.get(name).and_then(Value::as_u64);
    let told = match (number("nodes"), is_done) {
        (Some(0), _) => ". no proxy is connected".to_owned(),
        (Some(nodes), true) => {
            let after = number("lagMs").map(Duration::from_millis).map(clock::show);
            let after = after.map(|after| format!(" after {after}")).unwrap_or_default();
            format!(". {nodes}/{nodes} nodes in sync{after}")
        }
        _ => String::new(),
    };
    (Mark::Good, text + &told, Exit::Done)
}

/// The nodes that do not have it.
fn laggards(answer: &Value) -> &[Value] {
    answer.get("nodes").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn state(node: &Value) -> &str {
    match node.get("state").and_then(Value::as_str).unwrap_or_default() {
        "nack" => "NACK",
        state => state,
    }
}

/// Who does not have it, and why, a line each.
fn tell_laggards(answer: &Value, style: &Style) -> String {
    let mut out = String::new();
    for node in laggards(answer) {
        let name = node.get("node").and_then(Value::as_str).unwrap_or_default();
        let nack = node.get("nack").filter(|nack| !nack.is_null());
        let reason = match nack {
            Some(nack) => {
                let text = |name: &str| nack.get(name).and_then(Value::as_str).unwrap_or_default();
                let text_lines = text("text").replace('\n', " ");
                format!("refused {} \"{}\": {text_lines}", text("type"), status::resources(nack))
            }
            None => format!("has not answered ({})", state(node)),
        };
        out += &format!("    {} {name} {reason}\n", style.mark(Mark::Bad));
        let from = nack.and_then(status::from);
        out += &from.map(|from| format!("      from  {from}\n")).unwrap_or_default();
    }
    out
}

/// `1 added, 2 changed, 1 deleted`, or `nothing to change`.
pub(super) fn summary(answer: &Value) -> String {
    let changed = answer.get("changed").and_then(Value::as_array);
    let count = |actions: &[&str]| {
        let is_action = |change: &&Value| {
            change.get("action").and_then(Value::as_str).is_some_and(|a| actions.contains(&a))
        };
        changed.into_iter().flatten().filter(is_action).count()
    };
    let counts = [
        (count(&["created", "added"]), "added"),
        (count(&["updated", "changed"]), "changed"),
        (count(&["deleted", "removed"]), "deleted"),
    ];
    let parts: Vec<String> = counts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    if parts.is_empty() { "nothing to change".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::show::tests::plain;
    use super::*;
    use serde_json::json;

    #[test]
    fn all_in_sync_is_one_line() {
        let answer = json!({"revision": "r185", "changed": [
            {"object": "a", "action": "created"}, {"object": "b", "action": "updated"}],
            "rollout": {"state": "Done", "nodes": 4, "lagMs": 38}});
        let (mark, text, exit) = sentence(&answer, &format!("applied: {}", summary(&answer)));
        assert_eq!(text, "r185 applied: 1 added, 1 changed. 4/4 nodes in sync after 38ms");
        assert_eq!((mark, exit), (Mark::Good, Exit::Done));
    }

    #[test]
    fn who_did_not_take_it_is_named_with_the_reason() {
        let refused = json!({"revision": "r185", "nodes": [{"node": "b", "state": "nack",
            "nack": {"type": "RDS", "resources": ["x"], "text": "no", "object": "HTTPRoute n/r",
                "source": {"file": "r.yaml", "line": 3, "column": 1}}}]});
        let (_, text, exit) = sentence(&refused, "applied");
        assert_eq!((text.as_str(), exit), ("r185 applied, but 1 node refused it", Exit::Failed));
        assert_eq!(
            tell_laggards(&refused, &plain()),
            "    ✗ b refused RDS \"x\": no\n      from  HTTPRoute n/r   r.yaml:3\n"
        );
        let late = json!({"revision": "r185", "nodes": [{"node": "b", "state": "stale"}]});
        let (_, text, exit) = sentence(&late, "applied");
        let expected = "r185 applied, but 1 node did not answer in time";
        assert_eq!((text.as_str(), exit), (expected, Exit::TimedOut));
        assert_eq!(tell_laggards(&late, &plain()), "    ✗ b has not answered (stale)\n");
    }

    #[test]
    fn nothing_to_change_is_said() {
        let answer =
            json!({"revision": "r3", "changed": [], "rollout": {"state": "Sent", "nodes": 0}});
        assert_eq!(summary(&answer), "nothing to change");
        assert_eq!(sentence(&answer, "unchanged").1, "r3 unchanged. no proxy is connected");
    }
}
