//! What the bootstrap says of too much work: `overload_manager`.

use std::path::PathBuf;

use prost::{Message, Name};
use xds_proto::convert::optional_duration;
use xds_proto::envoy::config::overload::v3 as api;
use xds_proto::envoy::config::overload::v3::resource_monitor::ConfigType;
use xds_proto::envoy::config::overload::v3::trigger::TriggerOneof;
use xds_proto::envoy::extensions::resource_monitors as monitors;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::Any;

use crate::overload::plan::{Action, Limits, Monitor, Plan, REFRESH, Resource, Trigger};

/// What Envoy calls the limit of connections, which no trigger can name.
const CONNECTIONS: &str = "envoy.resource_monitors.global_downstream_max_connections";

/// Reads `overload_manager`; what it says of the number of connections goes to `limits`.
pub(super) fn compile(
    message: api::OverloadManager,
    limits: &mut Limits,
) -> Result<Plan, FieldError> {
    fields!(message: api::OverloadManager,
        read: [refresh_interval, resource_monitors, actions, loadshed_points],
        // Says how exactly Envoy counts what streams hold, for an action that is refused.
        ignore: [buffer_factory_config],
        refuse: [],
    );
    let refresh = optional_duration(refresh_interval.as_ref(), "refresh_interval")?;
    let refresh = refresh.filter(|refresh| !refresh.is_zero()).unwrap_or(REFRESH);
    let mut plan = Plan { refresh, ..Plan::default() };
    let watched = each(resource_monitors, "resource_monitors", |message| monitor(message, limits))?;
    plan.monitors = watched.into_iter().flatten().collect();
    each(actions, "actions", |message| {
        fields!(message: api::OverloadAction,
            read: [name, triggers],
            // Those that have a configuration are refused, or have nothing to do.
            ignore: [typed_config],
            refuse: [],
        );
        let name = required_text(name, "name")?;
        let action = match &*name {
            // The allocator gives back by itself what is free; nobody has to ask.
            "envoy.overload_actions.shrink_heap" => None,
            name => Some(action(name).ok_or_else(|| unsupported(name))?),
        };
        add(&mut plan, action, triggers)
    })?;
    each(loadshed_points, "loadshed_points", |message| {
        fields!(message: api::LoadShedPoint, read: [name, triggers], ignore: [], refuse: []);
        let name = required_text(name, "name")?;
        let action = match name.strip_prefix("envoy.load_shed_points.") {
            Some("tcp_listener_accept") => Action::RejectConnections,
            Some("http_connection_manager_decode_headers") => Action::StopRequests,
            _ => return Err(unsupported(&name)),
        };
        add(&mut plan, Some(action), triggers)
    })?;
    Ok(plan)
}

fn action(name: &str) -> Option<Action> {
    let known = name.strip_prefix("envoy.overload_actions.")?;
    Action::ALL.into_iter().find(|action| action.name() == known)
}

fn unsupported(name: &str) -> FieldError {
    FieldError::invalid(format!("{name:?} is not supported")).at("name")
}

fn add(
    plan: &mut Plan,
    action: Option<Action>,
    triggers: Vec<api::Trigger>,
) -> Result<(), FieldError> {
    if triggers.is_empty() {
        return Err(FieldError::required()).at("triggers");
    }
    for trigger in each(triggers, "triggers", |message| trigger(message, &plan.monitors))? {
        if let Some(action) = action {
            plan.react(action, trigger);
        }
    }
    Ok(())
}

