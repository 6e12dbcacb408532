//! How names of headers are written in HTTP/1 (`HeaderKeyFormat`).

use prost::Name;
use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::config::core::v3::http1_protocol_options::HeaderKeyFormat;
use xds_proto::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use xds_proto::envoy::extensions::http::header_formatters::preserve_case::v3 as api;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;

/// Whether names of messages that come are kept as they are written.
pub(super) fn keeps(message: Option<HeaderKeyFormat>) -> Result<bool, FieldError> {
    message.map(format).transpose().at("header_key_format").map(|format| format.is_some())
}

fn format(message: HeaderKeyFormat) -> Result<(), FieldError> {
    match required(message.header_format, "header_format")? {
        HeaderFormat::ProperCaseWords(_) => Err(FieldError::unsupported()).at("proper_case_words"),
        HeaderFormat::StatefulFormatter(extension) => stateful(extension).at("stateful_formatter"),
    }
}

fn stateful(message: TypedExtensionConfig) -> Result<(), FieldError> {
    let config = required(message.typed_config, "typed_config")?;
    if config.type_url != api::PreserveCaseFormatterConfig::type_url() {
        return super::listener::unknown_extension("header formatter", &config).at("typed_config");
    }
    let message = super::unpack::<api::PreserveCaseFormatterConfig>(&config).at("typed_config")?;
    fields!(message: api::PreserveCaseFormatterConfig,
        read: [],
        ignore: [],
        refuse: [forward_reason_phrase, formatter_type_on_envoy_headers]);
    Ok(())
}
