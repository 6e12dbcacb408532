//! rbac.

use http::Method;
use serde_json::{Value, json};

use super::{case, filter, get, plain, post, route, typed};
use crate::differential::Case;

pub(super) fn all() -> Vec<Case> {
    let mut all = policies();
    all.extend(trees());
    all
}

fn policies() -> Vec<Case> {
    let any = json!([{"any": true}]);
    let rules = |action: &str, permission: Value, principal: Value| json!({"rules": {"action": action, "policies": {"p": {"permissions": [permission], "principals": [principal]}}}});
    let rbac = |rules: Value| json!({"r": typed("rbac.v3.RBACPerRoute", json!({"rbac": rules}))});
    let header = |name: &str, value: &str| json!({"header": {"name": name, "string_match": {"exact": value}}});
    let any_one = || json!({"any": true});
    vec![case(
        "rbac",
        &[filter(
            "r",
            "rbac.v3.RBAC",
            json!({"rules": {"action": "ALLOW", "policies": {
            "readers": {"permissions": [{"and_rules": {"rules": [header(":method", "GET"), {"url_path": {"path": {"prefix": "/r"}}}]}}], "principals": any},
            "admins": {"permissions": any, "principals": [header("x-role", "admin")]},
            "local": {"permissions": [{"url_path": {"path": {"exact": "/local"}}}], "principals": [{"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}]}}}}),
        )],
        json!([
            route(
                "/deny",
                rbac(rules("DENY", json!({"not_rule": {"destination_port": 1}}), any_one()))
            ),
            route("/port", rbac(rules("DENY", json!({"destination_port": 1}), any_one()))),
            route(
                "/sni",
                rbac(rules("ALLOW", json!({"requested_server_name": {"exact": "x"}}), any_one()))
            ),
            route("/tls", rbac(rules("ALLOW", any_one(), json!({"authenticated": {}})))),
            route(
                "/remote",
                rbac(rules(
                    "ALLOW",
                    any_one(),
                    json!({"remote_ip": {"address_prefix": "9.9.9.9", "prefix_len": 32}})
                ))
            ),
            route("/log", rbac(rules("LOG", any_one(), any_one()))),
            route("/empty", rbac(json!({"rules": {"policies": {}}}))),
            route("/off", json!({"r": typed("rbac.v3.RBACPerRoute", json!({}))})),
            plain("/")
        ]),
        vec![
            get("/r?x"),
            post("/r", ""),
            get("/w"),
            get("/w").header("x-role", "admin"),
            get("/w").header("x-role", "user"),
            get("/w").header("content-type", "application/grpc"),
            get("/local"),
            get("/local?x=y"),
            get("/deny"),
            get("/port"),
            get("/sni"),
            get("/tls"),
            get("/remote"),
            get("/remote").header("x-forwarded-for", "9.9.9.9"),
            get("/log"),
            get("/empty"),
            get("/off"),
        ],
    )]
}

fn trees() -> Vec<Case> {
    let any = || json!({"any": true});
    let header = |name: &str, value: &str| json!({"header": {"name": name, "string_match": {"exact": value}}});
    let rules = |action: &str, permission: Value, principal: Value| json!({"action": action, "policies": {"a policy": {"permissions": [permission], "principals": [principal]}}});
    let typed_input = |kind: &str, config: Value| {
        let mut config = config;
        config["@type"] = format!("type.googleapis.com/envoy.{kind}").into();
        json!({"name": "x", "typed_config": config})
    };
    let network = |name: &str| {
        typed_input(&format!("extensions.matching.common_inputs.network.v3.{name}"), json!({}))
    };
    let by_header = |name: &str| {
        typed_input("type.matcher.v3.HttpRequestHeaderMatchInput", json!({"header_name": name}))
    };
    let action = |name: &str, action: &str| json!({"action": typed_input("config.rbac.v3.Action", json!({"name": name, "action": action}))});
    let exact = |input: Value, value: &str| json!({"single_predicate": {"input": input, "value_match": {"exact": value}}});
    let list = |matchers: Value, otherwise: Value| {
        let mut tree = json!({"matcher_list": {"matchers": matchers}});
        if !otherwise.is_null() {
            tree["on_no_match"] = otherwise;
        }
        tree
    };
    let when = |predicate: Value, then: Value| json!({"predicate": predicate, "on_match": then});
    let ip = |range: &str, bits: u32| {
        json!({"single_predicate": {"input": network("SourceIPInput"), "custom_match": typed_input(
        "extensions.matching.input_matchers.ip.v3.Ip", json!({"stat_prefix": "x", "cidr_ranges": [{"address_prefix": range, "prefix_len": bits}]}))}})
    };
    let per_route =
        |config: Value| json!({"r": typed("rbac.v3.RBACPerRoute", json!({"rbac": config}))});
    let tree = |tree: Value| per_route(json!({"matcher": tree}));
    let admins = when(exact(by_header("x-role"), "admin"), action("admins", "ALLOW"));
    let everyone_else = action("others", "DENY");
    let map = |kind: &str| {
        let nested = list(
            json!([when(exact(by_header("x-role"), "ops"), action("ops", "ALLOW"))]),
            Value::Null,
        );
        json!({"matcher_tree": {"input": by_header("x-path"), kind: {"map": {
            "/p": action("short", "ALLOW"), "/p/q": {"matcher": nested}}}}})
    };
    let not_empty = json!({"not_matcher": exact(by_header("x-role"), "admin")});
    let both = json!({"and_matcher": {"predicate": [exact(by_header("x-role"), "admin"), exact(by_header("x-key"), "1")]}});
    let either = json!({"or_matcher": {"predicate": [exact(by_header("x-role"), "admin"), exact(by_header("x-key"), "1")]}});
    let says = |key: &str| {
        super::says(
            &format!("x-{}", key.replace('_', "-")),
            &format!("%DYNAMIC_METADATA(envoy.filters.http.rbac:{key})%"),
        )
    };
    let mut filters: Vec<Value> = [
        "enforced_engine_result",
        "enforced_effective_policy_id",
        "shadow_engine_result",
        "shadow_effective_policy_id",
        "s_shadow_engine_result",
        "e_enforced_engine_result",
    ]
    .iter()
    .map(|key| says(key))
    .collect();
    filters.push(super::says("x-hint", "%DYNAMIC_METADATA(envoy.common:access_log_hint)%"));
    filters.push(filter(
        "r",
        "rbac.v3.RBAC",
        json!({"rules": rules("ALLOW", any(), header("x-role", "admin"))}),
    ));
    let role = |path: &str, role: &str| get(path).header("x-role", role);
    vec![case(
        "rbac by trees, and what is noted",
        &filters,
        json!([
            route("/list", tree(list(json!([admins.clone()]), Value::Null))),
            route("/else", tree(list(json!([admins.clone()]), everyone_else.clone()))),
            route(
                "/log",
                tree(list(
                    json!([
                        when(exact(by_header("x-role"), "log"), action("logged", "LOG")),
                        admins.clone()
                    ]),
                    Value::Null
                ))
            ),
            route("/none", tree(json!({}))),
            route("/all", tree(json!({"on_no_match": action("all", "ALLOW")}))),
            route("/prefix", tree(map("prefix_match_map"))),
            route("/exact", tree(map("exact_match_map"))),
            route(
                "/not",
                tree(list(json!([when(not_empty, action("no admin", "ALLOW"))]), Value::Null))
            ),
            route("/both", tree(list(json!([when(both, action("both", "ALLOW"))]), Value::Null))),
            route(
                "/either",
                tree(list(json!([when(either, action("either", "ALLOW"))]), Value::Null))
            ),
            route(
                "/ip",
                tree(list(
                    json!([when(ip("127.0.0.0", 8), action("local", "ALLOW"))]),
                    Value::Null
                ))
            ),
            route(
                "/far",
                tree(list(json!([when(ip("9.0.0.0", 8), action("far", "ALLOW"))]), Value::Null))
            ),
            route(
                "/dest",
                tree(list(
                    json!([when(
                        exact(network("DestinationIPInput"), "127.0.0.1"),
                        action("here", "ALLOW")
                    )]),
                    Value::Null
                ))
            ),
            route(
                "/direct",
                tree(list(
                    json!([when(
                        exact(network("DirectSourceIPInput"), "127.0.0.1"),
                        action("peer", "ALLOW")
                    )]),
                    Value::Null
                ))
            ),
            route(
                "/sni",
                tree(list(
                    json!([when(
                        exact(network("ServerNameInput"), ""),
                        action("no name", "ALLOW")
                    )]),
                    Value::Null
                ))
            ),
            route(
                "/shadow",
                per_route(json!({"shadow_rules": rules("DENY", any(), header("x-role", "admin"))}))
            ),
            route(
                "/shadowtree",
                per_route(
                    json!({"shadow_matcher": list(json!([admins.clone()]), everyone_else.clone()), "shadow_rules_stat_prefix": "s_"})
                )
            ),
            route(
                "/both-kinds",
                per_route(
                    json!({"rules": rules("DENY", any(), any()), "matcher": list(json!([admins]), Value::Null)})
                )
            ),
            route(
                "/named",
                per_route(
                    json!({"rules": rules("ALLOW", any(), any()), "rules_stat_prefix": "e_"})
                )
            ),
            route(
                "/logrule",
                per_route(json!({"rules": rules("LOG", any(), header("x-role", "admin"))}))
            ),
            route(
                "/template",
                per_route(
                    json!({"rules": rules("ALLOW", json!({"uri_template": typed_input("extensions.path.match.uri_template.v3.UriTemplateMatchConfig", json!({"path_template": "/template/{id}"}))}), any())})
                )
            ),
            route(
                "/ports",
                per_route(
                    json!({"rules": rules("ALLOW", json!({"destination_port_range": {"start": 0, "end": 65536}}), any())})
                )
            ),
            route(
                "/orip",
                per_route(
                    json!({"rules": rules("ALLOW", any(), json!({"or_ids": {"ids": [{"source_ip": {"address_prefix": "9.9.9.9", "prefix_len": 32}}, {"remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}]}}))})
                )
            ),
            route(
                "/meta",
                per_route(
                    json!({"rules": rules("ALLOW", json!({"sourced_metadata": {"metadata_matcher": {"filter": "x", "path": [{"key": "y"}], "value": {"present_match": true}}}}), any())})
                )
            ),
            route(
                "/invert",
                per_route(
                    json!({"rules": rules("ALLOW", json!({"metadata": {"filter": "x", "path": [{"key": "y"}], "value": {"present_match": true}, "invert": true}}), any())})
                )
            ),
            plain("/")
        ]),
        vec![
            role("/", "admin"),
            role("/", "user"),
            get("/"),
            role("/list", "admin"),
            role("/list", "user"),
            get("/list"),
            role("/else", "admin"),
            role("/else", "user"),
            role("/log", "log"),
            role("/log", "admin"),
            role("/log", "user"),
            get("/none"),
            get("/all"),
            get("/prefix").header("x-path", "/p/z"),
            get("/prefix").header("x-path", "/q"),
            get("/prefix").header("x-path", "/p/q/r").header("x-role", "ops"),
            get("/prefix").header("x-path", "/p/q/r"),
            get("/prefix"),
            get("/exact").header("x-path", "/p"),
            get("/exact").header("x-path", "/p/z"),
            get("/exact").header("x-path", "/p/q").header("x-role", "ops"),
            get("/exact").header("x-path", "/p/q"),
            role("/not", "admin"),
            role("/not", "user"),
            get("/not"),
            role("/both", "admin").header("x-key", "1"),
            role("/both", "admin"),
            get("/both").header("x-key", "1"),
            role("/either", "admin"),
            get("/either").header("x-key", "1"),
            get("/either"),
            get("/ip"),
            get("/ip").header("x-forwarded-for", "9.9.9.9"),
            get("/far"),
            get("/far").header("x-forwarded-for", "9.9.9.9"),
            get("/dest"),
            get("/direct"),
            get("/direct").header("x-forwarded-for", "9.9.9.9"),
            get("/sni"),
            role("/shadow", "admin"),
            get("/shadow"),
            role("/shadowtree", "admin"),
            get("/shadowtree"),
            role("/both-kinds", "admin"),
            get("/both-kinds"),
            get("/named"),
            role("/logrule", "admin"),
            get("/logrule"),
            get("/template/1"),
            get("/template/1/2"),
            get("/template/1?q"),
            get("/ports"),
            get("/orip"),
            get("/orip").header("x-forwarded-for", "9.9.9.9"),
            get("/meta"),
            get("/invert"),
            role("/list", "admin").header("x-role", "user"),
            get("/list").header("content-type", "application/grpc"),
            get("/list").method(Method::HEAD),
            post("/list", "x"),
        ],
    )]
}
