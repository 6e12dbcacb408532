//! A folder that is gone when the demo ends.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::settings::environment::temporary_folder;

const PREFIX: &str = "weighlock-demo-";

/// A folder of the demo's own.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one that nobody else can read.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        sweep(&temporary_folder());
        let name = format!("{PREFIX}{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = temporary_folder().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Removes what demos left behind that were killed: folders whose process is gone.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let process = id.and_then(|id| Pid::from_raw(id.parse().ok()?));
        if process.is_some_and(|process| test_kill_process(process) == Err(Errno::SRCH)) {
            // Another user's cannot be removed, and need not be.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a temporary folder stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_demos_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let names = [
            format!("{PREFIX}{}-1", gone.id()),
            format!("{PREFIX}{}-1", std::process::id()),
            format!("{PREFIX}x-1"),
            "other".to_owned(),
        ];
        for name in &names {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        sweep(parent.path());
        let stays = names.map(|name| parent.path().join(name).exists());
        assert_eq!(stays, [false, true, true, true]);
    }
}
