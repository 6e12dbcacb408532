//! `wlctl history`: revisions, newest first.

use serde_json::Value;

use super::HistoryArgs;
use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
use super::show::{Style, Table, instant};

pub(super) async fn run(session: &Session, args: &HistoryArgs) -> Result<Exit, Problem> {
    let ask = Ask::get("/v1/revisions").query("limit", args.limit.to_string());
    let answer = session.client.json(&ask).await?;
    if session.print_raw(&answer)? {
        return Ok(Exit::Done);
    }
    let text = table(&answer, &session.out);
    session.print(&text)?;
    Ok(Exit::Done)
}

fn table(answer: &Value, style: &Style) -> String {
    let mut table = Table::new(["REV", "WHEN", "WHO", "ORIGIN", "CHANGE", "ROLLED OUT"]);
    for revision in answer.get("items").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| revision.get(name).and_then(Value::as_str).unwrap_or_default();
        let change = [text("summary"), text("why")].into_iter().find(|text| !text.is_empty());
        table.row([
            text("revision").into(),
            instant(text("when")).map(|when| style.ago(when)).unwrap_or_default().into(),
            text("who").into(),
            text("origin").into(),
            change.unwrap_or_default().into(),
            rolled_out(revision).into(),
        ]);
    }
    table.render(style)
}

/// `4/4`, where it is known.
fn rolled_out(revision: &Value) -> String {
    let number = |name: &str| revision.pointer(name).and_then(Value::as_u64);
    let nacked = number("/rollout/nacked").filter(|nacked| *nacked > 0);
    let nacked = nacked.map(|nacked| format!(" ({nacked} NACK)")).unwrap_or_default();
    match (number("/rollout/acked"), number("/rollout/nodes")) {
        (Some(acked), Some(nodes)) if nodes > 0 => format!("{acked}/{nodes}{nacked}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::show::tests::plain;
    use super::*;
    use serde_json::json;

    #[test]
    fn revisions_are_rows() {
        let answer = json!({"items": [
            {"revision": "r2", "when": "1970-01-12T13:45:59Z", "who": "ana", "origin": "apply",
             "summary": "~1 route", "rollout": {"acked": 3, "nodes": 4, "nacked": 1}},
            {"revision": "r1", "who": "leo", "origin": "api", "rollout": {"acked": 0, "nodes": 0}}]});
        let expected = "\
REV  WHEN     WHO  ORIGIN  CHANGE    ROLLED OUT
r2   41s ago  ana  apply   ~1 route  3/4 (1 NACK)
r1   -        leo  api     -         -
";
        assert_eq!(table(&answer, &plain()), expected);
    }
}
