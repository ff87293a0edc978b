//! What can go wrong, in the words that clients match where Docker has them.

use crate::Protocol;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Why a network could not be made, joined or left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Another container publishes that port.
    #[error("Bind for {host_ip}:{host_port} failed: port is already allocated")]
    PortTaken {
        /// Address asked for.
        host_ip: IpAddr,
        /// Port asked for.
        host_port: u16,
    },
    /// The host itself does not give the port (another process listens on it, or it has no such address).
    #[error("failed to bind host port for {host_ip}:{host_port}/{protocol}")]
    HostPort {
        /// Address asked for.
        host_ip: IpAddr,
        /// Port asked for.
        host_port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// What `bind` said.
        source: io::Error,
    },
    /// No port of the range is free.
    #[error("failed to bind host port for {host_ip}: all ports of {first}-{last}/{protocol} are allocated")]
    PortsTaken {
        /// Address asked for.
        host_ip: IpAddr,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
        /// Their protocol.
        protocol: Protocol,
    },
    /// The kernel has no support for the protocol.
    #[error("cannot publish a port over {protocol}: the kernel of this host does not have it")]
    ProtocolMissing {
        /// The protocol.
        protocol: Protocol,
        /// What `socket` said.
        source: io::Error,
    },
    /// No network has that name.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// The network is full.
    #[error("no available IPv4 addresses on this network's address pools: {0}")]
    NoFreeAddress(String),
    /// A fixed address that another container has.
    #[error("Address already in use: {0}")]
    AddressTaken(Ipv4Addr),
    /// A fixed address that is not of the network.
    #[error("invalid address {ip}: it does not belong to this network's subnet {subnet}")]
    AddressOutside {
        /// Address asked for.
        ip: Ipv4Addr,
        /// The network's.
        subnet: String,
    },
    /// Not the address of one interface.
    #[error("invalid MAC address: {0:?}")]
    InvalidMac(String),
    /// Not what the kernel takes as an interface's name.
    #[error("invalid bridge name: {0:?} (1 to 15 of [a-zA-Z0-9_.-])")]
    InvalidBridge(String),
    /// `--bip` that a bridge cannot have.
    #[error("invalid bridge address: {0}/{1} is no host address of a subnet with room for containers")]
    InvalidBip(Ipv4Addr, u8),
    /// `--bip` is another address than the bridge has, and containers use that.
    #[error(
        "bridge {bridge} has the address {has} that running containers use: stop them before changing it"
    )]
    BridgeInUse {
        /// Its name.
        bridge: String,
        /// Its address.
        has: String,
    },
    /// The name belongs to an interface of another kind.
    #[error("interface {0} is there but is no bridge: choose another name with --bridge")]
    NotABridge(String),
    /// Every pool overlaps a network of the host.
    #[error(
        "could not find an available, non-overlapping IPv4 address pool for bridge {0}: set one with --bip"
    )]
    NoFreeSubnet(String),
    /// The kernel refused a change to an interface.
    #[error("cannot {action} {interface}")]
    Link {
        /// What was being done.
        action: &'static str,
        /// To which interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No network namespace to be had.
    #[error("cannot make a network namespace")]
    Netns(#[source] io::Error),
    /// Netlink itself did not answer.
    #[error("cannot read the interfaces of this host")]
    Netlink(#[source] io::Error),
    /// A kernel setting did not take.
    #[error("cannot set {} to {value}", path.display())]
    Sysctl {
        /// Below `/proc/sys`.
        path: PathBuf,
        /// The value.
        value: &'static str,
        /// What the write said.
        source: io::Error,
    },
    /// The state file is not to be read or written.
    #[error("cannot {action} {}", path.display())]
    State {
        /// Read or write.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no `nft` on this host.
    #[error("the program nft is missing: install nftables (the package is called so on every distribution)")]
    NftMissing,
    /// `nft` did not run.
    #[error("cannot run nft")]
    NftRun(#[source] io::Error),
    /// `nft` refused the rules.
    #[error("cannot change the firewall rules: nft says: {0}")]
    Nft(String),
    /// `nft` did not end.
    #[error("cannot change the firewall rules: nft did not end within {} seconds and was killed", .0.as_secs())]
    NftTime(std::time::Duration),
    /// Containers that are kept apart are to be linked, and nothing here can let only these through.
    #[error(
        "cannot link containers that are kept apart: this kernel takes no rules for what a bridge passes (nftables, family \
         bridge): {0}"
    )]
    NoLinks(String),
    /// The kernel gave no random bytes.
    #[error("cannot make a random ID")]
    Random(#[source] io::Error),
    /// A task of ours died.
    #[error("a task of the network ended before its work was done")]
    Task(#[source] Option<tokio::task::JoinError>),
}

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkErrorKind {
    /// There is no such thing.
    NotFound,
    /// Somebody else has it.
    InUse,
    /// It was asked for in a way that cannot work.
    Invalid,
    /// The host failed.
    Internal,
}

impl NetworkError {
    /// The kind, for callers that translate.
    pub fn kind(&self) -> NetworkErrorKind {
        match self {
            Self::NoSuchNetwork(_) => NetworkErrorKind::NotFound,
            Self::PortTaken { .. }
            | Self::HostPort { .. }
            | Self::PortsTaken { .. }
            | Self::AddressTaken(_) => NetworkErrorKind::InUse,
            Self::AddressOutside { .. }
            | Self::InvalidMac(_)
            | Self::InvalidBridge(_)
            | Self::InvalidBip(..)
            | Self::ProtocolMissing { .. } => NetworkErrorKind::Invalid,
            _ => NetworkErrorKind::Internal,
        }
    }
}
