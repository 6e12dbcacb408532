//! Sends the requests of a session to the endpoint that answered the first of them.
//!
//! API: `envoy.extensions.filters.http.stateful_session.v3.StatefulSession`.

mod cookie;

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue, SET_COOKIE};
use http::{Request, Response, StatusCode};
use prost::{Message, Name};
use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::extensions::filters::http::stateful_session::v3 as api;
use xds_proto::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use xds_proto::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use xds_proto::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use xds_proto::field::{At, FieldError, required, required_text};
use xds_proto::fields;

use self::cookie::Cookie;
use super::HttpFilter;
use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::{Destination, Stage, path};

/// Where a session says its endpoint, and what happens when that is gone.
#[derive(Debug, Clone, Default)]
pub struct StatefulSession(Option<Arc<Settings>>);

#[derive(Debug)]
struct Settings {
    state: State,
    /// The answer where the endpoint is gone; none lets another one do.
    else_status: Option<StatusCode>,
}

#[derive(Debug)]
enum State {
    Cookie(Cookie),
    Header(HeaderName),
}

/// The endpoint that the request named.
struct Asked(Option<SocketAddr>);

impl HttpFilter for StatefulSession {
    type Config = api::StatefulSession;
    type RouteConfig = api::StatefulSessionPerRoute;
    type Route = Self;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::StatefulSession,
            read: [session_state, strict, status_on_strict_destination_not_found],
            // stat_prefix: only names counters.
            ignore: [stat_prefix],
            refuse: [],
        );
        let Some(state) = session_state else { return Ok(Self::default()) };
        let state = self::state(state).at("session_state")?;
        let status = match status_on_strict_destination_not_found {
            0 => StatusCode::SERVICE_UNAVAILABLE,
            code => u16::try_from(code)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok())
                .ok_or_else(|| FieldError::invalid("must be a status"))
                .at("status_on_strict_destination_not_found")?,
        };
        Ok(Self(Some(Arc::new(Settings { state, else_status: strict.then_some(status) }))))
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self, FieldError> {
        match required(config.r#override, "override")? {
            Override::Disabled(true) => Ok(Self::default()),
            Override::Disabled(false) => Err(FieldError::invalid("must be true")).at("disabled"),
            Override::StatefulSession(session) => Self::compile(session).at("stateful_session"),
        }
    }

    fn link(&self, routes: &[&Self], _: &mut Linker<'_>) -> Linked<Self> {
        match (routes.last(), &self.0) {
            (Some(Self(None)), _) | (None, None) => Linked::Off,
            (Some(route), _) => Linked::New((*route).clone()),
            (None, Some(_)) => Linked::Same,
        }
    }

    async fn on_request(&self, request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        let Some(settings) = &self.0 else { return Verdict::Continue };
        let named = match &settings.state {
            State::Cookie(cookie) if !cookie.is_for(path(request)) => return Verdict::Continue,
            State::Cookie(cookie) => cookie.read(request.headers()),
            State::Header(name) => request
                .headers()
                .get(name)
                .and_then(|value| STANDARD.decode(value.as_bytes()).ok())
                .filter(|bytes| !bytes.is_empty()),
        };
        let address = |named: &[u8]| std::str::from_utf8(named).ok()?.parse().ok();
        let address = named.as_deref().map(address);
        if let Some(address) = address {
            let else_status = settings.else_status;
            stage.notes.destination = Some(Destination { address, else_status });
        }
        stage.remember(Asked(address.flatten()));
        Verdict::Continue
    }

    async fn on_response(&self, response: &mut Response<Body>, stage: &mut Stage<'_>) {
        let Some(settings) = &self.0 else { return };
        let Some(endpoint) = stage.facts.endpoint else { return };
        let Some(Asked(asked)) = stage.recall() else { return };
        if *asked == Some(endpoint) {
            return;
        }
        let (name, value) = match &settings.state {
            State::Cookie(cookie) => (SET_COOKIE, cookie.write(endpoint)),
            State::Header(name) => (name.clone(), STANDARD.encode(endpoint.to_string())),
        };
        let Ok(value) = HeaderValue::try_from(value) else { return };
        match settings.state {
            State::Cookie(_) => drop(response.headers_mut().append(name, value)),
            State::Header(_) => drop(response.headers_mut().insert(name, value)),
        }
    }
}

