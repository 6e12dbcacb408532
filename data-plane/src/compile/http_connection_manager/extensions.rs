//! The extensions of a connection manager: where clients are named, early header changes, request ids.

use http::StatusCode;
use prost::Name;
use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::RequestIdExtension;
use xds_proto::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use xds_proto::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use xds_proto::envoy::extensions::http::original_ip_detection::xff::v3::{
    XffConfig, XffTrustedCidrs,
};
use xds_proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use xds_proto::envoy::r#type::v3::HttpStatus;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;
use xds_proto::google::protobuf::Any;

use crate::compile::route::action::header_name;
use crate::compile::unpack;
use crate::filtering::header_change::HeaderChange;
use crate::listener::http::{Detection, ForwardedBy};
use crate::matcher::compile::cidr;

/// Where the client's address is looked for.
pub(super) fn detection(message: TypedExtensionConfig) -> Result<Detection, FieldError> {
    let config = typed_config(message)?;
    match &*config.type_url {
        url if url == XffConfig::type_url() => unpack(&config).and_then(forwarded_for),
        url if url == CustomHeaderConfig::type_url() => unpack(&config).and_then(custom_header),
        _ => unknown("original IP detection", &config),
    }
    .at("typed_config")
}

fn forwarded_for(message: XffConfig) -> Result<Detection, FieldError> {
    fields!(message: XffConfig,
        read: [xff_num_trusted_hops, xff_trusted_cidrs, skip_xff_append], ignore: [], refuse: []);
    let by = match xff_trusted_cidrs {
        None => ForwardedBy::Hops(xff_num_trusted_hops),
        Some(_) if xff_num_trusted_hops > 0 => {
            return Err(FieldError::invalid("stands for xff_num_trusted_hops; not both"))
                .at("xff_trusted_cidrs");
        }
        Some(message) => {
            fields!(message: XffTrustedCidrs, read: [cidrs], ignore: [], refuse: []);
            let ranges = each(cidrs, "cidrs", cidr).at("xff_trusted_cidrs")?;
            // As in Envoy an empty list is none.
            if ranges.is_empty() {
                ForwardedBy::Hops(0)
            } else {
                ForwardedBy::Proxies(ranges.into())
            }
        }
    };
    let appends = skip_xff_append.is_some_and(|skips| !skips.value);
    Ok(Detection::ForwardedFor { by, appends })
}

fn custom_header(message: CustomHeaderConfig) -> Result<Detection, FieldError> {
    fields!(message: CustomHeaderConfig,
        read: [header_name, allow_extension_to_set_address_as_trusted, reject_with_status],
        ignore: [],
        refuse: []);
    Ok(Detection::Header {
        name: self::header_name(&header_name).at("header_name")?,
        is_trusted: allow_extension_to_set_address_as_trusted,
        else_status: reject_with_status.map(rejection),
    })
}

/// Envoy puts 403 for what is no status of an error.
fn rejection(HttpStatus { code }: HttpStatus) -> StatusCode {
    let code = u16::try_from(code).ok().filter(|code| (400..=511).contains(code));
    code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::FORBIDDEN)
}

/// Changes of headers before anything looks at them.
pub(super) fn early_change(message: TypedExtensionConfig) -> Result<Vec<HeaderChange>, FieldError> {
    let config = typed_config(message)?;
    if config.type_url != HeaderMutation::type_url() {
        return unknown("early header mutation", &config).at("typed_config");
    }
    let message: HeaderMutation = unpack(&config).at("typed_config")?;
    fields!(message: HeaderMutation, read: [mutations], ignore: [], refuse: []);
    each(mutations, "mutations", HeaderChange::compile).at("typed_config")
}

/// Request ids are random UUIDs, which is what Envoy makes too.
pub(super) fn request_id(message: RequestIdExtension) -> Result<(), FieldError> {
    fields!(message: RequestIdExtension, read: [typed_config], ignore: [], refuse: []);
    let config = required(typed_config, "typed_config")?;
    if config.type_url != UuidRequestIdConfig::type_url() {
        return unknown("request id extension", &config).at("typed_config");
    }
    let message: UuidRequestIdConfig = unpack(&config).at("typed_config")?;
    fields!(message: UuidRequestIdConfig,
        read: [],
        // Ids carry no word on traces.
        ignore: [pack_trace_reason, use_request_id_for_trace_sampling],
        refuse: []);
    Ok(())
}

fn typed_config(message: TypedExtensionConfig) -> Result<Any, FieldError> {
    // The type of the configuration says which it is.
    required(message.typed_config, "typed_config")
}

fn unknown<T>(what: &str, config: &Any) -> Result<T, FieldError> {
    let name = config.type_url.rsplit('/').next().unwrap_or_default();
    Err(FieldError::invalid(format!("unknown {what} {name:?}"))).at("type_url")
}
