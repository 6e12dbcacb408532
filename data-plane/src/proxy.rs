//! The life of one request.

pub mod edge;
