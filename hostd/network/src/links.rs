//! Links, addresses and routes: the bridge, and the veth pair between it and a container.

use crate::rtnl::Rtnl;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Marks the host's ends of our veths: nothing else on a host has this link group ("hstd").
pub(crate) const OUR_GROUP: u32 = 0x6873_7464;

/// What a container's interface is called inside it.
pub(crate) const CONTAINER_INTERFACE: &str = "eth0";

pub(crate) type Mac = [u8; 6];

/// A link as far as we look at it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) group: u32,
    pub(crate) controller: Option<u32>,
    pub(crate) is_bridge: bool,
}

/// A veth pair to be: one end a port of the bridge, the other a container's `eth0`.
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) bridge: &'a Link,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) mac: Mac,
    /// Keeps this port from the other ports of the bridge (`--icc=false`).
    pub(crate) isolated: bool,
}

impl Veth<'_> {
    /// Makes the pair, the host's end up, the peer inside the container from birth: moving it there later would cost
    /// the kernel more than ten milliseconds. (The peer cannot be up from birth: it is born first, without a peer.)
    pub(crate) fn create(&self, host: &mut Rtnl) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(CONTAINER_INTERFACE.into()),
            LinkAttribute::Address(self.mac.to_vec()),
            LinkAttribute::Mtu(self.bridge.mtu),
            LinkAttribute::NetNsFd(self.netns.as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        set_up(&mut link);
        link.attributes = vec![
            LinkAttribute::IfName(self.host_name.into()),
            LinkAttribute::Mtu(self.bridge.mtu),
            LinkAttribute::Group(OUR_GROUP),
            LinkAttribute::Controller(self.bridge.index),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        host.act(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)?;
        self.configure_port(host).inspect_err(|_| {
            let _ = delete_link(host, self.host_name);
        })
    }

    fn configure_port(&self, host: &mut Rtnl) -> io::Result<()> {
        // Hairpin: where br_netfilter is loaded, a container that calls its own published port is answered through
        // the port that it called from.
        let mut settings = vec![InfoBridgePort::HairpinMode(true)];
        if self.isolated {
            settings.push(InfoBridgePort::Isolated(true));
        }
        set_port(host, self.host_name, settings)
    }
}

/// Keeps the port `name` of a bridge from other such ports, or no longer; one that is gone is neither.
pub(crate) fn isolate(host: &mut Rtnl, name: &str, isolated: bool) -> io::Result<()> {
    match set_port(host, name, vec![InfoBridgePort::Isolated(isolated)]) {
        Err(e) if is_no_device(&e) => Ok(()),
        other => other,
    }
}

fn set_port(host: &mut Rtnl, name: &str, settings: Vec<InfoBridgePort>) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)),
        ]),
    ];
    host.act(RouteNetlinkMessage::NewLink(link), 0)
}

/// Sets a container's `eth0` up and gives it its address and the default route.
pub(crate) fn configure_container(
    netns: BorrowedFd<'_>,
    ip: Ipv4Addr,
    prefix_len: u8,
    gateway: Ipv4Addr,
) -> io::Result<()> {
    let mut rtnl = Rtnl::open_in(netns)?;
    let link = link_by_name(&mut rtnl, CONTAINER_INTERFACE)?.ok_or(Errno::NODEV)?;
    add_address(&mut rtnl, link.index, ip, prefix_len)?;
    link_up(&mut rtnl, link.index)?;
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes =
        vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway)), RouteAttribute::Oif(link.index)];
    rtnl.act(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
}

/// Sets `lo` up in a namespace that was just made.
pub(crate) fn loopback_up(rtnl: &mut Rtnl) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = 1; // the first link of every namespace
    set_up(&mut link);
    rtnl.act(RouteNetlinkMessage::SetLink(link), 0)
}

/// Makes the bridge `name`, up, with a MAC address of its own: one that is not set follows the lowest of the ports
/// and would change under the containers' ARP caches.
pub(crate) fn create_bridge(rtnl: &mut Rtnl, name: &str, mac: Mac) -> io::Result<()> {
    let mut link = LinkMessage::default();
    set_up(&mut link);
    link.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    rtnl.act(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
}

/// Sets a link that is there up.
pub(crate) fn link_up(rtnl: &mut Rtnl, index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    set_up(&mut link);
    rtnl.act(RouteNetlinkMessage::SetLink(link), 0)
}

/// Removes a link; succeeds when it is gone already.
pub(crate) fn delete_link(rtnl: &mut Rtnl, name: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.into())];
    match rtnl.act(RouteNetlinkMessage::DelLink(link), 0) {
        Err(e) if is_no_device(&e) => Ok(()),
        other => other,
    }
}

