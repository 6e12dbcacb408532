//! Compiles the filter and what routes say of it.

use xds_proto::envoy::config::common::mutation_rules::v3::HeaderMutation as Rule;
use xds_proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::key_value_append::KeyValueAppendAction;
use xds_proto::envoy::extensions::filters::http::header_mutation::v3 as api;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::value::Kind;

use super::{Change, HeaderMutation, QueryChange};
use crate::format::Template;
use crate::format::compile::mutation;
use crate::format::mutation::AppendAction;
use crate::matcher::compile::string;

pub(super) fn compile(config: api::HeaderMutation) -> Result<HeaderMutation, FieldError> {
    fields!(config: api::HeaderMutation,
        read: [mutations, most_specific_header_mutations_wins],
        ignore: [],
        refuse: [],
    );
    let mutations = all(mutations.unwrap_or_default()).at("mutations")?;
    Ok(HeaderMutation { most_specific_wins: most_specific_header_mutations_wins, ..mutations })
}

pub(super) fn route(config: api::HeaderMutationPerRoute) -> Result<HeaderMutation, FieldError> {
    fields!(config: api::HeaderMutationPerRoute, read: [mutations], ignore: [], refuse: []);
    all(mutations.unwrap_or_default()).at("mutations")
}

fn all(mutations: api::Mutations) -> Result<HeaderMutation, FieldError> {
    fields!(mutations: api::Mutations,
        read: [
            request_mutations, query_parameter_mutations, request_trailers_mutations,
            response_mutations, response_trailers_mutations,
        ],
        ignore: [],
        refuse: [],
    );
    Ok(HeaderMutation {
        request: each(request_mutations, "request_mutations", change)?,
        query: each(query_parameter_mutations, "query_parameter_mutations", query)?,
        request_trailers: each(request_trailers_mutations, "request_trailers_mutations", change)?,
        response: each(response_mutations, "response_mutations", change)?,
        response_trailers: each(
            response_trailers_mutations,
            "response_trailers_mutations",
            change,
        )?,
        most_specific_wins: false,
    })
}

/// One change; a list of them is applied one after the other.
fn change(message: Rule) -> Result<Change, FieldError> {
    match message.action {
        Some(Action::RemoveOnMatch(rule)) => {
            let matcher = required(rule.key_matcher, "key_matcher")
                .and_then(|matcher| string(matcher).at("key_matcher"));
            matcher.map(Change::RemoveMatching).at("remove_on_match")
        }
        _ => mutation(message).map(Change::Headers),
    }
}

fn query(message: core::KeyValueMutation) -> Result<QueryChange, FieldError> {
    fields!(message: core::KeyValueMutation, read: [append, remove], ignore: [], refuse: []);
    match (append, remove) {
        (Some(_), remove) if !remove.is_empty() => {
            Err(FieldError::invalid("cannot go with append")).at("remove")
        }
        (Some(append), _) => put(append).at("append"),
        (None, remove) => Ok(QueryChange::Remove(required_text(remove, "remove")?.into())),
    }
}

fn put(message: core::KeyValueAppend) -> Result<QueryChange, FieldError> {
    fields!(message: core::KeyValueAppend, read: [record, action], ignore: [], refuse: [entry]);
    let record = required(record, "record")?;
    fields!(record: core::KeyValuePair, read: [key, value], ignore: [], refuse: []);
    let name = required_text(key, "key").at("record")?.into();
    let value = match value.and_then(|value| value.kind) {
        Some(Kind::StringValue(text)) => Template::compile(&text),
        _ => Err(FieldError::invalid("must be a string")),
    };
    let action = KeyValueAppendAction::try_from(action)
        .map_err(|_| FieldError::invalid("unknown value"))
        .at("action")?;
    let action = match action {
        KeyValueAppendAction::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
        KeyValueAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
        KeyValueAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
        KeyValueAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
    };
    Ok(QueryChange::Put { name, value: value.at("value").at("record")?, action })
}
