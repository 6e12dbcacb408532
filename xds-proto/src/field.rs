//! Compile errors that say which field of which message is wrong.

use std::borrow::Cow;
use std::fmt;

/// Why a message was refused, and where in it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{}{reason}", if path.0.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct FieldError {
    /// Where, from the resource down.
    pub path: FieldPath,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong with the field.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Reason {
    /// The field must be set.
    #[error("required")]
    Required,
    /// The API has this field; this proxy does not implement it.
    #[error("not supported")]
    Unsupported,
    /// The value is outside what the API allows.
    #[error("{0}")]
    Invalid(String),
}

/// Path from the resource to a field, innermost segment first while it is built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldPath(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Field(Cow<'static, str>),
    Index(usize),
    Key(String),
}

impl FieldError {
    /// An error about the message itself; callers add the path with [`At::at`].
    pub fn new(reason: Reason) -> Self {
        Self { path: FieldPath::default(), reason }
    }

    /// The value is outside what the API allows.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::new(Reason::Invalid(reason.into()))
    }

    /// The API has this, this proxy does not.
    pub fn unsupported() -> Self {
        Self::new(Reason::Unsupported)
    }

    /// The value must be given.
    pub fn required() -> Self {
        Self::new(Reason::Required)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().rev().enumerate() {
            match segment {
                Segment::Field(name) if i == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// Adds one step of the path on the way out.
pub trait At: Sized {
    /// The error happened inside `field`.
    fn at(self, field: impl Into<Cow<'static, str>>) -> Self;
    /// The error happened in element `index`.
    fn at_index(self, index: usize) -> Self;
    /// The error happened in the map entry `key`.
    fn at_key(self, key: &str) -> Self;
}

impl At for FieldError {
    fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        // A oneof in Rust is named like none of its fields; Rust's raw names are not the API's.
        let field = field.into();
        let field = match field {
            Cow::Borrowed(name) => Cow::Borrowed(name.strip_prefix("r#").unwrap_or(name)),
            owned @ Cow::Owned(_) => owned,
        };
        self.path.0.push(Segment::Field(field));
        self
    }

    fn at_index(mut self, index: usize) -> Self {
        self.path.0.push(Segment::Index(index));
        self
    }

    fn at_key(mut self, key: &str) -> Self {
        self.path.0.push(Segment::Key(key.to_owned()));
        self
    }
}

impl<T> At for Result<T, FieldError> {
    fn at(self, field: impl Into<Cow<'static, str>>) -> Self {
        self.map_err(|error| error.at(field))
    }

    fn at_index(self, index: usize) -> Self {
        self.map_err(|error| error.at_index(index))
    }

    fn at_key(self, key: &str) -> Self {
        self.map_err(|error| error.at_key(key))
    }
}

/// The value, or `Required` at `field`.
///
/// # Errors
/// `Required` when there is none.
pub fn required<T>(value: Option<T>, field: &'static str) -> Result<T, FieldError> {
    value.ok_or_else(FieldError::required).at(field)
}

/// The text, or `Required` at `field` when it is empty.
///
/// # Errors
/// `Required` when it is empty.
pub fn required_text(value: String, field: &'static str) -> Result<String, FieldError> {
    required((!value.is_empty()).then_some(value), field)
}

/// Refuses a field that is set but not implemented, rather than ignoring it.
///
/// # Errors
/// `Unsupported` when the value is not the default one.
pub fn unsupported<T: Default + PartialEq>(
    value: &T,
    field: &'static str,
) -> Result<(), FieldError> {
    if *value == T::default() {
        return Ok(());
    }
    Err(FieldError::unsupported()).at(field)
}

/// Compiles each element; the first error carries its index and `field`.
///
/// # Errors
/// What `compile` says of the first element that is wrong.
pub fn each<T, U>(
    values: impl IntoIterator<Item = T>,
    field: &'static str,
    mut compile: impl FnMut(T) -> Result<U, FieldError>,
) -> Result<Vec<U>, FieldError> {
    let values = values.into_iter();
    // Collected, results would be moved about: nobody knows how many there will be.
    let mut compiled = Vec::with_capacity(values.size_hint().0);
    for (index, value) in values.enumerate() {
        compiled.push(compile(value).at_index(index).at(field)?);
    }
    Ok(compiled)
}

/// Takes a message apart, and accounts for every field of it.
///
/// `read` binds fields, `ignore` drops fields that change nothing here, `refuse` is an error if the
/// field is set. The list is exhaustive: a field new in the API does not compile until it is placed.
/// A comment above ignored fields is their reason; it stands in `docs/envoy-support.md`.
#[macro_export]
macro_rules! fields {
    ($message:ident: $Type:path,
     read: [$($read:ident),* $(,)?],
     ignore: [$($ignore:ident),* $(,)?],
     refuse: [$($refuse:ident),* $(,)?] $(,)?) => {
        #[allow(
            deprecated,
            clippy::allow_attributes,
            reason = "Envoy's deprecated fields are placed like any other"
        )]
        let $Type { $($read,)* $($ignore: _,)* $($refuse,)* } = $message;
        $($crate::field::unsupported(&$refuse, stringify!($refuse))?;)*
    };
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{ApiConfigSource, api_config_source::ApiType};

    use super::*;

    fn read_it(message: ApiConfigSource) -> Result<i32, FieldError> {
        fields!(message: ApiConfigSource,
            read: [api_type],
            ignore: [set_node_on_first_message_only],
            refuse: [
                transport_api_version, cluster_names, grpc_services, refresh_delay,
                request_timeout, rate_limit_settings, config_validators,
            ],
        );
        Ok(api_type)
    }

    #[test]
    fn a_refused_field_is_named() {
        let message = ApiConfigSource { cluster_names: vec!["x".into()], ..Default::default() };
        let error = read_it(message).at_index(1).at("sources").unwrap_err();
        assert_eq!(error.to_string(), "sources[1].cluster_names: not supported");
    }

    #[test]
    fn an_ignored_field_may_be_set() {
        let message = ApiConfigSource {
            api_type: ApiType::Grpc.into(),
            set_node_on_first_message_only: true,
            ..Default::default()
        };
        assert_eq!(read_it(message), Ok(ApiType::Grpc.into()));
    }

    #[test]
    fn an_error_without_a_path_is_its_reason() {
        assert_eq!(FieldError::invalid("no").to_string(), "no");
        assert_eq!(
            FieldError::required().at_key("a").at("r#type").to_string(),
            "type[\"a\"]: required"
        );
    }
}
