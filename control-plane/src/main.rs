//! `weighlock`: the control plane, and what belongs beside it.

fn main() {}
