//! `weighlock-proxy`: the data plane.

fn main() {}
