//! stateful_session.

use gateway_tests::documents;
use serde_json::{Value, json};

use super::{case, filter, get, plain, route, typed};
use crate::differential::{Case, OWN_CLUSTER};

fn state(kind: &str, mut config: Value) -> Value {
    config["@type"] =
        format!("type.googleapis.com/envoy.extensions.http.stateful_session.{kind}").into();
    let (folder, _) = kind.split_once('.').unwrap();
    let name = format!("envoy.http.stateful_session.{folder}");
    json!({"session_state": {"name": name, "typed_config": config}})
}

fn by_header() -> Value {
    state("header.v3.HeaderBasedSessionState", json!({"name": "x-session"}))
}

fn by_cookie(cookie: Value) -> Value {
    state("cookie.v3.CookieBasedSessionState", json!({"cookie": cookie}))
}

fn session(config: Value) -> Value {
    filter("s", "stateful_session.v3.StatefulSession", config)
}

fn said(config: Value) -> Value {
    json!({"s": typed("stateful_session.v3.StatefulSessionPerRoute", config)})
}

pub(super) fn all() -> Vec<Case> {
    let off = said(json!({"disabled": true}));
    let mut all = vec![
        case(
            "sessions by cookie",
            &[session(by_cookie(json!({"name": "sess", "path": "/shop"})))],
            json!([route("/shop/off", off.clone()), plain("/")]),
            ["/shop", "/shop/x", "/shopping", "/", "/shop/off"].map(get).to_vec(),
        ),
        case(
            "sessions by header",
            &[session(by_header())],
            json!([route("/off", off.clone()), plain("/")]),
            vec![
                get("/"),
                get("/off"),
                get("/").header("x-session", "bm90IGFuIGFkZHJlc3M="),
                get("/").header("x-session", "MTI3LjAuMC4xOjE="),
            ],
        ),
        case(
            "cookies of sessions",
            &[session(json!({}))],
            json!([
                route("/bare", said(json!({"stateful_session": by_cookie(json!({"name": "s"}))}))),
                route(
                    "/root",
                    said(json!({"stateful_session": by_cookie(json!({"name": "s", "path": "/"}))}))
                ),
                route(
                    "/ttl",
                    said(
                        json!({"stateful_session": by_cookie(json!({"name": "s", "path": "/", "ttl": "120s"}))})
                    )
                ),
                route(
                    "/zero",
                    said(
                        json!({"stateful_session": by_cookie(json!({"name": "s", "path": "/", "ttl": "0s"}))})
                    )
                ),
                route(
                    "/slash",
                    said(
                        json!({"stateful_session": by_cookie(json!({"name": "s", "path": "/slash/"}))})
                    )
                ),
                route(
                    "/attributes",
                    said(
                        json!({"stateful_session": by_cookie(json!({"name": "s", "path": "/", "attributes": [{"name": "SameSite", "value": "Lax"}, {"name": "Secure"}]}))})
                    )
                ),
                plain("/")
            ]),
            [
                "/bare",
                "/root",
                "/ttl",
                "/zero",
                "/slash",
                "/slash/",
                "/slash/x",
                "/slashes",
                "/attributes",
                "/x",
            ]
            .map(get)
            .to_vec(),
        ),
    ];
    all.push(bound());
    all
}

/// Sessions that are bound to one of three endpoints.
fn bound() -> Case {
    let strict = |mut config: Value, more: Value| {
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    };
    let own = |prefix: &str, filters: Value| {
        json!({
        "match": {"prefix": prefix}, "route": {"cluster": OWN_CLUSTER}, "typed_per_filter_config": filters})
    };
    let strictly = |more: Value| said(json!({"stateful_session": strict(by_header(), more)}));
    let to = |path: &str, session: &str| get(path).header("x-session", session);
    let mut case = case(
        "sessions are bound to endpoints",
        &[session(by_header())],
        json!([
            own("/strict", strictly(json!({"strict": true}))),
            own(
                "/status",
                strictly(json!({"strict": true, "status_on_strict_destination_not_found": 410}))
            ),
            own(
                "/lenient",
                strictly(json!({"strict": false, "status_on_strict_destination_not_found": 410}))
            ),
            own(
                "/cookie",
                said(json!({"stateful_session": by_cookie(json!({"name": "s", "path": "/"}))}))
            ),
            own("/", json!({}))
        ]),
        vec![
            to("/", "@base64 a@"),
            to("/", "@base64 b@"),
            to("/", "@base64 c@"),
            to("/", "@base64 a@"),
            to("/strict", "@base64 b@"),
            to("/strict", "MTI3LjAuMC4xOjE="),
            to("/strict", "bm90IGFuIGFkZHJlc3M="),
            to("/status", "MTI3LjAuMC4xOjE="),
            to("/status", "@base64 c@"),
            to("/status/410", "MTI3LjAuMC4xOjE=").header("content-type", "application/grpc"),
            get("/cookie").header("cookie", "x=1; s=\"@base64 b@\""),
            get("/cookie").header("cookie", "s=@base64 c@; y"),
        ],
    );
    case.clusters = Box::new(|addresses| {
        let endpoint = |address| {
            documents::raw_cluster(OWN_CLUSTER, address)[1]["endpoints"][0]["lb_endpoints"][0]
                .clone()
        };
        let [cluster, mut endpoints] = documents::raw_cluster(OWN_CLUSTER, addresses[0]);
        let all: Vec<Value> = addresses.iter().map(|address| endpoint(*address)).collect();
        endpoints["endpoints"][0]["lb_endpoints"] = all.into();
        vec![cluster, endpoints]
    });
    case
}
