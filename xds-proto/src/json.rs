//! Envoy's YAML and JSON, `@type` and all, to messages and back.
//!
//! An `Any` whose type has no descriptor here is written as
//! `{"@type": …, "value": "<base64 of its bytes>"}` and read back the same way.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use crate::canonical::{CanonicalError, rewrite};
use crate::data_source::{self, ReadFile};
use crate::descriptor;
use crate::field::FieldError;
use crate::google::protobuf::Any;

/// The text is not the message it should be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JsonError {
    /// No descriptor for this type.
    #[error("unknown type {0}")]
    UnknownType(String),
    /// The text does not parse as the message; the reason has line and column where there is text.
    #[error("{0}")]
    Syntax(String),
    /// The message does not decode.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

/// Stands in an `Any` for a type without a descriptor while prost-reflect has its hands on it.
const STAND_IN: &str = "type.googleapis.com/google.protobuf.BytesValue";
const MAGIC: &[u8] = b"\0weighlock:opaque:01d31f7c9b5a4e6e\0";

/// Reads a message from Envoy-style YAML or JSON text.
///
/// # Errors
/// A reason with line, column and the lines around it.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, JsonError> {
    let descriptor = descriptor_of::<M>()?;
    let message = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        DynamicMessage::deserialize(descriptor, deserializer)
    })
    .map_err(|error| JsonError::Syntax(error.to_string()))?;
    message.transcode_to().map_err(|error| JsonError::Syntax(error.to_string()))
}

/// Reads a resource with `@type` into its type URL and canonical bytes.
///
/// # Errors
/// An unknown `@type`, or a field that is wrong, with its path where it is known.
pub fn any_from_json(mut value: Value) -> Result<(String, Bytes), JsonError> {
    let type_url = match value.as_object_mut().and_then(|object| object.shift_remove("@type")) {
        Some(Value::String(type_url)) => type_url,
        _ => return Err(JsonError::Syntax("@type: required".into())),
    };
    let descriptor = descriptor::by_type_url(&type_url)
        .ok_or_else(|| JsonError::UnknownType(type_url.clone()))?;
    hide_unknown(&mut value);
    let message = DynamicMessage::deserialize(descriptor.clone(), &value)
        .map_err(|error| JsonError::Syntax(explain(&descriptor, &value, error.to_string())))?;
    let bytes = rewrite(&descriptor, message.encode_to_vec().into(), &mut |type_url, value| {
        unpack_stand_in(type_url, value)
    })?;
    Ok((type_url, bytes))
}

/// A message by type URL and bytes as JSON, with `@type`, in Envoy's field names.
///
/// # Errors
/// When the bytes do not decode. A type without a descriptor is given as base64.
pub fn any_to_json(type_url: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let Some(descriptor) = descriptor::by_type_url(type_url) else {
        return Ok(opaque(type_url, bytes));
    };
    let mut value = encoded_to_json(&descriptor, Bytes::copy_from_slice(bytes))?;
    if let Value::Object(object) = &mut value {
        object.shift_insert(0, "@type".into(), type_url.into());
    }
    Ok(value)
}

/// As [`any_to_json`], with every secret replaced by `[redacted]`: what people may see.
///
/// # Errors
/// When the bytes do not decode.
pub fn any_to_redacted_json(type_url: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let descriptor = descriptor::by_type_url(type_url)
        .ok_or_else(|| JsonError::UnknownType(type_url.to_owned()))?;
    let mut message = DynamicMessage::decode(descriptor, bytes)
        .map_err(|error| JsonError::Syntax(error.to_string()))?;
    crate::redact::redact(&mut message);
    any_to_json(type_url, &message.encode_to_vec())
}

/// A message as JSON, in Envoy's field names.
///
/// # Errors
/// When an `Any` inside does not decode.
pub fn to_json<M: Message + Name>(message: &M) -> Result<Value, JsonError> {
    let name = M::full_name();
    let descriptor = descriptor::by_name(&name).ok_or(JsonError::UnknownType(name))?;
    encoded_to_json(&descriptor, message.encode_to_vec().into())
}

/// Packs a message; the bytes are canonical.
///
/// # Errors
/// When an `Any` inside does not decode.
pub fn pack<M: Message + Name>(message: &M) -> Result<Any, JsonError> {
    let name = M::full_name();
    let descriptor = descriptor::by_name(&name).ok_or(JsonError::UnknownType(name))?;
    let value = crate::canonical::canonical(&descriptor, &message.encode_to_vec())?;
    Ok(Any { type_url: M::type_url(), value: value.into() })
}

/// Replaces the `filename` of every data source in `message`, however deep, by what `read` gives.
///
/// # Errors
/// The place of the first file that cannot be read, and why.
pub fn inline_files<M: Message + Name + Default>(
    message: &M,
    read: ReadFile<'_>,
) -> Result<M, FieldError> {
    let descriptor =
        descriptor_of::<M>().map_err(|error| FieldError::invalid(error.to_string()))?;
    let invalid = |error: prost::DecodeError| FieldError::invalid(error.to_string());
    let mut dynamic =
        DynamicMessage::decode(descriptor, &*message.encode_to_vec()).map_err(invalid)?;
    data_source::inline(&mut dynamic, read)?;
    dynamic.transcode_to().map_err(invalid)
}

