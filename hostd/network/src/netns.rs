//! Network namespaces, held by a descriptor and nothing else.

use crate::error::NetworkError;
use crate::links;
use crate::rtnl::Rtnl;
use nix::sched::{CloneFlags, unshare};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A new network namespace with `lo` up, held by the descriptor alone: it goes when the descriptor and the last
/// process in it are gone. Blocks (about 2 ms): call it from a thread that may block.
///
/// IPv6 is there on `lo` and off on interfaces that come later, as long as our networks carry none.
pub fn new_netns() -> Result<OwnedFd, NetworkError> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        set_up()?;
        Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
    })
}

/// Gets a fresh network namespace ready that was made elsewhere, as [`new_netns`] does its own. Blocks as that does.
pub fn set_up_netns(netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
    on_own_thread(|| {
        nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?;
        set_up()
    })
}

/// Does for the namespace that this thread is in what every container's needs.
fn set_up() -> io::Result<()> {
    links::loopback_up(&mut Rtnl::open()?)?;
    // Otherwise every interface joins multicast groups and probes for its link-local address. A kernel
    // without IPv6 has no such file.
    match std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::debug!("cannot turn IPv6 off for a container's interfaces: {e}");
        }
        _ => {}
    }
    Ok(())
}

/// On a thread that ends here: the namespace must not stick to a thread that others use.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes it panicked")))
    })
    .map_err(NetworkError::Netns)
}
