//! The files that `-f` names: files, folders with all that is in them, standard input.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::problem::{Exit, Problem};
use crate::source::folder;

/// A file by the name under which it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path as given; `stdin` for `-`.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// Reads all files that are named, in a steady order.
///
/// # Errors
/// When one is not there or is no text, or there is none.
pub fn read(paths: &[PathBuf]) -> Result<Vec<File>, Problem> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text).map_err(|e| unreadable(path, &e))?;
            files.push(File { name: "stdin".into(), text });
            continue;
        }
        let found = folder::list(path).map_err(|error| unreadable(path, &error))?;
        if found.is_empty() {
            return Err(Problem::usage(format!("{} holds no documents", path.display()))
                .help("documents are files that end in .yaml, .yml or .json"));
        }
        for path in found {
            let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
            files.push(File { name: path.display().to_string(), text });
        }
    }
    if files.iter().all(|file| is_blank(&file.text)) {
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        return Err(Problem::usage(format!("no document in {}", names.join(", "))));
    }
    Ok(files)
}

/// Whether a text holds comments and separators at most.
fn is_blank(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_end);
    lines.all(|line| line.is_empty() || line.trim_start().starts_with('#') || line == "---")
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        io::ErrorKind::InvalidData => "it is no text".to_owned(),
        _ => error.to_string().to_lowercase(),
    };
    Problem::new(Exit::WrongInput, "WL0007", format!("{} cannot be read", path.display()))
        .detail(reason)
}

/// The files as `multipart/form-data`: the content type and the body.
pub fn multipart(files: &[File]) -> (String, Bytes) {
    let mut boundary = String::from("weighlock");
    while files.iter().any(|file| file.text.contains(&boundary)) {
        boundary += &format!("{:016x}", fastrand::u64(..));
    }
    let mut body = String::new();
    for file in files {
        let name = file.name.replace(['"', '\r', '\n'], "_");
        body += &format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/yaml\r\n\r\n{}\r\n",
            file.text
        );
    }
    body += &format!("--{boundary}--\r\n");
    (format!("multipart/form-data; boundary={boundary}"), body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let problem = read(&["/no/such".into()]).unwrap_err();
        assert_eq!((&*problem.code, &*problem.title), ("WL0007", "/no/such cannot be read"));
        assert_eq!(problem.detail, ["there is no such file or folder"]);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(read(&[empty.path().to_owned()]).unwrap_err().exit, Exit::WrongInput);
    }

    #[test]
    fn a_file_without_a_document_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        fs::write(&path, "# later\n---\n").unwrap();
        let title = read(std::slice::from_ref(&path)).unwrap_err().title;
        assert_eq!(title, format!("no document in {}", path.display()));
        fs::write(&path, "---\nkind: Gateway\n").unwrap();
        assert!(read(&[path]).is_ok());
    }

    #[test]
    fn parts_carry_names_and_a_boundary_that_no_file_has() {
        let file = File { name: "a\"b.yaml".into(), text: "weighlock".into() };
        let (kind, body) = multipart(&[file]);
        let boundary = kind.split_once("boundary=").unwrap().1;
        assert_ne!(boundary, "weighlock");
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            body.contains("filename=\"a_b.yaml\"")
                && body.ends_with(&format!("--{boundary}--\r\n"))
        );
    }
}
