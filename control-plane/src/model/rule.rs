//! Rules of routes: which requests they are for, what is done to them, and where they go.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::finding::codes;
use crate::model::duration;
use crate::model::filter::HttpFilter;
use crate::model::regex::check_expression;
use crate::model::route::BackendRef;
use crate::model::schema::{
    Field, ObjectSchema, Report, Schema, defaulted, list, optional, required,
};
use crate::model::text::Format;

/// One rule: requests that match any of `matches` are filtered and sent to `backend_refs`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound = "M: Deserialize<'de>")]
pub struct Rule<M> {
    /// Its name within the route.
    pub name: Option<String>,
    /// The requests it is for.
    #[serde(default = "Vec::new")]
    pub matches: Vec<M>,
    /// What is done to them.
    #[serde(default)]
    pub filters: Vec<HttpFilter>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// How long they may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// When they are sent again.
    pub retry: Option<Retry>,
    /// What keeps a client at its backend.
    pub session_persistence: Option<SessionPersistence>,
}

/// How long a request may take; zero is for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// All of it.
    #[serde(default, deserialize_with = "optional_duration")]
    pub request: Option<Duration>,
    /// One try of it.
    #[serde(default, deserialize_with = "optional_duration")]
    pub backend_request: Option<Duration>,
}

/// When a request is sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Statuses of answers after which it is.
    pub codes: Vec<u16>,
    /// How often at most.
    pub attempts: Option<u32>,
    /// After how long.
    #[serde(deserialize_with = "optional_duration")]
    pub backoff: Option<Duration>,
}

/// What keeps a client at its backend.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// The name of the cookie or header.
    pub session_name: Option<String>,
    /// How long a session lasts at most.
    #[serde(default, deserialize_with = "optional_duration")]
    pub absolute_timeout: Option<Duration>,
    /// How long it lasts without a request.
    #[serde(default, deserialize_with = "optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// What carries it.
    #[serde(rename = "type")]
    pub session_type: SessionType,
    /// How the cookie is made.
    pub cookie_config: Option<CookieConfig>,
}

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum SessionType {
    /// A cookie.
    Cookie,
    /// A header.
    Header,
}

/// How the cookie of a session is made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    /// How long clients keep it.
    pub lifetime_type: Lifetime,
}

/// How long clients keep a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Lifetime {
    /// Until they end.
    Session,
    /// For a given time.
    Permanent,
}

/// What a header or query parameter must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueMatch {
    /// How the value is compared.
    #[serde(rename = "type")]
    pub match_type: ValueMatchType,
    /// The name.
    pub name: String,
    /// The value or expression.
    pub value: String,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ValueMatchType {
    /// They are equal.
    Exact,
    /// All of it matches the expression.
    RegularExpression,
}

/// Reads a duration that may be left out.
pub(super) fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| duration::parse(&text).ok_or_else(|| serde::de::Error::custom("no duration")))
        .transpose()
}

/// `timeouts` of a rule.
pub(super) const TIMEOUTS: Field = optional("timeouts", Schema::Object(&TIMEOUTS_SCHEMA));

static TIMEOUTS_SCHEMA: ObjectSchema = ObjectSchema {
    fields: &[
        optional("request", Schema::Text(Format::Duration)),
        optional("backendRequest", Schema::Text(Format::Duration)),
    ],
    rules: &[try_within_request],
};

/// A try takes no longer than the whole request may.
pub(super) fn try_within_request(timeouts: &Value, report: &mut Report) {
    let length = |field: &str| timeouts[field].as_str().and_then(duration::parse);
    if let (Some(request), Some(backend)) = (length("request"), length("backendRequest"))
        && !request.is_zero()
        && backend > request
    {
        let message = "must not be longer than request";
        report.add_at("backendRequest", codes::CONTRADICTION, message);
    }
}

/// `retry` of a rule.
pub(super) const RETRY: Field = optional("retry", Schema::Object(&RETRY_SCHEMA));

static RETRY_SCHEMA: ObjectSchema = ObjectSchema {
    fields: &[
        optional("codes", list(&Schema::Integer { min: 400, max: 599 }, 64)),
        optional("attempts", Schema::Integer { min: 0, max: 100 }),
        optional("backoff", Schema::Text(Format::Duration)),
    ],
    rules: &[],
};

/// `sessionPersistence` of a rule.
pub(super) const SESSION_PERSISTENCE: Field =
    optional("sessionPersistence", Schema::Object(&SESSION_SCHEMA));

static SESSION_SCHEMA: ObjectSchema = ObjectSchema {
    fields: &[
        // What is no token can be neither a cookie (RFC 6265) nor a header.
        optional("sessionName", Schema::Text(Format::Token(128))),
        optional("absoluteTimeout", Schema::Text(Format::Duration)),
        optional("idleTimeout", Schema::Text(Format::Duration)),
        defaulted("type", "\"Cookie\"", Schema::Enum(&["Cookie", "Header"])),
        optional("cookieConfig", Schema::Object(&COOKIE_SCHEMA)),
    ],
    rules: &[|session, report| {
        let is_permanent = session["cookieConfig"]["lifetimeType"] == "Permanent";
        if is_permanent && session["absoluteTimeout"].is_null() {
            let message = "required when cookieConfig.lifetimeType is Permanent";
            report.add_at("absoluteTimeout", codes::REQUIRED, message);
        }
        if session["type"] != "Cookie" && !session["cookieConfig"].is_null() {
            let message = "must not be given unless type is Cookie";
            report.add_at("cookieConfig", codes::CONTRADICTION, message);
        }
    }],
};

static COOKIE_SCHEMA: ObjectSchema = ObjectSchema {
    fields: &[defaulted("lifetimeType", "\"Session\"", Schema::Enum(&["Permanent", "Session"]))],
    rules: &[],
};

const COMPARISONS: &[&str] = &["Exact", "RegularExpression"];

/// A list of matches of values, one of each name.
pub(super) const fn values(item: &'static Schema) -> Schema {
    Schema::List { item, min: 0, max: 16, keys: &["name"] }
}

/// A match of a header.
pub(super) static HEADER_MATCH: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        defaulted("type", "\"Exact\"", Schema::Enum(COMPARISONS)),
        required("name", Schema::Text(Format::HeaderName)),
        required("value", Schema::Text(Format::HeaderValue(4096))),
    ],
    rules: &[expression],
});

/// A match of a query parameter.
pub(super) static QUERY_MATCH: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        defaulted("type", "\"Exact\"", Schema::Enum(COMPARISONS)),
        required("name", Schema::Text(Format::HeaderName)),
        required("value", Schema::Text(Format::Filled(1024))),
    ],
    rules: &[expression],
});

/// An expression compiles.
pub(super) fn expression(value: &Value, report: &mut Report) {
    if value["type"] == "RegularExpression"
        && let Err(reason) = check_expression(value["value"].as_str().unwrap_or_default())
    {
        report.add_at("value", codes::BAD_REGEX, reason);
    }
}
