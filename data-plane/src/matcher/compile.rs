//! Compiles Envoy's matchers of texts, headers, query parameters, addresses and metadata.

use std::net::IpAddr;

use prost::{Message, Name};
use xds_proto::convert::millionths;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::route::v3 as route;
use xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use xds_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use xds_proto::envoy::r#type::matcher::v3 as matcher;
use xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::xds::r#type::matcher::v3 as xds;

use crate::matcher::cidr::Cidr;
use crate::matcher::header::{HeaderMatcher, HeaderTest, MatchedName};
use crate::matcher::metadata::{MetadataMatcher, ValueMatcher};
use crate::matcher::query::{QueryMatcher, QueryTest};
use crate::matcher::regex::{Regex, RegexRewrite};
use crate::matcher::uri_template::UriTemplate;
use crate::matcher::{Pattern, StringMatcher};

/// A regular expression. Which engine is asked for changes nothing: there is one.
pub(crate) fn regex(message: matcher::RegexMatcher) -> Result<(Regex, String), FieldError> {
    fields!(message: matcher::RegexMatcher,
        read: [regex],
        // `google_re2`, which has only the deprecated size limit, is the only engine.
        ignore: [engine_type],
        refuse: []);
    let compiled = Regex::compile(&regex).at("regex")?;
    Ok((compiled, regex))
}

/// An expression and what its matches become.
pub(crate) fn regex_rewrite(
    message: matcher::RegexMatchAndSubstitute,
) -> Result<RegexRewrite, FieldError> {
    fields!(message: matcher::RegexMatchAndSubstitute,
        read: [pattern, substitution], ignore: [], refuse: []);
    let pattern = required(pattern, "pattern")?;
    RegexRewrite::compile(&pattern.regex, &substitution)
}

/// A text to compare with.
pub(crate) fn string(message: matcher::StringMatcher) -> Result<StringMatcher, FieldError> {
    fields!(message: matcher::StringMatcher,
        read: [match_pattern, ignore_case], ignore: [], refuse: []);
    let part = |text: String, field| Ok(required_text(text, field)?.into());
    let pattern = match required(match_pattern, "match_pattern")? {
        MatchPattern::Exact(text) => Pattern::Exact(text.into()),
        MatchPattern::Prefix(text) => Pattern::Prefix(part(text, "prefix")?),
        MatchPattern::Suffix(text) => Pattern::Suffix(part(text, "suffix")?),
        MatchPattern::Contains(text) => Pattern::Contains(part(text, "contains")?),
        MatchPattern::SafeRegex(expression) if !ignore_case => {
            Pattern::Regex(regex(expression).at("safe_regex")?.0)
        }
        MatchPattern::SafeRegex(_) => {
            return Err(FieldError::invalid("has no effect for safe_regex")).at("ignore_case");
        }
        MatchPattern::Custom(_) => return Err(FieldError::unsupported()).at("custom"),
    };
    Ok(StringMatcher::new(pattern, ignore_case))
}

/// A text to compare with, as matcher trees have it.
pub(crate) fn xds_string(message: xds::StringMatcher) -> Result<StringMatcher, FieldError> {
    use matcher::string_matcher::MatchPattern as Same;
    use xds::string_matcher::MatchPattern;
    fields!(message: xds::StringMatcher, read: [match_pattern, ignore_case], ignore: [], refuse: []);
    let pattern = match required(match_pattern, "match_pattern")? {
        MatchPattern::Exact(text) => Same::Exact(text),
        MatchPattern::Prefix(text) => Same::Prefix(text),
        MatchPattern::Suffix(text) => Same::Suffix(text),
        MatchPattern::Contains(text) => Same::Contains(text),
        MatchPattern::SafeRegex(expression) => Same::SafeRegex(matcher::RegexMatcher {
            regex: expression.regex,
            ..matcher::RegexMatcher::default()
        }),
        MatchPattern::Custom(_) => return Err(FieldError::unsupported()).at("custom"),
    };
    string(matcher::StringMatcher { match_pattern: Some(pattern), ignore_case })
}

/// A condition on a header.
pub(crate) fn header(message: route::HeaderMatcher) -> Result<HeaderMatcher, FieldError> {
    fields!(message: route::HeaderMatcher,
        read: [name, header_match_specifier, invert_match, treat_missing_header_as_empty],
        ignore: [],
        refuse: []);
    let name = required_text(name, "name")?;
    let name = MatchedName::parse(&name)
        .ok_or_else(|| FieldError::invalid(format!("{name:?} is not a header name")))
        .at("name")?;
    let test = header_match_specifier.map_or(Ok(HeaderTest::Present(true)), header_test)?;
    Ok(HeaderMatcher::new(name, test, invert_match, treat_missing_header_as_empty))
}

