//! TLS towards clients: chains by server name, ALPN, and certificates that change under traffic.

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::Secret;

use super::*;
use crate::tls::testing::{Authority, Pair};

/// One chain for `one.test` with the secret `c`, one for all else that resets nothing but TLS.
fn tls_listener(status: u16) -> Resource {
    let chain = |server_name: &str, status: u16| {
        format!(
            r#"
- filter_chain_match: {{server_names: [{server_name}]}}
  transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      common_tls_context:
        alpn_protocols: [h2, http/1.1]
        tls_certificate_sds_secret_configs: [{{name: c, sds_config: {{ads: {{}}}}}}]
  filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: in
      route_config:
        virtual_hosts: [{{name: v, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: {status}}}}}]}}]
      http_filters:
      - name: envoy.filters.http.router
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
        )
    };
    let text = format!(
        "name: in\naddress: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\nfilter_chains:{}{}",
        chain("one.test", status),
        chain("'*.two.test'", 202)
    );
    Resource::pack(&from_yaml::<Listener>(&text).unwrap()).unwrap()
}

fn secret(pair: &Pair) -> Resource {
    let text = format!("name: c\ntls_certificate: {}", pair.yaml());
    Resource::pack(&from_yaml::<Secret>(&text).unwrap()).unwrap()
}

async fn connect(
    proxy: &Proxy,
    authority: &Authority,
    (name, alpn): (&str, &str),
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let pem = authority.pem();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.into()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, proxy.connect().await).await
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_client_hello_chooses_the_chain_and_a_new_certificate_closes_nothing() {
    let backend = Backend::start().await;
    let mut proxy = Proxy::start(&backend, ALL_TO_ONE, "").await;
    let authority = Authority::new();
    let names = ["one.test", "a.two.test", "three.test"];
    let pairs = [authority.issue(&names), authority.issue(&names)];
    assert_eq!(proxy.tables.apply(ResourceType::Secret, &[secret(&pairs[0])], &[]), []);
    proxy.push_listener(tls_listener(201));

    let first = connect(&proxy, &authority, ("one.test", "h2")).await.unwrap();
    let certificate = shown(&first);
    let (mut first, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(first)).await.unwrap();
    TaskTracker::new().spawn(connection);
    let request =
        || Request::builder().uri("https://one.test/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(first.send_request(request()).await.unwrap().status(), 201);

    let other = connect(&proxy, &authority, ("a.two.test", "http/1.1")).await.unwrap();
    let (mut other, connection) = http1::handshake(TokioIo::new(other)).await.unwrap();
    TaskTracker::new().spawn(connection);
    assert_eq!(other.send_request(get("/")).await.unwrap().status(), 202);

    assert!(connect(&proxy, &authority, ("three.test", "h2")).await.is_err());

    assert_eq!(proxy.tables.apply(ResourceType::Secret, &[secret(&pairs[1])], &[]), []);
    proxy.push_listener(tls_listener(203));
    assert_eq!(first.send_request(request()).await.unwrap().status(), 203);
    let second = connect(&proxy, &authority, ("one.test", "h2")).await.unwrap();
    assert_ne!(shown(&second), certificate);
    let handshakes = "weighlock_downstream_tls_handshakes_total{listener=\"in\",result=\"ok\"} 3";
    until(|| proxy.registry.render().contains(handshakes)).await;
}

#[tokio::test]
async fn a_client_without_tls_gets_nothing_from_a_tls_listener() {
    let backend = Backend::start().await;
    let mut proxy = Proxy::start(&backend, ALL_TO_ONE, "").await;
    let pair = Authority::new().issue(&["one.test"]);
    assert_eq!(proxy.tables.apply(ResourceType::Secret, &[secret(&pair)], &[]), []);
    proxy.push_listener(tls_listener(201));
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    // A reset is as good as an end.
    stream.read_to_end(&mut all).await.unwrap_or_default();
    assert!(!String::from_utf8_lossy(&all).contains("HTTP/1.1 2"));
}
