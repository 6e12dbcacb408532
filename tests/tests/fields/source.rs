//! Reads from the source what the proxy does with each field of each Envoy message.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use xds_proto::descriptor;

/// What one place of the source does with the fields of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// The message as the source names it, then its full name.
    pub(crate) message: String,
    pub(crate) read: Vec<String>,
    /// Fields that change nothing, each with its reason.
    pub(crate) ignored: Vec<(String, String)>,
    pub(crate) refused: Vec<String>,
}

/// What a file of the source says of Envoy's messages.
#[derive(Debug)]
pub(crate) struct File {
    /// Its path below `data-plane/src`.
    pub(crate) path: String,
    pub(crate) accounts: Vec<Account>,
    /// The full names of the messages that it takes out of an `Any`.
    pub(crate) unpacked: Vec<String>,
    /// The full names of the messages that it names at all.
    pub(crate) named: Vec<String>,
}

/// Every file of the source that deals with Envoy's messages.
pub(crate) fn files(root: &Path) -> Vec<File> {
    let names = Names::new();
    let mut paths = Vec::new();
    sources(root, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root).unwrap().display().to_string();
        (path, text.split("\n#[cfg(test)]\nmod tests {").next().unwrap().to_owned())
    };
    let texts: Vec<(String, String)> = paths.into_iter().map(read).collect();
    let read = |(path, text): &(String, String)| file(path, text, &family(path, &texts), &names);
    texts.iter().map(read).collect()
}

/// The text of a file with that of the module that it is in, and of those in that: an "one of" is often taken apart there.
fn family(path: &str, texts: &[(String, String)]) -> String {
    let module = path.trim_end_matches(".rs");
    let parent = module.rsplit_once('/').map_or("", |(parent, _)| parent);
    // `compile` and `filter` hold too much to be one family.
    let has_siblings = parent.contains('/');
    let is_near = |other: &str| {
        let other = other.trim_end_matches(".rs");
        let is_within = |of: &str| other.starts_with(&format!("{of}/"));
        other == module || other == parent || is_within(module) || has_siblings && is_within(parent)
    };
    texts.iter().filter(|(other, _)| is_near(other)).map(|(_, text)| text.as_str()).collect()
}

fn file(path: &str, text: &str, family: &str, names: &Names) -> File {
    let uses = uses(text);
    let full = |name: &str| names.full(&resolve(name, &uses));
    let mut accounts = accounts(text);
    for account in &mut accounts {
        account.message =
            full(&account.message).unwrap_or_else(|| panic!("{path}: {}", account.message));
        by_member(account, family);
    }
    let mut unpacked: Vec<String> = words(text, "::type_url()", "type Config = ")
        .iter()
        .filter_map(|name| full(name))
        .collect();
    let by_text = text.split("\"type.googleapis.com/").skip(1).filter_map(|rest| {
        let name = rest.split('"').next()?;
        descriptor::by_name(name).map(|_| name.to_owned())
    });
    unpacked.extend(by_text);
    let mut named: Vec<String> = uses.values().filter_map(|path| names.full(path)).collect();
    named.extend(paths_in(text).iter().filter_map(|path| full(path)));
    named.sort();
    named.dedup();
    File { path: path.to_owned(), accounts, unpacked, named }
}

/// Puts the members of each "one of" in its place: those that the source names as not supported are refused.
fn by_member(account: &mut Account, text: &str) {
    let message = descriptor::by_name(&account.message).unwrap();
    let is_refused = |member: &str| {
        ["unsupported()).at", "unsupported"]
            .iter()
            .any(|start| text.contains(&format!("{start}(\"{member}\")")))
    };
    let members = |name: &str| -> Vec<String> {
        let of = message.oneofs().find(|of| of.name() == name);
        of.map(|of| of.fields().map(|field| field.name().to_owned()).collect()).unwrap_or_default()
    };
    for name in std::mem::take(&mut account.read) {
        let members = members(&name);
        if members.is_empty() {
            account.read.push(name);
            continue;
        }
        let (refused, read): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| is_refused(member));
        account.read.extend(read);
        account.refused.extend(refused);
    }
    for name in std::mem::take(&mut account.refused) {
        let members = members(&name);
        if members.is_empty() {
            account.refused.push(name)
        } else {
            account.refused.extend(members)
        }
    }
    for (name, reason) in std::mem::take(&mut account.ignored) {
        let members = members(&name);
        let names = if members.is_empty() { vec![name] } else { members };
        account.ignored.extend(names.into_iter().map(|name| (name, reason.clone())));
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Mark(char),
    Comment(String),
}

