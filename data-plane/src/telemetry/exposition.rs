//! The registry as Prometheus text.

use std::fmt::Write as _;

use super::instrument::{BOUNDS_US, Histogram};
use super::metrics::{self, Kind, Metric};
use super::stats::{
    ByClass, CODE_CLASSES, ConfigSource, EndpointState, Fault, Handshake, Lax, Limit, Protocol,
    Refusal, UpstreamFailureKind, XDS_TYPES,
};
use super::why::Why;
use super::{Registry, lock};

/// Labels of one series, in the order of the page.
type Labels<'a> = &'a [(&'a str, &'a str)];

pub(super) fn render(registry: &Registry) -> String {
    let mut page = Page::default();
    routes(registry, &mut page);
    listeners(registry, &mut page);
    refused(registry, &mut page);
    lax(registry, &mut page);
    clusters(registry, &mut page);
    overload(registry, &mut page);
    proxy(registry, &mut page);
    process(&mut page);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn declare(&mut self, metric: &Metric) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let Metric { name, help, .. } = metric;
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _infallible = writeln!(self.0, "{line}");
    }

    fn series(
        &mut self,
        name: &str,
        suffix: &str,
        labels: Labels<'_>,
        value: impl std::fmt::Display,
    ) {
        self.0.push_str(name);
        self.0.push_str(suffix);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{close} {value}"));
    }

    fn value(&mut self, metric: &Metric, labels: Labels<'_>, value: impl std::fmt::Display) {
        debug_assert!(labels.iter().map(|(label, _)| label).eq(metric.labels), "{}", metric.name);
        self.series(metric.name, "", labels, value);
    }

    /// The classes that were ever counted.
    fn classes(&mut self, metric: &Metric, labels: Labels<'_>, classes: &ByClass) {
        for (class, counter) in CODE_CLASSES.iter().zip(&classes.0) {
            if counter.value() > 0 {
                let mut labels = labels.to_vec();
                labels.push(("code_class", class));
                self.value(metric, &labels, counter.value());
            }
        }
    }

    fn histogram(&mut self, metric: &Metric, labels: Labels<'_>, histogram: &Histogram) {
        debug_assert!(labels.iter().map(|(label, _)| label).eq(metric.labels), "{}", metric.name);
        let (buckets, sum_us) = histogram.read();
        let mut total = 0;
        for (i, count) in buckets.iter().enumerate() {
            total += count;
            let bound = BOUNDS_US.get(i).map_or("+Inf".to_owned(), |us| seconds(*us));
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.series(metric.name, "_bucket", &labels, total);
        }
        self.series(metric.name, "_sum", labels, seconds(sum_us));
        self.series(metric.name, "_count", labels, total);
    }
}

/// Microseconds as seconds, without the rounding of a float.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn routes(registry: &Registry, page: &mut Page) {
    let routes: Vec<_> = lock(&registry.routes)
        .iter()
        .map(|(labels, stats)| (labels.clone(), stats.clone()))
        .collect();
    page.declare(&metrics::REQUESTS);
    for (labels, stats) in &routes {
        let labels =
            [("listener", &*labels.listener), ("host", &*labels.host), ("route", &*labels.route)];
        page.classes(&metrics::REQUESTS, &labels, &stats.requests);
    }
    page.declare(&metrics::REQUEST_DURATION);
    for (labels, stats) in &routes {
        let labels =
            [("listener", &*labels.listener), ("host", &*labels.host), ("route", &*labels.route)];
        page.histogram(&metrics::REQUEST_DURATION, &labels, &stats.duration);
    }
    page.declare(&metrics::GATEWAY_DURATION);
    for (labels, stats) in &routes {
        let labels =
            [("listener", &*labels.listener), ("host", &*labels.host), ("route", &*labels.route)];
        page.histogram(&metrics::GATEWAY_DURATION, &labels, &stats.gateway_duration);
    }
    route_bytes(&routes, page);
}

