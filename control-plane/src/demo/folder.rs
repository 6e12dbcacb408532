//! A folder that is gone when the demo ends.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::settings::environment::temporary_folder;

/// A folder of the demo's own.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one that nobody else can read.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        let name = format!("weighlock-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = temporary_folder().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a temporary folder stays");
        }
    }
}
