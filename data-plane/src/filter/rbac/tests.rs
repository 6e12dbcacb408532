//! Tests of access control.

use rustls::pki_types::CertificateDer;
use xds_proto::json::from_yaml;

use super::*;
use crate::filtering::stage::testing::Scene;
use crate::tls::identity::Identity;

fn filter(text: &str) -> Rbac {
    Rbac::compile(from_yaml(text).unwrap()).unwrap()
}

fn one(action: &str, permission: &str, principal: &str) -> Rbac {
    filter(&format!(
        "{{rules: {{action: {action}, policies: {{'my policy': {{permissions: [{permission}], principals: [{principal}]}}}}}}}}"
    ))
}

fn scene() -> Scene {
    let mut scene = Scene::default();
    scene.facts.remote = Some("203.0.113.9:0".parse().unwrap());
    scene.facts.direct_remote = Some("10.1.2.3:55".parse().unwrap());
    scene.facts.local = Some("10.0.0.1:8443".parse().unwrap());
    scene.facts.server_name = "api.test";
    scene
}

async fn lets_in(filter: &Rbac, scene: &mut Scene) -> bool {
    let mut request = Request::post("/admin/x?y=1")
        .header("host", "h.test")
        .header("x-role", "ops")
        .body(Body::empty())
        .unwrap();
    match filter.on_request(&mut request, &mut scene.stage()).await {
        Verdict::Continue => true,
        Verdict::Reply(reply) => {
            scene.notes.details = reply.details;
            false
        }
    }
}

#[tokio::test]
async fn permissions_say_what_is_wanted() {
    for (permission, want) in [
        ("{any: true}", true),
        ("{header: {name: ':method', string_match: {exact: POST}}}", true),
        ("{header: {name: ':method', string_match: {exact: GET}}}", false),
        ("{url_path: {path: {exact: /admin/x}}}", true),
        ("{url_path: {path: {suffix: y=1}}}", false),
        ("{destination_port: 8443}", true),
        ("{destination_port: 443}", false),
        ("{destination_port_range: {start: 8000, end: 8443}}", false),
        ("{destination_port_range: {start: 8000, end: 8444}}", true),
        ("{destination_port_range: {start: 0, end: 65536}}", true),
        (
            "{uri_template: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: '/admin/{id}'}}}",
            true,
        ),
        ("{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 24}}", true),
        ("{requested_server_name: {exact: api.test}}", true),
        ("{not_rule: {any: true}}", false),
        ("{and_rules: {rules: [{any: true}, {destination_port: 1}]}}", false),
        ("{or_rules: {rules: [{destination_port: 1}, {any: true}]}}", true),
    ] {
        let filter = one("ALLOW", permission, "{any: true}");
        assert_eq!(lets_in(&filter, &mut scene()).await, want, "{permission}");
    }
}

#[tokio::test]
async fn principals_say_who_asks() {
    for (principal, want) in [
        ("{remote_ip: {address_prefix: 203.0.113.0, prefix_len: 24}}", true),
        ("{remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}", false),
        ("{direct_remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}", true),
        ("{source_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}", true),
        ("{header: {name: x-role, string_match: {exact: ops}}}", true),
        ("{url_path: {path: {prefix: /admin}}}", true),
        ("{authenticated: {}}", false),
        ("{not_id: {authenticated: {}}}", true),
        (
            "{metadata: {filter: jwt, path: [{key: sub}], value: {string_match: {exact: ann}}}}",
            true,
        ),
        ("{and_ids: {ids: [{any: true}, {authenticated: {}}]}}", false),
        ("{or_ids: {ids: [{authenticated: {}}, {any: true}]}}", true),
    ] {
        let filter = one("ALLOW", "{any: true}", principal);
        let mut scene = scene();
        let claims = [("sub".to_owned(), "ann".into())];
        scene.notes.metadata.merge("jwt", Map::from_iter(claims));
        assert_eq!(lets_in(&filter, &mut scene).await, want, "{principal}");
    }
}

