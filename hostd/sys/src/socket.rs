//! What sockets tell of their peers, and what they hold for us.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use tokio::io::ReadBuf;

/// Reads into what is free of `buffer`, and tells how many bytes; 0 at the end of file. Nothing is cleared beforehand,
/// which for a large buffer takes about as long as the read.
///
/// # Errors
/// As read(2).
pub fn read(socket: BorrowedFd<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: read(2) only writes, and initialises what it writes to; nothing is made uninitialised that was not.
    let free = unsafe { buffer.unfilled_mut() };
    let (read, _) = rustix::io::read(socket, free)?;
    let count = read.len();
    // SAFETY: these are the bytes that read(2) has written.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Ok(count)
}

/// Bytes written to a unix socket that its peer has not read yet, with what the kernel needs to keep them: 0 means that
/// all was read.
///
/// # Errors
/// It is no socket.
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ, unix(7)) writes one int to where the pointer points, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_read_fills_what_is_free_and_no_more() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"head and tail").unwrap();
        let mut memory = [std::mem::MaybeUninit::uninit(); 9];
        let mut buffer = ReadBuf::uninit(&mut memory);
        buffer.put_slice(b"> ");
        assert_eq!(read(theirs.as_fd(), &mut buffer).unwrap(), 7);
        assert_eq!(buffer.filled(), b"> head an");
        buffer.clear();
        assert_eq!(read(theirs.as_fd(), &mut buffer).unwrap(), 6);
        assert_eq!(buffer.filled(), b"d tail");
        drop(ours);
        assert_eq!(read(theirs.as_fd(), &mut buffer).unwrap(), 0);
    }

    #[test]
    fn what_a_peer_has_read_is_not_counted() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread_by_peer(ours.as_fd()).unwrap(), 0);
        ours.write_all(b"head").unwrap();
        assert!(unread_by_peer(ours.as_fd()).unwrap() > 0);
        theirs.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(unread_by_peer(ours.as_fd()).unwrap(), 0);
    }
}
