//! What the command line and the bootstrap say, as one.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use xds_proto::envoy::config::core::v3::node::UserAgentVersionType;

use crate::app::logs::{LogFormat, LogLevel};
use crate::bootstrap::control_plane::{Api, CONNECT_TIMEOUT, ControlPlane, Tls};
use crate::bootstrap::{self, Bootstrap};
use crate::descriptors;
use crate::overload::memory;
use crate::overload::plan::Resource;

/// What the proxy is told at start. A flag beats the bootstrap, which beats the default.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Envoy bootstrap, YAML or JSON [default: none, the flags say all]
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config_path: Option<PathBuf>,

    /// Control plane to ask; repeat it for fallbacks, in order of preference
    #[arg(long, value_name = "HOST:PORT")]
    pub control_plane: Vec<String>,

    /// Certificates (PEM) that may have signed the control plane's
    #[arg(long, value_name = "FILE")]
    pub xds_tls_ca: Option<PathBuf>,

    /// This proxy's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "xds_tls_key", requires = "xds_tls_ca")]
    pub xds_tls_cert: Option<PathBuf>,

    /// The key (PEM) of that certificate
    #[arg(long, value_name = "FILE", requires = "xds_tls_cert")]
    pub xds_tls_key: Option<PathBuf>,

    /// Name that the control plane's certificate must have [default: the host]
    #[arg(long, value_name = "NAME", requires = "xds_tls_ca")]
    pub xds_tls_server_name: Option<String>,

    /// Speak plain text to a control plane that is not on this machine
    #[arg(long)]
    pub xds_insecure: bool,

    /// Name of this proxy, unique in the fleet [default: the host name]
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,

    /// Fleet of this proxy [default: default]
    #[arg(long, value_name = "NAME")]
    pub node_cluster: Option<String>,

    /// Where probes, metrics and dumps are served; port 0 takes a free one [default: 127.0.0.1:19001]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_address: Option<SocketAddr>,

    /// Folder for the last good configuration [default: none, the proxy cannot start alone]
    #[arg(long, value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,

    /// How long connections are still accepted after SIGTERM, with /readyz at 503 (ms, s, m, h)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub drain_delay: Duration,

    /// How long streams may then take to end (ms, s, m, h)
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// Client connections served at a time; clients beyond are told 503 (0: any number) [default: half of the open files that the system allows]
    #[arg(long, value_name = "N")]
    pub limits_connections: Option<u64>,

    /// Memory from which on requests are refused with 503, in bytes (k, m, g; 0: any amount) [default: 80 % of what the control group or the machine has]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub limits_memory: Option<u64>,

    /// File for one JSON line a request; `-` is standard output [default: none]
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<PathBuf>,

    /// How much is logged to standard error
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// How log lines look [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// Where the admin page listens, where nobody says.
const ADMIN_ADDRESS: &str = "127.0.0.1:19001";

/// Reads the bootstrap and lays the flags over it.
///
/// # Errors
/// When a file cannot be read, or what it says cannot be used.
pub(super) fn read(args: &Args) -> anyhow::Result<Bootstrap> {
    let mut bootstrap = match &args.config_path {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            bootstrap::parse(&text, &|path| std::fs::read(path))
                .with_context(|| path.display().to_string())?
        }
        None => Bootstrap::default(),
    };
    if !args.control_plane.is_empty() {
        let tls = read_tls(args)?;
        bootstrap.control_planes = args
            .control_plane
            .iter()
            .map(|text| control_plane(text, tls.clone(), args.xds_insecure))
            .collect::<Result<_, _>>()?;
        bootstrap.api = Api::Delta;
        bootstrap.node_once_a_stream = true;
        bootstrap.dynamic_listeners = true;
        bootstrap.dynamic_clusters = true;
    }
    if args.config_path.is_none() && bootstrap.control_planes.is_empty() {
        bail!("give --config-path, or --control-plane, or both");
    }
    if args.admin_address.is_some() || bootstrap.admin.is_none() {
        bootstrap.admin = match args.admin_address {
            Some(address) => Some(address),
            None => Some(ADMIN_ADDRESS.parse()?),
        };
    }
    name_node(args, &mut bootstrap)?;
    limit(args, &mut bootstrap, descriptors::raise_limit());
    Ok(bootstrap)
}

/// Part of the memory there is that a proxy uses before it refuses requests, in hundredths.
const MEMORY_SHARE: u64 = 80;

/// Where the bootstrap sets a limit of memory itself, only the flag sets another.
fn limit(args: &Args, bootstrap: &mut Bootstrap, files: u64) {
    let unlimited = |max: u64| if max == 0 { u64::MAX } else { max };
    let fitting = descriptors::connections_max(files);
    bootstrap.limits.sheds_beyond = args.limits_connections.map_or(fitting, unlimited);
    let has_own = bootstrap
        .overload
        .monitors
        .iter()
        .any(|monitor| matches!(monitor.resource, Resource::Own(_) | Resource::Group(_)));
    let available = memory::available();
    let memory = match args.limits_memory {
        None if has_own => None,
        None => available.map(|bytes| bytes / 100 * MEMORY_SHARE),
        Some(0) => None,
        given => given,
    };
    if let Some(bytes) = memory {
        bootstrap.overload.limit_memory(bytes, available);
    }
}

