//! The courier: a fork of the shim that writes a log and may be kept waiting.
//!
//! ```text
//! shim ──▶ courier   u8 stream, u8 gap, 2 zeros, u32 length, u64 time (little-endian), what was printed
//! courier ──▶ shim   once: 0 when it is connected, or why it is not
//! ```
//! It ends at end of file, when it has passed on what it had; with the shim, that is, however that ends. One that dies
//! before that is replaced: what it had taken and not passed on is lost, and the shim's own log says so.

use super::lines::Lines;
use super::{Sink, Target};
use crate::wire::{self, Attempt, Doing, Failure};
use hostd_sys::fork::{Cloned, SingleThreaded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long an ended container's courier may take to pass on what it has; Docker's patience.
const CLOSING: Duration = Duration::from_secs(10);
/// What is waited before another courier takes the place of one that died young: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// One that has lived for that long is replaced at once.
const GOOD_LIFE: Duration = Duration::from_secs(10);

const HEAD: usize = 16;

/// The shim's end.
#[derive(Debug)]
pub(super) struct Courier {
    target: Target,
    proof: SingleThreaded,
    /// The process; `None` when the last one has died and the next is not there yet.
    worker: Option<Worker>,
    /// When the last one was started, and what is waited before the next.
    since: Instant,
    pause: Duration,
    next: Option<Instant>,
    /// What it has not taken yet, from `taken` on; a record is kept whole until it has taken all of it.
    queue: Vec<u8>,
    taken: usize,
    /// Most that is kept for it (`mode=non-blocking`); `None`: the container waits.
    limit: Option<usize>,
    /// Whether something was dropped since the last that was kept.
    gap: bool,
}

impl Courier {
    /// Forks it, and waits until it is connected to its target.
    pub(super) fn start(proof: SingleThreaded, limit: Option<u64>, target: Target) -> Attempt<Self> {
        let worker = Worker::start(proof, &target, true)?;
        let limit = limit.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(Self {
            target,
            proof,
            worker: Some(worker),
            since: Instant::now(),
            pause: PAUSE.0,
            next: None,
            queue: Vec::new(),
            taken: 0,
            limit,
            gap: false,
        })
    }

    /// Sends it on, or keeps it, or drops it.
    pub(super) fn take(&mut self, stream: u8, data: &[u8], time: u64) {
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
        self.worker.as_ref().filter(|_| !self.queue.is_empty()).map(|worker| worker.socket.as_fd())
    }

    pub(super) fn flush(&mut self) {
        let Some(worker) = &self.worker else { return };
        match rustix::io::write(&worker.socket, &self.queue[self.taken..]) {
            Ok(len) => self.taken += len,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => self.lost(&error.into()),
        }
        if self.taken == self.queue.len() {
            (self.queue, self.taken) = (Vec::new(), 0);
        } else if self.taken > self.queue.len() / 2 {
            self.forget_taken();
        }
    }

    /// Drops the records that were taken whole.
    fn forget_taken(&mut self) {
        let mut whole = 0;
        while let Some([a, b, c, d]) = self.queue.get(whole + 4..whole + 8) {
            let end = whole + HEAD + u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            if end > self.taken {
                break;
            }
            whole = end;
        }
        self.queue.drain(..whole);
        self.taken -= whole;
    }

    /// It has died. What it had taken and not passed on is lost; the next one gets all that comes behind.
    fn lost(&mut self, error: &io::Error) {
        eprintln!(
            "hostd shim: the log's courier is gone, and some of the log may be: {error}; starting another"
        );
        self.worker = None;
        self.forget_taken();
        self.taken = 0;
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= GOOD_LIFE {
            self.pause = PAUSE.0;
            self.next = Some(now);
        } else {
            self.next = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
    }

    /// When the next one is to be started, where there is none.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Starts the next one if it is time.
    pub(super) fn look_after(&mut self, now: Instant) {
        if self.next.is_none_or(|at| now < at) {
            return;
        }
        match Worker::start(self.proof, &self.target, false) {
            Ok(worker) => (self.worker, self.since, self.next) = (Some(worker), now, None),
            Err(failure) => {
                eprintln!("hostd shim: cannot start another courier for the log: {}", failure.message);
                self.next = Some(now + self.pause);
                self.pause = (self.pause * 2).min(PAUSE.1);
            }
        }
    }

    /// Lets it finish, and kills it when it does not in time.
    pub(super) fn finish(mut self) {
        // A second one gets what a first leaves that dies over it.
        for _ in 0..2 {
            if self.worker.is_none() && !self.queue.is_empty() {
                let now = Instant::now();
                self.next = Some(now);
                self.look_after(now);
            }
            let Some(worker) = self.worker.take() else { break };
            match worker.finish(&self.queue[self.taken..]) {
                Ok(()) => return,
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.lost(&error),
                Err(error) => {
                    eprintln!("hostd shim: the log's courier does not end: some of the log is lost: {error}");
                    return;
                }
            }
        }
        if !self.queue.is_empty() {
            eprintln!("hostd shim: the log has no courier: some of it is lost");
        }
    }
}

/// The process, and the socket to it.
#[derive(Debug)]
struct Worker {
    socket: UnixStream,
    pidfd: OwnedFd,
}

impl Worker {
    /// Forks it. The `first` one says whether its target can be reached; later ones go on trying.
    fn start(proof: SingleThreaded, target: &Target, first: bool) -> Attempt<Self> {
        let doing = || "start the log's courier".to_owned();
        let (ours, theirs) = UnixStream::pair().doing(doing)?;
        let pidfd = match hostd_sys::fork::clone_process(proof, 0, None).doing(doing)? {
            Cloned::Parent { pidfd, .. } => pidfd,
            Cloned::Child => {
                if hostd_sys::fork::close_all_but(&[theirs.as_fd()]).is_err() {
                    hostd_sys::fork::exit_now(1);
                }
                run(theirs, || target.open(first, proof))
            }
        };
        drop(theirs);
        let mut answer = Vec::new();
        let mut byte = [0];
        let got = (&ours).read(&mut byte).doing(doing)?;
        if got == 0 || byte != [0] {
            answer.extend_from_slice(&byte[..got]);
            (&ours).read_to_end(&mut answer).doing(doing)?;
            return Err(serde_json::from_slice(&answer)
                .unwrap_or_else(|_| Failure::new("the log's courier ended while it was started")));
        }
        ours.set_nonblocking(true).doing(doing)?;
        Ok(Self { socket: ours, pidfd })
    }

    /// Gives it the rest and waits for its end; kills it when that does not come in time.
    fn finish(self, rest: &[u8]) -> io::Result<()> {
        let sent = self
            .socket
            .set_nonblocking(false)
            .and_then(|()| self.socket.set_write_timeout(Some(CLOSING)))
            .and_then(|()| (&self.socket).write_all(rest))
            .and_then(|()| self.socket.shutdown(Shutdown::Write));
        let mut ended = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: CLOSING.as_secs() as i64, tv_nsec: 0 };
        let in_time = |()| match poll(&mut ended, Some(&limit)) {
            Ok(ready) if ready > 0 => Ok(()),
            _ => Err(ErrorKind::TimedOut.into()),
        };
        sent.and_then(in_time).inspect_err(|_| {
            let _ = hostd_sys::fork::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        })
    }
}

/// Is the courier.
fn run(mut from: UnixStream, connect: impl FnOnce() -> Attempt<Box<dyn Sink>>) -> ! {
    // Without it the process only has another name.
    let _ = rustix::thread::set_name(c"hostd-log");
    let done = match connect() {
        Ok(sink) => from.write_all(&[0]).and_then(|()| carry(&mut from, sink)),
        Err(failure) => {
            serde_json::to_vec(&failure).map_err(io::Error::from).and_then(|text| from.write_all(&text))
        }
    };
    if let Err(error) = &done {
        eprintln!("hostd shim: the log's courier: {}", wire::chain(error));
    }
    hostd_sys::fork::exit_now(i32::from(done.is_err()))
}

/// Passes on what comes until end of file.
fn carry(from: &mut UnixStream, mut sink: Box<dyn Sink>) -> io::Result<()> {
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
