//! Rules about the source itself: layers, sizes, file headers, pages and their links, a test per example.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;
const CRATES: [&str; 5] = ["xds-proto", "data-plane", "control-plane", "tests", "benches"];

#[test]
fn modules_use_only_layers_below_them() {
    let mut wrong = Vec::new();
    for krate in ["xds-proto", "data-plane", "control-plane"] {
        let src = root().join(krate).join("src");
        let layers = layers(&read(&src.join("lib.rs")));
        for file in sources(&src) {
            let Some(from) = layers.iter().position(|m| *m == top_module(&src, &file)) else {
                continue;
            };
            for (number, line) in read(&file).lines().enumerate() {
                for used in uses(line) {
                    // `fields!` is a macro of the module `field`.
                    let used = if used == "fields" { "field" } else { used };
                    match layers.iter().position(|m| m == used) {
                        Some(to) if to >= from => {}
                        _ => wrong.push(format!(
                            "{}:{}: uses crate::{used}",
                            file.display(),
                            number + 1
                        )),
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "upward imports:\n{}", wrong.join("\n"));
}

#[test]
fn the_layer_rule_reads_what_rustfmt_writes() {
    assert_eq!(uses("use crate::field::{At};").collect::<Vec<_>>(), ["field"]);
    assert_eq!(uses("x(crate::a::b, crate::c) // crate::d").collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(layers("pub mod app;\nmod x;\npub(crate) mod low;\n"), ["app", "x", "low"]);
}

#[test]
fn control_plane_uses_only_the_shared_part_of_the_data_plane() {
    let allowed = ["compile", "route", "explain", "app", "matcher"];
    let mut wrong = Vec::new();
    for file in sources(&root().join("control-plane/src")) {
        for (number, line) in read(&file).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for rest in code.split("data_plane::").skip(1) {
                let name = rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or_default();
                if !allowed.contains(&name) {
                    wrong.push(format!("{}:{}: data_plane::{name}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for krate in CRATES {
        for file in sources(&root().join(krate)) {
            let text = read(&file);
            if text.lines().count() > LINES_MAX {
                wrong.push(format!("{}: more than {LINES_MAX} lines", file.display()));
            }
            if !text.starts_with("//! ") {
                wrong.push(format!("{}: no //! first line", file.display()));
            }
            if file.ends_with("mod.rs") {
                wrong.push(format!("{}: foo.rs beside foo/, never mod.rs", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_skipped_or_left_undone() {
    let marks =
        [["#[", "ignore"].concat(), ["todo", "!("].concat(), ["unimplemented", "!("].concat()];
    let mut wrong = Vec::new();
    for krate in CRATES {
        for file in sources(&root().join(krate)) {
            for (number, line) in read(&file).lines().enumerate() {
                if marks.iter().any(|mark| line.contains(mark)) {
                    wrong.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_filter_has_a_page() {
    let filters = root().join("data-plane/src/filter");
    let mut missing = Vec::new();
    for file in sources(&filters).into_iter().filter(|f| f.parent() == Some(&filters)) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if !root().join(format!("docs/filters/{name}.md")).is_file() {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "no page in docs/filters for {missing:?}");
}

#[test]
fn every_example_has_a_test() {
    let folders: BTreeSet<String> = fs::read_dir(root().join("examples"))
        .map(|entries| entries.map(|e| e.unwrap()).collect::<Vec<_>>())
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let tests = read(&root().join("tests/tests/it/examples.rs"));
    for folder in &folders {
        assert!(tests.contains(&format!("\"{folder}\"")), "no test runs examples/{folder}");
        assert!(
            root().join("examples").join(folder).join("README.md").is_file(),
            "examples/{folder} has no README.md"
        );
    }
    assert!(!folders.is_empty(), "no examples");
}

#[test]
fn links_of_pages_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    pages.extend(["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|f| root().join(f)));
    for folder in ["docs", "examples"] {
        pages.extend(files(&root().join(folder), "md"));
    }
    let mut wrong = Vec::new();
    for page in pages {
        for (number, line) in read(&page).lines().enumerate() {
            for link in links(line) {
                let (file, heading) = link.split_once('#').unwrap_or((link, ""));
                let target = match file {
                    "" => page.clone(),
                    file => page.parent().unwrap().join(file),
                };
                let leads =
                    target.exists() && (heading.is_empty() || has_heading(&target, heading));
                if !leads {
                    wrong.push(format!("{}:{}: {link}", page.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_are_told_from_code_and_from_the_web() {
    let line = "see [a](b.md#c) and `[x](y)`, [site](https://example.org), [top](#top)";
    assert_eq!(links(line).collect::<Vec<_>>(), ["b.md#c", "#top"]);
    assert_eq!(slug("GET /v1/fleet: \u{60}a\u{60} b"), "get-v1fleet-a-b");
}

/// Links of a line to files of the repository, code aside.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let prose = line.split('`').step_by(2);
    prose.flat_map(|text| text.split("](").skip(1)).filter_map(|rest| {
        let link = rest.split(')').next()?;
        (!link.contains("://")).then_some(link)
    })
}

fn has_heading(page: &Path, wanted: &str) -> bool {
    read(page).lines().any(|line| line.starts_with('#') && slug(line) == wanted)
}

/// The anchor that a heading gets.
fn slug(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Modules of a crate in the order `lib.rs` lists them, top layer first.
fn layers(lib: &str) -> Vec<String> {
    let mut layers = Vec::new();
    for line in lib.lines() {
        let line = line.strip_prefix("pub ").or(line.strip_prefix("pub(crate) ")).unwrap_or(line);
        if let Some(module) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            layers.push(module.to_owned());
        } else if let Some((_, names)) =
            line.strip_prefix("use ").and_then(|rest| rest.split_once("::{"))
        {
            // What another crate gives is the lowest layer.
            layers.extend(names.trim_end_matches("};").split(", ").map(str::to_owned));
        }
    }
    layers
}

fn uses(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split("crate::").skip(1).filter(|rest| !rest.starts_with('{')).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

fn top_module(src: &Path, file: &Path) -> String {
    let first = file.strip_prefix(src).unwrap().components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    files(dir, "rs")
}

/// Files below a folder that end so, but for what is built.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("generated") && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == end) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
