//! Certificates for tests.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// A certificate and its key in PEM form.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names, DNS names or URIs.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        let (key, params) = params(names);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A certificate that vouches for itself, as an authority does.
pub(crate) fn self_signed(names: &[&str]) -> Pair {
    let (key, mut params) = params(names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn params(names: &[&str]) -> (KeyPair, CertificateParams) {
    let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
    let mut params =
        CertificateParams::new(hosts.into_iter().map(str::to_owned).collect::<Vec<_>>()).unwrap();
    for uri in uris {
        params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
    }
    (KeyPair::generate().unwrap(), params)
}

/// Text as it stands in a JSON or YAML document.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

impl Pair {
    /// The pair as a `TlsCertificate`.
    pub(crate) fn yaml(&self) -> String {
        format!(
            "{{certificate_chain: {{inline_string: {}}}, private_key: {{inline_string: {}}}}}",
            quoted(&self.certificate),
            quoted(&self.key)
        )
    }
}
