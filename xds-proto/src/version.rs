//! Versions are hashes of content, so every replica gives the same resources the same versions.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The version of a resource or of a set of them, compared for equality only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(Arc<str>);

impl Version {
    /// The version of one resource: the first 64 bits of the SHA-256 of its canonical bytes, in hex.
    pub fn of_bytes(canonical: &[u8]) -> Self {
        Self::from_digest(&Sha256::digest(canonical))
    }

    /// The version of a set of named resources. `entries` must come in a fixed order.
    pub fn of_set<'a>(entries: impl IntoIterator<Item = (&'a str, &'a Version)>) -> Self {
        let mut hash = Sha256::new();
        for (name, version) in entries {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((version.0.len() as u64).to_le_bytes());
            hash.update(version.0.as_bytes());
        }
        Self::from_digest(&hash.finalize())
    }

    /// A version that a peer chose.
    pub fn foreign(text: &str) -> Self {
        Self(text.into())
    }

    /// The text that goes on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_digest(digest: &[u8]) -> Self {
        Self(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_bytes_same_version() {
        assert_eq!(Version::of_bytes(b"a"), Version::of_bytes(b"a"));
        assert_ne!(Version::of_bytes(b"a"), Version::of_bytes(b"b"));
        assert_eq!(Version::of_bytes(b"a").as_str().len(), 16);
    }

    #[test]
    fn a_set_is_more_than_its_text() {
        let (a, b) = (Version::foreign("1"), Version::foreign("12"));
        assert_ne!(Version::of_set([("x1", &a)]), Version::of_set([("x", &b)]));
    }
}
