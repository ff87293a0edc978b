//! The default bridge: found or made, with the address that it had before where that is possible.

use crate::NetworkConfig;
use crate::error::NetworkError;
use crate::ipam::{self, Subnet};
use crate::links::{self, Link};
use crate::rtnl::Rtnl;
use crate::state::BridgeRecord;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The bridge, ready for containers.
#[derive(Clone, Debug)]
pub(crate) struct Bridge {
    pub(crate) link: Link,
    /// Its address, and with it the network's subnet.
    pub(crate) gateway: Subnet,
    pub(crate) network_id: String,
    pub(crate) created: std::time::SystemTime,
}

impl Bridge {
    /// Makes the bridge of `config` or takes it as it is; `in_use` is whether running containers depend on it.
    pub(crate) fn open(rtnl: &mut Rtnl, config: &NetworkConfig, in_use: bool) -> Result<Self, NetworkError> {
        check_name(&config.bridge)?;
        if let Some((ip, prefix_len)) = config.bip {
            check_bip(ip, prefix_len)?;
        }
        let record = BridgeRecord::load(&config.state_dir)?;
        let link = find_or_make(rtnl, &config.bridge)?;
        let remembered = record.as_ref().filter(|record| record.bridge == config.bridge);
        let gateway = settle_address(rtnl, config, &link, remembered, in_use)?;
        links::link_up(rtnl, link.index).map_err(link_error("set up", &link.name))?;
        let enabled = enable_forwarding(&link.name)?;

        let fresh = BridgeRecord {
            network_id: match &record {
                Some(record) => record.network_id.clone(),
                None => random_id().map_err(NetworkError::Random)?,
            },
            bridge: config.bridge.clone(),
            ip: gateway.ip,
            prefix_len: gateway.prefix_len,
            enabled_ip_forward: enabled || record.as_ref().is_some_and(|record| record.enabled_ip_forward),
        };
        if record.as_ref() != Some(&fresh) {
            fresh.save(&config.state_dir)?;
        }
        let created = BridgeRecord::saved_at(&config.state_dir);
        Ok(Self { link, gateway, network_id: fresh.network_id, created })
    }
}

/// 64 hex digits, as IDs are.
pub(crate) fn random_id() -> io::Result<String> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    // At most 256 bytes are given at once and in full, once the kernel's pool is ready.
    rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(())
}

/// The name goes into firewall rules as it is, so it may hold nothing that means something there.
fn check_name(name: &str) -> Result<(), NetworkError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    match (1..=15).contains(&name.len()) && name.chars().all(sound) && !name.starts_with(['.', '-']) {
        true => Ok(()),
        false => Err(NetworkError::InvalidBridge(name.to_owned())),
    }
}

fn check_bip(ip: Ipv4Addr, prefix_len: u8) -> Result<(), NetworkError> {
    let subnet = Subnet::new(ip, prefix_len);
    match (8..=30).contains(&prefix_len) && subnet.is_host(ip) && !ip.is_loopback() && !ip.is_multicast() {
        true => Ok(()),
        false => Err(NetworkError::InvalidBip(ip, prefix_len)),
    }
}

fn find_or_make(rtnl: &mut Rtnl, name: &str) -> Result<Link, NetworkError> {
    if let Some(link) = links::link_by_name(rtnl, name).map_err(NetworkError::Netlink)? {
        return if link.is_bridge { Ok(link) } else { Err(NetworkError::NotABridge(name.to_owned())) };
    }
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    fill_random(&mut mac[2..]).map_err(NetworkError::Random)?;
    links::create_bridge(rtnl, name, mac).map_err(link_error("create bridge", name))?;
    links::link_by_name(rtnl, name)
        .and_then(|link| link.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)))
        .map_err(link_error("find bridge", name))
}

/// The bridge's address: what is asked for, else what it has, else what it had, else a free one.
fn settle_address(
    rtnl: &mut Rtnl,
    config: &NetworkConfig,
    link: &Link,
    remembered: Option<&BridgeRecord>,
    in_use: bool,
) -> Result<Subnet, NetworkError> {
    let has = links::addresses(rtnl, link.index).map_err(NetworkError::Netlink)?;
    let wanted = config.bip.map(|(ip, prefix_len)| Subnet::new(ip, prefix_len));
    if let Some(wanted) = wanted {
        for &(ip, prefix_len) in &has {
            if (ip, prefix_len) == (wanted.ip, wanted.prefix_len) {
                return Ok(wanted);
            }
            if in_use {
                return Err(NetworkError::BridgeInUse {
                    bridge: link.name.clone(),
                    has: format!("{ip}/{prefix_len}"),
                });
            }
            links::delete_address(rtnl, link.index, ip, prefix_len)
                .map_err(link_error("take the old address from", &link.name))?;
        }
    } else if let Some(&(ip, prefix_len)) = has.first() {
        return Ok(Subnet::new(ip, prefix_len));
    }
    let address = match wanted {
        Some(wanted) => wanted,
        None => choose_address(rtnl, link, remembered)?,
    };
    links::add_address(rtnl, link.index, address.ip, address.prefix_len)
        .map_err(link_error("add an address to", &link.name))?;
    Ok(address)
}

fn choose_address(
    rtnl: &mut Rtnl,
    link: &Link,
    remembered: Option<&BridgeRecord>,
) -> Result<Subnet, NetworkError> {
    let used = links::subnets_in_use(rtnl, Some(link.index)).map_err(NetworkError::Netlink)?;
    remembered
        .map(|record| Subnet::new(record.ip, record.prefix_len))
        .filter(|had| !used.iter().any(|&(ip, prefix_len)| had.overlaps(Subnet::new(ip, prefix_len))))
        .or_else(|| ipam::free_subnet(&used))
        .ok_or_else(|| NetworkError::NoFreeSubnet(link.name.clone()))
}

/// Turns on what packets between host, containers and the world need; true if forwarding was off before.
fn enable_forwarding(bridge: &str) -> Result<bool, NetworkError> {
    set_sysctl(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet").into())?;
    set_sysctl("/proc/sys/net/ipv4/ip_forward".into())
}

/// Sets a switch below `/proc/sys` to 1; true if that changed it.
fn set_sysctl(path: PathBuf) -> Result<bool, NetworkError> {
    // Only written where it has to be: in a container `/proc/sys` may be read-only and set up by somebody else.
    if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
        return Ok(false);
    }
    fs::write(&path, "1").map_err(|source| NetworkError::Sysctl { path, value: "1", source })?;
    Ok(true)
}

/// An error about a link, for `map_err`.
pub(crate) fn link_error(action: &'static str, interface: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let interface = interface.to_owned();
    move |source| NetworkError::Link { action, interface, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_names_and_addresses_are_checked() {
        for good in ["hostd0", "br-a.1", "a"] {
            check_name(good).unwrap();
        }
        for bad in ["", "a b", "x\"drop", "a/b", "sixteencharacter", "..", "-x", "brücke"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        check_bip(Ipv4Addr::new(10, 0, 0, 1), 24).unwrap();
        for (ip, len) in [
            ([10, 0, 0, 0], 24),
            ([10, 0, 0, 255], 24),
            ([10, 0, 0, 1], 31),
            ([10, 0, 0, 1], 40),
            ([127, 0, 0, 1], 8),
        ] {
            assert!(check_bip(ip.into(), len).is_err(), "{ip:?}/{len}");
        }
    }
}
