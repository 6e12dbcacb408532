//! Revisions: who changed what, when and why, and the way back.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};
use xds_proto::resource::ResourceType;

use crate::model::kind::kind_by;
use crate::store::change::{Effect, Origin, Source};
use crate::store::state::ObjectKey;

/// One accepted change of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its number: `r<number>`.
    pub number: u64,
    /// When it was accepted, RFC 3339.
    pub when: String,
    /// Who made it.
    pub who: String,
    /// Why, in the writer's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// By which way it came.
    pub origin: Origin,
    /// What changed, in a few words.
    pub summary: String,
    /// What changed, each piece.
    pub touched: Vec<Touched<ContentHash>>,
}

/// One piece of content that a revision changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched<C = Content> {
    /// Which piece.
    pub target: Target,
    /// What happened to it.
    pub effect: Effect,
    /// What it was.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub before: Option<C>,
    /// What it is then.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub after: Option<C>,
    /// Where its writer had it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

impl Touched<Content> {
    /// The same with hashes for the content.
    pub fn hashed(&self) -> Touched<ContentHash> {
        Touched {
            target: self.target.clone(),
            effect: self.effect,
            before: self.before.as_ref().map(|content| content.hash),
            after: self.after.as_ref().map(|content| content.hash),
            source: self.source.clone(),
        }
    }
}

/// A piece of content by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "camelCase")]
pub enum Target {
    /// A document.
    Object {
        /// API group.
        group: String,
        /// `HTTPRoute`.
        kind: String,
        /// Empty for a kind of the whole cluster.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A raw group; the content is its label.
    Group {
        /// Its name.
        name: String,
    },
    /// A resource of a raw group; the content is its bytes.
    Resource {
        /// The group's name.
        group: String,
        /// Type URL.
        r#type: String,
        /// Its name.
        name: String,
    },
}

impl Target {
    /// A document.
    pub fn object(key: &ObjectKey) -> Self {
        Self::Object {
            group: key.kind.group.to_owned(),
            kind: key.kind.kind.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }

    /// A resource of a raw group.
    pub fn resource(group: &str, place: &(ResourceType, Arc<str>)) -> Self {
        Self::Resource {
            group: group.to_owned(),
            r#type: place.0.type_url().to_owned(),
            name: place.1.to_string(),
        }
    }

    /// The document's key, if it is one of a kind that is served.
    pub fn key(&self) -> Option<ObjectKey> {
        let Self::Object { group, kind, namespace, name } = self else { return None };
        let kind = kind_by(group, kind)?;
        Some(ObjectKey { kind, namespace: namespace.clone(), name: name.clone() })
    }

    /// What to count it as: `HTTPRoute`, `raw group`, `RDS`.
    fn noun(&self) -> &str {
        match self {
            Self::Object { kind, .. } => kind,
            Self::Group { .. } => "raw group",
            Self::Resource { r#type, .. } => {
                ResourceType::from_type_url(r#type).map_or("resource", ResourceType::short_name)
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { kind, namespace, name, .. } if namespace.is_empty() => {
                write!(f, "{kind} {name}")
            }
            Self::Object { kind, namespace, name, .. } => write!(f, "{kind} {namespace}/{name}"),
            Self::Group { name } => write!(f, "raw group {name}"),
            Self::Resource { group, name, .. } => {
                write!(f, "{} {name} of raw group {group}", self.noun())
            }
        }
    }
}

/// Content with its hash, by which equal content is kept once.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// SHA-256 of the bytes.
    pub hash: ContentHash,
    /// The bytes.
    pub bytes: Bytes,
}

impl Content {
    /// These bytes.
    pub fn new(bytes: Bytes) -> Self {
        Self { hash: ContentHash(Sha256::digest(&bytes).into()), bytes }
    }

    /// What a person wrote of a document: all but status and version.
    pub fn of_document(value: &Value) -> Self {
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.shift_remove("status");
        }
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("resourceVersion");
        }
        Self::new(value.to_string().into())
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes may be a private key.
        fmt::Debug::fmt(&self.hash, f)
    }
}

/// SHA-256, written in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        let digits = |i: usize| text.get(2 * i..2 * i + 2);
        for (i, byte) in bytes.iter_mut().enumerate() {
            let parsed = digits(i).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            *byte = parsed.ok_or_else(|| serde::de::Error::custom("no content hash"))?;
        }
        Ok(Self(bytes))
    }
}

/// What changed, in a few words: `+1 Backend ~2 HTTPRoute`.
pub fn summary<C>(touched: &[Touched<C>]) -> String {
    let has_resources = touched.iter().any(|t| matches!(t.target, Target::Resource { .. }));
    let mut counts: Vec<(Effect, &str, usize)> = Vec::new();
    for piece in touched {
        // The label of a group whose resources changed is not worth a word.
        if has_resources && matches!(piece.target, Target::Group { .. }) {
            continue;
        }
        let noun = piece.target.noun();
        match counts.iter_mut().find(|(e, n, _)| *e == piece.effect && *n == noun) {
            Some((_, _, count)) => *count += 1,
            None => counts.push((piece.effect, noun, 1)),
        }
    }
    let words =
        counts.iter().map(|(effect, noun, count)| format!("{}{count} {noun}", effect.mark()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(effect: Effect, target: Target) -> Touched {
        Touched { target, effect, before: None, after: None, source: None }
    }

    fn object(kind: &str) -> Target {
        let (group, namespace, name) = ("g".into(), "n".into(), "x".into());
        Target::Object { group, kind: kind.into(), namespace, name }
    }

    #[test]
    fn a_summary_counts_by_kind() {
        let pieces = [
            touched(Effect::Created, object("Backend")),
            touched(Effect::Updated, object("HTTPRoute")),
            touched(Effect::Updated, object("HTTPRoute")),
        ];
        assert_eq!(summary(&pieces), "+1 Backend ~2 HTTPRoute");
        let place = (ResourceType::Cluster, "c".into());
        let raw = [
            touched(Effect::Updated, Target::Group { name: "*".into() }),
            touched(Effect::Created, Target::resource("*", &place)),
        ];
        assert_eq!(summary(&raw), "+1 CDS");
        assert_eq!(raw[1].target.to_string(), "CDS c of raw group *");
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        let content = Content::new(Bytes::from_static(b"x"));
        let piece = Touched { after: Some(content), ..touched(Effect::Created, object("Backend")) };
        let record = Record {
            number: 7,
            when: "2026-01-01T00:00:00Z".into(),
            who: "ana".into(),
            why: None,
            origin: Origin::Apply,
            summary: "+1 Backend".into(),
            touched: vec![piece.hashed()],
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}
