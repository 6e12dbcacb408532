//! Which configurations of filters a real Envoy takes, and our proxy.

use std::time::Duration;

use anyhow::{bail, ensure};
use gateway_tests::gateway::{ControlPlane, Envoy, Proxy, folder};
use gateway_tests::{client, documents, ports, tools, wait};
use serde_json::{Value, json};
use tokio::time::timeout;

const TEST: &str = "configurations_of_filters_are_judged_as_by_envoy";

/// A filter of a chain.
fn filter(kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{kind}").into();
    json!({"name": "f", "typed_config": config})
}

/// What a route says of it.
fn said(kind: &str, config: Value) -> Value {
    filter(kind, config)["typed_config"].take()
}

/// What a route says of it, wrapped.
fn wrapped(mut config: Value) -> Value {
    config["@type"] = "type.googleapis.com/envoy.config.route.v3.FilterConfig".into();
    config
}

/// Name, filter, what a route says, and whether it is good.
type Configuration = (&'static str, Value, Value, bool);

fn chains() -> Vec<Configuration> {
    let health = |least: f64| {
        let least = json!({"a": {"value": least}});
        filter(
            "health_check.v3.HealthCheck",
            json!({"pass_through_mode": false, "cluster_min_healthy_percentages": least}),
        )
    };
    let optional = |mut filter: Value| {
        filter["is_optional"] = true.into();
        filter
    };
    let unknown = json!({"name": "f", "typed_config": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}});
    let cors = || filter("cors.v3.Cors", json!({}));
    vec![
        ("nothing wrong", cors(), Value::Null, true),
        ("per cent above 100", health(101.0), Value::Null, false),
        ("100 per cent", health(100.0), Value::Null, true),
        ("an unknown filter", unknown.clone(), Value::Null, false),
        ("an unknown filter that is optional", optional(unknown), Value::Null, true),
        (
            "a fault without a kind",
            filter("fault.v3.HTTPFault", json!({"abort": {}})),
            Value::Null,
            false,
        ),
        ("an empty fault", filter("fault.v3.HTTPFault", json!({})), Value::Null, true),
        ("a buffer without a limit", filter("buffer.v3.Buffer", json!({})), Value::Null, false),
        ("csrf without a share", filter("csrf.v3.CsrfPolicy", json!({})), Value::Null, false),
        (
            "a limit without tokens in the chain",
            filter("local_ratelimit.v3.LocalRateLimit", json!({"stat_prefix": "x"})),
            Value::Null,
            true,
        ),
        (
            "a limit without a name",
            filter("local_ratelimit.v3.LocalRateLimit", json!({})),
            Value::Null,
            false,
        ),
        (
            "a limit that fills too fast",
            filter(
                "local_ratelimit.v3.LocalRateLimit",
                json!({"stat_prefix": "x", "token_bucket": {"max_tokens": 1, "fill_interval": "0.049s"}}),
            ),
            Value::Null,
            false,
        ),
        (
            "a limit of no token",
            filter(
                "local_ratelimit.v3.LocalRateLimit",
                json!({"stat_prefix": "x", "token_bucket": {"max_tokens": 0, "fill_interval": "1s"}}),
            ),
            Value::Null,
            true,
        ),
        (
            "a limit with rules of a stage",
            filter(
                "local_ratelimit.v3.LocalRateLimit",
                json!({"stat_prefix": "x", "token_bucket": {"max_tokens": 1, "fill_interval": "1s"},
                "rate_limits": [{"stage": 1, "actions": [{"generic_key": {"descriptor_value": "v"}}]}]}),
            ),
            Value::Null,
            false,
        ),
        (
            "a limit with a descriptor that is there twice",
            filter(
                "local_ratelimit.v3.LocalRateLimit",
                json!({"stat_prefix": "x", "token_bucket": {"max_tokens": 1, "fill_interval": "1s"},
                "descriptors": [{"entries": [{"key": "a", "value": "b"}], "token_bucket": {"max_tokens": 1, "fill_interval": "1s"}}, {"entries": [{"key": "a", "value": "b"}], "token_bucket": {"max_tokens": 1, "fill_interval": "1s"}}]}),
            ),
            Value::Null,
            false,
        ),
        (
            "a limit that adds no token",
            filter(
                "local_ratelimit.v3.LocalRateLimit",
                json!({"stat_prefix": "x", "token_bucket": {"max_tokens": 1, "tokens_per_fill": 0, "fill_interval": "1s"}}),
            ),
            Value::Null,
            false,
        ),
        (
            "sessions without a state",
            filter("stateful_session.v3.StatefulSession", json!({})),
            Value::Null,
            true,
        ),
        ("rbac without rules", filter("rbac.v3.RBAC", json!({})), Value::Null, true),
    ]
}

