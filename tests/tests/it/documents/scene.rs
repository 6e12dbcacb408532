//! Where rows are run: a control plane, our proxy, a real Envoy, and three backends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use gateway_tests::authority::{Authority, Pair};
use gateway_tests::backend::Backend;
use gateway_tests::client::{Answer as Got, Ask, Connection};
use gateway_tests::gateway::{ControlPlane, Envoy, LIMIT, Proxy, folder};
use gateway_tests::{ports, wait};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;

use super::{Answer, Call, Over, Row, Step};

/// Which proxy a row is run through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Side {
    Ours,
    Envoy,
}

impl Side {
    fn fleet(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Envoy => "envoy",
        }
    }
}

/// Requests of which shares are taken.
const MANY: usize = 2000;

pub(crate) struct Scene {
    control: ControlPlane,
    backends: BTreeMap<&'static str, Backend>,
    pem: BTreeMap<&'static str, String>,
    /// Of the first authority, and of the other.
    clients: [Pair; 2],
    _proxy: Proxy,
    _envoy: Option<Envoy>,
    _data: TempDir,
}

impl Scene {
    pub(crate) async fn start(sides: &[Side]) -> Self {
        let data = folder();
        let control = ControlPlane::start(data.path()).await;
        let mut backends = BTreeMap::new();
        for name in ["a", "b", "c"] {
            backends.insert(name, Backend::start(name).await);
        }
        let (authority, other) = (Authority::new(), Authority::new());
        let pair = authority.sign(&["*.example"], None);
        let secure = authority.sign(&["secure.example"], Some("spiffe://test/s"));
        backends.insert("s", Backend::start_tls("s", authority.server(secure)).await);
        let envoy = if sides.contains(&Side::Envoy) {
            Some(Envoy::start(control.xds, "envoy", Side::Envoy.fleet(), "DELTA_GRPC"))
        } else {
            None
        };
        let proxy = Proxy::start_with(control.xds, "ours", Side::Ours.fleet(), &[]);
        let envoy = match envoy {
            Some(envoy) => Some(envoy.await),
            None => None,
        };
        let pem = BTreeMap::from([
            ("$CERT", json!(pair.certificate).to_string()),
            ("$KEY", json!(pair.key).to_string()),
            ("$CA", json!(authority.pem()).to_string()),
            ("$OTHERCA", json!(other.pem()).to_string()),
        ]);
        let clients = [pair, other.sign(&["client.example"], None)];
        Self { control, backends, pem, clients, _proxy: proxy, _envoy: envoy, _data: data }
    }

    pub(crate) async fn run(&self, row: &Row, side: Side) -> Result<()> {
        let run = Run { scene: self, names: self.names(row, side), made: Mutex::default() };
        let mut outcome = Ok(());
        for (index, step) in row.steps.iter().enumerate() {
            outcome = run.step(step).await.with_context(|| format!("step {index}"));
            if outcome.is_err() {
                break;
            }
        }
        run.clean().await;
        outcome
    }

    fn names(&self, row: &Row, side: Side) -> Names {
        let words = row.name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let namespace = format!("{}-{}", &words[..words.len().min(50)], side.fleet());
        let mut names = HashMap::from([
            ("$NS".to_owned(), namespace),
            ("$FLEET".to_owned(), side.fleet().to_owned()),
        ]);
        for (name, pem) in &self.pem {
            names.insert((*name).to_owned(), pem.clone());
        }
        for (name, backend) in &self.backends {
            names.insert(format!("${name}"), backend.address.port().to_string());
        }
        Names(Mutex::new(names))
    }
}

/// What the marks of a row stand for.
struct Names(Mutex<HashMap<String, String>>);

impl Names {
    fn fill(&self, text: &str) -> String {
        let mut names = self.0.lock().unwrap();
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('$') {
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            let end =
                rest[1..].find(|c: char| !c.is_ascii_alphanumeric()).map_or(rest.len(), |n| n + 1);
            let (mark, after) = rest.split_at(end);
            if mark.starts_with("$PORT") {
                names.entry(mark.to_owned()).or_insert_with(|| ports::free().to_string());
            }
            out.push_str(names.get(mark).map_or(mark, String::as_str));
            rest = after;
        }
        out + rest
    }

