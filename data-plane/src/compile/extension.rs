//! The configuration of a filter that comes by itself (`TypedExtensionConfig`).

use std::sync::Arc;

use prost::Name;
use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::extensions::filters::http::router::v3::Router;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;

use crate::chain::{self, Discovered, Extension, Made};
use crate::filter;

/// Compiles what came; `users` are the filters that are configured by it.
///
/// # Errors
/// The first field that is wrong, or a type that a user does not take.
pub(super) fn compile<'u>(
    message: TypedExtensionConfig,
    users: impl Iterator<Item = &'u Discovered>,
) -> Result<Extension, FieldError> {
    fields!(message: TypedExtensionConfig, read: [name, typed_config], ignore: [], refuse: []);
    let name: Arc<str> = name.into();
    let config = required(typed_config, "typed_config")?;
    let type_name: Box<str> = type_name(&config.type_url).into();
    let mut users = users.filter(|user| user.resource.name == name);
    if let Some(user) = users.find(|user| !user.takes(&type_name)) {
        let reason = format!("is {type_name:?}, not one of {:?}", user.types);
        return Err(FieldError::invalid(reason)).at("type_url").at("typed_config");
    }
    let filter = filter::compile(&config).at("typed_config")?;
    let made = Made { filter: Arc::new(filter), hash: chain::hash(&config) };
    Ok(Extension { type_name, made })
}

/// The message that a type URL names, which may stand without what is before the slash.
pub(super) fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}

/// Whether this message makes the router, which is no filter like others.
pub(super) fn is_router(type_name: &str) -> bool {
    type_name == Router::full_name()
}