fn state(extension: TypedExtensionConfig) -> Result<State, FieldError> {
    let config = required(extension.typed_config, "typed_config")?;
    let undecodable = |error: prost::DecodeError| FieldError::invalid(error.to_string());
    if config.type_url == CookieBasedSessionState::type_url() {
        let message = CookieBasedSessionState::decode(config.value.as_slice());
        let message = message.map_err(undecodable).at("typed_config")?;
        let cookie = required(message.cookie, "cookie").at("typed_config")?;
        return cookie::compile(cookie).map(State::Cookie).at("cookie").at("typed_config");
    }
    if config.type_url == HeaderBasedSessionState::type_url() {
        let message = HeaderBasedSessionState::decode(config.value.as_slice());
        let name = message.map_err(undecodable).at("typed_config")?.name;
        let name = required_text(name, "name").at("typed_config")?;
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| FieldError::invalid(format!("{name:?} is not a header name")));
        return name.map(State::Header).at("name").at("typed_config");
    }
    Err(FieldError::unsupported()).at("type_url").at("typed_config")
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filtering::stage::testing::Scene;

    fn filter(state: &str, more: &str) -> StatefulSession {
        let text = format!(
            "{{session_state: {{name: x, typed_config: {{'@type': 'type.googleapis.com/envoy.extensions.http.stateful_session.{state}}}}}{more}}}"
        );
        StatefulSession::compile(from_yaml(&text).unwrap()).unwrap()
    }

    /// What the response carries, and where the request was sent.
    async fn ask(
        filter: &StatefulSession,
        line: Option<(&str, &str)>,
    ) -> (Option<String>, Option<Destination>) {
        let mut request = Request::get("/shop/x").body(Body::empty()).unwrap();
        if let Some((name, value)) = line {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let mut scene = Scene::default();
        filter.on_request(&mut request, &mut scene.stage()).await;
        scene.facts.endpoint = Some("10.0.0.1:80".parse().unwrap());
        let mut response = Response::new(Body::empty());
        filter.on_response(&mut response, &mut scene.stage()).await;
        let said = response.headers().values().next().map(|v| v.to_str().unwrap().to_owned());
        (said, scene.notes.destination)
    }

    #[tokio::test]
    async fn a_header_carries_the_session() {
        let filter =
            filter("header.v3.HeaderBasedSessionState', name: x-session", ", strict: true");
        let session = STANDARD.encode("10.0.0.1:80");
        assert_eq!(ask(&filter, None).await, (Some(session.clone()), None));
        let destination = Destination {
            address: Some("10.0.0.1:80".parse().unwrap()),
            else_status: Some(StatusCode::SERVICE_UNAVAILABLE),
        };
        let asked = ask(&filter, Some(("x-session", &session))).await;
        assert_eq!(asked, (None, Some(destination)));
        assert_eq!(ask(&filter, Some(("x-session", "?!"))).await, (Some(session), None));
    }

    #[tokio::test]
    async fn a_cookie_carries_the_session_on_its_path() {
        let on = |path: &str| {
            filter(
                &format!(
                    "cookie.v3.CookieBasedSessionState', cookie: {{name: s, path: {path}, ttl: 120s}}"
                ),
                "",
            )
        };
        let (cookie, _) = ask(&on("/shop"), None).await;
        let cookie = cookie.unwrap();
        assert!(
            cookie.starts_with("s=\"") && cookie.ends_with("; Max-Age=120; Path=/shop; HttpOnly")
        );
        let sent = cookie.split(';').next().unwrap();
        let (said, destination) = ask(&on("/shop"), Some(("cookie", sent))).await;
        assert_eq!(said, None);
        assert_eq!(destination.unwrap().address, Some("10.0.0.1:80".parse().unwrap()));
        assert_eq!(ask(&on("/shopping"), Some(("cookie", sent))).await, (None, None));
    }

    #[test]
    fn a_route_may_turn_it_off() {
        let route = StatefulSession::compile_route(from_yaml("{disabled: true}").unwrap()).unwrap();
        let filter = filter("header.v3.HeaderBasedSessionState', name: x", "");
        let linked =
            crate::filtering::keep::testing::alone(|linker| filter.link(&[&route], linker));
        assert!(matches!(linked, Linked::Off));
    }
}
