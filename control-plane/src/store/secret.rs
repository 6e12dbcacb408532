//! Secrets are write-only: what is read are marks that stand for the values.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use crate::model::kind::Kind;

const MARK: &str = "redacted:";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Makes the marks. Two stores make different ones of the same value.
pub(crate) struct Redactor(hmac::Key);

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// With this store's key.
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The document as people may see it.
    pub(crate) fn visible(&self, kind: &Kind, value: &Value) -> Value {
        let mut value = value.clone();
        if is_secret(kind) {
            self.redact(&mut value);
        }
        value
    }

    /// Makes a Secret that came in ready to store: text becomes data, marks become the stored
    /// values that they stand for, and kubectl's copy of it loses its values.
    ///
    /// # Errors
    /// The field of a mark that stands for nothing stored.
    pub(crate) fn receive(
        &self,
        kind: &Kind,
        value: &mut Value,
        stored: Option<&Value>,
    ) -> Result<(), String> {
        if !is_secret(kind) {
            return Ok(());
        }
        text_to_data(value);
        self.restore(value, stored)?;
        self.redact_last_applied(value);
        Ok(())
    }

    fn redact(&self, value: &mut Value) {
        let data = value.get_mut("data").and_then(Value::as_object_mut);
        for (_, item) in data.into_iter().flat_map(Map::iter_mut) {
            *item = Value::String(self.mark(&bytes_of(item)));
        }
        if let Some(text) = value.get_mut("stringData").and_then(Value::as_object_mut) {
            text.values_mut().for_each(|item| *item = Value::String(self.text_mark(item)));
        }
    }

    fn restore(&self, value: &mut Value, stored: Option<&Value>) -> Result<(), String> {
        let stored = stored.and_then(|stored| stored.get("data")).and_then(Value::as_object);
        let data = value.get_mut("data").and_then(Value::as_object_mut);
        for (name, item) in data.into_iter().flat_map(Map::iter_mut) {
            if !bytes_of(item).starts_with(MARK.as_bytes()) {
                continue;
            }
            let kept = stored.and_then(|stored| stored.get(name));
            let kept =
                kept.filter(|kept| Some(self.mark(&bytes_of(kept)).as_str()) == item.as_str());
            *item = kept.cloned().ok_or_else(|| format!("data[{name:?}]"))?;
        }
        Ok(())
    }

    fn redact_last_applied(&self, value: &mut Value) {
        let copy =
            value.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(LAST_APPLIED));
        let Some(copy) = copy else { return };
        // What does not parse is of no use to kubectl, and may hold a value.
        *copy = match copy.as_str().map(serde_json::from_str::<Value>) {
            Some(Ok(mut document)) => {
                self.redact_new(&mut document);
                Value::String(document.to_string() + "\n")
            }
            _ => Value::String("{}\n".into()),
        };
    }

    /// Like `redact`, but leaves marks as they are.
    fn redact_new(&self, document: &mut Value) {
        let data = document.get_mut("data").and_then(Value::as_object_mut);
        for (_, item) in data.into_iter().flat_map(Map::iter_mut) {
            let bytes = bytes_of(item);
            if !bytes.starts_with(MARK.as_bytes()) {
                *item = Value::String(self.mark(&bytes));
            }
        }
        let text = document.get_mut("stringData").and_then(Value::as_object_mut);
        for (_, item) in text.into_iter().flat_map(Map::iter_mut) {
            if item.as_str().is_none_or(|text| !text.starts_with(MARK)) {
                *item = Value::String(self.text_mark(item));
            }
        }
    }

    fn mark(&self, value: &[u8]) -> String {
        BASE64_STANDARD.encode(self.plain_mark(value))
    }

    fn text_mark(&self, value: &Value) -> String {
        self.plain_mark(value.as_str().unwrap_or_default().as_bytes())
    }

    fn plain_mark(&self, value: &[u8]) -> String {
        let tag = hmac::sign(&self.0, value);
        let hex = tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{MARK}{hex}")
    }
}

fn is_secret(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Secret"
}

/// The bytes of a `data` value. One that is no base64 is refused before it comes here.
fn bytes_of(item: &Value) -> Vec<u8> {
    let text = item.as_str().unwrap_or_default();
    BASE64_STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec())
}

/// `stringData` is for writing only: each value goes into `data`, over one of its name.
fn text_to_data(value: &mut Value) {
    let Some(object) = value.as_object_mut() else { return };
    let Some(Value::Object(text)) = object.shift_remove("stringData") else { return };
    let data = object.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if !data.is_object() {
        *data = Value::Object(Map::new());
    }
    if let Some(data) = data.as_object_mut() {
        for (name, item) in text {
            data.insert(name, BASE64_STANDARD.encode(item.as_str().unwrap_or_default()).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::kind::kind_by;

    fn secret() -> &'static Kind {
        kind_by("", "Secret").unwrap()
    }

    #[test]
    fn a_mark_written_back_keeps_the_value() {
        let redactor = Redactor::new(b"key");
        let stored = json!({"kind": "Secret", "data": {"tls.key": BASE64_STANDARD.encode("hush")}});
        let mut seen = redactor.visible(secret(), &stored);
        let text = seen.to_string();
        assert!(!text.contains(&BASE64_STANDARD.encode("hush")), "{text}");
        redactor.receive(secret(), &mut seen, Some(&stored)).unwrap();
        assert_eq!(seen, stored);
    }

    #[test]
    fn a_mark_that_stands_for_nothing_stored_is_refused() {
        let redactor = Redactor::new(b"key");
        let stored =
            json!({"data": {"a": BASE64_STANDARD.encode("1"), "b": BASE64_STANDARD.encode("2")}});
        let seen = redactor.visible(secret(), &stored);
        let mut moved = json!({"data": {"a": seen["data"]["b"]}});
        assert_eq!(
            redactor.receive(secret(), &mut moved, Some(&stored)),
            Err("data[\"a\"]".into())
        );
        let mut fresh = seen.clone();
        assert!(redactor.receive(secret(), &mut fresh, None).is_err());
        let mut other_store = Redactor::new(b"other").visible(secret(), &stored);
        assert!(redactor.receive(secret(), &mut other_store, Some(&stored)).is_err());
    }

    #[test]
    fn text_becomes_data() {
        let mut value = json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        Redactor::new(b"key").receive(secret(), &mut value, None).unwrap();
        assert_eq!(value, json!({"data": {"a": "eQ==", "b": "eg=="}}));
    }

    #[test]
    fn the_copy_that_kubectl_keeps_holds_no_value() {
        let redactor = Redactor::new(b"key");
        let copy = json!({"kind": "Secret", "data": {"k": BASE64_STANDARD.encode("hush")}, "stringData": {"l": "hush"}});
        let mut value = json!({"metadata": {"annotations": {LAST_APPLIED: copy.to_string()}}});
        redactor.receive(secret(), &mut value, None).unwrap();
        let text = value.to_string();
        assert!(
            !text.contains("hush") && !text.contains(&BASE64_STANDARD.encode("hush")),
            "{text}"
        );
        let before = value.clone();
        redactor.receive(secret(), &mut value, None).unwrap();
        assert_eq!(value, before);
    }
}
