//! The proxy: xDS in, requests through.
//!
//! Modules stand in layers, top first. A module uses only modules listed below it.

pub mod app;
pub mod admin;
pub mod xds;
pub mod compile;
pub mod serve;
pub mod proxy;
pub mod guard;
pub mod snapshot;
pub mod listener;
pub mod route;
pub mod chain;
pub mod filter;
pub mod filtering;
pub mod cluster;
pub mod framing;
pub mod tls;
pub mod retry;
pub mod labels;
pub mod matcher;
pub mod format;
pub mod metadata;
pub mod body;
pub mod bootstrap;
pub mod overload;
pub mod telemetry;
pub mod descriptors;
pub mod reference;
mod delegate;
