//! Compiles matcher trees.

use prost::{Message, Name};
use xds_proto::envoy::extensions::matching::common_inputs::network::v3 as network;
use xds_proto::envoy::extensions::matching::common_inputs::ssl::v3 as ssl;
use xds_proto::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use xds_proto::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use xds_proto::envoy::r#type::matcher::v3 as http_inputs;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::Any;
use xds_proto::xds::core::v3::TypedExtensionConfig;
use xds_proto::xds::r#type::matcher::v3 as api;
use xds_proto::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate, single_predicate,
};
use xds_proto::xds::r#type::matcher::v3::matcher::matcher_list::{self, FieldMatcher};
use xds_proto::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use xds_proto::xds::r#type::matcher::v3::matcher::{
    MatcherList, MatcherTree, MatcherType, OnMatch, on_match,
};

use super::input::{End, Input};
use super::{Branch, Branches, Predicate, Test, Tree};
use crate::matcher::compile as matchers;
use crate::matcher::header::MatchedName;

/// What becomes of an action.
type Action<'f, A> = &'f dyn Fn(TypedExtensionConfig) -> Result<A, FieldError>;

/// Compiles a tree whose actions `action` understands.
pub(crate) fn compile<A>(
    message: api::Matcher,
    action: Action<'_, A>,
) -> Result<Tree<A>, FieldError> {
    fields!(message: api::Matcher,
        read: [matcher_type, on_no_match], ignore: [], refuse: []);
    let branches = match matcher_type {
        None => Branches::None,
        Some(MatcherType::MatcherList(list)) => self::list(list, action).at("matcher_list")?,
        Some(MatcherType::MatcherTree(tree)) => map(tree, action).at("matcher_tree")?,
    };
    let otherwise = on_no_match.map(|message| branch(*message, action).at("on_no_match"));
    Ok(Tree { branches, otherwise: otherwise.transpose()?.map(Box::new) })
}

fn branch<A>(message: OnMatch, action: Action<'_, A>) -> Result<Branch<A>, FieldError> {
    let branch = match required(message.on_match, "on_match")? {
        on_match::OnMatch::Matcher(tree) => Branch::Tree(compile(*tree, action).at("matcher")?),
        on_match::OnMatch::Action(message) => Branch::Action(action(message).at("action")?),
    };
    Ok(if message.keep_matching { Branch::Passed } else { branch })
}

fn list<A>(message: MatcherList, action: Action<'_, A>) -> Result<Branches<A>, FieldError> {
    let matchers = each(message.matchers, "matchers", |message| {
        fields!(message: FieldMatcher, read: [predicate, on_match], ignore: [], refuse: []);
        let predicate = required(predicate, "predicate")?;
        let on_match = required(on_match, "on_match")?;
        Ok((self::predicate(predicate).at("predicate")?, branch(on_match, action).at("on_match")?))
    })?;
    if matchers.is_empty() {
        return Err(FieldError::required()).at("matchers");
    }
    Ok(Branches::List(matchers.into()))
}

fn map<A>(message: MatcherTree, action: Action<'_, A>) -> Result<Branches<A>, FieldError> {
    let input = self::input(required(message.input, "input")?).at("input")?;
    let entries = |map: MatchMap| {
        if map.map.is_empty() {
            return Err(FieldError::required()).at("map");
        }
        let entry = |(key, message): (String, OnMatch)| {
            let branch = branch(message, action).at_key(&key).at("map")?;
            Ok((Box::from(key.as_bytes()), branch))
        };
        map.map.into_iter().map(entry).collect::<Result<Vec<_>, FieldError>>()
    };
    Ok(match required(message.tree_type, "tree_type")? {
        TreeType::ExactMatchMap(map) => {
            let entries = entries(map).at("exact_match_map")?;
            Branches::Exact(input, entries.into_iter().collect())
        }
        TreeType::PrefixMatchMap(map) => {
            let mut entries: Vec<(Box<[u8]>, _)> = entries(map).at("prefix_match_map")?;
            entries.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
            Branches::Prefix(input, entries.into())
        }
        TreeType::CustomMatch(_) => return Err(FieldError::unsupported()).at("custom_match"),
    })
}

fn predicate(message: matcher_list::Predicate) -> Result<Predicate, FieldError> {
    let some = |list: PredicateList| {
        let all = each(list.predicate, "predicate", predicate)?;
        if all.len() < 2 {
            return Err(FieldError::invalid("must be at least two")).at("predicate");
        }
        Ok(all.into())
    };
    Ok(match required(message.match_type, "match_type")? {
        MatchType::SinglePredicate(message) => single(message).at("single_predicate")?,
        MatchType::OrMatcher(list) => Predicate::Any(some(list).at("or_matcher")?),
        MatchType::AndMatcher(list) => Predicate::All(some(list).at("and_matcher")?),
        MatchType::NotMatcher(message) => {
            Predicate::Not(Box::new(predicate(*message).at("not_matcher")?))
        }
    })
}