fn descriptor_of<M: Name>() -> Result<MessageDescriptor, JsonError> {
    let name = M::full_name();
    descriptor::by_name(&name).ok_or(JsonError::UnknownType(name))
}

fn encoded_to_json(descriptor: &MessageDescriptor, bytes: Bytes) -> Result<Value, JsonError> {
    let bytes = rewrite(descriptor, bytes, &mut |type_url, value| {
        let known = descriptor::by_type_url(type_url).is_some();
        (!known && !type_url.is_empty()).then(|| pack_stand_in(type_url, value))
    })?;
    let syntax = |error: String| JsonError::Syntax(error);
    let message =
        DynamicMessage::decode(descriptor.clone(), bytes).map_err(|e| syntax(e.to_string()))?;
    let options =
        SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true);
    let mut value = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|e| syntax(e.to_string()))?;
    show_unknown(&mut value);
    Ok(value)
}

fn opaque(type_url: &str, bytes: &[u8]) -> Value {
    serde_json::json!({"@type": type_url, "value": BASE64_STANDARD.encode(bytes)})
}

fn pack_stand_in(type_url: &str, value: &[u8]) -> (String, Bytes) {
    let mut packed = MAGIC.to_vec();
    packed.extend((type_url.len() as u64).to_le_bytes());
    packed.extend(type_url.as_bytes());
    packed.extend(value);
    (
        STAND_IN.to_owned(),
        crate::google::protobuf::BytesValue { value: packed }.encode_to_vec().into(),
    )
}

fn unpack_stand_in(type_url: &str, value: &[u8]) -> Option<(String, Bytes)> {
    if type_url != STAND_IN {
        return None;
    }
    let packed = crate::google::protobuf::BytesValue::decode(value).ok()?.value;
    opaque_parts(&packed)
        .map(|(type_url, value)| (type_url.to_owned(), Bytes::copy_from_slice(value)))
}

fn opaque_parts(packed: &[u8]) -> Option<(&str, &[u8])> {
    let rest = packed.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (type_url, value) =
        rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((std::str::from_utf8(type_url).ok()?, value))
}

