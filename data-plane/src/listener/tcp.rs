//! What a chain that carries bytes, not requests, was told (`TcpProxy`).

use std::time::Duration;

use crate::route::action::ClusterChoice;

/// A TCP proxy, compiled. The indices of its clusters are positions in the table of its chain.
#[derive(Debug)]
pub struct TcpConfig {
    /// Where bytes go.
    pub cluster: ClusterChoice,
    /// How long nothing may move in either direction; `None` is for ever.
    pub idle: Option<Duration>,
    /// How long a connection may last.
    pub age_max: Option<Duration>,
    /// How often to try to connect, at least once.
    pub connects_max: u32,
}
