//! What a rule does to requests and answers, as Envoy has it.

use xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use xds_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use crate::model::filter::{Header, HeaderModifier, HttpFilter, PathModifier};
use crate::translate::envoy::regex;
use crate::translate::matches::trimmed;

/// Headers that say how a message is framed or carried; the proxy owns them.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Changes to the headers of a request or an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct HeaderChanges {
    /// What is set and added.
    pub(super) add: Vec<HeaderValueOption>,
    /// What is taken away.
    pub(super) remove: Vec<String>,
    /// What the host becomes.
    pub(super) host: Option<String>,
}

/// The changes that a modifier asks for.
pub(super) fn header_changes(modifier: &HeaderModifier) -> HeaderChanges {
    let mut changes = HeaderChanges::default();
    for header in first_by_name(&modifier.set) {
        if header.name.eq_ignore_ascii_case("host") {
            changes.host = Some(header.value.clone());
        } else {
            changes.add.push(option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
        }
    }
    for header in first_by_name(&modifier.add) {
        changes.add.push(option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    }
    changes.remove = modifier.remove.iter().map(|name| name.to_lowercase()).collect();
    changes
}

/// Of equivalent names the first counts.
fn first_by_name(headers: &[Header]) -> Vec<&Header> {
    let mut first: Vec<&Header> = Vec::new();
    for header in headers {
        if !first.iter().any(|other| other.name.eq_ignore_ascii_case(&header.name)) {
            first.push(header);
        }
    }
    first
}

fn option(header: &Header, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: header.name.to_lowercase(),
            // Values are literal; to Envoy a percent sign begins a command.
            value: header.value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: action.into(),
        ..Default::default()
    }
}

/// Why a modifier cannot be carried out, if so. Only a request has a host to set.
pub(super) fn header_refusal(modifier: &HeaderModifier, is_request: bool) -> Option<String> {
    let set = modifier.set.iter().map(|header| ("set", &header.name));
    let add = modifier.add.iter().map(|header| ("add", &header.name));
    let remove = modifier.remove.iter().map(|name| ("remove", name));
    for (verb, name) in set.chain(add).chain(remove) {
        let lower = name.to_lowercase();
        if FRAMING.contains(&lower.as_str()) {
            return Some(format!("{verb} {name}: the proxy owns this header"));
        }
        if lower == "host" && !(is_request && verb == "set") {
            return Some(format!(
                "{verb} {name}: the host of a request can be set, and nothing else"
            ));
        }
    }
    None
}

/// What a path becomes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PathChange {
    /// All of it becomes this.
    Full(String),
    /// What matched becomes this.
    Prefix(String),
    /// What the expression matches becomes the substitution.
    Regex(RegexMatchAndSubstitute),
}

/// The change of the path that a modifier asks for, in a rule whose match is `prefix`.
pub(super) fn path_change(modifier: &PathModifier, prefix: &str) -> Option<PathChange> {
    match modifier {
        PathModifier::ReplaceFullPath { path } => Some(PathChange::Full(absolute(path))),
        PathModifier::ReplacePrefixMatch { prefix: replacement } => {
            match (trimmed(prefix), trimmed(&absolute(replacement))) {
                ("/", "/") => None,
                // The root matches no segment of its own, so one must follow.
                ("/", replacement) => Some(PathChange::Prefix(format!("{replacement}/"))),
                // Envoy would leave `//` or nothing.
                (prefix, "/") => {
                    Some(PathChange::Regex(substitute(format!("^{}/?", escaped(prefix)), "/")))
                }
                (_, replacement) => Some(PathChange::Prefix(replacement.to_owned())),
            }
        }
    }
}

/// The whole path becomes this one, as a substitution.
pub(super) fn full_path(path: &str) -> RegexMatchAndSubstitute {
    substitute("^/.*$".to_owned(), path)
}

fn substitute(expression: String, substitution: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(regex(expression)),
        substitution: substitution.replace('\\', "\\\\"),
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Text as an expression that matches it, in RE2 as in Rust.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// The modifier of a request's headers among filters.
pub(super) fn request_modifier(filters: &[HttpFilter]) -> Option<&HeaderModifier> {
    filters.iter().find_map(|filter| match filter {
        HttpFilter::RequestHeaderModifier { modifier } => Some(modifier),
        _ => None,
    })
}

/// The modifier of an answer's headers among filters.
pub(super) fn response_modifier(filters: &[HttpFilter]) -> Option<&HeaderModifier> {
    filters.iter().find_map(|filter| match filter {
        HttpFilter::ResponseHeaderModifier { modifier } => Some(modifier),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(matched: &str, replacement: &str) -> Option<PathChange> {
        let modifier = PathModifier::ReplacePrefixMatch { prefix: replacement.to_owned() };
        path_change(&modifier, matched)
    }

    #[test]
    fn a_replaced_prefix_leaves_no_double_slash() {
        let plain = |text: &str| Some(PathChange::Prefix(text.to_owned()));
        assert_eq!(prefix("/foo", "/xyz"), plain("/xyz"));
        assert_eq!(prefix("/foo/", "/xyz/"), plain("/xyz"));
        assert_eq!(prefix("/", "/xyz"), plain("/xyz/"));
        assert_eq!(prefix("/", "/"), None);
        assert_eq!(
            prefix("/f.o", ""),
            Some(PathChange::Regex(substitute(r"^/f\.o/?".into(), "/")))
        );
        let expression = regex::Regex::new(r"^/f\.o/?").unwrap();
        for (path, rewritten) in [("/f.o/bar", "/bar"), ("/f.o", "/"), ("/f.o/", "/")] {
            assert_eq!(expression.replace_all(path, "/"), rewritten);
        }
    }

    #[test]
    fn values_are_literal_and_the_host_is_rewritten() {
        let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
        let changes = header_changes(&HeaderModifier {
            set: vec![header("X-A", "100%"), header("x-a", "2"), header("Host", "b.example")],
            add: vec![header("X-B", "1")],
            remove: vec!["X-C".to_owned()],
        });
        let values: Vec<_> =
            changes.add.iter().map(|option| option.header.clone().unwrap().value).collect();
        assert_eq!(values, ["100%%", "1"]);
        assert_eq!(changes.host.as_deref(), Some("b.example"));
        assert_eq!(changes.remove, ["x-c"]);
    }

    #[test]
    fn framing_stays_the_proxys() {
        let remove =
            |name: &str| HeaderModifier { remove: vec![name.into()], ..Default::default() };
        assert!(header_refusal(&remove("Content-Length"), true).is_some());
        assert!(header_refusal(&remove("Host"), true).is_some());
        assert!(header_refusal(&remove("x-a"), true).is_none());
    }
}
