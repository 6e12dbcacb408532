//! Compiles the filter and what routes say of it.

use xds_proto::envoy::config::core::v3 as core;
use xds_proto::envoy::config::core::v3::key_value_append::KeyValueAppendAction;
use xds_proto::envoy::extensions::filters::http::header_mutation::v3 as api;
use xds_proto::field::{At, FieldError, each, required, required_text};
use xds_proto::fields;
use xds_proto::google::protobuf::value::Kind;

use super::{HeaderMutation, QueryChange};
use crate::filtering::header_change::HeaderChange;
use crate::format::Template;
use crate::format::mutation::AppendAction;

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
        request: each(request_mutations, "request_mutations", HeaderChange::compile)?,
        query: each(query_parameter_mutations, "query_parameter_mutations", query)?,
        request_trailers: each(
            request_trailers_mutations,
            "request_trailers_mutations",
            HeaderChange::compile,
        )?,
        response: each(response_mutations, "response_mutations", HeaderChange::compile)?,
        response_trailers: each(
            response_trailers_mutations,
            "response_trailers_mutations",
            HeaderChange::compile,
        )?,
        most_specific_wins: false,
    })
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
