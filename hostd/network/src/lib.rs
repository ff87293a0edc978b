//! Bridges, endpoints, address management, port publishing.
//!
//! A *network* is a bridge with a subnet; for now there is one, `bridge`. An *endpoint* is a container's connection to
//! it: a veth pair, one end a port of the bridge, the other the container's `eth0` with an address of the subnet, and
//! the ports that it *publishes* on the host. A container's *netns* is made here, empty, and belongs to the caller.
//!
//! [`Networks::connect`] takes an address ([`ipam`]) and the host's ports ([`ports`]), then makes the links ([`links`],
//! over [`rtnl`]) and tells the [`firewall`], side by side; last come the [`proxy`] tasks that serve what the firewall
//! does not translate. Without ports the firewall is not touched: its fixed rules cover every container.
//! [`Networks::disconnect`] undoes the same in reverse.
//!
//! Where containers are kept apart, each is an isolated port of the bridge, but for those with a link to one another
//! ([`linked`]), which the firewall keeps apart from all else.
//!
//! Links and firewall rules are the kernel's and outlive the daemon. [`Networks::open`] is told which endpoints still
//! have a container, takes their addresses and ports again, and clears what is left of others. Ours is a veth with our link
//! group on our bridge, and the tables `ip hostd` and `bridge hostd`; nothing else on the host is looked at twice. Two things are
//! changed host-wide: `net.ipv4.ip_forward` is turned on (whether it was off is in the [`state`] record), and
//! `route_localnet` on the bridge, with a rule that keeps containers from the host's loopback addresses.

mod bridge;
mod error;
mod etc;
mod firewall;
mod ipam;
mod linked;
mod links;
mod netns;
mod networks;
mod nft;
mod ports;
mod proxy;
mod rtnl;
mod rules;
mod state;

pub use error::{NetworkError, NetworkErrorKind};
pub use etc::{hosts_file, move_host, resolv_conf};
pub use netns::{new_netns, set_up_netns};
pub use networks::Networks;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

/// How the host's networks are set up.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the default bridge (`--bridge`); `hostd0` unless told.
    pub bridge: String,
    /// Address and prefix length of the default bridge (`--bip`); `None` takes the first free of Docker's pools.
    pub bip: Option<(Ipv4Addr, u8)>,
    /// Whether containers reach each other on the default bridge (`--icc`).
    pub icc: bool,
    /// Where the bridge's address is remembered.
    pub state_dir: PathBuf,
}

/// The default network: what it was set up with.
#[derive(Clone, Debug)]
pub struct DefaultNetwork {
    /// 64 hex digits.
    pub id: String,
    /// Name of the bridge.
    pub bridge: String,
    /// First address of its subnet.
    pub subnet: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix_len: u8,
    /// Address of the bridge.
    pub gateway: Ipv4Addr,
    /// Whether containers reach each other on it.
    pub icc: bool,
    /// When its settings were last changed.
    pub created: std::time::SystemTime,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, where the kernel has it.
    Sctp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port that a container wants published.
#[derive(Clone, Debug)]
pub struct PortRequest {
    /// Port inside the container.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// `None`: every address, v4 and v6.
    pub host_ip: Option<IpAddr>,
    /// `None`: a free one of the ephemeral range; a range takes its first free one.
    pub host_ports: Option<RangeInclusive<u16>>,
}

/// A connection to be made.
#[derive(Debug)]
pub struct EndpointRequest<'a> {
    /// Whose it will be.
    pub container_id: String,
    /// `bridge` for now.
    pub network: String,
    /// The container's network namespace.
    pub netns: BorrowedFd<'a>,
    /// Ports to publish.
    pub ports: Vec<PortRequest>,
    /// A fixed address; `None` takes the next free one.
    pub ip: Option<Ipv4Addr>,
    /// `02:42:…`; `None` derives one from the address.
    pub mac: Option<String>,
    /// Which others it is to reach although containers are kept apart.
    pub links: Vec<EndpointLink>,
}

/// What a container may call of another one, whenever both are connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointLink {
    /// The other one.
    pub container_id: String,
    /// Its ports.
    pub ports: Vec<(Protocol, u16)>,
}

/// A container's connection to a network. The engine keeps it on record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hex digits.
    pub endpoint_id: String,
    /// Whose it is.
    pub container_id: String,
    /// Name of the network.
    pub network: String,
    /// ID of the network: 64 hex digits.
    pub network_id: String,
    /// The host's end of the veth pair.
    pub host_interface: String,
    /// The container's address.
    pub ip: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix_len: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// The container's MAC address.
    pub mac: String,
    /// Published ports; one that was asked for on every address is here once for v4 and once for v6.
    pub ports: Vec<PublishedPort>,
    /// As asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<EndpointLink>,
}

/// A port of the host that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Port inside the container.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Address of the host; unspecified: all of that family.
    pub host_ip: IpAddr,
    /// Port of the host.
    pub host_port: u16,
}
