//! `wlctl get`: documents, with their status in columns.

use serde_json::Value;

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
use super::show::{Cell, Style, Table, instant};
use super::target::Target;
use super::{Format, GetArgs};

/// Asks for the API's own columns.
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(super) async fn run(session: &Session, args: &GetArgs) -> Result<Exit, Problem> {
    let target = Target::parse(&args.kind, args.name.as_deref(), &session.namespace)?;
    let everywhere = args.all_namespaces && target.name.is_none() && target.kind.namespaced;
    let path = if everywhere { target.path_everywhere() } else { target.path() };
    let is_table = matches!(session.format, Format::Table | Format::Wide);
    let mut ask = Ask::get(path);
    if is_table {
        ask.accept = AS_TABLE;
    }
    if let Some(selector) = &args.selector {
        ask = ask.query("labelSelector", selector.as_str());
    }
    let answer = target.fetch(session, &ask).await?;
    if !session.print_raw(&answer)? {
        let columns = Columns::of(&answer, session.format == Format::Wide, everywhere);
        let table = columns.table(&answer, &session.out);
        if table.is_empty() && !args.watch {
            session.hint(&nothing(&target, everywhere));
        } else {
            session.print(&table.render(&session.out))?;
        }
    }
    if args.watch { watch(session, ask, &answer, everywhere).await } else { Ok(Exit::Done) }
}

fn nothing(target: &Target, everywhere: bool) -> String {
    if everywhere || !target.kind.namespaced {
        format!("there are no {}", target.kind.plural)
    } else {
        format!("there are no {} in namespace {}", target.kind.plural, target.namespace)
    }
}

/// Prints what changes from here on, until interrupted.
async fn watch(
    session: &Session,
    ask: Ask,
    first: &Value,
    everywhere: bool,
) -> Result<Exit, Problem> {
    let version = first.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    let mut ask = ask.query("watch", "true").query("resourceVersion", version.unwrap_or("0"));
    // A single object is watched through the list that it stands in.
    if let Some((list, name)) = watched_list(&ask.path) {
        ask = ask.query("fieldSelector", format!("metadata.name={name}"));
        ask.path = list;
    }
    let columns = Columns::of(first, session.format == Format::Wide, everywhere);
    let mut lines = session.client.stream(&ask).await?;
    while let Some(line) = lines.next().await? {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        let object = event.get("object").cloned().unwrap_or_default();
        match event.get("type").and_then(Value::as_str) {
            Some("BOOKMARK") | None => {}
            Some("ERROR") => {
                let text = object.get("message").and_then(Value::as_str).unwrap_or("refused");
                return Err(Problem::new(Exit::Failed, "", format!("the watch ended: {text}")));
            }
            Some(_) if !session.print_raw(&object)? => {
                let table = columns.table(&object, &session.out);
                session.print(&table.render_rows(&session.out))?;
            }
            Some(_) => {}
        }
    }
    Ok(Exit::Done)
}

/// `…/httproutes/shop` is `shop` of `…/httproutes`.
fn watched_list(path: &str) -> Option<(String, String)> {
    let (list, name) = path.rsplit_once('/')?;
    let is_object =
        crate::model::kind::KINDS.iter().any(|kind| list.ends_with(&format!("/{}", kind.plural)));
    is_object.then(|| (list.to_owned(), name.to_owned()))
}

/// Which of the API's columns are shown.
#[derive(Debug)]
struct Columns {
    shown: Vec<(usize, String)>,
    with_namespace: bool,
}

impl Columns {
    fn of(answer: &Value, wide: bool, with_namespace: bool) -> Self {
        let columns = answer.get("columnDefinitions").and_then(Value::as_array);
        let shown = columns
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, column)| {
                wide || column.get("priority").and_then(Value::as_u64).unwrap_or_default() == 0
            })
            .filter_map(|(position, column)| {
                Some((position, column.get("name")?.as_str()?.to_uppercase()))
            })
            .collect();
        Self { shown, with_namespace }
    }

    fn table(&self, answer: &Value, style: &Style) -> Table {
        let namespace = self.with_namespace.then(|| "NAMESPACE".to_owned());
        let names = self.shown.iter().map(|(_, name)| name.clone());
        let mut table = Table::new(namespace.into_iter().chain(names));
        for row in answer.get("rows").and_then(Value::as_array).into_iter().flatten() {
            let object = row.get("object").unwrap_or(&Value::Null);
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
            let mut cells: Vec<Cell> = Vec::new();
            if self.with_namespace {
                cells.push(namespace.unwrap_or_default().into());
            }
            for (position, name) in &self.shown {
                let cell = row.get("cells").and_then(|cells| cells.get(*position));
                cells.push(self::cell(name, cell, object, style).into());
            }
            table.row(cells);
        }
        table
    }
}

fn cell(column: &str, cell: Option<&Value>, object: &Value, style: &Style) -> String {
    let created = || object.pointer("/metadata/creationTimestamp")?.as_str();
    if let ("AGE", Some(created)) = (column, created().and_then(instant)) {
        return style.age(created);
    }
    match cell {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::show::tests::plain;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_api_s_columns_are_shown() {
        let answer = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Hostnames"},
                {"name": "Backends", "priority": 1}, {"name": "Age"}],
            "rows": [{"cells": ["shop", "", "a,b", "x"], "object": {"metadata":
                {"namespace": "n", "creationTimestamp": "1970-01-12T13:45:59Z"}}}]});
        let table = Columns::of(&answer, false, false).table(&answer, &plain());
        assert_eq!(table.render(&plain()), "NAME  HOSTNAMES  AGE\nshop  -          41s\n");
        let wide = Columns::of(&answer, true, true).table(&answer, &plain());
        let expected = "NAMESPACE  NAME  HOSTNAMES  BACKENDS  AGE\nn          shop  -          a,b       41s\n";
        assert_eq!(wide.render(&plain()), expected);
    }

    #[test]
    fn one_object_is_watched_in_its_list() {
        let list = "/api/v1/namespaces/x/secrets";
        assert_eq!(watched_list(&format!("{list}/a")), Some((list.into(), "a".into())));
        assert_eq!(watched_list(list), None);
    }
}
