//! Every example, as its README tells it: commands in `console` blocks are run, what stands below them is what they print.
//!
//! The quick start in the README of the project is run the same way.

use std::path::{Path, PathBuf};
use std::process::Command;

use gateway_tests::gateway::texts;
use gateway_tests::process::{self, Process};

#[tokio::test(flavor = "multi_thread")]
async fn first_route() {
    tell("first-route").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weighted_shift() {
    tell("weighted-shift").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_redirect() {
    tell("tls-and-redirect").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_xds() {
    tell("raw-xds").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quick_start() {
    tell("..").await;
}

/// Runs the story of one example against a demo of its own.
async fn tell(example: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut command = Command::new(process::program("weighlock"));
    command.args(["demo", "--ports", "auto", "--load", "0"]).env("NO_COLOR", "1");
    let mut demo = Process::start("demo", &mut command);
    demo.printed("backends").await;
    let places = Places::read(&demo.output());

    let steps = steps(&readme);
    assert!(!steps.is_empty(), "{example}: no console block in README.md");
    for (command, expected) in steps {
        let output = process::run(&mut shell(&places.fill(&command), &folder, &places));
        let (out, err) = texts(&output);
        let printed = out + &err;
        assert!(
            matches(&printed, &expected),
            "{example}: $ {command}\nprinted:\n{printed}\nexpected:\n{expected}"
        );
    }
}

/// Where this demo's ports are, by the ports that the README names.
struct Places(Vec<(&'static str, String)>);

impl Places {
    fn read(printed: &str) -> Self {
        let address = |label: &str| {
            let line = printed
                .lines()
                .find(|line| line.contains(label))
                .unwrap_or_else(|| panic!("no {label} in:\n{printed}"));
            let (_, rest) = line.split_once("http://").unwrap();
            rest.split(|c: char| c.is_whitespace() || c == '/').next().unwrap().to_owned()
        };
        Self(vec![
            ("127.0.0.1:18080", address("control plane")),
            ("127.0.0.1:8001", address("proxy a")),
            ("127.0.0.1:8002", address("proxy b")),
        ])
    }

    fn fill(&self, command: &str) -> String {
        self.0
            .iter()
            .fold(command.to_owned(), |command, (known, real)| command.replace(known, real))
    }
}

fn shell(command: &str, folder: &Path, places: &Places) -> Command {
    let programs: PathBuf = process::program("wlctl").parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).env("NO_COLOR", "1");
    shell.env("WLCTL_SERVER", format!("http://{}", places.0[0].1));
    shell
}

/// Commands of the README's console blocks, each with what it prints.
fn steps(readme: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && let Some(command) = line.strip_prefix("$ ") {
            steps.push((command.to_owned(), String::new()));
        } else if inside && let Some((_, expected)) = steps.last_mut() {
            expected.push_str(line);
            expected.push('\n');
        }
    }
    steps
}

/// Whether `printed` is `expected`, where `…` stands for anything and numbers may differ.
fn matches(printed: &str, expected: &str) -> bool {
    let plain = |text: &str| {
        let mut plain = String::new();
        for c in text.trim().chars() {
            match c {
                '0'..='9' if plain.ends_with('0') => {}
                '0'..='9' => plain.push('0'),
                _ => plain.push(c),
            }
        }
        plain
    };
    let (printed, expected) = (plain(printed), plain(expected));
    let mut rest = printed.as_str();
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let mut open = false;
    for part in parts {
        open = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    open || rest.is_empty()
}

#[test]
fn numbers_may_differ_and_dots_stand_for_anything() {
    assert!(matches("in sync after 38ms\n", "in sync after 7ms"));
    assert!(matches("a b c d", "a … d"));
    assert!(!matches("a b c e", "a … d"));
    assert!(!matches("a b", "a"));
}
