//! Pushes under load: no request fails, no connection closes, and what was pushed is what is served.

use std::net::SocketAddr;
use std::time::Duration;

use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, Connection, get};
use gateway_tests::gateway::{ControlPlane, Proxy, folder};
use gateway_tests::load::{Load, Protocol, Seen};
use gateway_tests::{documents, ports};
use tokio::time::{Instant, MissedTickBehavior, interval};

const PUSHES: u32 = 400;
const EVERY: Duration = Duration::from_millis(50);
const HOST: &str = "swap.test";

/// Twenty pushes a second for twenty seconds.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_pushes_a_second_close_and_fail_nothing() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let ports = [ports::free(), ports::free()];
    let tls_port = ports::free();
    for (fleet, port) in ["left", "right"].into_iter().zip(ports) {
        control.put_group(fleet, &resources(port, tls_port, (&a, &b), 0)).await;
        // One TLS port cannot be bound by both proxies' certificates alike; each has its own socket.
    }
    let _left = Proxy::start(control.xds, "left-1", "left").await;
    let _right = Proxy::start(control.xds, "right-1", "right").await;

    let addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut loads = Vec::new();
    for address in addresses {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            loads.push(Load::start(address, protocol, 4, Ask::get(HOST, "/load")));
        }
    }
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let started = Instant::now();
    for push in 1..=PUSHES {
        tick.tick().await;
        for (fleet, port) in ["left", "right"].into_iter().zip(ports) {
            control.patch_group(fleet, &resources(port, tls_port, (&a, &b), push), &[]).await;
        }
        // After every tenth push, look: the route of this push, and no older one, answers.
        if push % 10 == 0 {
            for (fleet, address) in ["left-1", "right-1"].into_iter().zip(addresses) {
                control.node_is(fleet, "synced").await;
                let answer = get(address, HOST, "/version").await.unwrap();
                assert_eq!(answer.text(), format!("push {push}"));
                assert_eq!(
                    answer.header("x-push"),
                    Some(&*push.to_string()),
                    "filter chain of push {push}"
                );
            }
        }
    }
    let took = started.elapsed();
    for load in loads {
        let Seen { by_backend, failed, closed } = load.stop().await;
        assert!(
            failed.is_empty(),
            "{} failed, first {:?}",
            failed.len(),
            &failed[..failed.len().min(3)]
        );
        assert_eq!(closed, 0, "connections closed");
        assert!(by_backend["a"] > 0 && by_backend["b"] > 0, "{by_backend:?}");
    }
    assert!(took < EVERY * PUSHES * 2, "{PUSHES} pushes took {took:?}");
}

/// What push `n` serves: weights that move, a route that says its number, a filter that says it too.
fn resources(port: u16, _tls: u16, (a, b): (&Backend, &Backend), n: u32) -> Vec<serde_json::Value> {
    let weight = 1 + n % 99;
    let routes = serde_json::json!([
        {"match": {"path": "/version"}, "direct_response": {"status": 200, "body": {"inline_string": format!("push {n}")}}},
        {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "a", "weight": 100 - weight}, {"name": "b", "weight": weight}]}}},
    ]);
    let mut all = vec![
        documents::raw_listener(
            "web",
            port,
            "routes",
            &[documents::response_header("x-push", &n.to_string())],
        ),
        documents::raw_routes("routes", &routes),
    ];
    all.extend(documents::raw_cluster("a", a.address));
    all.extend(documents::raw_cluster("b", b.address));
    all
}

/// Certificates change for new handshakes; open TLS connections live on.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_and_old_connections_stay() {
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let backend = Backend::start("a").await;
    let port = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let first = certificate("one.test");
    control.apply(&documents::backend("a", backend.address));
    control.apply(&secret(&first));
    control.apply(&https_gateway(port));
    control.apply(&documents::route("r", &["web"], &[("a", 1)]));
    let _proxy = Proxy::start(control.xds, "n1", "default").await;

    let (mut h1, seen) = Connection::tls(address, "one.test", &["http/1.1"]).await.unwrap();
    let (mut h2, _) = Connection::tls(address, "one.test", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(seen.as_ref(), first.der);
    for round in 0..5 {
        let next = certificate("one.test");
        control.apply(&secret(&next));
        let (_, seen) = Connection::tls(address, "one.test", &["h2"]).await.unwrap();
        assert_eq!(seen.as_ref(), next.der, "round {round}");
        let ask = Ask::get("one.test", "/");
        assert_eq!(h1.ask(&ask).await.unwrap().backend(), "a");
        let answer = h2.ask(&ask).await.unwrap();
        assert_eq!((answer.backend(), answer.version), ("a", http::Version::HTTP_2));
        assert!(!h1.is_closed() && !h2.is_closed());
    }
}

struct Certificate {
    pem: String,
    key: String,
    der: Vec<u8>,
}

fn certificate(name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    Certificate {
        pem: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().to_vec(),
    }
}

fn secret(certificate: &Certificate) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(&certificate.pem),
        indent(&certificate.key)
    )
}

fn https_gateway(port: u16) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web}}
spec:
  gatewayClassName: weighlock
  listeners:
  - {{name: https, port: {port}, protocol: HTTPS, hostname: one.test, tls: {{certificateRefs: [{{name: cert}}]}}}}
"#
    )
}
