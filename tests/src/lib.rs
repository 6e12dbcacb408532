//! Harness for tests that drive the real binaries over loopback.
//!
//! Modules stand in layers, top first.

pub mod ads;
pub mod gateway;
pub mod load;
pub mod authz;
pub mod backend;
pub mod authority;
pub mod dns;
pub mod client;
pub mod tls;
pub mod switch;
pub mod wire;
pub mod frames;
pub mod raw;
pub mod tools;
pub mod process;
pub mod ports;
pub mod wait;
pub mod documents;
