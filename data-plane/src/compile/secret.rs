//! A `Secret` resource to a certificate or to trust.

use xds_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use xds_proto::field::FieldError;

use crate::tls::secret::SecretConfig;

/// Compiles a secret.
///
/// # Errors
/// The first field that is missing, out of range or not implemented; a key that does not match.
pub fn compile(message: Secret) -> Result<SecretConfig, FieldError> {
    drop(message);
    Err(FieldError::unsupported())
}
