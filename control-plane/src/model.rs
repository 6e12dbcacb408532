//! Documents as typed, checked objects: what translation reads.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::finding::{Finding, Severity, codes};

pub mod kind;
pub mod backend;
pub mod service;
pub mod endpointslice;
pub mod configmap;
pub mod gateway;
pub mod gatewayclass;
pub mod httproute;
pub mod grpcroute;
pub mod l4route;
pub mod listenerset;
pub mod rule;
pub mod filter;
pub mod route;
pub mod namespace;
pub mod referencegrant;
pub mod secret;
pub mod meta;
pub mod regex;
pub mod schema;
pub mod text;
pub mod duration;

use backend::Backend;
use configmap::ConfigMap;
use endpointslice::EndpointSlice;
use gateway::Gateway;
use gatewayclass::GatewayClass;
use grpcroute::GrpcRoute;
use httproute::HttpRoute;
use kind::Kind;
use l4route::L4Route;
use listenerset::ListenerSet;
use meta::Place;
use namespace::Namespace;
use referencegrant::ReferenceGrant;
use secret::Secret;
use service::Service;

/// All objects, by place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    /// GatewayClass.
    pub classes: BTreeMap<Place, GatewayClass>,
    /// Gateway.
    pub gateways: BTreeMap<Place, Gateway>,
    /// HTTPRoute.
    pub http_routes: BTreeMap<Place, HttpRoute>,
    /// GRPCRoute.
    pub grpc_routes: BTreeMap<Place, GrpcRoute>,
    /// TLSRoute.
    pub tls_routes: BTreeMap<Place, L4Route>,
    /// TCPRoute.
    pub tcp_routes: BTreeMap<Place, L4Route>,
    /// ListenerSet.
    pub listener_sets: BTreeMap<Place, ListenerSet>,
    /// Backend.
    pub backends: BTreeMap<Place, Backend>,
    /// Service.
    pub services: BTreeMap<Place, Service>,
    /// EndpointSlice, by service.
    pub slices: BTreeMap<Place, Vec<EndpointSlice>>,
    /// ConfigMap.
    pub config_maps: BTreeMap<Place, ConfigMap>,
    /// Secret.
    pub secrets: BTreeMap<Place, Secret>,
    /// ReferenceGrant.
    pub grants: BTreeMap<Place, ReferenceGrant>,
    /// Namespace.
    pub namespaces: BTreeMap<Place, Namespace>,
    /// What could not be read: documents that were never checked.
    pub unreadable: Vec<Finding>,
}

impl Model {
    /// Reads documents that [`Kind::check`] has checked and filled in.
    pub fn from_objects<'a>(objects: impl IntoIterator<Item = (&'a Kind, &'a Value)>) -> Self {
        let mut model = Self::default();
        for (kind, document) in objects {
            model.add(kind, document);
        }
        model
    }

    fn add(&mut self, kind: &Kind, document: &Value) {
        let place = Place::new(
            document["metadata"]["namespace"].as_str().unwrap_or_default(),
            document["metadata"]["name"].as_str().unwrap_or_default(),
        );
        let read = match kind.kind {
            "GatewayClass" => put(&mut self.classes, place, document),
            "Gateway" => put(&mut self.gateways, place, document),
            "HTTPRoute" => put(&mut self.http_routes, place, document),
            "GRPCRoute" => put(&mut self.grpc_routes, place, document),
            "TLSRoute" => put(&mut self.tls_routes, place, document),
            "TCPRoute" => put(&mut self.tcp_routes, place, document),
            "ListenerSet" => put(&mut self.listener_sets, place, document),
            "Backend" => put(&mut self.backends, place, document),
            "Service" => put(&mut self.services, place, document),
            "EndpointSlice" => EndpointSlice::deserialize(document).map(|slice| {
                if let Some(service) = slice.service() {
                    self.slices.entry(service).or_default().push(slice);
                }
            }),
            "ConfigMap" => put(&mut self.config_maps, place, document),
            "Secret" => put(&mut self.secrets, place, document),
            "ReferenceGrant" => put(&mut self.grants, place, document),
            "Namespace" => put(&mut self.namespaces, place, document),
            _ => Ok(()),
        };
        if let Err(error) = read {
            self.unreadable.push(Finding {
                code: codes::WRONG_TYPE,
                severity: Severity::Error,
                object: format!("{} {}", kind.kind, kind::name_of(document)),
                field: String::new(),
                message: error.to_string(),
                help: None,
            });
        }
    }

    /// The labels of a namespace; each carries its name, whether it has a document or not.
    pub fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let document = self.namespaces.get(&Place::new("", namespace));
        let mut labels = document.map(|n| n.metadata.labels.clone()).unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
        labels
    }
}

fn put<T: DeserializeOwned>(
    objects: &mut BTreeMap<Place, T>,
    place: Place,
    document: &Value,
) -> Result<(), serde_json::Error> {
    objects.insert(place, T::deserialize(document)?);
    Ok(())
}
