//! Which versions of TLS are spoken, with which cipher suites and groups (`TlsParameters`).

use rustls::{CipherSuite, NamedGroup};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::TlsParameters;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use xds_proto::field::{At, FieldError, each};
use xds_proto::fields;

use crate::tls::Parameters;

/// Cipher suites of TLS 1.2 by the names that OpenSSL has for them. Without forward secrecy, or with
/// CBC, they may be named among others and are not offered.
const SUITES: [(&str, Option<CipherSuite>); 16] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    ("ECDHE-RSA-AES256-GCM-SHA384", Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384)),
    ("ECDHE-RSA-AES128-GCM-SHA256", Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)),
    ("ECDHE-RSA-CHACHA20-POLY1305", Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256)),
    ("ECDHE-ECDSA-AES128-SHA256", None),
    ("ECDHE-RSA-AES128-SHA256", None),
    ("ECDHE-ECDSA-AES128-SHA", None),
    ("ECDHE-RSA-AES128-SHA", None),
    ("ECDHE-ECDSA-AES256-SHA", None),
    ("ECDHE-RSA-AES256-SHA", None),
    ("AES128-GCM-SHA256", None),
    ("AES256-GCM-SHA384", None),
    ("AES128-SHA", None),
    ("AES256-SHA", None),
];

/// Groups by their names; what is left out may be named among others.
const GROUPS: [(&str, Option<NamedGroup>); 6] = [
    ("X25519", Some(NamedGroup::X25519)),
    ("P-256", Some(NamedGroup::secp256r1)),
    ("P-384", Some(NamedGroup::secp384r1)),
    ("X25519MLKEM768", Some(NamedGroup::X25519MLKEM768)),
    ("P-521", None),
    ("X25519Kyber768Draft00", None),
];

pub(super) fn compile(message: TlsParameters) -> Result<Parameters, FieldError> {
    fields!(message: TlsParameters,
        read: [
            tls_minimum_protocol_version, tls_maximum_protocol_version, cipher_suites, ecdh_curves,
        ],
        ignore: [],
        refuse: [signature_algorithms, compliance_policies]);
    let min = version(tls_minimum_protocol_version).at("tls_minimum_protocol_version")?;
    let max = version(tls_maximum_protocol_version).at("tls_maximum_protocol_version")?;
    let (tls12, tls13) = (min != Some(TlsProtocol::TlSv13), max != Some(TlsProtocol::TlSv12));
    if !tls12 && !tls13 {
        return Err(FieldError::invalid("is below the minimum")).at("tls_maximum_protocol_version");
    }
    Ok(Parameters {
        tls12,
        tls13,
        suites: chosen(cipher_suites, "cipher_suites", &SUITES)?,
        groups: chosen(ecdh_curves, "ecdh_curves", &GROUPS)?,
    })
}

fn version(value: i32) -> Result<Option<TlsProtocol>, FieldError> {
    match TlsProtocol::try_from(value) {
        Ok(TlsProtocol::TlsAuto) => Ok(None),
        Ok(version @ (TlsProtocol::TlSv12 | TlsProtocol::TlSv13)) => Ok(Some(version)),
        Ok(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => {
            Err(FieldError::invalid("TLS 1.0 and 1.1 are not supported"))
        }
        Err(_) => Err(FieldError::invalid("unknown value")),
    }
}

/// What the names stand for, in order. One entry may hold several, and groups of equal rank.
fn chosen<T: Copy + PartialEq>(
    entries: Vec<String>,
    field: &'static str,
    known: &[(&str, Option<T>)],
) -> Result<Box<[T]>, FieldError> {
    let is_given = !entries.is_empty();
    let found = each(entries, field, |entry| {
        let names = entry.split([':', '|']).map(|name| name.trim_matches(['[', ']']));
        let of_name = |name: &str| {
            let found = known.iter().find(|(known, _)| *known == name);
            found
                .map(|(_, value)| *value)
                .ok_or_else(|| FieldError::invalid(format!("{name:?} is unknown")))
        };
        names.map(of_name).collect::<Result<Vec<_>, _>>()
    })?;
    let mut chosen = Vec::new();
    for value in found.into_iter().flatten().flatten() {
        if !chosen.contains(&value) {
            chosen.push(value);
        }
    }
    if is_given && chosen.is_empty() {
        return Err(FieldError::invalid("nothing of this is supported")).at(field);
    }
    Ok(chosen.into())
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    fn compiled(yaml: &str) -> Result<Parameters, String> {
        compile(from_yaml(yaml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn suites_are_taken_in_order_and_weak_ones_left_out() {
        let list = "{cipher_suites: ['[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]', \
                    AES128-SHA, 'ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256'], \
                    ecdh_curves: [P-384, P-521, X25519]}";
        let parameters = compiled(list).unwrap();
        assert_eq!(
            *parameters.suites,
            [
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            ]
        );
        assert_eq!(*parameters.groups, [NamedGroup::secp384r1, NamedGroup::X25519]);
        let provider = parameters.provider();
        assert_eq!((provider.cipher_suites.len(), provider.kx_groups.len()), (6, 2));
        assert_eq!(compiled("{}").unwrap(), Parameters::default());
    }

    #[test]
    fn what_is_unknown_or_leaves_nothing_is_refused() {
        for (yaml, error) in [
            ("{cipher_suites: [AES128-SHA]}", "cipher_suites: nothing of this is supported"),
            ("{cipher_suites: [NULL-SHA]}", "cipher_suites[0]: \"NULL-SHA\" is unknown"),
            ("{ecdh_curves: [P-521]}", "ecdh_curves: nothing of this is supported"),
            ("{signature_algorithms: [x]}", "signature_algorithms: not supported"),
            (
                "{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_2}",
                "tls_maximum_protocol_version: is below the minimum",
            ),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), error);
        }
    }
}
