//! `wlctl`: the client of the control plane.

fn main() {}
