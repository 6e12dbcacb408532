//! Compiles `RequestMirrorPolicy`.

use std::sync::Arc;

use xds_proto::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use xds_proto::field::{At, FieldError, each};
use xds_proto::fields;

use super::action::{header_name, header_value};
use super::around::Surroundings;
use crate::matcher::compile::fraction;
use crate::route::mirror::{MirrorCluster, MirrorPolicy};

const FIELD: &str = "request_mirror_policies";

/// Compiles the policies of a level; one without any has those of the level around it.
pub(super) fn compile(
    messages: Vec<RequestMirrorPolicy>,
    around: &mut Surroundings,
    inherited: &Arc<[MirrorPolicy]>,
) -> Result<Arc<[MirrorPolicy]>, FieldError> {
    if messages.is_empty() {
        return Ok(Arc::clone(inherited));
    }
    each(messages, FIELD, |message| policy(message, around)).map(Into::into)
}

fn policy(
    message: RequestMirrorPolicy,
    around: &mut Surroundings,
) -> Result<MirrorPolicy, FieldError> {
    fields!(message: RequestMirrorPolicy,
        read: [
            cluster, cluster_header, runtime_fraction, disable_shadow_host_suffix_append,
            host_rewrite_literal,
        ],
        // Spans are not made here.
        ignore: [trace_sampled],
        refuse: [request_headers_mutations]);
    let cluster = match (cluster.is_empty(), cluster_header.is_empty()) {
        (false, true) => MirrorCluster::One(around.cluster(cluster)?),
        (true, false) => {
            header_name(&cluster_header).map(MirrorCluster::Header).at("cluster_header")?
        }
        (true, true) => return Err(FieldError::required()).at("cluster"),
        (false, false) => {
            return Err(FieldError::invalid(
                "only one of cluster and cluster_header may be set in request mirror policy",
            ));
        }
    };
    let host_rewrite = match host_rewrite_literal.as_str() {
        "" => None,
        host => Some(header_value(host).at("host_rewrite_literal")?),
    };
    Ok(MirrorPolicy {
        cluster,
        millionths: match runtime_fraction {
            Some(message) => fraction(message).at("runtime_fraction")?,
            None => 1_000_000,
        },
        marks_host: !disable_shadow_host_suffix_append,
        host_rewrite,
    })
}
