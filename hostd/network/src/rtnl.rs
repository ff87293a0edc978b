//! A route netlink socket that asks one question at a time.
//!
//! A socket belongs for life to the network namespace that it was opened in, whichever thread uses it later: to
//! configure another namespace only the opening has to happen inside it. Every call blocks for as long as the
//! kernel works, which is well under a millisecond for all that is done here.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::io;
use std::os::fd::BorrowedFd;

/// See the module.
pub(crate) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl Rtnl {
    /// A socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// A socket in the network namespace `netns`.
    pub(crate) fn open_in(netns: BorrowedFd<'_>) -> io::Result<Self> {
        // A thread of its own, since entering a namespace cannot be undone for certain.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Self::open()
            })?;
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
        })
    }

    /// Has the kernel do `message`, with `flags` such as `NLM_F_CREATE`.
    pub(crate) fn act(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.request(message, flags | NLM_F_ACK).map(drop)
    }

    /// What the kernel answers to a question about one object.
    pub(crate) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.request(message, NLM_F_ACK)
    }

    /// All objects of the kind that `message` asks for.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.request(message, NLM_F_DUMP)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if self.read_datagram(&datagram, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Takes the messages out of one datagram; true when the answer is complete.
    fn read_datagram(&self, datagram: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let header = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let length = header.length() as usize;
            // An answer to an earlier request that failed half-way is of no interest.
            if header.sequence_number() == self.sequence {
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]).map(|m| m.payload) {
                    Ok(NetlinkPayload::Done(_)) => return Ok(true),
                    Ok(NetlinkPayload::Error(e)) if e.code.is_none() => return Ok(true),
                    Ok(NetlinkPayload::Error(e)) => return Err(e.to_io()),
                    Ok(NetlinkPayload::InnerMessage(answer)) => answers.push(answer),
                    Ok(NetlinkPayload::Overrun(_)) => {
                        return Err(io::Error::other("netlink answer overran its buffer"));
                    }
                    // Objects of a kind that the decoder does not know (a vendor's link type) are not ours.
                    Ok(_) | Err(_) => {}
                }
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(false)
    }
}
