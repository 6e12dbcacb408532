//! The incremental variant of ADS, as pure steps.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use xds_proto::envoy::service::discovery::v3 as discovery;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use xds_proto::field::{At, FieldError};
use xds_proto::google::rpc::Status;
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

use crate::compile::Rejected;
use crate::xds::subscription::{Interest, Wanted, request_order};
use crate::xds::{
    INVALID_ARGUMENT, Incoming, Introduction, Protocol, Receipt, Start, Update, named,
    refuse_duplicates,
};

/// What the server knows of one type on this stream.
#[derive(Debug, Clone, Default)]
struct Asked {
    is_open: bool,
    interest: Interest,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Delta {
    introduction: Introduction,
    types: [Asked; ResourceType::ALL.len()],
}

impl Delta {
    /// A client that has no stream yet.
    pub fn new(introduction: Introduction) -> Self {
        Self { introduction, types: Default::default() }
    }

    /// The request that tells the server what changed in what we want of this type.
    fn change(&mut self, kind: ResourceType, wanted: &Wanted) -> Option<DeltaDiscoveryRequest> {
        let asked = &mut self.types[kind.index()];
        let interest = wanted.of(kind);
        if (interest.is_empty() && !asked.is_open) || (asked.is_open && asked.interest == *interest)
        {
            return None;
        }
        let difference = |a: &BTreeSet<Arc<str>>, b: &BTreeSet<Arc<str>>| {
            a.difference(b).map(|name| name.to_string()).collect::<Vec<_>>()
        };
        let mut subscribe = difference(&interest.names, &asked.interest.names);
        let mut unsubscribe = difference(&asked.interest.names, &interest.names);
        // A first request without names is a wildcard in every version of the protocol.
        if interest.wildcard && !asked.interest.wildcard && (asked.is_open || !subscribe.is_empty())
        {
            subscribe.push("*".into());
        }
        if !interest.wildcard && asked.interest.wildcard {
            unsubscribe.push("*".into());
        }
        asked.interest = interest.clone();
        // What lies below a name is not asked for: the server has a say, if it wants.
        let is_mute = subscribe.is_empty() && unsubscribe.is_empty();
        if std::mem::replace(&mut asked.is_open, true) && is_mute {
            return None;
        }
        Some(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn introduce(
        &mut self,
        mut requests: Vec<DeltaDiscoveryRequest>,
    ) -> Vec<DeltaDiscoveryRequest> {
        for request in &mut requests {
            request.node = self.introduction.next();
        }
        requests
    }
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn start(&mut self, mut start: Start) -> Vec<DeltaDiscoveryRequest> {
        self.introduction.begin_stream();
        self.types = Default::default();
        let requests = request_order()
            .filter_map(|kind| {
                let mut request = self.change(kind, &start.wanted)?;
                request.initial_resource_versions =
                    std::mem::take(&mut start.versions[kind.index()]);
                Some(request)
            })
            .collect();
        self.introduce(requests)
    }

    fn read(&mut self, response: DeltaDiscoveryResponse) -> Incoming {
        let receipt = Receipt {
            type_url: response.type_url,
            nonce: response.nonce,
            version: response.system_version_info,
        };
        let Some(kind) = ResourceType::from_type_url(&receipt.type_url) else {
            let reason = format!("{:?} is no resource type", receipt.type_url);
            return Incoming { receipt, update: Err(reason) };
        };
        let (mut added, mut refused) = (Vec::new(), Vec::new());
        let (mut bodiless, mut aliases) = (Vec::new(), Vec::new());
        for (index, mut wrapped) in response.resources.into_iter().enumerate() {
            let other_names = std::mem::take(&mut wrapped.aliases).into_iter().map(Arc::from);
            let name = Arc::from(wrapped.name.as_str());
            match unwrap(index, kind, wrapped) {
                Ok(Some(resource)) => {
                    aliases.extend(other_names.map(|alias| (alias, Arc::clone(&resource.name))));
                    added.push(resource);
                }
                Ok(None) => bodiless.extend([name].into_iter().chain(other_names)),
                Err(rejected) => {
                    let own = Arc::clone(&rejected.name);
                    aliases.extend(other_names.map(|alias| (alias, Arc::clone(&own))));
                    refused.push(rejected);
                }
            }
        }
        refuse_duplicates(&mut added, &mut refused);
        let removed = response.removed_resources.into_iter().map(Arc::from).collect();
        let is_complete = false;
        let update = Update { kind, added, removed, bodiless, aliases, is_complete, refused };
        Incoming { receipt, update: Ok(update) }
    }

    fn settle(
        &mut self,
        receipt: &Receipt,
        refusal: Option<&str>,
        wanted: &Wanted,
    ) -> Vec<DeltaDiscoveryRequest> {
        let kind = ResourceType::from_type_url(&receipt.type_url);
        let change = kind.and_then(|kind| self.change(kind, wanted));
        let answer = DeltaDiscoveryRequest {
            type_url: receipt.type_url.clone(),
            response_nonce: receipt.nonce.clone(),
            error_detail: refusal.map(|message| Status {
                code: INVALID_ARGUMENT,
                message: message.to_owned(),
                details: Vec::new(),
            }),
            initial_resource_versions: HashMap::new(),
            ..change.unwrap_or_default()
        };
        let mut requests = vec![answer];
        requests.extend(request_order().filter_map(|kind| self.change(kind, wanted)));
        self.introduce(requests)
    }

    fn follow(&mut self, wanted: &Wanted) -> Vec<DeltaDiscoveryRequest> {
        let requests = request_order().filter_map(|kind| self.change(kind, wanted)).collect();
        self.introduce(requests)
    }
}

/// One resource of a response; none for a heartbeat.
fn unwrap(
    index: usize,
    kind: ResourceType,
    wrapped: discovery::Resource,
) -> Result<Option<Resource>, Rejected> {
    let Some(any) = wrapped.resource else { return Ok(None) };
    let inner = named(index, kind, &any.type_url, &any.value)
        .map_err(|rejected| Rejected { name: wrapped.name.as_str().into(), ..rejected })?;
    let refuse = |error: FieldError| Rejected {
        name: inner.clone(),
        error: error.at_index(index).at("resources"),
    };
    // A virtual host is called what it likes, inside; its resource is called after its table.
    let is_free = kind == ResourceType::VirtualHost && !wrapped.name.is_empty();
    if !wrapped.name.is_empty() && *wrapped.name != *inner && !is_free {
        let reason = format!("{:?} is called {inner:?} inside", wrapped.name);
        return Err(refuse(FieldError::invalid(reason)));
    }
    if wrapped.version.is_empty() {
        return Err(refuse(FieldError::required().at("version")));
    }
    let version = Version::foreign(&wrapped.version);
    let name = if is_free { wrapped.name.into() } else { inner };
    Ok(Some(Resource { kind, name, version, body: Bytes::from(any.value) }))
}

#[cfg(test)]
mod tests {
    use xds_proto::envoy::config::cluster::v3::Cluster;
    use xds_proto::envoy::config::core::v3::Node;

    use super::*;

    fn delta() -> Delta {
        let node = Node { id: "n".into(), ..Node::default() };
        Delta::new(Introduction::new(node, true))
    }

    #[test]
    fn virtual_hosts_are_asked_for_one_by_one_and_nothing_is_asked_first() {
        let mut delta = delta();
        let mut wanted = Wanted::default();
        wanted.of_mut(ResourceType::VirtualHost).below.insert("r".into());
        let requests = delta.follow(&wanted);
        assert_eq!(short(&requests), ["VHDS"]);
        assert!(requests[0].resource_names_subscribe.is_empty());
        wanted.of_mut(ResourceType::VirtualHost).below.insert("q".into());
        assert!(delta.follow(&wanted).is_empty(), "there is nothing to say");
        wanted.of_mut(ResourceType::VirtualHost).names.insert("r/a.test".into());
        assert_eq!(delta.follow(&wanted)[0].resource_names_subscribe, ["r/a.test"]);
        wanted.of_mut(ResourceType::VirtualHost).names.clear();
        assert_eq!(delta.follow(&wanted)[0].resource_names_unsubscribe, ["r/a.test"]);
    }

    #[test]
    fn a_virtual_host_has_the_name_of_its_resource_and_others_that_lead_to_it() {
        use xds_proto::envoy::config::route::v3::VirtualHost;
        let message = VirtualHost { name: "shop".into(), ..VirtualHost::default() };
        let resource = discovery::Resource {
            name: "r/shop".into(),
            version: "1".into(),
            aliases: vec!["r/a.test".into(), "r/b.test".into()],
            resource: Some(Resource::pack(&message).unwrap().to_any()),
            ..discovery::Resource::default()
        };
        let absent = discovery::Resource {
            name: "r/c.test".into(),
            aliases: vec!["r/c.test".into()],
            ..discovery::Resource::default()
        };
        let response = response(ResourceType::VirtualHost, vec![resource, absent]);
        let update = delta().read(response).update.unwrap();
        assert_eq!(&*update.added[0].name, "r/shop");
        let aliases: Vec<_> = update.aliases.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(aliases, [("r/a.test", "r/shop"), ("r/b.test", "r/shop")]);
        assert_eq!(update.bodiless, ["r/c.test".into(), "r/c.test".into()]);
    }

    fn wanted(endpoints: &[&str]) -> Wanted {
        let mut wanted = Wanted::default();
        wanted.of_mut(ResourceType::Cluster).wildcard = true;
        wanted.of_mut(ResourceType::Listener).wildcard = true;
        wanted
            .of_mut(ResourceType::Endpoints)
            .names
            .extend(endpoints.iter().map(|name| Arc::from(*name)));
        wanted
    }

    fn short(requests: &[DeltaDiscoveryRequest]) -> Vec<&str> {
        requests
            .iter()
            .map(|r| ResourceType::from_type_url(&r.type_url).unwrap().short_name())
            .collect()
    }

    fn response(kind: ResourceType, resources: Vec<discovery::Resource>) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            nonce: "n1".into(),
            resources,
            ..DeltaDiscoveryResponse::default()
        }
    }

