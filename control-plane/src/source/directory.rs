//! Documents from a file or folder that is watched: what stands there is what is stored.
//!
//! An object that a file holds carries the file's name in an annotation, and over the API it is
//! read-only. A file that cannot be read as documents keeps what it last held.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::documents::{self, Document, DocumentError};
use super::folder;
use super::places::find;
use crate::finding::Finding;
use crate::model::kind::kind_of;
use crate::store::change::{Action, Change, Expected, Origin, Source, Write};
use crate::store::state::{ObjectKey, State};

pub mod watch;

/// Names the file that an object comes from.
pub const FILE_ANNOTATION: &str = "weighlock.dev/file";

/// The file that this document comes from, if it comes from one.
pub fn file_of(document: &Value) -> Option<&str> {
    document.get("metadata")?.get("annotations")?.get(FILE_ANNOTATION)?.as_str()
}

/// What stands in the files.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: BTreeMap<String, Content>,
}

/// What one file holds.
#[derive(Debug, Default)]
struct Content {
    /// What was read, or why it could not be; `None` before the first time.
    text: Option<Result<String, String>>,
    /// What it held when it was last good; `None` when it never was.
    objects: Option<Vec<Held>>,
}

/// One object of a file.
#[derive(Debug, Clone)]
struct Held {
    key: ObjectKey,
    value: Value,
    line: u32,
}

impl Directory {
    /// What stands at a path; nothing is read yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), files: BTreeMap::new() }
    }

    /// Reads all files again, and says what is wrong in those that changed.
    ///
    /// # Errors
    /// When the path itself cannot be read: then everything stays.
    pub fn read(&mut self) -> io::Result<Vec<DocumentError>> {
        let mut texts = BTreeMap::new();
        for path in folder::list(&self.root)? {
            let name = path.strip_prefix(&self.root).ok().filter(|name| *name != Path::new(""));
            let name = name.map_or_else(|| path.file_name().map(Path::new), Some);
            let name = name.unwrap_or(&path).display().to_string();
            let text = fs::read_to_string(&path).map_err(|error| error.to_string().to_lowercase());
            texts.insert(name, text);
        }
        Ok(self.take(texts))
    }

    /// Takes in the texts of all files.
    fn take(&mut self, texts: BTreeMap<String, Result<String, String>>) -> Vec<DocumentError> {
        let mut wrong = Vec::new();
        self.files.retain(|name, _| texts.contains_key(name));
        for (name, text) in texts {
            let content = self.files.entry(name.clone()).or_default();
            if content.text.as_ref() == Some(&text) {
                continue;
            }
            match objects(&name, &text) {
                Ok(objects) => content.objects = Some(objects),
                Err(errors) => wrong.extend(errors),
            }
            content.text = Some(text);
        }
        wrong
    }

    /// What makes the store hold what the files hold, and which objects stand in two files.
    pub fn change(&self, state: &State) -> (Change, Vec<DocumentError>) {
        let mut writes = Vec::new();
        let mut wrong = Vec::new();
        let mut owners: BTreeMap<ObjectKey, (&str, u32)> = BTreeMap::new();
        for (file, content) in &self.files {
            for held in content.objects.iter().flatten() {
                if let Some((first, line)) = owners.get(&held.key) {
                    let reason = format!("WL0004 {} stands in {first}:{line} too", held.key);
                    wrong.push(DocumentError {
                        file: file.clone(),
                        line: held.line,
                        column: 1,
                        reason,
                    });
                    continue;
                }
                owners.insert(held.key.clone(), (file, held.line));
                writes.push(put(file, held));
            }
        }
        // A file that never was good may be one that an earlier run could read.
        let unread: BTreeSet<&str> = self
            .files
            .iter()
            .filter(|(_, content)| content.objects.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        for object in state.objects.iter() {
            let Some(file) = file_of(&object.value) else { continue };
            if !owners.contains_key(&object.key) && !unread.contains(file) {
                writes.push(delete(object.key.clone()));
            }
        }
        let change = Change {
            writes,
            who: "files".into(),
            why: Some(format!("files in {}", self.root.display())),
            origin: Origin::Files,
            ..Change::default()
        };
        (change, wrong)
    }
}

/// What lets go of the objects that files once held: from here on the API may write them.
pub fn release(state: &State) -> Change {
    let mut writes = Vec::new();
    for object in state.objects.iter().filter(|object| file_of(&object.value).is_some()) {
        let mut value = object.value.clone();
        if let Some(annotations) =
            value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.shift_remove(FILE_ANNOTATION);
        }
        let (key, action) = (object.key.clone(), Action::Put(value));
        writes.push(Write::to(key, action));
    }
    let why = Some("started without --config: the API may write them again".to_owned());
    Change { writes, who: "files".into(), why, origin: Origin::Files, ..Change::default() }
}

fn put(file: &str, held: &Held) -> Write {
    let source = Source { file: file.to_owned(), line: held.line, column: 1 };
    Write {
        key: held.key.clone(),
        action: Action::Put(held.value.clone()),
        expected: Expected::Any,
        source: Some(source),
    }
}

fn delete(key: ObjectKey) -> Write {
    Write::to(key, Action::Delete)
}

/// The objects of one file, checked; or everything that is wrong with it.
fn objects(file: &str, text: &Result<String, String>) -> Result<Vec<Held>, Vec<DocumentError>> {
    let whole = |reason: &str| DocumentError {
        file: file.to_owned(),
        line: 1,
        column: 1,
        reason: reason.to_owned(),
    };
    let text = text.as_ref().map_err(|reason| vec![whole(reason)])?;
    let documents = documents::parse(file, text).map_err(|error| vec![error])?;
    let mut held = Vec::new();
    let mut wrong = Vec::new();
    for document in documents {
        match object(document, text) {
            Ok(object) => held.push(object),
            Err(errors) => wrong.extend(errors),
        }
    }
    if wrong.is_empty() { Ok(held) } else { Err(wrong) }
}

