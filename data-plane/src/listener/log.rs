//! Access logs that the HTTP connection manager asks for: where, what and when.

use std::path::PathBuf;

use crate::format::rare::{Left, MetadataPath};
use crate::format::{Context, Template};
use crate::matcher::header::{HeaderMatcher, HeaderView};
use crate::matcher::metadata::ValueMatcher;
use crate::telemetry::json;

/// An access log.
#[derive(Debug, Clone)]
pub struct AccessLogConfig {
    /// The file; `/dev/stdout` is standard output.
    pub path: PathBuf,
    /// What a line says.
    pub format: LineFormat,
    /// Which requests are logged.
    pub filter: LogFilter,
}

/// What a line of access log says.
#[derive(Debug, Clone)]
pub enum LineFormat {
    /// Text, with its own line end.
    Text {
        /// The text.
        template: Template,
        /// What stands for a value that is absent.
        absent: &'static str,
    },
    /// A JSON object a line.
    Json {
        /// The object.
        node: JsonNode,
        /// Whether values that are absent are left out; else they are null.
        omits_empty: bool,
    },
}

/// A value in a JSON line.
#[derive(Debug, Clone)]
pub enum JsonNode {
    /// The same in every line, as JSON.
    Fixed(Box<str>),
    /// Null, which counts as absent.
    Null,
    /// A string with operators.
    Text(Template),
    /// One operator whose value is a string.
    Single(Template),
    /// One operator whose value is a number.
    Number(Template),
    /// One operator whose value may be anything.
    Json(Template),
    /// An object.
    Object(Box<[(Box<str>, JsonNode)]>),
    /// An array.
    Array(Box<[JsonNode]>),
}

/// Which requests are logged.
#[derive(Debug, Clone)]
pub enum LogFilter {
    /// All.
    Always,
    /// Those whose status compares so.
    Status(Comparison),
    /// Those that took so long, in milliseconds.
    DurationMs(Comparison),
    /// Those with one of these flags; with any where there is none.
    Flags(Box<[Box<str>]>),
    /// Those whose request has this header.
    Header(Box<HeaderMatcher>),
    /// So many of a million.
    Random(u32),
    /// Those that are no health checks.
    NotHealthCheck,
    /// Those with one of these gRPC statuses, or without.
    GrpcStatus {
        /// One bit a status.
        statuses: u32,
        /// Whether they are those that are not logged.
        excludes: bool,
    },
    /// Those for which filters left this.
    Metadata {
        /// Where it is.
        path: Box<MetadataPath>,
        /// What is asked of it.
        test: Box<ValueMatcher>,
        /// Whether that must not hold.
        inverts: bool,
        /// Whether those are logged for which there is no such value.
        if_absent: bool,
    },
    /// Lines of these kinds, by Envoy's names, or all others.
    LogType {
        /// The kinds.
        types: Box<[Box<str>]>,
        /// Whether they are those that are not logged.
        excludes: bool,
    },
    /// Those that all of these log.
    And(Box<[LogFilter]>),
    /// Those that one of these logs.
    Or(Box<[LogFilter]>),
}

/// How a number compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Is this.
    Equal(u64),
    /// Is this or more.
    AtLeast(u64),
    /// Is this or less.
    AtMost(u64),
    /// Is anything but this.
    NotEqual(u64),
}

impl Comparison {
    fn holds(self, value: u64) -> bool {
        match self {
            Self::Equal(wanted) => value == wanted,
            Self::AtLeast(wanted) => value >= wanted,
            Self::AtMost(wanted) => value <= wanted,
            Self::NotEqual(unwanted) => value != unwanted,
        }
    }
}

impl LogFilter {
    /// Whether the request is logged.
    pub fn logs(&self, context: &Context<'_>) -> bool {
        match self {
            Self::Always => true,
            Self::Status(comparison) => {
                comparison.holds(context.response_code.unwrap_or_default().into())
            }
            Self::DurationMs(comparison) => {
                let ms = context.duration.unwrap_or_default().as_millis();
                comparison.holds(u64::try_from(ms).unwrap_or(u64::MAX))
            }
            Self::Flags(flags) if flags.is_empty() => !context.flags.is_empty(),
            Self::Flags(flags) => {
                context.flags.iter().any(|flag| flags.iter().any(|wanted| **wanted == *flag))
            }
            Self::Header(matcher) => context.request_headers.is_some_and(|headers| {
                matcher.matches(&HeaderView {
                    method: context.method,
                    path: Some(context.path),
                    host: Some(context.host),
                    scheme: Some(context.scheme),
                    headers,
                })
            }),
            Self::Random(millionths) => fastrand::u32(..1_000_000) < *millionths,
            Self::NotHealthCheck => !context.is_health_check,
            Self::GrpcStatus { statuses, excludes } => {
                let bit = 1_u32.checked_shl(context.grpc_status()).unwrap_or(0);
                (statuses & bit != 0) != *excludes
            }
            Self::Metadata { path, test, inverts, if_absent } => match context.left(path) {
                Some(Left::One(value)) => test.matches(Some(value)) != *inverts,
                Some(Left::All(_)) | None => *if_absent,
            },
            Self::LogType { types, excludes } => {
                types.iter().any(|kind| **kind == *context.log_type) != *excludes
            }
            Self::And(filters) => filters.iter().all(|filter| filter.logs(context)),
            Self::Or(filters) => filters.iter().any(|filter| filter.logs(context)),
        }
    }
}

