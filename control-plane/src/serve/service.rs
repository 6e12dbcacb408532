//! Which path leads to which protocol and type, as a service that `tonic` serves.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use xds_proto::resource::ResourceType;

use crate::serve::order::Protocol;
use crate::serve::stream::{Delta, Shared, Sotw, Stream, Wire};

/// One response waits while another is on the wire: what comes later is merged into the next.
const OUTBOUND_RESPONSES: usize = 1;

/// A client that resumes names every resource it has, with its version.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// The streams that there are: path, protocol, and the type of a per-type service.
const ROUTES: &[(&str, Protocol, Option<ResourceType>)] = &[
    (
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        Protocol::Sotw,
        None,
    ),
    (
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        Protocol::Delta,
        None,
    ),
    (
        "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        Protocol::Sotw,
        Some(ResourceType::Listener),
    ),
    (
        "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        Protocol::Delta,
        Some(ResourceType::Listener),
    ),
    (
        "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        Protocol::Sotw,
        Some(ResourceType::Route),
    ),
    (
        "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        Protocol::Delta,
        Some(ResourceType::Route),
    ),
    (
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
        Protocol::Sotw,
        Some(ResourceType::ScopedRoute),
    ),
    (
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
        Protocol::Delta,
        Some(ResourceType::ScopedRoute),
    ),
    (
        "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
        Protocol::Delta,
        Some(ResourceType::VirtualHost),
    ),
    (
        "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        Protocol::Sotw,
        Some(ResourceType::Cluster),
    ),
    (
        "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        Protocol::Delta,
        Some(ResourceType::Cluster),
    ),
    (
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        Protocol::Sotw,
        Some(ResourceType::Endpoints),
    ),
    (
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        Protocol::Delta,
        Some(ResourceType::Endpoints),
    ),
    (
        "/envoy.service.endpoint.v3.LocalityEndpointDiscoveryService/DeltaLocalityEndpoints",
        Protocol::Delta,
        Some(ResourceType::LbEndpoint),
    ),
    (
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        Protocol::Sotw,
        Some(ResourceType::Secret),
    ),
    (
        "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        Protocol::Delta,
        Some(ResourceType::Secret),
    ),
    (
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
        Protocol::Sotw,
        Some(ResourceType::Runtime),
    ),
    (
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
        Protocol::Delta,
        Some(ResourceType::Runtime),
    ),
    (
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
        Protocol::Sotw,
        Some(ResourceType::ExtensionConfig),
    ),
    (
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
        Protocol::Delta,
        Some(ResourceType::ExtensionConfig),
    ),
];

/// All discovery services.
#[derive(Debug, Clone)]
pub struct Discovery {
    shared: Shared,
    tasks: TaskTracker,
}

impl Discovery {
    /// Services whose streams run as tasks of this tracker.
    pub fn new(shared: Shared, tasks: TaskTracker) -> Self {
        Self { shared, tasks }
    }

    fn opening<W: Wire>(&self, only: Option<ResourceType>) -> Opening<W> {
        Opening { discovery: self.clone(), only, wire: std::marker::PhantomData }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let path = request.uri().path();
        match ROUTES.iter().find(|(known, ..)| *known == path) {
            Some((_, Protocol::Sotw, only)) => self.opening::<Sotw>(*only).open(request),
            Some((_, Protocol::Delta, only)) => self.opening::<Delta>(*only).open(request),
            None => Box::pin(ready(Ok(Status::unimplemented("no such method").into_http()))),
        }
    }
}

/// Opens streams of one protocol and type.
struct Opening<W> {
    discovery: Discovery,
    only: Option<ResourceType>,
    wire: std::marker::PhantomData<W>,
}

impl<W> fmt::Debug for Opening<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("only", &self.only).finish_non_exhaustive()
    }
}

impl<W: Wire> Opening<W> {
    fn open(self, request: http::Request<Body>) -> Answer {
        let codec = ProstCodec::<W::Response, W::Request>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_BYTES);
        Box::pin(async move { Ok(grpc.streaming(self, request).await) })
    }
}

impl<W: Wire> StreamingService<W::Request> for Opening<W> {
    type Response = W::Response;
    type ResponseStream = ReceiverStream<Result<W::Response, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<W::Request>>) -> Self::Future {
        let (outbound, responses) = mpsc::channel(OUTBOUND_RESPONSES);
        let Discovery { shared, tasks } = self.discovery.clone();
        let stream = Stream::<W>::new(shared, self.only, request.into_inner(), outbound);
        tasks.spawn(stream.run());
        ready(Ok(Response::new(ReceiverStream::new(responses))))
    }
}
