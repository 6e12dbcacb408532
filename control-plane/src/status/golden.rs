//! Golden files: documents in, xDS, statuses and findings out.
//!
//! In `tests/golden`, `NAME.yaml` holds documents, `NAME.xds.yaml` the resources of each fleet and
//! `NAME.status.yaml` what is said of the objects. `UPDATE_GOLDEN=1` rewrites the last two.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::finding::Finding;
use crate::model::Model;
use crate::model::kind::{Kind, kind_of};
use crate::status::{Circumstances, FleetState, complete};
use crate::translate::property::refused;
use crate::translate::{Translation, translate};
use serde_json::{Map, Value, json};
use xds_proto::json::any_to_json;

#[test]
fn documents_become_what_the_golden_files_say() {
    let mut wrong = Vec::new();
    for path in inputs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let (xds, status) = run(&path, &text);
        for (kind, value) in [("xds", xds), ("status", status)] {
            let golden = path.with_extension(format!("{kind}.yaml"));
            let made = serde_saphyr::to_string(&value).unwrap();
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&golden, &made).unwrap();
            }
            let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
            if wanted != made {
                wrong.push(difference(&golden, &wanted, &made));
            }
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 rewrites\n{}", wrong.join("\n"));
}

#[test]
fn translation_is_a_function() {
    for path in inputs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let once = run(&path, &text);
        assert_eq!(once, run(&path, &text), "{}", path.display());
    }
}

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .filter(|path| !path.file_stem().unwrap().to_string_lossy().contains('.'))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty());
    inputs
}

/// The golden values of some documents: resources, and what is said of the objects.
fn run(path: &Path, text: &str) -> (Value, Value) {
    let mut objects: Vec<(&'static Kind, Value)> = Vec::new();
    let mut findings: Vec<String> = Vec::new();
    for mut document in documents(path, text) {
        let kind = kind_of(&document).unwrap();
        findings.extend(kind.check(&mut document).iter().map(Finding::to_string));
        objects.push((kind, document));
    }
    assert!(findings.is_empty(), "{}: {findings:?}", path.display());
    let model = Model::from_objects(objects.iter().map(|(kind, document)| (*kind, document)));
    let translation = translate(&model);
    for resources in translation.fleets.values() {
        assert_eq!(refused(resources), [""; 0], "{}", path.display());
    }
    (resources(&translation), statuses(&translation, &objects))
}

fn documents(path: &Path, text: &str) -> Vec<Value> {
    let text =
        text.replace("CERTIFICATE", &indented("cert.pem")).replace("KEY", &indented("key.pem"));
    let documents = serde_saphyr::from_multiple(&text);
    assert!(documents.is_ok(), "{}: {documents:?}", path.display());
    documents.unwrap()
}

/// A file of the folder as a YAML string.
fn indented(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    json!(std::fs::read_to_string(path).unwrap()).to_string()
}

fn resources(translation: &Translation) -> Value {
    let mut fleets = Map::new();
    for (fleet, resources) in &translation.fleets {
        let mut made = Vec::new();
        for resource in resources {
            let mut value = any_to_json(resource.kind.type_url(), &resource.body).unwrap();
            shorten(&mut value);
            let key = (resource.kind, resource.name.clone());
            let owners = translation.owners[&key].iter().map(ToString::to_string);
            value["(from)"] = json!(owners.collect::<Vec<_>>());
            made.push(value);
        }
        fleets.insert(fleet.clone(), made.into());
    }
    Value::Object(fleets)
}

/// Key material says nothing to a reader.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with("-----BEGIN") => *value = json!("(PEM)"),
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

fn statuses(translation: &Translation, objects: &[(&Kind, Value)]) -> Value {
    let state = FleetState { connected: 1, acknowledged: 1, ..FleetState::default() };
    let fleets: BTreeMap<String, FleetState> =
        translation.fleets.keys().map(|fleet| (fleet.clone(), state.clone())).collect();
    let circumstances =
        Circumstances { fleets: &fleets, is_early: false, now: "2026-01-01T00:00:00Z" };
    let mut out = Map::new();
    for draft in &translation.statuses {
        let known = objects.iter().any(|(kind, _)| kind.kind == draft.object.kind);
        assert!(known, "{}", draft.object);
        let status = complete(draft, None, circumstances).unwrap();
        out.insert(draft.object.to_string(), brief(status));
    }
    let findings: Vec<String> = translation
        .findings
        .iter()
        .map(|finding| format!("{:?} {finding}", finding.severity))
        .collect();
    out.insert("findings".to_owned(), json!(findings));
    Value::Object(out)
}

/// Each condition on one line.
fn brief(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
                *conditions = conditions.iter().map(one_line).collect();
            }
            for field in fields.values_mut() {
                *field = brief(field.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = brief(item.take());
            }
        }
        _ => {}
    }
    value
}

fn one_line(condition: &Value) -> Value {
    let text = |field: &str| condition[field].as_str().unwrap().to_owned();
    let line = format!("{}={} {}", text("type"), text("status"), text("reason"));
    match text("message").as_str() {
        "" => json!(line),
        message => json!(format!("{line}: {message}")),
    }
}

fn difference(golden: &Path, wanted: &str, made: &str) -> String {
    let first = wanted.lines().zip(made.lines()).position(|(a, b)| a != b);
    let at = first.unwrap_or_else(|| wanted.lines().count().min(made.lines().count()));
    let around = |text: &str| {
        text.lines().skip(at.saturating_sub(2)).take(6).collect::<Vec<_>>().join("\n  ")
    };
    format!(
        "{}:{}\n- wanted\n  {}\n- made\n  {}",
        golden.display(),
        at + 1,
        around(wanted),
        around(made)
    )
}
