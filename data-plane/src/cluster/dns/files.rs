//! The system's files about names: `/etc/hosts` and `/etc/resolv.conf`, read.

use std::net::IpAddr;
use std::time::Duration;

/// What `/etc/resolv.conf` says. Envoy's resolver reads the same words of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SystemSettings {
    pub(super) servers: Vec<IpAddr>,
    /// What is put behind names that are not whole.
    pub(super) search: Vec<String>,
    /// A name with as many dots is first looked up as it is.
    pub(super) dots: usize,
    /// The wait for one answer.
    pub(super) timeout: Duration,
    /// How often a question is asked.
    pub(super) tries: usize,
    /// Whether servers are asked in turn.
    pub(super) rotates: bool,
}

impl Default for SystemSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            tries: 2,
            rotates: false,
        }
    }
}

impl SystemSettings {
    /// What is not understood is passed over, as every resolver does.
    pub(super) fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        for line in text.lines().map(without_comment) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    settings
                        .servers
                        .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                // The last one counts.
                Some("search" | "domain") => {
                    settings.search = words.map(str::to_owned).collect();
                }
                Some("options") => words.for_each(|word| settings.option(word)),
                _ => {}
            }
        }
        settings
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let value = value.parse::<u16>();
        match (name, value) {
            // The limits of resolv.conf(5).
            ("ndots", Ok(dots)) => self.dots = usize::from(dots.min(15)),
            ("timeout", Ok(seconds)) => {
                self.timeout = Duration::from_secs(u64::from(seconds.clamp(1, 30)));
            }
            ("attempts", Ok(tries)) => self.tries = usize::from(tries.clamp(1, 5)),
            ("rotate", _) => self.rotates = true,
            _ => {}
        }
    }

    /// The whole names that a name may stand for, in the order in which they are looked up.
    pub(super) fn candidates(&self, name: &str, searches: bool) -> Vec<String> {
        let whole = format!("{}.", name.trim_end_matches('.'));
        if name.ends_with('.') || !searches {
            return vec![whole];
        }
        let longer = self.search.iter().map(|domain| match domain.trim_matches('.') {
            "" => whole.clone(),
            domain => format!("{whole}{domain}."),
        });
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let mut names: Vec<_> = if dots >= self.dots {
            std::iter::once(whole.clone()).chain(longer).collect()
        } else {
            longer.chain(std::iter::once(whole.clone())).collect()
        };
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

/// The addresses of a name in `/etc/hosts`, in its order.
pub(super) fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let found = text.lines().filter_map(|line| {
        let mut words = without_comment(line).split_whitespace();
        let address = words.next()?.parse::<IpAddr>().ok()?;
        words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name)).then_some(address)
    });
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn without_comment(line: &str) -> &str {
    line.split(['#', ';']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn resolv_conf_is_read_and_what_is_strange_in_it_passed_over() {
        let text = "# of the cluster\nnameserver 10.0.0.10\nnameserver ::1 ; second\n\
                    nameserver none\ndomain old.test\nsearch a.test. b.test\n\
                    options ndots:5 timeout:0 attempts:9 rotate edns0 ndots:x\nsortlist 1.2.3.4";
        let expected = SystemSettings {
            servers: vec!["10.0.0.10".parse().unwrap(), "::1".parse().unwrap()],
            search: vec!["a.test.".into(), "b.test".into()],
            dots: 5,
            timeout: Duration::from_secs(1),
            tries: 5,
            rotates: true,
        };
        assert_eq!(SystemSettings::parse(text), expected);
        assert_eq!(SystemSettings::parse(""), SystemSettings::default());
    }

    #[test]
    fn a_name_stands_for_itself_and_for_those_within_the_search_domains() {
        let settings = SystemSettings::parse("search a.test b.test.\noptions ndots:2");
        for (name, searches, expected) in [
            ("x", true, &["x.a.test.", "x.b.test.", "x."][..]),
            ("x.y", true, &["x.y.a.test.", "x.y.b.test.", "x.y."]),
            ("x.y.z", true, &["x.y.z.", "x.y.z.a.test.", "x.y.z.b.test."]),
            ("x.", true, &["x."]),
            ("x", false, &["x."]),
        ] {
            assert_eq!(settings.candidates(name, searches), expected, "{name}");
        }
    }

    #[test]
    fn a_hosts_file_has_names_in_any_case_and_several_addresses_for_one() {
        let text = "127.0.0.1 localhost # a\n::1\tlocalhost ip6-localhost\n# 1.1.1.1 web\n\
                    10.0.0.2 db Web.Test web\n10.0.0.3 web\n10.0.0.2 web\nbad web";
        let found = |name| in_hosts(text, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("web"), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(found("WEB.test."), ["10.0.0.2"]);
        assert_eq!(found("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(found("we"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_file_is_read(text in "[ -~\n]{0,200}", name in "[a-z.]{1,12}") {
            let settings = SystemSettings::parse(&text);
            let names = settings.candidates(&name, true);
            prop_assert!(names.iter().all(|name| name.ends_with('.')));
            let whole = format!("{}.", name.trim_end_matches('.'));
            prop_assert!(names.contains(&whole));
            in_hosts(&text, &name);
        }
    }
}
