//! Sessions: what keeps a client at its endpoint.

use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use xds_proto::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute,
};
use xds_proto::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use xds_proto::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use xds_proto::envoy::r#type::http::v3::Cookie;
use xds_proto::google::protobuf::Any;
use xds_proto::version::Version;

use crate::finding::codes;
use crate::model::route::BackendRef;
use crate::model::rule::{Lifetime, SessionPersistence, SessionType};
use crate::translate::envoy::{any, duration};
use crate::translate::http_filters::STATEFUL_SESSION;
use crate::translate::matches::trimmed;
use crate::translate::problem::Problem;

fn is_permanent(session: &SessionPersistence) -> bool {
    let config = session.cookie_config.as_ref();
    config.is_some_and(|config| config.lifetime_type == Lifetime::Permanent)
}

/// Why a session cannot be kept, if so.
pub(super) fn refusal(
    session: &SessionPersistence,
    references: &[BackendRef],
    place: &str,
) -> Option<Problem> {
    let refuse = |field: &str, message: &str| {
        let field = format!("{place}.{field}");
        Some(Problem::new("UnsupportedValue", codes::NOT_SUPPORTED, field, message))
    };
    if session.idle_timeout.is_some() {
        return refuse("sessionPersistence.idleTimeout", "not supported");
    }
    if session.absolute_timeout.is_some() && !is_permanent(session) {
        let message = "only supported with cookieConfig.lifetimeType Permanent";
        return refuse("sessionPersistence.absoluteTimeout", message);
    }
    // The cluster is drawn anew for each request, so a session would not stay in it.
    if references.iter().filter(|reference| reference.weight > 0).count() > 1 {
        let message = "sessionPersistence is only supported with one backend that has a weight";
        return refuse("backendRefs", message);
    }
    None
}

/// What a route says to the filter, for the rule of this name whose match is for `prefix`.
pub(super) fn config(
    session: &SessionPersistence,
    rule: &str,
    prefix: Option<&str>,
) -> (&'static str, Any) {
    // Rules that share a cookie would take turns in overwriting it.
    let hash = Version::of_bytes(rule.as_bytes());
    let by_default = |prefix: &str| format!("{prefix}{}", hash.as_str());
    let name = |prefix| session.session_name.clone().unwrap_or_else(|| by_default(prefix));
    let (kind, state) = match session.session_type {
        SessionType::Cookie => {
            let cookie = Cookie {
                name: name("session-"),
                path: trimmed(prefix.unwrap_or("/")).to_owned(),
                ttl: session.absolute_timeout.and_then(duration),
                ..Default::default()
            };
            ("cookie", any(&CookieBasedSessionState { cookie: Some(cookie) }))
        }
        SessionType::Header => {
            ("header", any(&HeaderBasedSessionState { name: name("x-session-") }))
        }
    };
    let state = TypedExtensionConfig {
        name: format!("envoy.http.stateful_session.{kind}"),
        typed_config: Some(state),
    };
    let session = StatefulSession { session_state: Some(state), ..Default::default() };
    let config = StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) };
    (STATEFUL_SESSION, any(&config))
}