fn trigger(message: api::Trigger, monitors: &[Monitor]) -> Result<Trigger, FieldError> {
    fields!(message: api::Trigger, read: [name, trigger_oneof], ignore: [], refuse: []);
    let name = required_text(name, "name")?;
    let monitor = monitors.iter().position(|monitor| *monitor.name == *name);
    let monitor = monitor
        .ok_or_else(|| FieldError::invalid(format!("{name:?} is none of resource_monitors")))
        .at("name")?;
    let (from, to) = match required(trigger_oneof, "threshold")? {
        TriggerOneof::Threshold(message) => {
            fields!(message: api::ThresholdTrigger, read: [value], ignore: [], refuse: []);
            (share(value, "value").at("threshold")?, value)
        }
        TriggerOneof::Scaled(message) => {
            fields!(message: api::ScaledTrigger,
                read: [scaling_threshold, saturation_threshold], ignore: [], refuse: []);
            let from = share(scaling_threshold, "scaling_threshold").at("scaled")?;
            let to = share(saturation_threshold, "saturation_threshold").at("scaled")?;
            if from >= to {
                let reason = "must be above scaling_threshold";
                return Err(FieldError::invalid(reason)).at("saturation_threshold").at("scaled");
            }
            (from, to)
        }
    };
    Ok(Trigger { monitor, from, to })
}

fn share(value: f64, field: &'static str) -> Result<f64, FieldError> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(FieldError::invalid("must be from 0 to 1")).at(field)
    }
}

/// None: a limit, which is noted as such.
fn monitor(
    message: api::ResourceMonitor,
    limits: &mut Limits,
) -> Result<Option<Monitor>, FieldError> {
    fields!(message: api::ResourceMonitor, read: [name, config_type], ignore: [], refuse: []);
    let name = required_text(name, "name")?;
    let ConfigType::TypedConfig(config) = required(config_type, "typed_config")?;
    let resource = resource(&name, &config, limits).at("typed_config")?;
    Ok(resource.map(|resource| Monitor { name: name.into(), resource }))
}

fn resource(name: &str, config: &Any, limits: &mut Limits) -> Result<Option<Resource>, FieldError> {
    use monitors::cgroup_memory::v3::CgroupMemoryConfig;
    use monitors::downstream_connections::v3::DownstreamConnectionsConfig;
    use monitors::fixed_heap::v3::FixedHeapConfig;
    use monitors::injected_resource::v3::InjectedResourceConfig;
    if config.type_url == FixedHeapConfig::type_url() {
        let message: FixedHeapConfig = unpack(config)?;
        fields!(message: FixedHeapConfig,
            read: [max_heap_size_bytes],
            ignore: [],
            refuse: [max_heap_size_bytes_runtime],
        );
        return match max_heap_size_bytes {
            0 => Err(FieldError::invalid("must be above 0")).at("max_heap_size_bytes"),
            bytes => Ok(Some(Resource::Own(bytes))),
        };
    }
    if config.type_url == CgroupMemoryConfig::type_url() {
        let message: CgroupMemoryConfig = unpack(config)?;
        fields!(message: CgroupMemoryConfig, read: [max_memory_bytes], ignore: [], refuse: []);
        return Ok(Some(Resource::Group((max_memory_bytes > 0).then_some(max_memory_bytes))));
    }
    if config.type_url == InjectedResourceConfig::type_url() {
        let message: InjectedResourceConfig = unpack(config)?;
        fields!(message: InjectedResourceConfig, read: [filename], ignore: [], refuse: []);
        let file = required_text(filename, "filename")?;
        return Ok(Some(Resource::File(PathBuf::from(file))));
    }
    if config.type_url == DownstreamConnectionsConfig::type_url() && name == CONNECTIONS {
        let message: DownstreamConnectionsConfig = unpack(config)?;
        fields!(message: DownstreamConnectionsConfig,
            read: [max_active_downstream_connections], ignore: [], refuse: []);
        limits.closes_beyond = u64::try_from(max_active_downstream_connections)
            .ok()
            .filter(|max| *max > 0)
            .ok_or_else(|| FieldError::invalid("must be above 0"))
            .at("max_active_downstream_connections")?;
        return Ok(None);
    }
    let kind = config.type_url.rsplit('/').next().unwrap_or_default();
    Err(FieldError::invalid(format!("unknown resource monitor {kind:?}"))).at("type_url")
}

