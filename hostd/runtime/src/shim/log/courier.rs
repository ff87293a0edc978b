//! The courier: a fork of the shim that writes a log and may be kept waiting.
//!
//! ```text
//! shim ──▶ courier   u8 stream, u8 gap, 2 zeros, u32 length, u64 time (little-endian), what was printed
//! courier ──▶ shim   once: 0 when it is connected, or why it is not
//! ```
//! It ends at end of file, when it has passed on what it had; with the shim, that is, however that ends.

use super::Sink;
use super::lines::Lines;
use crate::wire::{self, Attempt, Doing, Failure};
use hostd_sys::fork::{Cloned, SingleThreaded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long an ended container's courier may take to pass on what it has; Docker's patience.
const CLOSING: Duration = Duration::from_secs(10);

const HEAD: usize = 16;

/// The shim's end.
#[derive(Debug)]
pub(super) struct Courier {
    socket: UnixStream,
    pidfd: OwnedFd,
    /// What it has not taken yet, from `taken` on.
    queue: Vec<u8>,
    taken: usize,
    /// Most that is kept for it (`mode=non-blocking`); `None`: the container waits.
    limit: Option<usize>,
    /// Whether something was dropped since the last that was kept.
    gap: bool,
    gone: bool,
}

impl Courier {
    /// Forks it, and waits until it is connected to what `connect` names.
    pub(super) fn start(
        proof: SingleThreaded,
        limit: Option<u64>,
        connect: impl FnOnce() -> Attempt<Box<dyn Sink>>,
    ) -> Attempt<Self> {
        let doing = || "start the log's courier".to_owned();
        let (ours, theirs) = UnixStream::pair().doing(doing)?;
        let pidfd = match hostd_sys::fork::clone_process(proof, 0, None).doing(doing)? {
            Cloned::Parent { pidfd, .. } => pidfd,
            Cloned::Child => {
                if hostd_sys::fork::close_all_but(&[theirs.as_fd()]).is_err() {
                    hostd_sys::fork::exit_now(1);
                }
                run(theirs, connect)
            }
        };
        drop(theirs);
        let mut answer = Vec::new();
        let mut first = [0];
        let got = (&ours).read(&mut first).doing(doing)?;
        if got == 0 || first != [0] {
            answer.extend_from_slice(&first[..got]);
            (&ours).read_to_end(&mut answer).doing(doing)?;
            return Err(serde_json::from_slice(&answer)
                .unwrap_or_else(|_| Failure::new("the log's courier ended while it was started")));
        }
        ours.set_nonblocking(true).doing(doing)?;
        let limit = limit.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(Self { socket: ours, pidfd, queue: Vec::new(), taken: 0, limit, gap: false, gone: false })
    }

    /// Sends it on, or keeps it, or drops it.
    pub(super) fn take(&mut self, stream: u8, data: &[u8], time: u64) {
        if self.gone {
            return;
        }
        let waiting = self.queue.len() - self.taken;
        if self.limit.is_some_and(|limit| waiting > 0 && waiting + data.len() > limit) {
            self.gap = true;
            return;
        }
        let mut head = [0; HEAD];
        head[0] = stream;
        head[1] = u8::from(std::mem::take(&mut self.gap));
        head[4..8].copy_from_slice(&(data.len() as u32).to_le_bytes());
        head[8..].copy_from_slice(&time.to_le_bytes());
        self.queue.extend_from_slice(&head);
        self.queue.extend_from_slice(data);
        self.flush();
    }

    pub(super) fn holds_back(&self) -> bool {
        self.limit.is_none() && !self.queue.is_empty()
    }

    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        (!self.queue.is_empty()).then(|| self.socket.as_fd())
    }

    pub(super) fn flush(&mut self) {
        match rustix::io::write(&self.socket, &self.queue[self.taken..]) {
            Ok(len) => self.taken += len,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => {
                eprintln!("hostd shim: the log's courier is gone: {error}");
                self.gone = true;
                self.taken = self.queue.len();
            }
        }
        if self.taken == self.queue.len() {
            (self.queue, self.taken) = (Vec::new(), 0);
        } else if self.taken > self.queue.len() / 2 {
            self.queue.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// Lets it finish, and kills it when it does not in time.
    pub(super) fn finish(self) {
        let sent = self
            .socket
            .set_nonblocking(false)
            .and_then(|()| self.socket.set_write_timeout(Some(CLOSING)))
            .and_then(|()| (&self.socket).write_all(&self.queue[self.taken..]))
            .and_then(|()| self.socket.shutdown(Shutdown::Write));
        let mut ended = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: CLOSING.as_secs() as i64, tv_nsec: 0 };
        if sent.is_err() || !poll(&mut ended, Some(&limit)).is_ok_and(|ready| ready > 0) {
            eprintln!("hostd shim: the log's courier does not end: some of the log is lost");
            let _ = hostd_sys::fork::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

/// Is the courier.
fn run(mut from: UnixStream, connect: impl FnOnce() -> Attempt<Box<dyn Sink>>) -> ! {
    // Without it the process only has another name.
    let _ = rustix::thread::set_name(c"hostd-log");
    let done = match connect() {
        Ok(sink) => from.write_all(&[0]).and_then(|()| carry(&mut from, sink)),
        Err(failure) => {
            serde_json::to_vec(&failure).map_err(std::io::Error::from).and_then(|text| from.write_all(&text))
        }
    };
    if let Err(error) = &done {
        eprintln!("hostd shim: the log's courier: {}", wire::chain(error));
    }
    hostd_sys::fork::exit_now(i32::from(done.is_err()))
}

/// Passes on what comes until end of file.
fn carry(from: &mut UnixStream, mut sink: Box<dyn Sink>) -> std::io::Result<()> {
    let (mut lines, mut head, mut data) = (Lines::default(), [0; HEAD], Vec::new());
    // The rest of a line whose beginning was dropped is dropped too.
    let mut broken = [false; 2];
    let mut told = false;
    loop {
        if from.read(&mut head[..1])? == 0 {
            break;
        }
        from.read_exact(&mut head[1..])?;
        let [stream, gap, _, _, a, b, c, d, time @ ..] = head;
        let time = u64::from_le_bytes(time);
        data.resize(u32::from_le_bytes([a, b, c, d]) as usize, 0);
        from.read_exact(&mut data)?;
        if gap == 1 {
            for stream in [1, 2] {
                lines.break_off(stream, time, |piece| sink.piece(&piece));
            }
            broken = [true; 2];
        }
        let mut rest = &data[..];
        let broken = &mut broken[usize::from(stream == 2)];
        if *broken {
            let newline = memchr::memchr(b'\n', rest);
            rest = newline.map_or(&[], |at| &rest[at + 1..]);
            *broken = newline.is_none();
        }
        lines.feed(stream, rest, time, |piece| sink.piece(&piece));
        if let Err(error) = sink.flush()
            && !std::mem::replace(&mut told, true)
        {
            eprintln!("hostd shim: some of the log is lost: {error}");
        }
    }
    lines.finish(|piece| sink.piece(&piece));
    sink.flush()
}
