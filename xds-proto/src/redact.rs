//! Secrets taken out of a message before people see it.
//!
//! Envoy's API marks the fields that hold secrets with the option `udpa.annotations.sensitive`; all
//! text and bytes below such a field are replaced.

use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, Value};

use crate::descriptor;

const REDACTED: &str = "[redacted]";
const SENSITIVE: &str = "udpa.annotations.sensitive";
const ANY: &str = "google.protobuf.Any";

/// Replaces every secret in `message`, in messages inside `Any` too.
pub(crate) fn redact(message: &mut DynamicMessage) {
    visit(message, false);
}

fn visit(message: &mut DynamicMessage, is_secret: bool) {
    if message.descriptor().full_name() == ANY {
        visit_any(message, is_secret);
        return;
    }
    let fields: Vec<_> =
        message.descriptor().fields().filter(|field| message.has_field(field)).collect();
    for field in fields {
        let is_secret = is_secret || is_sensitive(&field);
        visit_value(message.get_field_mut(&field), is_secret);
    }
}

fn visit_value(value: &mut Value, is_secret: bool) {
    match value {
        Value::Message(inner) => visit(inner, is_secret),
        Value::List(items) => items.iter_mut().for_each(|item| visit_value(item, is_secret)),
        Value::Map(entries) => {
            entries.values_mut().for_each(|entry| visit_value(entry, is_secret));
        }
        Value::String(text) if is_secret => REDACTED.clone_into(text),
        Value::Bytes(bytes) if is_secret => *bytes = REDACTED.into(),
        Value::String(_)
        | Value::Bytes(_)
        | Value::Bool(_)
        | Value::I32(_)
        | Value::I64(_)
        | Value::U32(_)
        | Value::U64(_)
        | Value::F32(_)
        | Value::F64(_)
        | Value::EnumNumber(_) => {}
    }
}

fn visit_any(any: &mut DynamicMessage, is_secret: bool) {
    let type_url = any.get_field_by_name("type_url");
    let value = any.get_field_by_name("value");
    let (Some(type_url), Some(value)) = (
        type_url.as_ref().and_then(|value| value.as_str()),
        value.as_ref().and_then(|value| value.as_bytes()),
    ) else {
        return;
    };
    let inner = descriptor::by_type_url(type_url)
        .and_then(|descriptor| DynamicMessage::decode(descriptor, value.clone()).ok());
    let bytes = match inner {
        Some(mut inner) => {
            visit(&mut inner, is_secret);
            inner.encode_to_vec()
        }
        // What cannot be looked into may be anything.
        None if is_secret => REDACTED.into(),
        None => return,
    };
    any.set_field_by_name("value", Value::Bytes(bytes.into()));
}

fn is_sensitive(field: &FieldDescriptor) -> bool {
    let pool = field.parent_pool();
    let Some(extension) = pool.get_extension_by_name(SENSITIVE) else { return true };
    field.options().get_extension(&extension).as_bool() == Some(true)
}
