//! The xDS server: aggregated and per-type discovery services, both protocols, over one listener.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::fleet::Fleet;
use crate::serve::service::Discovery;
use crate::serve::stream::Shared;
use crate::snapshot::Snapshots;

pub mod service;
pub mod stream;
pub mod session;
pub mod delta;
pub mod sotw;
pub mod order;
pub mod view;
pub mod response;
pub mod subscription;
pub mod names;
pub mod held;
pub mod blame;
pub mod message;
pub mod grpc;
#[cfg(test)]
pub(crate) mod testing;

/// How often a silent connection is probed, so that half-open ones are found.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long a probed connection may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much a client may send before it must wait: requests are small, except for the list of
/// versions with which a client of a large fleet resumes.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// How long streams have to end when the control plane goes down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves xDS on a listener until `shutdown`, then ends the streams and returns.
///
/// # Errors
/// When the listener has no address, or connections can no longer be accepted.
pub async fn serve(
    snapshots: Arc<Snapshots>,
    fleet: Arc<Fleet>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let identifier = format!("weighlock/{} {address}", env!("CARGO_PKG_VERSION")).into();
    let shared = Shared { snapshots, fleet, identifier, shutdown: shutdown.clone() };
    let tasks = TaskTracker::new();
    let discovery = Discovery::new(shared, tasks.clone());
    let server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .max_concurrent_streams(None)
        .serve_with_incoming_shutdown(
            discovery,
            TcpListenerStream::new(listener),
            shutdown.clone().cancelled_owned(),
        );
    let served = end_soon_after(&shutdown, server).await;
    shutdown.cancel();
    tasks.close();
    drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, tasks.wait()).await);
    served
}

