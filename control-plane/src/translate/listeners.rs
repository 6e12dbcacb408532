//! Listeners of Gateways and ListenerSets, judged by themselves.

use std::collections::BTreeMap;

use crate::finding::codes;
use crate::model::gateway::{ClientValidation, Listener, TLS_MIN_VERSION};
use crate::model::meta::Place;
use crate::translate::actions::Site;
use crate::translate::draft::ObjectRef;
use crate::translate::hostname::ANY;
use crate::translate::problem::Problem;
use crate::translate::references::{GATEWAY_API, Referrer};

/// A listener, judged.
#[derive(Debug)]
pub(super) struct ListenerPlan<'a> {
    /// The Gateway or ListenerSet that has it.
    pub(super) owner: ObjectRef,
    /// Its place in the owner.
    pub(super) index: usize,
    /// The listener.
    pub(super) listener: &'a Listener,
    /// Its hostname, `*` when it has none.
    pub(super) hostname: &'a str,
    /// The conflict with another listener of its gateway.
    pub(super) conflict: Option<Problem>,
    /// Why it cannot be served, if so.
    pub(super) refusal: Option<Problem>,
    /// Why nobody is let in, though it keeps its hostname from others.
    pub(super) closed: Option<Problem>,
    /// References that lead nowhere.
    pub(super) unresolved: Vec<Problem>,
    /// Certificates that can be used.
    pub(super) secrets: Vec<Place>,
    /// What is asked of clients.
    pub(super) clients: Option<ClientTrust>,
    /// The gateway, where it shows backends a certificate.
    pub(super) shows_certificate: Option<Place>,
    /// Listeners whose hostnames overlap with its own, where both end TLS on one port.
    pub(super) overlaps: Vec<&'a str>,
    /// Kinds of routes that it takes.
    pub(super) kinds: Vec<&'static str>,
    /// Routes that are accepted on it, with the hostnames they have in common.
    pub(super) attached: BTreeMap<ObjectRef, Vec<String>>,
}

/// Whom certificates of clients must come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientTrust {
    /// ConfigMaps with authorities.
    pub(super) authorities: Vec<Place>,
    /// Whether clients are let in whatever they show.
    pub(super) lets_all_in: bool,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
    /// TLS that ends here, with bytes inside.
    Terminate,
    /// TLS that ends elsewhere.
    Passthrough,
    /// Bytes.
    Tcp,
    /// What is not served.
    Other,
}

impl ListenerPlan<'_> {
    /// What it speaks.
    pub(super) fn protocol(&self) -> Protocol {
        let passes = self.listener.tls.as_ref().is_some_and(|tls| tls.mode == "Passthrough");
        match self.listener.protocol.as_str() {
            "HTTP" => Protocol::Http,
            "HTTPS" => Protocol::Https,
            "TLS" if passes => Protocol::Passthrough,
            "TLS" => Protocol::Terminate,
            "TCP" => Protocol::Tcp,
            _ => Protocol::Other,
        }
    }

    /// Whether it is valid beside the others.
    pub(super) fn is_accepted(&self) -> bool {
        self.refusal.is_none() && self.conflict.is_none()
    }

    /// Where routes are put on it, for the virtual host of `domain`.
    pub(super) fn site<'b>(&'b self, domain: &'b str) -> Site<'b> {
        Site {
            port: self.listener.port,
            is_tls: self.protocol() == Protocol::Https,
            domain,
            shows_certificate: self.shows_certificate.as_ref(),
            passes_tls: self.protocol() == Protocol::Passthrough,
        }
    }

    /// Whether it ends TLS.
    pub(super) fn ends_tls(&self) -> bool {
        matches!(self.protocol(), Protocol::Https | Protocol::Terminate)
    }

    /// Whether it is told apart by server name.
    pub(super) fn has_server_name(&self) -> bool {
        self.ends_tls() || self.protocol() == Protocol::Passthrough
    }

    /// Whether it has what it needs to answer: where it ends TLS, a certificate.
    pub(super) fn can_answer(&self) -> bool {
        self.closed.is_none() && (!self.ends_tls() || !self.secrets.is_empty())
    }

    /// Whether only TLS 1.3 is spoken.
    pub(super) fn is_tls13_only(&self) -> bool {
        let options = self.listener.tls.as_ref().map(|tls| &tls.options);
        options.and_then(|options| options.get(TLS_MIN_VERSION)).is_some_and(|least| least == "1.3")
    }

    /// Everything that is wrong with it.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let one = self.refusal.iter().chain(&self.conflict).chain(&self.closed);
        one.chain(&self.unresolved)
    }
}

