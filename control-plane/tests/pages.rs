//! Pages of `docs/` that are made from the tables in the source, so that they cannot say what is not so.
//!
//! `UPDATE_GOLDEN=1 cargo test --workspace --test pages` rewrites them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use control_plane::finding::codes::CODES;
use control_plane::model::kind::{KINDS, Kind};
use control_plane::model::schema::{Presence, Schema};
use control_plane::model::text::Format;
use control_plane::settings::{self, ServeArgs};
use control_plane::telemetry::metrics::{ApiRequest, ApiRoute, Metrics, Outcome, State, Type};
use data_plane::app::settings::Args as ProxyArgs;
use data_plane::telemetry::metrics::{ALL, Kind as MetricKind};
use data_plane::telemetry::why::Why;

#[test]
fn the_page_of_errors_is_up_to_date() {
    let mut page = String::from(
        "# Error codes\n\nMade from the source by a test. A code means one thing and is never used for another.\n\n\
         The exit code of `wlctl` goes by the kind of failure: [wlctl](wlctl.md). What the proxy answers by itself: [reasons](reasons.md).\n\n\
         | code | title | what it means |\n|---|---|---|\n",
    );
    for code in CODES {
        writeln!(
            page,
            "| [{0}](#{1}) | {2} | {3} |",
            code.code,
            code.code.to_lowercase(),
            code.title,
            cell(code.text)
        )
        .unwrap();
    }
    page.push_str("\n## Examples\n");
    for code in CODES {
        write!(page, "\n### {}\n\n{}:\n\n```text\n{}\n```\n", code.code, code.title, code.example)
            .unwrap();
    }
    check("errors.md", &page);
}

#[test]
fn the_page_of_reasons_is_up_to_date() {
    let source = fs::read_to_string(root().join("data-plane/src/telemetry/why.rs")).unwrap();
    let mut page = String::from(
        "# Reasons\n\nMade from the source by a test. Every reply that the proxy makes itself, and every request that fails, has one of these reasons: \
         as `why` in the [access log](proxy.md#access-log) and as label `reason` of `weighlock_local_replies_total`.\n\n\
         `flag` and `details` are Envoy's `%RESPONSE_FLAGS%` and `%RESPONSE_CODE_DETAILS%`. A client that speaks gRPC gets a response of trailers only, \
         with `grpc-status` and the body as `grpc-message`. `-`: none, or it varies.\n\n\
         | reason | when | status | gRPC | flag | details | body |\n|---|---|---|---|---|---|---|\n",
    );
    for why in Why::ALL {
        let facts = why.facts();
        let status = facts.status.map_or("-".to_owned(), |status| status.as_u16().to_string());
        let texts = [facts.grpc_status, facts.flag, facts.details, facts.body].map(text_or_dash);
        let meaning = meaning(&source, facts.name);
        writeln!(page, "| `{}` | {meaning} | {status} | {} |", facts.name, texts.join(" | "))
            .unwrap();
    }
    check("reasons.md", &page);
}

#[test]
fn the_page_of_metrics_is_up_to_date() {
    let mut page = String::from(
        "# Metrics\n\nMade from the source by a test. Prometheus reads them at `/metrics` of the admin address of each program.\n\n\
         ## Proxy\n\nHistograms are in seconds, with buckets from 0.0005 to 10. At most 2,000 sets of labels are kept by route and 2,000 by cluster; \
         what comes later counts under the label `_overflow` and in `weighlock_metric_overflow_total`. No label holds anything that a client sent.\n\n\
         | metric | type | labels | what |\n|---|---|---|---|\n",
    );
    for metric in ALL {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(
            page,
            "| `{}` | {kind} | {} | {} |",
            metric.name,
            text_or_none(&labels),
            metric.help
        )
        .unwrap();
    }
    page.push_str(
        "\n## Control plane\n\nThe text is OpenMetrics. Histograms are in seconds, with buckets from 0.0005 to 16.384, each twice the one before. Labels: `state` as in \
         [`wlctl status`](wlctl.md#status), `type` is `CDS`, `EDS`, …, `result` of a write is `ok`, `refused`, `conflict` or `failed`, `route` the template \
         of the path, `code_class` `2xx` and so on.\n\n| metric | type | labels | what |\n|---|---|---|---|\n",
    );
    let text = control_metrics().render();
    let lines: Vec<&str> = text.lines().collect();
    for [help, kind, sample] in lines.array_windows() {
        let (Some(help), Some(kind)) = (help.strip_prefix("# HELP "), kind.strip_prefix("# TYPE "))
        else {
            continue;
        };
        let (name, help) = help.split_once(' ').unwrap();
        let kind = kind.rsplit(' ').next().unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        let labels = labels(sample);
        writeln!(page, "| `{name}{suffix}` | {kind} | {labels} | {help} |").unwrap();
    }
    check("metrics.md", &page);
}

