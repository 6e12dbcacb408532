//! An `AccessLog` to where lines go and what they say.

pub(super) mod filter;

use std::path::PathBuf;

use prost::{Message, Name};
use xds_proto::convert::inline_data;
use xds_proto::envoy::config::accesslog::v3 as api;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use xds_proto::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use xds_proto::envoy::extensions::formatter::metadata::v3::Metadata;
use xds_proto::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::{self, value::Kind};

use crate::format::{self, Template};
use crate::listener::log::{AccessLogConfig, JsonNode, LineFormat, LogFilter};

/// What Envoy writes where no format is given.
const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
     %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
     \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Compiles an access log.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub(super) fn compile(message: api::AccessLog) -> Result<AccessLogConfig, FieldError> {
    fields!(message: api::AccessLog,
        read: [filter, config_type],
        // Says only which logger was meant; the type of its configuration says it too.
        ignore: [name],
        refuse: [],
    );
    let filter = match filter {
        None => LogFilter::Always,
        Some(message) => filter::compile(message).at("filter")?,
    };
    let api::access_log::ConfigType::TypedConfig(config) = required(config_type, "typed_config")?;
    let decode = |error: prost::DecodeError| {
        FieldError::invalid(error.to_string()).at("value").at("typed_config")
    };
    let (path, format) = if config.type_url == FileAccessLog::type_url() {
        let message = FileAccessLog::decode(config.value.as_slice()).map_err(decode)?;
        file(message).at("typed_config")?
    } else if config.type_url == StdoutAccessLog::type_url() {
        let message = StdoutAccessLog::decode(config.value.as_slice()).map_err(decode)?;
        let format = message.access_log_format.map(|format| match format {
            stdout_access_log::AccessLogFormat::LogFormat(format) => format,
        });
        (PathBuf::from("/dev/stdout"), line_format(format).at("typed_config")?)
    } else if config.type_url == StderrAccessLog::type_url() {
        let message = StderrAccessLog::decode(config.value.as_slice()).map_err(decode)?;
        let format = message.access_log_format.map(|format| match format {
            stderr_access_log::AccessLogFormat::LogFormat(format) => format,
        });
        (PathBuf::from("/dev/stderr"), line_format(format).at("typed_config")?)
    } else {
        let name = config.type_url.rsplit('/').next().unwrap_or_default();
        let reason = format!("unknown access log {name:?}");
        return Err(FieldError::invalid(reason)).at("type_url").at("typed_config");
    };
    Ok(AccessLogConfig { path, format, filter })
}

#[expect(deprecated, reason = "what Envoy deprecates is sent all the same")]
fn file(message: FileAccessLog) -> Result<(PathBuf, LineFormat), FieldError> {
    let path = required_text(message.path, "path")?.into();
    let format = match message.access_log_format {
        None => line_format(None)?,
        Some(AccessLogFormat::LogFormat(format)) => line_format(Some(format))?,
        Some(AccessLogFormat::Format(text)) => text_format(&text, false).at("format")?,
        Some(AccessLogFormat::JsonFormat(object) | AccessLogFormat::TypedJsonFormat(object)) => {
            LineFormat::Json { node: self::object(object).at("json_format")?, omits_empty: false }
        }
    };
    Ok((path, format))
}

fn line_format(message: Option<core::SubstitutionFormatString>) -> Result<LineFormat, FieldError> {
    let Some(message) = message else { return text_format(DEFAULT_FORMAT, false) };
    fields!(message: core::SubstitutionFormatString,
        read: [omit_empty_values, format, formatters],
        // A log has no content type.
        ignore: [content_type,
            // Keys are always sorted.
            json_format_options],
        refuse: [],
    );
    self::formatters(formatters).at("log_format")?;
    let format = required(format, "format").at("log_format")?;
    self::format(format, omit_empty_values).at("log_format")
}

/// Formatters whose operators are known anyway.
///
/// # Errors
/// One that is not known.
pub(super) fn formatters(messages: Vec<core::TypedExtensionConfig>) -> Result<(), FieldError> {
    each(messages, "formatters", |message| {
        let config = required(message.typed_config, "typed_config")?;
        if config.type_url == ReqWithoutQuery::type_url() || config.type_url == Metadata::type_url()
        {
            return Ok(());
        }
        let name = config.type_url.rsplit('/').next().unwrap_or_default();
        let reason = format!("unknown formatter {name:?}");
        Err(FieldError::invalid(reason)).at("type_url").at("typed_config")
    })?;
    Ok(())
}