/// A connection that does not close by itself must not keep the program from ending.
async fn end_soon_after(
    shutdown: &CancellationToken,
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
) -> io::Result<()> {
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        served = server => served.map_err(io::Error::other),
        () = overdue => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::identity::NodeKind;
    use crate::fleet::status::NodeState;
    use crate::serve::testing::{Cluster, cluster};
    use crate::snapshot::{Snapshot, Stamp};
    use std::time::SystemTime;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::transport::Channel;
    use tonic::{Code, Streaming};
    use xds_proto::envoy::config::core::v3::Node;
    use xds_proto::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
    use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    use xds_proto::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    };

    struct Served {
        snapshots: Arc<Snapshots>,
        fleet: Arc<Fleet>,
        shutdown: CancellationToken,
        tasks: TaskTracker,
        channel: Channel,
    }

    async fn served() -> Served {
        let (snapshots, fleet) = (Arc::<Snapshots>::default(), Arc::<Fleet>::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(serve(snapshots.clone(), fleet.clone(), listener, shutdown.clone()));
        let channel = Channel::from_shared(url).unwrap().connect_lazy();
        Served { snapshots, fleet, shutdown, tasks, channel }
    }

    impl Served {
        fn publish(&self, revision: u64, versions: &[(&str, u32)]) {
            let resources = versions.iter().map(|(name, version)| cluster(name, *version));
            let snapshot = Arc::new(Snapshot::new(resources.collect()));
            let stamp = Stamp { revision, accepted_at: SystemTime::now() };
            self.snapshots.publish_raw("*", snapshot, stamp);
            self.snapshots.open();
        }
    }

    fn node() -> Option<Node> {
        let user_agent_name = "envoy".into();
        Some(Node { id: "n".into(), user_agent_name, ..Default::default() })
    }

    fn sotw() -> DiscoveryRequest {
        let type_url = Cluster.type_url().into();
        DiscoveryRequest { node: node(), type_url, ..Default::default() }
    }

    async fn open_sotw(
        served: &Served,
    ) -> (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>) {
        let (requests, outbound) = mpsc::channel(8);
        let mut client = AggregatedDiscoveryServiceClient::new(served.channel.clone());
        let stream = client.stream_aggregated_resources(ReceiverStream::new(outbound));
        (requests, stream.await.unwrap().into_inner())
    }

    async fn open_delta(
        served: &Served,
    ) -> (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
        let (requests, outbound) = mpsc::channel(8);
        let mut client = AggregatedDiscoveryServiceClient::new(served.channel.clone());
        let stream = client.delta_aggregated_resources(ReceiverStream::new(outbound));
        (requests, stream.await.unwrap().into_inner())
    }

    #[tokio::test]
    async fn a_sotw_client_is_served_and_the_fleet_knows_what_it_took() {
        let served = served().await;
        let (requests, mut responses) = open_sotw(&served).await;
        requests.send(sotw()).await.unwrap();
        served.publish(1, &[("a", 0)]);
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(response.resources, [cluster("a", 0).to_any()]);
        assert!(!response.control_plane.unwrap().identifier.is_empty());
        let ack = DiscoveryRequest {
            node: None,
            version_info: response.version_info.clone(),
            response_nonce: response.nonce,
            ..sotw()
        };
        requests.send(ack).await.unwrap();
        let patience = Duration::from_secs(10);
        assert_eq!(served.fleet.wait_in_sync(1, None, patience).await.unwrap().nodes, 1);
        let status = &served.fleet.nodes()[0];
        assert_eq!((&*status.node, status.kind), ("n", NodeKind::Envoy));
        assert_eq!(status.state, NodeState::Synced);
        assert_eq!(status.types["CDS"].acked, Some(response.version_info));
        drop(requests);
        assert!(responses.message().await.unwrap().is_none(), "a half-close ends the stream");
    }

    #[tokio::test]
    async fn a_delta_client_that_refuses_is_shown_with_its_reason() {
        let served = served().await;
        served.publish(1, &[("a", 0)]);
        let (requests, mut responses) = open_delta(&served).await;
        let type_url = Cluster.type_url().to_owned();
        let first = DeltaDiscoveryRequest {
            node: node(),
            type_url: type_url.clone(),
            ..Default::default()
        };
        requests.send(first).await.unwrap();
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(response.resources[0].name, "a");
        let nack = DeltaDiscoveryRequest {
            type_url,
            response_nonce: response.nonce,
            error_detail: Some(xds_proto::google::rpc::Status {
                message: "a: no".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        requests.send(nack).await.unwrap();
        let patience = Duration::from_secs(10);
        let laggards = served.fleet.wait_in_sync(1, None, patience).await.unwrap_err();
        assert_eq!(laggards[0].state, NodeState::Nack);
        let nack = laggards[0].nack.as_ref().unwrap();
        assert_eq!((nack.r#type, nack.text.as_str()), ("CDS", "a: no"));
    }

    #[tokio::test]
    async fn a_service_of_one_type_needs_no_type_url() {
        let served = served().await;
        served.publish(1, &[("a", 0)]);
        let mut client = ClusterDiscoveryServiceClient::new(served.channel.clone());
        let request = DiscoveryRequest { node: node(), ..Default::default() };
        let requests = tokio_stream::once(request);
        let mut responses = client.stream_clusters(requests).await.unwrap().into_inner();
        assert_eq!(responses.message().await.unwrap().unwrap().resources.len(), 1);
    }

    #[tokio::test]
    async fn an_aggregated_request_without_a_type_is_refused() {
        let served = served().await;
        let (requests, mut responses) = open_sotw(&served).await;
        requests.send(DiscoveryRequest { node: node(), ..Default::default() }).await.unwrap();
        assert_eq!(responses.message().await.unwrap_err().code(), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn shutdown_ends_streams_and_tasks() {
        let served = served().await;
        served.publish(1, &[]);
        let (requests, mut responses) = open_sotw(&served).await;
        requests.send(sotw()).await.unwrap();
        responses.message().await.unwrap().unwrap();
        served.shutdown.cancel();
        assert_eq!(responses.message().await.unwrap_err().code(), Code::Unavailable);
        drop((requests, responses));
        served.tasks.close();
        served.tasks.wait().await;
    }
}
