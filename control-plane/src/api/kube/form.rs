//! In which form objects are given: as they are, as a table, or their metadata alone.

use std::time::SystemTime;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::kube::query::{IncludeObject, Query};
use crate::api::kube::target::Target;
use crate::store::state::Object;

/// The form that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// `meta.k8s.io/v1` Table.
    Table(IncludeObject),
    /// `meta.k8s.io/v1` PartialObjectMetadata.
    Metadata,
}

impl Form {
    /// From the `Accept` header: the first form in it that is served.
    pub fn asked(headers: &HeaderMap, query: &Query) -> Self {
        let accept = headers.get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok());
        for range in accept.unwrap_or_default().split(',') {
            let parameter = |name: &str| {
                range.split(';').skip(1).find_map(|part| part.trim().strip_prefix(name))
            };
            let is_json = range.split(';').next().is_some_and(|kind| {
                matches!(kind.trim(), "application/json" | "application/*" | "*/*")
            });
            if !is_json {
                continue;
            }
            return match (parameter("as="), parameter("g=")) {
                (Some("Table"), Some("meta.k8s.io")) => Self::Table(query.include_object()),
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), _) => Self::Metadata,
                _ => Self::Plain,
            };
        }
        Self::Plain
    }
}

/// Gives objects of one kind and version in one form.
#[derive(Debug, Clone)]
pub struct Presenter<'a> {
    /// Knows what may be seen.
    pub api: &'a Api,
    /// The kind and version.
    pub target: &'a Target,
    /// The form.
    pub form: Form,
    /// For ages.
    pub now: SystemTime,
}

impl Presenter<'_> {
    /// An object as it is, in the version that was asked for, without secrets.
    pub fn plain(&self, object: &Object) -> Value {
        let mut value = self.api.store.visible(object);
        if let Some(version) = value.get_mut("apiVersion") {
            *version = self.target.api_version().into();
        }
        value
    }

    /// An object.
    pub fn object(&self, object: &Object) -> Value {
        match self.form {
            Form::Plain => self.plain(object),
            Form::Metadata => partial(&self.plain(object)),
            Form::Table(_) => {
                let version = object.resource_version.to_string();
                self.table(&[self.plain(object)], json!({"resourceVersion": version}), true)
            }
        }
    }

    /// An object in a watch, where a table says its columns only once.
    pub fn watched(&self, plain: &Value, is_first: bool) -> Value {
        match self.form {
            Form::Plain => plain.clone(),
            Form::Metadata => partial(plain),
            Form::Table(_) => self.table(std::slice::from_ref(plain), json!({}), is_first),
        }
    }

    /// A list.
    pub fn list(&self, objects: &[Value], metadata: Value) -> Value {
        let kind = self.target.kind.kind;
        match self.form {
            Form::Plain => json!({
                "kind": format!("{kind}List"), "apiVersion": self.target.api_version(),
                "metadata": metadata, "items": objects,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": objects.iter().map(partial).collect::<Vec<_>>(),
            }),
            Form::Table(_) => self.table(objects, metadata, true),
        }
    }

    fn table(&self, objects: &[Value], metadata: Value, with_columns: bool) -> Value {
        let rows: Vec<Value> = objects.iter().map(|object| self.row(object)).collect();
        let columns = if with_columns { self.columns() } else { Value::Null };
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": columns, "rows": rows,
        })
    }

    fn columns(&self) -> Value {
        let column = |name: &str, format: &str, priority: u8| {
            json!({
                "name": name, "type": "string", "format": format,
                "description": "", "priority": priority,
            })
        };
        let mut columns = vec![column("Name", "name", 0)];
        for own in self.target.kind.columns {
            columns.push(column(own.name, "", u8::from(own.wide)));
        }
        columns.push(column("Age", "", 0));
        columns.into()
    }

    fn row(&self, object: &Value) -> Value {
        let text = |pointer: &str| {
            object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let mut cells = vec![text("/metadata/name")];
        for own in self.target.kind.columns {
            let cell = (own.text)(object);
            cells.push(if cell.is_empty() { "-".to_owned() } else { cell });
        }
        cells.push(age(&text("/metadata/creationTimestamp"), self.now));
        let mut row = json!({"cells": cells});
        let carried = match self.form {
            Form::Table(IncludeObject::Object) => object.clone(),
            Form::Table(IncludeObject::None) => return row,
            Form::Table(IncludeObject::Metadata) | Form::Plain | Form::Metadata => partial(object),
        };
        if let Some(row) = row.as_object_mut() {
            row.insert("object".into(), carried);
        }
        row
    }
}

fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata"),
    })
}

/// How long ago that was, as kubectl writes it: two units at most.
fn age(timestamp: &str, now: SystemTime) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    let Ok(born) = time::OffsetDateTime::parse(timestamp, format) else { return "-".into() };
    let seconds = now.duration_since(born.into()).unwrap_or_default().as_secs();
    let two = |unit: u64, name: &str, small: u64, small_name: &str| {
        let rest = seconds % unit / small;
        let rest = if rest > 0 { format!("{rest}{small_name}") } else { String::new() };
        format!("{}{name}{rest}", seconds / unit)
    };
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(MINUTE, "m", 1, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(HOUR, "h", MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(DAY, "d", HOUR, "h"),
        _ => format!("{}d", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn asked(accept: &str) -> Form {
        let headers = HeaderMap::from_iter([(http::header::ACCEPT, accept.parse().unwrap())]);
        Form::asked(&headers, &Query::default())
    }

    #[test]
    fn the_accept_header_chooses_the_form() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(asked(kubectl), Form::Table(IncludeObject::Metadata));
        assert_eq!(asked("application/vnd.kubernetes.protobuf,application/json"), Form::Plain);
        assert_eq!(
            asked("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Form::Metadata
        );
        assert_eq!(asked("text/html"), Form::Plain);
    }

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let born = "2026-01-01T00:00:00Z";
        let format = &time::format_description::well_known::Rfc3339;
        let start = SystemTime::from(time::OffsetDateTime::parse(born, format).unwrap());
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (3600, "60m"),
            (10_800, "3h"),
            (200_000, "2d7h"),
        ] {
            assert_eq!(age(born, start + Duration::from_secs(seconds)), expected);
        }
        assert_eq!(age("", start), "-");
    }
}