fn name_node(args: &Args, bootstrap: &mut Bootstrap) -> anyhow::Result<()> {
    let node = &mut bootstrap.node;
    if let Some(id) = &args.node_id {
        node.id.clone_from(id);
    }
    if node.id.is_empty() {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("the host name cannot be read; give --node-id")?;
        name.trim().clone_into(&mut node.id);
    }
    if let Some(cluster) = &args.node_cluster {
        node.cluster.clone_from(cluster);
    }
    if node.cluster.is_empty() {
        "default".clone_into(&mut node.cluster);
    }
    "weighlock".clone_into(&mut node.user_agent_name);
    node.user_agent_version_type =
        Some(UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").to_owned()));
    node.client_features = vec!["xds.config.resource-in-sotw".to_owned()];
    Ok(())
}

fn read_tls(args: &Args) -> anyhow::Result<Option<Tls>> {
    let Some(ca) = &args.xds_tls_ca else { return Ok(None) };
    let read = |path: &PathBuf| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let identity = match (&args.xds_tls_cert, &args.xds_tls_key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        _ => None,
    };
    Ok(Some(Tls { ca: read(ca)?, identity, server_name: args.xds_tls_server_name.clone() }))
}

fn control_plane(text: &str, tls: Option<Tls>, insecure: bool) -> anyhow::Result<ControlPlane> {
    let (host, port) =
        text.rsplit_once(':').with_context(|| format!("--control-plane {text}: no port"))?;
    let port = port.parse().with_context(|| format!("--control-plane {text}: {port:?}"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_loopback = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if tls.is_none() && !is_loopback && !insecure {
        bail!(
            "--control-plane {text}: plain text is only spoken on this machine; \
             give --xds-tls-ca, or --xds-insecure to do it all the same"
        );
    }
    Ok(ControlPlane { host, port, connect_timeout: CONNECT_TIMEOUT, tls })
}

/// Reads `1073741824`, `512m`, `1.5G`, `2GiB`: k, m and g are powers of 1024.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "ki" | "kib" => 1024.0,
        "m" | "mi" | "mib" => 1024.0 * 1024.0,
        "g" | "gi" | "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("must be bytes, or end with k, m or g".into()),
    };
    let number: f64 = number.trim().parse().map_err(|_| format!("{number:?} is no number"))?;
    let bytes = number * factor;
    if !(0.0..1e18).contains(&bytes) {
        return Err("out of range".into());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
    Ok(bytes as u64)
}

/// Reads `500ms`, `5s`, `1.5m`, `2h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("must end with its unit: ms, s, m or h".into()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn read_flags(flags: &[&str]) -> Result<Bootstrap, String> {
        let cli = Cli::try_parse_from(["proxy"].iter().chain(flags)).map_err(|e| e.to_string())?;
        read(&cli.args).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn flags_alone_are_enough() {
        let flags = ["--control-plane", "127.0.0.1:1", "--control-plane", "[::1]:2"];
        let bootstrap = read_flags(&flags).unwrap();
        let authorities: Vec<_> =
            bootstrap.control_planes.iter().map(ControlPlane::authority).collect();
        assert_eq!(authorities, ["127.0.0.1:1", "[::1]:2"]);
        assert!(bootstrap.dynamic_listeners && bootstrap.dynamic_clusters);
        assert_eq!(bootstrap.node.cluster, "default");
        assert!(!bootstrap.node.id.is_empty());
        assert_eq!(bootstrap.admin, Some(ADMIN_ADDRESS.parse().unwrap()));
    }

    #[test]
    fn flags_beat_the_bootstrap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.yaml");
        std::fs::write(&path, "node: {id: a, cluster: b}\n").unwrap();
        let path = path.to_str().unwrap();
        let bootstrap = read_flags(&["-c", path, "--node-id", "x"]).unwrap();
        assert_eq!((&*bootstrap.node.id, &*bootstrap.node.cluster), ("x", "b"));
        assert!(bootstrap.control_planes.is_empty());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (flags, wanted) in [
            (&[][..], "give --config-path, or --control-plane, or both"),
            (&["--control-plane", "x"], "--control-plane x: no port"),
            (&["--control-plane", "1.2.3.4:5"], "plain text is only spoken on this machine"),
            (&["--control-plane", "[::1]:1", "--drain-delay", "5"], "must end with its unit"),
            (&["-c", "/does/not/exist"], "cannot read /does/not/exist: No such file"),
            (&["--service-cluster", "x"], "unexpected argument '--service-cluster'"),
        ] {
            let error = read_flags(flags).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(read_flags(&["--control-plane", "1.2.3.4:5", "--xds-insecure"]).is_ok());
    }

    #[test]
    fn limits_come_from_the_flags_or_from_what_there_is() {
        let flags = ["--control-plane", "127.0.0.1:1"];
        let limits = |more: &[&str]| {
            let cli = Cli::try_parse_from(["proxy"].iter().chain(&flags).chain(more)).unwrap();
            let mut bootstrap = Bootstrap::default();
            limit(&cli.args, &mut bootstrap, 1024);
            let memory = bootstrap.overload.monitors.first().map(|one| one.resource.clone());
            (bootstrap.limits.sheds_beyond, memory)
        };
        let (connections, memory) = limits(&[]);
        assert_eq!(connections, 480);
        assert!(matches!(memory, Some(Resource::Own(bytes)) if bytes > 1 << 20));
        let given = limits(&["--limits-connections", "7", "--limits-memory", "1.5G"]);
        assert_eq!(given, (7, Some(Resource::Own(3 << 29))));
        let none = limits(&["--limits-connections", "0", "--limits-memory", "0"]);
        assert_eq!(none, (u64::MAX, None));
        assert!(parse_bytes("1t").is_err() && parse_bytes("-1").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("-1s").is_err() && parse_duration("s").is_err());
    }
}
