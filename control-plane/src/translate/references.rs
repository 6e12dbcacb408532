//! References between objects: whether they are permitted, and what they lead to.

use std::collections::BTreeMap;

use crate::finding::codes;
use crate::finding::suggest::did_you_mean;
use crate::model::Model;
use crate::model::configmap::AUTHORITIES;
use crate::model::gateway::Reference;
use crate::model::meta::Place;
use crate::model::referencegrant::GrantFrom;
use crate::model::route::BackendRef;
use crate::model::secret::TLS;
use crate::translate::backends::{Destination, Target};
use crate::translate::problem::Problem;

/// The group of the Gateway API.
pub(super) const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// The group of our own kinds.
pub(super) const OURS: &str = "weighlock.dev";

/// Where a reference starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Referrer<'a> {
    /// All objects.
    pub(super) model: &'a Model,
    /// The kind of the object that refers, in the Gateway API's group.
    pub(super) kind: &'static str,
    /// Its namespace.
    pub(super) namespace: &'a str,
}

impl Referrer<'_> {
    /// Whether an object of its namespace may refer to the object of `kind` at `to`.
    fn may_refer(&self, kind: (&str, &str), to: &Place) -> bool {
        let from = GrantFrom {
            group: GATEWAY_API.to_owned(),
            kind: self.kind.to_owned(),
            namespace: self.namespace.to_owned(),
        };
        to.namespace == self.namespace
            || self.model.grants.values().any(|grant| grant.permits(&from, kind, to))
    }

    fn not_permitted(&self, kind: &str, to: &Place, field: &str) -> Problem {
        let message = format!("{kind} {to} lies in another namespace that does not permit it");
        let help = format!(
            "add a ReferenceGrant in namespace {} from {} in namespace {} to {kind} {}",
            to.namespace, self.kind, self.namespace, to.name
        );
        Problem::new("RefNotPermitted", codes::NOT_PERMITTED, field, message).with_help(Some(help))
    }

    /// The backend that a reference leads to.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub(super) fn backend(
        &self,
        reference: &BackendRef,
        field: &str,
    ) -> Result<Destination, Problem> {
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace);
        let place = Place::new(namespace, &reference.name);
        let kind = (reference.group.as_str(), reference.kind.as_str());
        if kind != (OURS, "Backend") && kind != ("", "Service") {
            let message = format!("{} {} is no kind of backend", named(kind.0), kind.1);
            let field = format!("{field}.kind");
            return Err(Problem::new("InvalidKind", codes::UNKNOWN_REFERENT, field, message));
        }
        if !self.may_refer(kind, &place) {
            return Err(self.not_permitted(kind.1, &place, field));
        }
        if kind.0 == OURS {
            return self.own_backend(place, field);
        }
        self.service(place, reference.port.unwrap_or_default(), field)
    }

    fn own_backend(&self, place: Place, field: &str) -> Result<Destination, Problem> {
        let Some(backend) = self.model.backends.get(&place) else {
            let help = did_you_mean(&place.name, names(&self.model.backends, &place.namespace));
            return Err(missing(format!("Backend {place} does not exist"), field).with_help(help));
        };
        let protocol = backend.spec.app_protocol.as_str();
        self.destination(Target::Backend(place), protocol, field)
    }

    fn service(&self, place: Place, port: u16, field: &str) -> Result<Destination, Problem> {
        let Some(service) = self.model.services.get(&place) else {
            let help = if self.model.backends.contains_key(&place) {
                let help = "there is a Backend of this name: give group: weighlock.dev and \
                            kind: Backend, and no port";
                Some(help.to_owned())
            } else {
                did_you_mean(&place.name, names(&self.model.services, &place.namespace))
            };
            return Err(missing(format!("Service {place} does not exist"), field).with_help(help));
        };
        if service.spec.service_type == "ExternalName" {
            let message = format!("Service {place} is of type ExternalName: use a Backend");
            return Err(Problem::new("UnsupportedValue", codes::NOT_SUPPORTED, field, message));
        }
        let Some(known) = service.port(port) else {
            let ports = service.spec.ports.iter().map(|known| known.port.to_string());
            let ports = ports.collect::<Vec<_>>().join(", ");
            let message = format!("Service {place} has no port {port}");
            let field = format!("{field}.port");
            let problem = Problem::new("BackendNotFound", codes::BACKEND_MISSING, field, message);
            return Err(problem.with_help(Some(format!("its ports are {ports}"))));
        };
        if known.protocol != "TCP" {
            let message =
                format!("port {port} of Service {place} is of protocol {}", known.protocol);
            return Err(Problem::new("UnsupportedProtocol", codes::NOT_SUPPORTED, field, message));
        }
        self.destination(Target::Service(place, port), &known.app_protocol, field)
    }

    /// A target that says that it speaks `protocol`.
    fn destination(
        &self,
        target: Target,
        protocol: &str,
        field: &str,
    ) -> Result<Destination, Problem> {
        let unsupported = |why: &str| {
            let message = format!("{} speaks {protocol}, {why}", target.object());
            Err(Problem::new("UnsupportedProtocol", codes::NOT_SUPPORTED, field, message))
        };
        match protocol {
            "" | "http" | "grpc" | "kubernetes.io/h2c" => {}
            "kubernetes.io/ws" if self.kind != "GRPCRoute" => {}
            // Connections are carried whatever is spoken in them.
            _ if matches!(self.kind, "TLSRoute" | "TCPRoute") => {}
            "kubernetes.io/ws" => return unsupported("which carries no gRPC"),
            "https" | "kubernetes.io/wss" => {
                return unsupported("which needs a BackendTLSPolicy, and that is not supported");
            }
            _ => return unsupported("which no route here carries"),
        }
        let speaks_http2 = matches!(protocol, "grpc" | "kubernetes.io/h2c");
        Ok(Destination { target, speaks_http2, speaks_tls: false })
    }

    /// The ConfigMap with certificates of authorities that a reference leads to.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn authority(&self, reference: &Reference, field: &str) -> Result<Place, Problem> {
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace);
        let place = Place::new(namespace, &reference.name);
        let kind = (reference.group.as_str(), reference.kind.as_str());
        if kind != ("", "ConfigMap") {
            let message = format!("{} {} holds no authorities", named(kind.0), kind.1);
            let (reason, code) = ("InvalidCACertificateKind", codes::UNKNOWN_REFERENT);
            return Err(Problem::new(reason, code, field, message));
        }
        if !self.may_refer(kind, &place) {
            return Err(self.not_permitted(kind.1, &place, field));
        }
        let invalid =
            |code, message: String| Problem::new("InvalidCACertificateRef", code, field, message);
        let Some(map) = self.model.config_maps.get(&place) else {
            let help = did_you_mean(&place.name, names(&self.model.config_maps, namespace));
            let message = format!("ConfigMap {place} does not exist");
            return Err(invalid(codes::SECRET_MISSING, message).with_help(help));
        };
        map.authorities().map(|_| place.clone()).map_err(|reason| {
            invalid(codes::BAD_CERTIFICATE, format!("ConfigMap {place}: {AUTHORITIES}: {reason}"))
        })
    }

    /// The secret with a certificate that a reference leads to.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn certificate(&self, reference: &Reference, field: &str) -> Result<Place, Problem> {
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace);
        let place = Place::new(namespace, &reference.name);
        let invalid = |code, message: String| {
            Problem::new("InvalidCertificateRef", code, field.to_owned(), message)
        };
        let kind = (reference.group.as_str(), reference.kind.as_str());
        if kind != ("", "Secret") {
            let message = format!("{} {} is no kind of certificate", named(kind.0), kind.1);
            return Err(invalid(codes::UNKNOWN_REFERENT, message));
        }
        if !self.may_refer(kind, &place) {
            return Err(self.not_permitted(kind.1, &place, field));
        }
        let Some(secret) = self.model.secrets.get(&place) else {
            let help = did_you_mean(&place.name, names(&self.model.secrets, namespace));
            let message = format!("Secret {place} does not exist");
            return Err(invalid(codes::SECRET_MISSING, message).with_help(help));
        };
        if secret.secret_type != TLS {
            let message = format!("Secret {place} is not of type {TLS}");
            return Err(invalid(codes::BAD_CERTIFICATE, message));
        }
        secret.tls_pair().map(|_| place.clone()).map_err(|bad| {
            let message = format!("Secret {place}: {}: {}", bad.key, bad.reason);
            invalid(codes::BAD_CERTIFICATE, message)
        })
    }
}

/// A backend that is not there.
fn missing(message: String, field: &str) -> Problem {
    let field = format!("{field}.name");
    Problem::new("BackendNotFound", codes::BACKEND_MISSING, field, message)
}

/// Names of objects in a namespace.
fn names<'a, T>(
    objects: &'a BTreeMap<Place, T>,
    namespace: &'a str,
) -> impl Iterator<Item = &'a str> {
    let inside = move |place: &&Place| place.namespace == namespace;
    objects.keys().filter(inside).map(|place| place.name.as_str())
}

/// A group for people: the core group has no name.
fn named(group: &str) -> &str {
    if group.is_empty() { "core" } else { group }
}
