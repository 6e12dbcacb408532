//! Virtual hosts that come by themselves (VHDS), by the route configuration that they belong to.

use std::collections::BTreeMap;
use std::sync::Arc;

use xds_proto::field::{At, FieldError};
use xds_proto::resource::Resource;
use xds_proto::version::Version;

use crate::compile::Rejected;
use crate::compile::route::{RouteConfig, domain_error};
use crate::route::RouteTable;
use crate::route::virtual_host::VirtualHost;

/// The accepted virtual hosts, by route configuration, then by name.
#[derive(Debug, Default)]
pub(crate) struct VirtualHosts(BTreeMap<Arc<str>, Hosts>);

/// The virtual hosts of one route configuration, by name.
pub(crate) type Hosts = BTreeMap<Arc<str>, Entry>;

/// A virtual host as it came, and compiled.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    resource: Resource,
    host: Arc<VirtualHost>,
}

/// The route configuration that a virtual host belongs to, by its name: what stands before the last
/// slash, since a configuration may have slashes in its name and a host has none.
pub fn table_of(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(table, _)| table)
}

impl VirtualHosts {
    /// Those of a route configuration, by name.
    pub(crate) fn of(&self, table: &str) -> impl Iterator<Item = (&Arc<str>, &Arc<VirtualHost>)> {
        let hosts = self.0.get(table).into_iter().flatten();
        hosts.map(|(name, entry)| (name, &entry.host))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        let hosts = table_of(name).and_then(|table| self.0.get(table));
        hosts.is_some_and(|hosts| hosts.contains_key(name))
    }

    pub(crate) fn versions(&self) -> impl Iterator<Item = (&str, &Version)> {
        let all = self.0.values().flatten();
        all.map(|(name, entry)| (&**name, &entry.resource.version))
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let Some(table) = table_of(name) else { return };
        if let Some(hosts) = self.0.get_mut(table) {
            hosts.remove(name);
            if hosts.is_empty() {
                self.0.remove(table);
            }
        }
    }

    /// Drops those of a route configuration; gives their names.
    pub(crate) fn forget(&mut self, table: &str) -> Vec<Arc<str>> {
        self.0.remove(table).unwrap_or_default().into_keys().collect()
    }

    /// Takes in what is good of `added`; `config` finds a route configuration that asks for hosts.
    /// A domain may move from one host to another within one change.
    pub(crate) fn take<'c>(
        &mut self,
        added: &[Resource],
        config: impl Fn(&str) -> Option<&'c RouteConfig>,
    ) -> Vec<Rejected> {
        let (mut rejected, mut changes) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for resource in added {
            let config = table_of(&resource.name).and_then(&config);
            match self.compile(resource, config) {
                Ok((config, entry)) => {
                    let change = changes.entry(Arc::clone(config.table.name()));
                    change.or_default().push((config, entry));
                }
                Err(error) => {
                    rejected.push(Rejected { name: Arc::clone(&resource.name), error });
                }
            }
        }
        for (table, changed) in changes {
            let hosts = self.0.remove(&table).unwrap_or_default();
            let (hosts, refused) = joined(hosts, changed);
            self.0.insert(table, hosts);
            rejected.extend(refused);
        }
        rejected
    }

    fn compile<'c>(
        &self,
        resource: &Resource,
        config: Option<&'c RouteConfig>,
    ) -> Result<(&'c RouteConfig, Entry), FieldError> {
        let config = config.filter(|config| config.vhds.is_some()).ok_or_else(|| {
            FieldError::invalid("no route configuration that its name begins with has vhds")
        })?;
        let known = self.0.get(config.table.name()).and_then(|hosts| hosts.get(&resource.name));
        let known = known.map(|known| &known.host);
        let host = config.virtual_host(resource.body.clone(), known)?;
        Ok((config, Entry { resource: resource.clone(), host }))
    }

    /// Those of a route configuration as they are under a new form of it.
    ///
    /// # Errors
    /// What is wrong with one of them, which is the fault of the new form.
    pub(crate) fn under(&self, config: &RouteConfig) -> Result<Hosts, FieldError> {
        if config.vhds.is_none() {
            return Ok(Hosts::new());
        }
        let mut hosts = self.0.get(config.table.name()).cloned().unwrap_or_default();
        for (name, entry) in &mut hosts {
            let host = config.virtual_host(entry.resource.body.clone(), Some(&entry.host));
            entry.host = host.at_key(name).at("vhds")?;
        }
        match conflict(config, &hosts) {
            Some((name, error)) => Err(error).at_key(&name).at("vhds"),
            None => Ok(hosts),
        }
    }

    /// Puts those of a route configuration in the place of what it had.
    pub(crate) fn replace(&mut self, table: &Arc<str>, hosts: Hosts) {
        if hosts.is_empty() {
            self.0.remove(table);
        } else {
            self.0.insert(Arc::clone(table), hosts);
        }
    }
}

/// Puts what changed in its place: all of it, or where domains are in the way one by one.
fn joined(hosts: Hosts, changed: Vec<(&RouteConfig, Entry)>) -> (Hosts, Vec<Rejected>) {
    let mut all = hosts.clone();
    let with = |hosts: &mut Hosts, entry: &Entry| {
        hosts.insert(Arc::clone(&entry.resource.name), entry.clone())
    };
    changed.iter().for_each(|(_, entry)| drop(with(&mut all, entry)));
    let Some((config, _)) = changed.first() else { return (hosts, Vec::new()) };
    if conflict(config, &all).is_none() {
        return (all, Vec::new());
    }
    let (mut hosts, mut left) = (hosts, changed);
    loop {
        let (mut refused, before) = (Vec::new(), left.len());
        let mut still = Vec::new();
        for (config, entry) in left {
            let mut next = hosts.clone();
            with(&mut next, &entry);
            match conflict(config, &next) {
                None => hosts = next,
                Some((_, error)) => {
                    let name = Arc::clone(&entry.resource.name);
                    refused.push(Rejected { name, error });
                    still.push((config, entry));
                }
            }
        }
        if still.is_empty() || still.len() == before {
            return (hosts, refused);
        }
        left = still;
    }
}

