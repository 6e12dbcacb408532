//! `docs/envoy-fields.md` is made from the `fields!` lists, so that it cannot say what the proxy does not do.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What happens with the fields of one message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lists {
    read: Vec<String>,
    ignore: Vec<String>,
    refuse: Vec<String>,
}

#[test]
fn the_page_of_envoy_fields_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut messages: BTreeMap<String, Lists> = BTreeMap::new();
    for file in sources(&root.join("data-plane/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for (message, lists) in accounts(&text) {
            let all = messages.entry(message).or_default();
            all.read.extend(lists.read);
            all.ignore.extend(lists.ignore);
            all.refuse.extend(lists.refuse);
        }
    }
    let page = page(&mut messages);
    let path = root.join("docs/envoy-fields.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/envoy-fields.md is out of date: UPDATE_GOLDEN=1 cargo test --workspace --test fields"
    );
}

fn page(messages: &mut BTreeMap<String, Lists>) -> String {
    let mut page = String::from(
        "# Envoy fields\n\nWhat the proxy does with each field of each Envoy message that it takes apart. Made from the source by a test.\n\n\
         - **read**: the field means what Envoy's documentation says.\n\
         - **ignored**: it may be set, and changes nothing here.\n\
         - **refused**: a resource that sets it is refused (NACK) with the path of the field; the last good one stays in use.\n\n\
         A message that is not listed is refused by its name.\n",
    );
    for (message, lists) in messages {
        write!(page, "\n## {message}\n\n").unwrap();
        for (verb, fields) in [
            ("read", &mut lists.read),
            ("ignored", &mut lists.ignore),
            ("refused", &mut lists.refuse),
        ] {
            fields.sort();
            fields.dedup();
            if !fields.is_empty() {
                let names: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
                writeln!(page, "- {verb}: {}", names.join(", ")).unwrap();
            }
        }
    }
    page
}

/// The `fields!` calls of a source file: message name and lists.
fn accounts(text: &str) -> Vec<(String, Lists)> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    code.split("fields!(")
        .skip(1)
        .filter_map(|call| {
            let (_, rest) = call.split_once(':')?;
            let (message, rest) = rest.split_once(',')?;
            let list = |name: &str| {
                let (_, rest) = rest.split_once(&format!("{name}:"))?;
                let (_, rest) = rest.split_once('[')?;
                let (items, _) = rest.split_once(']')?;
                Some(
                    items
                        .split(',')
                        .map(|item| item.trim().trim_start_matches("r#").to_owned())
                        .filter(|item| !item.is_empty())
                        .collect(),
                )
            };
            let message = message.trim().rsplit("::").next()?.to_owned();
            Some((
                message,
                Lists { read: list("read")?, ignore: list("ignore")?, refuse: list("refuse")? },
            ))
        })
        .collect()
}

#[test]
fn a_call_is_read_with_comments_and_raw_names() {
    let text = "fields!(message: api::core::Thing,\n read: [a, r#type],\n ignore: [b], // harmless\n refuse: [c,\n d],\n);";
    let lists = Lists {
        read: vec!["a".into(), "type".into()],
        ignore: vec!["b".into()],
        refuse: vec!["c".into(), "d".into()],
    };
    assert_eq!(accounts(text), [("Thing".to_owned(), lists)]);
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
