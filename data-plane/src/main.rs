//! `weighlock-proxy`: the data plane.

use std::process::ExitCode;

use clap::Parser;
use data_plane::app;
use data_plane::app::settings::Args;

/// Serves traffic as a control plane, or a file, says.
///
/// Configuration is Envoy's: a bootstrap file, and xDS over one stream. A change is swapped in whole
/// and closes no connection.
#[derive(Debug, Parser)]
#[command(name = "weighlock-proxy", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn main() -> anyhow::Result<ExitCode> {
    app::run(&Cli::parse().args)
}
