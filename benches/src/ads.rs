//! A control plane that sends what it is told, state of the world, and knows what was acknowledged.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, async_trait};
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use xds_proto::google::protobuf::Any;

/// Responses that wait to be written.
const RESPONSES: usize = 16;

type Outgoing = ReceiverStream<Result<DiscoveryResponse, Status>>;

/// The server.
#[derive(Debug)]
pub struct Ads {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Shared {
    /// By type URL.
    resources: Mutex<HashMap<&'static str, (u64, Vec<Any>)>>,
    /// The newest version that was acknowledged, and what was said against another.
    acked: watch::Sender<(u64, String)>,
}

struct Service {
    shared: Arc<Shared>,
    news: watch::Receiver<u64>,
}

impl Ads {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let resources = Mutex::default();
        let shared = Arc::new(Shared { resources, acked: watch::channel((0, String::new())).0 });
        let (news, seen) = watch::channel(0);
        let service = Service { shared: Arc::clone(&shared), news: seen };
        let server = tonic::transport::Server::builder().serve_with_incoming(
            AggregatedDiscoveryServiceServer::new(service),
            TcpListenerStream::new(listener),
        );
        tokio::spawn(server);
        Ok(Self { address, shared, news })
    }

    /// Sets all resources of a type, and sends them to who asked for the type.
    pub fn put(&self, type_url: &'static str, resources: Vec<Any>) -> u64 {
        let version = *self.news.borrow() + 1;
        let mut all = self.shared.resources.lock().unwrap_or_else(|error| error.into_inner());
        all.insert(type_url, (version, resources));
        drop(all);
        self.news.send_replace(version);
        version
    }

    /// Waits until a version is acknowledged.
    ///
    /// # Errors
    /// When one was refused.
    pub async fn acked(&self, version: u64) -> Result<()> {
        let mut acked = self.shared.acked.subscribe();
        let (_, error) =
            &*acked.wait_for(|(acked, error)| *acked >= version || !error.is_empty()).await?;
        ensure!(error.is_empty(), "{error}");
        Ok(())
    }
}

#[async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Outgoing;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Outgoing>, Status> {
        let (out, responses) = mpsc::channel(RESPONSES);
        let (shared, news) = (Arc::clone(&self.shared), self.news.clone());
        tokio::spawn(converse(shared, news, request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state of the world only"))
    }
}

async fn converse(
    shared: Arc<Shared>,
    mut news: watch::Receiver<u64>,
    mut requests: Streaming<DiscoveryRequest>,
    out: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    // What was sent last of each type that was asked for.
    let mut sent: HashMap<String, u64> = HashMap::new();
    loop {
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                if let Some(refused) = request.error_detail {
                    shared.acked.send_modify(|acked| acked.1 = refused.message);
                } else if let Ok(version) = request.response_nonce.parse::<u64>() {
                    shared.acked.send_modify(|acked| acked.0 = acked.0.max(version));
                }
                sent.entry(request.type_url).or_default();
            }
            changed = news.changed() => if changed.is_err() { return },
        }
        let due: Vec<_> = {
            let all = shared.resources.lock().unwrap_or_else(|error| error.into_inner());
            let newer = all
                .iter()
                .filter(|(kind, (version, _))| sent.get(**kind).is_some_and(|sent| sent < version));
            newer.map(|(kind, (version, resources))| (*kind, *version, resources.clone())).collect()
        };
        for (kind, version, resources) in due {
            sent.insert(kind.to_owned(), version);
            let response = DiscoveryResponse {
                version_info: version.to_string(),
                nonce: version.to_string(),
                type_url: kind.to_owned(),
                resources,
                ..DiscoveryResponse::default()
            };
            if out.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}
