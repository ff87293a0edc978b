//! User namespaces: a container's root that is nobody on the host.
//!
//! The namespace comes first, since it owns all that is made inside it: a network namespace made elsewhere would let
//! the container's root configure nothing. So the engine makes user and network namespace together, connects the latter
//! to its network as ever, and the container's first process enters the former before it makes the rest.

use hostd_sys::hold::Holder;
use hostd_sys::idmap::IdMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A new user namespace with these ids, and a network namespace that it owns. Blocks for some milliseconds.
///
/// # Errors
/// The kernel has no user namespaces, has too many, or refuses the map.
pub fn new(map: &IdMap) -> io::Result<(OwnedFd, OwnedFd)> {
    let holder = Holder::start(None, libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    holder.map(map)?;
    Ok((holder.open("user")?, holder.open("net")?))
}

/// A new network namespace that the user namespace `user` owns. Blocks for some milliseconds.
///
/// # Errors
/// As [`new`].
pub fn network_in(user: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Holder::start(Some(user), libc::CLONE_NEWNET)?.open("net")
}
