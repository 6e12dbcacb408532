//! Options of the sockets of a listener's connections.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Options; what is not set is as the system has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Whether a peer that says nothing is probed.
    pub keepalive: Option<bool>,
    /// After how long.
    pub idle: Option<Duration>,
    /// How long between probes.
    pub interval: Option<Duration>,
    /// How many without an answer end the connection.
    pub probes: Option<u32>,
    /// The type of service of IPv4.
    pub tos: Option<u32>,
    /// The traffic class of IPv6.
    pub traffic_class: Option<u32>,
}

impl SocketOptions {
    /// Sets them on a socket.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn set(&self, socket: &SockRef<'_>, is_ipv6: bool) -> io::Result<()> {
        if let Some(keepalive) = self.keepalive {
            socket.set_keepalive(keepalive)?;
        }
        if self.idle.or(self.interval).is_some() || self.probes.is_some() {
            let mut probing = TcpKeepalive::new();
            if let Some(idle) = self.idle {
                probing = probing.with_time(idle);
            }
            if let Some(interval) = self.interval {
                probing = probing.with_interval(interval);
            }
            if let Some(probes) = self.probes {
                probing = probing.with_retries(probes);
            }
            socket.set_tcp_keepalive(&probing)?;
            if self.keepalive != Some(true) {
                // The call above turns it on.
                socket.set_keepalive(false)?;
            }
        }
        match (self.tos, self.traffic_class) {
            (Some(tos), _) if !is_ipv6 => socket.set_tos_v4(tos)?,
            (_, Some(class)) if is_ipv6 => socket.set_tclass_v6(class)?,
            _ => {}
        }
        Ok(())
    }
}