#[test]
fn the_page_of_settings_is_up_to_date() {
    let mut page = String::from(
        "# Settings\n\nMade from the source by a test.\n\n## weighlock serve\n\nA flag beats `--set KEY=VALUE`, which beats the file of `--settings`, which beats the default. \
         The file is YAML; a dot in a key is a step down (`store.kind` is `{store: {kind: …}}`). An unknown key is refused with the one that was probably meant.\n\n\
         | flag | what |\n|---|---|\n",
    );
    flags(&mut page, ServeArgs::augment_args(Command::new("serve")));
    page.push_str("\nKeys of the file and of `--set`: ");
    let keys: Vec<String> = settings::keys().map(|key| format!("`{key}`")).collect();
    writeln!(page, "{}.", keys.join(", ")).unwrap();
    page.push_str(
        "\n## weighlock-proxy\n\n`weighlock proxy` is the same program. A flag beats the bootstrap file, which beats the default. A duration is a number and a unit: \
         `500ms`, `5s`, `1.5m`, `2h`.\n\n| flag | what |\n|---|---|\n",
    );
    flags(&mut page, ProxyArgs::augment_args(Command::new("proxy")));
    check("settings.md", &page);
}

#[test]
fn the_page_of_document_fields_is_up_to_date() {
    let mut page = String::from(
        "# Fields of documents\n\nMade from the source by a test: every field that each kind has, what it may hold, and its default. A field that is not here is \
         refused (WL0002). What the fields mean, and which of them are known but not implemented: [documents](documents.md).\n\n\
         Every kind also has `apiVersion`, `kind` and `metadata` (`name`, `generateName`, `namespace`, `labels`, `annotations`; what else the Kubernetes API \
         puts there is taken and the server's own values win).\n",
    );
    for kind in KINDS {
        head(&mut page, kind);
        let Schema::Object(root) = kind.schema else { continue };
        let own = root
            .fields
            .iter()
            .filter(|field| !["apiVersion", "kind", "metadata"].contains(&field.name));
        page.push_str("\n| field | holds | default |\n|---|---|---|\n");
        for field in own {
            rows(&mut page, field.name, &field.schema, field.presence);
        }
    }
    check("document-fields.md", &page);
}

fn head(page: &mut String, kind: &Kind) {
    let version = |version: &&str| match kind.group {
        "" => format!("`{version}`"),
        group => format!("`{group}/{version}`"),
    };
    let versions: Vec<String> =
        [kind.version].iter().chain(kind.also_versions).map(version).collect();
    let scope = if kind.namespaced { "in a namespace" } else { "cluster-scoped" };
    write!(page, "\n## {}\n\n`apiVersion`: {}; {scope}", kind.kind, versions.join(" or ")).unwrap();
    let words: Vec<String> = [kind.plural, kind.singular]
        .iter()
        .chain(kind.short_names)
        .map(|word| format!("`{word}`"))
        .collect();
    writeln!(page, "; on the command line {}.", words.join(", ")).unwrap();
}

/// A row for a field, and one for each field below it.
fn rows(page: &mut String, path: &str, schema: &Schema, presence: Presence) {
    let default = match presence {
        Presence::Required => "required".to_owned(),
        Presence::Optional => "-".to_owned(),
        Presence::Default(json) => format!("`{json}`"),
    };
    writeln!(page, "| `{path}` | {} | {default} |", holds(schema)).unwrap();
    let (path, inner) = match schema {
        Schema::List { item, .. } => (format!("{path}[]"), *item),
        other => (path.to_owned(), other),
    };
    if let Schema::Object(object) = inner {
        for field in object.fields {
            rows(page, &format!("{path}.{}", field.name), &field.schema, field.presence);
        }
    }
}