    fn port(&self, mark: &str) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.fill(mark).parse().unwrap()))
    }
}

struct Run<'a> {
    scene: &'a Scene,
    names: Names,
    /// Paths of what was written.
    made: Mutex<BTreeSet<String>>,
}

impl Run<'_> {
    async fn step(&self, step: &Step) -> Result<()> {
        match step {
            Step::Apply(documents) => self.apply(&self.names.fill(documents)).await,
            Step::Refused(document, code) => {
                let error = self.apply(&self.names.fill(document)).await.err();
                let error = format!("{:#}", error.context("it was taken")?);
                ensure!(error.contains(code), "not {code}: {error}");
                Ok(())
            }
            Step::Delete(object) => {
                let (path, _) = self.path(object)?;
                let answer = self.scene.control.call(Method::DELETE, &path, &Value::Null).await;
                ensure!(answer.status.is_success(), "{}", answer.text());
                Ok(())
            }
            Step::Says(object, wanted) => self.becomes(object, wanted, says).await,
            Step::Silent(object, condition) => self.becomes(object, condition, silent).await,
            Step::Count(object, list, count) => {
                self.becomes(object, "", |object, _, _| {
                    let found = object["status"][list].as_array().map_or(0, Vec::len);
                    ensure!(found == *count, "{found} {list}");
                    Ok(())
                })
                .await
            }
            Step::Current(object) => self.becomes(object, "", |_, _, _| Ok(())).await,
            Step::Gone(port) => self.gone(port).await,
            Step::Answers(call, answer) => self.answers(call, answer).await,
            Step::Shares(call, shares) => self.shares(call, shares).await,
            Step::Spread(call, shares) => self.spread(call, shares).await,
            Step::Tries(call, backend, count) => self.tries(call, backend, *count).await,
            Step::Copies(call, backend, percent) => self.copies(call, backend, *percent).await,
            Step::Stays(call, said, sent) => self.stays(call, (said, sent)).await,
        }
    }

    async fn apply(&self, documents: &str) -> Result<()> {
        let all: Vec<Value> = serde_saphyr::from_multiple(documents).context("not YAML")?;
        for mut document in all.into_iter().filter(|document| !document.is_null()) {
            let (version, kind) = (text(&document["apiVersion"]), text(&document["kind"]));
            let is_namespaced = !matches!(&*kind, "GatewayClass" | "Namespace");
            if is_namespaced && document["metadata"]["namespace"].is_null() {
                document["metadata"]["namespace"] = self.names.fill("$NS").into();
            }
            let namespace = text(&document["metadata"]["namespace"]);
            let all = collection(&version, &kind, is_namespaced.then_some(&*namespace));
            let place = format!("{all}/{}", text(&document["metadata"]["name"]));
            self.made.lock().unwrap().insert(place.clone());
            let written = wait::until_or(LIMIT, || {
                let (mut document, all, place) = (document.clone(), &all, &place);
                async move {
                    let call = |method, path, body| self.scene.control.call(method, path, body);
                    let known = call(Method::GET, place, &Value::Null).await;
                    let (method, path) = match known.status {
                        StatusCode::NOT_FOUND => (Method::POST, all),
                        _ => (Method::PUT, place),
                    };
                    document["metadata"]["resourceVersion"] =
                        known.json()["metadata"]["resourceVersion"].take();
                    let written = call(method, path, &document).await;
                    // A status was written in between.
                    ensure!(written.status != StatusCode::CONFLICT, "{}", written.text());
                    Ok(written)
                }
            });
            let written = written.await?;
            ensure!(written.status.is_success(), "{kind}: {}", written.text());
        }
        Ok(())
    }

    /// Deletes what the row made, so that rows do not add up.
    async fn clean(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        for path in made {
            drop(self.scene.control.call(Method::DELETE, &path, &Value::Null).await);
        }
    }

    /// The path of an object, and what of it is meant.
    fn path<'b>(&self, object: &'b str) -> Result<(String, &'b str)> {
        let (kind, rest) = object.split_once(' ').context("no kind")?;
        let (place, part) = rest.split_once(' ').unwrap_or((rest, ""));
        let place = self.names.fill(place);
        let own = self.names.fill("$NS");
        let (namespace, name) = place.split_once('/').unwrap_or((&own, &place));
        let version = match kind {
            "Backend" | "TrafficPolicy" | "BackendPolicy" => "weighlock.dev/v1alpha1",
            "ReferenceGrant" => "gateway.networking.k8s.io/v1beta1",
            "Service" | "Secret" | "ConfigMap" => "v1",
            "EndpointSlice" => "discovery.k8s.io/v1",
            _ => "gateway.networking.k8s.io/v1",
        };
        let namespace = (kind != "GatewayClass").then_some(namespace);
        Ok((format!("{}/{name}", collection(version, kind, namespace)), part))
    }

    /// Waits until what is said of an object is of its present generation and `check` has nothing
    /// against it.
    async fn becomes(
        &self,
        object: &str,
        wanted: &str,
        check: impl Fn(&Value, &Value, &str) -> Result<()>,
    ) -> Result<()> {
        let (path, part) = self.path(object)?;
        let outcome = wait::until_or(LIMIT, || async {
            let answer = self.scene.control.call(Method::GET, &path, &Value::Null).await;
            ensure!(answer.status.is_success(), "{}", answer.text());
            let object = answer.json();
            let status = &object["status"];
            let part = match part.split_once('[') {
                None if part.is_empty() && status["parents"].is_array() => &status["parents"][0],
                None if part.is_empty() && status["ancestors"].is_array() => {
                    &status["ancestors"][0]
                }
                None if part.is_empty() => status,
                None => named(&status["listeners"], part),
                Some((list, index)) => {
                    &status[list][index.trim_end_matches(']').parse::<usize>()?]
                }
            };
            ensure!(!part["conditions"].is_null(), "nothing is said: {status}");
            is_current(&object, part)?;
            check(&object, part, wanted)
        });
        outcome.await.with_context(|| format!("{object}: {wanted}"))
    }

    async fn gone(&self, port: &str) -> Result<()> {
        let address = self.names.port(port);
        let outcome = wait::until_or(LIMIT, || async {
            let connected = tokio::net::TcpStream::connect(address).await;
            ensure!(connected.is_err(), "somebody listens on {address}");
            Ok(())
        });
        outcome.await
    }

    async fn ask(&self, call: &Call) -> Result<Got> {
        let address = self.names.port(call.port);
        let mut connection = match call.over {
            Over::Http1 => Connection::http1(address).await?,
            Over::Http2 => Connection::http2(address).await?,
            Over::Tls(name) => Connection::tls(address, name, &["h2"]).await?.0,
            Over::Shown(name) => self.shown(address, name, 0).await?,
            Over::ShownOther(name) => self.shown(address, name, 1).await?,
        };
        connection.ask(&self.request(call)).await
    }

    async fn shown(&self, address: SocketAddr, name: &str, client: usize) -> Result<Connection> {
        let own = self.scene.clients[client].shown();
        Ok(Connection::tls_as(address, name, &["h2"], Some(own)).await?.0)
    }

    fn request(&self, call: &Call) -> Ask {
        let headers =
            call.headers.iter().map(|(name, value)| ((*name).into(), self.names.fill(value)));
        Ask {
            method: call.method.parse().unwrap(),
            headers: headers.collect(),
            ..Ask::get(call.host, call.path)
        }
    }

    async fn answers(&self, call: &Call, wanted: &Answer) -> Result<()> {
        let outcome = wait::until_or(LIMIT, || async {
            let got = match (self.ask(call).await, wanted) {
                (Err(error), Answer::Closed) => {
                    let address = self.names.port(call.port);
                    TcpStream::connect(address).await.context("nobody listens")?;
                    ensure!(!error.root_cause().is::<Elapsed>(), "left waiting");
                    return Ok(());
                }
                (got, _) => got?,
            };
            self.fits(&got, wanted).with_context(|| format!("{} {:?}", got.status, got.headers))
        });
        let Call { port, method, host, path, .. } = call;
        outcome.await.with_context(|| format!("{method} {host}{path} at {port}"))
    }

    fn fits(&self, got: &Got, wanted: &Answer) -> Result<()> {
        match wanted {
            Answer::Closed => bail!("not closed"),
            Answer::From(backend) => ensure!(got.backend() == *backend, "not from {backend}"),
            Answer::Status(status) => ensure!(got.status == *status, "not {status}"),
            Answer::With(status, headers) => {
                ensure!(got.status == *status, "not {status}");
                for (name, value) in headers {
                    let found: Vec<&str> = got
                        .headers
                        .get_all(*name)
                        .iter()
                        .map(|value| value.to_str().unwrap_or_default())
                        .collect();
                    let value = self.names.fill(value);
                    ensure!(found.join(" | ") == value, "{name} is {found:?}, not {value:?}");
                }
            }
            Answer::Saw(backend, wanted) => {
                ensure!(got.backend() == *backend, "not from {backend}");
                let echo = got.json();
                for (name, value) in wanted {
                    let seen = match *name {
                        "path" | "method" | "version" | "server_name" | "certificate" => {
                            &echo[*name]
                        }
                        "host" if echo["headers"]["host"].is_null() => &echo["host"],
                        header => &echo["headers"][header],
                    };
                    let seen = seen.as_str().unwrap_or_default();
                    let value = self.names.fill(value);
                    ensure!(seen == value, "{backend} saw {name} {seen:?}, not {value:?}");
                }
            }
        }
        Ok(())
    }

    async fn shares(&self, call: &Call, shares: &[(&str, u32)]) -> Result<()> {
        let Some((first, _)) = shares.iter().find(|(_, share)| *share > 0) else {
            bail!("nobody gets anything");
        };
        self.answers_from_one_of(call, first, shares).await?;
        let mut connection = Connection::http1(self.names.port(call.port)).await?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..MANY {
            let got = connection.ask(&self.request(call)).await?;
            let from = if got.status == 200 {
                got.backend().to_owned()
            } else {
                got.status.as_str().into()
            };
            *counts.entry(from).or_default() += 1;
        }
        near(counts, shares)
    }

    async fn spread(&self, call: &Call, shares: &[(&str, u32)]) -> Result<()> {
        let first = shares.first().map_or("", |(first, _)| *first);
        self.answers_from_one_of(call, first, shares).await?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..MANY {
            let from = match self.ask(call).await {
                Ok(got) => got.backend().to_owned(),
                Err(_) => "closed".to_owned(),
            };
            *counts.entry(from).or_default() += 1;
        }
        near(counts, shares)
    }

    async fn tries(&self, call: &Call, backend: &str, count: usize) -> Result<()> {
        let backend = &self.scene.backends[backend];
        let before = backend.hits();
        self.ask(call).await?;
        let made = backend.hits() - before;
        ensure!(made == count, "{made} tries, not {count}");
        Ok(())
    }

    async fn copies(&self, call: &Call, backend: &str, percent: u32) -> Result<()> {
        let backend = &self.scene.backends[backend];
        let before = backend.hits();
        let mut connection = Connection::http1(self.names.port(call.port)).await?;
        for _ in 0..MANY {
            let got = connection.ask(&self.request(call)).await?;
            ensure!(got.status == 200, "{} {}", got.status, got.text());
        }
        let copied = wait::until_or(LIMIT, || async {
            let percent_copied = (backend.hits() - before) * 100 / MANY;
            ensure!(percent_copied + 5 >= percent as usize, "{percent_copied} % copied");
            Ok(percent_copied)
        });
        let copied = copied.await?;
        ensure!(copied <= percent as usize + 5, "{copied} % copied");
        Ok(())
    }

    async fn stays(&self, call: &Call, (said, sent): (&str, &str)) -> Result<()> {
        let first = wait::until_or(LIMIT, || async {
            let first = self.ask(call).await?;
            ensure!(first.header(said).is_some(), "{} {:?}", first.status, first.headers);
            Ok(first)
        });
        let first = first.await?;
        let session = first.header(said).unwrap_or_default().split(';').next().unwrap_or_default();
        let again = self.request(call).header(sent, session);
        for _ in 0..20 {
            let got = Connection::http1(self.names.port(call.port)).await?.ask(&again).await?;
            ensure!(
                got.backend() == first.backend(),
                "{} after {}",
                got.backend(),
                first.backend()
            );
        }
        Ok(())
    }

    /// The configuration is in place when anybody who should answers.
    async fn answers_from_one_of(
        &self,
        call: &Call,
        first: &str,
        shares: &[(&str, u32)],
    ) -> Result<()> {
        let outcome = wait::until_or(LIMIT, || async {
            let got = self.ask(call).await?;
            let is_one = shares.iter().any(|(name, _)| *name == got.backend());
            ensure!(is_one, "{} {}", got.status, got.text());
            Ok(())
        });
        outcome.await.with_context(|| format!("{first} to answer"))
    }
}

