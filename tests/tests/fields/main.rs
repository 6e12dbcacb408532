//! `docs/envoy-support.md` is made from the source, so that it cannot say what the proxy does not do.

mod page;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use xds_proto::descriptor;

use self::page::Messages;
use self::source::{Account, accounts};

/// Messages that the source takes apart without `fields!`: every field is read, but for those that stand here.
const PLAIN: &str = include_str!("plain.txt");

#[test]
fn the_page_of_what_is_supported_is_up_to_date() {
    let (messages, files) = support();
    let page = page::page(&messages, &files);
    let path = root().join("docs/envoy-support.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/envoy-support.md is out of date: UPDATE_GOLDEN=1 cargo test --workspace --test fields"
    );
}

#[test]
fn every_field_has_its_place_and_every_ignored_one_its_reason() {
    let mut wrong = Vec::new();
    for (message, accounts) in support().0 {
        let known = descriptor::by_name(&message).unwrap();
        let known: BTreeSet<String> = known.fields().map(|field| field.name().to_owned()).collect();
        for (file, account) in accounts {
            let ignored = account.ignored.iter().map(|(field, _)| field);
            let placed: BTreeSet<String> =
                account.read.iter().chain(&account.refused).chain(ignored).cloned().collect();
            for field in known.symmetric_difference(&placed) {
                wrong.push(format!("{file}: {message}.{field}: has no place, or does not exist"));
            }
            for (field, _) in account.ignored.iter().filter(|(_, reason)| reason.is_empty()) {
                wrong.push(format!(
                    "{file}: {message}.{field}: ignored without a reason; write it as a comment above"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_message_that_is_read_is_taken_apart() {
    let (messages, files) = support();
    let mut wrong = Vec::new();
    let mut reached: BTreeSet<String> = BTreeSet::new();
    for (message, accounts) in &messages {
        for field in accounts.iter().flat_map(|(_, account)| &account.read) {
            let Some(inner) = message_of(message, field) else { continue };
            if inner.starts_with("envoy.") && !messages.contains_key(&inner) {
                wrong.push(format!("{inner}, of {message}.{field}"));
            }
            reached.insert(inner);
        }
    }
    let unpacked: BTreeSet<&String> = files.iter().flat_map(|file| &file.unpacked).collect();
    for message in unpacked.iter().filter(|name| name.starts_with("envoy.extensions.")) {
        if !messages.contains_key(*message) {
            wrong.push(format!("{message}, out of an Any"));
        }
    }
    for message in plain().iter().map(|account| &account.message) {
        if !reached.contains(message) && !unpacked.contains(message) {
            wrong.push(format!("{message} stands in plain.txt, and nothing reads it"));
        }
    }
    assert!(
        wrong.is_empty(),
        "take these apart with fields!, or where all of it is read name it in tests/tests/fields/plain.txt:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_call_is_read_with_comments_and_raw_names() {
    let text = "fields!(message: api::core::Thing,\n read: [a, r#type],\n // Harmless\n // in all ways.\n \
                ignore: [b,\n c, // Of [no] use.\n d],\n refuse: [e,\n f],\n);";
    let account = Account {
        message: "api::core::Thing".into(),
        read: vec!["a".into(), "type".into()],
        ignored: [
            ("b", "Harmless in all ways."),
            ("c", "Harmless in all ways."),
            ("d", "Of [no] use."),
        ]
        .map(|(field, reason)| (field.to_owned(), reason.to_owned()))
        .into(),
        refused: vec!["e".into(), "f".into()],
    };
    assert_eq!(accounts(text), [account]);
}

/// All that the source and `plain.txt` say.
fn support() -> (Messages, Vec<source::File>) {
    let mut files = source::files(&root().join("data-plane/src"));
    files.extend(source::files(&root().join("xds-proto/src")));
    let mut messages = page::messages(&files);
    for account in plain() {
        // What `fields!` says is read whole may yet be refused in part.
        for (_, known) in messages.get_mut(&account.message).into_iter().flatten() {
            let (refused, read) = known.read.drain(..).partition(|f| account.refused.contains(f));
            known.read = read;
            let refused: Vec<String> = refused;
            known.refused.extend(refused);
        }
        messages.entry(account.message.clone()).or_insert(vec![("plain.txt".into(), account)]);
    }
    (messages, files)
}

/// Lines of `plain.txt`: a message, and behind it `ignored` or `refused` fields.
fn plain() -> Vec<Account> {
    let mut accounts: Vec<Account> = Vec::new();
    for line in PLAIN.lines().filter(|line| !line.is_empty()) {
        if let Some(fields) = line.strip_prefix("  ignored ") {
            let (fields, reason) = fields.split_once(": ").unwrap();
            let account = accounts.last_mut().unwrap();
            account.ignored.extend(fields.split(", ").map(|f| (f.to_owned(), reason.to_owned())));
        } else if let Some(fields) = line.strip_prefix("  refused ") {
            accounts.last_mut().unwrap().refused.extend(fields.split(", ").map(str::to_owned));
        } else {
            accounts.push(Account { message: line.to_owned(), ..Account::default() });
        }
    }
    for account in &mut accounts {
        let message = descriptor::by_name(&account.message)
            .unwrap_or_else(|| panic!("plain.txt: {}", account.message));
        let fields = message.fields().map(|field| field.name().to_owned());
        let is_read = |field: &String| {
            !account.refused.contains(field)
                && account.ignored.iter().all(|(name, _)| name != field)
        };
        account.read = fields.filter(is_read).collect();
    }
    accounts
}

/// The message that a field holds, or a map's values.
fn message_of(message: &str, field: &str) -> Option<String> {
    let field = descriptor::by_name(message)?.get_field_by_name(field)?;
    let kind = field.kind();
    let inner = kind.as_message()?;
    if !field.is_map() {
        return Some(inner.full_name().to_owned());
    }
    Some(inner.map_entry_value_field().kind().as_message()?.full_name().to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
