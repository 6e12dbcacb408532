//! Which requests a connection is for, where it is not for just any.

use http::Request;
use http::header::HOST;
use http::uri::Authority;
use rustls::pki_types::ServerName;

use crate::body::Body;
use crate::cluster::endpoints::Endpoint;
use crate::cluster::proxy_protocol::Ends;

/// Which requests a connection is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Purpose {
    /// Those of a client's connection, which the endpoint is told of.
    pub(crate) ends: Option<Ends>,
    /// Those for this host, which the endpoint is asked for in TLS.
    pub(crate) name: Option<ServerName<'static>>,
}

impl Purpose {
    /// The one of a request.
    pub(crate) fn of(request: &Request<Body>, endpoint: &Endpoint) -> Self {
        let connector = &endpoint.connector;
        let has_ends = connector.config.proxy_protocol.is_some();
        let ends = if has_ends { request.extensions().get().copied() } else { None };
        let sni = connector.tls.as_ref().and(connector.config.request_sni.as_ref());
        let name = sni.and_then(|sni| {
            let of_header = sni.header.as_ref().and_then(|name| request.headers().get(name));
            let host = of_header.or_else(|| request.headers().get(HOST))?;
            let authority = Authority::try_from(host.as_bytes()).ok()?;
            let name = authority.host().trim_matches(['[', ']']).to_owned();
            ServerName::try_from(name).ok()
        });
        Self { ends, name }
    }

    /// Whether it is for any request.
    pub(crate) fn is_general(&self) -> bool {
        self.ends.is_none() && self.name.is_none()
    }
}
