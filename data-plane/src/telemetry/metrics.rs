//! Every metric of the proxy: name, kind and help text.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by bucket, in seconds.
    Histogram,
}

/// A metric as it is declared to Prometheus.
#[derive(Debug)]
pub struct Metric {
    /// The name, unit included.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its series are told apart by.
    pub labels: &'static [&'static str],
    /// What it tells, for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($CONSTANT:ident: $kind:ident $name:literal [$($label:literal),*], $help:literal;)+) => {
        $(#[doc = $help]
        pub const $CONSTANT: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)+

        /// All of them, for the page of metrics.
        pub const ALL: &[&Metric] = &[$(&$CONSTANT),+];
    };
}

metrics! {
    REQUESTS: Counter "weighlock_requests_total" ["listener", "host", "route", "code_class"], "Requests answered, by the class of the status; 0xx when no response was sent.";
    REQUEST_DURATION: Histogram "weighlock_request_duration_seconds" ["listener", "host", "route"], "From the first byte of the request to the last byte of the response.";
    GATEWAY_DURATION: Histogram "weighlock_gateway_duration_seconds" ["listener", "host", "route"], "Time spent in the gateway itself, waiting for upstream and for slow clients excluded.";
    REQUEST_BODY_BYTES: Counter "weighlock_request_body_bytes_total" ["listener", "host", "route"], "Bytes of request bodies received.";
    RESPONSE_BODY_BYTES: Counter "weighlock_response_body_bytes_total" ["listener", "host", "route"], "Bytes of response bodies sent.";
    LOCAL_REPLIES: Counter "weighlock_local_replies_total" ["listener", "host", "route", "reason"], "Replies that the gateway made itself, by reason.";
    REQUESTS_ACTIVE: Gauge "weighlock_requests_active" ["listener"], "Requests under way.";
    DOWNSTREAM_CONNECTIONS: Gauge "weighlock_downstream_connections" ["listener", "protocol"], "Client connections open.";
    DOWNSTREAM_CONNECTIONS_TOTAL: Counter "weighlock_downstream_connections_total" ["listener", "protocol"], "Client connections accepted.";
    TLS_HANDSHAKES: Counter "weighlock_downstream_tls_handshakes_total" ["listener", "result"], "TLS handshakes with clients, by result.";
    CONNECTIONS_REFUSED: Counter "weighlock_downstream_connections_refused_total" ["listener", "reason"], "Client connections that were closed, or only told 503, by reason.";
    CONNECTION_FAULTS: Counter "weighlock_downstream_connection_faults_total" ["listener", "reason"], "HTTP/2 connections that were given up for what the client sent, by reason.";
    LISTENER_LAX: Gauge "weighlock_listener_lax" ["listener", "setting"], "Whether a setting of the listener leaves to endpoints what the proxy could refuse or make canonical.";
    UPSTREAM_REQUESTS: Counter "weighlock_upstream_requests_total" ["cluster", "attempt", "code_class"], "Attempts to have an endpoint answer a request.";
    UPSTREAM_REQUEST_DURATION: Histogram "weighlock_upstream_request_duration_seconds" ["cluster"], "From the head of the request sent to the head of the response received.";
    UPSTREAM_FAILURES: Counter "weighlock_upstream_failures_total" ["cluster", "reason"], "Attempts that brought no response, by reason.";
    UPSTREAM_CONNECTIONS: Gauge "weighlock_upstream_connections" ["cluster"], "Connections to endpoints open.";
    UPSTREAM_CONNECTIONS_TOTAL: Counter "weighlock_upstream_connections_total" ["cluster"], "Connections to endpoints opened.";
    CLUSTER_ENDPOINTS: Gauge "weighlock_cluster_endpoints" ["cluster", "state"], "Endpoints of a cluster, by state.";
    CIRCUIT_BREAKER_OPEN: Gauge "weighlock_circuit_breaker_open" ["cluster", "limit"], "Whether a limit of the cluster is reached.";
    OVERLOAD_PRESSURE: Gauge "weighlock_overload_pressure" ["resource"], "How much of a resource is in use, as a part of 1.";
    OVERLOAD_ACTION: Gauge "weighlock_overload_action" ["action"], "How much of an action against overload is taken, as a part of 1.";
    XDS_CONNECTED: Gauge "weighlock_xds_connected" [], "Whether a control plane is connected.";
    XDS_UPDATES: Counter "weighlock_xds_updates_total" ["type", "result"], "Responses of the control plane, by what was said to them.";
    XDS_LAST_ACK: Gauge "weighlock_xds_last_ack_timestamp_seconds" ["type"], "When a response was last accepted, in seconds since 1970.";
    CONFIG_REVISION: Gauge "weighlock_config_revision_info" ["revision"], "The revision that is served.";
    CONFIG_SWAP: Histogram "weighlock_config_swap_seconds" [], "Time to compile, link and swap in a change.";
    CONFIG_SOURCE: Gauge "weighlock_config_source" ["source"], "Where the configuration that is served came from.";
    CERTIFICATE_EXPIRY: Gauge "weighlock_tls_certificate_expiry_timestamp_seconds" ["name"], "When a certificate expires, in seconds since 1970.";
    ACCESS_LOG_DROPPED: Counter "weighlock_access_log_dropped_total" ["reason"], "Lines of access log that were not written.";
    METRIC_OVERFLOW: Counter "weighlock_metric_overflow_total" [], "Label sets that were folded into _overflow.";
    BUILD_INFO: Gauge "weighlock_build_info" ["version"], "The version that runs.";
    PROCESS_CPU: Counter "process_cpu_seconds_total" [], "Processor time used.";
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" [], "Memory in use.";
    PROCESS_FDS: Gauge "process_open_fds" [], "Files and sockets open.";
    PROCESS_START: Gauge "process_start_time_seconds" [], "When the process started, in seconds since 1970.";
}
