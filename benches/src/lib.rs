//! What the benches share: what a process costs, and how figures are told.

pub mod ads;
pub mod cost;
pub mod figures;
pub mod subscriber;
pub mod traffic;
