//! What the nodes of each fleet have said, as statuses need it.

use std::collections::BTreeMap;

use xds_proto::resource::ResourceType;

use super::build::Built;
use crate::fleet::status::{NodeState, NodeStatus};
use crate::status::{FleetState, Nack, makers};

/// The state of each fleet, when its documents are those of `revision`.
pub fn fleets(
    nodes: &[NodeStatus],
    built: &Built,
    revision: u64,
    is_raw: impl Fn(&str) -> bool,
) -> BTreeMap<String, FleetState> {
    let mut fleets: BTreeMap<String, FleetState> = BTreeMap::new();
    for node in nodes {
        if node.state == NodeState::Lost || is_raw(&node.fleet) {
            continue;
        }
        let fleet = fleets.entry(node.fleet.to_string()).or_default();
        fleet.connected += 1;
        let has_it = node.revision.is_some_and(|served| served >= revision);
        if node.state == NodeState::Synced && has_it {
            fleet.acknowledged += 1;
        }
        if let Some(nack) = &node.nack {
            let refused = ResourceType::from_short_name(nack.r#type);
            let refusal = |resource| Nack {
                node: node.node.to_string(),
                text: nack.text.clone(),
                objects: makers(&built.translated.owners, refused, resource),
            };
            if nack.resources.is_empty() {
                fleet.nacks.push(refusal(None));
            }
            let named = nack.resources.iter().map(|name| refusal(Some(&**name)));
            fleet.nacks.extend(named);
        }
    }
    for held in &built.held {
        // What is held back counts as refused: it does not serve.
        fleets.entry(held.fleet.clone()).or_default().nacks.push(Nack {
            node: "control plane".into(),
            text: held.error.to_string(),
            objects: Some(held.owners.clone()).filter(|owners| !owners.is_empty()),
        });
    }
    fleets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::identity::NodeKind;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use crate::fleet::status::NackStatus;
    use crate::model::meta::Place;
    use crate::pipeline::translator::Translated;
    use crate::translate::draft::ObjectRef;

    fn node(name: &str, fleet: &str, state: NodeState, revision: u64) -> NodeStatus {
        NodeStatus {
            node: name.into(),
            kind: NodeKind::Weighlock,
            version: String::new(),
            fleet: fleet.into(),
            state,
            revision: Some(revision),
            lag_ms: None,
            connected_since: String::new(),
            lost_since: None,
            types: BTreeMap::new(),
            nack: None,
        }
    }

    #[test]
    fn a_node_acknowledged_when_it_serves_the_revision() {
        let nodes = [
            node("a", "x", NodeState::Synced, 4),
            node("b", "x", NodeState::Synced, 3),
            node("c", "x", NodeState::Lost, 4),
            node("d", "raw", NodeState::Synced, 4),
        ];
        let fleets = fleets(&nodes, &Built::default(), 4, |fleet| fleet == "raw");
        assert_eq!(fleets.len(), 1);
        assert_eq!((fleets["x"].connected, fleets["x"].acknowledged), (2, 1));
    }

    fn made_by(resource: &str, object: &str) -> ((ResourceType, Arc<str>), BTreeSet<ObjectRef>) {
        let made_by = ObjectRef::new("HTTPRoute", Place::new("default", object));
        ((ResourceType::Route, resource.into()), BTreeSet::from([made_by]))
    }

    #[test]
    fn each_refused_resource_is_told() {
        let mut refuser = node("a", "x", NodeState::Nack, 3);
        refuser.nack = Some(NackStatus {
            r#type: "RDS",
            resources: vec!["r".into(), "s".into()],
            text: "no".into(),
            since: String::new(),
            tries: 1,
        });
        let owners = BTreeMap::from([made_by("r", "one"), made_by("other", "two")]);
        let translated = Translated { owners, ..Translated::default() };
        let built = Built { translated: translated.into(), ..Built::default() };
        let nacks = fleets(&[refuser], &built, 4, |_| false).remove("x").unwrap().nacks;
        let told = nacks.iter().map(|nack| nack.objects.as_ref().map(|objects| objects.len()));
        // Nothing of ours made "s": all are told.
        assert_eq!(told.collect::<Vec<_>>(), [Some(1), None]);
    }
}
