//! Compiles what a route does: `RouteAction`, `RedirectAction`, `DirectResponseAction`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use xds_proto::convert::{inline_data, optional_duration};
use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use xds_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use xds_proto::envoy::config::route::v3::weighted_cluster::cluster_weight;
use xds_proto::envoy::config::route::v3::weighted_cluster::{ClusterWeight, RandomValueSpecifier};
use xds_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;

use super::around::Surroundings;
use super::{both_ways, mirror, retry, uri_template};
use crate::compile::hash_policy;
use crate::compile::labels::of_metadata;
use crate::filtering::rate_limit;
use crate::format::Template;
use crate::labels::Labels;
use crate::matcher::compile::regex_rewrite;
use crate::route::action::{
    Action, ClusterChoice, DirectResponse, Draw, Forward, GrpcTimeout, Limit, Upgrade,
    WeightedCluster, WeightedClusters,
};
use crate::route::redirect::{Redirect, RedirectPath};
use crate::route::rewrite::{HostRewrite, PathRewrite};

/// The route timeout of Envoy when none is set.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Compiles the action of a route.
pub(super) fn compile(
    action: route::route::Action,
    around: &mut Surroundings,
) -> Result<Action, FieldError> {
    use route::route::Action as Message;
    match action {
        Message::Route(message) => {
            forward(message, around).map(|forward| Action::Forward(Box::new(forward))).at("route")
        }
        Message::Redirect(message) => {
            redirect(message).map(|redirect| Action::Redirect(Box::new(redirect))).at("redirect")
        }
        Message::DirectResponse(message) => direct(message, around.body_bytes_max)
            .map(|direct| Action::Direct(Box::new(direct)))
            .at("direct_response"),
        Message::FilterAction(_) => Err(FieldError::unsupported()).at("filter_action"),
        Message::NonForwardingAction(_) => {
            Err(FieldError::unsupported()).at("non_forwarding_action")
        }
    }
}

fn forward(message: route::RouteAction, around: &mut Surroundings) -> Result<Forward, FieldError> {
    fields!(message: route::RouteAction,
    read: [
        cluster_specifier, cluster_not_found_response_code, prefix_rewrite, regex_rewrite,
        path_rewrite, host_rewrite_specifier, append_x_forwarded_host, timeout, idle_timeout,
        retry_policy, upgrade_configs, max_stream_duration, max_grpc_timeout,
        grpc_timeout_offset, hash_policy, metadata_match, request_mirror_policies,
        path_rewrite_policy, rate_limits, include_vh_rate_limits,
    ],
    // early_data_policy: TLS early data is not taken.
    ignore: [early_data_policy],
    refuse: [
        flush_timeout, retry_policy_typed_config, priority,
        cors, internal_redirect_policy, internal_redirect_action, max_internal_redirects,
        hedge_policy,
    ]);
    let timeout = optional_duration(timeout.as_ref(), "timeout")?.unwrap_or(TIMEOUT);
    // Envoy's "new timeouts": the limit on the stream stands in for the one on the response.
    let has_stream_limit = max_stream_duration.is_some();
    let old_grpc = grpc_timeout(
        optional_duration(max_grpc_timeout.as_ref(), "max_grpc_timeout")?,
        optional_duration(grpc_timeout_offset.as_ref(), "grpc_timeout_offset")?,
    );
    let (max_stream_duration, grpc_timeout) = match max_stream_duration {
        Some(message) => stream_duration(message).at("max_stream_duration")?,
        None => (Limit::Inherited, None),
    };
    let labels = metadata_match.map(of_metadata).unwrap_or_default();
    let specifier = required(cluster_specifier, "cluster_specifier")?;
    Ok(Forward {
        cluster: cluster(specifier, &labels, around)?,
        labels,
        hash_policy: hash_policy::compile(hash_policy)?,
        timeout: (!timeout.is_zero() && !has_stream_limit).then_some(timeout),
        idle_timeout: limit(optional_duration(idle_timeout.as_ref(), "idle_timeout")?),
        max_stream_duration,
        grpc_timeout: if has_stream_limit { grpc_timeout } else { old_grpc },
        retry: match retry_policy {
            Some(policy) => Some(Arc::new(retry::compile(policy).at("retry_policy")?)),
            None => around.retry.clone(),
        },
        kept_bytes_max: around.kept_bytes_max,
        mirrors: {
            let inherited = Arc::clone(&around.mirrors);
            mirror::compile(request_mirror_policies, around, &inherited)?
        },
        upgrades: upgrades(upgrade_configs)?,
        cluster_not_found: not_found(cluster_not_found_response_code)?,
        path_rewrite: match (
            new_path(prefix_rewrite, regex_rewrite, path_rewrite)?,
            path_rewrite_policy,
        ) {
            (rewrite, None) => rewrite,
            (None, Some(policy)) => {
                let rewrite = uri_template::rewrite(policy, around.template.as_ref());
                Some(PathRewrite::Regex(rewrite.at("path_rewrite_policy")?))
            }
            (Some(_), Some(_)) => return Err(one_rewrite()),
        },
        host_rewrite: host_rewrite_specifier.map(host_rewrite).transpose()?.flatten(),
        append_x_forwarded_host,
        rate_limits: each(rate_limits, "rate_limits", rate_limit::compile)?.into(),
        includes_virtual_host_rate_limits: include_vh_rate_limits.is_some_and(|flag| flag.value),
    })
}

