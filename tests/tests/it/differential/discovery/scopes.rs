//! Several route tables, of which the headers of a request choose one (SRDS, and in the listener).

use gateway_tests::client::Ask;
use serde_json::{Value, json};

use super::{By, Step, Story, T, World, host, source};

fn table(world: &World, number: u32, cluster: &str) -> Value {
    json!({"@type": format!("{T}config.route.v3.RouteConfiguration"), "name": table_name(world, number),
        "virtual_hosts": [host("all", &["*"], cluster)]})
}

fn table_name(world: &World, number: u32) -> String {
    format!("{}-{number}", world.table)
}

fn key(parts: &[&str]) -> Value {
    let parts: Vec<Value> = parts.iter().map(|part| json!({"string_key": part})).collect();
    json!({"fragments": parts})
}

/// A scope that comes by itself.
fn scope(world: &World, name: &str, parts: &[&str], number: u32) -> Value {
    json!({"@type": format!("{T}config.route.v3.ScopedRouteConfiguration"), "name": format!("{name}-{}", world.port),
        "route_configuration_name": table_name(world, number), "key": key(parts)})
}

/// The `vip=` of `x-scope`, and the second part of `x-part`.
fn builder() -> Value {
    let header = |extractor: Value| json!({"header_value_extractor": extractor});
    json!({"fragments": [
        header(json!({"name": "x-scope", "element_separator": ";", "element": {"separator": "=", "key": "vip"}})),
        header(json!({"name": "x-part", "element_separator": ",", "index": 1})),
    ]})
}

fn by_srds(world: &World) -> Value {
    let scoped = json!({"name": "s", "scope_key_builder": builder(), "rds_config_source": source("1s"),
        "scoped_rds": {"scoped_rds_config_source": source("1s")}});
    world.listener(&[], &json!({"rds": null, "scoped_routes": scoped}))
}

fn ask(scope: &str, part: &str) -> Ask {
    Ask::get("a.test", "/").header("x-scope", scope).header("x-part", part)
}

type Scopes = &'static [(&'static str, &'static [&'static str], u32)];

fn step(scopes: Scopes, asks: Vec<(Ask, u16, &'static str)>) -> Step {
    let resources = move |world: &World| {
        let mut all = vec![by_srds(world), table(world, 1, "a"), table(world, 2, "b")];
        all.extend(scopes.iter().map(|(name, parts, number)| scope(world, name, parts, *number)));
        all
    };
    Step { resources: Box::new(resources), is_refused: false, asks }
}

pub(super) fn all() -> Vec<Story> {
    let first = || ask("x=0;vip=one", "0,p");
    let second = || ask("vip=two;vip=one", "0,p,1");
    vec![
        Story {
            name: "the headers of a request choose its routes",
            by: By::Both,
            steps: vec![
                step(
                    &[("x", &["one", "p"], 1), ("y", &["two", "p"], 2), ("z", &["", ""], 2)],
                    vec![
                        (first(), 200, "a"),
                        (second(), 200, "b"),
                        (ask("vip", "0,"), 200, "b"),
                        (ask("vip=three", "0,p"), 404, "-"),
                        (ask("vip=one", "p"), 404, "-"),
                        (ask("VIP=one", "0,p"), 404, "-"),
                        (first().header("x-scope", "vip=two"), 200, "a"),
                        (Ask::get("a.test", "/"), 404, "-"),
                    ],
                ),
                step(
                    &[("x", &["one", "p"], 2), ("y", &["three", "p"], 2)],
                    vec![
                        (first(), 200, "b"),
                        (second(), 404, "-"),
                        (ask("vip=three", "0,p"), 200, "b"),
                    ],
                ),
                step(&[("y", &["one", "p"], 1)], vec![(first(), 200, "a")]),
            ],
        },
        Story {
            name: "a key belongs to one scope",
            by: By::Both,
            steps: vec![
                step(&[("x", &["one", "p"], 1)], vec![(first(), 200, "a")]),
                Step {
                    is_refused: true,
                    ..step(
                        &[("x", &["one", "p"], 1), ("y", &["one", "p"], 2)],
                        vec![(first(), 200, "a")],
                    )
                },
            ],
        },
        Story {
            name: "scopes may stand in the listener",
            by: By::Both,
            steps: vec![Step {
                resources: Box::new(|world| {
                    let scope = |name: &str, parts: &[&str], cluster: &str| {
                        json!({"name": name, "key": key(parts), "route_configuration": {
                            "name": format!("{}-{name}", world.table), "virtual_hosts": [host("all", &["*"], cluster)]}})
                    };
                    let list = [scope("x", &["one", "p"], "a"), scope("y", &["two", "p"], "b")];
                    let scoped = json!({"name": "s", "scope_key_builder": builder(),
                        "scoped_route_configurations_list": {"scoped_route_configurations": list}});
                    vec![world.listener(&[], &json!({"rds": null, "scoped_routes": scoped}))]
                }),
                is_refused: false,
                asks: vec![
                    (first(), 200, "a"),
                    (second(), 200, "b"),
                    (ask("vip=three", "0,p"), 404, "-"),
                ],
            }],
        },
    ]
}
