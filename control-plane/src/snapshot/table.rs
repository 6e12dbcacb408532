//! The resources of one type, sorted by name, each encoded once for every stream.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{self, WireType};
use xds_proto::envoy::config::route::v3::VirtualHost;
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

use crate::snapshot::references::{self, Use};

/// The resources of one type.
#[derive(Debug)]
pub struct TypeTable {
    entries: Box<[Arc<Entry>]>,
    version: Version,
    /// The same for every table with the same names that follows.
    names: Arc<[Arc<str>]>,
    /// Other names of virtual hosts, and their places.
    aliases: HashMap<Arc<str>, usize>,
    step: Option<Step>,
    /// All resources as fields of a response, for the streams that begin with nothing.
    whole: [OnceLock<Bytes>; 2],
}

/// What differs from the table before.
#[derive(Debug)]
struct Step {
    before: Weak<TypeTable>,
    /// What is new or has changed.
    set: Box<[Arc<Entry>]>,
}

/// In which of the two forms responses hold resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As `google.protobuf.Any`, for state-of-the-world responses.
    Any,
    /// As `envoy.service.discovery.v3.Resource`, for incremental ones.
    Wrapped,
}

impl Default for TypeTable {
    fn default() -> Self {
        Self::new(Box::default(), Arc::default(), None)
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
        let is_known = |entry: &&Arc<Entry>| {
            previous.get(&entry.name).is_some_and(|known| Arc::ptr_eq(known, entry))
        };
        let set: Box<[_]> = entries.iter().filter(|entry| !is_known(entry)).cloned().collect();
        if set.is_empty() && entries.len() == previous.entries.len() {
            return previous.clone();
        }
        let names = entries.iter().map(|entry| &entry.name);
        let names = if names.clone().eq(previous.names.iter()) {
            previous.names.clone()
        } else {
            names.cloned().collect()
        };
        let keeps_all = previous
            .names
            .iter()
            .all(|name| entries.binary_search_by(|entry| entry.name.cmp(name)).is_ok());
        let step = keeps_all.then(|| Step { before: Arc::downgrade(previous), set });
        Arc::new(Self::new(entries, names, step))
    }

    fn new(entries: Box<[Arc<Entry>]>, names: Arc<[Arc<str>]>, step: Option<Step>) -> Self {
        let version = version_of(&entries);
        let aliases = entries.iter().enumerate().flat_map(|(place, entry)| {
            entry.aliases.iter().map(move |alias| (alias_key(alias).into(), place))
        });
        let aliases = aliases.collect();
        Self { entries, version, names, aliases, step, whole: Default::default() }
    }

    /// The virtual host for `TABLE/HOST`, by one of its domains in Envoy's order: exact, the longest
    /// suffix, the longest prefix, any.
    pub fn host(&self, name: &str) -> Option<&Arc<Entry>> {
        if self.aliases.is_empty() {
            return None;
        }
        let name = alias_key(name);
        let (table, host) = name.rsplit_once('/')?;
        let find = |parts: [&str; 2]| {
            let alias = [table, "/", parts[0], parts[1]].concat();
            self.entries.get(*self.aliases.get(&*alias)?)
        };
        let places = || (1..host.len()).filter(|place| host.is_char_boundary(*place));
        find([host, ""])
            .or_else(|| places().find_map(|place| find(["*", &host[place..]])))
            .or_else(|| places().rev().find_map(|place| find([&host[..place], "*"])))
            .or_else(|| find(["*", ""]))
    }

    /// What is new or has changed since `before`, sorted by name, where that is the table before
    /// this one and nothing of it is gone.
    pub fn set_since(&self, before: &Arc<Self>) -> Option<&[Arc<Entry>]> {
        let step = self.step.as_ref()?;
        std::ptr::eq(step.before.as_ptr(), Arc::as_ptr(before)).then_some(&*step.set)
    }

    /// All names, sorted.
    pub fn names(&self) -> &Arc<[Arc<str>]> {
        &self.names
    }

