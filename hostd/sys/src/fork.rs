//! Processes: clone3(2), pidfds, signal dispositions, seccomp, descriptors across exec.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::fs::MetadataExt;

/// Proof that this process has a single thread, without which a forked child could do nothing but exec.
#[derive(Clone, Copy, Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Looks at `/proc/self/task`, whose link count is two more than there are threads.
    ///
    /// # Errors
    /// When there are several threads, or `/proc` cannot be read.
    pub fn verify() -> io::Result<Self> {
        match std::fs::metadata("/proc/self/task")?.st_nlink() {
            3 => Ok(Self(())),
            _ => Err(io::Error::other("the process has more than one thread")),
        }
    }
}

/// Which side of a [`clone_process`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The process that called.
    Parent {
        /// The child's pid.
        pid: i32,
        /// A descriptor of the child (close-on-exec).
        pidfd: OwnedFd,
    },
}

/// The `CLONE_NEW*` flags that [`clone_process`] knows.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWUSER;

/// Forks into new `namespaces` (`CLONE_NEW*`) and, on cgroup v2, straight into `cgroup`: clone3(2).
///
/// # Errors
/// As clone3(2); `EINVAL` for a flag that is no namespace.
pub fn clone_process(
    proof: SingleThreaded,
    namespaces: i32,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Cloned> {
    clone3(proof, namespaces, cgroup, false)
}

/// Forks: fork(2), for a process in a container, where filters know no clone3(2). `Some` is the child's pid, `None` the
/// child itself.
///
/// # Errors
/// As fork(2).
pub fn fork(_proof: SingleThreaded) -> io::Result<Option<i32>> {
    // SAFETY: the child goes on here on a copy of everything; there is one thread, so no lock is held by a thread that the
    // copy lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// As [`clone_process`], but the new process is a child of this one's parent, as this one is.
///
/// # Errors
/// As [`clone_process`].
pub fn clone_sibling(proof: SingleThreaded, namespaces: i32) -> io::Result<Cloned> {
    clone3(proof, namespaces, None, true)
}

fn clone3(
    _proof: SingleThreaded,
    namespaces: i32,
    cgroup: Option<BorrowedFd<'_>>,
    sibling: bool,
) -> io::Result<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    if namespaces & !NAMESPACES != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    if sibling {
        // It ends with the signal that this process ends with.
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child gets a copy of the address space and goes on here on a copy of
    // this stack; there is one thread, so no lock is held by a thread that the copy lacks. The kernel
    // writes a descriptor to `pidfd`, which outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match ret {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just opened it for us.
        pid => Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Sends `signal` (any number, real-time signals too): pidfd_send_signal(2).
///
/// # Errors
/// As pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no siginfo is passed; the rest are numbers.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends `signal` to `pid`: kill(2), with any signal number.
///
/// # Errors
/// As kill(2).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: only numbers are passed.
    if unsafe { libc::kill(pid, signal) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits for any signal, all of which must be blocked; its number, which may be a real-time signal's.
///
/// # Errors
/// As sigwait(3).
pub fn wait_signal() -> io::Result<i32> {
    let mut all = mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut signal = 0;
    // SAFETY: sigfillset(3) writes the whole set before sigwait(3) reads it, and both pointers are to locals that outlive
    // the calls.
    let failed = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigwait(all.as_ptr(), &mut signal)
    };
    if failed == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(failed)) }
}

/// Ignores `signals`; numbers that do not exist are passed over.
pub fn ignore_signals(signals: &[i32]) {
    for &signal in signals {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Gives every signal its default disposition and blocks none, as a new program expects.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours; signals that cannot be set are refused with EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `set` is initialised by sigemptyset before it is read; the old mask is not asked for.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ends the process at once, without atexit(3) handlers: for a forked child, to which they do not belong.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) does not return.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from `first` up that an exec left open.
///
/// Only for a process that holds none of its own yet (the start of `main`) or needs none any more: an
/// `OwnedFd` from `first` up would be left with a closed descriptor.
///
/// # Errors
/// As close_range(2).
pub fn close_inherited(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX, false)
}

/// Makes every descriptor from `first` up close-on-exec, so that the next program inherits none.
///
/// # Errors
/// As close_range(2).
pub fn cloexec_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX, true)
}

/// Installs a system call filter: `program` is an array of `sock_filter` in native byte order (seccomp(2)).
///
/// # Errors
/// `EINVAL` when it is not one; `EACCES` without `CAP_SYS_ADMIN` or no_new_privs.
pub fn load_seccomp(program: &[u8]) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    if program.is_empty() || !program.len().is_multiple_of(size_of::<libc::sock_filter>()) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut filter: Vec<libc::sock_filter> = program
        .chunks_exact(size_of::<libc::sock_filter>())
        .map(|i| libc::sock_filter {
            code: u16::from_ne_bytes([i[0], i[1]]),
            jt: i[2],
            jf: i[3],
            k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let fprog = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `fprog` points to `len` instructions that live until the kernel has copied them.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const fprog) };
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes over standard input as a descriptor of its own, leaving `/dev/null` in its place.
///
/// # Errors
/// As dup(2) and open(2).
pub fn take_stdin() -> io::Result<OwnedFd> {
    let own = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(own)
}

/// Gives back to the kernel what the allocator holds free.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Closes every descriptor from 3 up but those of `keep`.
///
/// For a fresh fork that never returns to the frames below: the `OwnedFd`s there are never used again.
///
/// # Errors
/// As close_range(2).
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if first < fd {
            close_range(first, fd - 1, false)?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Closes descriptors, or makes them close-on-exec: close_range(2), or one by one before Linux 5.11.
///
/// The callers' contracts keep I/O safety.
fn close_range(first: u32, last: u32, cloexec: bool) -> io::Result<()> {
    let flags = if cloexec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: no pointers are passed. (rustix has no such call.)
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // The flag is younger than the call.
        Some(libc::ENOSYS) => close_singly(first, last, cloexec),
        Some(libc::EINVAL) if cloexec => close_singly(first, last, cloexec),
        _ => Err(error),
    }
}

/// As [`close_range`], by the list in `/proc/self/fd`.
fn close_singly(first: u32, last: u32, cloexec: bool) -> io::Result<()> {
    let mut open: Vec<libc::c_int> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        open.extend(number.filter(|fd| (first..=last).contains(fd)).map(|fd| fd as libc::c_int));
    }
    for fd in open {
        // The list's own descriptor is closed by now, which is no failure.
        // SAFETY: only numbers are passed; see `close_range`.
        unsafe { if cloexec { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } else { libc::close(fd) } };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_made_close_on_exec_without_close_range_too() {
        let file = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let number = file.as_raw_fd() as u32;
        close_singly(number + 1, u32::MAX, true).unwrap();
        let flags = || rustix::io::fcntl_getfd(&file).unwrap();
        assert!(flags().is_empty());
        close_singly(number, number, true).unwrap();
        assert!(!flags().is_empty());
    }
}
