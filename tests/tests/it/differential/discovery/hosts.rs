//! Virtual hosts that come by themselves, when a request asks for them (VHDS).

use gateway_tests::client::Ask;
use serde_json::{Value, json};

use super::{By, Step, Story, T, World, host, source};

fn get(host: &str) -> Ask {
    Ask::get(host, "/x")
}

fn on_demand() -> Value {
    json!({"name": "envoy.filters.http.on_demand", "typed_config": {
        "@type": format!("{T}extensions.filters.http.on_demand.v3.OnDemand")}})
}

/// A virtual host that comes by itself.
fn resource(world: &World, name: &str, domains: &[&str], cluster: &str) -> Value {
    let mut host = host(&format!("{}/{name}", world.table), domains, cluster);
    host["@type"] = format!("{T}config.route.v3.VirtualHost").into();
    host
}

fn table(world: &World, own: &[Value]) -> Value {
    world.routes(&json!({"virtual_hosts": own, "vhds": {"config_source": source("1s")}}))
}

type Hosts = &'static [(&'static str, &'static [&'static str], &'static str)];

fn step(hosts: Hosts, asks: Vec<(Ask, u16, &'static str)>) -> Step {
    let resources = move |world: &World| {
        let own = [host("own", &["own.test"], "a")];
        let mut all = vec![world.listener(&[on_demand()], &json!({})), table(world, &own)];
        all.extend(hosts.iter().map(|(name, domains, to)| resource(world, name, domains, to)));
        all
    };
    Step { resources: Box::new(resources), is_refused: false, asks }
}

pub(super) fn all() -> Vec<Story> {
    let with = |hosts, a: (u16, &'static str)| {
        step(
            hosts,
            vec![
                (get("od.test"), a.0, a.1),
                (get("OD.test"), a.0, a.1),
                (get("no.test"), 404, "-"),
                (get("own.test"), 200, "a"),
            ],
        )
    };
    let to_a: Hosts = &[("od.test", &["od.test"], "a")];
    let to_b: Hosts = &[("od.test", &["od.test"], "b")];
    vec![
        Story {
            name: "a virtual host comes, changes, goes and comes again",
            by: By::Delta,
            steps: vec![
                with(to_a, (200, "a")),
                with(to_b, (200, "b")),
                with(&[], (404, "-")),
                with(to_a, (200, "a")),
            ],
        },
        Story {
            name: "a host that was asked for in vain comes later",
            by: By::Delta,
            steps: vec![with(&[], (404, "-")), with(to_b, (200, "b"))],
        },
        Story {
            name: "a host has several domains, and those that a wildcard stands for",
            by: By::OurDelta,
            steps: vec![
                step(
                    &[("shop", &["one.test", "two.test"], "a"), ("rest", &["*.three.test"], "b")],
                    vec![
                        (get("two.test"), 200, "a"),
                        (get("one.test"), 200, "a"),
                        (get("x.three.test"), 200, "b"),
                        (get("y.three.test"), 200, "b"),
                        (get("three.test"), 404, "-"),
                    ],
                ),
                step(
                    &[("shop", &["two.test"], "b"), ("other", &["one.test"], "a")],
                    vec![
                        (get("two.test"), 200, "b"),
                        (get("one.test"), 200, "a"),
                        (get("x.three.test"), 404, "-"),
                    ],
                ),
            ],
        },
        Story {
            name: "without the filter nothing is asked for",
            by: By::Delta,
            steps: vec![Step {
                resources: Box::new(|world| {
                    let hosts = resource(world, "od.test", &["od.test"], "a");
                    vec![world.listener(&[], &json!({})), table(world, &[]), hosts]
                }),
                is_refused: false,
                asks: vec![(get("od.test"), 404, "-")],
            }],
        },
        Story {
            name: "what holds for all hosts holds for those that come by themselves",
            by: By::Delta,
            steps: vec![Step {
                resources: Box::new(|world| {
                    let mut table = table(world, &[]);
                    table["response_headers_to_add"] =
                        json!([{"header": {"key": "x-table", "value": "yes"}}]);
                    let hosts = resource(world, "od.test", &["od.test"], "a");
                    vec![world.listener(&[on_demand()], &json!({})), table, hosts]
                }),
                is_refused: false,
                asks: vec![(get("od.test"), 200, "a")],
            }],
        },
        Story {
            name: "a table that stops asking for hosts loses them",
            by: By::Delta,
            steps: vec![
                with(to_a, (200, "a")),
                Step {
                    resources: Box::new(|world| {
                        let own = [host("own", &["own.test"], "a")];
                        let table = world.routes(&json!({"virtual_hosts": own}));
                        vec![world.listener(&[on_demand()], &json!({})), table]
                    }),
                    is_refused: false,
                    asks: vec![(get("od.test"), 404, "-"), (get("own.test"), 200, "a")],
                },
            ],
        },
    ]
}