fn holds(schema: &Schema) -> String {
    match schema {
        Schema::Object(_) => "an object".into(),
        Schema::Map { value, max } => format!("up to {max} keys, each with {}", holds(value)),
        Schema::List { item, min, max, keys } => {
            let count = if *min == 0 { format!("up to {max}") } else { format!("{min} to {max}") };
            let differ = match keys {
                [] => String::new(),
                [""] => ", no two the same".into(),
                [key, ..] => format!(", no two with the same `{key}`"),
            };
            format!("{count}: {}{differ}", holds(item))
        }
        Schema::Text(format) => form(*format),
        Schema::Enum(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Schema::Integer { min, max } if *max == i64::MAX => format!("a whole number from {min}"),
        Schema::Integer { min, max } => format!("{min} to {max}"),
        Schema::Number(numbers) => {
            numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        Schema::Boolean => "`true`, `false`".into(),
        Schema::Any => "anything; read only to refuse it, or not at all".into(),
    }
}

fn form(format: Format) -> String {
    match format {
        Format::Free(max) => format!("text of up to {max} bytes"),
        Format::Filled(max) => format!("text of 1 to {max} bytes"),
        Format::Label => "a DNS label".into(),
        Format::Subdomain => "a DNS name in lower case".into(),
        Format::Group => "an API group; empty for the core kinds".into(),
        Format::Hostname => "a hostname, whose first label may be `*`".into(),
        Format::PreciseHostname => "a hostname without `*`".into(),
        Format::LabelValue => "the value of a label".into(),
        Format::KindName => "the name of a kind".into(),
        Format::ControllerName => "a domain and a path".into(),
        Format::Protocol => "a word, or a domain and a word".into(),
        Format::HeaderName => "the name of a header or query parameter".into(),
        Format::Token(max) => format!("1 to {max} letters, digits and marks"),
        Format::Origin => "`*`, or an origin such as `https://*.shop.example:8443`".into(),
        Format::HeaderValue(max) => format!("printable text of 1 to {max} bytes"),
        Format::HeaderPath(max) => format!("a path of up to {max} bytes"),
        Format::Duration => "a duration: `500ms`, `30s`, `1m30s`".into(),
        Format::Address => "an IP address".into(),
    }
}

fn flags(page: &mut String, command: Command) {
    for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
        let mut names: Vec<String> =
            flag.get_short().map(|short| format!("`-{short}`")).into_iter().collect();
        let value = flag.get_action().takes_values().then(|| flag.get_value_names()).flatten();
        let value = value.map(|names| format!(" {}", names.join(" "))).unwrap_or_default();
        names.push(format!("`--{}{value}`", flag.get_long().unwrap()));
        let aliases = flag.get_visible_aliases().unwrap_or_default();
        names.extend(aliases.iter().map(|alias| format!("`--{alias}`")));
        let mut help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        if let [default] = flag.get_default_values() {
            write!(help, " [default: {}]", default.to_string_lossy()).unwrap();
        }
        writeln!(page, "| {} | {} |", names.join(", "), cell(&help)).unwrap();
    }
}

/// Every metric of the control plane with a sample, so that it is shown.
fn control_metrics() -> Metrics {
    let metrics = Metrics::default();
    let (outcome, route) = (Outcome { result: "ok" }, "/v1/apply".to_owned());
    drop(metrics.nodes.get_or_create(&State { state: "synced" }));
    drop(metrics.apply.get_or_create(&outcome));
    drop(metrics.apply_duration_seconds.get_or_create(&outcome));
    drop(metrics.nacks.get_or_create(&Type { r#type: "RDS" }));
    drop(metrics.api_request_duration_seconds.get_or_create(&ApiRoute { route: route.clone() }));
    drop(metrics.api_requests.get_or_create(&ApiRequest { route, code_class: "2xx" }));
    metrics
}

/// The names of the labels of a sample, but for the bound of a bucket.
fn labels(sample: &str) -> String {
    let Some((_, rest)) = sample.split_once('{') else { return "-".into() };
    let names = rest.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
    let names: Vec<String> =
        names.filter(|name| *name != "le").map(|name| format!("`{name}`")).collect();
    text_or_none(&names)
}

/// What a reason means: the comment before its line.
fn meaning(source: &str, name: &str) -> String {
    let mut meaning = "";
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            meaning = text;
        } else if line.contains(&format!(": \"{name}\",")) {
            break;
        }
    }
    meaning.trim_end_matches('.').to_owned()
}

fn text_or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { format!("`{}`", cell(text)) }
}

fn text_or_none(texts: &[String]) -> String {
    if texts.is_empty() { "-".into() } else { texts.join(", ") }
}

/// Text as it may stand in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn check(name: &str, page: &str) {
    let path = root().join("docs").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/{name} is out of date: UPDATE_GOLDEN=1 cargo test --workspace --test pages"
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
