//! Names that DNS looks up: what a stand-in for a DNS server says must be followed as Envoy follows it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use gateway_tests::backend::Backend;
use gateway_tests::client::get;
use gateway_tests::dns::{Question, Reply, StandInDns};
use gateway_tests::gateway::folder;
use gateway_tests::process::program;
use gateway_tests::{ports, tools, wait};
use serde_json::{Value, json};

use super::standing::{Standing, bootstrap, by_name, place};
use super::upstream::T;

/// How long a step may take to be in force.
const LIMIT: Duration = Duration::from_secs(40);
/// Requests that surely reach every endpoint of a cluster.
const REQUESTS: usize = 8;
/// No answer: the cluster has no endpoint.
const NOBODY: &str = "-";
/// Longer than any test.
const NEVER: &str = "3600s";
const SOON: &str = "0.2s";

/// A name, how it is looked up, what is said about it one after the other, and who serves then.
struct Story {
    /// Of the cluster, of its name in DNS and of its path.
    name: &'static str,
    /// Fields of the cluster.
    cluster: Value,
    steps: Vec<(Reply, &'static [&'static str])>,
    /// Whether it must not be looked up again.
    once: bool,
    /// Whether all questions come by TCP.
    by_tcp: bool,
}

fn story(
    name: &'static str,
    cluster: Value,
    steps: Vec<(Reply, &'static [&'static str])>,
) -> Story {
    Story { name, cluster, steps, once: false, by_tcp: false }
}

/// IPv4 addresses.
fn v4(lasts: &[u8], ttl: u32) -> Reply {
    Reply::Addresses(lasts.iter().map(|last| [127, 0, 0, *last].into()).collect(), ttl)
}

fn strict(mut fields: Value) -> Value {
    fields["type"] = "STRICT_DNS".into();
    fields
}

fn logical(mut fields: Value) -> Value {
    fields["type"] = "LOGICAL_DNS".into();
    fields
}

/// By the extension.
fn typed(mut fields: Value) -> Value {
    fields["@type"] = format!("{T}extensions.clusters.dns.v3.DnsCluster").into();
    json!({"cluster_type": {"name": "envoy.clusters.dns", "typed_config": fields}})
}

/// A configuration of the resolver with these fields.
fn resolver(mut fields: Value) -> Value {
    fields["@type"] =
        format!("{T}extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig").into();
    json!({"name": "envoy.network.dns_resolver.cares", "typed_config": fields})
}

fn moving(ttl: u32) -> Vec<(Reply, &'static [&'static str])> {
    vec![
        (v4(&[2], ttl), &["two"]),
        (v4(&[2, 3], ttl), &["two", "three"]),
        (v4(&[4], ttl), &["four"]),
    ]
}

/// One address after the other.
fn swinging(ttl: u32) -> Vec<(Reply, &'static [&'static str])> {
    vec![(v4(&[2], ttl), &["two"]), (v4(&[3], ttl), &["three"])]
}

fn paces() -> Vec<Story> {
    let by_ttl = || json!({"dns_refresh_rate": NEVER, "respect_dns_ttl": true});
    let by_rate = || json!({"dns_refresh_rate": SOON});
    let both = || json!({"dns_refresh_rate": SOON, "respect_dns_ttl": true});
    let floor =
        json!({"dns_refresh_rate": SOON, "respect_dns_ttl": true, "dns_min_refresh_rate": NEVER});
    let jitter = json!({"dns_refresh_rate": SOON, "dns_jitter": "0.3s"});
    let once = |name, cluster, ttl| Story {
        once: true,
        ..story(name, cluster, vec![(v4(&[2], ttl), &["two"])])
    };
    let single = |mut fields: Value| {
        fields["all_addresses_in_single_endpoint"] = true.into();
        typed(fields)
    };
    vec![
        story("ttl", strict(by_ttl()), moving(1)),
        story("rate", strict(by_rate()), moving(3600)),
        story("logical-ttl", logical(by_ttl()), swinging(1)),
        story("logical-rate", logical(by_rate()), swinging(3600)),
        story("typed-ttl", typed(by_ttl()), moving(1)),
        story("typed-rate", typed(by_rate()), moving(3600)),
        story("typed-logical-ttl", single(by_ttl()), swinging(1)),
        story("typed-logical-rate", single(by_rate()), swinging(3600)),
        story("jitter", strict(jitter), moving(3600)),
        story("ttl-of-zero", strict(both()), moving(0)),
        once("long-ttl", strict(both()), 3600),
        once("long-ttl-logical", logical(both()), 3600),
        once("least-ttl", typed(floor), 1),
        once("long-rate", strict(json!({"dns_refresh_rate": NEVER})), 1),
    ]
}

