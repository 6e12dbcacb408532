//! Who the client is, and what the edge makes of its headers.

use gateway_tests::client::Ask;
use serde_json::{Value, json};

use super::Case;

const T: &str = "type.googleapis.com/envoy.extensions.";

pub(super) fn all() -> Vec<Case> {
    let mut all = detections();
    all.extend(others());
    all
}

fn get() -> Ask {
    Ask::get("example.com", "/p")
}

/// A case whose answers say who the client is.
fn case(name: &'static str, manager: Value, asks: Vec<Ask>) -> Case {
    let tells = json!([{"header": {"key": "x-client", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}]);
    Case {
        name,
        routes: json!({"response_headers_to_add": tells, "virtual_hosts": [{"name": "v", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}]}),
        manager,
        clusters: Case::no_clusters(),
        warm: None,
        asks,
    }
}

fn detections() -> Vec<Case> {
    let typed = |kind: &str, more: Value| {
        let mut config = more;
        config["@type"] = format!("{T}http.original_ip_detection.{kind}").into();
        json!({"name": kind, "typed_config": config})
    };
    let header = |more: Value| {
        let mut config = more;
        config["header_name"] = "X-Real".into();
        typed("custom_header.v3.CustomHeaderConfig", config)
    };
    let xff = |more: Value| typed("xff.v3.XffConfig", more);
    let by = |detections: Value| {
        json!({"original_ip_detection_extensions": detections,
            "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}})
    };
    let loopback = json!([{"address_prefix": "127.0.0.0", "prefix_len": 8}, {"address_prefix": "10.1.0.0", "prefix_len": 16}]);
    let elsewhere = json!([{"address_prefix": "192.0.2.0", "prefix_len": 24}]);
    let asks = || {
        let from = |text: &str| get().header("x-forwarded-for", text);
        vec![
            get(),
            get().header("x-real", "1.2.3.4"),
            get().header("x-real", "10.2.3.4").header("x-envoy-max-retries", "3"),
            get().header("x-real", "::1"),
            get().header("x-real", "1.2.3.4:80"),
            get().header("x-real", "junk").header("x-forwarded-for", "5.6.7.8"),
            get().header("x-real", "1.1.1.1").header("x-real", "2.2.2.2"),
            from("1.2.3.4"),
            from("10.9.9.9"),
            from("1.2.3.4, 10.1.0.7").header("x-forwarded-proto", "https"),
            from("1.2.3.4, 5.6.7.8, 10.1.0.7,10.1.0.8"),
            from("10.1.0.9, 10.1.0.8"),
            from("1.2.3.4, junk"),
            from("1.2.3.4, junk, 10.1.0.8"),
        ]
    };
    vec![
        case("a header names the client", by(json!([header(json!({}))])), asks()),
        case(
            "a header is believed",
            by(json!([header(json!({"allow_extension_to_set_address_as_trusted": true}))])),
            asks(),
        ),
        case(
            "a client must be named",
            by(json!([header(json!({"reject_with_status": {"code": "Unauthorized"}}))])),
            asks()[..7].to_vec(),
        ),
        case(
            "refused with a status that is none of an error",
            by(json!([header(json!({"reject_with_status": {"code": "OK"}}))])),
            vec![get()],
        ),
        case("hops by extension", by(json!([xff(json!({"xff_num_trusted_hops": 1}))])), asks()),
        case(
            "hops by extension, the peer added",
            by(json!([xff(json!({"skip_xff_append": false}))])),
            asks(),
        ),
        case(
            "proxies of ours",
            by(json!([xff(json!({"xff_trusted_cidrs": {"cidrs": loopback}}))])),
            asks(),
        ),
        case(
            "proxies that the peer is none of",
            by(json!([xff(
                json!({"xff_trusted_cidrs": {"cidrs": elsewhere}, "skip_xff_append": true})
            )])),
            asks(),
        ),
        case("one after the other", by(json!([header(json!({})), xff(json!({}))])), asks()),
    ]
}

fn others() -> Vec<Case> {
    let early = |mutations: Value| {
        json!({"early_header_mutation_extensions": [{"name": "e", "typed_config": {
            "@type": format!("{T}http.early_header_mutation.header_mutation.v3.HeaderMutation"),
            "mutations": mutations}}]})
    };
    let append =
        |key: &str, value: &str| json!({"append": {"header": {"key": key, "value": value}}});
    vec![
        case(
            "early changes",
            early(json!([
                append("x-a", "1"), append("x-a", "2"),
                {"append": {"header": {"key": "x-b", "value": "[%REQ(x-c)%]"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}},
                {"append": {"header": {"key": "x-empty"}, "keep_empty_value": true}},
                {"remove": "x-c"}, append("x-forwarded-for", "1.2.3.4"), append("x-envoy-max-retries", "2"),
                {"append": {"header": {"key": "x-request-id", "value": "mine"}, "append_action": "ADD_IF_ABSENT"}},
            ])),
            vec![
                get(),
                get().header("x-c", "c").header("x-b", "b"),
                get().header("x-forwarded-for", "5.6.7.8"),
            ],
        ),
        case(
            "ids as Envoy makes them by itself",
            json!({"request_id_extension": {"typed_config": {
                "@type": format!("{T}request_id.uuid.v3.UuidRequestIdConfig"), "pack_trace_reason": false}}}),
            vec![get(), get().header("x-request-id", "mine")],
        ),
        case(
            "the port is told",
            json!({"append_x_forwarded_port": true, "use_remote_address": true}),
            vec![get(), get().header("x-forwarded-port", "1")],
        ),
        case(
            "the port is told behind a trusted hop",
            json!({"append_x_forwarded_port": true, "xff_num_trusted_hops": 1, "use_remote_address": true}),
            vec![get(), get().header("x-forwarded-port", "1")],
        ),
        case(
            "the port is told inside",
            json!({"append_x_forwarded_port": true}),
            vec![get(), get().header("x-forwarded-port", "1")],
        ),
    ]
}
