//! Which requests are logged (`AccessLogFilter`).

use xds_proto::convert::millionths;
use xds_proto::envoy::config::accesslog::v3 as api;
use xds_proto::envoy::data::accesslog::v3::AccessLogType;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use crate::format::rare::MetadataPath;
use crate::listener::log::{Comparison, LogFilter};
use crate::matcher::compile as matcher;
use crate::matcher::metadata::MetadataMatcher;

/// Compiles which requests are logged.
///
/// # Errors
/// The first field that is wrong or not supported.
pub(in crate::compile) fn compile(message: api::AccessLogFilter) -> Result<LogFilter, FieldError> {
    use api::access_log_filter::FilterSpecifier as Filter;
    let unsupported = |field| Err(FieldError::unsupported()).at(field);
    match required(message.filter_specifier, "filter_specifier")? {
        Filter::StatusCodeFilter(filter) => comparison(filter.comparison)
            .map(LogFilter::Status)
            .at("comparison")
            .at("status_code_filter"),
        Filter::DurationFilter(filter) => comparison(filter.comparison)
            .map(LogFilter::DurationMs)
            .at("comparison")
            .at("duration_filter"),
        Filter::ResponseFlagFilter(filter) => {
            Ok(LogFilter::Flags(filter.flags.into_iter().map(Into::into).collect()))
        }
        Filter::AndFilter(filter) => {
            let filters = each(filter.filters, "filters", compile).at("and_filter")?;
            Ok(LogFilter::And(filters.into()))
        }
        Filter::OrFilter(filter) => {
            let filters = each(filter.filters, "filters", compile).at("or_filter")?;
            Ok(LogFilter::Or(filters.into()))
        }
        Filter::NotHealthCheckFilter(_) => Ok(LogFilter::NotHealthCheck),
        Filter::TraceableFilter(_) => unsupported("traceable_filter"),
        Filter::RuntimeFilter(filter) => {
            // There is no runtime to look the key up in; without a default it is 0 %.
            let share = filter.percent_sampled.as_ref().map_or(Ok(0), millionths);
            share.map(LogFilter::Random).at("percent_sampled").at("runtime_filter")
        }
        Filter::HeaderFilter(filter) => {
            let header = required(filter.header, "header")
                .and_then(|header| crate::matcher::compile::header(header).at("header"));
            header.map(|header| LogFilter::Header(Box::new(header))).at("header_filter")
        }
        Filter::GrpcStatusFilter(filter) => grpc_status(filter).at("grpc_status_filter"),
        Filter::ExtensionFilter(_) => unsupported("extension_filter"),
        Filter::MetadataFilter(filter) => metadata(filter).at("metadata_filter"),
        Filter::LogTypeFilter(filter) => log_type(filter).at("log_type_filter"),
    }
}

/// The number may be changed by RTDS in Envoy; here it is what is given.
fn comparison(message: Option<api::ComparisonFilter>) -> Result<Comparison, FieldError> {
    use api::comparison_filter::Op;
    let message = message.ok_or_else(FieldError::required)?;
    let value = required(message.value, "value")?.default_value.into();
    match Op::try_from(message.op) {
        Ok(Op::Eq) => Ok(Comparison::Equal(value)),
        Ok(Op::Ge) => Ok(Comparison::AtLeast(value)),
        Ok(Op::Le) => Ok(Comparison::AtMost(value)),
        Ok(Op::Ne) => Ok(Comparison::NotEqual(value)),
        Err(_) => Err(FieldError::invalid("unknown value")).at("op"),
    }
}

fn grpc_status(message: api::GrpcStatusFilter) -> Result<LogFilter, FieldError> {
    fields!(message: api::GrpcStatusFilter, read: [statuses, exclude], ignore: [], refuse: []);
    let bit = |status: i32| match u32::try_from(status) {
        Ok(status @ 0..=16) => Ok(1_u32 << status),
        _ => Err(FieldError::invalid("unknown value")),
    };
    let statuses = each(statuses, "statuses", bit)?.into_iter().fold(0, |all, one| all | one);
    Ok(LogFilter::GrpcStatus { statuses, excludes: exclude })
}

fn metadata(message: api::MetadataFilter) -> Result<LogFilter, FieldError> {
    fields!(message: api::MetadataFilter,
        read: [matcher, match_if_key_not_found], ignore: [], refuse: []);
    let Some(matcher) = matcher else { return Ok(LogFilter::Always) };
    let MetadataMatcher { namespace, path, test, invert } =
        matcher::metadata(matcher).at("matcher")?;
    Ok(LogFilter::Metadata {
        path: Box::new(MetadataPath { namespace, path }),
        test: Box::new(test),
        inverts: invert,
        if_absent: match_if_key_not_found.is_none_or(|flag| flag.value),
    })
}

fn log_type(message: api::LogTypeFilter) -> Result<LogFilter, FieldError> {
    fields!(message: api::LogTypeFilter, read: [types, exclude], ignore: [], refuse: []);
    let name = |kind: i32| match AccessLogType::try_from(kind) {
        Ok(kind) => Ok(Box::from(kind.as_str_name())),
        Err(_) => Err(FieldError::invalid("unknown value")),
    };
    Ok(LogFilter::LogType { types: each(types, "types", name)?.into(), excludes: exclude })
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::format::Context;

    fn logs(yaml: &str, context: &Context<'_>) -> bool {
        compile(from_yaml(yaml).unwrap()).unwrap().logs(context)
    }

    #[test]
    fn filters_look_at_health_checks_grpc_and_the_kind_of_line() {
        let context = Context {
            is_grpc: true,
            response_code: Some(403),
            is_health_check: true,
            log_type: "DownstreamEnd",
            ..Context::default()
        };
        for (yaml, want) in [
            ("{not_health_check_filter: {}}", false),
            ("{grpc_status_filter: {statuses: [PERMISSION_DENIED]}}", true),
            ("{grpc_status_filter: {statuses: [OK, PERMISSION_DENIED], exclude: true}}", false),
            ("{log_type_filter: {types: [DownstreamEnd]}}", true),
            ("{log_type_filter: {types: [TcpConnectionEnd]}}", false),
            ("{metadata_filter: {}}", true),
            (
                "{metadata_filter: {matcher: {filter: f, path: [{key: k}], value: {present_match: true}},
                  match_if_key_not_found: false}}",
                false,
            ),
            (
                "{metadata_filter: {matcher: {filter: f, path: [{key: k}], value: {bool_match: true}}}}",
                true,
            ),
        ] {
            assert_eq!(logs(yaml, &context), want, "{yaml}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("{}", "filter_specifier: required"),
            ("{extension_filter: {name: x}}", "extension_filter: not supported"),
            (
                "{or_filter: {filters: [{traceable_filter: {}}]}}",
                "or_filter.filters[0].traceable_filter: not supported",
            ),
        ] {
            assert_eq!(compile(from_yaml(yaml).unwrap()).unwrap_err().to_string(), want);
        }
    }
}
