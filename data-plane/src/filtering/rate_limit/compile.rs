//! Compiles the `rate_limits` of routes and filters.

use std::sync::Arc;

use http::HeaderName;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::config::route::v3::rate_limit as api;
use xds_proto::envoy::config::route::v3::rate_limit::action::ActionSpecifier;
use xds_proto::envoy::r#type::matcher::v3 as matcher_api;
use xds_proto::envoy::r#type::metadata::v3 as metadata_api;
use xds_proto::field::{At, FieldError, each, required, required_text, unsupported};
use xds_proto::fields;
use xds_proto::google::protobuf::UInt32Value;
use xds_proto::xds::core::v3 as xds;

use super::{Action, FromMetadata, HITS_MAX, Hits, Name, RateLimit, Value};
use crate::format::Template;
use crate::matcher::cidr::Cidr;
use crate::matcher::compile::{cidr, header, query};

/// Compiles one way to count.
pub(crate) fn compile(message: route::RateLimit) -> Result<RateLimit, FieldError> {
    fields!(message: route::RateLimit,
        read: [stage, actions, hits_addend],
        // disable_key: there is no runtime to look it up in.
        ignore: [disable_key],
        refuse: [limit, apply_on_stream_done, x_ratelimit_option]);
    let stage = stage.map_or(0, |stage| stage.value);
    if stage > 10 {
        return Err(FieldError::invalid("must be at most 10")).at("stage");
    }
    if actions.is_empty() {
        return Err(FieldError::required()).at("actions");
    }
    let hits = hits_addend.map(hits).transpose().at("hits_addend")?;
    Ok(RateLimit { stage, actions: each(actions, "actions", action)?.into(), hits })
}

fn hits(message: api::HitsAddend) -> Result<Hits, FieldError> {
    fields!(message: api::HitsAddend,
        read: [number, format], ignore: [], refuse: [is_negative_hits]);
    match (number.map(|number| number.value), format) {
        (Some(_), format) if !format.is_empty() => {
            Err(FieldError::invalid("cannot go with number")).at("format")
        }
        (Some(number), _) if number > HITS_MAX => {
            Err(FieldError::invalid("must be at most 1000000000")).at("number")
        }
        (Some(number), _) => Ok(Hits::Fixed(number)),
        (None, format) => Template::compile(&format).map(Hits::Told).at("format"),
    }
}

fn action(message: api::Action) -> Result<Action, FieldError> {
    match required(message.action_specifier, "action_specifier")? {
        ActionSpecifier::SourceCluster(_) => {
            Ok(Action::SourceCluster { key: "source_cluster".into() })
        }
        ActionSpecifier::DestinationCluster(_) => {
            Ok(Action::DestinationCluster { key: "destination_cluster".into() })
        }
        ActionSpecifier::RequestHeaders(message) => request_header(message).at("request_headers"),
        ActionSpecifier::QueryParameters(message) => {
            query_parameter(message).at("query_parameters")
        }
        ActionSpecifier::RemoteAddress(_) => {
            Ok(Action::RemoteAddress { key: "remote_address".into() })
        }
        ActionSpecifier::GenericKey(message) => generic_key(message).at("generic_key"),
        ActionSpecifier::HeaderValueMatch(message) => {
            header_match(message).at("header_value_match")
        }
        ActionSpecifier::Metadata(message) => metadata(message).at("metadata"),
        ActionSpecifier::MaskedRemoteAddress(message) => {
            masked_address(message).at("masked_remote_address")
        }
        ActionSpecifier::QueryParameterValueMatch(message) => {
            query_match(message).at("query_parameter_value_match")
        }
        ActionSpecifier::RemoteAddressMatch(message) => {
            address_match(message).at("remote_address_match")
        }
        ActionSpecifier::Extension(_) => Err(FieldError::unsupported()).at("extension"),
        #[expect(deprecated, reason = "Envoy still takes it; `metadata` says the same")]
        ActionSpecifier::DynamicMetadata(_) => {
            Err(FieldError::unsupported()).at("dynamic_metadata")
        }
    }
}

fn key(text: String, default: &str) -> Arc<str> {
    if text.is_empty() { default.into() } else { text.into() }
}

fn value(text: String, default: String) -> Result<Value, FieldError> {
    let text = required_text(text, "descriptor_value")?;
    let template = Template::compile(&text).at("descriptor_value")?;
    Ok(Value { template, default: default.into() })
}

fn request_header(message: api::action::RequestHeaders) -> Result<Action, FieldError> {
    fields!(message: api::action::RequestHeaders,
        read: [header_name, descriptor_key, skip_if_absent], ignore: [], refuse: []);
    let text = required_text(header_name, "header_name")?;
    let name = match text.to_ascii_lowercase().as_str() {
        ":method" => Name::Method,
        ":path" => Name::Path,
        ":authority" | "host" => Name::Authority,
        ":scheme" => Name::Scheme,
        other => Name::Header(
            HeaderName::from_bytes(other.as_bytes())
                .map_err(|_| FieldError::invalid(format!("{text:?} is not a header name")))
                .at("header_name")?,
        ),
    };
    let key = required_text(descriptor_key, "descriptor_key")?.into();
    Ok(Action::Header { name, key, skips_absent: skip_if_absent })
}

