//! `wlctl status`: who runs what, who refused and why.

use std::time::Duration;

use serde_json::Value;

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
use super::show::{Cell, Mark, Style, Table, instant};
use super::{StatusArgs, clock};

pub(super) async fn run(session: &Session, args: &StatusArgs) -> Result<Exit, Problem> {
    if args.watch {
        return watch(session, args).await;
    }
    once(session, args).await
}

async fn once(session: &Session, args: &StatusArgs) -> Result<Exit, Problem> {
    if let Some(node) = &args.node {
        let answer = session.client.json(&Ask::get(format!("/v1/fleet/{node}"))).await?;
        if !session.print_raw(&answer)? {
            session.print(&one(&answer, &session.out))?;
        }
        return Ok(verdict([&answer]));
    }
    let fleet = session.client.json(&Ask::get("/v1/fleet")).await?;
    let nodes = nodes(&fleet);
    if session.print_raw(&fleet)? {
        return Ok(verdict(nodes));
    }
    let newest = fleet.get("revision").filter(|newest| newest.get("when").is_some());
    session.print(&overview(newest, &nodes, &session.out))?;
    if nodes.is_empty() {
        session.hint(
            "no proxy has connected; start one with\n    weighlock-proxy --control-plane HOST:PORT --node-id NAME --node-cluster FLEET",
        );
    }
    Ok(verdict(nodes))
}

/// Shows it again whenever an event comes, until interrupted.
async fn watch(session: &Session, args: &StatusArgs) -> Result<Exit, Problem> {
    let ask = Ask::get("/v1/events").query("types", "fleet,revision");
    let mut events = session.client.stream(&Ask { accept: "text/event-stream", ..ask }).await?;
    loop {
        if session.out.colour {
            session.print("\x1b[2J\x1b[H")?;
        }
        once(session, args).await?;
        loop {
            match events.next().await? {
                None => return Ok(Exit::Done),
                Some(line) if line.starts_with("data:") => break,
                Some(_) => {}
            }
        }
    }
}

fn nodes(fleet: &Value) -> Vec<&Value> {
    fleet.get("nodes").and_then(Value::as_array).into_iter().flatten().collect()
}

/// 1 where a node refuses, does not answer or is lost.
fn verdict<'a>(nodes: impl IntoIterator<Item = &'a Value>) -> Exit {
    let bad = |node: &&Value| matches!(text(node, "state"), "NACK" | "nack" | "stale" | "lost");
    if nodes.into_iter().any(|node| bad(&node)) { Exit::Failed } else { Exit::Done }
}

/// The whole page.
fn overview(newest: Option<&Value>, nodes: &[&Value], style: &Style) -> String {
    let mut out = headline(newest, style);
    if nodes.is_empty() {
        return out;
    }
    let header = ["NODE", "KIND", "FLEET", "REVISION", "LAG", "STATE", "RPS", "5XX", "UPTIME"];
    let mut table = Table::new(header);
    for node in nodes {
        table.row(row(node, style));
    }
    out += &table.render(style);
    out += &counts(nodes);
    for node in nodes {
        if let Some(nack) = node.get("nack").filter(|nack| !nack.is_null()) {
            out.push('\n');
            out += &refusal(node, nack, style);
        }
    }
    out
}

/// `REVISION r184  applied 41s ago by ana  "add v2"        control planes 1/1 (leader -)`.
fn headline(newest: Option<&Value>, style: &Style) -> String {
    let Some(newest) = newest else {
        return "REVISION -  nothing has been applied        control planes 1/1 (leader -)\n"
            .into();
    };
    let when = instant(text(newest, "when")).map(|when| style.ago(when));
    let who = Some(text(newest, "who")).filter(|who| !who.is_empty()).unwrap_or("-");
    let why = [text(newest, "why"), text(newest, "summary")].into_iter().find(|t| !t.is_empty());
    let why = why.map(|why| format!("  \"{why}\"")).unwrap_or_default();
    format!(
        "REVISION {}  applied {} by {who}{why}        control planes 1/1 (leader -)\n",
        text(newest, "revision"),
        when.unwrap_or_else(|| "-".into()),
    )
}

