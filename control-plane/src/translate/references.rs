//! References between objects: whether they are permitted, and what they lead to.

use crate::finding::codes;
use crate::finding::suggest::did_you_mean;
use crate::model::Model;
use crate::model::gateway::SecretRef;
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
        let found = self.model.backends.get(&place);
        let Some(backend) = found.filter(|_| kind.0 == OURS) else {
            let help = match found {
                Some(_) => Some(
                    "there is a Backend of this name: give group: weighlock.dev and \
                                 kind: Backend, and no port"
                        .to_owned(),
                ),
                None => did_you_mean(&place.name, self.names(namespace)),
            };
            let message = format!("{} {place} does not exist", kind.1);
            let field = format!("{field}.name");
            let problem = Problem::new("BackendNotFound", codes::BACKEND_MISSING, field, message);
            return Err(problem.with_help(help));
        };
        let protocol = backend.spec.app_protocol.as_str();
        if matches!(protocol, "https" | "kubernetes.io/wss") {
            let message = format!(
                "Backend {place} speaks {protocol}, which needs a BackendTLSPolicy, and that is not \
                 supported"
            );
            return Err(Problem::new("UnsupportedProtocol", codes::NOT_SUPPORTED, field, message));
        }
        if self.kind == "GRPCRoute" && protocol == "kubernetes.io/ws" {
            let message = format!("Backend {place} speaks {protocol}, which carries no gRPC");
            return Err(Problem::new("UnsupportedProtocol", codes::CONTRADICTION, field, message));
        }
        Ok(Destination {
            target: Target::Backend(place),
            speaks_http2: matches!(protocol, "grpc" | "kubernetes.io/h2c"),
            speaks_tls: false,
        })
    }

    /// Names of backends in a namespace.
    fn names<'b>(&'b self, namespace: &'b str) -> impl Iterator<Item = &'b str> {
        let inside = move |place: &&Place| place.namespace == namespace;
        self.model.backends.keys().filter(inside).map(|place| place.name.as_str())
    }

    /// The secret with a certificate that a reference leads to.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn certificate(&self, reference: &SecretRef, field: &str) -> Result<Place, Problem> {
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
            let inside = |other: &&Place| other.namespace == namespace;
            let names = self.model.secrets.keys().filter(inside).map(|place| place.name.as_str());
            let message = format!("Secret {place} does not exist");
            return Err(
                invalid(codes::SECRET_MISSING, message).with_help(did_you_mean(&place.name, names))
            );
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

/// A group for people: the core group has no name.
fn named(group: &str) -> &str {
    if group.is_empty() { "core" } else { group }
}