fn limit(value: Option<Duration>) -> Limit {
    match value {
        None => Limit::Inherited,
        Some(zero) if zero.is_zero() => Limit::Off,
        Some(limit) => Limit::After(limit),
    }
}

/// A zero maximum is no bound.
fn grpc_timeout(max: Option<Duration>, offset: Option<Duration>) -> Option<GrpcTimeout> {
    max.map(|max| GrpcTimeout {
        max: (!max.is_zero()).then_some(max),
        offset: offset.unwrap_or_default(),
        is_of_stream: false,
    })
}

fn stream_duration(
    message: route::route_action::MaxStreamDuration,
) -> Result<(Limit, Option<GrpcTimeout>), FieldError> {
    fields!(message: route::route_action::MaxStreamDuration,
        read: [max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset],
        ignore: [],
        refuse: []);
    let max = optional_duration(grpc_timeout_header_max.as_ref(), "grpc_timeout_header_max")?;
    let offset =
        optional_duration(grpc_timeout_header_offset.as_ref(), "grpc_timeout_header_offset")?;
    let all = optional_duration(max_stream_duration.as_ref(), "max_stream_duration")?;
    let grpc = grpc_timeout(max, offset).map(|rule| GrpcTimeout { is_of_stream: true, ..rule });
    Ok((limit(all), grpc))
}

fn upgrades(
    messages: Vec<route::route_action::UpgradeConfig>,
) -> Result<Box<[Upgrade]>, FieldError> {
    let mut upgrades: Vec<Upgrade> = Vec::with_capacity(messages.len());
    each(messages, "upgrade_configs", |message| {
        fields!(message: route::route_action::UpgradeConfig,
            read: [upgrade_type, enabled], ignore: [], refuse: [connect_config]);
        let protocol = required_text(upgrade_type, "upgrade_type")?;
        let is_enabled = enabled.is_none_or(|enabled| enabled.value);
        if is_enabled && protocol.to_ascii_uppercase().starts_with("CONNECT") {
            return Err(FieldError::unsupported()).at("upgrade_type");
        }
        if upgrades.iter().any(|other| other.protocol.eq_ignore_ascii_case(&protocol)) {
            return Err(FieldError::invalid("is there already")).at("upgrade_type");
        }
        upgrades.push(Upgrade { protocol: protocol.into(), is_enabled });
        Ok(())
    })?;
    Ok(upgrades.into())
}

