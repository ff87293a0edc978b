//! A process that does nothing but be in new namespaces, until others have them: how a program with threads, which
//! cannot enter a user namespace itself, makes one.

use crate::idmap::IdMap;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A process in namespaces of its own; it ends when this is dropped, or with its parent.
#[derive(Debug)]
pub struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    /// Closed, it lets the process go.
    line: Option<OwnedFd>,
}

impl Holder {
    /// Starts it in new `namespaces` (`CLONE_NEW*`), made inside the user namespace `user` where one is given.
    ///
    /// # Errors
    /// As clone3(2), setns(2) and unshare(2).
    pub fn start(user: Option<BorrowedFd<'_>>, namespaces: i32) -> io::Result<Self> {
        let (line, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (user, end) = (user.map_or(-1, |fd| fd.as_raw_fd()), theirs.as_raw_fd());
        let mut pidfd: libc::c_int = -1;
        // SAFETY: all-zero is a valid clone_args. Without an exit signal nobody's handler for children hears of it.
        let mut args: libc::clone_args = unsafe { mem::zeroed() };
        args.flags = libc::CLONE_PIDFD as u64;
        args.pidfd = &raw mut pidfd as u64;
        // SAFETY: without CLONE_VM the child has its own copy of memory and goes on here on a copy of this stack. Other
        // threads of the parent may have held locks when they were left behind, so that the child may do nothing but
        // system calls: `hold` does no more. The kernel writes a descriptor to `pidfd`, which outlives the call.
        let pid = unsafe {
            match libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) {
                -1 => return Err(io::Error::last_os_error()),
                0 => hold(user, namespaces, end),
                pid => pid as i32,
            }
        };
        // SAFETY: the kernel has just opened it for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        drop(theirs);
        let holder = Self { pid, pidfd, line: Some(line) };
        holder.await_ready().map(|()| holder)
    }

    fn await_ready(&self) -> io::Result<()> {
        let mut code = [0; 4];
        let Some(line) = &self.line else { return Ok(()) };
        match rustix::io::retry_on_intr(|| rustix::io::read(line, &mut code))? {
            4 => match i32::from_ne_bytes(code) {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(code)),
            },
            _ => Err(io::Error::other("the process that makes namespaces ended early")),
        }
    }

    /// Says which ids of the host stand for those in its new user namespace.
    ///
    /// # Errors
    /// The kernel refuses the map, for instance because extents overlap.
    pub fn map(&self, map: &IdMap) -> io::Result<()> {
        fs::write(format!("/proc/{}/uid_map", self.pid), map.uid_lines())?;
        fs::write(format!("/proc/{}/gid_map", self.pid), map.gid_lines())
    }

    /// Opens one of its namespaces (`user`, `net` …), which then lives as long as the descriptor.
    ///
    /// # Errors
    /// There is no such namespace.
    pub fn open(&self, kind: &str) -> io::Result<OwnedFd> {
        File::open(format!("/proc/{}/ns/{kind}", self.pid)).map(Into::into)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.line = None;
        let _ = crate::fork::pidfd_send_signal(std::os::fd::AsFd::as_fd(&self.pidfd), libc::SIGKILL);
        // SAFETY: all-zero is a valid siginfo_t, which outlives the call; the rest are numbers. __WALL because a child
        // without exit signal is not waited for otherwise.
        unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            let flags = libc::WEXITED | libc::__WALL;
            libc::waitid(libc::P_PIDFD, self.pidfd.as_raw_fd() as libc::id_t, &raw mut info, flags);
        }
    }
}

/// What the process does: takes its place, tells the error number (0 where all is well), and waits for the line to close.
///
/// # Safety
/// For a fresh fork alone: it closes descriptors that others own.
unsafe fn hold(user: libc::c_int, namespaces: libc::c_int, line: libc::c_int) -> ! {
    // SAFETY: nothing here but system calls, on numbers and on two buffers of this frame.
    unsafe {
        let entered = user < 0 || libc::setns(user, libc::CLONE_NEWUSER) == 0;
        let failed = !entered || libc::unshare(namespaces) != 0;
        let code: i32 = if failed { *libc::__errno_location() } else { 0 };
        // What it has inherited must not be held open by it; where the kernel has no such call it is for moments.
        libc::syscall(libc::SYS_close_range, 3, line - 1, 0);
        libc::syscall(libc::SYS_close_range, line + 1, u32::MAX, 0);
        libc::write(line, (&raw const code).cast(), size_of::<i32>());
        let mut byte = 0_u8;
        libc::read(line, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::Extent;

    #[test]
    fn namespaces_outlive_the_process_that_made_them() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let extent = vec![Extent { container: 0, host: 100_000, count: 65536 }];
        let map = IdMap { uids: extent.clone(), gids: extent };
        let holder = Holder::start(None, libc::CLONE_NEWUSER | libc::CLONE_NEWNET).unwrap();
        holder.map(&map).unwrap();
        let (user, pid) = (holder.open("user").unwrap(), holder.pid);
        drop(holder);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        let inside = Holder::start(Some(std::os::fd::AsFd::as_fd(&user)), libc::CLONE_NEWNET).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/uid_map", inside.pid)).unwrap();
        assert_eq!(maps.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
        assert!(Holder::start(None, 1).is_err());
    }
}
