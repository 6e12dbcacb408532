//! What the nodes of each fleet have said, as statuses need it.

use std::collections::BTreeMap;

use xds_proto::resource::ResourceType;

use super::build::Held;
use crate::fleet::status::{NodeState, NodeStatus};
use crate::status::{FleetState, Nack};

/// The state of each fleet, when its documents are those of `revision`.
pub fn fleets(
    nodes: &[NodeStatus],
    held: &[Held],
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
            let refusal = |resource| Nack {
                node: node.node.to_string(),
                resource_type: ResourceType::from_short_name(nack.r#type),
                resource,
                text: nack.text.clone(),
            };
            if nack.resources.is_empty() {
                fleet.nacks.push(refusal(None));
            }
            let named = nack.resources.iter().map(|name| refusal(Some(name.to_string())));
            fleet.nacks.extend(named);
        }
    }
    for held in held {
        // What is held back counts as refused: it does not serve.
        fleets.entry(held.fleet.clone()).or_default().nacks.push(Nack {
            node: "control plane".into(),
            resource_type: Some(held.kind),
            resource: Some(held.name.to_string()),
            text: held.error.to_string(),
        });
    }
    fleets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::identity::NodeKind;
    use crate::fleet::status::NackStatus;

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
        let fleets = fleets(&nodes, &[], 4, |fleet| fleet == "raw");
        assert_eq!(fleets.len(), 1);
        assert_eq!((fleets["x"].connected, fleets["x"].acknowledged), (2, 1));
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
        let nacks = fleets(&[refuser], &[], 4, |_| false).remove("x").unwrap().nacks;
        let names: Vec<_> = nacks.iter().filter_map(|nack| nack.resource.as_deref()).collect();
        assert_eq!(names, ["r", "s"]);
        assert_eq!(nacks[0].resource_type, Some(ResourceType::Route));
    }
}