fn row(node: &Value, style: &Style) -> Vec<Cell> {
    let state = state(node);
    let mark = match state {
        "synced" => Mark::Good,
        "pending" | "wave" | "never" => Mark::Quiet,
        "stale" | "partial" => Mark::Warn,
        _ => Mark::Bad,
    };
    let is_current = state == "synced";
    let lag = number(node, "lagMs").filter(|_| is_current).map(Duration::from_millis);
    let uptime = instant(text(node, "connectedSince")).map(|since| style.age(since));
    let lost = state == "lost";
    vec![
        text(node, "node").into(),
        kind(node).into(),
        text(node, "fleet").into(),
        revision(node).into(),
        lag.map(clock::show).unwrap_or_default().into(),
        Cell::marked(style, mark, state),
        // Rates come with the proxies' load reports.
        "-".into(),
        "-".into(),
        uptime.filter(|_| !lost).unwrap_or_default().into(),
    ]
}

fn state(node: &Value) -> &str {
    match text(node, "state") {
        "nack" => "NACK",
        state => state,
    }
}

/// `weighlock 0.3`.
fn kind(node: &Value) -> String {
    let version = text(node, "version");
    let short: Vec<&str> = version.split('.').take(2).collect();
    format!("{} {}", text(node, "kind"), short.join(".")).trim().to_owned()
}

fn revision(node: &Value) -> String {
    match node.get("revision") {
        Some(Value::Number(number)) => format!("r{number}"),
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    }
}

fn counts(nodes: &[&Value]) -> String {
    let count = |wanted: &str| nodes.iter().filter(|node| state(node) == wanted).count();
    let mut out = format!("{}/{} in sync", count("synced"), nodes.len());
    if count("pending") > 0 {
        out += &format!(", {} pending", count("pending"));
    }
    out += &format!(
        ", {} NACK, {} stale, {} lost in the last 10m\n",
        count("NACK"),
        count("stale"),
        count("lost")
    );
    out
}

/// What a node refused and why, and what it does meanwhile.
fn refusal(node: &Value, nack: &Value, style: &Style) -> String {
    let mut facts = Vec::new();
    let at = instant(text(nack, "since")).or_else(|| instant(text(nack, "at")));
    facts.extend(at.map(|at| style.ago(at)));
    facts.extend(number(nack, "tries").map(|tries| match tries {
        1 => "1 try".to_owned(),
        tries => format!("{tries} tries"),
    }));
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    let mut out = format!(
        "{} {} refused {} \"{}\"{}{facts}\n",
        style.mark(Mark::Bad),
        text(node, "node"),
        text(nack, "type"),
        resources(nack),
        match revision(nack) {
            revision if revision.is_empty() => revision,
            revision => format!(" {revision}"),
        },
    );
    for line in text(nack, "text").lines() {
        out += &format!("    {line}\n");
    }
    out += &from(nack).map(|from| format!("    from  {from}\n")).unwrap_or_default();
    let serves = match revision(node) {
        revision if revision.is_empty() => "the last good one".to_owned(),
        revision => revision,
    };
    out + &format!("    it keeps serving {serves}; no request was lost\n")
}

/// The documents behind what a node refused, and the place in a file where that is known.
pub(super) fn from(nack: &Value) -> Option<String> {
    if let Some(object) = Some(text(nack, "object")).filter(|object| !object.is_empty()) {
        let source = nack.get("source").unwrap_or(&Value::Null);
        let line = number(source, "line").map(|line| format!(":{line}")).unwrap_or_default();
        return Some(format!("{object}   {}{line}", text(source, "file")).trim_end().to_owned());
    }
    let objects = nack.get("objects").and_then(Value::as_array)?;
    let names: Vec<&str> = objects.iter().filter_map(Value::as_str).collect();
    let others =
        number(nack, "objectsInAll").unwrap_or_default().saturating_sub(names.len() as u64);
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    Some(format!("one of {}{others}", names.join(", ")))
}

/// The names of what a node refused.
pub(super) fn resources(nack: &Value) -> String {
    let list = nack.get("resources").and_then(Value::as_array).into_iter().flatten();
    let one = nack.get("resource").into_iter();
    one.chain(list).filter_map(Value::as_str).collect::<Vec<_>>().join("\", \"")
}

