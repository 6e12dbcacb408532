//! The control plane goes away: nothing fails, nothing is sent again, and a proxy starts without it.

use std::net::SocketAddr;

use gateway_tests::backend::Backend;
use gateway_tests::client::{self, Ask, get};
use gateway_tests::gateway::{ControlPlane, LIMIT, Proxy, folder};
use gateway_tests::load::{Load, Protocol};
use gateway_tests::{documents, ports, wait};

async fn served(control: &ControlPlane, backend: &Backend) -> SocketAddr {
    let port = ports::free();
    control.apply(&documents::backend("a", backend.address));
    control.apply(&documents::gateway("web", "default", port));
    control.apply(&documents::route("r", &["web"], &[("a", 1)]));
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_control_plane_returns_with_the_same_versions_and_resends_nothing() {
    let (data, backend) = (folder(), Backend::start("a").await);
    let mut control = ControlPlane::start(data.path()).await;
    let address = served(&control, &backend).await;
    let proxy = Proxy::start(control.xds, "n1", "default").await;
    let before = control.node_is("n1", "synced").await;
    let loads = [Protocol::Http1, Protocol::Http2]
        .map(|p| Load::start(address, p, 2, Ask::get("x.test", "/")));
    let updates = proxy.metric("weighlock_xds_updates_total", "").await;
    assert!(updates > 0.0);

    control.kill();
    for _ in 0..50 {
        assert_eq!(get(address, "x.test", "/").await.unwrap().backend(), "a");
    }
    control.restart().await;
    let after = control.node_is("n1", "synced").await;
    assert_eq!(versions(&after), versions(&before), "versions are content hashes");
    let resent = sent_resources(&proxy).await;
    assert_eq!(resent, 0.0, "resources sent again after the restart");

    for load in loads {
        let seen = load.stop().await;
        assert!(seen.failed.is_empty(), "{:?}", seen.failed.first());
        assert_eq!(seen.closed, 0);
        assert!(seen.total() > 0);
    }
    // It is not deaf either: the next write arrives.
    let other = Backend::start("b").await;
    control.apply(&documents::backend("a", other.address));
    wait::until("the new endpoint", LIMIT, || async {
        let answer = get(address, "x.test", "/").await?;
        anyhow::ensure!(answer.backend() == "b", "{}", answer.backend());
        Ok(())
    })
    .await;
}

/// How many resources the present stream has brought.
async fn sent_resources(proxy: &Proxy) -> f64 {
    proxy.metric("weighlock_xds_stream_resources", "").await
}

fn versions(node: &serde_json::Value) -> Vec<(String, String)> {
    let types = node["types"].as_object().unwrap_or_else(|| panic!("no types in {node}"));
    types.iter().map(|(kind, state)| (kind.clone(), state["acked"].to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_starts_from_its_state_directory_when_nobody_answers() {
    let (data, state, backend) = (folder(), folder(), Backend::start("a").await);
    let mut control = ControlPlane::start(data.path()).await;
    let address = served(&control, &backend).await;
    let state_dir = state.path().to_str().unwrap();
    let mut proxy = Proxy::start_with(control.xds, "n1", "default", &["--state-dir", state_dir]);
    proxy.ready().await;
    control.node_is("n1", "synced").await;
    assert_eq!(get(address, "x.test", "/").await.unwrap().backend(), "a");
    proxy.process.terminate();
    assert_eq!(proxy.process.ended().await, 0);
    control.kill();

    let mut proxy = Proxy::start_with(control.xds, "n1", "default", &["--state-dir", state_dir]);
    proxy.ready().await;
    assert_eq!(get(address, "x.test", "/").await.unwrap().backend(), "a");
    assert!(proxy.metric("weighlock_config_source", "disk").await > 0.0);

    control.restart().await;
    control.node_is("n1", "synced").await;
    assert_eq!(sent_resources(&proxy).await, 0.0, "what is on disk is not sent again");
    assert_eq!(get(address, "x.test", "/").await.unwrap().backend(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_file_is_refused_and_kept() {
    let (data, state, backend) = (folder(), folder(), Backend::start("a").await);
    let mut control = ControlPlane::start(data.path()).await;
    let address = served(&control, &backend).await;
    let state_dir = state.path().to_str().unwrap();
    let mut proxy = Proxy::start_with(control.xds, "n1", "default", &["--state-dir", state_dir]);
    proxy.ready().await;
    control.node_is("n1", "synced").await;
    proxy.process.terminate();
    assert_eq!(proxy.process.ended().await, 0);
    control.kill();
    let file =
        std::fs::read_dir(state.path()).unwrap().next().expect("a state file").unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, &bytes).unwrap();

    let mut proxy = Proxy::start_with(control.xds, "n1", "default", &["--state-dir", state_dir]);
    proxy.process.printed("checksum").await;
    assert!(
        client::get(address, "x.test", "/").await.is_err(),
        "must not serve what it cannot trust"
    );
    let ready = get(proxy.admin, "x", "/readyz").await.unwrap();
    assert_eq!(ready.status, 503);
    control.restart().await;
    proxy.ready().await;
    assert_eq!(get(address, "x.test", "/").await.unwrap().backend(), "a");
}
