//! TLS towards clients: what is agreed on and what is resumed, by a real Envoy and by our proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use gateway_tests::authority::Authority;
use gateway_tests::backend::Backend;
use gateway_tests::documents;
use gateway_tests::tls::{Looker, Pair, Session, session};
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use rustls::{CipherSuite, HandshakeKind, SignatureScheme, version};
use serde_json::{Value, json};

use super::bytes::both;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// A certificate as a `TlsCertificate`, and itself.
fn certificate(names: &[&str], algorithm: &'static SignatureAlgorithm) -> (Value, Vec<u8>) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let value = json!({"certificate_chain": {"inline_string": made.pem()},
        "private_key": {"inline_string": key.serialize_pem()}});
    (value, made.der().to_vec())
}

/// A listener with a chain for each name, whose TLS context has more fields.
fn resources(port: u16, backend: SocketAddr, chains: &[(String, Value)]) -> Vec<Value> {
    let mut listener = documents::raw_listener("l", port, "r", &[]);
    let chain = listener["filter_chains"][0].clone();
    let chains = chains.iter().map(|(name, context)| {
        let mut chain = chain.clone();
        chain["name"] = name.clone().into();
        if !name.is_empty() {
            chain["filter_chain_match"] = json!({"server_names": [name]});
        }
        let mut context = context.clone();
        context["@type"] = format!("{TLS}.DownstreamTlsContext").into();
        chain["transport_socket"] = json!({"name": "tls", "typed_config": context});
        chain
    });
    listener["filter_chains"] = chains.collect();
    listener["listener_filters"] = json!([{"name": "envoy.filters.listener.tls_inspector", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let mut all = vec![listener, documents::raw_routes("r", &routes)];
    all.extend(documents::raw_cluster("a", backend));
    all
}

fn context(more: Value, params: Value, certificates: &[&Value]) -> Value {
    let mut context = more;
    context["common_tls_context"] =
        json!({"tls_certificates": certificates, "alpn_protocols": ["h2", "http/1.1"]});
    if !params.is_null() {
        context["common_tls_context"]["tls_params"] = params;
    }
    context
}

fn agreed(session: &Result<Session>) -> Value {
    match session {
        Ok(session) => json!([
            format!("{:?}", session.version),
            format!("{:?}", session.suite),
            session.alpn,
            session.group
        ]),
        Err(_) => json!("no handshake"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_where_they_may_be() {
    let backend = Backend::start("a").await;
    let (ecdsa, _) = certificate(&["x.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let key = |byte: char| json!({"inline_string": byte.to_string().repeat(80)});
    let ways = [
        ("default.test", json!({})),
        ("no-tickets.test", json!({"disable_stateless_session_resumption": true})),
        ("no-cache.test", json!({"disable_stateful_session_resumption": true})),
        (
            "neither.test",
            json!({"disable_stateless_session_resumption": true, "disable_stateful_session_resumption": true}),
        ),
        ("keys.test", json!({"session_ticket_keys": {"keys": [key('a'), key('b')]}})),
        ("timeout.test", json!({"session_timeout": "60s"})),
    ];
    let chains: Vec<_> = ways
        .iter()
        .map(|(name, way)| ((*name).to_owned(), context(way.clone(), Value::Null, &[&ecdsa])))
        .collect();
    let (address, ways) = (backend.address, &ways);
    both(
        "sessions_are_resumed_where_they_may_be",
        |port, _| resources(port, address, &chains),
        |address| async move {
            let mut seen = BTreeMap::new();
            for (label, version) in [("1.2", &version::TLS12), ("1.3", &version::TLS13)] {
                for (name, _) in ways {
                    let looker = Looker { versions: vec![version], ..Looker::default() };
                    let config = Arc::new(looker.config(None));
                    let mut kinds = Vec::new();
                    for _ in 0..3 {
                        let session = session(&config, address, name).await?;
                        assert!(session.answer.contains("\"backend\":\"a\""), "{session:?}");
                        kinds.push(session.kind == HandshakeKind::Resumed);
                    }
                    seen.insert(format!("{name} {label}"), kinds);
                }
            }
            Ok(json!(seen))
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_suites_and_groups_are_as_told() {
    let backend = Backend::start("a").await;
    let (ecdsa, _) = certificate(&["x.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let (rsa, _) = certificate(&["x.test"], &rcgen::PKCS_RSA_SHA256);
    let ways = [
        ("default.test", json!({})),
        ("old.test", json!({"tls_maximum_protocol_version": "TLSv1_2"})),
        ("new.test", json!({"tls_minimum_protocol_version": "TLSv1_3"})),
        (
            "chacha.test",
            json!({"cipher_suites": ["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"]}),
        ),
        (
            "order.test",
            json!({"cipher_suites": ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]}),
        ),
        (
            "mixed.test",
            json!({"cipher_suites": ["AES128-SHA", "ECDHE-RSA-AES256-GCM-SHA384", "AES256-GCM-SHA384"]}),
        ),
        ("group.test", json!({"ecdh_curves": ["P-384"]})),
    ];
    let chains: Vec<_> = ways
        .iter()
        .map(|(name, params)| {
            ((*name).to_owned(), context(json!({}), params.clone(), &[&ecdsa, &rsa]))
        })
        .collect();
    let address = backend.address;
    let suites = |suites: &[CipherSuite]| Looker {
        versions: vec![&version::TLS12],
        suites: suites.to_vec(),
        ..Looker::default()
    };
    let lookers = [
        ("1.3", Looker { versions: vec![&version::TLS13], ..Looker::default() }),
        ("1.2", suites(&[])),
        ("1.2 ecdsa aes256", suites(&[CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384])),
        ("1.2 rsa aes128", suites(&[CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256])),
        ("1.2 rsa chacha", suites(&[CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256])),
        ("h1", Looker { alpn: vec!["http/1.1"], ..Looker::default() }),
        ("h2", Looker { alpn: vec!["http/1.1", "h2"], ..Looker::default() }),
        ("foreign", Looker { alpn: vec!["gopher"], ..Looker::default() }),
    ];
    let (lookers, ways) = (&lookers, &ways);
    both(
        "versions_suites_and_groups_are_as_told",
        |port, _| resources(port, address, &chains),
        |address| async move {
            let mut seen = BTreeMap::new();
            for (who, looker) in lookers {
                for (name, _) in ways {
                    let config = Arc::new(looker.config(None));
                    let session = session(&config, address, name).await;
                    seen.insert(format!("{who} at {name}"), agreed(&session));
                }
            }
            // Where nobody says which group or suite, the libraries may prefer other ones.
            for (what, agreed) in &mut seen {
                if agreed.is_array() && what.ends_with("default.test") {
                    agreed[1] = "any".into();
                    agreed[3] = "any".into();
                } else if agreed.is_array() && !what.ends_with("group.test") {
                    agreed[3] = "any".into();
                }
                if agreed.is_array() && agreed[0] == "TLSv1_3" {
                    agreed[1] = "any".into();
                }
            }
            Ok(json!(seen))
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_chosen_by_name_and_by_what_a_client_understands() {
    let backend = Backend::start("a").await;
    let of = |label: &'static str, names: &[&str], algorithm| {
        let (value, der) = certificate(names, algorithm);
        (label, value, der)
    };
    let all = [
        of("first", &["first.test"], &rcgen::PKCS_ECDSA_P256_SHA256),
        of("a ecdsa", &["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256),
        of("a rsa", &["a.test", "only.test"], &rcgen::PKCS_RSA_SHA256),
        of("wild", &["*.b.test"], &rcgen::PKCS_ECDSA_P256_SHA256),
        of("exact", &["exact.b.test"], &rcgen::PKCS_ECDSA_P256_SHA256),
    ];
    let values: Vec<_> = all.iter().map(|(_, value, _)| value).collect();
    let chains = [(String::new(), context(json!({}), Value::Null, &values))];
    let address = backend.address;
    let all = &all;
    both(
        "certificates_are_chosen_by_name_and_by_what_a_client_understands",
        |port, _| resources(port, address, &chains),
        |address| async move {
            let rsa = vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
            let lookers =
                [("all", Looker::default()), ("rsa", Looker { schemes: rsa, ..Looker::default() })];
            let mut seen = BTreeMap::new();
            for (who, looker) in lookers {
                // One that bears no such name is shown what it may not understand.
                let is_limited = who == "rsa";
                for name in [
                    "first.test",
                    "a.test",
                    "only.test",
                    "x.b.test",
                    "exact.b.test",
                    "x.y.b.test",
                    "b.test",
                    "else.test",
                    "127.0.0.1",
                ] {
                    if is_limited && !["a.test", "only.test"].contains(&name) {
                        continue;
                    }
                    let config = Arc::new(looker.config(None));
                    let shown = session(&config, address, name).await.map(|session| {
                        let found = all.iter().find(|(_, _, der)| *der == session.shown);
                        found.map_or("?", |(label, ..)| label)
                    });
                    seen.insert(format!("{name} for {who}"), shown.unwrap_or("no handshake"));
                }
            }
            Ok(json!(seen))
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_keeps_the_client_that_it_is_of() {
    let backend = Backend::start("a").await;
    let (server, _) = certificate(&["x.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["client.test".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let made = params.self_signed(&key).unwrap();
    let mut strict = context(json!({"require_client_certificate": true}), Value::Null, &[&server]);
    strict["common_tls_context"]["validation_context"] =
        json!({"trusted_ca": {"inline_string": made.pem()}});
    let chains = [("x.test".to_owned(), strict)];
    let address = backend.address;
    let (made, key) = (&made, &key);
    both(
        "a_resumed_session_keeps_the_client_that_it_is_of",
        |port, _| {
            let mut all = resources(port, address, &chains);
            let manager = &mut all[0]["filter_chains"][0]["filters"][0]["typed_config"];
            manager["forward_client_cert_details"] = "SANITIZE_SET".into();
            manager["set_current_client_cert_details"] = json!({"dns": true});
            all
        },
        |address| async move {
            let mut seen = BTreeMap::new();
            for (label, version) in [("1.2", &version::TLS12), ("1.3", &version::TLS13)] {
                let looker = Looker { versions: vec![version], ..Looker::default() };
                let own: Pair = (made.der().clone(), key.serialize_der().try_into().unwrap());
                let config = Arc::new(looker.config(Some(own)));
                let mut all = Vec::new();
                for _ in 0..2 {
                    let session = session(&config, address, "x.test").await?;
                    let told = session.answer.contains("DNS=client.test");
                    all.push(json!([session.kind == HandshakeKind::Resumed, told]));
                }
                seen.insert(label, all);
            }
            Ok(json!(seen))
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_may_be_known_by_their_certificate_alone() {
    let backend = Backend::start("a").await;
    let (server, _) = certificate(&["x.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let authority = Authority::new();
    let [known, keyed, other] = [(); 3].map(|()| authority.sign(&["client.test"], None));
    let mut strict = context(json!({"require_client_certificate": true}), Value::Null, &[&server]);
    strict["common_tls_context"]["validation_context"] = json!({"verify_certificate_hash": [known.digest()], "verify_certificate_spki": [keyed.key_digest()]});
    let chains = [("x.test".to_owned(), strict)];
    let address = backend.address;
    let clients = [
        ("known", Some(known.shown())),
        ("keyed", Some(keyed.shown())),
        ("other", Some(other.shown())),
        ("none", None),
    ];
    both(
        "clients_may_be_known_by_their_certificate_alone",
        |port, _| resources(port, address, &chains),
        |address| {
            let clients = &clients;
            async move {
                let mut seen = BTreeMap::new();
                for (who, pair) in clients {
                    let own = pair.as_ref().map(|(shown, key)| (shown.clone(), key.clone_key()));
                    let config = Arc::new(Looker::default().config(own));
                    // In TLS 1.3 a client hears of a refusal only when it reads.
                    let served = session(&config, address, "x.test").await;
                    let served = served.is_ok_and(|session| session.answer.contains("200 OK"));
                    seen.insert(*who, served);
                }
                ensure!(seen["known"] && seen["keyed"], "{seen:?}");
                Ok(json!(seen))
            }
        },
    )
    .await;
}
