//! Why the proxy made a reply itself, or a request failed: one closed list.

use http::StatusCode;

/// What the world is told of a [`Why`].
#[derive(Debug)]
pub struct Facts {
    /// The name in logs, metrics and replies.
    pub name: &'static str,
    /// The status of the reply; none where there is nobody to reply to, or where it varies.
    pub status: Option<StatusCode>,
    /// The gRPC status of the reply while its HTTP status is `status`; empty: what its HTTP status
    /// stands for.
    pub grpc_status: &'static str,
    /// Envoy's response flag.
    pub flag: &'static str,
    /// Envoy's response code details.
    pub details: &'static str,
    /// The body of the reply, as Envoy writes it.
    pub body: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $Why:ident: $name:literal, $status:expr, $grpc:literal, $flag:literal,
       $details:literal, $body:expr;)+) => {
        /// Why the proxy answered itself, or could not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Why { $($(#[$doc])+ $Why),+ }

        impl Why {
            /// Every reason; its place is [`Why::index`].
            pub const ALL: &[Self] = &[$(Self::$Why),+];

            /// All that is told of it.
            pub fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$Why => {
                        static FACTS: Facts = Facts {
                            name: $name,
                            status: $status,
                            grpc_status: $grpc,
                            flag: $flag,
                            details: $details,
                            body: $body,
                        };
                        &FACTS
                    })+
                }
            }
        }
    };
}

const BAD_REQUEST: Option<StatusCode> = Some(StatusCode::BAD_REQUEST);
const UNAVAILABLE: Option<StatusCode> = Some(StatusCode::SERVICE_UNAVAILABLE);
const FORBIDDEN: Option<StatusCode> = Some(StatusCode::FORBIDDEN);
const TIMEOUT: Option<StatusCode> = Some(StatusCode::REQUEST_TIMEOUT);

macro_rules! disconnect {
    ($reason:literal) => {
        concat!(
            "upstream connect error or disconnect/reset before headers. reset reason: ",
            $reason
        )
    };
}

