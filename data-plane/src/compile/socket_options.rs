//! Options of the sockets of a listener.

use std::time::Duration;

use xds_proto::envoy::config::core::v3 as api;
use xds_proto::envoy::config::core::v3::socket_option::Value;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;

use crate::listener::sockets::SocketOptions;

/// Levels and names, as Linux has them.
const SOCKET_KEEPALIVE: (i64, i64) = (1, 9);
const TCP_NODELAY: (i64, i64) = (6, 1);
const TCP_KEEPIDLE: (i64, i64) = (6, 4);
const TCP_KEEPINTVL: (i64, i64) = (6, 5);
const TCP_KEEPCNT: (i64, i64) = (6, 6);
const IP_TOS: (i64, i64) = (0, 1);
const IPV6_TCLASS: (i64, i64) = (41, 67);

/// Adds an option.
pub(super) fn add(all: &mut SocketOptions, message: api::SocketOption) -> Result<(), FieldError> {
    fields!(message: api::SocketOption,
        read: [level, name, value],
        // Connections have what the socket that listens has, whenever it was set. All sockets are
        // streams, and the level says which version of IP an option is for.
        ignore: [description, state, r#type, ip_version],
        refuse: [],
    );
    let number = match required(value, "value")? {
        Value::IntValue(number) => number,
        Value::BufValue(_) => return Err(FieldError::unsupported()).at("buf_value"),
    };
    let count = u32::try_from(number).map_err(|_| FieldError::invalid("must not be below 0"));
    let count = count.at("int_value")?;
    let seconds = Duration::from_secs(count.into());
    if matches!((level, name), TCP_KEEPIDLE | TCP_KEEPINTVL | TCP_KEEPCNT) && count == 0 {
        return Err(FieldError::invalid("must be above 0")).at("int_value");
    }
    match (level, name) {
        SOCKET_KEEPALIVE => all.keepalive = Some(count != 0),
        TCP_KEEPIDLE => all.idle = Some(seconds),
        TCP_KEEPINTVL => all.interval = Some(seconds),
        TCP_KEEPCNT => all.probes = Some(count),
        IP_TOS => all.tos = Some(count),
        IPV6_TCLASS => all.traffic_class = Some(count),
        // It is set on every connection.
        TCP_NODELAY if count != 0 => {}
        (level, name) => {
            let reason = format!("level {level}, name {name} is not supported");
            return Err(FieldError::invalid(reason)).at("name");
        }
    }
    Ok(())
}

/// What `tcp_keepalive` says; probes are sent where it is there at all.
pub(super) fn keepalive(all: &mut SocketOptions, message: api::TcpKeepalive) {
    fields!(message: api::TcpKeepalive,
        read: [keepalive_probes, keepalive_time, keepalive_interval], ignore: [], refuse: []);
    all.keepalive = Some(true);
    let seconds = |value: u32| Duration::from_secs(value.into());
    all.probes = keepalive_probes.map(|probes| probes.value);
    all.idle = keepalive_time.map(|time| seconds(time.value));
    all.interval = keepalive_interval.map(|interval| seconds(interval.value));
}
