//! What the config loop knows, for people to look at.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use xds_proto::resource::ResourceType;

use crate::xds::cache::{Cache, Entry};
use crate::xds::subscription::Wanted;

/// A copy of what the config loop knows; resources are shared.
#[derive(Debug, Clone)]
pub struct Dump {
    /// The resources.
    pub cache: Cache,
    /// What is asked for.
    pub wanted: Wanted,
    /// What the control plane says does not exist.
    pub absent: HashSet<(ResourceType, Arc<str>)>,
    /// The addresses that listeners have.
    pub listening: BTreeMap<Arc<str>, SocketAddr>,
}

impl Dump {
    /// One entry a resource, in the words of Envoy's client status discovery service. Secrets are
    /// left out.
    pub fn to_json(&self) -> Value {
        let mut configs = Vec::new();
        for kind in ResourceType::ALL {
            let known = self.cache.of(kind);
            configs.extend(known.iter().map(|(name, entry)| self.known(kind, name, entry)));
            let missing =
                self.wanted.of(kind).names.iter().filter(|name| !known.contains_key(*name));
            configs.extend(missing.map(|name| {
                let is_absent = self.absent.contains(&(kind, Arc::clone(name)));
                let status = if is_absent { "DOES_NOT_EXIST" } else { "REQUESTED" };
                json!({"type_url": kind.type_url(), "name": &**name, "client_status": status})
            }));
        }
        json!({ "configs": configs })
    }

    fn known(&self, kind: ResourceType, name: &str, entry: &Entry) -> Value {
        let changed = OffsetDateTime::from(entry.changed).format(&Rfc3339).unwrap_or_default();
        let mut value = json!({"type_url": kind.type_url(), "name": name});
        let status = if entry.refused.is_some() { "NACKED" } else { "ACKED" };
        value["client_status"] = status.into();
        value["last_updated"] = changed.into();
        if let Some(resource) = &entry.applied {
            value["version_info"] = resource.version.as_str().into();
            let config = xds_proto::json::any_to_redacted_json(kind.type_url(), &resource.body);
            value["xds_config"] = config.unwrap_or_else(|error| error.to_string().into());
        }
        if let Some(refusal) = &entry.refused {
            value["error_state"] = json!({
                "version_info": refusal.version.as_str(),
                "details": refusal.error,
            });
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use xds_proto::envoy::config::cluster::v3::Cluster;
    use xds_proto::field::{At, FieldError};
    use xds_proto::resource::Resource;

    use super::*;
    use crate::compile::Rejected;

    #[test]
    fn each_resource_says_what_became_of_it() {
        let pack = |name: &str| {
            Resource::pack(&Cluster { name: name.into(), ..Cluster::default() }).unwrap()
        };
        let mut cache = Cache::default();
        cache.record(&[pack("a")], &[], SystemTime::UNIX_EPOCH);
        let rejected = [Rejected { name: "b".into(), error: FieldError::required().at("x") }];
        cache.record(&[pack("b")], &rejected, SystemTime::UNIX_EPOCH);
        let mut wanted = Wanted::default();
        wanted.of_mut(ResourceType::Endpoints).names.extend(["e".into(), "f".into()]);
        let absent = [(ResourceType::Endpoints, "f".into())].into();
        let dump = Dump { cache, wanted, absent, listening: BTreeMap::new() };
        let json = dump.to_json();
        let status: Vec<_> = json["configs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (c["name"].as_str().unwrap(), c["client_status"].as_str().unwrap()))
            .collect();
        assert_eq!(
            status,
            [("a", "ACKED"), ("b", "NACKED"), ("e", "REQUESTED"), ("f", "DOES_NOT_EXIST")]
        );
        assert_eq!(json["configs"][0]["xds_config"]["name"], "a");
        assert_eq!(json["configs"][1]["error_state"]["details"], "x: required");
    }
}
