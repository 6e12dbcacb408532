//! Which socket an endpoint is reached by, where a cluster has several (`transport_socket_matches`).

use std::sync::Arc;

use crate::cluster::endpoints::EndpointConfig;
use crate::cluster::protocol::ConnectionConfig;
use crate::labels::Labels;
use crate::tls::SecretError;
use crate::tls::client::{ClientTls, ClientTlsConfig};
use crate::tls::secret::Secrets;

/// A socket for some endpoints.
#[derive(Debug, Clone)]
pub struct SocketMatch {
    /// What metadata endpoints have that it is for; where there is nothing, all.
    pub labels: Labels,
    /// How connections are made and how long they live.
    pub connection: Arc<ConnectionConfig>,
    /// TLS towards the endpoints.
    pub tls: Option<ClientTlsConfig>,
}

/// What an endpoint and its locality have of metadata about sockets.
pub type SocketLabels = [Labels; 2];

/// TLS of each socket, in their order.
pub(super) type LinkedSockets = Box<[Option<Arc<ClientTls>>]>;

/// The first socket for this endpoint: what it has itself comes before what its locality has.
pub(super) fn choose(sockets: &[SocketMatch], endpoint: &EndpointConfig) -> Option<usize> {
    let none = [Labels::default(), Labels::default()];
    let levels = endpoint.sockets.as_deref().unwrap_or(&none);
    levels
        .iter()
        .find_map(|labels| sockets.iter().position(|socket| labels.include(&socket.labels, false)))
}

/// Resolves the secrets; what stays the same is taken from `previous`.
///
/// # Errors
/// When a secret is missing or is no use.
pub(super) fn link(
    sockets: &[SocketMatch],
    secrets: &Secrets,
    previous: Option<&LinkedSockets>,
) -> Result<LinkedSockets, SecretError> {
    let linked = sockets.iter().enumerate().map(|(index, socket)| {
        let previous = previous.and_then(|previous| previous.get(index)?.as_ref());
        let tls = socket.tls.as_ref();
        tls.map(|tls| ClientTls::link(tls, secrets, previous)).transpose()
    });
    linked.collect()
}

/// Whether two are made of the same.
pub(super) fn are_same(one: &LinkedSockets, other: &LinkedSockets) -> bool {
    let pointer = |tls: &Option<Arc<ClientTls>>| tls.as_ref().map(Arc::as_ptr);
    one.iter().map(pointer).eq(other.iter().map(pointer))
}
