//! What both planes say to each other: Envoy's messages, their versions, and where in them an error lies.
//!
//! Modules stand in layers, top first. A module uses only modules listed below it.

pub mod extension;
pub mod resource;
pub mod json;
mod redact;
pub mod data_source;
pub mod canonical;
pub mod descriptor;
pub mod version;
pub mod convert;
pub mod field;

pub use envoy_types::pb::{envoy, google, xds};