fn not_found(code: i32) -> Result<StatusCode, FieldError> {
    match ClusterNotFoundResponseCode::try_from(code) {
        Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => Ok(StatusCode::SERVICE_UNAVAILABLE),
        Ok(ClusterNotFoundResponseCode::NotFound) => Ok(StatusCode::NOT_FOUND),
        Ok(ClusterNotFoundResponseCode::InternalServerError) => {
            Ok(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Err(_) => Err(FieldError::invalid("unknown value")).at("cluster_not_found_response_code"),
    }
}

fn cluster(
    specifier: ClusterSpecifier,
    labels: &Labels,
    around: &mut Surroundings,
) -> Result<ClusterChoice, FieldError> {
    match specifier {
        ClusterSpecifier::Cluster(name) => {
            Ok(ClusterChoice::One(around.cluster(required_text(name, "cluster")?)?))
        }
        ClusterSpecifier::ClusterHeader(name) => {
            header_name(&name).map(ClusterChoice::Header).at("cluster_header")
        }
        ClusterSpecifier::WeightedClusters(message) => {
            weighted(message, labels, around).map(ClusterChoice::Weighted).at("weighted_clusters")
        }
        ClusterSpecifier::ClusterSpecifierPlugin(_) => {
            Err(FieldError::unsupported()).at("cluster_specifier_plugin")
        }
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            Err(FieldError::unsupported()).at("inline_cluster_specifier_plugin")
        }
    }
}

pub(in crate::compile) fn header_name(name: &str) -> Result<HeaderName, FieldError> {
    if name.is_empty() {
        return Err(FieldError::required());
    }
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| FieldError::invalid(format!("{name:?} is not a header name")))
}

pub(super) fn header_value(value: &str) -> Result<HeaderValue, FieldError> {
    HeaderValue::from_str(value)
        .map_err(|_| FieldError::invalid("has bytes that no header may have"))
}

fn weighted(
    message: route::WeightedCluster,
    labels: &Labels,
    around: &mut Surroundings,
) -> Result<WeightedClusters, FieldError> {
    fields!(message: route::WeightedCluster,
        read: [clusters, random_value_specifier],
        // total_weight: deprecated; the sum counts. runtime_key_prefix: there is no runtime.
        ignore: [total_weight, runtime_key_prefix],
        refuse: []);
    let draw = match random_value_specifier {
        Some(RandomValueSpecifier::UseHashPolicy(value)) if value.value => Draw::Hash,
        None | Some(RandomValueSpecifier::UseHashPolicy(_)) => Draw::Random,
        Some(RandomValueSpecifier::HeaderName(name)) => {
            Draw::Header(header_name(&name).at("header_name")?)
        }
    };
    let clusters = each(clusters, "clusters", |message| weighted_cluster(message, labels, around))?;
    let sum: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    if u32::try_from(sum).is_err() {
        return Err(FieldError::invalid("the sum of weights must be below 2^32")).at("clusters");
    }
    WeightedClusters::new(clusters, draw)
        .ok_or_else(|| FieldError::invalid("the sum of weights must be greater than 0"))
        .at("clusters")
}

fn weighted_cluster(
    message: ClusterWeight,
    labels: &Labels,
    around: &mut Surroundings,
) -> Result<WeightedCluster, FieldError> {
    fields!(message: ClusterWeight,
        read: [
            name, weight, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, host_rewrite_specifier,
            metadata_match, typed_per_filter_config,
        ],
        ignore: [],
        refuse: [cluster_header]);
    let host_rewrite = match host_rewrite_specifier {
        Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(header_value(&host).at("host_rewrite_literal")?)
        }
        None => None,
    };
    let name = required_text(name, "name")?;
    let route = around.route;
    let filters = around.filters(typed_per_filter_config, || format!("#{route}/{name}"))?;
    let changes = both_ways(
        (request_headers_to_add, request_headers_to_remove),
        (response_headers_to_add, response_headers_to_remove),
    )?;
    Ok(WeightedCluster {
        index: around.cluster(name)?,
        filters,
        weight: required(weight, "weight")?.value,
        host_rewrite: host_rewrite.filter(|host| !host.is_empty()),
        labels: metadata_match.map(|metadata| labels.overlaid(&of_metadata(metadata))),
        request: changes.request,
        response: changes.response,
    })
}

fn new_path(
    prefix: String,
    regex: Option<RegexMatchAndSubstitute>,
    template: String,
) -> Result<Option<PathRewrite>, FieldError> {
    match (prefix.is_empty(), regex, template.is_empty()) {
        (true, None, true) => Ok(None),
        (false, None, true) => Ok(Some(PathRewrite::Prefix(prefix.into()))),
        (true, Some(message), true) => {
            regex_rewrite(message).map(PathRewrite::Regex).map(Some).at("regex_rewrite")
        }
        (true, None, false) => {
            Template::compile(&template).map(PathRewrite::Template).map(Some).at("path_rewrite")
        }
        _ => Err(one_rewrite()),
    }
}

fn one_rewrite() -> FieldError {
    FieldError::invalid(
        "only one of prefix_rewrite, regex_rewrite, path_rewrite and path_rewrite_policy may be set",
    )
}