    fn cluster(name: &str) -> discovery::Resource {
        let message = Cluster { name: name.into(), ..Cluster::default() };
        discovery::Resource {
            name: name.into(),
            version: "1".into(),
            resource: Some(Resource::pack(&message).unwrap().to_any()),
            ..discovery::Resource::default()
        }
    }

    #[test]
    fn a_stream_starts_with_what_is_known_in_the_order_of_use() {
        let mut delta = delta();
        let mut start = Start { wanted: wanted(&["e"]), ..Start::default() };
        start.versions[ResourceType::Endpoints.index()].insert("e".into(), "7".into());
        let requests = delta.start(start);
        assert_eq!(short(&requests), ["CDS", "EDS", "LDS"]);
        assert!(requests[0].resource_names_subscribe.is_empty() && requests[0].node.is_some());
        assert_eq!(requests[1].initial_resource_versions["e"], "7");
        assert!(requests[1].node.is_none(), "the node stands in the first request only");
    }

    #[test]
    fn an_answer_comes_first_and_changes_follow() {
        let mut delta = delta();
        delta.start(Start { wanted: wanted(&[]), ..Start::default() });
        let incoming = delta.read(response(ResourceType::Cluster, vec![cluster("a")]));
        let requests = delta.settle(&incoming.receipt, None, &wanted(&["a"]));
        assert_eq!(short(&requests), ["CDS", "EDS"]);
        assert_eq!((&*requests[0].response_nonce, &requests[0].error_detail), ("n1", &None));
        assert_eq!(requests[1].resource_names_subscribe, ["a"]);
        assert!(requests[1].response_nonce.is_empty());
        let requests = delta.settle(&incoming.receipt, Some("no"), &wanted(&[]));
        assert_eq!(requests[0].error_detail.as_ref().unwrap().message, "no");
        assert_eq!(requests[1].resource_names_unsubscribe, ["a"]);
    }