fn certificate() -> CertificateDer<'static> {
    let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let uri = rcgen::SanType::URI("spiffe://test/a".try_into().unwrap());
    params.subject_alt_names.push(uri);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "a");
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate() {
    for (name, want) in [
        ("{}", true),
        ("{principal_name: {exact: 'spiffe://test/a'}}", true),
        ("{principal_name: {exact: a.test}}", true),
        ("{principal_name: {exact: 'CN=a'}}", true),
        ("{principal_name: {exact: b.test}}", false),
    ] {
        let filter = one("ALLOW", "{any: true}", &format!("{{authenticated: {name}}}"));
        let mut scene = scene();
        scene.facts.tls_version = "TLSv1.3";
        assert_eq!(lets_in(&filter, &mut scene).await, name == "{}", "{name}");
        scene.client = Identity::new(&[certificate()]);
        assert_eq!(lets_in(&filter, &mut scene).await, want, "{name}");
    }
}

#[tokio::test]
async fn a_matcher_tree_may_decide() {
    let action = |name: &str, action: &str| {
        format!(
            "action: {{name: {name}, typed_config: {{'@type': type.googleapis.com/envoy.config.rbac.v3.Action, name: {name}, action: {action}}}}}"
        )
    };
    let tree = |kind: &str| {
        let input = "input: {name: i, typed_config: {'@type': type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-role}}";
        filter(&format!(
            "{{rules: {{action: DENY, policies: {{p: {{permissions: [{{any: true}}], principals: [{{any: true}}]}}}}}},
               matcher: {{matcher_list: {{matchers: [{{predicate: {{single_predicate: {{{input}, value_match: {{exact: ops}}}}}}, on_match: {{{}}}}}]}}}}}}",
            action("ops", kind)
        ))
    };
    for (kind, want, result) in
        [("ALLOW", true, "allowed"), ("DENY", false, "denied"), ("LOG", true, "allowed")]
    {
        let mut scene = scene();
        assert_eq!(lets_in(&tree(kind), &mut scene).await, want, "{kind}");
        let noted = scene.notes.metadata.namespace(NAMESPACE).unwrap();
        assert_eq!(noted["enforced_engine_result"], result);
        assert_eq!(noted["enforced_effective_policy_id"], "ops");
        assert_eq!(scene.notes.metadata.namespace(COMMON).is_some(), kind == "LOG");
    }
    assert!(!lets_in(&filter("{matcher: {}}"), &mut scene()).await);
}

#[tokio::test]
async fn the_details_name_the_policy() {
    let mut scene = scene();
    assert!(!lets_in(&one("DENY", "{any: true}", "{any: true}"), &mut scene).await);
    let details = "rbac_access_denied_matched_policy[my_policy]";
    assert_eq!(scene.notes.details.as_deref(), Some(details));
    assert!(!lets_in(&filter("{rules: {policies: {}}}"), &mut scene).await);
    let details = "rbac_access_denied_matched_policy[none]";
    assert_eq!(scene.notes.details.as_deref(), Some(details));
}

#[tokio::test]
async fn without_rules_everybody_is_let_in_and_shadow_rules_are_noted() {
    let shadow = filter(
        "{shadow_rules: {policies: {p: {permissions: [{destination_port: 1}], principals: [{any: true}]}}}, shadow_rules_stat_prefix: s_}",
    );
    let mut scene = scene();
    assert!(lets_in(&shadow, &mut scene).await);
    let noted = scene.notes.metadata.namespace(NAMESPACE).unwrap();
    assert_eq!(noted["s_shadow_engine_result"], "denied");
    assert!(lets_in(&one("LOG", "{any: true}", "{any: true}"), &mut scene).await);
    assert_eq!(scene.notes.metadata.namespace(COMMON).unwrap()["access_log_hint"], true);
}

#[test]
fn what_is_not_supported_is_named() {
    let rules = |text: &str| {
        let text = format!("{{rules: {{policies: {{p: {text}}}}}}}");
        Rbac::compile(from_yaml(&text).unwrap()).unwrap_err().to_string()
    };
    assert_eq!(rules("{principals: [{any: true}]}"), "rules.policies[\"p\"].permissions: required");
    assert_eq!(
        rules(
            "{permissions: [{any: true}], principals: [{filter_state: {key: x, string_match: {exact: y}}}]}"
        ),
        "rules.policies[\"p\"].principals[0].filter_state: not supported"
    );
    assert_eq!(
        rules("{permissions: [{destination_port: 70000}], principals: [{any: true}]}"),
        "rules.policies[\"p\"].permissions[0].destination_port: must be at most 65535"
    );
}