fn route_bytes(
    routes: &[(super::RouteLabels, std::sync::Arc<super::stats::RouteStats>)],
    page: &mut Page,
) {
    let labels = |labels: &super::RouteLabels| {
        [
            ("listener", labels.listener.to_string()),
            ("host", labels.host.to_string()),
            ("route", labels.route.to_string()),
        ]
    };
    page.declare(&metrics::REQUEST_BODY_BYTES);
    for (names, stats) in routes {
        let names = labels(names);
        let names: Vec<_> = names.iter().map(|(name, value)| (*name, value.as_str())).collect();
        page.value(&metrics::REQUEST_BODY_BYTES, &names, stats.request_body_bytes.value());
    }
    page.declare(&metrics::RESPONSE_BODY_BYTES);
    for (names, stats) in routes {
        let names = labels(names);
        let names: Vec<_> = names.iter().map(|(name, value)| (*name, value.as_str())).collect();
        page.value(&metrics::RESPONSE_BODY_BYTES, &names, stats.response_body_bytes.value());
    }
    page.declare(&metrics::LOCAL_REPLIES);
    for (names, stats) in routes {
        for why in Why::ALL {
            let count = stats.local_replies.0[why.index()].value();
            if count > 0 {
                let names = labels(names);
                let mut names: Vec<_> =
                    names.iter().map(|(name, value)| (*name, value.as_str())).collect();
                names.push(("reason", why.name()));
                page.value(&metrics::LOCAL_REPLIES, &names, count);
            }
        }
    }
}

fn listeners(registry: &Registry, page: &mut Page) {
    let listeners = lock(&registry.listeners).clone();
    page.declare(&metrics::REQUESTS_ACTIVE);
    for (name, stats) in &listeners {
        page.value(&metrics::REQUESTS_ACTIVE, &[("listener", name)], stats.requests_active.value());
    }
    page.declare(&metrics::DOWNSTREAM_CONNECTIONS);
    for (name, stats) in &listeners {
        for (protocol, (open, _)) in Protocol::NAMES.iter().zip(&stats.connections) {
            let labels = [("listener", &**name), ("protocol", protocol)];
            page.value(&metrics::DOWNSTREAM_CONNECTIONS, &labels, open.value());
        }
    }
    page.declare(&metrics::DOWNSTREAM_CONNECTIONS_TOTAL);
    for (name, stats) in &listeners {
        for (protocol, (_, total)) in Protocol::NAMES.iter().zip(&stats.connections) {
            let labels = [("listener", &**name), ("protocol", protocol)];
            page.value(&metrics::DOWNSTREAM_CONNECTIONS_TOTAL, &labels, total.value());
        }
    }
    page.declare(&metrics::TLS_HANDSHAKES);
    for (name, stats) in &listeners {
        for (result, count) in Handshake::NAMES.iter().zip(&stats.handshakes) {
            if count.value() > 0 {
                let labels = [("listener", &**name), ("result", result)];
                page.value(&metrics::TLS_HANDSHAKES, &labels, count.value());
            }
        }
    }
    page.declare(&metrics::CONNECTION_FAULTS);
    for (name, stats) in &listeners {
        for (reason, count) in Fault::NAMES.iter().zip(&stats.faults) {
            if count.value() > 0 {
                let labels = [("listener", &**name), ("reason", reason)];
                page.value(&metrics::CONNECTION_FAULTS, &labels, count.value());
            }
        }
    }
}

fn refused(registry: &Registry, page: &mut Page) {
    page.declare(&metrics::CONNECTIONS_REFUSED);
    for (name, stats) in &lock(&registry.listeners).clone() {
        for (reason, count) in Refusal::NAMES.iter().zip(&stats.refused) {
            if count.value() > 0 {
                let labels = [("listener", &**name), ("reason", reason)];
                page.value(&metrics::CONNECTIONS_REFUSED, &labels, count.value());
            }
        }
    }
}