fn host_rewrite(specifier: HostRewriteSpecifier) -> Result<Option<HostRewrite>, FieldError> {
    Ok(match specifier {
        HostRewriteSpecifier::HostRewriteLiteral(host) if host.is_empty() => None,
        HostRewriteSpecifier::HostRewriteLiteral(host) => {
            Some(HostRewrite::Literal(header_value(&host).at("host_rewrite_literal")?))
        }
        HostRewriteSpecifier::AutoHostRewrite(value) => value.value.then_some(HostRewrite::Auto),
        HostRewriteSpecifier::HostRewriteHeader(name) => {
            Some(HostRewrite::Header(header_name(&name).at("host_rewrite_header")?))
        }
        HostRewriteSpecifier::HostRewritePathRegex(message) => {
            Some(HostRewrite::PathRegex(regex_rewrite(message).at("host_rewrite_path_regex")?))
        }
        HostRewriteSpecifier::HostRewrite(_) => {
            return Err(FieldError::unsupported()).at("host_rewrite");
        }
    })
}

fn redirect(message: route::RedirectAction) -> Result<Redirect, FieldError> {
    fields!(message: route::RedirectAction,
        read: [
            host_redirect, port_redirect, response_code, strip_query, scheme_rewrite_specifier,
            path_rewrite_specifier,
        ],
        ignore: [],
        refuse: []);
    let status = match RedirectResponseCode::try_from(response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("response_code"),
    };
    let scheme = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => "https".to_owned(),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => scheme,
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => String::new(),
    };
    let port = u16::try_from(port_redirect)
        .map_err(|_| FieldError::invalid("must be at most 65535"))
        .at("port_redirect")?;
    let set = |text: String| (!text.is_empty()).then(|| text.into_boxed_str());
    let path = match path_rewrite_specifier {
        None => RedirectPath::Same,
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            set(path).map_or(RedirectPath::Same, RedirectPath::Whole)
        }
        Some(PathRewriteSpecifier::PrefixRewrite(text)) => {
            redirect_path(new_path(text, None, String::new())?)
        }
        Some(PathRewriteSpecifier::RegexRewrite(message)) => {
            redirect_path(new_path(String::new(), Some(message), String::new())?)
        }
        Some(PathRewriteSpecifier::PathRewrite(text)) if text.is_empty() => RedirectPath::Same,
        Some(PathRewriteSpecifier::PathRewrite(text)) => {
            RedirectPath::Template(Template::compile(&text).at("path_rewrite")?)
        }
    };
    for (text, field) in [(&scheme, "scheme_redirect"), (&host_redirect, "host_redirect")] {
        header_value(text).at(field)?;
    }
    Ok(Redirect {
        status,
        scheme: set(scheme),
        host: set(host_redirect),
        port: (port != 0).then_some(port),
        path,
        strip_query,
    })
}

fn redirect_path(rewrite: Option<PathRewrite>) -> RedirectPath {
    rewrite.map_or(RedirectPath::Same, RedirectPath::Rewrite)
}

fn direct(
    message: route::DirectResponseAction,
    body_bytes_max: usize,
) -> Result<DirectResponse, FieldError> {
    fields!(message: route::DirectResponseAction,
        read: [status, body], ignore: [], refuse: [body_format]);
    let status = u16::try_from(status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| FieldError::invalid("must be between 200 and 599"))
        .at("status")?;
    let body = match body {
        None => Bytes::new(),
        body => inline_data(body).map(Bytes::from).at("body")?,
    };
    if body.len() > body_bytes_max {
        return Err(FieldError::invalid(format!(
            "has {} bytes, max_direct_response_body_size_bytes allows {body_bytes_max}",
            body.len()
        )))
        .at("body");
    }
    let content_type = (!body.is_empty()).then(|| HeaderValue::from_static("text/plain"));
    Ok(DirectResponse { status, body, content_type })
}

#[cfg(test)]
mod tests {
    use xds_proto::json;

    use super::*;

    fn compiled(yaml: &str) -> Result<Action, String> {
        let mut around = Surroundings { body_bytes_max: 4, ..Surroundings::default() };
        let message: route::Route = json::from_yaml(&format!("{{{yaml}}}")).unwrap();
        compile(message.action.unwrap(), &mut around).map_err(|error| error.to_string())
    }

