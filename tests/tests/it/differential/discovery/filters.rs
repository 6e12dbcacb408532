//! Filters whose configuration comes by itself (ECDS).

use gateway_tests::client::Ask;
use serde_json::{Value, json};

use super::{By, Step, Story, T, World, host, source};

fn mutation() -> String {
    format!("{T}extensions.filters.http.header_mutation.v3.HeaderMutation")
}

/// A header mutation that adds a response header.
fn adds(value: &str) -> Value {
    json!({"@type": mutation(), "mutations": {"response_mutations": [
        {"append": {"header": {"key": "x-from", "value": value}}}]}})
}

/// The configuration of the filter of a story.
fn extension(world: &World, config: Value) -> Value {
    json!({"@type": format!("{T}config.core.v3.TypedExtensionConfig"), "name": filter_name(world), "typed_config": config})
}

fn filter_name(world: &World) -> String {
    format!("filter-{}", world.port)
}

/// A listener and its routes, with the filter; `more` is more of where its configuration is.
fn with_filter(world: &World, disabled: bool, more: &Value) -> Vec<Value> {
    let mut discovery = json!({"config_source": source("1s"), "type_urls": [mutation()]});
    for (key, value) in more.as_object().into_iter().flatten() {
        discovery[key] = value.clone();
    }
    let filter =
        json!({"name": filter_name(world), "disabled": disabled, "config_discovery": discovery});
    let hosts = json!({"virtual_hosts": [host("all", &["*"], "a")]});
    vec![world.listener(&[filter], &json!({})), world.routes(&hosts)]
}

/// What comes by itself, if anything, and what `GET /` answers.
fn step(more: Value, config: Option<Value>, (status, backend): (u16, &'static str)) -> Step {
    let resources = move |world: &World| {
        let mut all = with_filter(world, false, &more);
        all.extend(config.clone().map(|config| extension(world, config)));
        all
    };
    let asks = vec![(Ask::get("a.test", "/"), status, backend)];
    Step { resources: Box::new(resources), is_refused: false, asks }
}

pub(super) fn all() -> Vec<Story> {
    let plain = || json!({});
    let default = || json!({"default_config": adds("default")});
    let at_once =
        || json!({"default_config": adds("default"), "apply_default_config_without_warming": true});
    let cors = || json!({"@type": format!("{T}extensions.filters.http.cors.v3.Cors")});
    let refused = |step: Step| Step { is_refused: true, ..step };
    let story = |name, by, steps| Story { name, by, steps };
    vec![
        story(
            "the configuration of a filter comes and changes",
            By::Both,
            vec![
                step(plain(), Some(adds("1")), (200, "a")),
                step(plain(), Some(adds("2")), (200, "a")),
            ],
        ),
        story(
            "a filter without its configuration lets nothing pass",
            By::BothButEnvoy,
            vec![step(plain(), None, (500, "-")), step(plain(), Some(adds("1")), (200, "a"))],
        ),
        story(
            "a default stands in for what does not come",
            By::BothButEnvoy,
            vec![step(default(), None, (200, "a")), step(default(), Some(adds("1")), (200, "a"))],
        ),
        story(
            "a default may serve at once",
            By::Both,
            vec![step(at_once(), None, (200, "a")), step(at_once(), Some(adds("1")), (200, "a"))],
        ),
        story(
            "a configuration that is gone is gone",
            By::Delta,
            vec![
                step(plain(), Some(adds("1")), (200, "a")),
                step(plain(), None, (500, "-")),
                step(default(), None, (200, "a")),
            ],
        ),
        story(
            "a filter takes only what it is for",
            By::Both,
            vec![
                step(plain(), Some(adds("1")), (200, "a")),
                refused(step(plain(), Some(cors()), (200, "a"))),
                step(plain(), Some(adds("2")), (200, "a")),
            ],
        ),
        story(
            "a filter that is off needs no configuration",
            By::BothButEnvoy,
            vec![Step {
                resources: Box::new(|world| with_filter(world, true, &json!({}))),
                is_refused: false,
                asks: vec![(Ask::get("a.test", "/"), 200, "a")],
            }],
        ),
    ]
}
