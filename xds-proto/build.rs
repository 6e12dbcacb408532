//! Finds Envoy's descriptor set in the crate that ships it, and compiles our own .proto files without `protoc`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error, fs};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use prost::Message;

const OURS: [&str; 3] =
    ["typed_struct/xds.proto", "typed_struct/udpa.proto", "weighlock/state/v1/state.proto"];

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let envoy = envoy_types_folder()?;
    let envoy = fs::read(envoy.join("src/generated/types.bin"))?;
    fs::write(out.join("envoy.fds.z"), compressed(&envoy)?)?;

    let set = protox::compile(OURS, [Path::new("proto")])?;
    let mut ours = set.clone();
    ours.file.retain(|file| !file.name().starts_with("google/"));
    fs::write(out.join("ours.fds.z"), compressed(&ours.encode_to_vec())?)?;

    let mut config = prost_build::Config::new();
    config.enable_type_names();
    config.type_name_domain(["."], "type.googleapis.com");
    config.btree_map(["."]);
    config.bytes(["."]);
    let mut state = set;
    state.file.retain(|file| !file.name().starts_with("typed_struct/"));
    config.include_file("ours.rs").compile_fds(state)?;
    Ok(())
}

/// What lies in a program uncompressed is resident once it was read.
fn compressed(bytes: &[u8]) -> Result<Vec<u8>, Box<dyn error::Error>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Where the source of the `envoy-types` that this build uses lies.
fn envoy_types_folder() -> Result<PathBuf, Box<dyn error::Error>> {
    let out = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?)
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .arg("--filter-platform")
        .arg(env::var_os("TARGET").ok_or("TARGET is not set")?)
        .current_dir(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?)
        .output()?;
    if !out.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("envoy-types is not in the dependency graph")?;
    Ok(Path::new(manifest).parent().ok_or("manifest without a folder")?.to_owned())
}
