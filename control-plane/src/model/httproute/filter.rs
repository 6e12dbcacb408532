//! The filters of an HTTPRoute.

use serde::Deserialize;
use serde_json::Value;

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
        mirror: Value,
    },
    /// Answers to browsers' cross-origin questions.
    #[serde(rename = "CORS")]
    Cors {
        /// How.
        cors: Value,
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
        reference: Value,
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
