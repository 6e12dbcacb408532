//! Writes the page: messages by resource, extensions by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use xds_proto::descriptor;

use crate::source::{Account, File};

/// What the page says first, and what is written by hand.
const HEAD: &str = include_str!("head.md");

/// Chapters in their order, and the packages that they hold; the first that fits counts.
const CHAPTERS: &[(&str, &[&str])] = &[
    ("Bootstrap", &["envoy.config.bootstrap."]),
    (
        "Listener",
        &[
            "envoy.config.listener.",
            "envoy.extensions.filters.listener.",
            "envoy.extensions.filters.network.tcp_proxy.",
        ],
    ),
    ("HTTP connection manager", &["envoy.extensions.filters.network.http_connection_manager."]),
    ("Access log", &["envoy.config.accesslog.", "envoy.extensions.access_loggers."]),
    (
        "RouteConfiguration",
        &[
            "envoy.config.route.",
            "envoy.extensions.path.",
            "envoy.extensions.retry.",
            "envoy.extensions.matching.",
        ],
    ),
    (
        "HTTP filters",
        &[
            "envoy.extensions.filters.",
            "envoy.config.rbac.",
            "envoy.config.common.",
            "envoy.extensions.compression.",
            "envoy.extensions.http.",
            "envoy.extensions.common.",
        ],
    ),
    (
        "Cluster",
        &[
            "envoy.config.cluster.",
            "envoy.extensions.clusters.",
            "envoy.extensions.load_balancing_policies.",
            "envoy.extensions.upstreams.",
            "envoy.extensions.health_checkers.",
        ],
    ),
    ("ClusterLoadAssignment", &["envoy.config.endpoint."]),
    ("TLS and secrets", &["envoy.extensions.transport_sockets."]),
    ("Runtime", &["envoy.service.runtime."]),
    ("Parts that several resources use", &[""]),
];

/// Where a message is taken apart, as people would say it, by the start of the file's path.
const PLACES: &[(&str, &str)] = &[
    ("bootstrap", "in a bootstrap"),
    ("compile/cluster", "of a cluster"),
    ("compile/http_connection_manager", "of an HTTP connection manager"),
    ("compile/access_log", "of an access log"),
    ("compile/tls", "of a TLS context"),
    ("compile/secret", "of a TLS context or secret"),
    ("compile/source", "of what a resource names"),
    ("filter/", "of the filter"),
];

/// Accounts by message, each with its file; those that say the same in several files stand once.
pub(crate) type Messages = BTreeMap<String, Vec<(String, Account)>>;

pub(crate) fn messages(files: &[File]) -> Messages {
    let mut messages = Messages::new();
    for file in files {
        for account in &file.accounts {
            let known = messages.entry(account.message.clone()).or_default();
            if !known.iter().any(|(_, other)| other == account) {
                known.push((file.path.clone(), account.clone()));
            }
        }
    }
    messages
}

pub(crate) fn page(messages: &Messages, files: &[File]) -> String {
    let (before, after) = HEAD.split_once("<!-- extensions -->\n").unwrap();
    let mut page = format!("{before}{}{after}", extensions(files));
    for (chapter, _) in CHAPTERS {
        let mut has_heading = false;
        for (message, accounts) in
            messages.iter().filter(|(name, _)| self::chapter(name) == *chapter)
        {
            if !has_heading {
                write!(page, "\n## {chapter}\n").unwrap();
                has_heading = true;
            }
            write!(page, "\n### {message}\n\n").unwrap();
            let is_one = accounts.len() == 1;
            for (file, account) in accounts {
                if !is_one {
                    writeln!(page, "{}:\n", place(file)).unwrap();
                }
                lists(account, &mut page);
                if !is_one {
                    page.push('\n');
                }
            }
            page.truncate(page.trim_end().len());
            page.push('\n');
        }
    }
    page
}