impl LineFormat {
    /// Appends a line.
    pub fn write(&self, context: &Context<'_>, out: &mut String) {
        match self {
            Self::Text { template, absent } => {
                template.render_with(context, absent, out);
            }
            Self::Json { node, omits_empty } => {
                let mut text = String::new();
                if !node.write(context, *omits_empty, &mut text, out) {
                    out.push_str("{}");
                }
                out.push('\n');
            }
        }
    }
}

impl JsonNode {
    /// Appends the value; says whether there was one to append. `text` is scratch.
    fn write(
        &self,
        context: &Context<'_>,
        omits_empty: bool,
        text: &mut String,
        out: &mut String,
    ) -> bool {
        match self {
            Self::Fixed(fixed) => out.push_str(fixed),
            Self::Null if omits_empty => return false,
            Self::Null => out.push_str("null"),
            Self::Text(template) => {
                text.clear();
                template.render_with(context, if omits_empty { "" } else { "-" }, text);
                json::push_string(out, text);
            }
            Self::Json(template) => {
                let is_present = template.render_json(context, out);
                if !is_present && omits_empty {
                    return false;
                }
                if !is_present {
                    out.push_str("null");
                }
            }
            Self::Single(template) | Self::Number(template) => {
                text.clear();
                let is_present = template.render_with(context, "", text);
                match (is_present, self) {
                    (false, _) if omits_empty => return false,
                    (false, _) => out.push_str("null"),
                    (true, Self::Number(_)) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                        out.push_str(text);
                    }
                    (true, _) => json::push_string(out, text),
                }
            }
            Self::Object(entries) => {
                out.push('{');
                let mut is_first = true;
                for (key, node) in entries {
                    let mark = out.len();
                    if !is_first {
                        out.push(',');
                    }
                    json::push_string(out, key);
                    out.push(':');
                    if node.write(context, omits_empty, text, out) {
                        is_first = false;
                    } else {
                        out.truncate(mark);
                    }
                }
                out.push('}');
            }
            Self::Array(nodes) => {
                out.push('[');
                let mut is_first = true;
                for node in nodes {
                    let mark = out.len();
                    if !is_first {
                        out.push(',');
                    }
                    if node.write(context, omits_empty, text, out) {
                        is_first = false;
                    } else {
                        out.truncate(mark);
                    }
                }
                out.push(']');
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::format::Flags;

    fn template(text: &str) -> Template {
        Template::compile(text).unwrap()
    }

    #[test]
    fn a_json_line_keeps_numbers_and_leaves_out_or_nulls_what_is_absent() {
        let node = JsonNode::Object(
            [
                ("code".into(), JsonNode::Number(template("%RESPONSE_CODE%"))),
                ("host".into(), JsonNode::Single(template("%UPSTREAM_HOST%"))),
                ("fixed".into(), JsonNode::Fixed("true".into())),
                (
                    "path".into(),
                    JsonNode::Array(
                        [JsonNode::Null, JsonNode::Text(template("p:%REQ(:PATH)%%PROTOCOL%"))]
                            .into(),
                    ),
                ),
            ]
            .into(),
        );
        let context = Context { response_code: Some(200), path: "/a\"b", ..Context::default() };
        let line = |omits_empty| {
            let mut out = String::new();
            LineFormat::Json { node: node.clone(), omits_empty }.write(&context, &mut out);
            out
        };
        assert_eq!(line(true), "{\"code\":200,\"fixed\":true,\"path\":[\"p:/a\\\"b\"]}\n");
        assert_eq!(
            line(false),
            "{\"code\":200,\"host\":null,\"fixed\":true,\"path\":[null,\"p:/a\\\"b-\"]}\n"
        );
    }

    #[test]
    fn filters_look_at_status_duration_and_flags() {
        let context = Context {
            response_code: Some(503),
            duration: Some(Duration::from_millis(20)),
            flags: Flags { noted: &[], ends: ["UF", "URX"] },
            ..Context::default()
        };
        let failed = LogFilter::Status(Comparison::AtLeast(500));
        let slow = LogFilter::DurationMs(Comparison::AtLeast(1000));
        assert!(failed.logs(&context));
        assert!(!slow.logs(&context));
        assert!(LogFilter::Flags(["URX".into()].into()).logs(&context));
        assert!(!LogFilter::Flags(["NR".into()].into()).logs(&context));
        assert!(LogFilter::Flags([].into()).logs(&context));
        assert!(LogFilter::Or([slow.clone(), failed.clone()].into()).logs(&context));
        assert!(!LogFilter::And([slow, failed].into()).logs(&context));
    }
}
