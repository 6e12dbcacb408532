//! TLS contexts of both sides.

use xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    DownstreamTlsContext, UpstreamTlsContext,
};
use xds_proto::field::FieldError;

use crate::tls::client::ClientTlsConfig;
use crate::tls::server::ServerTlsConfig;

/// Compiles TLS towards clients.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn server(message: DownstreamTlsContext) -> Result<ServerTlsConfig, FieldError> {
    drop(message);
    Err(FieldError::unsupported())
}

/// Compiles TLS towards endpoints.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn client(message: UpstreamTlsContext) -> Result<ClientTlsConfig, FieldError> {
    drop(message);
    Err(FieldError::unsupported())
}
