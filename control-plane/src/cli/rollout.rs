//! What became of a change among the proxies, in one line.

use std::time::Duration;

use serde_json::Value;

use super::client::{Ask, Reply, finding_lines, refusal};
use super::problem::{Exit, Problem};
use super::session::Session;
use super::show::{Mark, Style};
use super::{WaitArgs, clock};

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

/// Sends a change and reads its answer, a late one included: 504 says who has not answered.
pub(super) async fn change(session: &Session, ask: &Ask) -> Result<Value, Problem> {
    let reply = session.client.send(ask).await?;
    if reply.status.is_success() || is_late(&reply) {
        return reply.json();
    }
    Err(refusal(&reply))
}

fn is_late(reply: &Reply) -> bool {
    reply.status == 504
        && reply.json().is_ok_and(|body| body.get("revision").is_some_and(|r| !r.is_null()))
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
        session.print(&laggards(answer, &session.out))?;
    }
    Ok(exit)
}

/// `r185 applied: 1 added, 1 changed. 4/4 nodes in sync after 38ms`.
fn sentence(answer: &Value, what: &str) -> (Mark, String, Exit) {
    let revision = answer.get("revision").and_then(Value::as_str).unwrap_or("-");
    let rollout = answer.get("rollout");
    let number = |name: &str| rollout.and_then(|r| r.get(name)).and_then(Value::as_u64);
    let text = format!("{revision} {what}");
    let Some(nodes) = number("nodes") else {
        return (Mark::Good, text, Exit::Done);
    };
    if nodes == 0 {
        return (Mark::Good, format!("{text}. no proxy is connected"), Exit::Done);
    }
    let Some(acked) = number("acked") else {
        return (Mark::Good, text, Exit::Done);
    };
    let refused = list(answer, "refused").count();
    if refused > 0 {
        let text = format!("{text}, but refused by {refused} of {nodes} nodes");
        return (Mark::Bad, text, Exit::Failed);
    }
    if acked < nodes {
        return (
            Mark::Bad,
            format!("{text}, but only {acked}/{nodes} nodes have it"),
            Exit::TimedOut,
        );
    }
    let after = number("durationMs")
        .map(|millis| format!(" after {}", clock::show(Duration::from_millis(millis))));
    let after = after.unwrap_or_default();
    (Mark::Good, format!("{text}. {acked}/{nodes} nodes in sync{after}"), Exit::Done)
}

/// Who did not take it, and why, a line each.
fn laggards(answer: &Value, style: &Style) -> String {
    let mut out = String::new();
    for node in list(answer, "refused").chain(list(answer, "waiting")) {
        let text = |name: &str| node.get(name).and_then(Value::as_str).unwrap_or_default();
        let reason = match node.get("nack").filter(|nack| !nack.is_null()) {
            Some(nack) => {
                let text = |name: &str| nack.get(name).and_then(Value::as_str).unwrap_or_default();
                format!("refused {} {:?}: {}", text("type"), text("resource"), text("text"))
            }
            None => format!("has not answered ({})", text("state")),
        };
        out += &format!("    {} {} {reason}\n", style.mark(Mark::Bad), text("node"));
    }
    out
}

fn list<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    let list = answer.get("rollout").and_then(|rollout| rollout.get(name));
    list.and_then(Value::as_array).into_iter().flatten()
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
            "rollout": {"nodes": 4, "acked": 4, "durationMs": 38}});
        let (mark, text, exit) = sentence(&answer, &format!("applied: {}", summary(&answer)));
        assert_eq!(text, "r185 applied: 1 added, 1 changed. 4/4 nodes in sync after 38ms");
        assert_eq!((mark, exit), (Mark::Good, Exit::Done));
    }

    #[test]
    fn who_did_not_take_it_is_named_with_the_reason() {
        let answer = json!({"revision": "r185", "changed": [], "rollout": {"nodes": 2, "acked": 1,
            "refused": [{"node": "b", "nack": {"type": "RDS", "resource": "x", "text": "no"}}]}});
        assert_eq!(sentence(&answer, "applied").2, Exit::Failed);
        assert_eq!(laggards(&answer, &plain()), "    ✗ b refused RDS \"x\": no\n");
        let late = json!({"revision": "r185", "rollout": {"nodes": 2, "acked": 1,
            "waiting": [{"node": "b", "state": "pending"}]}});
        let (_, text, exit) = sentence(&late, "applied");
        assert_eq!(
            (text.as_str(), exit),
            ("r185 applied, but only 1/2 nodes have it", Exit::TimedOut)
        );
        assert_eq!(laggards(&late, &plain()), "    ✗ b has not answered (pending)\n");
    }

    #[test]
    fn nothing_to_change_is_said() {
        let answer = json!({"revision": "r3", "changed": [], "rollout": {"nodes": 0}});
        assert_eq!(summary(&answer), "nothing to change");
        assert_eq!(sentence(&answer, "unchanged").1, "r3 unchanged. no proxy is connected");
    }
}
