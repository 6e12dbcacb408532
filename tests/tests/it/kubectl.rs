//! The real kubectl against our control plane, with no cluster.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use gateway_tests::gateway::{ControlPlane, folder, texts};
use gateway_tests::{documents, tools};

/// A home of its own, so that nobody's cache or configuration takes part.
struct Kubectl {
    server: String,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut kubectl = Command::new(tools::kubectl())
            .args(["-s", &self.server, "--request-timeout=20s"])
            .args(arguments)
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        kubectl.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        kubectl.wait_with_output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let (out, err) = texts(&output);
        assert!(output.status.success(), "kubectl {}: {out}{err}", arguments.join(" "));
        out
    }
}

const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {a: VALUE}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_without_a_cluster() {
    if tools::offline("kubectl_works_without_a_cluster") {
        return;
    }
    let data = folder();
    let control = ControlPlane::start(data.path()).await;
    let kubectl = Kubectl { server: format!("http://{}", control.api), home: folder() };
    let all = |port| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let secret = SECRET.replace("VALUE", &format!("v{port}"));
        documents::gateway("web", "web", 80)
            + &documents::backend("b", address)
            + &documents::route("r", &["web"], &[("b", 1)])
            + &secret
    };
    let created = kubectl.ok(&["apply", "-f", "-"], &all(1));
    assert_eq!(created.matches(" created").count(), 4, "{created}");

    let difference = kubectl.run(&["diff", "-f", "-"], &all(2));
    let (out, err) = texts(&difference);
    assert_eq!(difference.status.code(), Some(1), "{out}{err}");
    assert!(out.contains("port: 2"), "{out}");
    let dry = kubectl.ok(&["apply", "--dry-run=server", "-f", "-"], &all(2));
    assert!(dry.contains("(server dry run)"), "{dry}");
    kubectl.ok(&["apply", "-f", "-"], &all(2));
    let backend = kubectl.ok(&["get", "backend", "b", "-o", "yaml"], "");
    assert!(backend.contains("port: 2"), "{backend}");
    let table = kubectl.ok(&["get", "httproutes", "-o", "wide"], "");
    assert!(table.starts_with("NAME") && table.contains("BACKENDS"), "{table}");
    let fields = kubectl.ok(&["explain", "httproute.spec"], "");
    assert!(fields.contains("parentRefs"), "{fields}");

    let typo = all(2).replace("parentRefs", "parentRef");
    let refused = kubectl.run(&["apply", "-f", "-"], &typo);
    let (_, err) = texts(&refused);
    assert!(!refused.status.success() && err.contains("did you mean parentRefs?"), "{err}");

    let deleted = kubectl.ok(&["delete", "-f", "-"], &all(2));
    assert_eq!(deleted.matches(" deleted").count(), 4, "{deleted}");
    assert!(!kubectl.run(&["get", "httproute", "r"], "").status.success());
}