reasons! {
    /// No virtual host or no route matched.
    NoRoute: "no_route", Some(StatusCode::NOT_FOUND), "12", "NR", "route_not_found", "";
    /// The virtual host of the request did not come in time.
    VirtualHostTimeout: "virtual_host_timeout", UNAVAILABLE, "14", "NR", "virtual_host_timeout",
        "virtual host not received in time";
    /// Too many requests wait for their virtual hosts, or too many hosts that are not there were
    /// asked for.
    OnDemandOverflow: "on_demand_overflow", UNAVAILABLE, "14", "OM", "on_demand_overflow",
        "too many requests wait for their virtual hosts";
    /// The route answers by itself: a redirect or a fixed response.
    DirectResponse: "direct_response", None, "", "", "direct_response", "";
    /// The route's cluster does not exist.
    NoCluster: "no_cluster", UNAVAILABLE, "14", "NC", "cluster_not_found", "";
    /// No endpoint of the cluster may be used.
    NoHealthyEndpoint: "no_healthy_endpoint", UNAVAILABLE, "14", "UH", "no_healthy_upstream",
        "no healthy upstream";
    /// The endpoint refused the connection, or none came about in time.
    UpstreamConnectFailed: "upstream_connect_failed", UNAVAILABLE, "14", "UF",
        "upstream_reset_before_response_started{remote_connection_failure}",
        disconnect!("remote connection failure");
    /// The proxy has no descriptor, port or memory left for a connection to the endpoint.
    LocalConnectFailed: "local_connect_failed", UNAVAILABLE, "14", "UF",
        "upstream_reset_before_response_started{local_connection_failure}",
        disconnect!("local connection failure");
    /// The TLS handshake with the endpoint failed.
    UpstreamTlsFailed: "upstream_tls_failed", UNAVAILABLE, "14", "UF",
        "upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
        disconnect!("remote connection failure");
    /// The endpoint reset the stream.
    UpstreamReset: "upstream_reset", UNAVAILABLE, "14", "UR",
        "upstream_reset_before_response_started{remote_reset}", disconnect!("remote reset");
    /// The endpoint closed the connection before it answered.
    UpstreamClosed: "upstream_closed", UNAVAILABLE, "14", "UC",
        "upstream_reset_before_response_started{connection_termination}",
        disconnect!("connection termination");
    /// A kept connection was closed under the request, which may not be repeated.
    ReusedConnectionClosed: "reused_connection_closed", UNAVAILABLE, "14", "UC",
        "upstream_reset_before_response_started{connection_termination}",
        disconnect!("connection termination");
    /// A limit of the cluster is reached.
    UpstreamOverflow: "upstream_overflow", UNAVAILABLE, "14", "UO",
        "upstream_reset_before_response_started{overflow}", disconnect!("overflow");
    /// The endpoint's answer breaks the protocol.
    UpstreamProtocolError: "upstream_protocol_error", Some(StatusCode::BAD_GATEWAY), "14", "UPE",
        "upstream_reset_before_response_started{protocol_error}", disconnect!("protocol error");
    /// No complete answer within the route's timeout.
    UpstreamTimeout: "upstream_timeout", Some(StatusCode::GATEWAY_TIMEOUT), "14", "UT",
        "response_timeout", "upstream request timeout";
    /// No complete answer to the last try within its own timeout.
    PerTryTimeout: "per_try_timeout", Some(StatusCode::GATEWAY_TIMEOUT), "14", "UT",
        "upstream_per_try_timeout", "upstream request timeout";
    /// The retries of the policy are used up.
    RetriesExhausted: "retries_exhausted", None, "", "URX", "via_upstream", "";
    /// The request did not arrive in time.
    RequestTimeout: "request_timeout", TIMEOUT, "2", "DT", "request_overall_timeout",
        "request timeout";
    /// Nothing moved for too long.
    IdleTimeout: "idle_timeout", TIMEOUT, "", "SI", "stream_idle_timeout", "stream timeout";
    /// Request and response together took longer than a stream may, or than the client's
    /// `grpc-timeout`.
    StreamTimeout: "stream_timeout", None, "4", "", "max_duration_timeout",
        "downstream duration timeout";
    /// The endpoint reset the stream of an answer that had begun.
    ResponseReset: "response_reset", None, "", "UR",
        "upstream_reset_after_response_started{remote_reset}", "";
    /// The endpoint closed the connection under an answer that had begun.
    ResponseClosed: "response_closed", None, "", "UC",
        "upstream_reset_after_response_started{connection_termination}", "";
    /// The answer that had begun broke off in the middle, or broke the protocol.
    ResponseBroken: "response_broken", None, "", "UPE",
        "upstream_reset_after_response_started{protocol_error}", "";
    /// The client went away.
    ClientClosed: "client_closed", None, "", "DC", "downstream_remote_disconnect", "";
    /// The client reset the stream of its request.
    ClientReset: "client_reset", None, "", "DR", "http2.remote_reset", "";
    /// The connection was given up for what the client sent on it.
    ClientFault: "client_fault", None, "", "DPE", "http2.protocol_error", "";
    /// The request breaks the protocol, or its path cannot be trusted.
    BadRequest: "bad_request", BAD_REQUEST, "13", "DPE", "http1.codec_error", "Bad Request";
    /// The address of the client is not where the listener looks for it.
    ClientUnknown: "client_unknown", None, "", "", "rejecting_because_detection_failed", "";
    /// The request is HTTP/1.0, which the listener does not accept.
    LowVersion: "low_version", Some(StatusCode::UPGRADE_REQUIRED), "2", "DPE", "low_version",
        "Upgrade Required";
    /// The request keeps to the protocol, but not to what is served: its path, host or expectation.
    Unacceptable: "unacceptable", None, "", "", "path_normalization_failed", "";
    /// The client speaks a version of HTTP that nobody knows.
    UnknownVersion: "unknown_version", Some(StatusCode::HTTP_VERSION_NOT_SUPPORTED), "", "DPE",
        "http1.codec_error", "HTTP Version Not Supported";
    /// The target of the request is longer than allowed.
    TargetTooLong: "target_too_long", Some(StatusCode::URI_TOO_LONG), "", "DPE",
        "http1.headers_too_large", "URI Too Long";
    /// The head of the request did not arrive in time.
    HeaderTimeout: "header_timeout", TIMEOUT, "", "DT", "request_header_timeout",
        "request header timeout";
    /// The client asks for an upgrade that is not allowed here.
    UpgradeRefused: "upgrade_refused", FORBIDDEN, "7", "", "upgrade_failed", "";
    /// The head of the request is larger than allowed.
    HeadersTooLarge: "headers_too_large", Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), "8",
        "DPE", "request_headers_too_large", "Request Header Fields Too Large";
    /// The `cors` filter answers a preflight request.
    CorsPreflight: "cors_preflight", Some(StatusCode::OK), "0", "", "cors_response", "";
    /// The `csrf` filter finds that the request comes from a page of another origin.
    CsrfDenied: "csrf_denied", FORBIDDEN, "7", "", "csrf_origin_mismatch", "Invalid origin";
    /// The `fault` filter breaks the request off, as it is told to.
    FaultAbort: "fault_abort", None, "", "FI", "fault_filter_abort", "fault filter abort";
    /// The body of the request is larger than a filter takes.
    PayloadTooLarge: "payload_too_large", Some(StatusCode::PAYLOAD_TOO_LARGE), "2", "",
        "request_payload_too_large", "Payload Too Large";
    /// The `health_check` filter answers.
    HealthCheck: "health_check", None, "", "", "health_check_ok", "";
    /// The configuration of a filter, which comes by itself, is not there.
    FilterConfigMissing: "filter_config_missing", Some(StatusCode::INTERNAL_SERVER_ERROR), "13",
        "NFCF", "", "";
    /// The `local_ratelimit` filter finds no token left.
    RateLimited: "rate_limited", Some(StatusCode::TOO_MANY_REQUESTS), "14", "RL",
        "local_rate_limited", "local_rate_limited";
    /// No policy of the `rbac` filter allows the request, or one denies it.
    RbacDenied: "rbac_denied", FORBIDDEN, "7", "", "rbac_access_denied", "RBAC: access denied";
    /// The body of a gRPC-Web request is not the text that it should be.
    GrpcWebMalformed: "grpc_web_malformed", BAD_REQUEST, "13", "", "grpc_base_64_decode_failed",
        "Bad gRPC-web request, invalid base64 data.";
    /// The service that the `ext_authz` filter asks says no.
    AuthorizationDenied: "authorization_denied", None, "", "UAEX", "ext_authz_denied", "";
    /// The service that the `ext_authz` filter asks says nothing that helps.
    AuthorizationFailed: "authorization_failed", None, "", "UAEX", "ext_authz_error", "";
    /// The endpoint that a session is bound to is not there.
    SessionLost: "session_lost", UNAVAILABLE, "14", "UH", "no_healthy_upstream",
        "no healthy upstream";
    /// A limit of the proxy is reached.
    Overloaded: "overloaded", UNAVAILABLE, "14", "OM", "overload", "envoy overloaded";
    /// A fault of the proxy's own.
    InternalError: "internal_error", Some(StatusCode::INTERNAL_SERVER_ERROR), "13", "",
        "internal_error", "";
}

impl Why {
    /// Its place in [`Why::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name in logs, metrics and replies.
    pub fn name(self) -> &'static str {
        self.facts().name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_knows_its_place() {
        for (index, why) in Why::ALL.iter().enumerate() {
            assert_eq!(why.index(), index);
        }
    }

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let mut names: Vec<_> = Why::ALL.iter().map(|why| why.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Why::ALL.len());
    }
}
