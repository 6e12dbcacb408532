//! Listeners: where connections come in, and which filter chain each belongs to.

pub mod http;
pub mod matching;
