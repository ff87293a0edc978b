//! The shim: a container's parent, one small single-threaded process per container.
//!
//! hostd re-executes itself as the shim and hands it a [`Create`] over standard input. The shim clones the
//! container's first process, owns its stdio, its log and its exit status, and serves requests on
//! `shim.sock` (see [`crate::wire`]). It outlives hostd, and ends by itself once the container has ended and
//! every client has all of the output; what is left then is `exit.json`. A container that was never
//! started ends with the connection to the hostd that created it.

mod call;
mod clients;
mod create;
mod log;
mod maker;
mod other;
pub(crate) mod pins;
mod rest;
mod server;
mod streams;

use crate::wire::{self, Create, Reply};
use std::os::unix::net::UnixStream;
use std::process::exit;

/// Becomes the shim; never returns.
pub(crate) fn main() -> ! {
    match run() {
        Ok(()) => exit(0),
        Err(error) => {
            eprintln!("hostd shim: {error}");
            exit(1)
        }
    }
}

fn run() -> std::io::Result<()> {
    // Before anything is open: whatever hostd's own parent may have leaked must not live on here.
    hostd_sys::fork::close_inherited(3)?;
    let mut owner = UnixStream::from(hostd_sys::fork::take_stdin()?);
    detach()?;
    let Some((request, seccomp, fds)) = wire::read_with_fds::<Create>(&mut owner)? else { return Ok(()) };
    match create::create(request, seccomp, fds) {
        Ok(shim) => {
            let frame = wire::encode(&Reply::Created { pid: shim.pid() }, &[])?;
            // When hostd is gone meanwhile, the server notices by itself.
            let _ = std::io::Write::write_all(&mut owner, &frame);
            hostd_sys::fork::trim_heap();
            shim.serve(owner)
        }
        Err(failure) => {
            let frame = wire::encode(&Reply::Failed(failure), &[])?;
            std::io::Write::write_all(&mut owner, &frame)
        }
    }
}

/// Makes this process independent of hostd's session, signals and death, and of what a container may do to it.
fn detach() -> std::io::Result<()> {
    hostd_sys::fork::ignore_signals(&[
        libc::SIGPIPE,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGTSTP,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ]);
    // It fails for a group leader, which std's spawn does not make us.
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::thread::set_name(c"hostd-shim")?;
    // Without CAP_SYS_RESOURCE the score stays; the shim is small enough not to be chosen.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    Ok(())
}