/// The link of that name, if there is one.
pub(crate) fn link_by_name(rtnl: &mut Rtnl, name: &str) -> io::Result<Option<Link>> {
    let mut question = LinkMessage::default();
    question.attributes = vec![LinkAttribute::IfName(name.into())];
    match rtnl.get(RouteNetlinkMessage::GetLink(question)) {
        Ok(answers) => Ok(answers.into_iter().find_map(read_link)),
        Err(e) if is_no_device(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Host's ends of veths that we made on the bridge `bridge`, whoever's they are now.
pub(crate) fn our_veths(rtnl: &mut Rtnl, bridge: u32) -> io::Result<Vec<Link>> {
    let links = rtnl.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let ours = |link: &Link| link.group == OUR_GROUP && link.controller == Some(bridge);
    Ok(links.into_iter().filter_map(read_link).filter(ours).collect())
}

/// Adds an IPv4 address, with its broadcast address; one that is there already is fine.
pub(crate) fn add_address(rtnl: &mut Rtnl, index: u32, ip: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
    let mut address = address_message(index, ip, prefix_len);
    let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
    address.attributes.push(AddressAttribute::Broadcast(Ipv4Addr::from_bits(ip.to_bits() | host_bits)));
    rtnl.act(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Removes an IPv4 address.
pub(crate) fn delete_address(rtnl: &mut Rtnl, index: u32, ip: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
    rtnl.act(RouteNetlinkMessage::DelAddress(address_message(index, ip, prefix_len)), 0)
}

/// The IPv4 addresses of the link `index`.
pub(crate) fn addresses(rtnl: &mut Rtnl, index: u32) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let all = all_addresses(rtnl)?;
    Ok(all.into_iter().filter(|(of, ..)| *of == index).map(|(_, ip, prefix_len)| (ip, prefix_len)).collect())
}

/// Every IPv4 subnet that this host has an address in or a route to, other than through the link `except`.
pub(crate) fn subnets_in_use(rtnl: &mut Rtnl, except: Option<u32>) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let mut subnets: Vec<_> = all_addresses(rtnl)?
        .into_iter()
        .filter(|(index, ..)| Some(*index) != except)
        .map(|(_, ip, prefix_len)| (ip, prefix_len))
        .collect();
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    for answer in rtnl.dump(RouteNetlinkMessage::GetRoute(question))? {
        let RouteNetlinkMessage::NewRoute(route) = answer else { continue };
        let mut destination = None;
        let mut through = None;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(*ip),
                RouteAttribute::Oif(index) => through = Some(*index),
                _ => {}
            }
        }
        // A default route overlaps everything and is in nobody's way.
        let prefix_len = route.header.destination_prefix_length;
        if let Some(ip) = destination
            && prefix_len > 0
            && (through.is_none() || through != except)
        {
            subnets.push((ip, prefix_len));
        }
    }
    Ok(subnets)
}

fn all_addresses(rtnl: &mut Rtnl) -> io::Result<Vec<(u32, Ipv4Addr, u8)>> {
    let mut question = AddressMessage::default();
    question.header.family = AddressFamily::Inet;
    let mut found = Vec::new();
    for answer in rtnl.dump(RouteNetlinkMessage::GetAddress(question))? {
        let RouteNetlinkMessage::NewAddress(address) = answer else { continue };
        let local = address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
            _ => None,
        });
        if let Some(ip) = local {
            found.push((address.header.index, ip, address.header.prefix_len));
        }
    }
    Ok(found)
}

fn address_message(index: u32, ip: Ipv4Addr, prefix_len: u8) -> AddressMessage {
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = prefix_len;
    address.header.index = index;
    address.attributes = vec![AddressAttribute::Local(ip.into()), AddressAttribute::Address(ip.into())];
    address
}

fn read_link(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 1500,
        group: 0,
        controller: None,
        is_bridge: false,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)));
            }
            _ => {}
        }
    }
    Some(link)
}

fn set_up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}
