//! A name whose addresses change: the proxy reads a hosts file of its own, mounted over the system's.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use gateway_tests::gateway::{Proxy, folder};
use gateway_tests::ports;
use gateway_tests::process::{Process, program};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::interval;

use crate::backend::Mortal;
use crate::pushes::guarded;

const NAME: &str = "named.soak.test";
/// How long an answer stands; the proxy asks ten times as often.
const STANDS: Duration = Duration::from_secs(2);
/// What the name leads to, in turn: the last numbers of loopback addresses.
const ANSWERS: [&[u8]; 4] = [&[2], &[2, 3], &[3, 4], &[4]];

/// The backends behind a name, and where it is told what they are.
#[derive(Debug)]
pub(crate) struct Names {
    backends: Vec<Mortal>,
    folder: TempDir,
    /// Whether this machine lets a program have a hosts file of its own.
    can_change: bool,
}

impl Names {
    pub(crate) async fn start() -> Self {
        let can_change = Command::new("unshare").args(["-rm", "true"]).status();
        let can_change = can_change.is_ok_and(|status| status.success());
        let port = ports::free();
        let mut backends = Vec::new();
        for last in 2..=4 {
            backends.push(Mortal::start_at(([127, 0, 0, last], port).into(), "named").await);
        }
        let names = Self { backends, folder: folder(), can_change };
        names.answer(ANSWERS[0]);
        if !can_change {
            println!("names         do not change: no mount of a user's own on this machine");
        }
        names
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("hosts")
    }

    /// Writes in place: another file would not be the one that is mounted.
    fn answer(&self, lasts: &[u8]) {
        let lines: Vec<String> =
            lasts.iter().map(|last| format!("127.0.0.{last} {NAME}\n")).collect();
        fs::write(self.file(), lines.concat()).unwrap();
    }

    pub(crate) fn cluster(&self) -> Value {
        let kind = if self.can_change { "STRICT_DNS" } else { "STATIC" };
        let port = self.backends[0].address.port();
        let address = if self.can_change { NAME } else { "127.0.0.2" };
        let mut cluster = json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "named", "type": kind,
            "dns_lookup_family": "V4_ONLY",
            "load_assignment": {"cluster_name": "named", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}]}]},
        });
        if self.can_change {
            cluster["dns_refresh_rate"] = format!("{}s", STANDS.as_secs_f64() / 10.0).into();
        }
        guarded(&mut cluster);
        cluster
    }

    /// A proxy that looks names up in the file.
    pub(crate) async fn proxy(&self, control_plane: SocketAddr, node: &str) -> Proxy {
        let admin = ports::address();
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        command.arg(self.file()).arg(program("weighlock-proxy"));
        if !self.can_change {
            command = Command::new(program("weighlock-proxy"));
        }
        command.args(["--control-plane", &control_plane.to_string(), "--node-id", node]);
        command.args(["--node-cluster", "x", "--admin-address", &admin.to_string()]);
        let mut proxy = Proxy { admin, process: Process::start("proxy", &mut command) };
        proxy.ready().await;
        proxy
    }

    /// Gives the next answer again and again, until it is aborted.
    pub(crate) async fn change(self) {
        let mut turns = interval(STANDS);
        for answer in ANSWERS.into_iter().cycle() {
            turns.tick().await;
            self.answer(answer);
        }
    }
}