fn routes() -> Vec<Configuration> {
    let duration = json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"});
    let fault = || filter("fault.v3.HTTPFault", json!({}));
    let abort = json!({"abort": {"http_status": 503}});
    let buffer = || filter("buffer.v3.Buffer", json!({"max_request_bytes": 1}));
    let web = || filter("grpc_web.v3.GrpcWeb", json!({}));
    let web_route = || said("grpc_web.v3.GrpcWeb", json!({}));
    vec![
        ("a route's own", fault(), said("fault.v3.HTTPFault", abort.clone()), true),
        ("a route of another filter", fault(), said("cors.v3.CorsPolicy", json!({})), true),
        ("a route's unknown message", fault(), duration.clone(), false),
        (
            "a route's unknown message, wrapped",
            fault(),
            wrapped(json!({"config": duration})),
            false,
        ),
        (
            "a route's unknown message, wrapped and optional",
            fault(),
            wrapped(json!({"config": duration, "is_optional": true})),
            true,
        ),
        ("wrapped", fault(), wrapped(json!({"config": said("fault.v3.HTTPFault", abort)})), true),
        ("wrapped nothing", fault(), wrapped(json!({})), false),
        ("turned off", fault(), wrapped(json!({"disabled": true})), true),
        (
            "turned off, with a config",
            fault(),
            wrapped(json!({"disabled": true, "config": said("fault.v3.HTTPFault", json!({}))})),
            true,
        ),
        (
            "turned off, with a wrong config",
            fault(),
            wrapped(
                json!({"disabled": true, "config": said("fault.v3.HTTPFault", json!({"abort": {}}))}),
            ),
            true,
        ),
        (
            "the message of the route",
            buffer(),
            said("buffer.v3.BufferPerRoute", json!({"disabled": true})),
            true,
        ),
        ("neither", buffer(), said("buffer.v3.BufferPerRoute", json!({})), false),
        (
            "disabled: false",
            buffer(),
            said("buffer.v3.BufferPerRoute", json!({"disabled": false})),
            false,
        ),
        ("a filter without a message for routes", web(), web_route(), false),
        (
            "a filter without a message for routes, optional",
            web(),
            wrapped(json!({"is_optional": true, "config": web_route()})),
            true,
        ),
        (
            "a filter without a message for routes, turned off",
            web(),
            wrapped(json!({"disabled": true})),
            true,
        ),
        (
            "a limit without tokens",
            fault(),
            said("local_ratelimit.v3.LocalRateLimit", json!({"stat_prefix": "x"})),
            false,
        ),
        ("an rbac route without rules", fault(), said("rbac.v3.RBACPerRoute", json!({})), true),
        (
            "an authorization route without a kind",
            fault(),
            said("ext_authz.v3.ExtAuthzPerRoute", json!({})),
            false,
        ),
        (
            "a session route without a kind",
            fault(),
            said("stateful_session.v3.StatefulSessionPerRoute", json!({})),
            false,
        ),
        (
            "a compressor route without a kind",
            fault(),
            said("compressor.v3.CompressorPerRoute", json!({})),
            false,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_of_filters_are_judged_as_by_envoy() {
    if tools::offline(TEST) {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    for node in ["envoy", "ours"] {
        control.put_group(node, &[]).await;
    }
    let _envoy = Envoy::start(control.xds, "envoy", "x", "DELTA_GRPC").await;
    let _ours = Proxy::start(control.xds, "ours", "x").await;
    let mut wrong = Vec::new();
    for (name, filter, route, is_good) in chains().into_iter().chain(routes()) {
        for node in ["envoy", "ours"] {
            let judged = judge(&control, node, &filter, &route).await;
            if judged.is_ok() != is_good {
                wrong.push(format!("{name}: {node} says {judged:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a node says of a configuration.
async fn judge(
    control: &ControlPlane,
    node: &str,
    filter: &Value,
    route: &Value,
) -> Result<(), String> {
    let mut one = json!({"match": {"prefix": "/"}, "direct_response": {"status": 204}});
    if !route.is_null() {
        one["typed_per_filter_config"] = json!({"f": route});
    }
    let port = ports::free();
    // A name of their own: a listener that drains may still hold those of the case before.
    let table = format!("r-{port}");
    let listener = documents::raw_listener("l", port, &table, std::slice::from_ref(filter));
    control.put_group(node, &[listener, documents::raw_routes(&table, &json!([one]))]).await;
    let (what, limit) = (format!("{node} to say what it thinks"), Duration::from_secs(10));
    let verdict = wait::until(&what, limit, || async {
        let status = control.node(node).await?;
        match status["state"].as_str() {
            Some("NACK") => Ok(Err(status["nack"].to_string())),
            // The routes come after the listener. While they are not there, it lets clients wait; where
            // they were refused, it may answer too.
            Some("synced") => {
                let asked = client::get(([127, 0, 0, 1], port).into(), "h.test", "/");
                let answer = timeout(Duration::from_secs(1), asked).await??;
                ensure!(answer.status != 404, "no routes yet");
                Ok(Ok(()))
            }
            _ => bail!("{status}"),
        }
    });
    let verdict = verdict.await;
    let revision = control.put_group(node, &[]).await;
    control.node_has(node, revision).await;
    verdict
}
