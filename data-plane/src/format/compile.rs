//! Compiles header changes: Envoy's `HeaderValueOption` lists and the names to remove.

use http::{HeaderName, HeaderValue};
use xds_proto::envoy::config::common::mutation_rules::v3::HeaderMutation;
use xds_proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use crate::format::Template;
use crate::format::mutation::{AddedValue, AppendAction, HeaderAddition, HeaderMutations};

/// The changes of one level; errors lie under the given field names.
pub(crate) fn mutations(
    add: (Vec<core::HeaderValueOption>, &'static str),
    remove: (Vec<String>, &'static str),
) -> Result<HeaderMutations, FieldError> {
    let remove = each(remove.0, remove.1, |name| changeable(&name, "removed"))?;
    let add = each(add.0, add.1, addition)?;
    Ok(HeaderMutations::new(remove, add))
}

/// One change; a list of them is applied one after the other.
pub(crate) fn mutation(message: HeaderMutation) -> Result<HeaderMutations, FieldError> {
    match required(message.action, "action")? {
        Action::Remove(name) => mutations((Vec::new(), "append"), (vec![name], "remove")),
        Action::Append(option) => mutations((vec![option], "append"), (Vec::new(), "remove")),
        Action::RemoveOnMatch(_) => Err(FieldError::unsupported()).at("remove_on_match"),
    }
}

/// A header that may change: any but the host and what begins with a colon.
fn changeable(name: &str, verb: &str) -> Result<HeaderName, FieldError> {
    if name.is_empty() {
        return Err(FieldError::required());
    }
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(FieldError::invalid(format!(":-prefixed or host headers may not be {verb}")));
    }
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| FieldError::invalid(format!("{name:?} is not a header name")))
}

fn addition(message: core::HeaderValueOption) -> Result<HeaderAddition, FieldError> {
    fields!(message: core::HeaderValueOption,
        read: [header, append, append_action, keep_empty_value],
        ignore: [],
        refuse: []);
    let header = required(header, "header")?;
    fields!(header: core::HeaderValue, read: [key, value, raw_value], ignore: [], refuse: []);
    let key = required_text(key, "key").at("header")?;
    let name = changeable(&key, "modified").at("key").at("header")?;
    let value = match (raw_value.is_empty(), String::from_utf8(raw_value)) {
        (true, _) => text_value(&value).at("value"),
        (false, Ok(text)) => text_value(&text).at("raw_value"),
        (false, Err(bytes)) => fixed(bytes.as_bytes()).at("raw_value"),
    };
    let action = HeaderAppendAction::try_from(append_action)
        .map_err(|_| FieldError::invalid("unknown value"))
        .at("append_action")?;
    let action = match (append, action) {
        (Some(append), HeaderAppendAction::AppendIfExistsOrAdd) if append.value => {
            AppendAction::AppendIfExistsOrAdd
        }
        (Some(_), HeaderAppendAction::AppendIfExistsOrAdd) => AppendAction::OverwriteIfExistsOrAdd,
        (Some(_), _) => {
            return Err(FieldError::invalid("stands for append_action; not both")).at("append");
        }
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => AppendAction::AppendIfExistsOrAdd,
        (None, HeaderAppendAction::AddIfAbsent) => AppendAction::AddIfAbsent,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => AppendAction::OverwriteIfExistsOrAdd,
        (None, HeaderAppendAction::OverwriteIfExists) => AppendAction::OverwriteIfExists,
    };
    Ok(HeaderAddition { name, value: value.at("header")?, action, keep_empty_value })
}

fn text_value(text: &str) -> Result<AddedValue, FieldError> {
    let template = Template::compile(text)?;
    match template.literal() {
        Some(text) => fixed(text.as_bytes()),
        None => Ok(AddedValue::Template(template)),
    }
}

fn fixed(bytes: &[u8]) -> Result<AddedValue, FieldError> {
    HeaderValue::from_bytes(bytes)
        .map(AddedValue::Fixed)
        .map_err(|_| FieldError::invalid("has bytes that no header may have"))
}

#[cfg(test)]
mod tests {
    use xds_proto::json;

    use super::*;

    fn compile(yaml: &str) -> Result<HeaderAddition, String> {
        addition(json::from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn host_and_pseudo_headers_do_not_change() {
        for key in [":path", "Host", ":authority"] {
            let error = compile(&format!("{{header: {{key: '{key}', value: x}}}}")).unwrap_err();
            assert_eq!(error, "header.key: :-prefixed or host headers may not be modified");
            let error = mutations((vec![], "add"), (vec!["x".into(), key.into()], "remove"));
            assert_eq!(
                error.unwrap_err().to_string(),
                "remove[1]: :-prefixed or host headers may not be removed"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("{}", "header: required"),
            ("{header: {value: x}}", "header.key: required"),
            ("{header: {key: 'a b'}}", "header.key: \"a b\" is not a header name"),
            ("{header: {key: x, value: '%NOPE%'}}", "header.value: unknown operator %NOPE%"),
            (
                "{header: {key: x, value: \"a\\nb\"}}",
                "header.value: has bytes that no header may have",
            ),
            (
                "{header: {key: x}, append: true, append_action: ADD_IF_ABSENT}",
                "append: stands for append_action; not both",
            ),
        ] {
            assert_eq!(compile(yaml).unwrap_err(), want);
        }
    }

    #[test]
    fn the_deprecated_append_still_counts() {
        for (append, want) in [
            ("true", AppendAction::AppendIfExistsOrAdd),
            ("false", AppendAction::OverwriteIfExistsOrAdd),
        ] {
            let addition = compile(&format!("{{header: {{key: x}}, append: {append}}}")).unwrap();
            assert_eq!(addition.action, want);
        }
    }
}
