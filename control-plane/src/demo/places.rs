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
        let wanted = match ports {
            Ports::Fixed => [18080, 18000, 19000, 8001, 8002],
            Ports::Auto => [0; 5],
        };
        // All are held until all are found, so that no two are the same.
        let mut held = Vec::new();
        for port in wanted {
            held.push(hold(port).await?);
        }
        let addresses: Vec<SocketAddr> =
            held.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        match addresses[..] {
            [api, xds, admin, a, b] => Ok(Self { api, xds, admin, gateways: [a, b] }),
            _ => Err(cannot("find ports", &io::Error::other("a socket has no address"))),
        }
    }
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
