//! What is spoken below HTTP: nothing, TLS, a PROXY header.

use std::sync::Arc;

use prost::Name;
use xds_proto::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use xds_proto::envoy::config::core::v3::proxy_protocol_config::Version;
use xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use xds_proto::envoy::config::core::v3::{ProxyProtocolConfig, TransportSocket};
use xds_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use xds_proto::field::{At, FieldError, each, required};
use xds_proto::fields;

use crate::cluster::protocol::{ConnectionConfig, UpstreamProtocol};
use crate::cluster::proxy_protocol::ProxyProtocol;
use crate::cluster::sockets::SocketMatch;
use crate::compile::labels::labels;
use crate::compile::tls;
use crate::compile::unpack;
use crate::reference::Reference;
use crate::tls::client::ClientTlsConfig;

/// TLS, where there is some; what else a socket does goes into `connection`.
fn compile(
    message: Option<TransportSocket>,
    connection: &mut ConnectionConfig,
) -> Result<Option<ClientTlsConfig>, FieldError> {
    let mut tls = message.map(|message| socket(message, connection)).transpose()?.flatten();
    if let Some(tls) = &mut tls {
        tls.sni_from_request = connection.request_sni.is_some();
        tls.verifies_sni |= connection.request_sni.as_ref().is_some_and(|sni| sni.is_verified);
    }
    if tls.is_none() && connection.protocol == UpstreamProtocol::Auto {
        return Err(FieldError::invalid("auto_config needs TLS, since ALPN decides"));
    }
    Ok(tls)
}

/// TLS of the cluster, and its other sockets.
pub(super) fn all(
    default: Option<TransportSocket>,
    matches: Vec<TransportSocketMatch>,
    connection: &mut ConnectionConfig,
) -> Result<(Option<ClientTlsConfig>, Box<[SocketMatch]>), FieldError> {
    let matches = each(matches, "transport_socket_matches", |one| matched(one, connection))?;
    let tls = compile(default, connection).at("transport_socket")?;
    Ok((tls, matches.into()))
}

/// The secrets that any of them needs.
pub(super) fn secrets(tls: Option<&ClientTlsConfig>, sockets: &[SocketMatch]) -> Box<[Reference]> {
    let tls = sockets.iter().filter_map(|socket| socket.tls.as_ref()).chain(tls);
    tls.flat_map(ClientTlsConfig::secrets).cloned().collect()
}

