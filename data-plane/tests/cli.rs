//! The command line of `weighlock-proxy`.

use std::process::{Command, Output};

fn proxy(arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_weighlock-proxy")).args(arguments).output()
}

#[test]
fn version_is_the_crates() {
    let output = proxy(&["--version"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("weighlock-proxy {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_tells_each_flag_with_its_default() {
    let output = proxy(&["--help"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for flag in [
        "-c, --config-path",
        "--control-plane",
        "--node-id",
        "--node-cluster",
        "--admin-address",
        "--state-dir",
        "--concurrency",
        "--drain-delay",
        "--drain-timeout",
        "--access-log",
        "--log-level",
        "--log-format",
        "127.0.0.1:19001",
        "[default: 5s]",
        "[default: 60s]",
    ] {
        assert!(text.contains(flag), "{flag} is missing in\n{text}");
    }
    assert!(!text.contains("exit-with-parent"), "{text}");
}

#[test]
fn a_bad_bootstrap_is_shown_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap.yaml");
    std::fs::write(&path, "node:\n  id: a\n  clustr: b\n").unwrap();
    let output = proxy(&["-c", path.to_str().unwrap()]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    for part in ["bootstrap.yaml", "clustr", "line 2", "^"] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn a_proxy_without_any_source_says_what_to_give() {
    let output = proxy(&[]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("give --config-path, or --control-plane, or both"), "{text}");
}