#[expect(
    deprecated,
    reason = "Envoy still takes the old forms, and so do control planes send them"
)]
fn header_test(specifier: HeaderMatchSpecifier) -> Result<HeaderTest, FieldError> {
    let text = |pattern| HeaderTest::Text(StringMatcher::new(pattern, false));
    let part = |text: String, field| Ok(required_text(text, field)?.into());
    Ok(match specifier {
        // An empty exact match asks only whether there is a value, as it always did.
        HeaderMatchSpecifier::ExactMatch(value) if value.is_empty() => HeaderTest::Present(true),
        HeaderMatchSpecifier::ExactMatch(value) => text(Pattern::Exact(value.into())),
        HeaderMatchSpecifier::PrefixMatch(value) => {
            text(Pattern::Prefix(part(value, "prefix_match")?))
        }
        HeaderMatchSpecifier::SuffixMatch(value) => {
            text(Pattern::Suffix(part(value, "suffix_match")?))
        }
        HeaderMatchSpecifier::ContainsMatch(value) => {
            text(Pattern::Contains(part(value, "contains_match")?))
        }
        HeaderMatchSpecifier::SafeRegexMatch(expression) => {
            text(Pattern::Regex(regex(expression).at("safe_regex_match")?.0))
        }
        HeaderMatchSpecifier::StringMatch(matcher) => {
            HeaderTest::Text(string(matcher).at("string_match")?)
        }
        HeaderMatchSpecifier::PresentMatch(present) => HeaderTest::Present(present),
        HeaderMatchSpecifier::RangeMatch(range) => {
            HeaderTest::Range { start: range.start, end: range.end }
        }
    })
}

/// A condition on a query parameter.
pub(crate) fn query(message: route::QueryParameterMatcher) -> Result<QueryMatcher, FieldError> {
    fields!(message: route::QueryParameterMatcher,
        read: [name, query_parameter_match_specifier], ignore: [], refuse: []);
    let name = required_text(name, "name")?;
    let test = match query_parameter_match_specifier {
        None => QueryTest::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => QueryTest::Present(present),
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            QueryTest::Text(string(matcher).at("string_match")?)
        }
    };
    Ok(QueryMatcher::new(&name, test))
}

/// A range of addresses.
pub(crate) fn cidr(message: core::CidrRange) -> Result<Cidr, FieldError> {
    let address: IpAddr = message
        .address_prefix
        .parse()
        .map_err(|_| FieldError::invalid("must be an IP address"))
        .at("address_prefix")?;
    let bits = message.prefix_len.map_or(0, |bits| bits.value);
    u8::try_from(bits)
        .ok()
        .and_then(|bits| Cidr::new(address, bits))
        .ok_or_else(|| FieldError::invalid("must be at most 32, or 128 for IPv6"))
        .at("prefix_len")
}

/// Texts to compare with, one of which is enough.
pub(crate) fn strings(
    message: matcher::ListStringMatcher,
) -> Result<Box<[StringMatcher]>, FieldError> {
    each(message.patterns, "patterns", string).map(Into::into)
}

/// A condition on the path, without its query.
pub(crate) fn path(message: matcher::PathMatcher) -> Result<StringMatcher, FieldError> {
    match required(message.rule, "rule")? {
        matcher::path_matcher::Rule::Path(path) => string(path).at("path"),
    }
}

/// A template of a path (`envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig`).
pub(crate) fn uri_template(policy: core::TypedExtensionConfig) -> Result<UriTemplate, FieldError> {
    let config: UriTemplateMatchConfig = path_policy(policy)?;
    fields!(config: UriTemplateMatchConfig, read: [path_template], ignore: [], refuse: []);
    let template = required_text(path_template, "path_template");
    template
        .and_then(|template| UriTemplate::parse(&template).at("path_template"))
        .at("typed_config")
}

/// What an extension for paths is told.
pub(crate) fn path_policy<M: Message + Name + Default>(
    policy: core::TypedExtensionConfig,
) -> Result<M, FieldError> {
    let config = required(policy.typed_config, "typed_config")?;
    if config.type_url != M::type_url() {
        let name = config.type_url.rsplit('/').next().unwrap_or_default();
        let reason = format!("unknown path policy {name:?}");
        return Err(FieldError::invalid(reason)).at("type_url").at("typed_config");
    }
    M::decode(config.value.as_slice())
        .map_err(|error| FieldError::invalid(error.to_string()))
        .at("value")
        .at("typed_config")
}

/// A fraction in millionths.
pub(crate) fn fraction(message: core::RuntimeFractionalPercent) -> Result<u32, FieldError> {
    fields!(message: core::RuntimeFractionalPercent,
        read: [default_value],
        // There is no runtime to look the key up in, so the default counts.
        ignore: [runtime_key],
        refuse: []);
    millionths(&required(default_value, "default_value")?).at("default_value")
}

