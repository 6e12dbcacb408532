//! What statuses say as fleets answer.

use super::*;
use crate::model::meta::Place;

fn gateway(generation: i64) -> StatusDraft {
    StatusDraft {
        object: ObjectRef::new("Gateway", Place::new("default", "g")),
        generation,
        body: DraftBody::Gateway(GatewayDraft {
            addresses: Vec::new(),
            attached_sets: 0,
            listeners: ListenersDraft {
                fleet: "edge".into(),
                conditions: vec![Condition::holds("Accepted")],
                listeners: Vec::new(),
            },
        }),
    }
}

fn fleet(connected: usize, acknowledged: usize, nacks: Vec<Nack>) -> BTreeMap<String, FleetState> {
    let state = FleetState { connected, acknowledged, nacks, addresses: Vec::new() };
    BTreeMap::from([("edge".to_owned(), state)])
}

fn owners() -> Owners {
    let owner = |kind, name| BTreeSet::from([ObjectRef::new(kind, Place::new("default", name))]);
    BTreeMap::from([
        ((ResourceType::Listener, "edge/80".into()), owner("Gateway", "g")),
        ((ResourceType::Listener, "edge/81".into()), owner("Gateway", "h")),
    ])
}

fn write(
    draft: &StatusDraft,
    previous: Option<&Value>,
    fleets: &BTreeMap<String, FleetState>,
    now: &str,
) -> Option<Value> {
    complete(draft, previous, Circumstances { fleets, is_early: false, now })
}

/// Status, reason, message and time of the condition `Programmed`.
fn programmed(status: &Value) -> [&str; 4] {
    let entries = status["conditions"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["type"] == "Programmed").unwrap();
    ["status", "reason", "message", "lastTransitionTime"]
        .map(|field| entry[field].as_str().unwrap())
}

#[test]
fn programmed_follows_the_fleet() {
    let none = write(&gateway(1), None, &BTreeMap::new(), "t1").unwrap();
    assert_eq!(
        programmed(&none),
        ["False", "Pending", "no proxy of fleet edge is connected", "t1"]
    );
    let waiting = write(&gateway(1), Some(&none), &fleet(2, 1, Vec::new()), "t2").unwrap();
    assert_eq!(
        programmed(&waiting),
        ["False", "Pending", "not every proxy of fleet edge has acknowledged it", "t1"]
    );
    let done = write(&gateway(1), Some(&waiting), &fleet(2, 2, Vec::new()), "t3").unwrap();
    assert_eq!(programmed(&done), ["True", "Programmed", "", "t3"]);
}

#[test]
fn what_stays_the_same_is_not_written() {
    let done = write(&gateway(1), None, &fleet(1, 1, Vec::new()), "t1").unwrap();
    assert_eq!(write(&gateway(1), Some(&done), &fleet(1, 1, Vec::new()), "t2"), None);
    // Something else is on its way to the fleet.
    assert_eq!(write(&gateway(1), Some(&done), &fleet(1, 0, Vec::new()), "t2"), None);
    let changed = write(&gateway(2), Some(&done), &fleet(1, 0, Vec::new()), "t2").unwrap();
    assert_eq!(programmed(&changed)[0], "False");
    assert_eq!(changed["conditions"][0]["observedGeneration"], 2);
    assert_eq!(changed["conditions"][0]["lastTransitionTime"], "t1");
}

#[test]
fn a_restart_does_not_take_back_what_proxies_have_not_come_back_to_say() {
    let done = write(&gateway(1), None, &fleet(1, 1, Vec::new()), "t1").unwrap();
    let early = |draft: &StatusDraft| {
        let fleets = BTreeMap::new();
        complete(draft, Some(&done), Circumstances { fleets: &fleets, is_early: true, now: "t2" })
    };
    assert_eq!(early(&gateway(1)), None);
    assert_eq!(programmed(&early(&gateway(2)).unwrap())[1], "Pending");
    let late = write(&gateway(1), Some(&done), &BTreeMap::new(), "t3").unwrap();
    assert_eq!(programmed(&late)[1], "Pending");
}

#[test]
fn a_refusal_is_told_to_who_made_it() {
    let nack = |resource: &str| {
        vec![Nack {
            node: "p1".into(),
            text: "edge/80: address: in use".into(),
            objects: makers(&owners(), Some(ResourceType::Listener), Some(resource)),
        }]
    };
    let refused = write(&gateway(1), None, &fleet(2, 1, nack("edge/80")), "t1").unwrap();
    assert_eq!(
        programmed(&refused),
        ["False", "Invalid", "1 of 2 proxies refused it: edge/80: address: in use", "t1"]
    );
    let other = write(&gateway(1), None, &fleet(2, 2, nack("edge/81")), "t1").unwrap();
    assert_eq!(programmed(&other)[0], "True");
    let unknown = write(&gateway(1), None, &fleet(2, 1, nack("what")), "t1").unwrap();
    assert_eq!(programmed(&unknown)[1], "Invalid");
}

#[test]
fn entries_and_conditions_of_others_stay() {
    let parent_ref = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"});
    let draft = StatusDraft {
        object: ObjectRef::new("HTTPRoute", Place::new("default", "r")),
        generation: 3,
        body: DraftBody::Route(vec![ParentDraft {
            parent_ref: parent_ref.clone(),
            fleet: Some("edge".into()),
            conditions: vec![Condition::holds("Accepted")],
        }]),
    };
    let theirs =
        json!({"parentRef": {"name": "x"}, "controllerName": "a.example/c", "conditions": []});
    let foreign = json!({"type": "a.example/Seen", "status": "True"});
    let gone =
        json!({"parentRef": {"name": "gone"}, "controllerName": CONTROLLER, "conditions": []});
    let stale = json!({"type": "PartiallyInvalid", "status": "True"});
    let ours = json!({
        "parentRef": parent_ref, "controllerName": CONTROLLER, "conditions": [foreign, stale],
    });
    let previous = json!({"parents": [theirs, gone, ours]});
    let status = write(&draft, Some(&previous), &fleet(1, 1, Vec::new()), "t1").unwrap();
    assert_eq!(status["parents"].as_array().unwrap().len(), 2);
    assert_eq!(status["parents"][0], theirs);
    let conditions = status["parents"][1]["conditions"].as_array().unwrap();
    let types: Vec<_> = conditions.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["Accepted", "weighlock.dev/Programmed", "a.example/Seen"]);
}
