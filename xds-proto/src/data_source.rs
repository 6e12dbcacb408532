//! Files that a message names, put in their place.

use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use crate::descriptor;
use crate::field::{At, FieldError};

/// Reads the file at a path, or says why it cannot.
pub type ReadFile<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

const DATA_SOURCE: &str = "envoy.config.core.v3.DataSource";
const ANY: &str = "google.protobuf.Any";

/// Replaces the `filename` of every data source in `message` by the bytes of that file. Whether
/// anything changed.
pub(crate) fn inline(message: &mut DynamicMessage, read: ReadFile<'_>) -> Result<bool, FieldError> {
    match message.descriptor().full_name() {
        ANY => return inline_any(message, read),
        DATA_SOURCE => return inline_source(message, read),
        _ => {}
    }
    let mut has_changed = false;
    let fields: Vec<_> =
        message.descriptor().fields().filter(|field| message.has_field(field)).collect();
    for field in fields {
        if field.kind().as_message().is_none() {
            continue;
        }
        let changed = match message.get_field_mut(&field) {
            Value::Message(inner) => inline(inner, read),
            Value::List(items) => inline_list(items, read),
            Value::Map(entries) => {
                let mut changed = false;
                for (key, entry) in entries {
                    if let Value::Message(inner) = entry {
                        changed |= inline(inner, read)
                            .at_key(key.as_str().unwrap_or_default())
                            .at(field.name().to_owned())?;
                    }
                }
                Ok(changed)
            }
            _ => Ok(false),
        };
        has_changed |= changed.at(field.name().to_owned())?;
    }
    Ok(has_changed)
}

fn inline_list(items: &mut [Value], read: ReadFile<'_>) -> Result<bool, FieldError> {
    let mut has_changed = false;
    for (index, item) in items.iter_mut().enumerate() {
        if let Value::Message(inner) = item {
            has_changed |= inline(inner, read).at_index(index)?;
        }
    }
    Ok(has_changed)
}

fn inline_source(source: &mut DynamicMessage, read: ReadFile<'_>) -> Result<bool, FieldError> {
    if !source.has_field_by_name("filename") {
        return Ok(false);
    }
    let path = source.get_field_by_name("filename").and_then(|v| v.as_str().map(str::to_owned));
    let bytes = read(&path.unwrap_or_default()).map_err(FieldError::invalid).at("filename")?;
    source.set_field_by_name("inline_bytes", Value::Bytes(bytes.into()));
    Ok(true)
}

fn inline_any(any: &mut DynamicMessage, read: ReadFile<'_>) -> Result<bool, FieldError> {
    let type_url = any.get_field_by_name("type_url");
    let value = any.get_field_by_name("value");
    let (Some(type_url), Some(value)) = (
        type_url.as_ref().and_then(|value| value.as_str()),
        value.as_ref().and_then(|value| value.as_bytes()),
    ) else {
        return Ok(false);
    };
    let Some(descriptor) = descriptor::by_type_url(type_url) else { return Ok(false) };
    let mut inner = DynamicMessage::decode(descriptor, value.clone())
        .map_err(|error| FieldError::invalid(error.to_string()))?;
    if !inline(&mut inner, read)? {
        return Ok(false);
    }
    any.set_field_by_name("value", Value::Bytes(inner.encode_to_vec().into()));
    Ok(true)
}