    fn forward(yaml: &str) -> Forward {
        match compiled(&format!("route: {{cluster: a, {yaml}}}")) {
            Ok(Action::Forward(forward)) => *forward,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn unset_fields_mean_what_envoy_says() {
        let unset = forward("");
        assert_eq!(unset.timeout, Some(Duration::from_secs(15)));
        assert_eq!(unset.idle_timeout, Limit::Inherited);
        assert_eq!(unset.max_stream_duration, Limit::Inherited);
        assert_eq!(unset.cluster_not_found, StatusCode::SERVICE_UNAVAILABLE);
        assert!(unset.retry.is_none() && unset.grpc_timeout.is_none());
        assert_eq!(unset.allows_upgrade("websocket"), None);
    }

    #[test]
    fn zero_turns_a_limit_off() {
        let off = forward(
            "timeout: 0s, idle_timeout: 0s, max_stream_duration: {max_stream_duration: 0s,
             grpc_timeout_header_max: 0s, grpc_timeout_header_offset: 1s}",
        );
        assert_eq!(off.timeout, None);
        assert_eq!((off.idle_timeout, off.max_stream_duration), (Limit::Off, Limit::Off));
        let offset = Duration::from_secs(1);
        assert_eq!(off.grpc_timeout, Some(GrpcTimeout { max: None, offset, is_of_stream: true }));
        assert_eq!(forward("idle_timeout: 2s").idle_timeout, Limit::After(Duration::from_secs(2)));
    }

    #[test]
    fn upgrades_are_on_or_off_by_protocol() {
        let forward = forward(
            "upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: h2c, enabled: false}]",
        );
        assert_eq!(forward.allows_upgrade("WebSocket"), Some(true));
        assert_eq!(forward.allows_upgrade("h2c"), Some(false));
        assert_eq!(forward.allows_upgrade("other"), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("route: {}", "route.cluster_specifier: required"),
            ("route: {cluster: ''}", "route.cluster: required"),
            (
                "route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}",
                "route.weighted_clusters.clusters: the sum of weights must be greater than 0",
            ),
            (
                "route: {weighted_clusters: {clusters: [{name: a}]}}",
                "route.weighted_clusters.clusters[0].weight: required",
            ),
            (
                "route: {weighted_clusters: {clusters: [{name: a, weight: 4294967295}, {name: b, weight: 1}]}}",
                "route.weighted_clusters.clusters: the sum of weights must be below 2^32",
            ),
            (
                "route: {cluster: a, prefix_rewrite: /x, regex_rewrite: {}}",
                "route: only one of prefix_rewrite, regex_rewrite, path_rewrite and path_rewrite_policy may be set",
            ),
            (
                "route: {cluster: a, regex_rewrite: {pattern: {regex: a}, substitution: '\\1'}}",
                "route.regex_rewrite.substitution: the pattern has no group 1",
            ),
            (
                "route: {cluster: a, hash_policy: [{}]}",
                "route.hash_policy[0].policy_specifier: required",
            ),
            (
                "route: {cluster: a, request_mirror_policies: [{cluster: b}, {}]}",
                "route.request_mirror_policies[1].cluster: required",
            ),
            (
                "route: {cluster: a, request_mirror_policies: [{cluster: b, cluster_header: c}]}",
                "route.request_mirror_policies[0]: only one of cluster and cluster_header may be set in request mirror policy",
            ),
            (
                "route: {cluster: a, path_rewrite_policy: {name: x}}",
                "route.path_rewrite_policy.typed_config: required",
            ),
            (
                "route: {cluster: a, upgrade_configs: [{upgrade_type: CONNECT}]}",
                "route.upgrade_configs[0].upgrade_type: not supported",
            ),
            ("redirect: {port_redirect: 65536}", "redirect.port_redirect: must be at most 65535"),
            (
                "direct_response: {status: 99}",
                "direct_response.status: must be between 200 and 599",
            ),
            (
                "direct_response: {status: 200, body: {inline_string: hello}}",
                "direct_response.body: has 5 bytes, max_direct_response_body_size_bytes allows 4",
            ),
            ("non_forwarding_action: {}", "non_forwarding_action: not supported"),
        ] {
            assert_eq!(compiled(yaml).unwrap_err(), want);
        }
    }
}
