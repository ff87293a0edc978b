//! Published ports as the host's other programs see them.
//!
//! Every published port is held by a socket of ours, so that nobody else can take it and a port that is taken already
//! is noticed. Few IPv4 packets get to that socket (the firewall sends them to the container before); what does
//! arrive, such as all of IPv6, goes through the proxy.

use crate::error::NetworkError;
use crate::{PortRequest, Protocol, PublishedPort};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

/// Where ports come from that nobody chose.
const EPHEMERAL: RangeInclusive<u16> = 49153..=65535;

/// A published port and the socket that holds it.
#[derive(Debug)]
pub(crate) struct HeldPort {
    pub(crate) published: PublishedPort,
    pub(crate) socket: OwnedFd,
}

/// Takes host ports.
#[derive(Debug)]
pub(crate) struct PortHolder {
    /// The ephemeral port to try next: in turn, so that a port is not used again at once.
    next: u16,
}

impl PortHolder {
    pub(crate) fn new() -> Self {
        Self { next: *EPHEMERAL.start() }
    }

    /// Takes what `requests` ask for; `taken` are the ports that other containers publish.
    pub(crate) fn hold(
        &mut self,
        requests: &[PortRequest],
        taken: &[PublishedPort],
    ) -> Result<Vec<HeldPort>, NetworkError> {
        let mut held: Vec<HeldPort> = Vec::new();
        for request in requests {
            let more = self.hold_one(request, &|ip, port, protocol| {
                let others = taken.iter().chain(held.iter().map(|held| &held.published));
                clashes(others, ip, port, protocol)
            })?;
            held.extend(more);
        }
        Ok(held)
    }

    fn hold_one(&mut self, request: &PortRequest, ours: Clash<'_>) -> Result<Vec<HeldPort>, NetworkError> {
        let Some(range) = request.host_ports.clone() else {
            return self.hold_ephemeral(request, ours);
        };
        let mut last_error = None;
        for port in range.clone() {
            match hold_port(request, port, ours) {
                Ok(held) => return Ok(held),
                Err(e) if range.len() > 1 && is_taken(&e) => last_error = Some(e),
                Err(e) => return Err(e),
            }
        }
        drop(last_error);
        Err(all_taken(request, range))
    }

    fn hold_ephemeral(
        &mut self,
        request: &PortRequest,
        ours: Clash<'_>,
    ) -> Result<Vec<HeldPort>, NetworkError> {
        for _ in EPHEMERAL {
            let port = self.next;
            self.next = port.checked_add(1).unwrap_or(*EPHEMERAL.start());
            match hold_port(request, port, ours) {
                Err(e) if is_taken(&e) => {}
                other => return other,
            }
        }
        Err(all_taken(request, EPHEMERAL))
    }
}

/// Whether a container of ours has that port.
type Clash<'a> = &'a dyn Fn(IpAddr, u16, Protocol) -> bool;

fn clashes<'a>(
    mut published: impl Iterator<Item = &'a PublishedPort>,
    ip: IpAddr,
    port: u16,
    protocol: Protocol,
) -> bool {
    published.any(|other| {
        let same_address = other.host_ip == ip
            || other.host_ip.is_ipv4() == ip.is_ipv4()
                && (other.host_ip.is_unspecified() || ip.is_unspecified());
        other.host_port == port && other.protocol == protocol && same_address
    })
}

fn is_taken(error: &NetworkError) -> bool {
    match error {
        NetworkError::PortTaken { .. } => true,
        NetworkError::HostPort { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
        _ => false,
    }
}

fn all_taken(request: &PortRequest, range: RangeInclusive<u16>) -> NetworkError {
    NetworkError::PortsTaken {
        host_ip: request.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        first: *range.start(),
        last: *range.end(),
        protocol: request.protocol,
    }
}

/// Takes `port` on all addresses that `request` means, or on none.
fn hold_port(request: &PortRequest, port: u16, ours: Clash<'_>) -> Result<Vec<HeldPort>, NetworkError> {
    let every: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let addresses = match &request.host_ip {
        Some(ip) => std::slice::from_ref(ip),
        None => &every[..],
    };
    let mut held = Vec::new();
    for &host_ip in addresses {
        let published = PublishedPort {
            container_port: request.container_port,
            protocol: request.protocol,
            host_ip,
            host_port: port,
        };
        if ours(host_ip, port, request.protocol) {
            return Err(NetworkError::PortTaken { host_ip, host_port: port });
        }
        match hold_published(&published) {
            Ok(socket) => held.push(HeldPort { published, socket }),
            // "Every address" on a host without IPv6 means those of IPv4; and nothing proxies SCTP.
            Err(_) if request.host_ip.is_none() && host_ip.is_ipv6() && !ipv6_available(request.protocol) => {
            }
            Err(e) => return Err(e),
        }
    }
    Ok(held)
}

fn ipv6_available(protocol: Protocol) -> bool {
    protocol != Protocol::Sctp
        && socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .is_ok_and(|socket| bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).is_ok())
}

/// The socket that holds exactly this port.
pub(crate) fn hold_published(port: &PublishedPort) -> Result<OwnedFd, NetworkError> {
    let &PublishedPort { host_ip, host_port, protocol, .. } = port;
    let family = if host_ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let failed = |e: Errno| NetworkError::HostPort { host_ip, host_port, protocol, source: e.into() };
    if protocol == Protocol::Sctp && host_ip.is_ipv6() {
        return Err(failed(Errno::PROTONOSUPPORT)); // there is no translation and no proxy for it
    }
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, number).map_err(
        |e| match e {
            Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT => {
                NetworkError::ProtocolMissing { protocol, source: e.into() }
            }
            e => failed(e),
        },
    )?;
    let take = || -> rustix::io::Result<()> {
        if host_ip.is_ipv6() {
            // Otherwise it would claim the IPv4 port as well, which has a socket of its own.
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        if protocol != Protocol::Udp {
            // Connections of ours that are still closing do not count. (For UDP the option would mean to share.)
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        bind(&socket, &SocketAddr::new(host_ip, host_port))?;
        if protocol != Protocol::Udp { listen(&socket, 128) } else { Ok(()) }
    };
    take().map_err(failed)?;
    Ok(socket)
}
