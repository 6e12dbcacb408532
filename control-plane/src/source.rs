//! Where documents come from besides the API.

pub mod documents;
pub mod folder;
