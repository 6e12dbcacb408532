//! A client for the tests of the pure steps: it says what a test tells it to, and remembers what it got.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message;
use serde_json::{Value, json};
use tokio::time::Instant;
use xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, Resource as Wrapped,
};
use xds_proto::google::{protobuf::Any, rpc};
use xds_proto::json::any_from_json;
use xds_proto::resource::{Resource, ResourceType, name_of};

use crate::fleet::Moment;
use crate::serve::order::Protocol;
use crate::serve::response::Response;
use crate::serve::session::Session;
use crate::snapshot::{Origin, Published, Snapshot, Stamp};

pub(crate) use ResourceType::{Cluster, Endpoints, Listener, Route, VirtualHost};

fn resource(value: Value) -> Resource {
    let (type_url, body) = any_from_json(value).unwrap();
    Resource::from_bytes(&type_url, &body).unwrap()
}

/// A cluster that gets its endpoints by EDS. Another `version` is another content.
pub(crate) fn cluster(name: &str, version: u32) -> Resource {
    resource(json!({
        "@type": Cluster.type_url(), "name": name, "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}}},
        "connect_timeout": format!("{}s", version + 1),
    }))
}

/// The endpoints of a cluster.
pub(crate) fn endpoints(name: &str, version: u32) -> Resource {
    resource(json!({
        "@type": Endpoints.type_url(), "cluster_name": name,
        "policy": {"overprovisioning_factor": version + 1},
    }))
}

/// Routes that all lead to one cluster.
pub(crate) fn routes(name: &str, cluster: &str) -> Resource {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    resource(json!({
        "@type": Route.type_url(), "name": name,
        "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}],
    }))
}

/// A listener that gets its routes by RDS.
pub(crate) fn listener(name: &str, routes: &str) -> Resource {
    resource(json!({
        "@type": Listener.type_url(), "name": name,
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "x",
            "rds": {"route_config_name": routes, "config_source": {"ads": {}}},
        }}]}],
    }))
}

/// A virtual host.
pub(crate) fn host(name: &str, domain: &str) -> Resource {
    resource(json!({"@type": VirtualHost.type_url(), "name": name, "domains": [domain]}))
}

/// What a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) kind: ResourceType,
    pub(crate) nonce: String,
    pub(crate) version: String,
    pub(crate) names: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) resources: BTreeMap<String, Option<String>>,
}

/// A stream with a client at its end, and a clock that the test moves.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) session: Session,
    protocol: Protocol,
    published: Published,
    now: Moment,
}

impl Talk {
    pub(crate) fn new(protocol: Protocol, resources: Vec<Resource>) -> Self {
        let published = Published {
            origin: Origin::Raw("*".into()),
            snapshot: Arc::new(Snapshot::new(resources)),
            stamp: Stamp { revision: 1, accepted_at: SystemTime::UNIX_EPOCH },
        };
        let mut session = Session::new(protocol, true);
        session.publish(published.clone());
        Self { session, protocol, published, now: Moment::now() }
    }

    pub(crate) fn publish(&mut self, resources: Vec<Resource>) {
        self.published.snapshot = Arc::new(self.published.snapshot.next(resources));
        self.published.stamp.revision += 1;
        self.session.publish(self.published.clone());
    }

    /// The control plane restarts, and publishes later.
    pub(crate) fn restart(&mut self) {
        self.session = Session::new(self.protocol, true);
    }

    /// The client loses its stream and opens another.
    pub(crate) fn reconnect(&mut self) {
        self.session = Session::new(self.protocol, true);
        self.session.publish(self.published.clone());
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.published.snapshot.clone()
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now.instant += time;
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.instant
    }

    /// State of the world: the whole list of names, with the nonce of what is answered.
    pub(crate) fn name(&mut self, kind: ResourceType, names: &[&str], answers: Option<&Got>) {
        let request = DiscoveryRequest {
            resource_names: names.iter().map(ToString::to_string).collect(),
            version_info: answers.map(|got| got.version.clone()).unwrap_or_default(),
            response_nonce: answers.map(|got| got.nonce.clone()).unwrap_or_default(),
            ..Default::default()
        };
        self.session.sotw(kind, &request, self.now);
    }

    pub(crate) fn sotw(&mut self, kind: ResourceType, request: DiscoveryRequest) {
        self.session.sotw(kind, &request, self.now);
    }

