//! The two programs as a person meets them: help, versions, wrong usage, and nobody at the other end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::net::TcpListener;
use std::process::{Command, Output};

fn weighlock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weighlock")).args(arguments).output().unwrap()
}

fn wlctl(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wlctl"));
    command.args(arguments).env_remove("WLCTL_SERVER").env_remove("WLCTL_NAMESPACE");
    command.output().unwrap()
}

/// Exit code, standard output and standard error.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_and_version_are_answered_on_standard_output() {
    for (output, part) in [
        (weighlock(&["--help"]), "demo"),
        (weighlock(&["serve", "--help"]), "--api-address"),
        (weighlock(&["proxy", "--help"]), "--control-plane"),
        (weighlock(&["--version"]), env!("CARGO_PKG_VERSION")),
        (weighlock(&["version"]), env!("CARGO_PKG_VERSION")),
        (wlctl(&["--help"]), "shift"),
        (wlctl(&["apply", "--help"]), "--dry-run"),
        (wlctl(&["--version"]), env!("CARGO_PKG_VERSION")),
    ] {
        let (code, out, err) = told(&output);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
}

#[test]
fn wrong_usage_ends_with_two_and_names_what_was_meant() {
    for (output, part) in [
        (wlctl(&["statsu"]), "status"),
        (wlctl(&["get", "htproute"]), "did you mean httproute?"),
        (wlctl(&["apply", "-f", "/no/such"]), "there is no such file or folder"),
        (wlctl(&["shift", "httproute/a", "x"]), "BACKEND=WEIGHT"),
        (wlctl(&["--server", "https://x", "status"]), "TLS is not supported yet"),
        (wlctl(&["delete", "httproute", "a"]), "WL0010"),
        (weighlock(&["srve"]), "serve"),
        (weighlock(&["serve"]), "--open"),
        (weighlock(&["serve", "--open", "--set", "stor.kind=x"]), "did you mean store.kind?"),
        (weighlock(&["serve", "--open", "--api-address", "0.0.0.0:0"]), "loopback"),
    ] {
        let (code, out, err) = told(&output);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains(part), "{part:?} is not in:\n{err}");
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error_with_help() {
    // Nobody listens where somebody just stopped.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = format!("http://{address}");
    for arguments in [["status"].as_slice(), &["get", "gateways"], &["events"], &["history"]] {
        let (code, out, err) = told(&wlctl(&[&["--server", &server], arguments].concat()));
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.starts_with(&format!("✗ WL0604 no control plane at {server}\n")), "{err}");
        assert!(err.contains("    help  start one with `weighlock serve --open`"), "{err}");
    }
}

#[test]
fn ascii_is_ascii() {
    let (_, _, err) = told(&wlctl(&["--ascii", "get", "pods"]));
    assert!(err.is_ascii() && err.starts_with("x WL0006 "), "{err}");
}

#[test]
fn a_taken_port_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let output = weighlock(&["serve", "--open", "--store", "memory", "--api-address", &address]);
    let (code, _, err) = told(&output);
    assert_eq!(code, 1, "{err}");
    let port = holder.local_addr().unwrap().port();
    assert!(err.contains(&format!("WL0602 port {port} is in use")), "{err}");
}
