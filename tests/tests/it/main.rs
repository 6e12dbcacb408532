//! Tests that drive the real binaries over loopback.

mod ads;
mod bad_input;
mod demo;
mod differential;
mod documents;
mod drain;
mod envoy;
mod memory;
mod examples;
mod filters;
mod footprint;
mod foreign;
mod hosts;
mod kubectl;
mod live;
mod outage;
mod shutdown;
mod static_config;
mod swap;
mod tickets;
mod unharmed;