/// A socket for endpoints of such metadata; `connection` is that of the cluster.
fn matched(
    message: TransportSocketMatch,
    connection: &ConnectionConfig,
) -> Result<SocketMatch, FieldError> {
    fields!(message: TransportSocketMatch,
        read: [r#match, transport_socket],
        // For statistics.
        ignore: [name],
        refuse: []);
    let mut connection = connection.clone();
    let tls = compile(transport_socket, &mut connection).at("transport_socket")?;
    let labels = r#match.map(labels).unwrap_or_default();
    Ok(SocketMatch { labels, connection: Arc::new(connection), tls })
}

fn socket(
    message: TransportSocket,
    connection: &mut ConnectionConfig,
) -> Result<Option<ClientTlsConfig>, FieldError> {
    fields!(message: TransportSocket,
        read: [config_type],
        // The type of the configuration says which it is.
        ignore: [name],
        refuse: []);
    let ConfigType::TypedConfig(config) = required(config_type, "typed_config")?;
    let compiled = match &*config.type_url {
        url if url == UpstreamTlsContext::type_url() => {
            unpack(&config).and_then(|context| tls::client(context).map(Some))
        }
        url if url == RawBuffer::type_url() => Ok(None),
        url if url == ProxyProtocolUpstreamTransport::type_url()
            && connection.proxy_protocol.is_none() =>
        {
            unpack(&config).and_then(|message| announced(message, connection))
        }
        url => Err(FieldError::invalid(format!("{url} is not supported"))),
    };
    compiled.at("typed_config")
}

/// A socket on which a PROXY header goes first.
fn announced(
    message: ProxyProtocolUpstreamTransport,
    connection: &mut ConnectionConfig,
) -> Result<Option<ClientTlsConfig>, FieldError> {
    fields!(message: ProxyProtocolUpstreamTransport,
        read: [config, transport_socket],
        // An address that nobody has is told as the proxy's own connection; there are no TLVs.
        ignore: [allow_unspecified_address, tlv_as_pool_key],
        refuse: []);
    let config = config.unwrap_or_default();
    fields!(config: ProxyProtocolConfig,
        read: [version], ignore: [], refuse: [pass_through_tlvs, added_tlvs]);
    connection.proxy_protocol = Some(match Version::try_from(version) {
        Ok(Version::V1) => ProxyProtocol::V1,
        Ok(Version::V2) => ProxyProtocol::V2,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("version").at("config"),
    });
    let inner = required(transport_socket, "transport_socket")?;
    socket(inner, connection).at("transport_socket")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use xds_proto::convert::Address;
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::cluster::balancer::Selection;
    use crate::cluster::failure::UpstreamFailure;
    use crate::cluster::pool::testing::{
        Client, Speaks, Upstream, endpoints, locally, read_head, request, scripted,
    };
    use crate::cluster::proxy_protocol::Ends;
    use crate::tls::secret::Secrets;
    use crate::tls::server::ServerTls;
    use crate::tls::testing::{Authority, quoted};

    const SOCKETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets";

    #[tokio::test]
    async fn an_endpoint_is_told_whose_connection_it_is() {
        let inner = format!("{{'@type': {SOCKETS}.raw_buffer.v3.RawBuffer}}");
        let socket = format!(
            "{{'@type': {SOCKETS}.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {{version: V1}},
              transport_socket: {{name: r, typed_config: {inner}}}}}"
        );
        let yaml = format!("{{name: c, transport_socket: {{name: p, typed_config: {socket}}}}}");
        locally(Box::pin(async move {
            let lines = Rc::new(RefCell::new(Vec::new()));
            let seen = Rc::clone(&lines);
            let (address, accepted) = scripted(move |mut stream, _| {
                let seen = Rc::clone(&seen);
                async move {
                    let mut line = String::new();
                    while !line.ends_with('\n') {
                        line.push(char::from(stream.read_u8().await.unwrap()));
                    }
                    seen.borrow_mut().push(line);
                    while read_head(&mut stream).await {
                        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(ok).await.unwrap();
                    }
                }
            })
            .await;
            let client = Client::linked(
                crate::compile::cluster::compile(from_yaml(&yaml).unwrap()).unwrap(),
                endpoints(&[Address::Ip(address)]),
            );
            for port in [1, 2, 1] {
                let mut request = request("/");
                let (remote, local) = (([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 80).into());
                request.extensions_mut().insert(Ends { remote, local });
                let endpoint = client.cluster.pick(&Selection::default()).unwrap();
                client.pools.send(&endpoint, request).await.unwrap();
            }
            let expected =
                ["1", "2"].map(|port| format!("PROXY TCP4 10.0.0.1 10.0.0.2 {port} 80\r\n"));
            assert_eq!(*lines.borrow(), expected);
            assert_eq!(accepted.get(), 2, "a client's connection serves its other requests");
        }))
        .await;
    }

    /// TLS of a server that is `up.test`, and the authority that says so.
    fn up_test() -> (Arc<rustls::ServerConfig>, String) {
        let authority = Authority::new();
        let shown = authority.issue(&["up.test"]).yaml();
        let server = format!("{{common_tls_context: {{tls_certificates: [{shown}]}}}}");
        let server = Arc::new(tls::server(from_yaml(&server).unwrap()).unwrap());
        let server = ServerTls::link(&server, &Secrets::new(), None).unwrap();
        (Arc::clone(&server.acceptor), quoted(&authority.pem()))
    }

    fn tls_socket(authority: &str, more: &str) -> String {
        format!(
            "{{name: t, typed_config: {{'@type': {SOCKETS}.tls.v3.UpstreamTlsContext{more},
              common_tls_context: {{validation_context: {{trusted_ca: {{inline_string: {authority}}}}}}}}}}}"
        )
    }

    #[tokio::test]
    async fn the_host_of_a_request_is_asked_for_and_must_be_shown() {
        let (acceptor, authority) = up_test();
        let yaml = format!(
            "{{name: c, transport_socket: {}, typed_extension_protocol_options:
              {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{
              '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
              upstream_http_protocol_options: {{auto_sni: true, auto_san_validation: true,
              override_auto_sni_header: x-name}}, explicit_http_config: {{http_protocol_options: {{}}}}}}}}}}",
            tls_socket(&authority, "")
        );
        let config = crate::compile::cluster::compile(from_yaml(&yaml).unwrap()).unwrap();
        locally(Box::pin(async move {
            let upstream = Upstream::start(Speaks::Http1, Some(acceptor)).await;
            let client = Client::linked(config, endpoints(&[Address::Ip(upstream.address)]));
            for (host, name, is_good) in [
                ("up.test:8443", None, true),
                ("up.test", None, true),
                ("other.test", None, false),
                ("other.test", Some("up.test"), true),
                ("up.test", Some("other.test"), false),
            ] {
                let mut request = request("/");
                request.headers_mut().insert("host", host.parse().unwrap());
                if let Some(name) = name {
                    request.headers_mut().insert("x-name", name.parse().unwrap());
                }
                let sent = client.send(request).await.map_err(|error| error.reason);
                let reason = sent.err();
                let expected = (!is_good).then_some(UpstreamFailure::Tls);
                assert_eq!(reason, expected, "{host} {name:?}");
            }
        }))
        .await;
    }

    #[tokio::test]
    async fn metadata_of_endpoints_and_localities_chooses_sockets() {
        let (acceptor, authority) = up_test();
        let yaml = format!(
            "{{name: c, transport_socket_matches: [
              {{match: {{tls: 'yes'}}, transport_socket: {}}},
              {{match: {{tls: 'no'}}, transport_socket:
                {{name: r, typed_config: {{'@type': {SOCKETS}.raw_buffer.v3.RawBuffer}}}}}}]}}",
            tls_socket(&authority, ", sni: up.test")
        );
        let config = crate::compile::cluster::compile(from_yaml(&yaml).unwrap()).unwrap();
        locally(Box::pin(async move {
            let secret = Upstream::start(Speaks::Http1, Some(acceptor)).await;
            let plain = Upstream::start(Speaks::Http1, None).await;
            let says = |tls: &str| {
                format!(", metadata: {{filter_metadata: {{envoy.transport_socket_match: {{tls: {tls}}}}}}}")
            };
            let (yes, no, other) = (says("'yes'"), says("'no'"), says("'what'"));
            for (address, own, locality) in [
                (secret.address, &*yes, ""),
                (secret.address, "", &*yes),
                (plain.address, "", ""),
                (plain.address, &*no, &*yes),
                (plain.address, &*other, ""),
            ] {
                let assignment = format!(
                    "{{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address:
                      {{address: 127.0.0.1, port_value: {}}}}}}}{own}}}]{locality}}}]}}",
                    address.port()
                );
                let endpoints = crate::compile::endpoints::compile(from_yaml(&assignment).unwrap());
                let client = Client::linked(config.clone(), Arc::new(endpoints.unwrap()));
                let answer = client.get("/a").await.map_err(|error| error.reason);
                assert_eq!(answer.as_deref(), Ok("up.test /a "), "{own} {locality}");
            }
        }))
        .await;
    }
}
