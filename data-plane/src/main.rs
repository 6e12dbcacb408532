//! `weighlock-proxy`: the data plane.

use std::io::Write;
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

fn main() -> ExitCode {
    app::run(&Cli::parse().args).unwrap_or_else(|error| {
        // Nobody is left to be told when standard error is closed.
        drop(std::io::stderr().write_all(app::failure(&error).as_bytes()));
        ExitCode::FAILURE
    })
}
