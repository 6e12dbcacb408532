//! What other control planes send: a real Envoy takes it, and so does our proxy.

use std::time::Duration;

use anyhow::ensure;
use gateway_tests::backend::Backend;
use gateway_tests::client::Ask;
use gateway_tests::gateway::{ControlPlane, Envoy, Proxy, folder};
use gateway_tests::{client, ports, tools, wait};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

/// The file's resources, with ports and a certificate put in.
fn resources(text: &str, places: &[(&str, String)]) -> Vec<Value> {
    let mut text = text.to_owned();
    for (place, value) in places {
        text = text.replace(&format!("@{place}@"), &value.replace('\n', "\\n"));
    }
    serde_saphyr::from_str(&text).unwrap()
}

async fn is_taken(name: &str, text: &str) {
    if tools::offline(name) {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let backend = Backend::start("a").await;
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["shop.test".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().pem();
    for node in ["envoy", "ours"] {
        let (port, other) = (ports::free(), ports::free());
        let places = [
            ("PORT", port.to_string()),
            ("OTHER", other.to_string()),
            ("BACKEND", backend.address.port().to_string()),
            ("CERTIFICATE", certificate.clone()),
            ("KEY", key.serialize_pem()),
        ];
        control.put_group(node, &resources(text, &places)).await;
        let _running: (Option<Envoy>, Option<Proxy>) = match node {
            "envoy" => (Some(Envoy::start(control.xds, node, "x", "DELTA_GRPC").await), None),
            _ => (None, Some(Proxy::start(control.xds, node, "x").await)),
        };
        let status = wait::until(node, Duration::from_secs(15), || async {
            let status = control.node(node).await?;
            let is_judged = status["state"] == "synced" || status["state"] == "NACK";
            ensure!(is_judged, "{status}");
            Ok(status)
        });
        assert_eq!(status.await["nack"], Value::Null, "{name} on {node}");
        wait::until(&format!("an answer of {node}"), Duration::from_secs(10), || async {
            let ask = Ask::get("shop.test", "/path");
            let answer = client::ask(([127, 0, 0, 1], port).into(), &ask).await?;
            ensure!(answer.backend() == "a", "{} {}", answer.status, answer.text());
            Ok(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_envoy_gateway_sends_is_taken() {
    is_taken("what_envoy_gateway_sends_is_taken", include_str!("foreign/envoy_gateway.yaml")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_istio_sends_to_a_gateway_is_taken() {
    is_taken("what_istio_sends_to_a_gateway_is_taken", include_str!("foreign/istio.yaml")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_contour_sends_is_taken() {
    is_taken("what_contour_sends_is_taken", include_str!("foreign/contour.yaml")).await;
}