fn chapter(message: &str) -> &'static str {
    let holds = |packages: &[&str]| packages.iter().any(|package| message.starts_with(package));
    CHAPTERS.iter().find(|(_, packages)| holds(packages)).unwrap().0
}

fn place(file: &str) -> String {
    let (_, place) = PLACES
        .iter()
        .find(|(start, _)| file.starts_with(start))
        .unwrap_or_else(|| panic!("say in PLACES what {file} is"));
    match file.strip_prefix("filter/") {
        Some(name) => format!("{place} `{}`", name.split(['/', '.']).next().unwrap()),
        None => (*place).to_owned(),
    }
}

fn lists(account: &Account, page: &mut String) {
    let list = |fields: &[String]| {
        let mut names: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
        names.sort();
        names.join(", ")
    };
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (field, reason) in &account.ignored {
        by_reason.entry(reason).or_default().push(field.clone());
    }
    if account.read.is_empty() && account.refused.is_empty() && account.ignored.is_empty() {
        page.push_str("- read; it has no fields\n");
    }
    if !account.read.is_empty() {
        writeln!(page, "- read: {}", list(&account.read)).unwrap();
    }
    for (reason, fields) in by_reason {
        writeln!(page, "- ignored: {}. {reason}", list(&fields)).unwrap();
    }
    if !account.refused.is_empty() {
        writeln!(page, "- refused: {}", list(&account.refused)).unwrap();
    }
}

/// Every kind of extension that Envoy has, and which of each kind there are here.
fn extensions(files: &[File]) -> String {
    let mut extensions = roots();
    let known: BTreeSet<&String> = files
        .iter()
        .flat_map(|file| {
            file.named.iter().filter(|name| extensions.contains(*name)).chain(&file.unpacked)
        })
        .collect();
    extensions.extend(
        known
            .iter()
            .filter(|name| name.starts_with("envoy.extensions."))
            .map(|name| (*name).clone()),
    );
    let mut kinds: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for name in &extensions {
        let (kind, short) = kind(name);
        let (implemented, refused) = kinds.entry(kind).or_default();
        let list = if known.contains(name) { implemented } else { refused };
        list.push(format!("`{short}`"));
    }
    let mut text = String::new();
    let mut none = String::new();
    for (kind, (implemented, refused)) in &kinds {
        if implemented.is_empty() {
            writeln!(none, "- `{kind}`: {}", refused.join(", ")).unwrap();
            continue;
        }
        write!(text, "### `{kind}`\n\n- implemented: {}\n", implemented.join(", ")).unwrap();
        if !refused.is_empty() {
            writeln!(text, "- refused: {}", refused.join(", ")).unwrap();
        }
        text.push('\n');
    }
    write!(text, "### Kinds of which none is implemented\n\n{none}").unwrap();
    text
}

/// The messages of `envoy.extensions` that no other message of Envoy's has a field of: those that stand in an `Any`.
fn roots() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut used = BTreeSet::new();
    for name in descriptor::names() {
        let message = descriptor::by_name(&name).unwrap();
        let fields = message.fields().filter_map(|field| field.kind().as_message().cloned());
        used.extend(fields.map(|of| of.full_name().to_owned()).filter(|of| *of != name));
        let is_extension =
            name.starts_with("envoy.extensions.") && message.parent_message().is_none();
        if is_extension && !name.contains(".common.") {
            all.insert(name);
        }
    }
    all.retain(|name| !used.contains(name));
    all
}

/// `envoy.extensions.filters.http.router.v3.Router` is `router.v3.Router` of the kind `filters.http`.
fn kind(name: &str) -> (String, String) {
    let path = name.trim_start_matches("envoy.extensions.");
    let parts: Vec<&str> = path.split('.').collect();
    let has_two = matches!(parts[0], "filters" | "http" | "matching" | "path") && parts.len() > 4;
    let depth = if has_two { 2 } else { 1 };
    (parts[..depth].join("."), parts[depth..].join("."))
}
