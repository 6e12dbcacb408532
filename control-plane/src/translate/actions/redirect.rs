//! Redirects: where they lead, and which port they name.

use xds_proto::envoy::config::route::v3::RedirectAction;
use xds_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};

use crate::model::filter::Redirect;
use crate::translate::actions::Site;
use crate::translate::filters::{self, PathChange};
use crate::translate::hostname::ANY;

/// The redirect of a rule whose match is for `prefix`.
pub(super) fn redirect_action(redirect: &Redirect, prefix: &str, site: Site<'_>) -> RedirectAction {
    let own_scheme = if site.is_tls { "https" } else { "http" };
    let scheme = redirect.scheme.as_deref().unwrap_or(own_scheme);
    let default_port = if scheme == "https" { 443 } else { 80 };
    let by_scheme = if redirect.scheme.is_some() { default_port } else { site.port };
    let port = redirect.port.unwrap_or(by_scheme);
    let is_written = port != default_port;
    // Where no port is written Envoy keeps the one of the request's host, which is that of the
    // other scheme; a host that is known is written without it.
    let known = (redirect.scheme.is_some() && !is_written && !site.domain.starts_with(ANY))
        .then_some(site.domain);
    let path = redirect.path.as_ref().and_then(|path| filters::path_change(path, prefix));
    RedirectAction {
        scheme_rewrite_specifier: redirect
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        host_redirect: redirect.hostname.as_deref().or(known).unwrap_or_default().to_owned(),
        port_redirect: if is_written { port.into() } else { 0 },
        path_rewrite_specifier: path.map(|path| match path {
            PathChange::Full(path) => PathRewriteSpecifier::PathRedirect(path),
            PathChange::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
            PathChange::Regex(change) => PathRewriteSpecifier::RegexRewrite(change),
        }),
        response_code: match redirect.status_code {
            301 => RedirectResponseCode::MovedPermanently,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::Found,
        }
        .into(),
        ..Default::default()
    }
}
