//! Discovery responses whose resources are shared bytes: the wire format of Envoy's messages, without a copy per stream.

use bytes::Bytes;

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    /// The version of all resources of the type.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Encoded `google.protobuf.Any`s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// The type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the client names when it answers.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Who sent it.
    #[prost(message, optional, tag = "6")]
    pub control_plane: Option<ControlPlane>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// The version of all resources of the type; for people.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// Encoded `envoy.service.discovery.v3.Resource`s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// The type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the client names when it answers.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// The names of what is gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Who sent it.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
}

/// `envoy.config.core.v3.ControlPlane`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlPlane {
    /// Which control plane this is.
    #[prost(string, tag = "1")]
    pub identifier: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use xds_proto::envoy::service::discovery::v3 as envoy;
    use xds_proto::google::protobuf::Any;

    #[test]
    fn it_reads_as_envoys_messages() {
        let any = Any { type_url: "t".into(), value: vec![1, 2, 3] };
        let control_plane = Some(ControlPlane { identifier: "me".into() });
        let ours = DiscoveryResponse {
            version_info: "v".into(),
            resources: vec![any.encode_to_vec().into()],
            type_url: "t".into(),
            nonce: "1".into(),
            control_plane: control_plane.clone(),
        };
        let theirs = envoy::DiscoveryResponse::decode(&*ours.encode_to_vec()).unwrap();
        assert_eq!(theirs.resources, std::slice::from_ref(&any));
        assert_eq!(theirs.encode_to_vec(), ours.encode_to_vec());

        let resource =
            envoy::Resource { name: "a".into(), resource: Some(any), ..Default::default() };
        let ours = DeltaDiscoveryResponse {
            system_version_info: "v".into(),
            resources: vec![resource.encode_to_vec().into()],
            type_url: "t".into(),
            nonce: "1".into(),
            removed_resources: vec!["b".into()],
            control_plane,
        };
        let theirs = envoy::DeltaDiscoveryResponse::decode(&*ours.encode_to_vec()).unwrap();
        assert_eq!(theirs.resources, [resource]);
        assert_eq!(theirs.encode_to_vec().len(), ours.encode_to_vec().len());
        assert_eq!(theirs.removed_resources, ["b"]);
    }
}
