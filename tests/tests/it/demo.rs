//! `weighlock demo`, as a newcomer runs it.

use std::process::Command;

use gateway_tests::process::{self, Process};

#[tokio::test(flavor = "multi_thread")]
async fn demo_once_shifts_all_traffic_and_loses_nothing() {
    let mut command = Command::new(process::program("weighlock"));
    command.args(["demo", "--once", "--ports", "auto"]).env("NO_COLOR", "1");
    let mut demo = Process::start("demo --once", &mut command);
    let code = demo.ended().await;
    let printed = demo.output();
    assert_eq!(code, 0, "{printed}");
    for part in ["0%", "10%", "50%", "100%", "shop-v1", "shop-v2"] {
        assert!(printed.contains(part), "{part:?} is not in:\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_says_which_port_is_taken() {
    let holder = std::net::TcpListener::bind("127.0.0.1:18080");
    let output = process::run(Command::new(process::program("weighlock")).args(["demo", "--once"]));
    drop(holder);
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("WL0602") && printed.contains("18080") && printed.contains("--ports auto"),
        "{printed}"
    );
}
