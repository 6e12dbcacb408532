//! A soak: half of the load that the proxy takes, pushes, dying backends, changing names, coming and going clients; nothing may fail or grow.
//!
//! Twenty seconds by default. `WEIGHLOCK_SOAK_SECONDS=600 cargo test --release --workspace --test soak -- --nocapture` is the long one.

mod backend;
mod clients;
mod names;
mod pushes;
mod watch;

use std::time::Duration;

use gateway_tests::gateway::{ControlPlane, Proxy, folder};
use tokio::time::{Instant, sleep_until};

use self::backend::Mortal;
use self::clients::Clients;
use self::names::Names;
use self::pushes::Pushes;
use self::watch::Watch;

/// How long the proxy is driven as fast as it answers, to learn what half of that is.
const CALIBRATION: Duration = Duration::from_secs(3);
const NODE: &str = "soak";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_and_nothing_grows_under_half_load() {
    let seconds = std::env::var("WEIGHLOCK_SOAK_SECONDS").ok();
    let length = Duration::from_secs(seconds.map_or(20, |text| text.parse().unwrap()));
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let backends = [Mortal::start("a").await, Mortal::start("b").await, Mortal::start("c").await];
    let names = Names::start().await;
    let pushes = Pushes::new(&backends, &names);
    control.put_group(NODE, &pushes.resources(0)).await;
    let proxy = Proxy::start(control.xds, NODE, "x").await;

    let full = Clients::start(&pushes, None);
    sleep_until(Instant::now() + CALIBRATION).await;
    let saturation = full.stop().await.answers as f64 / CALIBRATION.as_secs_f64();
    let watch = Watch::start(proxy.process.id());
    let clients = Clients::start(&pushes, Some(saturation / 2.0));
    let visitors = clients::visitors(&pushes);
    let [a, b, c] = backends;
    let dying = tokio::spawn(backend::die_and_return(c));
    let renaming = tokio::spawn(names.change());
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < length {
        sent += 1;
        pushes.push(&control, sent).await;
        sleep_until(started + Duration::from_secs(sent.into())).await;
    }
    let grown = watch.stop().await;
    let seen = clients.stop().await;
    visitors.abort();
    dying.abort();
    renaming.abort();
    drop((a, b));
    report(length, saturation, sent, &seen, &grown);
    assert!(
        seen.failed.is_empty(),
        "{} failed: {:#?}",
        seen.failed.len(),
        &seen.failed[..seen.failed.len().min(10)]
    );
    assert_eq!(seen.closed, 0, "connections closed by the proxy");
    grown.must_be_flat(length);
}

/// What a person reads of it.
fn report(
    length: Duration,
    saturation: f64,
    sent: u32,
    seen: &clients::Seen,
    grown: &watch::Grown,
) {
    let rate = seen.answers as f64 / length.as_secs_f64();
    println!(
        "soak          {} s, profile {}",
        length.as_secs(),
        if cfg!(debug_assertions) { "debug" } else { "release" }
    );
    println!("saturation    {saturation:.0} requests/s");
    println!("load          {rate:.0} requests/s, {} answers: {:?}", seen.answers, seen.by_kind);
    println!("pushes        {sent}");
    println!(
        "failures      {}, of {} connections closed by the proxy {}",
        seen.failed.len(),
        seen.connections,
        seen.closed
    );
    println!("{grown}");
}