/// Of all that was counted each has its share, and nobody else has any.
fn near(mut counts: BTreeMap<String, usize>, shares: &[(&str, u32)]) -> Result<()> {
    for (backend, share) in shares {
        let count = counts.remove(*backend).unwrap_or_default();
        let percent = count * 100 / MANY;
        let is_near = percent.abs_diff(*share as usize) <= 5 && (*share > 0 || count == 0);
        ensure!(is_near, "{backend} got {count} of {MANY}, not {share} %");
    }
    ensure!(counts.is_empty(), "others answered too: {counts:?}");
    Ok(())
}

fn collection(version: &str, kind: &str, namespace: Option<&str>) -> String {
    let plural = match kind.to_lowercase() {
        kind if kind.ends_with("policy") => format!("{}ies", &kind[..kind.len() - 1]),
        kind if kind.ends_with('s') => format!("{kind}es"),
        kind => format!("{kind}s"),
    };
    let root = if version.contains('/') { "apis" } else { "api" };
    match namespace {
        None => format!("/{root}/{version}/{plural}"),
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().find(|entry| entry["name"] == name).unwrap_or(&Value::Null)
}

fn conditions(part: &Value) -> &[Value] {
    part["conditions"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_current(object: &Value, part: &Value) -> Result<()> {
    let generation = &object["metadata"]["generation"];
    let old = conditions(part).iter().find(|one| one["observedGeneration"] != *generation);
    ensure!(old.is_none(), "not of generation {generation}: {old:?}");
    Ok(())
}

fn says(_: &Value, part: &Value, wanted: &str) -> Result<()> {
    for wanted in wanted.split(", ") {
        let Some((condition, reason)) = wanted.split_once(' ') else {
            let (field, value) = wanted.split_once('=').context("neither field nor condition")?;
            let kinds = |list: &Value| {
                let kinds = list.as_array().map(Vec::as_slice).unwrap_or_default();
                kinds.iter().map(|kind| text(&kind["kind"])).collect::<Vec<_>>().join("+")
            };
            let found = &part[field];
            let found = if found.is_array() { kinds(found) } else { found.to_string() };
            ensure!(found == value, "{field} is {found}, not {value}");
            continue;
        };
        let (name, status) = condition.split_once('=').context("no condition")?;
        let found = conditions(part).iter().find(|one| one["type"] == name);
        let holds = found.is_some_and(|one| one["status"] == status && one["reason"] == reason);
        ensure!(holds, "{name} is {}", found.unwrap_or(&Value::Null));
    }
    Ok(())
}

fn silent(_: &Value, part: &Value, name: &str) -> Result<()> {
    let found = conditions(part).iter().find(|one| one["type"] == name);
    ensure!(found.is_none(), "{found:?}");
    Ok(())
}
