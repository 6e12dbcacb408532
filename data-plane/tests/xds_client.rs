//! The xDS client against a server on loopback.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use data_plane::bootstrap::control_plane::{Api, ControlPlane};
use data_plane::xds::client::{self, Event, Settings, Verdict};
use data_plane::xds::subscription::Wanted;
use data_plane::xds::{Start, Update};
use futures_util::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3 as discovery;
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use xds_proto::resource::{Resource, ResourceType};

/// A server that shows what it was asked, and says what it is told to.
struct Server {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Arc<Mutex<mpsc::Receiver<Result<DeltaDiscoveryResponse, Status>>>>,
    tasks: TaskTracker,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (mut incoming, requests) = (request.into_inner(), self.requests.clone());
        let (out, outgoing) = mpsc::channel(8);
        let responses = Arc::clone(&self.responses);
        self.tasks.spawn(async move {
            let mut responses = responses.lock().await;
            loop {
                tokio::select! {
                    Some(Ok(request)) = incoming.next() => {
                        if requests.send(request).await.is_err() {
                            return;
                        }
                    }
                    Some(response) = responses.recv() => {
                        let ends = response.is_err();
                        if out.send(response).await.is_err() || ends {
                            return;
                        }
                    }
                    else => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }
}

/// Both ends of a conversation.
struct Test {
    events: mpsc::Receiver<Event>,
    requests: mpsc::Receiver<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    wanted: watch::Sender<Arc<Wanted>>,
    shutdown: CancellationToken,
}

impl Test {
    /// Starts a server and a client that knows it behind `others` that do not answer.
    async fn start(others: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (requests, request_inbox) = mpsc::channel(16);
        let (responses, response_inbox) = mpsc::channel(16);
        let tasks = TaskTracker::new();
        let responses_of_server = Arc::new(Mutex::new(response_inbox));
        let server = Server { requests, responses: responses_of_server, tasks: tasks.clone() };
        let service = AggregatedDiscoveryServiceServer::new(server);
        let incoming = TcpListenerStream::new(listener);
        tasks.spawn(tonic::transport::Server::builder().serve_with_incoming(service, incoming));
        let (wanted, wanted_news) = watch::channel(Arc::new(wanted(&[])));
        let mut control_planes = Vec::new();
        for _ in 0..others {
            let gone = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
            control_planes.push(plane(gone));
        }
        control_planes.push(plane(port));
        let settings = Settings {
            control_planes,
            api: Api::Delta,
            node: Node { id: "n".into(), ..Node::default() },
            node_once_a_stream: true,
            wanted: wanted_news,
        };
        let (events, inbox) = mpsc::channel(16);
        let shutdown = CancellationToken::new();
        tasks.spawn(client::run(settings, events, shutdown.clone()));
        Ok(Self { events: inbox, requests: request_inbox, responses, wanted, shutdown })
    }

    async fn event(&mut self) -> anyhow::Result<Event> {
        let event = tokio::time::timeout(Duration::from_secs(10), self.events.recv()).await?;
        event.ok_or_else(|| anyhow::anyhow!("the client is gone"))
    }

    async fn request(&mut self) -> anyhow::Result<DeltaDiscoveryRequest> {
        let request = tokio::time::timeout(Duration::from_secs(10), self.requests.recv()).await?;
        request.ok_or_else(|| anyhow::anyhow!("the server is gone"))
    }

    /// Lets the next connection start with `start`.
    async fn connect(&mut self, start: Start) -> anyhow::Result<()> {
        loop {
            match self.event().await? {
                Event::Connected { reply, .. } => {
                    return reply.send(start).map_err(|_| anyhow::anyhow!("no client"));
                }
                Event::Disconnected { .. } => {}
                Event::Update { .. } => anyhow::bail!("an update before a connection"),
            }
        }
    }
}

fn plane(port: u16) -> ControlPlane {
    let connect_timeout = Duration::from_secs(1);
    ControlPlane { host: "127.0.0.1".into(), port, connect_timeout, tls: None }
}

fn wanted(endpoints: &[&str]) -> Wanted {
    let mut wanted = Wanted::default();
    wanted.of_mut(ResourceType::Cluster).wildcard = true;
    let names = endpoints.iter().map(|name| Arc::from(*name));
    wanted.of_mut(ResourceType::Endpoints).names.extend(names);
    wanted
}

fn cluster(nonce: &str) -> anyhow::Result<DeltaDiscoveryResponse> {
    let message = Cluster { name: "a".into(), ..Cluster::default() };
    let resource = discovery::Resource {
        name: "a".into(),
        version: "1".into(),
        resource: Some(Resource::pack(&message)?.to_any()),
        ..discovery::Resource::default()
    };
    Ok(DeltaDiscoveryResponse {
        type_url: ResourceType::Cluster.type_url().into(),
        nonce: nonce.into(),
        resources: vec![resource],
        ..DeltaDiscoveryResponse::default()
    })
}

#[tokio::test]
async fn a_response_is_answered_when_the_verdict_is_there() -> anyhow::Result<()> {
    let mut test = Test::start(0).await?;
    test.connect(Start { wanted: wanted(&[]), ..Start::default() }).await?;
    let first = test.request().await?;
    assert_eq!(first.node.unwrap_or_default().id, "n");
    test.responses.send(Ok(cluster("n1")?)).await?;
    let Event::Update { update: Update { kind, added, .. }, reply, .. } = test.event().await?
    else {
        anyhow::bail!("no update");
    };
    assert_eq!((kind, added.len()), (ResourceType::Cluster, 1));
    test.wanted.send_replace(Arc::new(wanted(&["a"])));
    let verdict = Verdict { rejected: Vec::new() };
    reply.send(verdict).map_err(|_| anyhow::anyhow!("no client"))?;
    let answer = test.request().await?;
    assert_eq!((&*answer.response_nonce, answer.error_detail), ("n1", None));
    let endpoints = test.request().await?;
    assert_eq!(endpoints.resource_names_subscribe, ["a"]);
    test.shutdown.cancel();
    Ok(())
}

#[tokio::test]
async fn what_is_wanted_meanwhile_is_asked_for_at_once() -> anyhow::Result<()> {
    let mut test = Test::start(0).await?;
    test.connect(Start { wanted: wanted(&[]), ..Start::default() }).await?;
    test.request().await?;
    test.responses.send(Ok(cluster("n1")?)).await?;
    let _held = test.event().await?;
    test.wanted.send_replace(Arc::new(wanted(&["a"])));
    let endpoints = test.request().await?;
    assert_eq!(
        (&*endpoints.response_nonce, &*endpoints.resource_names_subscribe),
        ("", &["a".to_owned()][..])
    );
    test.shutdown.cancel();
    Ok(())
}

#[tokio::test]
async fn a_lost_stream_starts_again_with_what_is_applied() -> anyhow::Result<()> {
    let mut test = Test::start(0).await?;
    test.connect(Start { wanted: wanted(&[]), ..Start::default() }).await?;
    test.request().await?;
    test.responses.send(Err(Status::unavailable("bye"))).await?;
    let mut start = Start { wanted: wanted(&[]), ..Start::default() };
    start.versions[ResourceType::Cluster.index()].insert("a".into(), "1".into());
    test.connect(start).await?;
    let request = test.request().await?;
    assert_eq!(request.initial_resource_versions["a"], "1");
    assert!(request.node.is_some());
    test.shutdown.cancel();
    Ok(())
}

#[tokio::test]
async fn the_next_control_plane_is_asked_when_the_first_does_not_answer() -> anyhow::Result<()> {
    let mut test = Test::start(2).await?;
    let mut lost = 0;
    loop {
        match test.event().await? {
            Event::Disconnected { .. } => lost += 1,
            Event::Connected { .. } => break,
            Event::Update { .. } => anyhow::bail!("nobody answered"),
        }
    }
    assert_eq!(lost, 2);
    test.shutdown.cancel();
    Ok(())
}