fn query_parameter(message: api::action::QueryParameters) -> Result<Action, FieldError> {
    fields!(message: api::action::QueryParameters,
        read: [query_parameter_name, descriptor_key, skip_if_absent], ignore: [], refuse: []);
    let name = required_text(query_parameter_name, "query_parameter_name")?.into();
    let key = required_text(descriptor_key, "descriptor_key")?.into();
    Ok(Action::Query { name, key, skips_absent: skip_if_absent })
}

fn generic_key(message: api::action::GenericKey) -> Result<Action, FieldError> {
    fields!(message: api::action::GenericKey,
        read: [descriptor_value, default_value, descriptor_key], ignore: [], refuse: []);
    let value = value(descriptor_value, default_value)?;
    Ok(Action::Text { key: key(descriptor_key, "generic_key"), value })
}

fn header_match(message: api::action::HeaderValueMatch) -> Result<Action, FieldError> {
    fields!(message: api::action::HeaderValueMatch,
        read: [descriptor_value, default_value, descriptor_key, expect_match, headers],
        ignore: [],
        refuse: []);
    if headers.is_empty() {
        return Err(FieldError::required()).at("headers");
    }
    Ok(Action::HeaderMatch {
        key: key(descriptor_key, "header_match"),
        value: value(descriptor_value, default_value)?,
        expects: expect_match.is_none_or(|expects| expects.value),
        matchers: each(headers, "headers", header)?.into(),
    })
}

fn query_match(message: api::action::QueryParameterValueMatch) -> Result<Action, FieldError> {
    fields!(message: api::action::QueryParameterValueMatch,
        read: [descriptor_value, default_value, descriptor_key, expect_match, query_parameters],
        ignore: [],
        refuse: []);
    if query_parameters.is_empty() {
        return Err(FieldError::required()).at("query_parameters");
    }
    Ok(Action::QueryMatch {
        key: key(descriptor_key, "query_match"),
        value: value(descriptor_value, default_value)?,
        expects: expect_match.is_none_or(|expects| expects.value),
        matchers: each(query_parameters, "query_parameters", query)?.into(),
    })
}

fn address_match(message: api::action::RemoteAddressMatch) -> Result<Action, FieldError> {
    fields!(message: api::action::RemoteAddressMatch,
        read: [descriptor_value, descriptor_key, default_value, address_matcher],
        ignore: [],
        refuse: []);
    let matcher = required(address_matcher, "address_matcher")?;
    fields!(matcher: matcher_api::AddressMatcher,
        read: [ranges, invert_match], ignore: [], refuse: []);
    Ok(Action::AddressMatch {
        key: key(descriptor_key, "remote_address_match"),
        value: value(descriptor_value, default_value)?,
        ranges: each(ranges, "ranges", range).at("address_matcher")?.into(),
        inverts: invert_match,
    })
}

fn range(message: xds::CidrRange) -> Result<Cidr, FieldError> {
    let xds::CidrRange { address_prefix, prefix_len } = message;
    cidr(core::CidrRange {
        address_prefix,
        prefix_len: prefix_len.map(|bits| UInt32Value { value: bits.value }),
    })
}

fn masked_address(message: api::action::MaskedRemoteAddress) -> Result<Action, FieldError> {
    fields!(message: api::action::MaskedRemoteAddress,
        read: [v4_prefix_mask_len, v6_prefix_mask_len], ignore: [], refuse: []);
    let bits = |bits: Option<UInt32Value>, max: u8, field| match bits {
        None => Ok(max),
        Some(bits) => u8::try_from(bits.value)
            .ok()
            .filter(|bits| *bits <= max)
            .ok_or_else(|| FieldError::invalid(format!("must be at most {max}")))
            .at(field),
    };
    Ok(Action::MaskedRemoteAddress {
        key: "masked_remote_address".into(),
        v4: bits(v4_prefix_mask_len, 32, "v4_prefix_mask_len")?,
        v6: bits(v6_prefix_mask_len, 128, "v6_prefix_mask_len")?,
    })
}

fn metadata(message: api::action::MetaData) -> Result<Action, FieldError> {
    fields!(message: api::action::MetaData,
        read: [descriptor_key, metadata_key, default_value, source, skip_if_absent],
        ignore: [],
        refuse: []);
    unsupported(&source, "source")?;
    let place = required(metadata_key, "metadata_key")?;
    fields!(place: metadata_api::MetadataKey, read: [key, path], ignore: [], refuse: []);
    let path = each(path, "path", |segment| {
        use metadata_api::metadata_key::path_segment::Segment;
        match required(segment.segment, "segment")? {
            Segment::Key(key) => Ok(required_text(key, "key")?.into_boxed_str()),
            Segment::Index(_) => Err(FieldError::unsupported()).at("index"),
        }
    });
    Ok(Action::Metadata(FromMetadata {
        key: required_text(descriptor_key, "descriptor_key")?.into(),
        namespace: required_text(key, "key").at("metadata_key")?.into(),
        path: path.at("metadata_key")?.into(),
        default: (!default_value.is_empty()).then(|| default_value.into()),
        skips_absent: skip_if_absent,
    }))
}
