//! SIGTERM: readiness goes first, what runs is finished, and clients are told to go.

use std::net::SocketAddr;
use std::time::Duration;

use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, Connection, get};
use gateway_tests::gateway::{ControlPlane, LIMIT, Proxy, folder};
use gateway_tests::{documents, ports, wait};

async fn served(drain: &[&str]) -> (ControlPlane, Proxy, Backend, SocketAddr, tempfile::TempDir) {
    let (data, backend) = (folder(), Backend::start("a").await);
    let control = ControlPlane::start(data.path()).await;
    let port = ports::free();
    control.apply(
        &(documents::backend("a", backend.address)
            + &documents::gateway("web", "default", port)
            + &documents::route("r", &["web"], &[("a", 1)])),
    );
    let mut proxy = Proxy::start_with(control.xds, "n1", "default", drain);
    proxy.ready().await;
    (control, proxy, backend, SocketAddr::from(([127, 0, 0, 1], port)), data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_closes_the_rest_politely() {
    let (_control, mut proxy, _backend, address, _data) =
        served(&["--drain-delay", "1s", "--drain-timeout", "20s"]).await;
    let mut idle = Connection::http1(address).await.unwrap();
    let mut h2 = Connection::http2(address).await.unwrap();
    assert_eq!(idle.ask(&Ask::get("x.test", "/")).await.unwrap().status, 200);
    assert_eq!(h2.ask(&Ask::get("x.test", "/")).await.unwrap().status, 200);
    let slow = tokio::spawn(async move { get(address, "x.test", "/slow/3000").await });
    tokio::task::yield_now().await;

    proxy.process.terminate();
    wait::until("readiness to go", LIMIT, || async {
        let answer = get(proxy.admin, "x", "/readyz").await?;
        anyhow::ensure!(answer.status == 503, "{}", answer.status);
        Ok(())
    })
    .await;
    assert_eq!(
        get(address, "x.test", "/").await.unwrap().status,
        200,
        "it accepts until --drain-delay is over"
    );
    wait::until("new connections to be refused", LIMIT, || async {
        match get(address, "x.test", "/").await {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer.status),
        }
    })
    .await;
    wait::until("idle connections to be closed", Duration::from_secs(5), || async {
        if idle.is_closed() && h2.is_closed() {
            Ok(())
        } else {
            Err(format!("{} {}", idle.is_closed(), h2.is_closed()))
        }
    })
    .await;
    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "the request under way is answered");
    assert_eq!(proxy.process.ended().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_timeout() {
    let (_control, mut proxy, _backend, address, _data) =
        served(&["--drain-delay", "0s", "--drain-timeout", "1s"]).await;
    let endless = tokio::spawn(async move { get(address, "x.test", "/slow/9000").await });
    wait::until("the request to arrive", LIMIT, || async {
        if _backend.hits() > 0 { Ok(()) } else { Err("not yet") }
    })
    .await;
    let started = tokio::time::Instant::now();
    proxy.process.terminate();
    assert_eq!(proxy.process.ended().await, 0);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert!(endless.await.unwrap().is_err(), "cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_drains_and_another_takes_its_port() {
    let (control, _proxy, _backend, address, _data) = served(&[]).await;
    let mut open = Connection::http1(address).await.unwrap();
    assert_eq!(open.ask(&Ask::get("x.test", "/")).await.unwrap().status, 200);
    control.wlctl_ok(&["delete", "httproute", "r", "--yes"]);
    control.wlctl_ok(&["delete", "gateway", "web", "--yes"]);
    wait::until("the port to close", LIMIT, || async {
        match get(address, "x.test", "/").await {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer.status),
        }
    })
    .await;
    control.apply(
        &(documents::gateway("web", "default", address.port())
            + &documents::route("r", &["web"], &[("a", 1)])),
    );
    wait::until("the port to open again", LIMIT, || async {
        let answer = get(address, "x.test", "/").await?;
        anyhow::ensure!(answer.backend() == "a", "{}", answer.status);
        Ok(())
    })
    .await;
}
