//! A resource that another one names and that comes by itself: by which name, and how long it may take.

use std::sync::Arc;
use std::time::Duration;

/// How long a resource may take that was asked for, where nothing is said: Envoy's
/// `initial_fetch_timeout`, and gRPC's does-not-exist timer.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// A resource that another one names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its name.
    pub name: Arc<str>,
    /// How long it is waited for while a control plane is there that could send it; `None` is for
    /// ever (`ConfigSource.initial_fetch_timeout`).
    pub fetch_timeout: Option<Duration>,
}

impl Reference {
    /// A resource that is waited for as long as nothing else is said.
    pub fn new(name: Arc<str>) -> Self {
        Self { name, fetch_timeout: Some(FETCH_TIMEOUT) }
    }
}