fn lax(registry: &Registry, page: &mut Page) {
    page.declare(&metrics::LISTENER_LAX);
    for (name, stats) in &lock(&registry.listeners).clone() {
        for (setting, is_lax) in Lax::NAMES.iter().zip(&stats.lax) {
            let labels = [("listener", &**name), ("setting", setting)];
            page.value(&metrics::LISTENER_LAX, &labels, is_lax.value());
        }
    }
}

fn overload(registry: &Registry, page: &mut Page) {
    let overload = lock(&registry.proxy.overload);
    page.declare(&metrics::OVERLOAD_PRESSURE);
    for (resource, pressure) in &overload.pressures {
        let value = Thousandths(*pressure);
        page.value(&metrics::OVERLOAD_PRESSURE, &[("resource", resource)], value);
    }
    page.declare(&metrics::OVERLOAD_ACTION);
    for (action, share) in &overload.shares {
        page.value(&metrics::OVERLOAD_ACTION, &[("action", action)], Thousandths(*share));
    }
}

struct Thousandths(i64);

impl std::fmt::Display for Thousandths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

fn clusters(registry: &Registry, page: &mut Page) {
    let clusters = lock(&registry.clusters).clone();
    page.declare(&metrics::UPSTREAM_REQUESTS);
    for (name, stats) in &clusters {
        let labels = |attempt| [("cluster", &**name), ("attempt", attempt)];
        page.classes(&metrics::UPSTREAM_REQUESTS, &labels("first"), &stats.first_attempts);
        page.classes(&metrics::UPSTREAM_REQUESTS, &labels("retry"), &stats.retries);
    }
    page.declare(&metrics::UPSTREAM_REQUEST_DURATION);
    for (name, stats) in &clusters {
        page.histogram(&metrics::UPSTREAM_REQUEST_DURATION, &[("cluster", name)], &stats.duration);
    }
    page.declare(&metrics::UPSTREAM_FAILURES);
    for (name, stats) in &clusters {
        for (reason, count) in UpstreamFailureKind::NAMES.iter().zip(&stats.failures) {
            if count.value() > 0 {
                let labels = [("cluster", &**name), ("reason", reason)];
                page.value(&metrics::UPSTREAM_FAILURES, &labels, count.value());
            }
        }
    }
    page.declare(&metrics::UPSTREAM_CONNECTIONS);
    for (name, stats) in &clusters {
        page.value(&metrics::UPSTREAM_CONNECTIONS, &[("cluster", name)], stats.connections.value());
    }
    page.declare(&metrics::UPSTREAM_CONNECTIONS_TOTAL);
    for (name, stats) in &clusters {
        let total = stats.connections_total.value();
        page.value(&metrics::UPSTREAM_CONNECTIONS_TOTAL, &[("cluster", name)], total);
    }
    page.declare(&metrics::CLUSTER_ENDPOINTS);
    for (name, stats) in &clusters {
        for (state, count) in EndpointState::NAMES.iter().zip(&stats.endpoints) {
            let labels = [("cluster", &**name), ("state", state)];
            page.value(&metrics::CLUSTER_ENDPOINTS, &labels, count.value());
        }
    }
    page.declare(&metrics::CIRCUIT_BREAKER_OPEN);
    for (name, stats) in &clusters {
        for (limit, open) in Limit::NAMES.iter().zip(&stats.breakers) {
            let labels = [("cluster", &**name), ("limit", limit)];
            page.value(&metrics::CIRCUIT_BREAKER_OPEN, &labels, open.value());
        }
    }
}

