//! The filters of routes of HTTP and gRPC.

use serde::Deserialize;
use serde_json::Value;

use crate::model::route::BackendRef;

pub(super) mod schema;

/// What is done to a request or its answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum HttpFilter {
    /// Changes headers of the request.
    RequestHeaderModifier {
        /// How.
        #[serde(rename = "requestHeaderModifier")]
        modifier: HeaderModifier,
    },
    /// Changes headers of the answer.
    ResponseHeaderModifier {
        /// How.
        #[serde(rename = "responseHeaderModifier")]
        modifier: HeaderModifier,
    },
    /// Answers with a redirect.
    RequestRedirect {
        /// Where to.
        #[serde(rename = "requestRedirect")]
        redirect: Redirect,
    },
    /// Changes host or path of the request.
    #[serde(rename = "URLRewrite")]
    UrlRewrite {
        /// How.
        #[serde(rename = "urlRewrite")]
        rewrite: UrlRewrite,
    },
    /// Sends a copy elsewhere.
    RequestMirror {
        /// Where to.
        #[serde(rename = "requestMirror")]
        mirror: Mirror,
    },
    /// Answers to browsers' cross-origin questions.
    #[serde(rename = "CORS")]
    Cors {
        /// How.
        cors: Cors,
    },
    /// Asks somebody for permission.
    ExternalAuth {
        /// Whom.
        #[serde(rename = "externalAuth")]
        auth: Value,
    },
    /// What another object says.
    ExtensionRef {
        /// Which.
        #[serde(rename = "extensionRef")]
        reference: ExtensionRef,
    },
}

impl HttpFilter {
    /// Its `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RequestHeaderModifier { .. } => "RequestHeaderModifier",
            Self::ResponseHeaderModifier { .. } => "ResponseHeaderModifier",
            Self::RequestRedirect { .. } => "RequestRedirect",
            Self::UrlRewrite { .. } => "URLRewrite",
            Self::RequestMirror { .. } => "RequestMirror",
            Self::Cors { .. } => "CORS",
            Self::ExternalAuth { .. } => "ExternalAuth",
            Self::ExtensionRef { .. } => "ExtensionRef",
        }
    }
}

/// Where copies of requests go, and how many.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// Where they go.
    pub backend_ref: BackendRef,
    /// How many of a hundred; none is all, unless there is a fraction.
    pub percent: Option<u32>,
    /// How many of some number.
    pub fraction: Option<Fraction>,
}

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fraction {
    /// So many.
    pub numerator: u32,
    /// Of so many.
    pub denominator: u32,
}

/// What pages of other origins may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cors {
    /// Origins that may ask; `*` is any.
    pub allow_origins: Vec<String>,
    /// Methods that they may use; `*` is any.
    pub allow_methods: Vec<String>,
    /// Headers that they may send; `*` is any.
    pub allow_headers: Vec<String>,
    /// Headers of the answer that they may read.
    pub expose_headers: Vec<String>,
    /// Whether they may send cookies and the like.
    pub allow_credentials: bool,
    /// For how many seconds the answer to a preflight request holds.
    pub max_age: u32,
}

/// Another object that says what is done.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtensionRef {
    /// Its group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Changes to headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderModifier {
    /// Replaces the values.
    pub set: Vec<Header>,
    /// Adds values to those there are.
    pub add: Vec<Header>,
    /// Takes headers away.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value, literally.
    pub value: String,
}

/// Where a redirect leads; what is not given stays as in the request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
    /// The port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status_code: u16,
}

/// What a request becomes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlRewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
}

/// A change of the path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum PathModifier {
    /// Replaces all of it.
    ReplaceFullPath {
        /// With this.
        #[serde(rename = "replaceFullPath")]
        path: String,
    },
    /// Replaces what matched.
    ReplacePrefixMatch {
        /// With this.
        #[serde(rename = "replacePrefixMatch")]
        prefix: String,
    },
}
