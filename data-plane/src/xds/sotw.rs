//! The state-of-the-world variant of ADS, as pure steps.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xds_proto::envoy::service::discovery::v3 as discovery;
use xds_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use xds_proto::google::protobuf::Any;
use xds_proto::google::rpc::Status;
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

use crate::compile::Rejected;
use crate::xds::subscription::{Interest, Wanted, request_order};
use crate::xds::{
    INVALID_ARGUMENT, Incoming, Introduction, Protocol, Receipt, Start, Update, named,
    refuse_duplicates,
};

/// A resource in its envelope, which the client feature `xds.config.resource-in-sotw` announces.
const WRAPPED: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// What the server knows of one type, and what we know of its answers.
#[derive(Debug, Clone, Default)]
struct Asked {
    is_open: bool,
    interest: Interest,
    /// The version of the last accepted response; it outlives the stream.
    version: String,
    /// The nonce of the newest response.
    nonce: String,
    /// Responses that are not answered yet; a request between would look like their answer.
    unanswered: usize,
}

/// The state of one stream, and the versions that outlive it.
#[derive(Debug)]
pub struct Sotw {
    introduction: Introduction,
    types: [Asked; ResourceType::ALL.len()],
}

impl Sotw {
    /// A client that has no stream yet.
    pub fn new(introduction: Introduction) -> Self {
        Self { introduction, types: Default::default() }
    }

    fn request(&mut self, kind: ResourceType, wanted: &Wanted) -> DiscoveryRequest {
        let asked = &mut self.types[kind.index()];
        asked.is_open = true;
        asked.interest = wanted.of(kind).clone();
        DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            version_info: asked.version.clone(),
            response_nonce: asked.nonce.clone(),
            // No names ask for everything, where nothing was ever asked for by name.
            resource_names: asked.interest.names.iter().map(|name| name.to_string()).collect(),
            ..DiscoveryRequest::default()
        }
    }

    fn changes(&mut self, wanted: &Wanted) -> Vec<DiscoveryRequest> {
        request_order()
            .filter_map(|kind| {
                let asked = &self.types[kind.index()];
                let interest = wanted.of(kind);
                let is_due = if asked.is_open {
                    asked.interest != *interest && asked.unanswered == 0
                } else {
                    !interest.is_empty()
                };
                is_due.then(|| self.request(kind, wanted))
            })
            .collect()
    }

    fn introduce(&mut self, mut requests: Vec<DiscoveryRequest>) -> Vec<DiscoveryRequest> {
        for request in &mut requests {
            request.node = self.introduction.next();
        }
        requests
    }
}

impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn start(&mut self, start: Start) -> Vec<DiscoveryRequest> {
        self.introduction.begin_stream();
        for asked in &mut self.types {
            *asked = Asked { version: std::mem::take(&mut asked.version), ..Asked::default() };
        }
        self.follow(&start.wanted)
    }

    fn follow(&mut self, wanted: &Wanted) -> Vec<DiscoveryRequest> {
        let requests = self.changes(wanted);
        self.introduce(requests)
    }

    fn read(&mut self, response: DiscoveryResponse) -> Incoming {
        let receipt = Receipt {
            type_url: response.type_url,
            nonce: response.nonce,
            version: response.version_info,
        };
        let Some(kind) = ResourceType::from_type_url(&receipt.type_url) else {
            let reason = format!("{:?} is no resource type", receipt.type_url);
            return Incoming { receipt, update: Err(reason) };
        };
        let asked = &mut self.types[kind.index()];
        asked.nonce.clone_from(&receipt.nonce);
        asked.unanswered += 1;
        let (mut added, mut refused) = (Vec::new(), Vec::new());
        for (index, any) in response.resources.into_iter().enumerate() {
            match unwrap(index, kind, any) {
                Ok(Some(resource)) => added.push(resource),
                Ok(None) => {}
                Err(rejected) => refused.push(rejected),
            }
        }
        refuse_duplicates(&mut added, &mut refused);
        let is_complete = kind.is_complete_in_sotw();
        let (removed, bodiless, aliases) = Default::default();
        let update = Update { kind, added, removed, bodiless, aliases, is_complete, refused };
        Incoming { receipt, update: Ok(update) }
    }

    fn settle(
        &mut self,
        receipt: &Receipt,
        refusal: Option<&str>,
        wanted: &Wanted,
    ) -> Vec<DiscoveryRequest> {
        let mut answer = match ResourceType::from_type_url(&receipt.type_url) {
            Some(kind) => {
                let asked = &mut self.types[kind.index()];
                asked.unanswered = asked.unanswered.saturating_sub(1);
                if refusal.is_none() {
                    asked.version.clone_from(&receipt.version);
                }
                self.request(kind, wanted)
            }
            None => DiscoveryRequest { type_url: receipt.type_url.clone(), ..Default::default() },
        };
        answer.response_nonce.clone_from(&receipt.nonce);
        answer.error_detail = refusal.map(|message| Status {
            code: INVALID_ARGUMENT,
            message: message.to_owned(),
            details: Vec::new(),
        });
        let mut requests = vec![answer];
        requests.extend(self.changes(wanted));
        self.introduce(requests)
    }
}