/// A condition on what filters left.
pub(crate) fn metadata(message: matcher::MetadataMatcher) -> Result<MetadataMatcher, FieldError> {
    fields!(message: matcher::MetadataMatcher,
        read: [filter, path, value, invert], ignore: [], refuse: []);
    let path = each(path, "path", |segment| {
        use matcher::metadata_matcher::path_segment::Segment;
        match required(segment.segment, "segment")? {
            Segment::Key(key) => Ok(required_text(key, "key")?.into_boxed_str()),
        }
    })?;
    if path.is_empty() {
        return Err(FieldError::required()).at("path");
    }
    Ok(MetadataMatcher {
        namespace: required_text(filter, "filter")?.into(),
        path: path.into(),
        test: self::value(required(value, "value")?).at("value")?,
        invert,
    })
}

/// A condition on a value of the metadata.
pub(crate) fn value(message: matcher::ValueMatcher) -> Result<ValueMatcher, FieldError> {
    use matcher::value_matcher::MatchPattern as Test;
    Ok(match required(message.match_pattern, "match_pattern")? {
        Test::NullMatch(_) => ValueMatcher::Null,
        Test::DoubleMatch(double) => {
            use matcher::double_matcher::MatchPattern as Number;
            match required(double.match_pattern, "match_pattern").at("double_match")? {
                Number::Range(range) => ValueMatcher::Range(range.start, range.end),
                Number::Exact(number) => ValueMatcher::Number(number),
            }
        }
        Test::StringMatch(text) => ValueMatcher::Text(string(text).at("string_match")?),
        Test::BoolMatch(wanted) => ValueMatcher::Bool(wanted),
        Test::PresentMatch(present) => ValueMatcher::Present(present),
        Test::ListMatch(list) => {
            use matcher::list_matcher::MatchPattern as Items;
            match required(list.match_pattern, "match_pattern").at("list_match")? {
                Items::OneOf(test) => {
                    ValueMatcher::AnyItem(Box::new(value(*test).at("one_of").at("list_match")?))
                }
            }
        }
        Test::OrMatch(or) => {
            let tests = each(or.value_matchers, "value_matchers", value).at("or_match")?;
            ValueMatcher::Or(tests.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use xds_proto::json;

    use super::*;
    use crate::matcher::header::HeaderView;

    fn header_matches(yaml: &str, value: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert("x", value.parse().unwrap());
        }
        let message = json::from_yaml(&format!("{{name: x, {yaml}}}")).unwrap();
        header(message).unwrap().matches(&HeaderView::response(&headers))
    }

    #[test]
    fn every_form_of_header_matcher_compiles() {
        for (yaml, yes, no) in [
            ("", "any", None),
            ("exact_match: a", "a", Some("b")),
            ("exact_match: ''", "any", None),
            ("prefix_match: a", "ab", Some("b")),
            ("suffix_match: b", "ab", Some("a")),
            ("contains_match: b", "abc", Some("a")),
            ("safe_regex_match: {regex: 'a+'}", "aa", Some("ab")),
            ("string_match: {exact: A, ignore_case: true}", "a", Some("b")),
            ("string_match: {safe_regex: {google_re2: {}, regex: 'a+'}}", "aa", Some("ab")),
            ("range_match: {start: 1, end: 3}", "2", Some("3")),
            ("present_match: true", "", None),
            ("string_match: {exact: a}, invert_match: true", "b", Some("a")),
        ] {
            assert!(header_matches(yaml, Some(yes)), "{yaml}");
            assert!(!header_matches(yaml, no), "{yaml}");
        }
        assert!(header_matches(
            "string_match: {safe_regex: {regex: '^$'}}, treat_missing_header_as_empty: true",
            None
        ));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        const MATCH: &str = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
        for (yaml, want) in [
            ("{name: x}".to_owned(), "typed_config: required"),
            (
                format!("{{name: x, typed_config: {{'@type': {MATCH}, path_template: x}}}}"),
                "typed_config.path_template: must begin with /",
            ),
        ] {
            let error = uri_template(json::from_yaml(&yaml).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("string_match: {prefix: ''}", "string_match.prefix: required"),
            ("string_match: {}", "string_match.match_pattern: required"),
            ("string_match: {custom: {name: x}}", "string_match.custom: not supported"),
            (
                "string_match: {ignore_case: true, safe_regex: {regex: a}}",
                "string_match.ignore_case: has no effect for safe_regex",
            ),
            (
                "string_match: {safe_regex: {regex: '(['}}",
                "string_match.safe_regex.regex: not a valid RE2 expression: unclosed character class",
            ),
        ] {
            let message = json::from_yaml(&format!("{{name: x, {yaml}}}")).unwrap();
            assert_eq!(header(message).unwrap_err().to_string(), want);
        }
    }
}
