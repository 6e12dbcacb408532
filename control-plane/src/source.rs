//! Where documents come from besides the API.

pub mod directory;
pub mod documents;
pub mod folder;
pub mod places;