/// One resource of a response, out of its envelope if it has one; none for a heartbeat.
fn unwrap(index: usize, kind: ResourceType, any: Any) -> Result<Option<Resource>, Rejected> {
    let any = if any.type_url == WRAPPED {
        let envelope = discovery::Resource::decode(&*any.value).unwrap_or_default();
        match envelope.resource {
            Some(any) => any,
            None => return Ok(None),
        }
    } else {
        any
    };
    let name: Arc<str> = named(index, kind, &any.type_url, &any.value)?;
    let body = Bytes::from(any.value);
    Ok(Some(Resource { kind, name, version: Version::of_bytes(&body), body }))
}

#[cfg(test)]
mod tests {
    use xds_proto::envoy::config::core::v3::Node;
    use xds_proto::envoy::config::listener::v3::Listener;

    use super::*;

    fn sotw() -> Sotw {
        Sotw::new(Introduction::new(Node { id: "n".into(), ..Node::default() }, false))
    }

    fn wanted(endpoints: &[&str]) -> Wanted {
        let mut wanted = Wanted::default();
        wanted.of_mut(ResourceType::Cluster).wildcard = true;
        wanted.of_mut(ResourceType::Listener).wildcard = true;
        let names = endpoints.iter().map(|name| Arc::from(*name));
        wanted.of_mut(ResourceType::Endpoints).names.extend(names);
        wanted
    }

    fn response(kind: ResourceType, version: &str, nonce: &str) -> DiscoveryResponse {
        DiscoveryResponse {
            type_url: kind.type_url().into(),
            version_info: version.into(),
            nonce: nonce.into(),
            ..DiscoveryResponse::default()
        }
    }

    #[test]
    fn a_nack_keeps_the_last_good_version() {
        let mut sotw = sotw();
        sotw.start(Start { wanted: wanted(&[]), ..Start::default() });
        let good = sotw.read(response(ResourceType::Cluster, "v1", "n1")).receipt;
        let answer = sotw.settle(&good, None, &wanted(&[]));
        assert_eq!((&*answer[0].version_info, &*answer[0].response_nonce), ("v1", "n1"));
        let bad = sotw.read(response(ResourceType::Cluster, "v2", "n2")).receipt;
        let answer = sotw.settle(&bad, Some("no"), &wanted(&[]));
        assert_eq!((&*answer[0].version_info, &*answer[0].response_nonce), ("v1", "n2"));
        assert_eq!(answer[0].error_detail.as_ref().unwrap().message, "no");
        let again = sotw.start(Start { wanted: wanted(&[]), ..Start::default() });
        assert_eq!((&*again[0].version_info, &*again[0].response_nonce), ("v1", ""));
        assert!(again.iter().all(|request| request.node.is_some()));
    }

    #[test]
    fn every_request_carries_the_whole_set_of_names() {
        let mut sotw = sotw();
        sotw.start(Start { wanted: wanted(&["a"]), ..Start::default() });
        let cds = sotw.read(response(ResourceType::Cluster, "v1", "n1")).receipt;
        let requests = sotw.settle(&cds, None, &wanted(&["a", "b"]));
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[1].resource_names, ["a", "b"]);
    }

    #[test]
    fn a_change_of_names_waits_for_the_answer_that_is_due() {
        let mut sotw = sotw();
        sotw.start(Start { wanted: wanted(&["a"]), ..Start::default() });
        let eds = sotw.read(response(ResourceType::Endpoints, "v1", "n1")).receipt;
        let cds = sotw.read(response(ResourceType::Cluster, "v1", "n2")).receipt;
        assert_eq!(sotw.settle(&cds, None, &wanted(&["a", "b"])).len(), 1);
        let requests = sotw.settle(&eds, None, &wanted(&["a", "b"]));
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].resource_names, ["a", "b"]);
    }

    #[test]
    fn a_resource_may_come_in_an_envelope() {
        let listener = Resource::pack(&Listener { name: "l".into(), ..Listener::default() });
        let envelope = discovery::Resource {
            resource: Some(listener.unwrap().to_any()),
            ..discovery::Resource::default()
        };
        let any = Any { type_url: WRAPPED.into(), value: envelope.encode_to_vec() };
        let mut message = response(ResourceType::Listener, "v1", "n1");
        message.resources.push(any);
        let update = sotw().read(message).update.unwrap();
        assert!(update.is_complete && &*update.added[0].name == "l");
    }
}
