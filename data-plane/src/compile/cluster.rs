//! A `Cluster` resource to a cluster.

use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::field::FieldError;

use crate::cluster::ClusterConfig;

/// Compiles a cluster.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub fn compile(message: Cluster) -> Result<ClusterConfig, FieldError> {
    drop(message);
    Err(FieldError::unsupported())
}