/// Compiles a format string, or a JSON object of them.
///
/// # Errors
/// What is wrong with an operator, and where.
#[expect(deprecated, reason = "what Envoy deprecates is sent all the same")]
pub(super) fn format(
    format: core::substitution_format_string::Format,
    omits_empty: bool,
) -> Result<LineFormat, FieldError> {
    use core::substitution_format_string::Format;
    match format {
        Format::TextFormat(text) => text_format(&text, omits_empty).at("text_format"),
        Format::TextFormatSource(source) => {
            let bytes = inline_data(Some(source)).at("text_format_source")?;
            let text = String::from_utf8(bytes)
                .map_err(|_| FieldError::invalid("must be text"))
                .at("text_format_source")?;
            text_format(&text, omits_empty).at("text_format_source")
        }
        Format::JsonFormat(object) => {
            let node = self::object(object).at("json_format")?;
            Ok(LineFormat::Json { node, omits_empty })
        }
    }
}

fn text_format(text: &str, omits_empty: bool) -> Result<LineFormat, FieldError> {
    let absent = if omits_empty { "" } else { "-" };
    Ok(LineFormat::Text { template: Template::compile(text)?, absent })
}

fn object(message: protobuf::Struct) -> Result<JsonNode, FieldError> {
    // Sorted, as Envoy writes them, and since the map itself has no order.
    let mut entries: Vec<_> = message.fields.into_iter().collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let entries = entries.into_iter().map(|(key, value)| {
        let node = node(value).at_key(&key)?;
        Ok((key.into(), node))
    });
    Ok(JsonNode::Object(entries.collect::<Result<_, FieldError>>()?))
}

fn node(value: protobuf::Value) -> Result<JsonNode, FieldError> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => JsonNode::Null,
        Some(Kind::BoolValue(flag)) => JsonNode::Fixed(flag.to_string().into()),
        Some(Kind::NumberValue(number)) => JsonNode::Fixed(number.to_string().into()),
        Some(Kind::StringValue(text)) => {
            let template = Template::compile(&text)?;
            match template.kind() {
                format::Kind::Mixed => JsonNode::Text(template),
                format::Kind::Text => JsonNode::Single(template),
                format::Kind::Number => JsonNode::Number(template),
                format::Kind::Json => JsonNode::Json(template),
            }
        }
        Some(Kind::StructValue(object)) => self::object(object)?,
        Some(Kind::ListValue(list)) => JsonNode::Array(
            list.values
                .into_iter()
                .enumerate()
                .map(|(index, value)| node(value).at_index(index))
                .collect::<Result<_, _>>()?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::format::Context;

    fn compiled(config: &str) -> Result<AccessLogConfig, String> {
        let text = format!(
            "name: f\ntyped_config:\n  '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n{config}"
        );
        compile(from_yaml(&text).unwrap()).map_err(|error| error.to_string())
    }

    fn line(config: &AccessLogConfig) -> String {
        let context = Context { response_code: Some(404), path: "/x", ..Context::default() };
        let mut out = String::new();
        config.format.write(&context, &mut out);
        out
    }

    #[test]
    fn text_and_json_formats_write_lines() {
        let text = compiled("  path: /dev/stdout\n  log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE% %UPSTREAM_HOST%\\n\"}}").unwrap();
        assert_eq!(line(&text), "404 -\n");
        let json = compiled("  path: /tmp/a\n  log_format: {json_format: {c: '%RESPONSE_CODE%', a: '%REQ(:PATH)%', n: 1}}").unwrap();
        assert_eq!(line(&json), "{\"a\":\"/x\",\"c\":404,\"n\":1}\n");
        assert!(line(&compiled("  path: /tmp/a").unwrap()).ends_with("\"-\"\n"));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        assert_eq!(compiled("  path: ''").unwrap_err(), "typed_config.path: required");
        let error = compiled("  path: /a\n  log_format: {json_format: {c: '%NOPE%'}}").unwrap_err();
        assert!(error.starts_with("typed_config.log_format.json_format[\"c\"]: "), "{error}");
    }
}