    #[test]
    fn bad_resources_are_refused_alone() {
        let mut nameless = cluster("b");
        nameless.resource.as_mut().unwrap().value.clear();
        let mut other = cluster("c");
        other.resource.as_mut().unwrap().type_url = "type.googleapis.com/x".into();
        let mut renamed = cluster("d");
        renamed.name = "e".into();
        let heartbeat = discovery::Resource { resource: None, ..cluster("f") };
        let resources = vec![cluster("a"), cluster("a"), nameless, other, renamed, heartbeat];
        let update = delta().read(response(ResourceType::Cluster, resources)).update.unwrap();
        assert_eq!(update.added.len(), 1);
        assert_eq!(
            crate::xds::nack_text(&update.refused),
            "b: resources[2]: name: required; \
             c: resources[3]: is \"type.googleapis.com/x\", \
             not type.googleapis.com/envoy.config.cluster.v3.Cluster; \
             d: resources[4]: \"e\" is called \"d\" inside; \
             a: stands twice in the response"
        );
    }

    #[test]
    fn an_unknown_type_is_refused_whole() {
        let response = DeltaDiscoveryResponse { type_url: "x".into(), ..Default::default() };
        let incoming = delta().read(response);
        assert_eq!(incoming.update.unwrap_err(), "\"x\" is no resource type");
    }
}
