//! `weighlock`: the control plane, and what belongs beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    control_plane::app::main()
}
