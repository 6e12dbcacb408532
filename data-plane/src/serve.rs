//! Sockets, connections and their end.

pub mod io;
pub mod sockets;