/// One node, type by type.
fn one(node: &Value, style: &Style) -> String {
    let mut out = overview_row(node, style);
    let mut table = Table::new(["TYPE", "SENT", "ACKED", "RESOURCES"]);
    for (name, entry) in node.get("types").and_then(Value::as_object).into_iter().flatten() {
        let resources = number(entry, "resources").map(|count| count.to_string());
        table.row([
            name.as_str().into(),
            text(entry, "sent").into(),
            text(entry, "acked").into(),
            resources.unwrap_or_default().into(),
        ]);
    }
    if !table.is_empty() {
        out.push('\n');
        out += &table.render(style);
    }
    if let Some(nack) = node.get("nack").filter(|nack| !nack.is_null()) {
        out.push('\n');
        out += &refusal(node, nack, style);
    }
    out
}

fn overview_row(node: &Value, style: &Style) -> String {
    let mut table =
        Table::new(["NODE", "KIND", "FLEET", "REVISION", "LAG", "STATE", "RPS", "5XX", "UPTIME"]);
    table.row(row(node, style));
    table.render(style)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, name: &str) -> Option<u64> {
    value.get(name).and_then(Value::as_u64)
}

/// What `41s ago` counts from in a sample.
#[cfg(test)]
fn before(style: &Style, seconds: u64) -> String {
    let then = style.now - Duration::from_secs(seconds);
    let text = time::OffsetDateTime::from(then);
    text.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::show::tests::plain;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_is_laid_out_as_documented() {
        let style = plain();
        let newest = json!({"revision": "r184", "who": "ana@payments", "why": "checkout: add v2",
            "when": before(&style, 41)});
        let synced = json!({"node": "edge-a-7c9", "kind": "weighlock", "version": "0.3.1",
            "fleet": "default", "state": "synced", "revision": 184, "lagMs": 38,
            "connectedSince": before(&style, 6 * 86_400)});
        let refused = json!({"node": "edge-b-k03", "kind": "envoy", "version": "1.40.0",
            "fleet": "default", "state": "NACK", "revision": 183, "lagMs": 9,
            "connectedSince": before(&style, 2 * 86_400),
            "nack": {"type": "RDS", "resource": "edge/public/https", "revision": 184,
                "at": before(&style, 12), "tries": 3, "text": "unknown field `retry_budget`",
                "object": "HTTPRoute payments/search rule api",
                "source": {"file": "teams/search.yaml", "line": 31, "column": 1}}});
        let expected = "\
REVISION r184  applied 41s ago by ana@payments  \"checkout: add v2\"        control planes 1/1 (leader -)
NODE        KIND           FLEET    REVISION  LAG   STATE     RPS  5XX  UPTIME
edge-a-7c9  weighlock 0.3  default  r184      38ms  ✓ synced  -    -    6d
edge-b-k03  envoy 1.40     default  r183      -     ✗ NACK    -    -    2d
1/2 in sync, 1 NACK, 0 stale, 0 lost in the last 10m

✗ edge-b-k03 refused RDS \"edge/public/https\" r184 (12s ago, 3 tries)
    unknown field `retry_budget`
    from  HTTPRoute payments/search rule api   teams/search.yaml:31
    it keeps serving r183; no request was lost
";
        assert_eq!(overview(Some(&newest), &[&synced, &refused], &style), expected);
        assert_eq!(verdict([&synced]), Exit::Done);
        assert_eq!(verdict([&synced, &refused]), Exit::Failed);
    }

    #[test]
    fn of_several_documents_some_are_named() {
        let nack = json!({"objects": ["HTTPRoute n/a", "HTTPRoute n/b"], "objectsInAll": 7});
        assert_eq!(from(&nack).unwrap(), "one of HTTPRoute n/a, HTTPRoute n/b and 5 more");
        assert_eq!(from(&json!({"object": "raw group g"})).unwrap(), "raw group g");
        assert_eq!(from(&json!({})), None);
    }

    #[test]
    fn one_node_is_shown_type_by_type() {
        let node = json!({"node": "a", "kind": "grpc", "version": "", "fleet": "x", "state": "pending",
            "types": {"RDS": {"sent": "ab", "acked": "cd", "resources": 3}}});
        let expected = "\
NODE  KIND  FLEET  REVISION  LAG  STATE      RPS  5XX  UPTIME
a     grpc  x      -         -    · pending  -    -    -

TYPE  SENT  ACKED  RESOURCES
RDS   ab    cd     3
";
        assert_eq!(one(&node, &plain()), expected);
    }
}