/// The first virtual host with a domain that is there already, and what is wrong with it.
fn conflict(config: &RouteConfig, hosts: &Hosts) -> Option<(Arc<str>, FieldError)> {
    let own = config.table.virtual_hosts();
    let all = own.iter().chain(hosts.values().map(|entry| &entry.host)).cloned().collect();
    let wrong = RouteTable::new(Arc::clone(&config.table.frame), all, None).err()?;
    let name = wrong.host.checked_sub(own.len()).and_then(|at| hosts.keys().nth(at))?;
    let domain = wrong.domain;
    Some((Arc::clone(name), domain_error(wrong).at_index(domain).at("domains")))
}

#[cfg(test)]
mod tests {
    use xds_proto::resource::ResourceType;

    use super::*;
    use crate::bootstrap::control_plane::Api;
    use crate::compile::{Tables, sample};

    const OWN: &str = "{name: own, domains: [own.test]}";

    fn tables() -> Tables {
        let mut tables = Tables::default();
        let routes = [sample::routes_on_demand("a/r", OWN)];
        assert_eq!(tables.apply(ResourceType::Route, &routes, &[]), []);
        tables
    }

    fn apply(tables: &mut Tables, hosts: &[(&str, &str)]) -> Vec<String> {
        let hosts: Vec<_> =
            hosts.iter().map(|(name, domains)| sample::virtual_host(name, domains, "c")).collect();
        let rejected = tables.apply(ResourceType::VirtualHost, &hosts, &[]);
        rejected.iter().map(|rejected| format!("{}: {}", rejected.name, rejected.error)).collect()
    }

    fn domains(tables: &Tables) -> Vec<String> {
        let hosts = tables.virtual_hosts.of("a/r");
        hosts.map(|(name, host)| format!("{name} {}", host.domains.join(" "))).collect()
    }

    #[test]
    fn a_host_belongs_to_the_routes_that_its_name_begins_with() {
        let mut tables = tables();
        assert_eq!(apply(&mut tables, &[("a/r/x", "x.test")]), [""; 0]);
        assert!(tables.contains(ResourceType::VirtualHost, "a/r/x"));
        let none = "no route configuration that its name begins with has vhds";
        assert_eq!(
            apply(&mut tables, &[("a/x", "x"), ("r", "x")]),
            [format!("a/x: {none}"), format!("r: {none}"),]
        );
        tables.apply(ResourceType::VirtualHost, &[], &["a/r/x".into()]);
        assert!(!tables.contains(ResourceType::VirtualHost, "a/r/x"));
    }

    #[test]
    fn a_domain_belongs_to_one_host_but_may_move() {
        let mut tables = tables();
        let taken = |name: &str, domain: &str| {
            format!(
                "{name}: domains[0]: only unique domains are permitted, {domain:?} is there already"
            )
        };
        assert_eq!(
            apply(&mut tables, &[("a/r/x", "own.test"), ("a/r/y", "y.test")]),
            [taken("a/r/x", "own.test")]
        );
        assert_eq!(apply(&mut tables, &[("a/r/z", "z.test")]), [""; 0]);
        assert_eq!(apply(&mut tables, &[("a/r/z", "y.test"), ("a/r/y", "z.test")]), [""; 0]);
        assert_eq!(domains(&tables), ["a/r/y z.test", "a/r/z y.test"]);
        assert_eq!(
            apply(&mut tables, &[("a/r/y", "y.test"), ("a/r/w", "w.test")]),
            [taken("a/r/y", "y.test")]
        );
        assert_eq!(domains(&tables), ["a/r/w w.test", "a/r/y z.test", "a/r/z y.test"]);
    }

    #[test]
    fn what_is_around_hosts_changes_under_them_or_is_refused() {
        let mut tables = tables();
        apply(&mut tables, &[("a/r/x", "x.test")]);
        let host = |tables: &Tables| {
            tables.virtual_hosts.of("a/r").next().map(|(_, host)| Arc::clone(host))
        };
        let before = host(&tables).unwrap();
        let routes = |own: &str| [sample::routes_on_demand("a/r", own)];
        let own = "{name: own, domains: [other.test]}";
        assert_eq!(tables.apply(ResourceType::Route, &routes(own), &[]), []);
        assert!(Arc::ptr_eq(&before, &host(&tables).unwrap()), "it is not compiled again");
        let rejected =
            tables.apply(ResourceType::Route, &routes("{name: own, domains: [x.test]}"), &[]);
        assert_eq!(
            rejected[0].error.to_string(),
            "vhds[\"a/r/x\"].domains[0]: only unique domains are permitted, \"x.test\" is there already"
        );
        let plain = [sample::routes("a/r", "c")];
        assert_eq!(tables.apply(ResourceType::Route, &plain, &[]), []);
        assert!(host(&tables).is_none());
    }

    #[test]
    fn state_of_the_world_has_no_hosts_by_themselves() {
        let mut tables = Tables::new(Api::Sotw);
        let rejected =
            tables.apply(ResourceType::Route, &[sample::routes_on_demand("r", OWN)], &[]);
        assert_eq!(rejected[0].error.to_string(), "vhds: needs incremental xDS (DELTA_GRPC)");
    }
}
