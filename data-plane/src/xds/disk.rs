//! The last good resources on disk, for a start without a control plane.
//!
//! The file is a magic number, the SHA-256 of the rest, and a `SavedState`. It is replaced whole, by
//! rename, and holds private keys, so only its owner may read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use sha2::{Digest, Sha256};
use xds_proto::extension::state::{SavedResource, SavedState};
use xds_proto::resource::{Resource, ResourceType};
use xds_proto::version::Version;

/// The first bytes of the file; the digit is the version of the format.
const MAGIC: &[u8; 8] = b"WLSTATE1";
const DIGEST_BYTES: usize = 32;

/// The saved state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file or folder cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not what was written.
    #[error("{}: {reason}; it is kept as {}", path.display(), kept.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// Where it lies for people to look at.
        kept: PathBuf,
    },
}

/// What was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The resources, in make-before-break order.
    pub resources: Vec<Resource>,
    /// The node that accepted them.
    pub node_id: String,
    /// Its cluster.
    pub node_cluster: String,
}

/// The folder that holds the state.
#[derive(Debug, Clone)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Uses `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self, DiskError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| DiskError::Io { path: folder.to_owned(), error })?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn path(&self) -> PathBuf {
        self.folder.join("last-good.state")
    }

    /// What was saved last, if anything.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged; then it is set aside.
    pub fn load(&self) -> Result<Option<Saved>, DiskError> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DiskError::Io { path, error }),
        };
        decode(&bytes).map(Some).map_err(|reason| {
            let kept = path.with_extension("state.corrupt");
            match fs::rename(&path, &kept) {
                Ok(()) => DiskError::Corrupt { path, reason, kept },
                Err(error) => DiskError::Io { path, error },
            }
        })
    }

    /// Replaces what was saved. Blocks until it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written; what was saved before is still there.
    pub fn save(&self, saved: &Saved) -> Result<(), DiskError> {
        let path = self.path();
        let new = path.with_extension("state.new");
        let result = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&encode(saved))?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        })();
        result.map_err(|error| DiskError::Io { path, error })
    }
}

fn encode(saved: &Saved) -> Vec<u8> {
    let saved_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let resources = saved.resources.iter().map(|resource| SavedResource {
        type_url: resource.kind.type_url().to_owned(),
        name: resource.name.to_string(),
        version: resource.version.as_str().to_owned(),
        body: resource.body.clone(),
    });
    let body = SavedState {
        resources: resources.collect(),
        saved_at: i64::try_from(saved_at).unwrap_or(i64::MAX),
        node_id: saved.node_id.clone(),
        node_cluster: saved.node_cluster.clone(),
    }
    .encode_to_vec();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.extend(body);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Saved, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("is no saved state of this version")?;
    let (digest, body) = rest.split_at_checked(DIGEST_BYTES).ok_or("is cut off")?;
    if Sha256::digest(body)[..] != *digest {
        return Err("its checksum does not match".into());
    }
    let state = SavedState::decode(body).map_err(|error| error.to_string())?;
    let resources = state.resources.into_iter().filter_map(|saved| {
        Some(Resource {
            // A type that a newer version saved is not needed by this one.
            kind: ResourceType::from_type_url(&saved.type_url)?,
            name: saved.name.into(),
            version: Version::foreign(&saved.version),
            body: saved.body,
        })
    });
    Ok(Saved {
        resources: resources.collect(),
        node_id: state.node_id,
        node_cluster: state.node_cluster,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn saved() -> Saved {
        let resource = Resource {
            kind: ResourceType::Cluster,
            name: "a".into(),
            version: Version::foreign("7"),
            body: bytes::Bytes::from_static(&[0x0a, 1, b'a']),
        };
        Saved { resources: vec![resource], node_id: "n".into(), node_cluster: "c".into() }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(&folder.path().join("state")).unwrap();
        assert_eq!(disk.load().unwrap(), None);
        disk.save(&saved()).unwrap();
        assert_eq!(disk.load().unwrap(), Some(saved()));
        let mode = fs::metadata(disk.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_refused_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        disk.save(&saved()).unwrap();
        let mut bytes = fs::read(disk.path()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(disk.path(), &bytes).unwrap();
        let error = disk.load().unwrap_err().to_string();
        assert!(error.contains("its checksum does not match; it is kept as"), "{error}");
        assert_eq!(disk.load().unwrap(), None);
        fs::write(disk.path(), &bytes[..20]).unwrap();
        assert!(disk.load().unwrap_err().to_string().contains("is cut off"));
    }
}