/// Puts a stand-in where an `Any` of a type without a descriptor is given as base64.
fn hide_unknown(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide_unknown),
        Value::Object(object) => {
            if let (2, Some(Value::String(type_url)), Some(Value::String(text))) =
                (object.len(), object.get("@type"), object.get("value"))
                && descriptor::by_type_url(type_url).is_none()
                && let Ok(bytes) = BASE64_STANDARD.decode(text)
            {
                let (stand_in, packed) = pack_stand_in(type_url, &bytes);
                let inner = crate::google::protobuf::BytesValue::decode(packed).unwrap_or_default();
                *value = opaque(&stand_in, &inner.value);
                return;
            }
            object.values_mut().for_each(hide_unknown);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The reverse of [`hide_unknown`].
fn show_unknown(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(show_unknown),
        Value::Object(object) => {
            if object.get("@type").is_some_and(|type_url| type_url == STAND_IN)
                && let Some(Value::String(text)) = object.get("value")
                && let Ok(packed) = BASE64_STANDARD.decode(text)
                && let Some((type_url, bytes)) = opaque_parts(&packed)
            {
                *value = opaque(type_url, bytes);
                return;
            }
            object.values_mut().for_each(show_unknown);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Finds where in `value` the error lies, by reading ever smaller parts of it.
fn explain(descriptor: &MessageDescriptor, value: &Value, error: String) -> String {
    match culprit(descriptor, value) {
        Some((path, reason)) if !path.is_empty() => format!("{path}: {reason}"),
        _ => error,
    }
}

fn culprit(descriptor: &MessageDescriptor, value: &Value) -> Option<(String, String)> {
    let error = DynamicMessage::deserialize(descriptor.clone(), value).err()?.to_string();
    let Value::Object(object) = value else { return Some((String::new(), error)) };
    let (descriptor, is_any) = match object.get("@type") {
        Some(Value::String(type_url)) => match descriptor::by_type_url(type_url) {
            Some(inner) => (inner, true),
            None => return Some(("@type".into(), format!("unknown type {type_url}"))),
        },
        _ => (descriptor.clone(), false),
    };
    for (key, part) in object.iter().filter(|(key, _)| !(is_any && *key == "@type")) {
        let field =
            descriptor.get_field_by_json_name(key).or_else(|| descriptor.get_field_by_name(key));
        let Some(field) = field else {
            return Some((key.clone(), "unknown field".into()));
        };
        let alone = Value::Object([(key.clone(), part.clone())].into_iter().collect());
        if DynamicMessage::deserialize(descriptor.clone(), &alone).is_ok() {
            continue;
        }
        let prost_reflect::Kind::Message(inner) = field.kind() else {
            return Some((key.clone(), error));
        };
        return Some(match part {
            Value::Array(items) if field.is_list() => items
                .iter()
                .enumerate()
                .find_map(|(i, item)| {
                    culprit(&inner, item).map(|c| join(&format!("{key}[{i}]"), c))
                })
                .unwrap_or((key.clone(), error)),
            Value::Object(entries) if field.is_map() => entries
                .iter()
                .find_map(|(name, entry)| match inner.map_entry_value_field().kind() {
                    prost_reflect::Kind::Message(entry_type) => {
                        culprit(&entry_type, entry).map(|c| join(&format!("{key}[{name:?}]"), c))
                    }
                    _ => None,
                })
                .unwrap_or((key.clone(), error)),
            _ => culprit(&inner, part).map_or((key.clone(), error), |c| join(key, c)),
        });
    }
    Some((String::new(), error))
}

fn join(outer: &str, (inner, reason): (String, String)) -> (String, String) {
    (if inner.is_empty() { outer.to_owned() } else { format!("{outer}.{inner}") }, reason)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::envoy::config::bootstrap::v3::Bootstrap;

    const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    #[test]
    fn a_resource_survives_the_round_trip() {
        let value = json!({
            "@type": CLUSTER, "name": "a", "connect_timeout": "1s", "type": "EDS",
            "typed_extension_protocol_options": {"x": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"}},
        });
        let (type_url, bytes) = any_from_json(value).unwrap();
        let back = any_to_json(&type_url, &bytes).unwrap();
        assert_eq!(back["name"], "a");
        assert_eq!(any_from_json(back).unwrap().1, bytes);
    }

    #[test]
    fn a_type_without_descriptor_passes_through_byte_for_byte() {
        let unknown = json!({"@type": "type.googleapis.com/acme.Filter", "value": "AAEC/w=="});
        let value = json!({"@type": CLUSTER, "name": "a", "typed_extension_protocol_options": {"x": unknown}});
        let (type_url, bytes) = any_from_json(value).unwrap();
        let cluster = crate::envoy::config::cluster::v3::Cluster::decode(bytes.clone()).unwrap();
        let any = &cluster.typed_extension_protocol_options["x"];
        assert_eq!(
            (any.type_url.as_str(), &any.value[..]),
            ("type.googleapis.com/acme.Filter", &[0, 1, 2, 255][..])
        );
        assert_eq!(
            any_to_json(&type_url, &bytes).unwrap()["typed_extension_protocol_options"]["x"],
            unknown
        );
    }

    #[test]
    fn an_error_names_the_path() {
        let value = json!({"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "r",
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"clustr": "a"}}]}]});
        let error = any_from_json(value).unwrap_err().to_string();
        assert_eq!(error, "virtual_hosts[0].routes[0].route.clustr: unknown field");
        let error = any_from_json(json!({"@type": "type.googleapis.com/acme.X"})).unwrap_err();
        assert_eq!(error.to_string(), "unknown type type.googleapis.com/acme.X");
        assert!(any_from_json(json!({"name": "x"})).is_err());
    }

    #[test]
    fn yaml_errors_have_line_and_column() {
        let error =
            from_yaml::<Bootstrap>("node:\n  id: a\n  clustr: b\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("clustr"), "{error}");
    }

    #[test]
    fn typed_struct_is_known() {
        let value = json!({"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": "a/b", "value": {"k": 1}});
        let (type_url, bytes) = any_from_json(value).unwrap();
        assert_eq!(any_to_json(&type_url, &bytes).unwrap()["value"]["k"], 1.0);
    }

    #[test]
    fn files_are_put_in_their_place_also_inside_any() {
        let text = r#"
static_resources:
  clusters:
  - name: a
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: {validation_context: {trusted_ca: {filename: /ca.pem}}}
"#;
        let bootstrap = from_yaml::<Bootstrap>(text).unwrap();
        let inlined = inline_files(&bootstrap, &mut |path| Ok(path.to_uppercase().into())).unwrap();
        let value = to_json(&inlined).unwrap().to_string();
        assert!(!value.contains("filename") && value.contains("L0NBLlBFTQ=="), "{value}");
        let error = inline_files(&bootstrap, &mut |_| Err("no".into())).unwrap_err().to_string();
        assert_eq!(
            error,
            "static_resources.clusters[0].transport_socket.typed_config.common_tls_context\
             .validation_context.trusted_ca.filename: no"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "s",
            "tls_certificate": {
                "certificate_chain": {"inline_string": "public"},
                "private_key": {"inline_string": "hidden"},
            },
        });
        let (type_url, bytes) = any_from_json(secret).unwrap();
        let shown = any_to_redacted_json(&type_url, &bytes).unwrap().to_string();
        assert!(shown.contains("public") && shown.contains("[redacted]"), "{shown}");
        assert!(!shown.contains("hidden"));
        let listener = json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": "l",
            "filter_chains": [{"transport_socket": {"name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"tls_certificates": [{"private_key": {"inline_string": "hidden"}}]},
            }}}],
        });
        let (type_url, bytes) = any_from_json(listener).unwrap();
        let shown = any_to_redacted_json(&type_url, &bytes).unwrap().to_string();
        assert!(!shown.contains("hidden") && shown.contains("[redacted]"), "{shown}");
    }
}
