//! Discovery responses without their resources, which follow encoded: the wire format of Envoy's messages.

/// `envoy.service.discovery.v3.DiscoveryResponse`, without `resources`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    /// The version of all resources of the type.
    #[prost(string, tag = "1")]
    pub version_info: String,
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

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`, without `resources`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// The version of all resources of the type; for people.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
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
    use bytes::BytesMut;
    use prost::Message;
    use xds_proto::envoy::service::discovery::v3 as envoy;
    use xds_proto::google::protobuf::Any;

    use crate::snapshot::table::{RESOURCES_TAG, put_field};

    fn with_resource(head: &impl Message, resource: &impl Message) -> Vec<u8> {
        let mut bytes = BytesMut::from(&*head.encode_to_vec());
        put_field(RESOURCES_TAG, &resource.encode_to_vec(), &mut bytes);
        bytes.to_vec()
    }

    #[test]
    fn it_reads_as_envoys_messages() {
        let any = Any { type_url: "t".into(), value: vec![1, 2, 3] };
        let control_plane = Some(ControlPlane { identifier: "me".into() });
        let ours = DiscoveryResponse {
            version_info: "v".into(),
            type_url: "t".into(),
            nonce: "1".into(),
            control_plane: control_plane.clone(),
        };
        let ours = with_resource(&ours, &any);
        let theirs = envoy::DiscoveryResponse::decode(&*ours).unwrap();
        assert_eq!(theirs.resources, std::slice::from_ref(&any));
        assert_eq!(theirs.encode_to_vec().len(), ours.len());

        let resource =
            envoy::Resource { name: "a".into(), resource: Some(any), ..Default::default() };
        let ours = DeltaDiscoveryResponse {
            system_version_info: "v".into(),
            type_url: "t".into(),
            nonce: "1".into(),
            removed_resources: vec!["b".into()],
            control_plane,
        };
        let ours = with_resource(&ours, &resource);
        let theirs = envoy::DeltaDiscoveryResponse::decode(&*ours).unwrap();
        assert_eq!(theirs.resources, [resource]);
        assert_eq!(theirs.encode_to_vec().len(), ours.len());
        assert_eq!(theirs.removed_resources, ["b"]);
    }
}
