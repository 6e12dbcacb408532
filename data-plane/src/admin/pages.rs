//! Pages of text in Envoy's layout.

use std::fmt::Write;

use crate::admin::dump::Dump;
use crate::snapshot::Snapshot;

/// `cluster::address::what::value`, a line each.
pub(super) fn clusters(snapshot: &Snapshot) -> String {
    let mut names: Vec<_> = snapshot.clusters.keys().collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let Some(cluster) = snapshot.clusters.get(name) else { continue };
        push(&mut text, format_args!("{name}::observability_name::{name}"));
        let has_eds = matches!(cluster.config.discovery, crate::cluster::Discovery::Eds(_));
        push(&mut text, format_args!("{name}::added_via_eds::{has_eds}"));
        for endpoint in &cluster.endpoints {
            let at = format!("{name}::{}", endpoint.label);
            push(&mut text, format_args!("{at}::health_flags::{}", endpoint.health().as_str()));
            push(&mut text, format_args!("{at}::weight::{}", endpoint.config.weight));
            push(&mut text, format_args!("{at}::priority::{}", endpoint.priority));
            push(&mut text, format_args!("{at}::region::{}", endpoint.locality.region));
            push(&mut text, format_args!("{at}::zone::{}", endpoint.locality.zone));
            push(&mut text, format_args!("{at}::sub_zone::{}", endpoint.locality.sub_zone));
        }
    }
    text
}

/// `listener::address`, a line each.
pub(super) fn listeners(dump: &Dump) -> String {
    let mut text = String::new();
    for (name, address) in &dump.listening {
        push(&mut text, format_args!("{name}::{address}"));
    }
    text
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let written = writeln!(text, "{line}");
    debug_assert!(written.is_ok());
}
