//! What big route tables cost: CPU of a request through 100,000 routes beside one, and the latency of traffic while tables are pushed.
//!
//! `cargo bench --bench tables`. A real proxy, with one worker and bound to the first core, follows a control plane in this process. `WEIGHLOCK_PROXY` names
//! another program than the one that is built.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use gateway_benches::ads::Ads;
use gateway_benches::cost::cpu;
use gateway_benches::figures::quantile;
use gateway_benches::traffic::{Requests, backend, closed, request, steady};
use gateway_tests::process::{self, Process};
use gateway_tests::{gateway, ports, wait};
use tempfile::TempDir;
use tokio::time::Instant;
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use xds_proto::google::protobuf::Any;
use xds_proto::json;
use xds_proto::resource::ResourceType;

/// Routes of a big table.
const MANY: usize = 100_000;
/// Routes of a table that is pushed again and again.
const PUSHED: usize = 10_000;
/// So many of them are asked for.
const ASKED: usize = 1_000;
/// Each figure is taken so often, in turn.
const ROUNDS: usize = 5;
/// How long requests go through a table.
const LASTS: Duration = Duration::from_secs(2);
/// Clients of a table.
const CLIENTS: usize = 16;
/// The rate of the traffic during pushes, and how long each kind of push goes on.
const STEADY: (u32, Duration) = (1_000, Duration::from_secs(8));
/// From one push to the next.
const PUSH_EVERY: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "multi_thread", worker_threads = 3)]
async fn main() -> Result<()> {
    let bench = Bench::start().await?;
    bench.changes().await?;
    bench.requests().await?;
    bench.pushes().await
}

/// What decides in a table.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Prefix,
    Exact,
    PrefixAndHeader,
    Host,
}

/// A proxy that is warm, and what it follows.
struct Bench {
    ads: Ads,
    proxy: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Bench {
    async fn start() -> Result<Self> {
        let (ads, upstream) = (Ads::start().await?, backend()?);
        let (address, admin, folder) = (ports::address(), ports::address(), TempDir::new()?);
        ads.put(ResourceType::Cluster.type_url(), vec![cluster(upstream)?]);
        ads.put(ResourceType::Route.type_url(), vec![table(Kind::Prefix, 1, 0)]);
        let last = ads.put(ResourceType::Listener.type_url(), vec![listener(address)?]);
        let file = folder.path().join("bootstrap.yaml");
        fs::write(&file, gateway::bootstrap(ads.address, admin, ("n", "c"), "GRPC"))?;
        let program = env::var_os("WEIGHLOCK_PROXY");
        let program = program.map_or_else(|| process::program("weighlock-proxy"), Into::into);
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program).args(["--concurrency", "1", "-c"]).arg(&file);
        let proxy = Process::start("proxy", &mut command);
        ads.acked(last).await?;
        wait::until("the listener", Duration::from_secs(20), || async {
            closed(address, 1, Duration::ZERO, &asked(Kind::Prefix, 1)).await
        })
        .await;
        Ok(Self { ads, proxy, address, _folder: folder })
    }

    async fn push(&self, table: Any) -> Result<Duration> {
        let began = Instant::now();
        let version = self.ads.put(ResourceType::Route.type_url(), vec![table]);
        self.ads.acked(version).await?;
        Ok(began.elapsed())
    }