fn unpack<M: Message + Default>(config: &Any) -> Result<M, FieldError> {
    M::decode(config.value.as_slice()).map_err(|error| FieldError::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(text: &str) -> Result<(Plan, Limits), String> {
        let mut limits = Limits::default();
        let plan = compile(from_yaml(text).unwrap(), &mut limits);
        plan.map(|plan| (plan, limits)).map_err(|error| error.to_string())
    }

    const HEAP: &str = r#"
resource_monitors:
- name: envoy.resource_monitors.fixed_heap
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
    max_heap_size_bytes: 1000
"#;

    #[test]
    fn the_manager_of_envoys_edge_example_is_read() {
        let text = format!(
            r#"
refresh_interval: 0.25s
{HEAP}
- name: envoy.resource_monitors.global_downstream_max_connections
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
    max_active_downstream_connections: 1000
actions:
- name: envoy.overload_actions.shrink_heap
  triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.95}}}}]
- name: envoy.overload_actions.stop_accepting_requests
  triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.98}}}}]
loadshed_points:
- name: envoy.load_shed_points.tcp_listener_accept
  triggers:
  - name: envoy.resource_monitors.fixed_heap
    scaled: {{scaling_threshold: 0.9, saturation_threshold: 1.0}}
"#
        );
        let (plan, limits) = compiled(&text).unwrap();
        assert_eq!(plan.refresh.as_millis(), 250);
        assert_eq!(limits.closes_beyond, 1000);
        assert_eq!(plan.monitors.len(), 1);
        let reactions: Vec<_> =
            plan.reactions.iter().map(|one| (one.action, &*one.triggers)).collect();
        assert_eq!(
            reactions,
            [
                (Action::StopRequests, &[Trigger { monitor: 0, from: 0.98, to: 0.98 }][..]),
                (Action::RejectConnections, &[Trigger { monitor: 0, from: 0.9, to: 1.0 }][..]),
            ]
        );
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let act = |action: &str, trigger: &str| {
            format!("{HEAP}\n{action}\n  triggers: [{{name: {trigger}}}]\n")
        };
        let heap = "envoy.resource_monitors.fixed_heap, threshold: {value: 0.5}";
        for (text, wanted) in [
            (
                act("actions:\n- name: envoy.overload_actions.reduce_timeouts", heap),
                "actions[0].name: \"envoy.overload_actions.reduce_timeouts\" is not supported",
            ),
            (
                act("actions:\n- name: envoy.overload_actions.reset_high_memory_stream", heap),
                "actions[0].name: \"envoy.overload_actions.reset_high_memory_stream\" is not supported",
            ),
            (
                act("loadshed_points:\n- name: envoy.load_shed_points.hcm_ondata_creating_codec", heap),
                "loadshed_points[0].name: \"envoy.load_shed_points.hcm_ondata_creating_codec\" is not supported",
            ),
            (
                act("actions:\n- name: envoy.overload_actions.stop_accepting_requests", "x, threshold: {value: 1}"),
                "actions[0].triggers[0].name: \"x\" is none of resource_monitors",
            ),
            (
                act(
                    "actions:\n- name: envoy.overload_actions.stop_accepting_requests",
                    "envoy.resource_monitors.fixed_heap, threshold: {value: 1.5}",
                ),
                "actions[0].triggers[0].threshold.value: must be from 0 to 1",
            ),
            (
                act(
                    "actions:\n- name: envoy.overload_actions.stop_accepting_requests",
                    "envoy.resource_monitors.fixed_heap, scaled: {scaling_threshold: 0.9, saturation_threshold: 0.8}",
                ),
                "actions[0].triggers[0].scaled.saturation_threshold: must be above scaling_threshold",
            ),
            (
                "actions: [{name: envoy.overload_actions.shrink_heap}]".to_owned(),
                "actions[0].triggers: required",
            ),
            (
                r#"resource_monitors: [{name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig}}]"#.to_owned(),
                "resource_monitors[0].typed_config.type_url: unknown resource monitor \"envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig\"",
            ),
        ] {
            assert_eq!(compiled(&text).unwrap_err(), wanted);
        }
    }
}