fn proxy(registry: &Registry, page: &mut Page) {
    let stats = registry.proxy();
    page.declare(&metrics::XDS_CONNECTED);
    page.value(&metrics::XDS_CONNECTED, &[], stats.xds_connected.value());
    page.declare(&metrics::XDS_UPDATES);
    for (kind, results) in XDS_TYPES.iter().zip(&stats.xds_updates) {
        for (result, count) in ["ack", "nack"].iter().zip(results) {
            page.value(&metrics::XDS_UPDATES, &[("type", kind), ("result", result)], count.value());
        }
    }
    page.declare(&metrics::XDS_LAST_ACK);
    for (kind, at) in XDS_TYPES.iter().zip(&stats.xds_last_ack) {
        let at = at.load(std::sync::atomic::Ordering::Relaxed);
        if at > 0 {
            page.value(&metrics::XDS_LAST_ACK, &[("type", kind)], at);
        }
    }
    page.declare(&metrics::CONFIG_REVISION);
    if let Some(revision) = lock(&registry.revision).clone() {
        page.value(&metrics::CONFIG_REVISION, &[("revision", &revision)], 1);
    }
    page.declare(&metrics::CONFIG_SWAP);
    page.histogram(&metrics::CONFIG_SWAP, &[], &stats.config_swap);
    page.declare(&metrics::CONFIG_SOURCE);
    for (source, is_it) in ConfigSource::NAMES.iter().zip(&stats.config_source) {
        page.value(&metrics::CONFIG_SOURCE, &[("source", source)], is_it.value());
    }
    page.declare(&metrics::CERTIFICATE_EXPIRY);
    for (name, at) in lock(&registry.certificates).iter() {
        page.value(&metrics::CERTIFICATE_EXPIRY, &[("name", name)], at);
    }
    page.declare(&metrics::ACCESS_LOG_DROPPED);
    let dropped = registry.dropped_lines.value();
    page.value(&metrics::ACCESS_LOG_DROPPED, &[("reason", "queue_full")], dropped);
    page.declare(&metrics::METRIC_OVERFLOW);
    page.value(&metrics::METRIC_OVERFLOW, &[], registry.overflows.value());
    page.declare(&metrics::BUILD_INFO);
    page.value(&metrics::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1);
}

/// What the kernel knows of this process; left out where there is no `/proc`.
fn process(page: &mut Page) {
    const TICKS_PER_SECOND: u64 = 100; // USER_HZ, the same on every Linux
    const PAGE_BYTES: u64 = 4096;
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The name of the program, in parentheses, may hold spaces.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return };
    let fields: Vec<u64> = rest.split(' ').map(|field| field.trim().parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    let cpu_us = (field(14) + field(15)) * (1_000_000 / TICKS_PER_SECOND);
    page.declare(&metrics::PROCESS_CPU);
    page.value(&metrics::PROCESS_CPU, &[], seconds(cpu_us));
    page.declare(&metrics::PROCESS_MEMORY);
    page.value(&metrics::PROCESS_MEMORY, &[], field(24) * PAGE_BYTES);
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.declare(&metrics::PROCESS_FDS);
        page.value(&metrics::PROCESS_FDS, &[], open.count());
    }
    let booted = std::fs::read_to_string("/proc/stat").ok().and_then(|stat| {
        stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok())
    });
    if let Some(booted) = booted {
        page.declare(&metrics::PROCESS_START);
        page.value(&metrics::PROCESS_START, &[], booted + field(22) / TICKS_PER_SECOND);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn labels_are_escaped_and_buckets_add_up() {
        let registry = Registry::default();
        let cluster = registry.cluster(&"a\"b".into());
        cluster.duration.record(Duration::from_micros(700));
        cluster.duration.record(Duration::from_secs(11));
        let page = registry.render();
        let name = "weighlock_upstream_request_duration_seconds";
        assert!(page.contains(&format!("{name}_bucket{{cluster=\"a\\\"b\",le=\"0.001\"}} 1\n")));
        assert!(page.contains(&format!("{name}_bucket{{cluster=\"a\\\"b\",le=\"+Inf\"}} 2\n")));
        assert!(page.contains(&format!("{name}_sum{{cluster=\"a\\\"b\"}} 11.0007\n")));
    }

    #[test]
    fn every_declared_metric_is_on_the_page() {
        let page = Registry::default().render();
        for metric in metrics::ALL {
            assert!(page.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        }
    }
}
