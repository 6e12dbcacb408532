//! From the host of a request to its virtual host, in Envoy's search order.

use std::collections::HashMap;
use std::sync::Arc;

use super::WrongDomain;
use super::virtual_host::VirtualHost;

/// A domain could not be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DomainError {
    /// It is there already.
    Duplicate,
    /// It is empty.
    Empty,
}

/// Domains of all virtual hosts: exact, then the longest suffix wildcard (`*.example.com`), then
/// the longest prefix wildcard (`example.*`), then `*`. Case does not count.
#[derive(Debug, Default)]
pub(crate) struct HostIndex {
    exact: HashMap<Box<str>, u32>,
    suffixes: Wildcards,
    prefixes: Wildcards,
    any: Option<u32>,
}

/// What stands beside the `*`, by length, longest first.
#[derive(Debug, Default)]
struct Wildcards(Vec<(usize, HashMap<Box<str>, u32>)>);

/// Host names are lower-cased here; a longer one, which DNS does not have, on the heap.
const HOST_BYTES: usize = 256;

impl HostIndex {
    /// An index of virtual hosts; their numbers are their places.
    pub(super) fn new(virtual_hosts: &[Arc<VirtualHost>]) -> Result<Self, WrongDomain> {
        let mut index = Self::default();
        for (number, (host, virtual_host)) in (0_u32..).zip(virtual_hosts.iter().enumerate()) {
            for (domain, text) in virtual_host.domains.iter().enumerate() {
                let wrong = |error| WrongDomain { host, domain, text: text.clone(), error };
                index.add(text, number).map_err(wrong)?;
            }
        }
        Ok(index)
    }

    /// Adds a domain of a virtual host.
    fn add(&mut self, domain: &str, virtual_host: u32) -> Result<(), DomainError> {
        let domain = domain.to_ascii_lowercase();
        let earlier = if domain.is_empty() {
            return Err(DomainError::Empty);
        } else if domain == "*" {
            self.any.replace(virtual_host)
        } else if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.add(suffix, virtual_host)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.add(prefix, virtual_host)
        } else {
            self.exact.insert(domain.into(), virtual_host)
        };
        earlier.map_or(Ok(()), |_| Err(DomainError::Duplicate))
    }

    /// The virtual host of a host.
    pub(super) fn find(&self, host: &str) -> Option<u32> {
        if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower(host);
        }
        let mut buffer = [0; HOST_BYTES];
        match buffer.get_mut(..host.len()) {
            Some(lower) => {
                lower.copy_from_slice(host.as_bytes());
                lower.make_ascii_lowercase();
                self.find_lower(str::from_utf8(lower).unwrap_or(host))
            }
            None => self.find_lower(&host.to_ascii_lowercase()),
        }
    }

    fn find_lower(&self, host: &str) -> Option<u32> {
        self.exact
            .get(host)
            .copied()
            .or_else(|| self.suffixes.find(host, |len| host.get(host.len() - len..)))
            .or_else(|| self.prefixes.find(host, |len| host.get(..len)))
            .or(self.any)
    }
}

impl Wildcards {
    fn add(&mut self, part: &str, virtual_host: u32) -> Option<u32> {
        let at = self.0.partition_point(|(len, _)| *len > part.len());
        if self.0.get(at).is_none_or(|(len, _)| *len != part.len()) {
            self.0.insert(at, (part.len(), HashMap::new()));
        }
        self.0.get_mut(at).and_then(|(_, hosts)| hosts.insert(part.into(), virtual_host))
    }

    /// The star stands for at least one byte: `*.foo.com` is not `.foo.com`.
    fn find<'h>(&self, host: &str, part: impl Fn(usize) -> Option<&'h str>) -> Option<u32> {
        self.0
            .iter()
            .filter(|(len, _)| *len < host.len())
            .find_map(|(len, hosts)| hosts.get(part(*len)?).copied())
    }
}

/// Where `:port` begins in an authority (Envoy's `HeaderUtility::getPortStart`).
pub(super) fn port_start(host: &str) -> Option<usize> {
    let at = host.rfind(':')?;
    match host.rfind(']') {
        Some(end) if end > at => None,
        _ => Some(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(domains: &[&str]) -> HostIndex {
        let mut index = HostIndex::default();
        for (number, domain) in (0..).zip(domains) {
            index.add(domain, number).unwrap();
        }
        index
    }

    #[test]
    fn exact_then_longest_suffix_then_longest_prefix_then_any() {
        let domains =
            ["api.test", "api.test:8443", "*.test", "*-x.test", "api.*", "api.e*", "*", "UP.test"];
        let index = index(&domains);
        for (host, want) in [
            ("api.test", "api.test"),
            ("API.TEST", "api.test"),
            ("x.test", "*.test"),
            ("a-x.test", "*-x.test"),
            ("-x.test", "*.test"),
            ("api.example", "api.e*"),
            ("api.other", "api.*"),
            ("api.", "*"),
            ("other", "*"),
            ("api.test:8443", "api.test:8443"),
            ("api.test:9", "api.*"),
            (".test", "*"),
            ("up.test", "UP.test"),
            ("", "*"),
        ] {
            assert_eq!(domains[index.find(host).unwrap() as usize], want, "{host}");
        }
        let long = format!("{}.TEST", "a".repeat(1000));
        assert_eq!(domains[index.find(&long).unwrap() as usize], "*.test");
    }

    #[test]
    fn nothing_matches_without_any() {
        assert_eq!(index(&["a", "*.b"]).find("c"), None);
    }

    #[test]
    fn a_domain_stands_once() {
        let mut index = index(&["*", "a", "*.a", "a.*"]);
        for domain in ["*", "A", "*.A", "a.*"] {
            assert_eq!(index.add(domain, 9), Err(DomainError::Duplicate), "{domain}");
        }
        assert_eq!(index.add("", 9), Err(DomainError::Empty));
    }
}
