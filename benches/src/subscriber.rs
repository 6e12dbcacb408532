//! A client of the control plane as a proxy is one: a delta ADS stream that takes what it is sent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use xds_proto::resource::ResourceType;

/// Requests that wait to be written.
const REQUESTS: usize = 16;

/// How long a client waits for what it must be sent.
const PATIENCE: Duration = Duration::from_secs(120);

/// Name to version, of one type.
pub type Versions = HashMap<String, String>;

/// One stream.
#[derive(Debug)]
pub struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// What it holds of each type that it asked for.
    pub held: HashMap<ResourceType, Versions>,
    /// How many resources it was sent.
    pub received: usize,
    /// How many bytes the resources had.
    pub bytes: usize,
}

impl Subscriber {
    /// Connects over a connection of its own. `held`: what it brings along from an earlier stream.
    pub async fn connect(
        server: SocketAddr,
        node: &str,
        held: HashMap<ResourceType, Versions>,
    ) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{server}"))?.connect().await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(64 * 1024 * 1024);
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let node = Node { id: node.into(), cluster: "scale".into(), ..Default::default() };
        let first = request(ResourceType::Cluster, &[], held.get(&ResourceType::Cluster));
        requests.send(DeltaDiscoveryRequest { node: Some(node), ..first }).await?;
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?;
        Ok(Self { requests, responses: responses.into_inner(), held, received: 0, bytes: 0 })
    }

    /// Asks for resources by name.
    pub async fn ask(&self, kind: ResourceType, names: &[String]) -> Result<()> {
        Ok(self.requests.send(request(kind, names, self.held.get(&kind))).await?)
    }

    /// Takes in one response and acknowledges it; gives the type.
    pub async fn take(&mut self) -> Result<ResourceType> {
        let response = self.responses.message().await?.context("the server ended the stream")?;
        let kind = ResourceType::from_type_url(&response.type_url).context("an unknown type")?;
        let held = self.held.entry(kind).or_default();
        for resource in response.resources {
            self.received += 1;
            self.bytes += resource.resource.map_or(0, |any| any.value.len());
            held.insert(resource.name, resource.version);
        }
        for name in &response.removed_resources {
            held.remove(name);
        }
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        };
        self.requests.send(ack).await?;
        Ok(kind)
    }

    /// Takes in responses until it holds `count` resources of a type.
    pub async fn hold(&mut self, kind: ResourceType, count: usize) -> Result<()> {
        let all = async {
            while self.held.get(&kind).map_or(0, HashMap::len) < count {
                self.take().await?;
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(done) => done,
            Err(_) => bail!("{} did not come in {PATIENCE:?}", kind.short_name()),
        }
    }
}

fn request(kind: ResourceType, names: &[String], held: Option<&Versions>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: names.to_vec(),
        initial_resource_versions: held.cloned().unwrap_or_default(),
        ..Default::default()
    }
}