fn failures() -> Vec<Story> {
    let fields = || json!({"dns_refresh_rate": SOON});
    let retried = || {
        json!({"dns_refresh_rate": NEVER,
            "dns_failure_refresh_rate": {"base_interval": "0.1s", "max_interval": "0.3s"}})
    };
    let gone = || vec![(v4(&[2], 9), &["two"][..]), (Reply::NoSuchName, &[NOBODY])];
    let kept =
        |reply| vec![(v4(&[2], 9), &["two"][..]), (reply, &["two"]), (v4(&[3], 9), &["three"])];
    let back = || vec![(Reply::Failure, &[NOBODY][..]), (v4(&[3], 9), &["three"])];
    let mut stalls = strict(fields());
    stalls["typed_dns_resolver_config"] =
        resolver(json!({"query_timeout_seconds": 1, "query_tries": 1}));
    vec![
        story("failure", strict(fields()), kept(Reply::Failure)),
        story("failure-logical", logical(fields()), kept(Reply::Failure)),
        story("silence", stalls, kept(Reply::Silence)),
        story("gone", strict(fields()), gone()),
        story(
            "empty",
            strict(json!({"dns_refresh_rate": SOON, "dns_lookup_family": "V4_ONLY"})),
            vec![(v4(&[2], 9), &["two"]), (Reply::addresses(&["::1"], 9), &[NOBODY])],
        ),
        story("gone-logical", logical(fields()), kept(Reply::NoSuchName)),
        story("retried", strict(retried()), back()),
        story("retried-logical", logical(retried()), back()),
        story("retried-typed", typed(retried()), back()),
    ]
}

fn families() -> Vec<Story> {
    let both = || Reply::addresses(&["127.0.0.2", "::1"], 9);
    let (only4, only6) = (|| v4(&[2], 9), || Reply::addresses(&["::1"], 9));
    let of = |family: &str| json!({"dns_lookup_family": family, "dns_refresh_rate": SOON});
    let (two, six): (&[&str], &[&str]) = (&["two"], &["six"]);
    let nobody: &[&str] = &[NOBODY];
    let steps = |a, b, c| vec![(both(), a), (only4(), b), (only6(), c)];
    vec![
        story("auto", strict(of("AUTO")), steps(six, two, six)),
        story("v4-only", strict(of("V4_ONLY")), steps(two, two, nobody)),
        story("v6-only", strict(of("V6_ONLY")), steps(six, nobody, six)),
        story("v4-preferred", strict(of("V4_PREFERRED")), steps(two, two, six)),
        story("all", strict(of("ALL")), steps(&["two", "six"], two, six)),
        story("typed-unset", typed(json!({"dns_refresh_rate": SOON})), steps(six, two, six)),
        story("typed-v4-only", typed(of("V4_ONLY")), steps(two, two, nobody)),
        story("typed-all", typed(of("ALL")), steps(&["two", "six"], two, six)),
        story("logical-v4", logical(of("V4_PREFERRED")), steps(two, two, six)),
        story("logical-auto", logical(of("AUTO")), steps(six, two, six)),
    ]
}

fn forms(dns: SocketAddr) -> Vec<Story> {
    // Nobody listens there.
    let (dead, dns) = (place(ports::address()), place(dns));
    let options = json!({"use_tcp_for_dns_lookups": true, "no_default_search_domain": true});
    let tcp = json!({"resolvers": [dns], "dns_resolver_options": options});
    let of_cluster =
        |field: &str, value: Value| strict(json!({"dns_refresh_rate": SOON, field: value}));
    let second = json!({"resolvers": [dead, dns], "query_timeout_seconds": 1, "query_tries": 3});
    let turns = json!({"resolvers": [dead, dns], "query_timeout_seconds": 1, "query_tries": 4,
        "rotate_nameservers": true});
    let by_tcp = |name, cluster| Story { by_tcp: true, ..story(name, cluster, swinging(9)) };
    let name = "typed_dns_resolver_config";
    vec![
        by_tcp("tcp", of_cluster(name, resolver(tcp.clone()))),
        by_tcp("tcp-before", of_cluster("dns_resolution_config", tcp.clone())),
        by_tcp("tcp-typed", typed(json!({"dns_refresh_rate": SOON, name: resolver(tcp)}))),
        story("second", of_cluster(name, resolver(second)), swinging(9)),
        story("in-turn", of_cluster(name, resolver(turns)), swinging(9)),
        story(
            "alias",
            strict(json!({"dns_refresh_rate": SOON})),
            vec![
                (Reply::Alias("real.dns.test".into(), vec![[127, 0, 0, 2].into()], 9), &["two"]),
                (Reply::Alias("real.dns.test".into(), vec![[127, 0, 0, 3].into()], 9), &["three"]),
            ],
        ),
    ]
}

