//! Which path leads to which protocol and type, as a service that `tonic` serves.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use xds_proto::resource::ResourceType;

use crate::serve::grpc::{Requests, Responses};
use crate::serve::order::Protocol;
use crate::serve::stream::{Delta, Shared, Sotw, Stream, Wire};

/// One response waits while another is on the wire: what comes later is merged into the next.
const OUTBOUND_RESPONSES: usize = 1;

/// The type of every body.
const GRPC: &str = "application/grpc";

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

    fn open<W: Wire>(
        &self,
        only: Option<ResourceType>,
        request: http::Request<Body>,
    ) -> http::Response<Body> {
        let (outbound, responses) = mpsc::channel(OUTBOUND_RESPONSES);
        let requests = Requests::new(request.into_body(), MAX_REQUEST_BYTES);
        self.tasks.spawn(Stream::<W>::new(self.shared.clone(), only, requests, outbound).run());
        let mut response = http::Response::new(Body::new(Responses::new(responses)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
        response
    }
}

impl Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        ready(Ok(match ROUTES.iter().find(|(known, ..)| *known == path) {
            Some((_, Protocol::Sotw, only)) => self.open::<Sotw>(*only, request),
            Some((_, Protocol::Delta, only)) => self.open::<Delta>(*only, request),
            None => Status::unimplemented("no such method").into_http(),
        }))
    }
}
