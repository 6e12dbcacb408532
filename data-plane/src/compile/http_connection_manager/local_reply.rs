//! Compiles `LocalReplyConfig`.

use http::{HeaderValue, StatusCode};
use xds_proto::convert::inline_data;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use crate::compile::access_log;
use crate::format::compile::mutations;
use crate::listener::local_reply::{BodyFormat, LocalReplies, ReplyMapper};
use crate::listener::log::LineFormat;

pub(super) fn compile(message: LocalReplyConfig) -> Result<LocalReplies, FieldError> {
    fields!(message: LocalReplyConfig, read: [mappers, body_format], ignore: [], refuse: []);
    Ok(LocalReplies {
        mappers: each(mappers, "mappers", mapper)?.into(),
        format: body_format.map(format).transpose().at("body_format")?,
    })
}

fn mapper(message: ResponseMapper) -> Result<ReplyMapper, FieldError> {
    fields!(message: ResponseMapper,
        read: [filter, status_code, body, body_format_override, headers_to_add],
        ignore: [],
        refuse: []);
    let filter = access_log::filter::compile(required(filter, "filter")?).at("filter")?;
    let status = status_code.map(|code| status(code.value)).transpose().at("status_code")?;
    let body = body.map(|body| text(Some(body))).transpose().at("body")?;
    Ok(ReplyMapper {
        filter,
        status,
        body: body.map(Into::into),
        format: body_format_override.map(format).transpose().at("body_format_override")?,
        headers: mutations((headers_to_add, "headers_to_add"), (Vec::new(), "headers_to_add"))?,
    })
}

fn status(code: u32) -> Result<StatusCode, FieldError> {
    u16::try_from(code)
        .ok()
        .filter(|code| (200..600).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| FieldError::invalid("must be between 200 and 599"))
}

fn text(source: Option<core::DataSource>) -> Result<String, FieldError> {
    String::from_utf8(inline_data(source)?).map_err(|_| FieldError::invalid("must be text"))
}

/// Compiles what a body becomes.
///
/// # Errors
/// The first field that is wrong or not supported.
pub(crate) fn format(message: core::SubstitutionFormatString) -> Result<BodyFormat, FieldError> {
    fields!(message: core::SubstitutionFormatString,
        read: [omit_empty_values, content_type, format, formatters],
        // Keys are always sorted.
        ignore: [json_format_options],
        refuse: []);
    access_log::formatters(formatters)?;
    let line = access_log::format(required(format, "format")?, omit_empty_values)?;
    let content_type = match (&line, content_type.is_empty()) {
        (_, false) => HeaderValue::try_from(content_type)
            .map_err(|_| FieldError::invalid("has bytes that no header may have"))
            .at("content_type")?,
        (LineFormat::Text { .. }, true) => HeaderValue::from_static("text/plain"),
        (LineFormat::Json { .. }, true) => HeaderValue::from_static("application/json"),
    };
    Ok(BodyFormat { line, content_type })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use xds_proto::json;

    use super::*;
    use crate::format::{Context, Flags};
    use crate::listener::local_reply::Draft;

    fn compiled(yaml: &str) -> Result<LocalReplies, String> {
        compile(json::from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    /// Status, content type and body of a reply, and the header `x-m`.
    fn rewritten(replies: &LocalReplies, code: u16, body: &str, flag: &'static str) -> String {
        let sent = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-who"),
            HeaderValue::from_static("me"),
        )]);
        let flags = Flags { noted: &[], ends: [flag, ""] };
        let context =
            Context { flags, path: "/p?q", request_headers: Some(&sent), ..Context::default() };
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert("content-type", HeaderValue::from_static("text/plain"));
        }
        let status = StatusCode::from_u16(code).unwrap();
        let mut draft = Draft { status, headers: &mut headers, body: body.into() };
        replies.rewrite(&mut draft, &context);
        let (status, body) = (draft.status.as_u16(), draft.body);
        let header = |name: &str| headers.get(name).map_or("-", |value| value.to_str().unwrap());
        format!("{status} {} {} {body}", header("content-type"), header("x-m"))
    }

    const CONFIG: &str = "
mappers:
- filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 404, runtime_key: x}}}}
  status_code: 410
  headers_to_add: [{header: {key: x-m, value: '%REQ(x-who)%'}}]
  body_format_override: {json_format: {code: '%RESPONSE_CODE%', msg: '%LOCAL_REPLY_BODY%', path: '%REQ(:PATH)%'}}
- filter: {and_filter: {filters: [{response_flag_filter: {flags: [UF]}}, {header_filter: {header: {name: x-who, exact_match: me}}}]}}
  body: {inline_string: gone}
- filter: {or_filter: {filters: [{response_flag_filter: {flags: [UH]}}, {response_flag_filter: {flags: [UO]}}]}}
  body_format_override: {text_format_source: {inline_string: '<%LOCAL_REPLY_BODY%>'}, content_type: text/html}
body_format: {text_format_source: {inline_string: 'E %RESPONSE_CODE% %RESPONSE_FLAGS% %LOCAL_REPLY_BODY%'}}
";

    #[test]
    fn the_first_mapper_that_holds_changes_the_reply() {
        let replies = compiled(CONFIG).unwrap();
        assert_eq!(
            rewritten(&replies, 404, "", "NR"),
            "410 application/json me {\"code\":410,\"msg\":\"\",\"path\":\"/p?q\"}\n"
        );
        assert_eq!(rewritten(&replies, 503, "x", "UF"), "503 text/plain - E 503 UF gone");
        assert_eq!(rewritten(&replies, 503, "x", "UO"), "503 text/html - <x>");
        assert_eq!(rewritten(&replies, 200, "x", ""), "200 text/plain - E 200 - x");
    }

    #[test]
    fn without_a_format_only_the_mapper_counts() {
        let replies = compiled(
            "mappers: [{filter: {status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: x}}}}, status_code: 500, body: {inline_string: sorry}}]",
        )
        .unwrap();
        assert_eq!(rewritten(&replies, 503, "", "UF"), "500 text/plain - sorry");
        assert_eq!(rewritten(&replies, 404, "", "NR"), "404 - - ");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("mappers: [{}]", "mappers[0].filter: required"),
            (
                "mappers: [{filter: {not_health_check_filter: {}}, status_code: 99}]",
                "mappers[0].status_code: must be between 200 and 599",
            ),
            ("body_format: {}", "body_format.format: required"),
            (
                "body_format: {text_format_source: {inline_string: '%NOPE%'}}",
                "body_format.text_format_source: unknown operator %NOPE%",
            ),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), want);
        }
    }
}