fn tokens(text: &str) -> impl Iterator<Item = Token> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = |is_part: &dyn Fn(char) -> bool| rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (token, length) = if rest.starts_with("//") {
            let length = end(&|c| c != '\n');
            (Token::Comment(rest[..length].trim_start_matches('/').trim().to_owned()), length)
        } else if first.is_alphanumeric() || first == '_' {
            let length = end(&|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '#'));
            let word = rest[..length].trim_end_matches(':');
            (Token::Word(word.replace("r#", "")), word.len())
        } else {
            (Token::Mark(first), first.len_utf8())
        };
        rest = &rest[length..];
        Some(token)
    })
}

/// The `fields!` calls of a source file. A comment in a list of ignored fields is the reason of those that follow it.
pub(crate) fn accounts(text: &str) -> Vec<Account> {
    let code: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("///")).collect();
    code.join("\n").split("fields!(").skip(1).map(account).collect()
}

fn account(call: &str) -> Account {
    let mut account = Account::default();
    let mut list = String::new();
    let (mut is_open, mut reason, mut was_comment) = (false, String::new(), false);
    for token in tokens(call).skip(2) {
        if let Token::Comment(line) = token {
            if !was_comment {
                reason.clear();
            }
            reason = format!("{reason} {line}").trim().to_owned();
            was_comment = true;
            continue;
        }
        was_comment = false;
        match token {
            Token::Word(path) if account.message.is_empty() => account.message = path,
            Token::Word(name) if !is_open => list = name,
            Token::Word(field) => match list.as_str() {
                "read" => account.read.push(field),
                "ignore" => account.ignored.push((field, reason.clone())),
                _ => account.refused.push(field),
            },
            Token::Mark('[') => is_open = true,
            Token::Mark(']') if list == "refuse" => return account,
            Token::Mark(']') => (is_open, reason) = (false, String::new()),
            _ => {}
        }
    }
    panic!("no end: fields!({}", call.lines().next().unwrap_or_default())
}

/// What `use` brings into a file: the name, and the path that it stands for.
fn uses(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let statements = text.split("use ").skip(1).filter_map(|rest| rest.split(';').next());
    for statement in statements {
        tree("", &statement.split_whitespace().collect::<Vec<_>>().join(" "), &mut found);
    }
    found
}

fn tree(before: &str, tree_text: &str, found: &mut BTreeMap<String, String>) {
    let text = tree_text.trim();
    let join =
        |path: &str| if before.is_empty() { path.to_owned() } else { format!("{before}::{path}") };
    if let Some((path, inner)) = text.split_once("::{") {
        let before = join(path);
        let inner = inner.strip_suffix('}').unwrap_or(inner);
        let (mut depth, mut start) = (0, 0);
        for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    tree(&before, &inner[start..at], found);
                    start = at + 1;
                }
                _ => {}
            }
        }
    } else if let Some((path, name)) = text.split_once(" as ") {
        found.insert(name.to_owned(), join(path));
    } else if text == "self" {
        found.insert(before.rsplit("::").next().unwrap_or_default().to_owned(), before.to_owned());
    } else if let Some(name) = text.rsplit("::").next().filter(|name| !name.is_empty()) {
        found.insert(name.to_owned(), join(text));
    }
}

/// A path with what `use` says put in for its first word.
fn resolve(path: &str, uses: &BTreeMap<String, String>) -> String {
    let mut path = path.to_owned();
    for _ in 0..4 {
        let (first, rest) = path.split_once("::").unwrap_or((&path, ""));
        let Some(stands_for) = uses.get(first).filter(|known| *known != first) else { break };
        path = if rest.is_empty() { stands_for.clone() } else { format!("{stands_for}::{rest}") };
        if path.starts_with("xds_proto::") {
            break;
        }
    }
    path
}

/// The paths before `after` and behind `before`.
fn words(text: &str, after: &str, before: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let mut found = Vec::new();
    let pieces: Vec<&str> = text.split(after).collect();
    for piece in &pieces[..pieces.len() - 1] {
        let start = piece.rfind(|c| !is_part(c)).map_or(0, |at| at + 1);
        found.push(piece[start..].to_owned());
    }
    for piece in text.split(before).skip(1) {
        found.push(piece[..piece.find(|c| !is_part(c)).unwrap_or(piece.len())].to_owned());
    }
    found
}

fn paths_in(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    code.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':' | '#')))
        .filter(|word| word.contains("::"))
        .map(|word| word.trim_matches(':').to_owned())
        .collect()
}

/// Full names of messages by what Rust calls them.
struct Names(BTreeMap<String, String>);

impl Names {
    fn new() -> Self {
        Self(descriptor::names().map(|name| (key(&name.replace('.', "::")), name)).collect())
    }

    fn full(&self, path: &str) -> Option<String> {
        let path = path.strip_prefix("xds_proto::").or(path.strip_prefix("crate::"))?;
        self.0.get(&key(path)).cloned()
    }
}

/// `HTTPFault` is `HttpFault` in Rust, and `RetryPolicy.RetryBackOff` stands in a module `retry_policy`.
fn key(path: &str) -> String {
    path.replace("r#", "").replace('_', "").to_lowercase()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
