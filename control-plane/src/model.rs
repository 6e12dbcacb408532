//! Documents as typed, checked objects: what translation reads.

pub mod kind;
pub mod backend;
pub mod gateway;
pub mod gatewayclass;
pub mod httproute;
pub mod namespace;
pub mod referencegrant;
pub mod secret;
pub mod meta;
pub mod regex;
pub mod schema;
pub mod text;
pub mod duration;
pub mod suggest;
