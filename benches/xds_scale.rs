//! The control plane with thousands of streams: memory a stream, CPU and time of a change, and a restart.
//!
//! `cargo bench --bench xds_scale`. Real gRPC streams, each on a connection of its own, to a real `weighlock serve`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use gateway_benches::cost::cpu;
use gateway_benches::figures::spread;
use gateway_benches::subscriber::{Subscriber, Versions};
use gateway_tests::client;
use gateway_tests::documents::raw_cluster;
use gateway_tests::gateway::ControlPlane;
use gateway_tests::process::resident_kib;
use serde_json::Value;
use tokio::task::JoinSet;
use xds_proto::resource::ResourceType;

/// Clusters, and as many sets of endpoints.
const CLUSTERS: usize = 500;
/// Streams whose memory is measured, and that come back after a restart.
const MANY: usize = 2_000;
/// Streams that a change goes to.
const AUDIENCE: usize = 300;
/// How many changes are measured.
const CHANGES: u16 = 100;
/// Streams that are opened at the same time.
const OPENING: usize = 50;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let data = tempfile::tempdir()?;
    let mut control = ControlPlane::start(data.path()).await;
    let resources: Vec<Value> = (0..CLUSTERS).flat_map(|n| world(n, 8000)).collect();
    control.put_group("scale", &resources).await;

    // Warm: what the first streams make the server allocate is not counted to each.
    let audience = open(control.xds, 0..AUDIENCE, &HashMap::new()).await?;
    fan_out(&control, audience).await?;

    let streams = memory(&control).await?;
    restart(&mut control, streams).await
}

async fn memory(control: &ControlPlane) -> Result<Vec<Subscriber>> {
    gone(control).await?;
    let before = resident_kib(control.process.id());
    let started = cpu(control.process.id());
    let streams = open(control.xds, 0..MANY, &HashMap::new()).await?;
    let spent = cpu(control.process.id()) - started;
    settled(control, MANY).await?;
    let after = resident_kib(control.process.id());
    println!(
        "memory: {before} KiB with {CLUSTERS} clusters and as many endpoint sets and no stream, {after} KiB with {MANY} delta streams: {:.1} KiB a stream; serving them first cost {:.2} s of CPU",
        (after.saturating_sub(before)) as f64 / MANY as f64,
        spent.as_secs_f64()
    );
    Ok(streams)
}

/// One endpoint changes: until the last stream has it.
async fn fan_out(control: &ControlPlane, streams: Vec<Subscriber>) -> Result<()> {
    settled(control, AUDIENCE).await?;
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(AUDIENCE);
    let mut takers = JoinSet::new();
    for mut stream in streams {
        let arrived = arrived.clone();
        takers.spawn(async move {
            while stream.take().await.is_ok() {
                if arrived.send(Instant::now()).await.is_err() {
                    break;
                }
            }
        });
    }
    let (mut times, mut costs) = (Vec::new(), Vec::new());
    for port in 0..CHANGES {
        let [_, endpoints] = world(7, 9000 + port);
        let before = cpu(control.process.id());
        control.patch_group("scale", &[endpoints], &[]).await;
        let accepted = Instant::now();
        let mut last = accepted;
        for _ in 0..AUDIENCE {
            last = arrivals.recv().await.unwrap_or(last);
        }
        times.push(last.saturating_duration_since(accepted));
        costs.push(quiet(control.process.id()).await - before);
    }
    println!(
        "one endpoint to {AUDIENCE} streams, from accepted write to the last: {}",
        spread(times)
    );
    println!(
        "  server CPU from the write to the last ACK, the write itself included: {}",
        spread(costs)
    );
    takers.shutdown().await;
    Ok(())
}

/// The server dies and comes back; so do all its streams, at once.
async fn restart(control: &mut ControlPlane, streams: Vec<Subscriber>) -> Result<()> {
    let held = streams.first().map(|stream| stream.held.clone()).unwrap_or_default();
    control.kill();
    drop(streams);
    control.restart().await;
    let began = Instant::now();
    let back = open(control.xds, 0..MANY, &held).await?;
    settled(control, MANY).await?;
    let took = began.elapsed();
    let sent: usize = back.iter().map(|stream| stream.received).sum();
    println!(
        "restart: {MANY} streams back and settled after {:.1} s, {sent} unchanged resources sent, {:.2} s of CPU",
        took.as_secs_f64(),
        cpu(control.process.id()).as_secs_f64()
    );
    Ok(())
}

/// Opens streams that hold everything, or that say they do.
async fn open(
    server: SocketAddr,
    numbers: std::ops::Range<usize>,
    held: &HashMap<ResourceType, Versions>,
) -> Result<Vec<Subscriber>> {
    let names: Vec<String> = (0..CLUSTERS).map(|n| format!("c{n}")).collect();
    let (mut opening, mut open) = (JoinSet::new(), Vec::new());
    for number in numbers {
        if opening.len() >= OPENING
            && let Some(done) = opening.join_next().await
        {
            open.push(done??);
        }
        let (names, held) = (names.clone(), held.clone());
        opening.spawn(async move {
            let mut stream = Subscriber::connect(server, &format!("n{number}"), held).await?;
            stream.hold(ResourceType::Cluster, CLUSTERS).await?;
            stream.ask(ResourceType::Endpoints, &names).await?;
            stream.hold(ResourceType::Endpoints, CLUSTERS).await?;
            anyhow::Ok(stream)
        });
    }
    while let Some(done) = opening.join_next().await {
        open.push(done??);
    }
    Ok(open)
}

/// Waits until a process does nothing any more; gives the CPU time that it has used.
async fn quiet(process: u32) -> Duration {
    let mut known = cpu(process);
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let used = cpu(process);
        if used - known < Duration::from_micros(50) {
            return used;
        }
        known = used;
    }
}

/// Waits until so many nodes have everything.
async fn settled(control: &ControlPlane, count: usize) -> Result<()> {
    states(control, |states| states.iter().filter(|state| *state == "synced").count() >= count)
        .await
}

/// Waits until no node is connected.
async fn gone(control: &ControlPlane) -> Result<()> {
    states(control, |states| states.iter().all(|state| state == "lost")).await
}

async fn states(control: &ControlPlane, enough: impl Fn(&[Value]) -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let fleet = client::json(control.api, "/v1/fleet").await?;
        let nodes = fleet["nodes"].as_array().cloned().unwrap_or_default();
        let states: Vec<Value> = nodes.into_iter().map(|mut node| node["state"].take()).collect();
        if enough(&states) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "the fleet does not settle: {states:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn world(number: usize, port: u16) -> [Value; 2] {
    let low = u8::try_from(number % 250).unwrap_or_default();
    let high = u8::try_from(number / 250).unwrap_or_default();
    raw_cluster(&format!("c{number}"), (Ipv4Addr::new(10, 0, high, low), port).into())
}
