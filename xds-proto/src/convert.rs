//! Checked conversions from Envoy's common messages to plain types.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::envoy::config::core::v3 as core;
use crate::envoy::r#type::v3 as percent;
use crate::field::{At, FieldError, required};
use crate::fields;
use crate::google::protobuf;

/// The longest duration that protobuf allows, 10,000 years.
const SECONDS_MAX: i64 = 315_576_000_000;

/// A duration of zero or more.
///
/// # Errors
/// When it is negative or out of protobuf's range.
pub fn duration(value: &protobuf::Duration) -> Result<Duration, FieldError> {
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if value.seconds <= SECONDS_MAX && nanos < 1_000_000_000 => {
            Ok(Duration::new(seconds, nanos))
        }
        _ => Err(FieldError::invalid("must be between 0 and 315576000000 s")),
    }
}

/// A duration of zero or more at `field`, where one is given.
///
/// # Errors
/// As [`duration`].
pub fn optional_duration(
    value: Option<&protobuf::Duration>,
    field: &'static str,
) -> Result<Option<Duration>, FieldError> {
    value.map(duration).transpose().at(field)
}

/// A duration as protobuf has it.
pub fn to_duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(SECONDS_MAX).min(SECONDS_MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

/// A fraction in millionths, 0 to 1,000,000.
///
/// # Errors
/// When the denominator is unknown. More than the whole is the whole, as in Envoy.
pub fn millionths(value: &percent::FractionalPercent) -> Result<u32, FieldError> {
    use percent::fractional_percent::DenominatorType;
    let scale = match DenominatorType::try_from(value.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(FieldError::invalid("unknown value")).at("denominator"),
    };
    Ok(value.numerator.saturating_mul(scale).min(1_000_000))
}

/// Where a socket lies: an address, a name to look up, or a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host name and port.
    Name(String, u16),
    /// A Unix domain socket.
    Pipe(String),
}

/// The address in a message.
///
/// # Errors
/// When it is missing, of an unsupported kind, or its port is out of range.
pub fn address(value: Option<core::Address>) -> Result<Address, FieldError> {
    let value = required(value, "address")?;
    match required(value.address, "address").at("address")? {
        core::address::Address::SocketAddress(socket) => {
            socket_address(socket).at("socket_address").at("address")
        }
        core::address::Address::Pipe(pipe) => {
            if pipe.path.is_empty() {
                return Err(FieldError::required()).at("path").at("pipe").at("address");
            }
            Ok(Address::Pipe(pipe.path))
        }
        core::address::Address::EnvoyInternalAddress(_) => {
            Err(FieldError::unsupported()).at("envoy_internal_address").at("address")
        }
    }
}

/// The address of a socket.
///
/// # Errors
/// When it is missing or of an unsupported kind, or its port is out of range.
pub fn socket_address(value: core::SocketAddress) -> Result<Address, FieldError> {
    use core::socket_address::PortSpecifier;
    fields!(value: core::SocketAddress,
        read: [address, port_specifier],
        // Read where an address is bound.
        ignore: [ipv4_compat],
        refuse: [protocol, resolver_name, network_namespace_filepath]);
    let port = match required(port_specifier, "port_value")? {
        PortSpecifier::PortValue(port) => u16::try_from(port)
            .map_err(|_| FieldError::invalid("must be at most 65535"))
            .at("port_value")?,
        PortSpecifier::NamedPort(_) => return Err(FieldError::unsupported()).at("named_port"),
    };
    if address.is_empty() {
        return Err(FieldError::required()).at("address");
    }
    Ok(match address.parse::<IpAddr>() {
        Ok(ip) => Address::Ip(SocketAddr::new(ip, port)),
        Err(_) => Address::Name(address, port),
    })
}

/// An address as Envoy has it.
pub fn to_address(host: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

/// The bytes of a data source.
///
/// # Errors
/// When it is missing, or reads the environment, or a file that cannot be read.
pub fn inline_data(value: Option<core::DataSource>) -> Result<Vec<u8>, FieldError> {
    use core::data_source::Specifier;
    match value.and_then(|source| source.specifier) {
        None => Err(FieldError::required()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::Filename(_)) => Err(FieldError::unsupported()).at("filename"),
        Some(Specifier::EnvironmentVariable(_)) => {
            Err(FieldError::unsupported()).at("environment_variable")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_checked() {
        let proto = |seconds, nanos| protobuf::Duration { seconds, nanos };
        assert_eq!(duration(&proto(1, 500_000_000)).unwrap(), Duration::from_millis(1500));
        assert!(duration(&proto(-1, 0)).is_err());
        assert!(duration(&proto(1, -1)).is_err());
        assert!(duration(&proto(0, 1_000_000_000)).is_err());
        assert_eq!(to_duration(Duration::from_millis(1500)), proto(1, 500_000_000));
    }

    #[test]
    fn fractions_are_millionths() {
        let value = percent::FractionalPercent { numerator: 5, denominator: 0 };
        assert_eq!(millionths(&value), Ok(50_000));
        let value = percent::FractionalPercent { numerator: 200, denominator: 0 };
        assert_eq!(millionths(&value), Ok(1_000_000));
        let value = percent::FractionalPercent { numerator: 1, denominator: 7 };
        assert_eq!(millionths(&value).unwrap_err().to_string(), "denominator: unknown value");
    }

    #[test]
    fn addresses_are_ip_name_or_path() {
        assert_eq!(
            address(Some(to_address("127.0.0.1", 80))),
            Ok(Address::Ip("127.0.0.1:80".parse().unwrap()))
        );
        assert_eq!(address(Some(to_address("a.test", 80))), Ok(Address::Name("a.test".into(), 80)));
        assert_eq!(address(None).unwrap_err().to_string(), "address: required");
        let error = address(Some(to_address("", 80))).unwrap_err();
        assert_eq!(error.to_string(), "address.socket_address.address: required");
    }
}
