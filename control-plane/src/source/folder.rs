//! Which files of a folder hold documents.

use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

/// Folders deeper than this are a link that goes round in circles.
const DEPTH_MAX: usize = 32;

/// The file itself, or the folder's files that end in `.yaml`, `.yml` or `.json`, in a steady order.
/// What begins with a dot is left out.
///
/// # Errors
/// When it is not there, or a folder cannot be read.
pub fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if fs::metadata(path)?.is_dir() {
        walk(path, 0, &mut files)?;
    } else {
        files.push(path.to_owned());
    }
    Ok(files)
}

fn walk(folder: &Path, depth: usize, out: &mut Vec<PathBuf>) -> io::Result<()> {
    if depth > DEPTH_MAX {
        let text = format!("{} is nested too deeply", folder.display());
        return Err(io::Error::other(text));
    }
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            walk(&path, depth + 1, out)?;
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
        {
            out.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_listed_with_all_that_is_in_it_in_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/.git")).unwrap();
        for name in ["b/z.yml", "a.yaml", "b/.git/x.yaml", "notes.txt", "c.json"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let files = list(dir.path()).unwrap();
        let names: Vec<_> =
            files.iter().map(|file| file.strip_prefix(dir.path()).unwrap()).collect();
        assert_eq!(names, ["a.yaml", "b/z.yml", "c.json"].map(Path::new));
        assert_eq!(list(&dir.path().join("notes.txt")).unwrap().len(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_in_circles_is_an_error_and_no_hang() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).unwrap();
        assert!(list(dir.path()).is_err());
        assert!(list(Path::new("/no/such")).is_err());
    }
}