fn object(document: Document, text: &str) -> Result<Held, Vec<DocumentError>> {
    let Document { mut value, file, line } = document;
    let at = |reason: String| DocumentError { file: file.clone(), line, column: 1, reason };
    let kind = kind_of(&value).map_err(|finding| vec![at(finding.to_string())])?;
    let findings = kind.check(&mut value);
    if !findings.is_empty() {
        let located = |finding: &Finding| {
            let (line, column) = find(text, line, &finding.field).unwrap_or((line, 1));
            DocumentError { line, column, ..at(finding.to_string()) }
        };
        return Err(findings.iter().map(located).collect());
    }
    let text = |field: &str| {
        value.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).map(str::to_owned)
    };
    let Some(name) = text("name") else {
        return Err(vec![at(format!("WL0005 {}: metadata.name: required", kind.kind))]);
    };
    let namespace = text("namespace").filter(|_| kind.namespaced).unwrap_or_default();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(FILE_ANNOTATION.into(), file.into());
        }
    }
    Ok(Held { key: ObjectKey { kind, namespace, name }, value, line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn backend(name: &str, port: u16) -> String {
        format!(
            "apiVersion: weighlock.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\n\
             spec: {{endpoints: [{{host: 127.0.0.1, port: {port}}}]}}\n"
        )
    }

    fn step(directory: &mut Directory, store: &Store, files: &[(&str, &str)]) -> Vec<String> {
        let texts = files.iter().map(|(n, t)| ((*n).to_owned(), Ok((*t).to_owned()))).collect();
        let mut wrong = directory.take(texts);
        let (change, duplicates) = directory.change(&store.state());
        store.commit(&change).unwrap();
        wrong.extend(duplicates);
        wrong.iter().map(ToString::to_string).collect()
    }

    fn names(store: &Store) -> Vec<String> {
        store.state().objects.iter().map(|object| object.key.name.clone()).collect()
    }

    #[test]
    fn the_store_holds_what_the_files_hold() {
        let (store, mut directory) = (Store::in_memory().unwrap(), Directory::new(Path::new("/x")));
        let two = backend("b", 1) + "---\n" + &backend("c", 1);
        assert!(
            step(&mut directory, &store, &[("a.yaml", &backend("a", 1)), ("b.yaml", &two)])
                .is_empty()
        );
        assert_eq!(names(&store), ["a", "b", "c"]);
        let revision = store.state().revision;
        step(&mut directory, &store, &[("a.yaml", &backend("a", 1)), ("b.yaml", &two)]);
        assert_eq!(store.state().revision, revision, "nothing changed, no revision");
        step(&mut directory, &store, &[("b.yaml", &backend("c", 2))]);
        assert_eq!(names(&store), ["c"]);
        assert_eq!(file_of(&store.state().objects.iter().next().unwrap().value), Some("b.yaml"));
    }

    #[test]
    fn a_bad_file_keeps_its_last_good_content() {
        let (store, mut directory) = (Store::in_memory().unwrap(), Directory::new(Path::new("/x")));
        step(&mut directory, &store, &[("a.yaml", &backend("a", 1)), ("b.yaml", &backend("b", 1))]);
        let bad = "# x\n".to_owned() + &backend("a", 2).replace("spec:", "spce:");
        let wrong = step(&mut directory, &store, &[("a.yaml", &bad)]);
        assert!(wrong[0].starts_with("a.yaml:5:7: WL0002 Backend default/a: spce"), "{wrong:?}");
        assert_eq!(names(&store), ["a"], "b.yaml is gone, a.yaml is only bad");
        let again = step(&mut directory, &store, &[("a.yaml", &bad)]);
        assert!(again.is_empty(), "told once: {again:?}");
    }

    #[test]
    fn what_an_earlier_run_read_stays_while_its_file_is_bad() {
        let store = Store::in_memory().unwrap();
        step(&mut Directory::new(Path::new("/x")), &store, &[("a.yaml", &backend("a", 1))]);
        let mut restarted = Directory::new(Path::new("/x"));
        assert_eq!(step(&mut restarted, &store, &[("a.yaml", "a: [")]).len(), 1);
        assert_eq!(names(&store), ["a"]);
        step(&mut restarted, &store, &[]);
        assert!(names(&store).is_empty());
    }

    #[test]
    fn an_object_in_two_files_is_taken_from_the_first() {
        let (store, mut directory) = (Store::in_memory().unwrap(), Directory::new(Path::new("/x")));
        let files = [("a.yaml", backend("a", 1)), ("b.yaml", "\n".to_owned() + &backend("a", 2))];
        let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
        let wrong = step(&mut directory, &store, &files);
        assert_eq!(wrong, ["b.yaml:2:1: WL0004 Backend default/a stands in a.yaml:1 too"]);
    }

    #[test]
    fn without_files_the_api_may_write_the_objects_again() {
        let (store, mut directory) = (Store::in_memory().unwrap(), Directory::new(Path::new("/x")));
        step(&mut directory, &store, &[("a.yaml", &backend("a", 1))]);
        store.commit(&release(&store.state())).unwrap();
        assert_eq!(file_of(&store.state().objects.iter().next().unwrap().value), None);
        assert!(release(&store.state()).writes.is_empty());
    }
}
