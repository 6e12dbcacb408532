//! Our own messages, compiled from the .proto files of this crate.

#[allow(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/ours.rs"));
}

pub use generated::weighlock::state::v1 as state;
