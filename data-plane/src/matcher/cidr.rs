//! Ranges of addresses (`envoy.config.core.v3.CidrRange`).

use std::net::IpAddr;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    /// The range of the addresses whose first `bits` are those of `address`; `None` when an
    /// address has fewer bits.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (bits <= width).then_some(Self { address, bits })
    }

    /// How many leading bits are given.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let differing = u32::from(range) ^ u32::from(address);
                u32::from(self.bits) <= differing.leading_zeros()
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let differing = u128::from(range) ^ u128::from(address);
                u32::from(self.bits) <= differing.leading_zeros()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_the_addresses_with_its_leading_bits() {
        let range = |text: &str, bits| Cidr::new(text.parse().unwrap(), bits).unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(range("10.0.0.0", 8).contains(address("10.255.0.1")));
        assert!(range("10.0.0.0", 8).contains(address("::ffff:10.1.1.1")));
        assert!(!range("10.0.0.0", 8).contains(address("11.0.0.1")));
        assert!(range("0.0.0.0", 0).contains(address("1.2.3.4")));
        assert!(range("fd00::", 8).contains(address("fd12::1")));
        assert!(!range("fd00::", 8).contains(address("10.0.0.1")));
        assert!(Cidr::new(address("10.0.0.0"), 33).is_none());
    }
}
