//! Addresses: which subnet the bridge takes, and who has which address of it.

use crate::error::NetworkError;
use crate::links::Mac;
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

/// An IPv4 subnet, known by an address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) ip: Ipv4Addr,
    pub(crate) prefix_len: u8,
}

impl Subnet {
    pub(crate) fn new(ip: Ipv4Addr, prefix_len: u8) -> Self {
        Self { ip, prefix_len }
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix_len.min(32))).unwrap_or(0)
    }

    fn first(self) -> u32 {
        self.ip.to_bits() & self.mask()
    }

    fn last(self) -> u32 {
        self.ip.to_bits() | !self.mask()
    }

    /// Its first address, which stands for the whole.
    pub(crate) fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first())
    }

    pub(crate) fn contains(self, ip: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&ip.to_bits())
    }

    /// Whether `ip` is an address that a host of the subnet can have.
    pub(crate) fn is_host(self, ip: Ipv4Addr) -> bool {
        self.contains(ip) && ![self.first(), self.last()].contains(&ip.to_bits())
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.first() <= other.last() && other.first() <= self.last()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix_len)
    }
}

/// The bridge's address in the first of Docker's pools that overlaps nothing in `used`.
pub(crate) fn free_subnet(used: &[(Ipv4Addr, u8)]) -> Option<Subnet> {
    let big = (17..=31).map(|second| Subnet::new(Ipv4Addr::new(172, second, 0, 1), 16));
    let small = (0..=240).step_by(16).map(|third| Subnet::new(Ipv4Addr::new(192, 168, third, 1), 20));
    big.chain(small).find(|pool| !used.iter().any(|&(ip, len)| pool.overlaps(Subnet::new(ip, len))))
}

/// The addresses of one subnet, the gateway's excepted.
#[derive(Debug)]
pub(crate) struct Pool {
    subnet: Subnet,
    used: BTreeSet<u32>,
    /// Given out last: the search starts behind it, so that an address is not used again at once, while neighbours
    /// still remember whose it was.
    last: u32,
}

impl Pool {
    /// A pool for the network whose gateway is `gateway.ip`.
    pub(crate) fn new(gateway: Subnet) -> Self {
        let used = BTreeSet::from([gateway.first(), gateway.last(), gateway.ip.to_bits()]);
        Self { subnet: gateway, used, last: gateway.first() }
    }

    /// Takes `wanted`, or the next free address.
    pub(crate) fn take(&mut self, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, NetworkError> {
        if let Some(ip) = wanted {
            if !self.subnet.contains(ip) {
                return Err(NetworkError::AddressOutside { ip, subnet: self.subnet.to_string() });
            }
            if !self.used.insert(ip.to_bits()) {
                return Err(NetworkError::AddressTaken(ip));
            }
            return Ok(ip);
        }
        let (first, last) = (self.subnet.first(), self.subnet.last());
        let behind = self.last.saturating_add(1)..=last;
        let Some(free) = behind.chain(first..=self.last).find(|bits| !self.used.contains(bits)) else {
            return Err(NetworkError::NoFreeAddress(self.subnet.to_string()));
        };
        self.used.insert(free);
        self.last = free;
        Ok(Ipv4Addr::from_bits(free))
    }

    pub(crate) fn release(&mut self, ip: Ipv4Addr) {
        let bits = ip.to_bits();
        if ![self.subnet.first(), self.subnet.last(), self.subnet.ip.to_bits()].contains(&bits) {
            self.used.remove(&bits);
        }
    }
}

/// Docker's: unique where the address is, and the same when the address comes again.
pub(crate) fn mac_of(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x42, a, b, c, d]
}

/// Reads `02:42:ac:11:00:02`.
pub(crate) fn parse_mac(text: &str) -> Result<Mac, NetworkError> {
    let invalid = || NetworkError::InvalidMac(text.to_owned());
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|byte| {
            if byte.len() == 2 { u8::from_str_radix(byte, 16).map_err(|_| invalid()) } else { Err(invalid()) }
        })
        .collect::<Result<_, _>>()?;
    let mac: Mac = bytes.try_into().map_err(|_| invalid())?;
    // The kernel takes neither a group address nor none at all.
    if mac[0] & 1 == 1 || mac == [0; 6] { Err(invalid()) } else { Ok(mac) }
}

pub(crate) fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_bridge_takes_the_first_pool_that_overlaps_nothing() {
        assert_eq!(free_subnet(&[]), Some(Subnet::new(ip("172.17.0.1"), 16)));
        let used = [(ip("172.17.4.0"), 24), (ip("172.18.0.9"), 32)];
        assert_eq!(free_subnet(&used), Some(Subnet::new(ip("172.19.0.1"), 16)));
        assert_eq!(free_subnet(&[(ip("172.16.0.0"), 12)]), Some(Subnet::new(ip("192.168.0.1"), 20)));
        let used = [(ip("172.16.0.0"), 12), (ip("192.168.1.0"), 24)];
        assert_eq!(free_subnet(&used), Some(Subnet::new(ip("192.168.16.1"), 20)));
        assert_eq!(free_subnet(&[(ip("128.0.0.0"), 1)]), None);
    }

    #[test]
    fn addresses_are_given_out_in_turn_and_not_again_at_once() {
        let mut pool = Pool::new(Subnet::new(ip("10.0.0.1"), 29));
        let taken: Vec<_> = (0..5).map(|_| pool.take(None).unwrap().octets()[3]).collect();
        assert_eq!(taken, [2, 3, 4, 5, 6]);
        assert!(matches!(pool.take(None), Err(NetworkError::NoFreeAddress(_))));
        pool.release(ip("10.0.0.3"));
        pool.release(ip("10.0.0.5"));
        assert_eq!(pool.take(None).unwrap(), ip("10.0.0.3"));
        pool.release(ip("10.0.0.3"));
        assert_eq!(pool.take(None).unwrap(), ip("10.0.0.5"));
    }

    #[test]
    fn a_fixed_address_is_refused_when_taken_or_outside() {
        let mut pool = Pool::new(Subnet::new(ip("10.0.0.1"), 24));
        assert_eq!(pool.take(Some(ip("10.0.0.2"))).unwrap(), ip("10.0.0.2"));
        assert_eq!(pool.take(None).unwrap(), ip("10.0.0.3"));
        for taken in ["10.0.0.1", "10.0.0.2", "10.0.0.0", "10.0.0.255"] {
            assert!(matches!(pool.take(Some(ip(taken))), Err(NetworkError::AddressTaken(_))), "{taken}");
        }
        assert!(matches!(pool.take(Some(ip("10.0.1.2"))), Err(NetworkError::AddressOutside { .. })));
    }

    #[test]
    fn mac_addresses_are_read_and_written() {
        assert_eq!(format_mac(mac_of(ip("172.17.0.2"))), "02:42:ac:11:00:02");
        assert_eq!(parse_mac("02:42:AC:11:00:02").unwrap(), mac_of(ip("172.17.0.2")));
        for bad in [
            "",
            "02:42",
            "02:42:ac:11:00:0g",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
            "2:4:a:1:0:2",
            "02:42:ac:11:00:02:03",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