/// Judges the listener at this place of its owner.
pub(super) fn plan<'a>(
    referrer: Referrer<'_>,
    owner: &ObjectRef,
    (index, listener): (usize, &'a Listener),
) -> ListenerPlan<'a> {
    let place = format!("spec.listeners[{index}]");
    let mut plan = ListenerPlan {
        owner: owner.clone(),
        index,
        listener,
        hostname: listener.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(ANY),
        conflict: None,
        refusal: refused(listener, &place),
        closed: None,
        unresolved: Vec::new(),
        secrets: Vec::new(),
        clients: None,
        shows_certificate: None,
        overlaps: Vec::new(),
        kinds: Vec::new(),
        attached: BTreeMap::new(),
    };
    take_kinds(&mut plan, &place);
    if plan.ends_tls() {
        take_certificates(&mut plan, referrer, &place);
    }
    plan
}

/// Takes in what the gateway asks of clients; `field` is where it says so.
pub(super) fn ask_clients(
    plan: &mut ListenerPlan<'_>,
    validation: &ClientValidation,
    (gateway, field): (Referrer<'_>, &str),
) {
    let mut authorities = Vec::new();
    let mut problems = Vec::new();
    for (index, reference) in validation.ca_certificate_refs.iter().enumerate() {
        let field = format!("{field}.caCertificateRefs[{index}]");
        match gateway.authority(reference, &field) {
            Ok(place) if authorities.contains(&place) => {}
            Ok(place) => authorities.push(place),
            Err(problem) => problems.push(problem),
        }
    }
    if authorities.is_empty() {
        let message = "no authority can be used, so no client is let in";
        let field = format!("{field}.caCertificateRefs");
        let code = codes::BAD_CERTIFICATE;
        plan.closed = Some(Problem::new("NoValidCACertificate", code, field, message));
    }
    plan.unresolved.append(&mut problems);
    let lets_all_in = validation.mode == "AllowInsecureFallback";
    plan.clients = Some(ClientTrust { authorities, lets_all_in });
}

fn refused(listener: &Listener, place: &str) -> Option<Problem> {
    if !matches!(listener.protocol.as_str(), "HTTP" | "HTTPS" | "TLS" | "TCP") {
        let message = format!("protocol {} is not supported", listener.protocol);
        let field = format!("{place}.protocol");
        return Some(Problem::new("UnsupportedProtocol", codes::NOT_SUPPORTED, field, message));
    }
    let options = listener.tls.iter().flat_map(|tls| &tls.options);
    let refused = options.into_iter().find(|(key, value)| {
        key.as_str() != TLS_MIN_VERSION || !matches!(value.as_str(), "1.2" | "1.3")
    });
    refused.map(|(key, value)| {
        let message = if key == TLS_MIN_VERSION {
            format!("{value:?} is neither 1.2 nor 1.3")
        } else {
            "this option is not supported".to_owned()
        };
        let field = format!("{place}.tls.options[\"{key}\"]");
        Problem::new("UnsupportedValue", codes::NOT_SUPPORTED, field, message)
    })
}

/// The kinds of routes that a listener takes: what its protocol takes and what it lists.
fn take_kinds(plan: &mut ListenerPlan<'_>, place: &str) {
    let served: &[&'static str] = match plan.listener.protocol.as_str() {
        "HTTP" | "HTTPS" => &["HTTPRoute", "GRPCRoute"],
        "TLS" => &["TLSRoute"],
        "TCP" => &["TCPRoute"],
        _ => &[],
    };
    let listed = &plan.listener.allowed_routes.kinds;
    if listed.is_empty() {
        plan.kinds = served.to_vec();
        return;
    }
    for (index, kind) in listed.iter().enumerate() {
        let known = served.iter().find(|served| **served == kind.kind && kind.group == GATEWAY_API);
        match known {
            Some(known) if plan.kinds.contains(known) => {}
            Some(known) => plan.kinds.push(known),
            None => {
                let message = format!(
                    "{} is no kind of route that protocol {} takes",
                    kind.kind, plan.listener.protocol
                );
                let field = format!("{place}.allowedRoutes.kinds[{index}]");
                let code = codes::UNKNOWN_REFERENT;
                plan.unresolved.push(Problem::new("InvalidRouteKinds", code, field, message));
            }
        }
    }
}

fn take_certificates(plan: &mut ListenerPlan<'_>, referrer: Referrer<'_>, place: &str) {
    let references = plan.listener.tls.as_ref().map(|tls| tls.certificate_refs.as_slice());
    let references = references.unwrap_or_default();
    if references.is_empty() {
        let message = "a listener that ends TLS needs a certificate";
        let field = format!("{place}.tls.certificateRefs");
        let code = codes::REQUIRED;
        plan.unresolved.push(Problem::new("InvalidCertificateRef", code, field, message));
    }
    for (index, reference) in references.iter().enumerate() {
        let field = format!("{place}.tls.certificateRefs[{index}]");
        match referrer.certificate(reference, &field) {
            Ok(secret) if plan.secrets.contains(&secret) => {}
            Ok(secret) => plan.secrets.push(secret),
            Err(problem) => plan.unresolved.push(problem),
        }
    }
}
