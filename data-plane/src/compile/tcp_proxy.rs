//! A `TcpProxy` to what a chain does with the bytes of its connections.

use std::time::Duration;

use xds_proto::convert::optional_duration;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster as WeightedMessage,
};
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use super::access_log;
use crate::listener::log::AccessLogConfig;
use crate::listener::tcp::TcpConfig;
use crate::route::action::{ClusterChoice, ClusterIndex, Draw, WeightedCluster, WeightedClusters};

/// How long nothing may move, where nothing is set: as in Envoy.
const IDLE: Duration = Duration::from_secs(3600);

/// A compiled TCP proxy, and what its chain needs besides.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) config: TcpConfig,
    /// The names of its clusters, in order of their indices.
    pub(super) clusters: Vec<String>,
    pub(super) logs: Vec<AccessLogConfig>,
}

/// Compiles a TCP proxy.
///
/// # Errors
/// The first field that is missing, out of range or not implemented.
pub(super) fn compile(message: TcpProxy) -> Result<Compiled, FieldError> {
    fields!(message: TcpProxy,
        read: [
            cluster_specifier, idle_timeout, max_connect_attempts,
            max_downstream_connection_duration, access_log,
        ],
        ignore: [
            // Names of statistics; ours are named by the listener.
            stat_prefix,
            // One line is written, when the connection ends.
            access_log_flush_interval, flush_access_log_on_connected, access_log_options,
            // Spreads what an age limit cuts off; clients come back at their own pace.
            max_downstream_connection_duration_jitter_percentage,
            // A draining listener ends its connections itself.
            check_drain_close,
        ],
        refuse: [
            on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout,
            backoff_options, hash_policy, tunneling_config, proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy, upstream_connect_mode, max_early_data_bytes,
        ],
    );
    let positive = |limit: Duration| (!limit.is_zero()).then_some(limit);
    let (cluster, clusters) = match required(cluster_specifier, "cluster")? {
        ClusterSpecifier::Cluster(name) => {
            (ClusterChoice::One(ClusterIndex(0)), vec![required_text(name, "cluster")?])
        }
        ClusterSpecifier::WeightedClusters(message) => {
            let (clusters, names) = weighted(message).at("weighted_clusters")?;
            (ClusterChoice::Weighted(clusters), names)
        }
    };
    let attempts = max_connect_attempts.map_or(1, |attempts| attempts.value);
    if attempts == 0 {
        return Err(FieldError::invalid("must be at least 1")).at("max_connect_attempts");
    }
    let field = "max_downstream_connection_duration";
    let age_max = optional_duration(max_downstream_connection_duration.as_ref(), field)?;
    let idle = optional_duration(idle_timeout.as_ref(), "idle_timeout")?.unwrap_or(IDLE);
    Ok(Compiled {
        config: TcpConfig {
            cluster,
            idle: positive(idle),
            age_max: age_max.and_then(positive),
            connects_max: attempts,
        },
        clusters,
        logs: each(access_log, "access_log", access_log::compile)?,
    })
}

fn weighted(message: WeightedMessage) -> Result<(WeightedClusters, Vec<String>), FieldError> {
    fields!(message: WeightedMessage, read: [clusters], ignore: [], refuse: []);
    let mut names = Vec::with_capacity(clusters.len());
    let mut index = 0_u32;
    let clusters = each(clusters, "clusters", |message| {
        fields!(message: ClusterWeight, read: [name, weight], ignore: [], refuse: [metadata_match]);
        if weight == 0 {
            return Err(FieldError::invalid("must be at least 1")).at("weight");
        }
        names.push(required_text(name, "name")?);
        let cluster = ClusterIndex(index);
        index = index.saturating_add(1);
        Ok(WeightedCluster::plain(cluster, weight))
    })?;
    let clusters = WeightedClusters::new(clusters, Draw::Random).ok_or_else(FieldError::required);
    Ok((clusters.at("clusters")?, names))
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(yaml: &str) -> Result<Compiled, String> {
        compile(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_fields_mean_what_envoy_says() {
        let tcp = compiled("{stat_prefix: t, cluster: a}").unwrap();
        assert_eq!(tcp.clusters, ["a"]);
        assert_eq!((tcp.config.idle, tcp.config.age_max), (Some(IDLE), None));
        assert_eq!(tcp.config.connects_max, 1);
        let never = compiled("{cluster: a, idle_timeout: 0s, max_connect_attempts: 3}").unwrap();
        assert_eq!((never.config.idle, never.config.connects_max), (None, 3));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("{}", "cluster: required"),
            ("{weighted_clusters: {}}", "weighted_clusters.clusters: required"),
            (
                "{weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b}]}}",
                "weighted_clusters.clusters[1].weight: must be at least 1",
            ),
            ("{cluster: a, tunneling_config: {}}", "tunneling_config: not supported"),
            ("{cluster: a, max_connect_attempts: 0}", "max_connect_attempts: must be at least 1"),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), want);
        }
    }
}
