//! What is spoken below HTTP: nothing, TLS, a PROXY header.

use prost::Name;
use xds_proto::envoy::config::core::v3::proxy_protocol_config::Version;
use xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use xds_proto::envoy::config::core::v3::{ProxyProtocolConfig, TransportSocket};
use xds_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;

use crate::cluster::protocol::{ConnectionConfig, UpstreamProtocol};
use crate::cluster::proxy_protocol::ProxyProtocol;
use crate::compile::tls;
use crate::compile::unpack;
use crate::tls::client::ClientTlsConfig;

/// TLS, where there is some; what else a socket does goes into `connection`.
pub(super) fn compile(
    message: Option<TransportSocket>,
    connection: &mut ConnectionConfig,
) -> Result<Option<ClientTlsConfig>, FieldError> {
    let tls = message.map(|message| socket(message, connection)).transpose()?.flatten();
    if tls.is_none() && connection.protocol == UpstreamProtocol::Auto {
        return Err(FieldError::invalid("auto_config needs TLS, since ALPN decides"));
    }
    Ok(tls)
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

    use crate::cluster::balancer::Selection;
    use crate::cluster::pool::testing::{Client, endpoints, locally, read_head, request, scripted};
    use crate::cluster::proxy_protocol::Ends;

    const SOCKETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets";

    #[tokio::test]
    async fn an_endpoint_is_told_whose_connection_it_is() {
        let inner = format!("{{'@type': {SOCKETS}.raw_buffer.v3.RawBuffer}}");
        let socket = format!(
            "{{'@type': {SOCKETS}.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {{version: V1}},
              transport_socket: {{name: r, typed_config: {inner}}}}}"
        );
        let yaml = format!("{{name: c, transport_socket: {{name: p, typed_config: {socket}}}}}");
        locally(async move {
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
        })
        .await;
    }
}