    /// Incremental: names to add and to drop.
    pub(crate) fn change(&mut self, kind: ResourceType, add: &[&str], drop: &[&str]) {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: add.iter().map(ToString::to_string).collect(),
            resource_names_unsubscribe: drop.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        self.session.delta(kind, &request, self.now);
    }

    pub(crate) fn delta(&mut self, kind: ResourceType, request: DeltaDiscoveryRequest) {
        self.session.delta(kind, &request, self.now);
    }

    /// Everything that is due now.
    pub(crate) fn all(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        while let Some(sent) = self.session.next(self.now.instant) {
            all.push(self.got(sent));
        }
        all
    }

    /// The one response that is due now.
    pub(crate) fn one(&mut self) -> Got {
        let mut all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    pub(crate) fn silence(&mut self) {
        assert_eq!(self.all(), []);
    }

    /// Answers a response; `names` as in the last request.
    pub(crate) fn ack(&mut self, got: &Got, names: &[&str]) {
        match self.protocol {
            Protocol::Sotw => self.name(got.kind, names, Some(got)),
            Protocol::Delta => self.delta(
                got.kind,
                DeltaDiscoveryRequest { response_nonce: got.nonce.clone(), ..Default::default() },
            ),
        }
    }

    pub(crate) fn nack(&mut self, got: &Got, names: &[&str], text: &str) {
        let error_detail =
            Some(rpc::Status { code: 3, message: text.into(), ..Default::default() });
        let response_nonce = got.nonce.clone();
        match self.protocol {
            Protocol::Sotw => {
                let resource_names = names.iter().map(ToString::to_string).collect();
                let request = DiscoveryRequest {
                    resource_names,
                    response_nonce,
                    error_detail,
                    ..Default::default()
                };
                self.sotw(got.kind, request);
            }
            Protocol::Delta => {
                let request =
                    DeltaDiscoveryRequest { response_nonce, error_detail, ..Default::default() };
                self.delta(got.kind, request);
            }
        }
    }

    /// Asks for what it needs of each type, and ACKs all that comes until there is silence.
    pub(crate) fn settle(&mut self, wanted: &[(ResourceType, &[&str])]) {
        for (kind, names) in wanted {
            match self.protocol {
                Protocol::Sotw => self.name(*kind, names, None),
                Protocol::Delta => self.change(*kind, names, &[]),
            }
        }
        self.drain(wanted);
    }

    /// ACKs all that comes until there is silence. Returns what came.
    pub(crate) fn drain(&mut self, wanted: &[(ResourceType, &[&str])]) -> Vec<Got> {
        let mut came = Vec::new();
        loop {
            let all = self.all();
            if all.is_empty() {
                return came;
            }
            for got in all {
                let names = wanted.iter().find(|(kind, _)| *kind == got.kind);
                self.ack(&got, names.map(|(_, names)| *names).unwrap_or_default());
                came.push(got);
            }
        }
    }

    fn got(&self, sent: Response) -> Got {
        let resources: Vec<(String, Option<String>)> = sent
            .resources
            .each()
            .into_iter()
            .map(|bytes| match self.protocol {
                Protocol::Sotw => {
                    let any = Any::decode(bytes).unwrap();
                    let name = name_of(&any.value).unwrap();
                    let read = Resource::from_bytes(&any.type_url, &any.value).unwrap();
                    (name.to_string(), Some(read.version.to_string()))
                }
                Protocol::Delta => {
                    let wrapped = Wrapped::decode(bytes).unwrap();
                    (wrapped.name, wrapped.resource.map(|_| wrapped.version))
                }
            })
            .collect();
        let names: Vec<String> = resources.iter().map(|(name, _)| name.clone()).collect();
        let resources: BTreeMap<_, _> = resources.into_iter().collect();
        assert_eq!(names.len(), resources.len(), "a name occurs twice");
        Got {
            kind: sent.kind,
            nonce: sent.nonce,
            version: sent.version.to_string(),
            names,
            removed: sent.removed.iter().map(ToString::to_string).collect(),
            resources,
        }
    }
}

/// The types of what came, as people write them, `-` where something was removed.
pub(crate) fn order_of(came: &[Got]) -> Vec<String> {
    came.iter()
        .map(|got| {
            let removes = if got.removed.is_empty() { "" } else { "-" };
            format!("{}{removes}", got.kind.short_name())
        })
        .collect()
}