fn single(message: SinglePredicate) -> Result<Predicate, FieldError> {
    fields!(message: SinglePredicate, read: [input, matcher], ignore: [], refuse: []);
    let input = self::input(required(input, "input")?).at("input")?;
    let test = match required(matcher, "matcher")? {
        single_predicate::Matcher::ValueMatch(message) => {
            Test::Text(matchers::xds_string(message).at("value_match")?)
        }
        single_predicate::Matcher::CustomMatch(message) => {
            custom(message, &input).at("custom_match")?
        }
    };
    Ok(Predicate::One(input, test))
}

/// The packed message of an extension.
fn unpacked(extension: TypedExtensionConfig) -> Result<Any, FieldError> {
    required(extension.typed_config, "typed_config")
}

fn decode<M: Message + Default>(config: &Any) -> Result<M, FieldError> {
    M::decode(config.value.as_slice()).map_err(|error| FieldError::invalid(error.to_string()))
}

fn custom(extension: TypedExtensionConfig, input: &Input) -> Result<Test, FieldError> {
    let config = unpacked(extension)?;
    let test = if config.type_url == Ip::type_url() {
        decode(&config).and_then(addresses)
    } else if config.type_url == Metadata::type_url() {
        if !matches!(input, Input::Metadata { .. }) {
            return Err(FieldError::invalid("needs a DynamicMetadataInput")).at("typed_config");
        }
        decode(&config).and_then(metadata)
    } else {
        Err(FieldError::unsupported()).at("type_url")
    };
    test.at("typed_config")
}

fn addresses(message: Ip) -> Result<Test, FieldError> {
    fields!(message: Ip, read: [cidr_ranges],
        // Names counters that this proxy does not keep.
        ignore: [stat_prefix],
        refuse: [],
    );
    let ranges = each(cidr_ranges, "cidr_ranges", matchers::cidr)?;
    if ranges.is_empty() {
        return Err(FieldError::required()).at("cidr_ranges");
    }
    Ok(Test::Address(ranges.into()))
}

fn metadata(message: Metadata) -> Result<Test, FieldError> {
    fields!(message: Metadata, read: [value, invert], ignore: [], refuse: []);
    let value = matchers::value(required(value, "value")?).at("value")?;
    Ok(Test::Metadata { value, inverts: invert })
}

fn input(extension: TypedExtensionConfig) -> Result<Input, FieldError> {
    let config = unpacked(extension)?;
    let kind = config.type_url.as_str();
    let is = |name: String| kind == name;
    let input = if is(http_inputs::HttpRequestHeaderMatchInput::type_url()) {
        decode(&config).and_then(header)
    } else if is(network::DynamicMetadataInput::type_url()) {
        decode(&config).and_then(dynamic)
    } else {
        plain(kind).ok_or_else(|| FieldError::unsupported().at("type_url"))
    };
    input.at("typed_config")
}

/// Inputs without fields.
fn plain(kind: &str) -> Option<Input> {
    let all = [
        (network::SourceIpInput::type_url(), Input::Address(End::Source)),
        (network::DirectSourceIpInput::type_url(), Input::Address(End::DirectSource)),
        (network::DestinationIpInput::type_url(), Input::Address(End::Destination)),
        (network::SourcePortInput::type_url(), Input::Port(End::Source)),
        (network::DestinationPortInput::type_url(), Input::Port(End::Destination)),
        (network::ServerNameInput::type_url(), Input::ServerName),
        (ssl::UriSanInput::type_url(), Input::Uris),
        (ssl::DnsSanInput::type_url(), Input::DnsNames),
        (ssl::SubjectInput::type_url(), Input::Subject),
    ];
    all.into_iter().find(|(known, _)| known == kind).map(|(_, input)| input)
}

fn header(message: http_inputs::HttpRequestHeaderMatchInput) -> Result<Input, FieldError> {
    let name = required_text(message.header_name, "header_name")?;
    MatchedName::parse(&name)
        .map(Input::Header)
        .ok_or_else(|| FieldError::invalid(format!("{name:?} is not a header name")))
        .at("header_name")
}

fn dynamic(message: network::DynamicMetadataInput) -> Result<Input, FieldError> {
    use network::dynamic_metadata_input::path_segment::Segment;
    fields!(message: network::DynamicMetadataInput, read: [filter, path], ignore: [], refuse: []);
    let path = each(path, "path", |segment| match required(segment.segment, "segment")? {
        Segment::Key(key) => Ok(required_text(key, "key")?.into_boxed_str()),
    })?;
    if path.is_empty() {
        return Err(FieldError::required()).at("path");
    }
    Ok(Input::Metadata { namespace: required_text(filter, "filter")?.into(), path: path.into() })
}
