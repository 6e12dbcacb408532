//! Types of resources, and a resource as a name, a version and bytes that nobody encodes twice.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::{Message, Name};

use crate::canonical::{self, CanonicalError};
use crate::descriptor;
use crate::google::protobuf::Any;
use crate::version::Version;

/// The xDS resource types, in make-before-break order: what is used stands before what uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// SDS.
    Secret,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LEDS.
    LbEndpoint,
    /// ECDS.
    ExtensionConfig,
    /// LDS.
    Listener,
    /// SRDS.
    ScopedRoute,
    /// RDS.
    Route,
    /// VHDS.
    VirtualHost,
    /// RTDS.
    Runtime,
}

impl ResourceType {
    /// All types, in make-before-break order.
    pub const ALL: [Self; 10] = [
        Self::Secret,
        Self::Cluster,
        Self::Endpoints,
        Self::LbEndpoint,
        Self::ExtensionConfig,
        Self::Listener,
        Self::ScopedRoute,
        Self::Route,
        Self::VirtualHost,
        Self::Runtime,
    ];

    /// The type that this URL names.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// The type with this discovery service name: `CDS`, in any case.
    pub fn from_short_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.short_name().eq_ignore_ascii_case(name))
    }

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::LbEndpoint => "type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint",
            Self::ExtensionConfig => {
                "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
            }
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::ScopedRoute => {
                "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
            }
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        }
    }

    /// The discovery service that carries it, as people write it.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Secret => "SDS",
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::LbEndpoint => "LEDS",
            Self::ExtensionConfig => "ECDS",
            Self::Listener => "LDS",
            Self::ScopedRoute => "SRDS",
            Self::Route => "RDS",
            Self::VirtualHost => "VHDS",
            Self::Runtime => "RTDS",
        }
    }

    /// Whether a first request without names asks for everything.
    pub fn is_wildcard_by_default(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster | Self::ScopedRoute | Self::Runtime)
    }

    /// Whether a state-of-the-world response holds every resource, so that a missing one is gone.
    pub fn is_complete_in_sotw(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster | Self::ScopedRoute)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short_name())
    }
}

/// A resource in the form in which it travels: bytes, and what one must know without decoding them.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// What it is.
    pub kind: ResourceType,
    /// Its name, unique within the type.
    pub name: Arc<str>,
    /// The hash of its bytes, or what a foreign server calls them.
    pub version: Version,
    /// The encoded message.
    pub body: Bytes,
}

/// The resource cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// No xDS type has this URL.
    #[error("{0} is no resource type")]
    UnknownType(String),
    /// Resources are addressed by their names.
    #[error("name: required")]
    Unnamed,
    /// The bytes do not decode.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

impl Resource {
    /// Packs a message that we made: canonical bytes, and their hash as version.
    ///
    /// # Errors
    /// When the message is no resource or has no name.
    pub fn pack<M: Message + Name>(message: &M) -> Result<Self, ResourceError> {
        Self::from_bytes(&M::type_url(), &message.encode_to_vec())
    }

    /// Takes in a message by type URL: canonical bytes, and their hash as version.
    ///
    /// # Errors
    /// When it is no resource, has no name or does not decode.
    pub fn from_bytes(type_url: &str, bytes: &[u8]) -> Result<Self, ResourceError> {
        let unknown = || ResourceError::UnknownType(type_url.to_owned());
        let kind = ResourceType::from_type_url(type_url).ok_or_else(unknown)?;
        let descriptor = descriptor::by_type_url(type_url).ok_or_else(unknown)?;
        let body = canonical::canonical(&descriptor, bytes)?;
        let name = name_of(&body)?;
        Ok(Self { kind, name, version: Version::of_bytes(&body), body })
    }

    /// The message, packed for the wire.
    pub fn to_any(&self) -> Any {
        Any { type_url: self.kind.type_url().to_owned(), value: self.body.to_vec() }
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// When the bytes are no `M`.
    pub fn decode<M: Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.body.clone())
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body may be a private key.
        write!(f, "{} {:?} {}", self.kind, self.name, self.version)
    }
}

/// The name that the bytes of a resource carry: field 1 in every named type.
///
/// # Errors
/// When there is none, or the bytes do not decode.
pub fn name_of(body: &[u8]) -> Result<Arc<str>, ResourceError> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    let named = Named::decode(body).map_err(|error| CanonicalError::Decode(error.to_string()))?;
    if named.name.is_empty() { Err(ResourceError::Unnamed) } else { Ok(named.name.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::config::endpoint::v3::ClusterLoadAssignment;

    #[test]
    fn every_type_has_a_descriptor() {
        for kind in ResourceType::ALL {
            assert!(descriptor::by_type_url(kind.type_url()).is_some(), "{kind}");
            assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
            assert_eq!(ResourceType::ALL[kind.index()], kind);
        }
    }

    #[test]
    fn what_is_used_comes_first() {
        assert!(ResourceType::Cluster < ResourceType::Endpoints);
        assert!(ResourceType::Endpoints < ResourceType::Listener);
        assert!(ResourceType::Listener < ResourceType::Route);
        assert!(ResourceType::Secret < ResourceType::Listener);
    }

    #[test]
    fn a_packed_resource_knows_its_name() {
        let cluster = Cluster { name: "a".into(), ..Default::default() };
        let resource = Resource::pack(&cluster).unwrap();
        assert_eq!((&*resource.name, resource.kind), ("a", ResourceType::Cluster));
        assert_eq!(resource.decode::<Cluster>().unwrap(), cluster);
        let endpoints = ClusterLoadAssignment { cluster_name: "e".into(), ..Default::default() };
        assert_eq!(&*Resource::pack(&endpoints).unwrap().name, "e");
        assert_eq!(Resource::pack(&Cluster::default()), Err(ResourceError::Unnamed));
    }
}
