//! The control plane: Gateway API documents in, versioned xDS snapshots out.
//!
//! Modules stand in layers, top first. A module uses only modules listed below it.

pub mod app;
pub mod demo;
pub mod cli;
pub mod admin;
pub mod api;
pub mod pipeline;
pub mod status;
pub mod translate;
pub mod serve;
pub mod fleet;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod model;
pub mod telemetry;
pub mod process;
pub mod settings;
pub mod finding;
