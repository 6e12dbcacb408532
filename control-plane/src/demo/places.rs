//! Which ports the demo takes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use super::{Ports, cannot};
use crate::cli::problem::{Exit, Problem};

/// Where things listen.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// The API.
    pub api: SocketAddr,
    /// xDS.
    pub xds: SocketAddr,
    /// Probes and metrics of the control plane.
    pub admin: SocketAddr,
    /// The proxies' listeners.
    pub gateways: [SocketAddr; 2],
}

impl Places {
    /// The usual ports, all of which must be free; or free ones.
    ///
    /// # Errors
    /// WL0602 with the port that is taken.
    pub async fn choose(ports: Ports) -> Result<Self, Problem> {
        // All are held until all are found, so that no two are the same.
        let held = match ports {
            Ports::Fixed => {
                let mut held = Vec::new();
                for port in [18080, 18000, 19000, 8001, 8002] {
                    held.push(hold(port).await?);
                }
                held
            }
            Ports::Auto => hold_free(5).await,
        };
        let addresses: Vec<SocketAddr> =
            held.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        match addresses[..] {
            [api, xds, admin, a, b] => Ok(Self { api, xds, admin, gateways: [a, b] }),
            _ => Err(cannot("find ports", &io::Error::other("fewer than five are free"))),
        }
    }
}

/// Where free ports are looked for: below those that the kernel gives to outgoing connections, one
/// of which could take a port between its being found free and its being used.
const FREE: std::ops::Range<u16> = 30_100..32_700;

/// At most `count` free ports. Two demos that start at once begin at different places.
async fn hold_free(count: usize) -> Vec<TcpListener> {
    let mut held = Vec::new();
    let (before, after) = (FREE.start..fastrand::u16(FREE), FREE.end);
    for port in (before.end..after).chain(before) {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            held.push(listener);
        }
        if held.len() == count {
            break;
        }
    }
    held
}

async fn hold(port: u16) -> Result<TcpListener, Problem> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            Problem::new(Exit::Failed, "WL0602", format!("port {port} is in use"))
                .detail("the demo takes 18080, 18000, 19000, 8001 and 8002 on 127.0.0.1")
                .help(
                    "end what listens there, or let it take free ones: weighlock demo --ports auto",
                )
        }
        _ => cannot("listen", &error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn free_ports_differ() {
        let Places { api, xds, admin, gateways: [a, b] } =
            Places::choose(Ports::Auto).await.unwrap();
        let ports: std::collections::BTreeSet<u16> =
            [api, xds, admin, a, b].map(|address| address.port()).into();
        assert_eq!(ports.len(), 5);
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_way_out() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = holder.local_addr().unwrap().port();
        let text = hold(port).await.unwrap_err().render("x");
        assert!(text.contains(&format!("WL0602 port {port}")) && text.contains("--ports auto"));
    }
}
