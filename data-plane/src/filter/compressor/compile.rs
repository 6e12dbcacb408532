//! Compiles `Compressor` and the libraries that it names.

use std::sync::Arc;

use http::StatusCode;
use prost::{Message, Name};
use xds_proto::envoy::config::core::v3::{RuntimeFeatureFlag, TypedExtensionConfig};
use xds_proto::envoy::extensions::compression::brotli::compressor::v3::Brotli;
use xds_proto::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use xds_proto::envoy::extensions::compression::gzip::compressor::v3::gzip::CompressionLevel;
use xds_proto::envoy::extensions::compression::zstd::compressor::v3::Zstd;
use xds_proto::envoy::extensions::filters::http::compressor::v3 as api;
use xds_proto::envoy::extensions::filters::http::compressor::v3::compressor::{
    CommonDirectionConfig, RequestDirectionConfig, ResponseDirectionConfig,
};
use xds_proto::envoy::extensions::filters::http::compressor::v3::compressor_per_route::Override;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;
use xds_proto::google::protobuf::UInt32Value;

use super::{Compressor, Library, Messages, Responses, RouteCompressor, Settings};
use crate::matcher::compile::string;

/// Shorter responses are not worth it, as Envoy has it.
const BYTES_MIN: u64 = 30;

/// What Envoy compresses when nothing is said.
const TYPES: [&str; 18] = [
    "text/html",
    "text/plain",
    "text/css",
    "application/javascript",
    "application/x-javascript",
    "text/javascript",
    "text/x-javascript",
    "text/ecmascript",
    "text/js",
    "text/jscript",
    "text/x-js",
    "application/ecmascript",
    "application/x-json",
    "application/xml",
    "application/json",
    "image/svg+xml",
    "text/xml",
    "application/xhtml+xml",
];

#[expect(deprecated, reason = "the old form has what the deprecated field has")]
pub(super) fn compile(config: api::Compressor) -> Result<Compressor, FieldError> {
    fields!(config: api::Compressor,
        read: [
            content_length, content_type, disable_on_etag_header, remove_accept_encoding_header,
            runtime_enabled, compressor_library, request_direction_config,
            response_direction_config, choose_first,
        ],
        ignore: [],
        refuse: [],
    );
    let library = required(compressor_library, "compressor_library")?;
    let library = self::library(library).at("compressor_library")?;
    let request = request_direction_config.map(self::request).transpose();
    let response = response_direction_config.unwrap_or_else(|| {
        // The old form, in which the fields stand one level up.
        let common = CommonDirectionConfig {
            enabled: runtime_enabled,
            min_content_length: content_length,
            content_type,
            ..CommonDirectionConfig::default()
        };
        ResponseDirectionConfig {
            common_config: Some(common),
            disable_on_etag_header,
            remove_accept_encoding_header,
            ..ResponseDirectionConfig::default()
        }
    });
    let (response, removes_accept_encoding) =
        self::response(response).at("response_direction_config")?;
    Ok(Compressor {
        library,
        is_enabled: response.messages.is_enabled,
        removes_accept_encoding,
        settings: Arc::new(Settings {
            is_preferred: choose_first,
            request: request.at("request_direction_config")?,
            response,
        }),
    })
}

fn request(message: RequestDirectionConfig) -> Result<Messages, FieldError> {
    fields!(message: RequestDirectionConfig, read: [common_config], ignore: [], refuse: []);
    messages(common_config.unwrap_or_default()).at("common_config")
}

