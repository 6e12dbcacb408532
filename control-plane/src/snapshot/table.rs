//! The resources of one type, sorted by name, each encoded once for every stream.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{self, WireType};
use xds_proto::envoy::config::route::v3::VirtualHost;
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

use crate::snapshot::references::{self, Use};

/// The resources of one type.
#[derive(Debug, Clone)]
pub struct TypeTable {
    entries: Box<[Arc<Entry>]>,
    version: Version,
}

impl Default for TypeTable {
    fn default() -> Self {
        Self { entries: Box::default(), version: Version::of_set([]) }
    }
}

impl TypeTable {
    /// The table that follows `previous`, which is shared as far as nothing changed.
    pub(crate) fn next(previous: &Arc<Self>, mut resources: Vec<Resource>) -> Arc<Self> {
        // Stable, and the later of two with one name is kept.
        resources.reverse();
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        resources.dedup_by(|later, earlier| later.name == earlier.name);
        let unchanged = |resource: &Resource| {
            let entry = previous.get(&resource.name)?;
            (entry.version == resource.version).then(|| entry.clone())
        };
        let entries: Box<[Arc<Entry>]> = resources
            .into_iter()
            .map(|resource| unchanged(&resource).unwrap_or_else(|| Arc::new(Entry::new(resource))))
            .collect();
        let same = entries.len() == previous.entries.len()
            && entries.iter().zip(&previous.entries).all(|(a, b)| Arc::ptr_eq(a, b));
        if same { previous.clone() } else { Arc::new(Self::from_entries(entries)) }
    }

    fn from_entries(entries: Box<[Arc<Entry>]>) -> Self {
        let version = version_of(&entries);
        Self { entries, version }
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        let place = self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.entries.get(place)
    }

    /// All of them, sorted by name.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The version of all of them together.
    pub fn version(&self) -> &Version {
        &self.version
    }
}

/// The version of resources that are sorted by name.
pub fn version_of(entries: &[Arc<Entry>]) -> Version {
    Version::of_set(entries.iter().map(|entry| (&*entry.name, &entry.version)))
}

/// One resource, as every stream sends it.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Version,
    /// What it names.
    pub uses: Box<[Use]>,
    /// An encoded `envoy.service.discovery.v3.Resource`, whose last field is the resource.
    wrapped: Bytes,
    /// Where in `wrapped` the encoded `google.protobuf.Any` starts.
    any_at: usize,
    /// Where in `wrapped` the body starts.
    body_at: usize,
}

impl Entry {
    fn new(resource: Resource) -> Self {
        let uses = references::uses(&resource);
        let aliases = aliases(&resource);
        let type_url = resource.kind.type_url();
        let any_len = field_len(1, type_url.len()) + field_len(2, resource.body.len());
        let mut wrapped = BytesMut::with_capacity(
            any_len + resource.name.len() + resource.version.as_str().len() + 64,
        );
        put_field(1, resource.version.as_str().as_bytes(), &mut wrapped);
        put_field(3, resource.name.as_bytes(), &mut wrapped);
        for alias in &aliases {
            put_field(4, alias.as_bytes(), &mut wrapped);
        }
        encoding::encode_key(2, WireType::LengthDelimited, &mut wrapped);
        encoding::encode_varint(any_len as u64, &mut wrapped);
        let any_at = wrapped.len();
        put_field(1, type_url.as_bytes(), &mut wrapped);
        put_field(2, &resource.body, &mut wrapped);
        let body_at = wrapped.len() - resource.body.len();
        let wrapped = wrapped.freeze();
        Self { name: resource.name, version: resource.version, uses, wrapped, any_at, body_at }
    }

    /// What a client told us it has, of which we know no more than the version.
    pub fn foreign(name: Arc<str>, version: &str) -> Self {
        Self {
            name,
            version: Version::foreign(version),
            uses: Box::default(),
            wrapped: Bytes::new(),
            any_at: 0,
            body_at: 0,
        }
    }

    /// Whether no more is known of it than the version.
    pub fn is_foreign(&self) -> bool {
        self.wrapped.is_empty()
    }

    /// How long it is on the wire.
    pub fn bytes(&self) -> usize {
        self.wrapped.len()
    }

    /// The encoded `envoy.service.discovery.v3.Resource`, as delta responses hold it.
    pub fn wrapped(&self) -> Bytes {
        self.wrapped.clone()
    }

    /// The encoded `google.protobuf.Any`, as state-of-the-world responses hold it.
    pub fn any(&self) -> Bytes {
        self.wrapped.slice(self.any_at..)
    }

    /// The encoded resource itself.
    pub fn body(&self) -> Bytes {
        self.wrapped.slice(self.body_at..)
    }
}

/// The names under which a client may ask for a virtual host: one for each domain.
fn aliases(resource: &Resource) -> Vec<String> {
    if resource.kind != ResourceType::VirtualHost {
        return Vec::new();
    }
    let Some((table, _)) = resource.name.rsplit_once('/') else { return Vec::new() };
    let Ok(host) = VirtualHost::decode(resource.body.clone()) else { return Vec::new() };
    host.domains.iter().map(|domain| format!("{table}/{domain}")).collect()
}

fn field_len(tag: u32, len: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len
}

fn put_field(tag: u32, bytes: &[u8], out: &mut BytesMut) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_proto::envoy::config::cluster::v3::Cluster;
    use xds_proto::envoy::service::discovery::v3::Resource as Wrapped;
    use xds_proto::google::protobuf::Any;

    #[test]
    fn a_resource_is_encoded_once_and_both_protocols_read_it() {
        let resource = Resource::pack(&Cluster { name: "a".into(), ..Default::default() }).unwrap();
        let entry = Entry::new(resource.clone());
        let wrapped = Wrapped::decode(entry.wrapped()).unwrap();
        assert_eq!(wrapped.name, "a");
        assert_eq!(wrapped.version, resource.version.as_str());
        assert_eq!(wrapped.resource, Some(resource.to_any()));
        assert_eq!(Any::decode(entry.any()).unwrap(), resource.to_any());
        assert_eq!(entry.body(), resource.body);
    }

    #[test]
    fn a_virtual_host_can_be_asked_for_by_each_domain() {
        let host = VirtualHost {
            name: "routes/a".into(),
            domains: vec!["a.test".into(), "b.test".into()],
            ..Default::default()
        };
        let entry = Entry::new(Resource::pack(&host).unwrap());
        let wrapped = Wrapped::decode(entry.wrapped()).unwrap();
        assert_eq!(wrapped.aliases, ["routes/a.test", "routes/b.test"]);
    }

    #[test]
    fn the_later_of_two_with_one_name_wins() {
        let cluster = |alt: &str| {
            let message =
                Cluster { name: "a".into(), alt_stat_name: alt.into(), ..Default::default() };
            Resource::pack(&message).unwrap()
        };
        let table = TypeTable::next(&Arc::default(), vec![cluster("1"), cluster("2")]);
        assert_eq!(table.entries().len(), 1);
        assert_eq!(table.get("a").unwrap().version, cluster("2").version);
    }
}