    /// How long a push takes, and what it costs: of a whole table, and of one with a changed route.
    async fn changes(&self) -> Result<()> {
        for routes in [10_000, 50_000] {
            let (mut whole, mut one, mut spent) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                self.push(table(Kind::Prefix, 1, 0)).await?;
                whole.push(self.push(changed(routes, 0, true)).await?.as_secs_f64() * 1e3);
                let before = cpu(self.proxy.id());
                one.push(self.push(changed(routes, 1, true)).await?.as_secs_f64() * 1e3);
                spent.push((cpu(self.proxy.id()) - before).as_secs_f64() * 1e3);
            }
            println!(
                "{routes} routes in force after {} ms; with one changed after {} ms, {} ms of CPU",
                range(whole, 0),
                range(one, 0),
                range(spent, 0)
            );
        }
        Ok(())
    }

    /// CPU of a request, by table.
    async fn requests(&self) -> Result<()> {
        let tables = [
            ("one route", Kind::Prefix, 1),
            ("prefixes", Kind::Prefix, MANY),
            ("paths", Kind::Exact, MANY),
            ("prefixes and a header", Kind::PrefixAndHeader, MANY),
            ("hosts of one route", Kind::Host, MANY),
        ];
        let mut costs = vec![Vec::new(); tables.len()];
        for _ in 0..ROUNDS {
            for ((_, kind, routes), costs) in tables.into_iter().zip(&mut costs) {
                self.push(table(kind, routes, 0)).await?;
                let requests = asked(kind, routes);
                closed(self.address, CLIENTS, LASTS / 4, &requests).await?;
                let before = cpu(self.proxy.id());
                let answers = closed(self.address, CLIENTS, LASTS, &requests).await?;
                costs.push((cpu(self.proxy.id()) - before).as_secs_f64() * 1e6 / answers as f64);
            }
        }
        for ((name, _, routes), cost) in tables.into_iter().zip(&costs) {
            let ratios: Vec<_> = cost.iter().zip(&costs[0]).map(|(a, one)| a / one).collect();
            println!(
                "{routes:>6} {name}: {} us of CPU a request, {} times one route",
                range(cost.clone(), 1),
                range(ratios, 2)
            );
        }
        Ok(())
    }

    /// Latency while tables are pushed.
    async fn pushes(&self) -> Result<()> {
        let (rest, one, all) = (vec![], vec![(0, true), (1, true)], vec![(0, false), (1, false)]);
        let kinds =
            [("no push", rest), ("one route of it changed", one), ("all of it changed", all)];
        let (requests, mut worst) = (asked(Kind::Prefix, PUSHED), vec![Vec::new(); kinds.len()]);
        for _ in 0..ROUNDS {
            for ((name, variants), worst) in kinds.iter().zip(&mut worst) {
                let variants: Vec<_> = variants
                    .iter()
                    .map(|(change, is_one)| changed(PUSHED, *change, *is_one))
                    .collect();
                self.push(changed(PUSHED, 0, true)).await?;
                let traffic = steady(self.address, 8, STEADY, &requests);
                let mut took = if variants.is_empty() {
                    traffic.await?
                } else {
                    tokio::select! {
                        took = traffic => took?,
                        failed = self.keep_pushing(&variants) => { failed?; Vec::new() }
                    }
                };
                took.sort();
                let ms = |part| quantile(&took, part).as_secs_f64() * 1e3;
                println!(
                    "{name}: p50 {:.2} ms, p99 {:.2} ms, worst {:.1} ms",
                    ms(0.5),
                    ms(0.99),
                    ms(1.0)
                );
                worst.push(ms(0.99));
            }
        }
        for ((name, _), p99) in kinds.iter().zip(&worst) {
            let ratios: Vec<_> = p99.iter().zip(&worst[0]).map(|(a, rest)| a / rest).collect();
            println!(
                "{name}: p99 {} ms, {} times that at rest",
                range(p99.clone(), 2),
                range(ratios, 2)
            );
        }
        Ok(())
    }

    async fn keep_pushing(&self, variants: &[Any]) -> Result<()> {
        let mut ticks = tokio::time::interval(PUSH_EVERY);
        for table in variants.iter().cycle() {
            ticks.tick().await;
            self.push(table.clone()).await?;
        }
        Ok(())
    }
}

/// Median, least and most.
fn range(mut all: Vec<f64>, digits: usize) -> String {
    all.sort_by(f64::total_cmp);
    let (first, last) = (all[0], all[all.len() - 1]);
    format!("{:.digits$} ({first:.digits$} to {last:.digits$})", all[all.len() / 2])
}

fn path(kind: Kind, number: usize) -> String {
    match kind {
        Kind::Host => "/".into(),
        Kind::Exact => format!("/service{number:05}/x"),
        Kind::Prefix | Kind::PrefixAndHeader => format!("/service{number:05}/"),
    }
}

