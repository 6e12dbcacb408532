//! `weighlock-proxy` with what its bootstrap alone says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;

const BOOTSTRAP: &str = r#"
node: {id: n, cluster: c}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: hello
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hello
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200, body: {filename: BODY}}
"#;

/// A proxy that runs, and its log.
struct Proxy {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    _folder: tempfile::TempDir,
}

impl Proxy {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let body = folder.path().join("body.txt");
        std::fs::write(&body, "hello from a file")?;
        let path = folder.path().join("bootstrap.yaml");
        std::fs::write(&path, BOOTSTRAP.replace("BODY", &body.to_string_lossy()))?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_weighlock-proxy"))
            .arg("-c")
            .arg(&path)
            .args(["--concurrency", "1", "--drain-delay", "0s", "--log-format", "json"])
            .arg("--exit-with-parent")
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().context("no log")?);
        Ok(Self { child, log, _folder: folder })
    }

    /// The address in the next log line with this message.
    fn address(&mut self, message: &str) -> anyhow::Result<SocketAddr> {
        let mut line = String::new();
        while self.log.read_line(&mut line)? > 0 {
            let entry: serde_json::Value = serde_json::from_str(&line)?;
            if entry["message"] == message {
                return Ok(entry["address"].as_str().context("no address")?.parse()?);
            }
            line.clear();
        }
        anyhow::bail!("the log ends without {message:?}")
    }

    fn end(mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.child.wait()?)
    }
}

fn ask(address: SocketAddr, method: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_static_listener_needs_no_control_plane() -> anyhow::Result<()> {
    let mut proxy = Proxy::start()?;
    let listener = proxy.address("listener ready")?;
    let admin = proxy.address("admin listening")?;
    let answer = ask(listener, "GET", "/")?;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello from a file"), "{answer}");
    assert!(ask(admin, "GET", "/readyz")?.starts_with("HTTP/1.1 200"));
    assert!(ask(admin, "GET", "/listeners")?.contains(&format!("hello::{listener}")));
    assert!(ask(admin, "GET", "/metrics")?.contains("weighlock_requests_total{listener=\"hello\""));
    assert!(ask(admin, "GET", "/quitquitquit")?.starts_with("HTTP/1.1 405"));
    assert!(ask(admin, "POST", "/quitquitquit")?.starts_with("HTTP/1.1 200"));
    assert_eq!(proxy.end()?.code(), Some(0));
    Ok(())
}
