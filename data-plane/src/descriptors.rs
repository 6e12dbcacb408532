//! File descriptors: how many there may be, and the few that traffic does not get.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, getrlimit, setrlimit};

/// So many are kept for the admin page, the control plane, names and files.
const RESERVE: u64 = 32;

/// Raises the limit as far as the system allows; gives it.
pub fn raise_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let more = rustix::process::Rlimit { current: limit.maximum, ..limit };
        // What is not granted is not needed to start.
        if limit.maximum.is_some() && setrlimit(Resource::Nofile, more).is_ok() {
            limit = more;
        }
    }
    limit.current.unwrap_or(u64::MAX)
}

/// How many client connections fit: each may need one to an endpoint, too.
pub fn connections_max(limit: u64) -> u64 {
    limit.saturating_sub(reserve(limit) + RESERVE) / 2
}

/// Whether a socket was made of what traffic does not get: the system hands out the lowest number
/// that is free.
pub fn is_of_reserve(socket: &impl AsFd) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let number = u64::try_from(socket.as_fd().as_raw_fd()).unwrap_or(0);
    number >= limit.saturating_sub(reserve(limit))
}

fn reserve(limit: u64) -> u64 {
    RESERVE.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_left_is_for_clients() {
        assert_eq!(connections_max(1024), 480);
        assert_eq!(connections_max(100), 21);
        assert_eq!(connections_max(10), 0);
    }

    #[test]
    fn the_first_sockets_are_for_traffic() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_of_reserve(&socket));
        assert!(raise_limit() > 32);
    }
}
