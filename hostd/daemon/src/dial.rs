//! `hostd dial-stdio [SOCKET]`: a connection to the daemon over stdin and stdout.
//!
//! For clients that come by SSH where its server forwards no unix sockets, or where their user may open the daemon's by
//! sudo alone. [`CONNECTED`] on stderr says that what is written from now on reaches the daemon.

use crate::Result;
use crate::config::DEFAULT_SOCKET;
use crate::failure::Failure;
use rustix::event::{PollFd, PollFlags, poll};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// The argument that asks for it.
pub(crate) const ARG: &str = "dial-stdio";
/// The line on stderr once there is a connection; berth waits for it.
const CONNECTED: &str = "hostd: connected";

/// Carries bytes both ways until the daemon has said all, or the client is gone.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let path = args.next().map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from);
    let failed = |error| Failure::new(format!("cannot connect to {}", path.display())).because(error);
    let socket = UnixStream::connect(&path).map_err(failed)?;
    let output = socket.try_clone().map_err(failed)?;
    eprintln!("{CONNECTED}");
    std::thread::spawn(move || {
        // A daemon that reads no more still has its say.
        let _ = carry(io::stdin().lock(), &socket);
        let _ = socket.shutdown(Shutdown::Write);
    });
    std::thread::spawn(|| {
        let stdout = io::stdout();
        // Asks for nothing: a reader that has gone is told of all the same.
        while poll(&mut [PollFd::new(&stdout, PollFlags::empty())], None).is_err() {}
        std::process::exit(0);
    });
    // The client may leave before the end.
    let _ = carry(output, io::stdout().lock());
    Ok(())
}

/// Copies by reads and writes. `std::io::copy` would splice(2), which keeps a unix socket, and an SSH server has those at
/// its end, locked against who writes to it for as long as it waits for something to read.
fn carry(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count]).and_then(|()| to.flush())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
