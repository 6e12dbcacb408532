//! Session tickets that several proxies share, by keys that come by SDS and change.

use std::net::SocketAddr;
use std::sync::Arc;

use gateway_tests::backend::Backend;
use gateway_tests::gateway::{ControlPlane, Proxy, folder};
use gateway_tests::tls::{Looker, session};
use gateway_tests::{documents, ports};
use rustls::{ClientConfig, HandshakeKind};
use serde_json::{Value, json};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

fn keys(bytes: &str) -> Value {
    let keys: Vec<_> =
        bytes.chars().map(|byte| json!({"inline_string": byte.to_string().repeat(80)})).collect();
    json!({"@type": format!("{TLS}.Secret"), "name": "tickets", "session_ticket_keys": {"keys": keys}})
}

fn resources(
    port: u16,
    backend: SocketAddr,
    certificate: &Value,
    trust: Option<&str>,
) -> Vec<Value> {
    let mut listener = documents::raw_listener("l", port, "r", &[]);
    let mut socket = documents::raw_tls("certificate");
    socket["typed_config"]["session_ticket_keys_sds_secret_config"] =
        json!({"name": "tickets", "sds_config": {"ads": {}, "resource_api_version": "V3"}});
    if let Some(authority) = trust {
        let common = &mut socket["typed_config"]["common_tls_context"];
        common["validation_context"] = json!({"trusted_ca": {"inline_string": authority}});
        socket["typed_config"]["require_client_certificate"] = true.into();
    }
    listener["filter_chains"][0]["transport_socket"] = socket;
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let mut all =
        vec![listener, documents::raw_routes("r", &routes), certificate.clone(), keys("ab")];
    all.extend(documents::raw_cluster("a", backend));
    all
}

async fn kind(config: &Arc<ClientConfig>, address: SocketAddr) -> HandshakeKind {
    let session = session(config, address, "x.test").await.unwrap();
    assert!(session.answer.contains("\"backend\":\"a\""), "{session:?}");
    session.kind
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_one_proxy_is_resumed_at_another_while_both_have_its_key() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let backend = Backend::start("a").await;
    let made = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
    let certificate =
        documents::raw_secret("certificate", &made.cert.pem(), &made.signing_key.serialize_pem());
    let ports = [ports::free(), ports::free(), ports::free()];
    let mut proxies = Vec::new();
    for (node, port) in ["n1", "n2", "strict"].into_iter().zip(ports) {
        let pem = made.cert.pem();
        let trust = (node == "strict").then_some(&*pem);
        control.put_group(node, &resources(port, backend.address, &certificate, trust)).await;
        proxies.push(Proxy::start(control.xds, node, node).await);
    }
    let [one, other, strict] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let looker = Looker { versions: vec![version], ..Looker::default() };
        let fresh = || Arc::new(looker.config(None));
        let client = fresh();
        assert_eq!(kind(&client, one).await, HandshakeKind::Full);
        assert_eq!(kind(&client, other).await, HandshakeKind::Resumed);
        let own = (made.cert.der().clone(), made.signing_key.serialize_der().try_into().unwrap());
        kind(&Arc::new(looker.config(Some(own))), strict).await;
        // The session says nothing of a certificate that this one asks for.
        let refused = session(&client, strict, "x.test").await;
        assert!(refused.is_err() || refused.unwrap().answer.is_empty());

        let (old, older) = (fresh(), fresh());
        kind(&old, one).await;
        kind(&older, one).await;
        for node in ["n1", "n2"] {
            let revision = control.patch_group(node, &[keys("ca")], &[]).await;
            control.node_has(node, revision).await;
        }
        assert_eq!(kind(&old, other).await, HandshakeKind::Resumed, "by the second key");
        let new = fresh();
        kind(&new, one).await;
        for node in ["n1", "n2"] {
            let revision = control.patch_group(node, &[keys("dc")], &[]).await;
            control.node_has(node, revision).await;
        }
        assert_eq!(kind(&older, other).await, HandshakeKind::Full, "its key is gone");
        assert_eq!(kind(&new, other).await, HandshakeKind::Resumed);
        for node in ["n1", "n2"] {
            let revision = control.patch_group(node, &[keys("ab")], &[]).await;
            control.node_has(node, revision).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ocsp_response_is_stapled_as_it_is_given() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let backend = Backend::start("a").await;
    let made = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
    let mut certificate =
        documents::raw_secret("certificate", &made.cert.pem(), &made.signing_key.serialize_pem());
    // Base64, as JSON has bytes.
    certificate["tls_certificate"]["ocsp_staple"] = json!({"inline_bytes": "c3RhcGxl"});
    let port = ports::free();
    control.put_group("n1", &resources(port, backend.address, &certificate, None)).await;
    let _proxy = Proxy::start(control.xds, "n1", "n1").await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let looker = Looker { versions: vec![version], ..Looker::default() };
        let (config, stapled) = looker.watching(None);
        kind(&Arc::new(config), address).await;
        assert_eq!(*stapled.lock().unwrap(), b"staple");
    }
}
