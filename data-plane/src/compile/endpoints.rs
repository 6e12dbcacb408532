//! A `ClusterLoadAssignment` resource to endpoints.

use xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_proto::field::FieldError;

use crate::cluster::endpoints::EndpointsConfig;

/// Compiles endpoints that the control plane sends: their addresses are IPs or paths.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn compile(message: ClusterLoadAssignment) -> Result<EndpointsConfig, FieldError> {
    drop(message);
    Err(FieldError::unsupported())
}
