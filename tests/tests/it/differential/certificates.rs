//! Client certificates: who is let in, and what upstream is told, by a real Envoy and by our proxy.

use std::collections::BTreeMap;

use gateway_tests::backend::Backend;
use gateway_tests::client::{Ask, Connection};
use gateway_tests::documents;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::bytes::both;

type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// An authority, and a client's certificate by it whose subject needs escapes.
fn client() -> (String, Pair) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "the authority");
    let pem = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let own = KeyPair::generate().unwrap();
    let names = ["one.test".to_owned(), "two.test".to_owned()];
    let mut params = CertificateParams::new(names).unwrap();
    for uri in ["spiffe://td/a;b", "https://x.test/y"] {
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    for (kind, value) in [
        (DnType::CountryName, "DE"),
        (DnType::OrganizationName, "Acme, \"Inc\"; é"),
        (DnType::OrganizationalUnitName, "#a=b+c<d>\\"),
        (DnType::CommonName, " cli ent "),
    ] {
        params.distinguished_name.push(kind, value);
    }
    let certificate = params.signed_by(&own, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    (pem, (certificate.der().clone(), key))
}

/// What upstream heard for a client with and without a certificate and a header of its own.
async fn told(manager: Value, name: &str, is_required: bool) {
    let backend = Backend::start("a").await;
    let address = backend.address;
    let key = KeyPair::generate().unwrap();
    let mut server = CertificateParams::new(["h.test".to_owned()]).unwrap();
    server.subject_alt_names.push(SanType::URI("spiffe://td/server".try_into().unwrap()));
    let certificate = server.self_signed(&key).unwrap().pem();
    let (authority, (shown, own)) = client();
    let resources = |port: u16, _| {
        let mut listener = documents::raw_listener("l", port, "r", &[]);
        let chain = &mut listener["filter_chains"][0];
        for (key, value) in manager.as_object().into_iter().flatten() {
            chain["filters"][0]["typed_config"][key] = value.clone();
        }
        chain["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": is_required,
            "common_tls_context": {
                "tls_certificates": [{"certificate_chain": {"inline_string": certificate},
                    "private_key": {"inline_string": key.serialize_pem()}}],
                "validation_context": {"trusted_ca": {"inline_string": authority}}}}});
        let known = |how: Value, says: &str| {
            json!({"match": {"prefix": "/", "tls_context": how}, "route": {"cluster": "a"},
            "request_headers_to_add": [{"header": {"key": "x-known", "value": says}}]})
        };
        let routes = json!([
            known(json!({"presented": true, "validated": true}), "yes"),
            known(json!({"presented": false}), "no")
        ]);
        let mut all = vec![listener, documents::raw_routes("r", &routes)];
        all.extend(documents::raw_cluster("a", address));
        all
    };
    both(name, resources, |address| {
        let (shown, own) = (shown.clone(), own.clone_key());
        async move {
            let mut seen = BTreeMap::new();
            for (who, pair) in [("known", Some((shown, own))), ("nobody", None)] {
                for header in [None, Some("By=x;Hash=1")] {
                    let mut ask = Ask::get("h.test", "/");
                    if let Some(header) = header {
                        ask = ask.header("x-forwarded-client-cert", header);
                    }
                    let pair = pair.as_ref().map(|(shown, own)| (shown.clone(), own.clone_key()));
                    let answer = match Connection::tls_as(address, "h.test", &[], pair).await {
                        Ok((mut connection, _)) => connection.ask(&ask).await,
                        Err(error) => Err(error),
                    };
                    let one = match answer {
                        Ok(answer) => {
                            let headers = &answer.json()["headers"];
                            json!([headers["x-forwarded-client-cert"], headers["x-known"]])
                        }
                        Err(_) => json!("refused"),
                    };
                    seen.insert(format!("{who} {header:?}"), one);
                }
            }
            Ok(json!(seen))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_certificate_is_told_in_every_mode() {
    let all = json!({"subject": true, "cert": true, "chain": true, "dns": true, "uri": true, "issuer": true});
    for (mode, details) in [
        ("SANITIZE", all.clone()),
        ("FORWARD_ONLY", all.clone()),
        ("APPEND_FORWARD", all.clone()),
        ("SANITIZE_SET", all),
        ("SANITIZE_SET", json!({"uri": true})),
        ("ALWAYS_FORWARD_ONLY", json!({})),
    ] {
        let manager = json!({"forward_client_cert_details": mode, "set_current_client_cert_details": details});
        told(manager, "the_clients_certificate_is_told_in_every_mode", false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_is_refused_where_one_is_required() {
    let manager = json!({"forward_client_cert_details": "SANITIZE_SET"});
    told(manager, "who_shows_no_certificate_is_refused_where_one_is_required", true).await;
}