fn host(name: &str) -> String {
    format!("{name}.dns.test")
}

/// A cluster whose only endpoint is a name.
fn cluster(name: &str, host: &str, port: u16, fields: &Value) -> Value {
    let endpoint =
        json!({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}});
    let mut cluster = json!({"name": name, "connect_timeout": "1s", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}});
    for (key, value) in fields.as_object().into_iter().flatten() {
        cluster[key] = value.clone();
    }
    cluster
}

/// Who answers several requests.
async fn who(address: SocketAddr, name: &str) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    for _ in 0..REQUESTS {
        let answer = get(address, "x.test", &format!("/{name}/")).await?;
        let is_known = answer.status == 200 || answer.status == 503;
        ensure!(is_known, "{} {}", answer.status, answer.text());
        seen.insert(answer.backend().to_owned());
    }
    Ok(seen)
}

/// Tells a story; says what went wrong.
async fn tell(story: &Story, side: &str, address: SocketAddr, dns: &StandInDns) -> Vec<String> {
    let host = host(story.name);
    for (number, (reply, backends)) in story.steps.iter().enumerate() {
        let what = format!("{} on {side}, step {number}", story.name);
        // The first was said before the program started.
        if number > 0 {
            dns.say(&host, reply.clone());
            let before = dns.asked(&host).len();
            // A lookup asks twice at most: the second of two has heard what was said.
            wait::until(&what, LIMIT, async || {
                let asked = dns.asked(&host).len() - before;
                if asked > 2 || !story.is_asked_often() { Ok(()) } else { Err(asked) }
            })
            .await;
        }
        let expected: BTreeSet<_> = backends.iter().map(|name| (*name).to_owned()).collect();
        let right = wait::until_or(LIMIT, async || {
            let seen = who(address, story.name).await?;
            ensure!(seen == expected, "{seen:?} instead of {expected:?}");
            Ok(())
        });
        if let Err(error) = right.await {
            return vec![format!("{what}: {error}, asked {}", dns.asked(&host).len())];
        }
    }
    Vec::new()
}

impl Story {
    fn is_asked_often(&self) -> bool {
        self.steps.len() > 1 && !self.name.starts_with("retried")
    }

    /// What is wrong with the questions that came.
    fn judge(&self, side: &str, asked: &[Question]) -> Option<String> {
        let (v4, v6): (Vec<_>, Vec<_>) = asked.iter().partition(|question| !question.is_v6);
        let is_right = (!self.once || (v4.len() <= 1 && v6.len() <= 1))
            && (self.by_tcp == asked.iter().any(|question| question.by_tcp))
            && (!self.by_tcp || asked.iter().all(|question| question.by_tcp));
        (!is_right || asked.is_empty()).then(|| format!("{} on {side}: asked {asked:?}", self.name))
    }
}