/// Which responses, and whether upstream does not hear what the client accepts.
fn response(message: ResponseDirectionConfig) -> Result<(Responses, bool), FieldError> {
    fields!(message: ResponseDirectionConfig,
        read: [
            common_config, disable_on_etag_header, weaken_etag_on_compress,
            remove_accept_encoding_header, uncompressible_response_codes,
        ],
        ignore: [],
        refuse: [status_header_enabled]);
    let statuses = each(uncompressible_response_codes, "uncompressible_response_codes", |code| {
        u16::try_from(code)
            .ok()
            .filter(|code| (200..600).contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or_else(|| FieldError::invalid("must be 200 to 599"))
    })?;
    let responses = Responses {
        messages: messages(common_config.unwrap_or_default()).at("common_config")?,
        spares_etag: disable_on_etag_header && !weaken_etag_on_compress,
        weakens_etag: weaken_etag_on_compress,
        spared_statuses: statuses.into(),
    };
    Ok((responses, remove_accept_encoding_header))
}

fn messages(common: CommonDirectionConfig) -> Result<Messages, FieldError> {
    fields!(common: CommonDirectionConfig,
        read: [enabled, min_content_length, content_type, content_type_matcher],
        ignore: [],
        refuse: []);
    let matchers = each(content_type_matcher, "content_type_matcher", string)?;
    let types = match (matchers.is_empty(), content_type.is_empty()) {
        // The matchers count alone.
        (false, _) => Vec::new(),
        (true, false) => content_type.into_iter().map(Box::from).collect(),
        (true, true) => TYPES.map(Box::from).into(),
    };
    Ok(Messages {
        is_enabled: is_enabled(enabled),
        bytes_min: min_content_length.map_or(BYTES_MIN, |length| length.value.into()),
        types: types.into(),
        type_matchers: matchers.into(),
    })
}

/// There is no runtime to look the key up in, so the default counts.
fn is_enabled(flag: Option<RuntimeFeatureFlag>) -> bool {
    flag.and_then(|flag| flag.default_value).is_none_or(|flag| flag.value)
}

pub(super) fn route(config: api::CompressorPerRoute) -> Result<RouteCompressor, FieldError> {
    match required(config.r#override, "override")? {
        Override::Disabled(true) => Ok(RouteCompressor::Disabled),
        Override::Disabled(false) => Err(FieldError::invalid("must be true")).at("disabled"),
        Override::Overrides(message) => overrides(message).at("overrides"),
    }
}

fn overrides(message: api::CompressorOverrides) -> Result<RouteCompressor, FieldError> {
    fields!(message: api::CompressorOverrides,
        read: [response_direction_config, compressor_library], ignore: [], refuse: []);
    let enables = response_direction_config.is_some();
    let removes = response_direction_config.and_then(|one| one.remove_accept_encoding_header);
    Ok(RouteCompressor::Override {
        enables,
        removes_accept_encoding: removes.map(|removes| removes.value),
        library: compressor_library.map(library).transpose().at("compressor_library")?,
    })
}

fn library(extension: TypedExtensionConfig) -> Result<Library, FieldError> {
    let config = required(extension.typed_config, "typed_config")?;
    let kind = config.type_url.as_str();
    let library = if kind == Gzip::type_url() {
        decode(&config.value).and_then(gzip)
    } else if kind == Brotli::type_url() {
        decode(&config.value).and_then(brotli)
    } else if kind == Zstd::type_url() {
        decode(&config.value).and_then(zstd)
    } else {
        Err(FieldError::unsupported()).at("type_url")
    };
    library.at("typed_config")
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, FieldError> {
    M::decode(bytes).map_err(|error| FieldError::invalid(error.to_string()))
}

fn within(
    value: Option<UInt32Value>,
    default: u32,
    range: std::ops::RangeInclusive<u32>,
    field: &'static str,
) -> Result<u32, FieldError> {
    let value = value.map_or(default, |value| value.value);
    if range.contains(&value) {
        return Ok(value);
    }
    let reason = format!("must be {} to {}", range.start(), range.end());
    Err(FieldError::invalid(reason)).at(field)
}

fn gzip(message: Gzip) -> Result<Library, FieldError> {
    fields!(message: Gzip,
        read: [compression_level],
        // How much memory is used and how the work is cut up.
        ignore: [memory_level, compression_strategy, window_bits, chunk_size],
        refuse: []);
    let level = match CompressionLevel::try_from(compression_level) {
        Ok(CompressionLevel::DefaultCompression) => 6,
        Ok(level) => u32::try_from(level as i32).unwrap_or(6),
        Err(_) => return Err(FieldError::invalid("unknown value")).at("compression_level"),
    };
    Ok(Library::Gzip(level))
}

fn brotli(message: Brotli) -> Result<Library, FieldError> {
    fields!(message: Brotli,
        read: [quality, window_bits],
        // How the work is cut up, and what the bytes are likely to be.
        ignore: [
            encoder_mode, input_block_bits, chunk_size, disable_literal_context_modeling,
        ],
        refuse: []);
    Ok(Library::Brotli {
        quality: within(quality, 3, 0..=11, "quality")?,
        window_bits: within(window_bits, 18, 10..=24, "window_bits")?,
    })
}

fn zstd(message: Zstd) -> Result<Library, FieldError> {
    fields!(message: Zstd,
        read: [compression_level, enable_checksum],
        // How the work is cut up, and how the compressor searches.
        ignore: [strategy, chunk_size],
        refuse: [dictionary]);
    let level = within(compression_level, 3, 0..=22, "compression_level")?;
    // 0 stands for the default.
    let level = if level == 0 { 3 } else { level };
    Ok(Library::Zstd { level: i32::try_from(level).unwrap_or(3), has_checksum: enable_checksum })
}
