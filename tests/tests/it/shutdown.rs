//! Ctrl-C ends everything it started, and says nothing alarming.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use gateway_tests::gateway::{ControlPlane, Proxy, folder};
use gateway_tests::process::{self, Process};
use gateway_tests::wait;
use rustix::process::Signal;

/// Ids of all processes below `id`.
fn descendants(id: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut open = vec![id];
    while let Some(id) = open.pop() {
        for task in fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(
                children
                    .split_whitespace()
                    .map(|id| id.parse::<u32>().unwrap())
                    .filter(|&id| found.insert(id)),
            );
        }
    }
    found
}

async fn all_ended(ids: &BTreeSet<u32>) {
    wait::until("the children to end", Duration::from_secs(20), || async {
        let left: Vec<_> = ids.iter().filter(|id| runs(**id)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// Whether it runs; one that is dead and not yet waited for does not.
fn runs(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

async fn demo() -> (Process, BTreeSet<u32>) {
    let mut command = Command::new(process::program("weighlock"));
    command.args(["demo", "--ports", "auto"]).env("NO_COLOR", "1");
    let mut demo = Process::start("demo", &mut command);
    demo.printed("requests a second are flowing").await;
    let children = descendants(demo.id());
    assert!(
        children.len() >= 3,
        "a control plane and two proxies: {children:?}\n{}",
        demo.output()
    );
    (demo, children)
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_on_the_demo_leaves_no_process_behind() {
    let (mut demo, children) = demo().await;
    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await, 0, "{}", demo.output());
    all_ended(&children).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_demo_leaves_no_process_behind() {
    let (mut demo, children) = demo().await;
    demo.kill();
    all_ended(&children).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_plane_and_proxy_end_on_sigint_and_sigterm() {
    for signal in [Signal::INT, Signal::TERM] {
        let data = folder();
        let mut control = ControlPlane::start(data.path()).await;
        let mut proxy = Proxy::start_with(
            control.xds,
            "n1",
            "default",
            &["--drain-delay", "0s", "--drain-timeout", "1s"],
        );
        proxy.ready().await;
        proxy.process.signal(signal);
        assert_eq!(proxy.process.ended().await, 0, "{}", proxy.process.output());
        control.process.signal(signal);
        assert_eq!(control.process.ended().await, 0, "{}", control.process.output());
    }
}
