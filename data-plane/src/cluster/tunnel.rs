//! A connection to an endpoint that carries bytes as they are, for one client.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::ConnectError;
use super::endpoints::Endpoint;
use super::failure::UpstreamFailure;
use super::live::{EndpointSlot, Slot};
use super::proxy_protocol::Ends;
use super::purpose::Purpose;
use super::{Cluster, connect};
use crate::telemetry::stats::Limit;
use crate::tls::client::Offer;

/// A connection to an endpoint, and what it takes up of the cluster until it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    stream: connect::Stream,
    slot: Slot,
    endpoint: EndpointSlot,
}

impl Tunnel {
    /// Connects, TLS included where the cluster has it. `ends`: whose connection it carries.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn open(
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        ends: Ends,
    ) -> Result<Self, UpstreamFailure> {
        let slot = Slot::under(&cluster.live, Limit::Connections, &cluster.config.breakers)
            .ok_or(UpstreamFailure::Overflow)?;
        let purpose = Purpose { ends: Some(ends), name: None };
        let of_endpoint = EndpointSlot::new(&endpoint.live);
        let connected = endpoint.connector.connect(Offer::Http1, &purpose).await;
        let stream = connected.map_err(|ConnectError { reason, source }| {
            let (cluster, endpoint) = (&*cluster.config.name, &*endpoint.label);
            tracing::debug!(cluster, endpoint, error = %source, "no connection");
            reason
        })?;
        Ok(Self { stream, slot, endpoint: of_endpoint })
    }

    /// The stream, and what is to be kept while it is used.
    pub fn into_parts(self) -> (impl AsyncRead + AsyncWrite + Unpin, InUse) {
        (self.stream, InUse { _slot: self.slot, _endpoint: self.endpoint })
    }
}

/// What a tunnel takes up, until it is dropped.
#[derive(Debug)]
pub struct InUse {
    _slot: Slot,
    _endpoint: EndpointSlot,
}