    /// All resources, as the fields of a response that hold them. Encoded once.
    pub fn whole(&self, form: Form) -> &Bytes {
        self.whole[form as usize].get_or_init(|| {
            let bytes = self.entries.iter().map(|entry| entry.in_form(form));
            let mut whole = BytesMut::with_capacity(
                bytes.clone().map(|bytes| field_len(RESOURCES_TAG, bytes.len())).sum(),
            );
            for bytes in bytes {
                put_field(RESOURCES_TAG, &bytes, &mut whole);
            }
            whole.freeze()
        })
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

/// The field of both kinds of response that holds the resources.
pub const RESOURCES_TAG: u32 = 2;

/// `TABLE/HOST` with the host in lower case: hosts have no case, tables have.
fn alias_key(alias: &str) -> String {
    match alias.rsplit_once('/') {
        Some((table, host)) => [table, "/", &host.to_ascii_lowercase()].concat(),
        None => alias.to_owned(),
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
    /// The names under which a client may ask for it beside its own.
    aliases: Box<[Box<str>]>,
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
        let (name, version) = (resource.name, resource.version);
        Self { name, version, uses, aliases, wrapped, any_at, body_at }
    }

    /// What a client told us it has, of which we know no more than the version.
    pub fn foreign(name: Arc<str>, version: &str) -> Self {
        Self {
            name,
            version: Version::foreign(version),
            uses: Box::default(),
            aliases: Box::default(),
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

    /// As [`Self::wrapped`], with more names that it is asked for by.
    pub fn wrapped_with(&self, aliases: &[Arc<str>]) -> Bytes {
        let length: usize = aliases.iter().map(|alias| field_len(4, alias.len())).sum();
        let mut wrapped = BytesMut::with_capacity(self.wrapped.len() + length);
        wrapped.put_slice(&self.wrapped);
        aliases.iter().for_each(|alias| put_field(4, alias.as_bytes(), &mut wrapped));
        wrapped.freeze()
    }

    /// The encoded `google.protobuf.Any`, as state-of-the-world responses hold it.
    pub fn any(&self) -> Bytes {
        self.wrapped.slice(self.any_at..)
    }

    /// In the form that responses of a protocol hold it.
    pub fn in_form(&self, form: Form) -> Bytes {
        match form {
            Form::Any => self.any(),
            Form::Wrapped => self.wrapped(),
        }
    }

    /// The encoded resource itself.
    pub fn body(&self) -> Bytes {
        self.wrapped.slice(self.body_at..)
    }
}

/// The names under which a client may ask for a virtual host: one for each domain.
fn aliases(resource: &Resource) -> Box<[Box<str>]> {
    if resource.kind != ResourceType::VirtualHost {
        return Box::default();
    }
    let Some((table, _)) = resource.name.rsplit_once('/') else { return Box::default() };
    let Ok(host) = VirtualHost::decode(resource.body.clone()) else { return Box::default() };
    host.domains.iter().map(|domain| format!("{table}/{domain}").into()).collect()
}

/// How long a length-delimited field is on the wire.
pub fn field_len(tag: u32, len: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len
}

/// Encodes a length-delimited field.
pub fn put_field(tag: u32, bytes: &[u8], out: &mut BytesMut) {
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
    fn a_table_knows_what_differs_from_the_one_before() {
        let cluster = |name: &str, alt: &str| {
            let message =
                Cluster { name: name.into(), alt_stat_name: alt.into(), ..Default::default() };
            Resource::pack(&message).unwrap()
        };
        let first = TypeTable::next(&Arc::default(), vec![cluster("a", ""), cluster("b", "")]);
        let second = TypeTable::next(&first, vec![cluster("a", ""), cluster("b", "x")]);
        let set = second.set_since(&first).unwrap();
        assert_eq!(set.iter().map(|entry| &*entry.name).collect::<Vec<_>>(), ["b"]);
        assert!(Arc::ptr_eq(first.names(), second.names()));
        let third = TypeTable::next(&second, vec![cluster("b", "x")]);
        assert!(third.set_since(&second).is_none(), "something is gone");
        assert!(third.set_since(&first).is_none(), "another table stands between");
        assert_eq!(third.names().len(), 1);
    }

    #[test]
    fn the_whole_table_reads_as_the_resources_of_a_response() {
        use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
        let names = ["a", "b"].map(|name| {
            Resource::pack(&Cluster { name: name.into(), ..Default::default() }).unwrap()
        });
        let table = TypeTable::next(&Arc::default(), names.to_vec());
        let sotw = DiscoveryResponse::decode(table.whole(Form::Any).clone()).unwrap();
        assert_eq!(sotw.resources, names.clone().map(|resource| resource.to_any()));
        let delta = DeltaDiscoveryResponse::decode(table.whole(Form::Wrapped).clone()).unwrap();
        let read: Vec<_> = delta.resources.iter().map(|resource| resource.name.as_str()).collect();
        assert_eq!(read, ["a", "b"]);
    }

    #[test]
    fn a_host_is_found_by_its_domains_in_the_order_of_envoy() {
        let host = |name: &str, domains: &[&str]| {
            let domains = domains.iter().map(ToString::to_string).collect();
            let host = VirtualHost { name: name.into(), domains, ..Default::default() };
            Resource::pack(&host).unwrap()
        };
        let hosts = vec![
            host("r/a", &["a.test", "B.test"]),
            host("r/b", &["*.b.test", "*-b.test"]),
            host("r/c", &["*.test", "c.*"]),
            host("q/d", &["*"]),
        ];
        let table = TypeTable::next(&Arc::default(), hosts);
        for (name, want) in [
            ("r/a.test", Some("r/a")),
            ("r/b.test", Some("r/a")),
            ("r/x.b.test", Some("r/b")),
            ("r/x-b.test", Some("r/b")),
            ("r/x.test", Some("r/c")),
            ("r/c.other", Some("r/c")),
            ("r/.test", None),
            ("r/x.other", None),
            ("q/x", Some("q/d")),
            ("s/x", None),
            ("x", None),
        ] {
            assert_eq!(table.host(name).map(|entry| &*entry.name), want, "{name}");
        }
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
