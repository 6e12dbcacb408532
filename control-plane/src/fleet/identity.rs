//! Who a node says it is.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::config::core::v3::node::UserAgentVersionType;

/// What kind of client a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Our own proxy.
    Weighlock,
    /// Envoy.
    Envoy,
    /// A proxyless gRPC client.
    Grpc,
    /// Something else.
    #[default]
    Unknown,
}

impl NodeKind {
    /// The kind that a user agent name stands for.
    pub fn from_user_agent(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        if name == "weighlock" {
            Self::Weighlock
        } else if name == "envoy" {
            Self::Envoy
        } else if name.starts_with("grpc") {
            Self::Grpc
        } else {
            Self::Unknown
        }
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weighlock => "weighlock",
            Self::Envoy => "envoy",
            Self::Grpc => "grpc",
            Self::Unknown => "unknown",
        })
    }
}

/// Who a node says it is, in the first request of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Its id.
    pub node: Arc<str>,
    /// Its cluster, which is its fleet.
    pub cluster: Arc<str>,
    /// What kind of client it is.
    pub kind: NodeKind,
    /// The client's own version, empty where it says none.
    pub version: String,
    /// What it says it can do.
    pub features: Vec<String>,
}

impl Identity {
    /// Reads what a request says.
    pub fn of(node: &Node) -> Self {
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(text)) => text.clone(),
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
                .version
                .as_ref()
                .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
                .unwrap_or_default(),
            None => String::new(),
        };
        Self {
            node: node.id.as_str().into(),
            cluster: node.cluster.as_str().into(),
            kind: NodeKind::from_user_agent(&node.user_agent_name),
            version,
            features: node.client_features.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_the_user_agent() {
        for (name, kind) in [
            ("weighlock", NodeKind::Weighlock),
            ("envoy", NodeKind::Envoy),
            ("gRPC C-core linux", NodeKind::Grpc),
            ("gRPC Node Pure JS", NodeKind::Grpc),
            ("conformance", NodeKind::Unknown),
            ("", NodeKind::Unknown),
        ] {
            assert_eq!(NodeKind::from_user_agent(name), kind, "{name}");
        }
    }

    #[test]
    fn a_build_version_becomes_text() {
        use xds_proto::envoy::config::core::v3::BuildVersion;
        use xds_proto::envoy::r#type::v3::SemanticVersion;
        let version = SemanticVersion { major_number: 1, minor_number: 40, patch: 2 };
        let build = BuildVersion { version: Some(version), metadata: None };
        let node = Node {
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build)),
            ..Default::default()
        };
        assert_eq!(Identity::of(&node).version, "1.40.2");
    }
}