/// The backends behind the addresses that are answered, all at one port.
async fn backends() -> (u16, Vec<Backend>) {
    let port = ports::free();
    let mut all = Vec::new();
    for (last, name) in [(2, "two"), (3, "three"), (4, "four")] {
        all.push(Backend::start_at(([127, 0, 0, last], port).into(), name).await);
    }
    let v6 = SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), port);
    all.push(Backend::start_at(v6, "six").await);
    (port, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_looks_names_up_as_envoy_does() {
    let (port, _backends) = backends().await;
    let ours = StandInDns::start().await;
    let mut wrong = told("ours", port, &ours).await;
    if !tools::offline("our_proxy_looks_names_up_as_envoy_does") {
        let envoys = StandInDns::start().await;
        wrong.extend(told("envoy", port, &envoys).await);
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// Tells all stories to a program at once.
async fn told(side: &str, backends: u16, dns: &StandInDns) -> Vec<String> {
    let stories = paces().into_iter().chain(failures()).chain(families());
    let stories: Vec<_> = stories.chain(forms(dns.address)).collect();
    let clusters: Vec<_> = stories
        .iter()
        .map(|story| {
            dns.say(&host(story.name), story.steps[0].0.clone());
            let mut cluster = cluster(story.name, &host(story.name), backends, &story.cluster);
            let own = &mut cluster["typed_dns_resolver_config"];
            if own.is_object() && own["typed_config"]["resolvers"].is_null() {
                own["typed_config"]["resolvers"] = json!([place(dns.address)]);
            } else if own.is_null() {
                cluster.as_object_mut().unwrap().remove("typed_dns_resolver_config");
            }
            cluster
        })
        .collect();
    let server = resolver(json!({"resolvers": [place(dns.address)]}));
    let more = json!({"typed_dns_resolver_config": server});
    let standing = Standing::start(side, bootstrap(&clusters, &by_name(&clusters)), more).await;
    let address = standing.address;
    let tell = stories.iter().map(|story| tell(story, side, address, dns));
    let mut wrong: Vec<String> = join_all(tell).await.concat();
    let judged =
        stories.iter().filter_map(|story| story.judge(side, &dns.asked(&host(story.name))));
    wrong.extend(judged);
    wrong
}

/// A command that runs a program with files of its own in place of the system's; nothing where this machine lets nobody do
/// that.
fn with_files(folder: &Path, files: &[(&str, &str)], program: &Path) -> Option<Command> {
    let able = Command::new("unshare").args(["-rm", "true"]).status();
    if !able.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut script = String::new();
    for (place, text) in files {
        let file = folder.join(place.replace('/', "_"));
        fs::write(&file, text).unwrap();
        script += &format!("mount --bind {} {place} && ", file.display());
    }
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &format!("{script} exec \"$@\""), "sh"]).arg(program);
    Some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_files_about_names_count_as_they_do_for_envoy() {
    let (port, _backends) = backends().await;
    let dns = StandInDns::start().await;
    for (name, last) in [("short.in.test", 2), ("short.two.dots.in.test", 3), ("absent.in.test", 4)]
    {
        dns.say(name, v4(&[last], 9));
    }
    dns.say("whole.dns.test", v4(&[4], 9));
    let bare = resolver(json!({"resolvers": [place(dns.address)],
        "dns_resolver_options": {"no_default_search_domain": true}}));
    let pace = || json!({"dns_refresh_rate": SOON, "dns_lookup_family": "V4_PREFERRED"});
    let strict_bare = || {
        let mut fields = strict(pace());
        fields["typed_dns_resolver_config"] = bare.clone();
        fields
    };
    let system = json!({"name": "envoy.network.dns_resolver.getaddrinfo", "typed_config": {
        "@type": format!("{T}extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig")}});
    let of_system =
        strict(json!({"typed_dns_resolver_config": system, "dns_lookup_family": "V4_ONLY"}));
    let cases = [
        ("searched", "short", strict(pace()), "two"),
        ("with-dots", "short.two.dots", strict(pace()), "three"),
        ("not-searched", "absent", strict_bare(), NOBODY),
        ("as-it-is", "whole.dns.test", strict_bare(), "four"),
        ("listed", "listed.hosts.test", strict(pace()), "three"),
        ("listed-logical", "listed.hosts.test", logical(pace()), "three"),
        ("listed-system", "listed.hosts.test", of_system, "three"),
    ];
    let clusters: Vec<_> =
        cases.iter().map(|(name, host, fields, _)| cluster(name, host, port, fields)).collect();
    let files = [
        ("/etc/hosts", "127.0.0.1 localhost\n127.0.0.3 listed.hosts.test\n"),
        ("/etc/resolv.conf", "nameserver 127.0.0.1\nsearch in.test\noptions ndots:3\n"),
    ];
    let mut sides = vec![("ours", program("weighlock-proxy"))];
    if !tools::offline("the_systems_files_about_names_count_as_they_do_for_envoy") {
        sides.push(("envoy", tools::envoy()));
    }
    for (side, program) in sides {
        let folder = folder();
        let Some(command) = with_files(folder.path(), &files, &program) else {
            eprintln!("not tested: no mount of a user's own on this machine");
            return;
        };
        let server = resolver(json!({"resolvers": [place(dns.address)]}));
        let mut bootstrap = bootstrap(&clusters, &by_name(&clusters));
        bootstrap["typed_dns_resolver_config"] = server;
        let standing = Standing::start_by(side, bootstrap, command).await;
        let address = standing.address;
        for (name, _, _, backend) in &cases {
            let expected = BTreeSet::from([(*backend).to_owned()]);
            wait::until(&format!("{name} on {side}"), LIMIT, async || {
                let seen = who(address, name).await?;
                ensure!(seen == expected, "{seen:?}");
                Ok(())
            })
            .await;
        }
    }
}
