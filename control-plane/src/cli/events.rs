//! `wlctl events`: what happens, one line each.

use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
use super::show::{Mark, Style};
use super::{EventsArgs, Format, status};

pub(super) async fn run(session: &Session, args: &EventsArgs) -> Result<Exit, Problem> {
    let mut ask = Ask { accept: "text/event-stream", ..Ask::get("/v1/events") };
    let types = if args.types.is_empty() { "fleet,revision".into() } else { args.types.join(",") };
    ask = ask.query("types", types);
    let mut lines = session.client.stream(&ask).await?;
    let mut name = String::new();
    while let Some(line) = lines.next().await? {
        if let Some(event) = line.strip_prefix("event:") {
            event.trim().clone_into(&mut name);
        } else if let Some(data) = line.strip_prefix("data:") {
            let data: Value = serde_json::from_str(data.trim()).unwrap_or_default();
            session.print(&show(session, &name, &data))?;
        }
    }
    session.hint("the control plane ended the stream");
    Ok(Exit::Done)
}

fn show(session: &Session, name: &str, data: &Value) -> String {
    match session.format {
        Format::Json | Format::Yaml => {
            let mut data = data.clone();
            if let Some(object) = data.as_object_mut() {
                object.shift_insert(0, "event".into(), name.into());
            }
            format!("{data}\n")
        }
        Format::Table | Format::Wide => {
            let now = OffsetDateTime::now_utc();
            let clock = now.format(format_description!("[hour]:[minute]:[second]"));
            format!("{} {}\n", clock.unwrap_or_default(), describe(name, data, &session.out))
        }
    }
}

/// `fleet     edge-a  ✓ synced  r184 after 38ms`.
fn describe(name: &str, data: &Value, style: &Style) -> String {
    let text = |field: &str| data.get(field).and_then(Value::as_str).unwrap_or_default();
    let number = |field: &str| data.get(field).and_then(Value::as_u64).unwrap_or_default();
    let revision = match data.get("revision") {
        Some(Value::Number(number)) => format!("r{number}"),
        Some(Value::String(text)) => text.clone(),
        _ => "-".into(),
    };
    let rest = match name {
        "fleet" => {
            let (mark, state) = match text("state") {
                "synced" => (Mark::Good, "synced"),
                "nack" | "NACK" => (Mark::Bad, "NACK"),
                "lost" => (Mark::Bad, "lost"),
                "stale" => (Mark::Warn, "stale"),
                other => (Mark::Quiet, other),
            };
            let why = match data.get("nack").filter(|nack| !nack.is_null()) {
                Some(nack) => {
                    let text = |field| nack.get(field).and_then(Value::as_str).unwrap_or_default();
                    let resources = status::resources(nack);
                    format!("  {} \"{resources}\": {}", text("type"), text("text"))
                }
                None if state == "synced" => format!("  {revision} after {}ms", number("lagMs")),
                None => format!("  {revision}"),
            };
            format!("{}  {} {state}{}", text("node"), style.mark(mark), why.replace('\n', " "))
        }
        "gone" => format!("{}  forgotten", text("node")),
        "revision" => {
            let what = [text("summary"), text("why")].into_iter().find(|text| !text.is_empty());
            let rollout = |field: &str| data.pointer(&format!("/rollout/{field}"));
            let acked = match (rollout("acked").and_then(Value::as_u64), rollout("nodes")) {
                (Some(acked), Some(nodes)) => format!("  {acked}/{nodes}"),
                _ => String::new(),
            };
            let what = what.unwrap_or_default();
            format!("{revision}  by {}  {what}{acked}", text("who"))
        }
        "summary" => format!(
            "{}/{} in sync, {} NACK, {} stale, {} lost",
            number("synced"),
            number("nodes"),
            number("nack"),
            number("stale"),
            number("lost")
        ),
        _ => data.to_string(),
    };
    format!("{name:<8}  {rest}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::show::tests::plain;
    use super::*;
    use serde_json::json;

    #[test]
    fn each_event_is_one_line() {
        let cases = [
            (
                "fleet",
                json!({"node": "a", "state": "synced", "revision": 4, "lagMs": 38}),
                "fleet     a  ✓ synced  r4 after 38ms",
            ),
            (
                "fleet",
                json!({"node": "a", "state": "NACK", "nack": {"type": "RDS", "resources": ["r"], "text": "x\ny"}}),
                "fleet     a  ✗ NACK  RDS \"r\": x y",
            ),
            (
                "revision",
                json!({"revision": "r4", "who": "ana", "summary": "+1 Backend", "rollout": {"acked": 1, "nodes": 2}}),
                "revision  r4  by ana  +1 Backend  1/2",
            ),
            (
                "summary",
                json!({"synced": 1, "nodes": 2, "nack": 1}),
                "summary   1/2 in sync, 1 NACK, 0 stale, 0 lost",
            ),
            ("reset", json!({}), "reset     {}"),
        ];
        for (name, data, expected) in cases {
            assert_eq!(describe(name, &data, &plain()), expected);
        }
    }
}