fn asked(kind: Kind, routes: usize) -> Requests {
    // Scattered, so that no two that follow each other lie side by side.
    let numbers = (0..ASKED).map(|n| n * 7_919 % routes);
    numbers
        .map(|number| match kind {
            Kind::Host => request(&format!("host{number}.test"), "/", ""),
            Kind::PrefixAndHeader => {
                request("a.test", &path(kind, number), &format!("x-tenant: t{number}\r\n"))
            }
            Kind::Prefix | Kind::Exact => request("a.test", &path(kind, number), ""),
        })
        .collect()
}

fn route(kind: Kind, number: usize, seconds: usize) -> Route {
    use xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
    use xds_proto::envoy::config::route::v3::route::Action;
    use xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
    use xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
    use xds_proto::envoy::config::route::v3::{HeaderMatcher, RouteAction, RouteMatch};
    use xds_proto::envoy::r#type::matcher::v3::StringMatcher;
    use xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    use xds_proto::google::protobuf::Duration;
    let path = path(kind, number);
    let tenant = HeaderMatcher {
        name: "x-tenant".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(format!("t{number}"))),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    };
    let matched = RouteMatch {
        path_specifier: Some(match kind {
            Kind::Exact => PathSpecifier::Path(path),
            Kind::Prefix | Kind::PrefixAndHeader | Kind::Host => PathSpecifier::Prefix(path),
        }),
        headers: if kind == Kind::PrefixAndHeader { vec![tenant] } else { Vec::new() },
        ..RouteMatch::default()
    };
    let forward = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster("a".into())),
        timeout: Some(Duration { seconds: 60 + seconds as i64, nanos: 0 }),
        ..RouteAction::default()
    };
    Route { r#match: Some(matched), action: Some(Action::Route(forward)), ..Route::default() }
}

fn virtual_host(name: &str, domain: &str, routes: Vec<Route>) -> VirtualHost {
    let (name, domains) = (name.to_owned(), vec![domain.to_owned()]);
    VirtualHost { name, domains, routes, ..VirtualHost::default() }
}

fn of_hosts(virtual_hosts: Vec<VirtualHost>) -> Any {
    let config = RouteConfiguration { name: "r".into(), virtual_hosts, ..Default::default() };
    packed(ResourceType::Route, &config)
}

fn packed(kind: ResourceType, message: &impl prost::Message) -> Any {
    Any { type_url: kind.type_url().into(), value: message.encode_to_vec() }
}

fn table(kind: Kind, routes: usize, seconds: usize) -> Any {
    let numbers = 0..routes;
    of_hosts(match kind {
        Kind::Host => numbers
            .map(|n| {
                virtual_host(
                    &format!("v{n}"),
                    &format!("host{n}.test"),
                    vec![route(kind, n, seconds)],
                )
            })
            .collect(),
        Kind::Prefix | Kind::Exact | Kind::PrefixAndHeader => {
            let routes = numbers.map(|number| route(kind, number, seconds)).collect();
            vec![virtual_host("v", "*", routes)]
        }
    })
}

/// A table of which one route, or every one, is as `change` has it.
fn changed(routes: usize, change: usize, is_one: bool) -> Any {
    let seconds = |number| if is_one && number != routes / 2 { 0 } else { change };
    let routes = (0..routes).map(|number| route(Kind::Prefix, number, seconds(number))).collect();
    of_hosts(vec![virtual_host("v", "*", routes)])
}

fn cluster(upstream: SocketAddr) -> Result<Any> {
    let yaml = format!(
        "{{name: a, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}}}",
        upstream.port()
    );
    Ok(packed(ResourceType::Cluster, &json::from_yaml::<Cluster>(&yaml)?))
}

fn listener(address: SocketAddr) -> Result<Any> {
    let value = gateway_tests::documents::raw_listener("l", address.port(), "r", &[]);
    let (type_url, bytes) = json::any_from_json(value)?;
    Ok(Any { type_url, value: bytes.into() })
}
