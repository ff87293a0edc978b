//! A client that is attached to a process's stdio.
//!
//! It is sent what the process prints, and a socket holds [`SOCKET`] of it. One that takes longer than [`PATIENCE`] over
//! a chunk is *behind*: from then on what it has not taken goes to a file that has no name, on the disk of the
//! container's logs, so that it costs no memory and the process goes on. Once that file holds [`LONGEST`],
//! - one that was there before the process started (`docker run`, `docker exec`) holds the process back, like the
//!   reader of a pipe, until it takes something again, and is disconnected when it takes nothing for [`STALLED`];
//! - one that came later (`docker attach`) is disconnected at once.
//!
//! Once the process has ended, what there is stays for a client until it has it all, or takes nothing for [`UNREAD`].

use crate::Streams;
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a process waits for a client to take a chunk.
const PATIENCE: Duration = Duration::from_secs(1);
/// After how long a client that takes nothing is disconnected, where nothing more is kept for it.
const STALLED: Duration = Duration::from_secs(300);
/// After how long a client that takes nothing is disconnected once the process has ended. Someone may page through the
/// output, and the sockets on the way hold a hundred pages of it.
const UNREAD: Duration = Duration::from_secs(3600);
/// Most that is kept of what a client has not taken.
const LONGEST: u64 = 1 << 30;
/// What the kernel is asked to hold for a client.
const SOCKET: usize = 1 << 20;
/// Read from a file of what is kept at once.
const REFILL: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: UnixStream,
    pub(super) wants: Streams,
    /// Whether it may hold the process back.
    owner: bool,
    /// What it was sent and has not taken, from `taken` on; what is in `kept` comes behind it.
    queue: Vec<u8>,
    taken: usize,
    kept: Option<Kept>,
    /// When it last took something, or had nothing to take.
    progress: Instant,
    /// Since when it is at this chunk.
    since: Instant,
    pub(super) input_open: bool,
    /// Whether it was told that there is no more output; it may still write.
    pub(super) output_ended: bool,
    pub(super) gone: bool,
}

/// Output that waits in a file.
#[derive(Debug)]
struct Kept {
    file: File,
    read: u64,
    written: u64,
}

impl Kept {
    fn begin(dir: &Path) -> io::Result<Self> {
        let path = dir.join("behind.tmp");
        let open = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = open().or_else(|_| {
            // What a killed shim left.
            std::fs::remove_file(&path)?;
            open()
        })?;
        std::fs::remove_file(path)?;
        Ok(Self { file, read: 0, written: 0 })
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.written - self.read >= LONGEST
    }

    /// The next part; empty when there is no more.
    fn take(&mut self) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.written - self.read).unwrap_or(usize::MAX);
        let mut part = vec![0; left.min(REFILL)];
        self.file.read_exact_at(&mut part, self.read)?;
        self.read += part.len() as u64;
        Ok(part)
    }
}

impl Client {
    pub(super) fn new(socket: UnixStream, wants: Streams, owner: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Where the kernel allows less, there are more system calls.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET);
        let now = Instant::now();
        Ok(Self {
            socket,
            wants,
            owner,
            queue: Vec::new(),
            taken: 0,
            kept: None,
            progress: now,
            since: now,
            input_open: true,
            output_ended: false,
            gone: false,
        })
    }

    /// Whether it has taken all that it was sent.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the process has to wait for it.
    pub(super) fn holds_back(&self) -> bool {
        !self.is_idle() && self.kept.as_ref().is_none_or(Kept::is_full)
    }

    pub(super) fn events(&self, takes_input: bool) -> PollFlags {
        let mut events = PollFlags::empty();
        if self.input_open && takes_input {
            events |= PollFlags::IN;
        }
        if !self.is_idle() {
            events |= PollFlags::OUT;
        }
        events
    }

    /// When something is to be done about a client that takes nothing, of a process that may have `ended`.
    pub(super) fn deadline(&self, ended: bool) -> Option<Instant> {
        match &self.kept {
            _ if self.is_idle() => None,
            _ if ended => Some(self.progress + UNREAD),
            None => Some(self.since + PATIENCE),
            Some(kept) if kept.is_full() => Some(self.progress + STALLED),
            Some(_) => None,
        }
    }

    /// Does what is due.
    pub(super) fn look_after(&mut self, now: Instant, ended: bool, scratch: Option<&Path>) {
        if self.deadline(ended).is_none_or(|due| now < due) {
            return;
        }
        if ended || self.kept.is_some() {
            self.gone = true;
            return;
        }
        match scratch.map(Kept::begin) {
            Some(Ok(kept)) => self.kept = Some(kept),
            Some(Err(error)) => {
                eprintln!("hostd shim: cannot keep what a client has not taken: {error}");
                self.gone = true;
            }
            None => self.gone = true,
        }
    }

    /// Sends what the socket takes now, and keeps the rest.
    pub(super) fn send(&mut self, stream: u8, data: &[u8], raw: bool) {
        let head = {
            let [a, b, c, d] = (data.len() as u32).to_be_bytes();
            [stream, 0, 0, 0, a, b, c, d]
        };
        let head: &[u8] = if raw { &[] } else { &head };
        if self.kept.is_some() && !self.is_idle() {
            return self.keep(head, data);
        }
        let mut sent = 0;
        if self.is_idle() {
            self.since = Instant::now();
            self.progress = self.since;
            match rustix::io::writev(&self.socket, &[IoSlice::new(head), IoSlice::new(data)]) {
                Ok(len) => sent = len,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.gone = true,
            }
        }
        if !self.gone && sent < head.len() + data.len() {
            self.queue.extend_from_slice(&head[sent.min(head.len())..]);
            self.queue.extend_from_slice(&data[sent.saturating_sub(head.len())..]);
        }
    }

    fn keep(&mut self, head: &[u8], data: &[u8]) {
        let Some(kept) = &mut self.kept else { return };
        if kept.add(head).and_then(|()| kept.add(data)).is_err() {
            self.gone = true;
        }
        self.gone |= kept.is_full() && !self.owner;
    }

    /// Sends on what it takes now.
    pub(super) fn flush(&mut self) {
        while !self.gone && !self.is_idle() {
            match rustix::io::write(self.socket.as_fd(), &self.queue[self.taken..]) {
                Ok(len) => {
                    self.taken += len;
                    self.progress = Instant::now();
                }
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => self.gone = true,
            }
            if self.taken == self.queue.len() {
                self.refill();
            }
        }
    }

    fn refill(&mut self) {
        (self.queue, self.taken, self.since) = (Vec::new(), 0, self.progress);
        let Some(kept) = &mut self.kept else { return };
        match kept.take() {
            Ok(part) if part.is_empty() => self.kept = None,
            Ok(part) => self.queue = part,
            Err(_) => self.gone = true,
        }
    }

    /// Lets it read end of file; whether it is still there to write to the process.
    pub(super) fn end_output(&mut self, takes_input: bool) -> bool {
        if !(takes_input && self.wants.stdin && self.input_open) {
            return false;
        }
        if !self.output_ended {
            self.output_ended = true;
            self.gone = self.socket.shutdown(std::net::Shutdown::Write).is_err();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_a_slow_client_does_not_take_is_kept_in_a_file_and_comes_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let wants = Streams { stdin: false, stdout: true, stderr: true };
        let mut client = Client::new(ours, wants, false).unwrap();
        let mut expected = Vec::new();
        for n in 0..200_u32 {
            let data: Vec<u8> = n.to_be_bytes().repeat(4096);
            client.send(1, &data, true);
            expected.extend_from_slice(&data);
            if client.holds_back() {
                client.look_after(Instant::now() + PATIENCE * 2, false, Some(dir.path()));
            }
            assert!(!client.holds_back() && !client.gone, "{n}");
        }
        assert!(client.queue.len() <= 16 << 10, "the rest waits in the file");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "which has no name");
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            got
        });
        while !client.is_idle() {
            client.flush();
            std::thread::yield_now();
        }
        assert!(client.kept.is_none());
        drop(client);
        assert!(reader.join().unwrap() == expected);
    }

    #[test]
    fn one_that_cannot_be_kept_for_is_disconnected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let wants = Streams { stdin: false, stdout: true, stderr: true };
        let mut client = Client::new(ours, wants, true).unwrap();
        while client.is_idle() {
            client.send(1, &[0; 1 << 16], false);
        }
        assert!(client.holds_back() && !client.gone);
        client.look_after(Instant::now(), false, None);
        assert!(!client.gone, "it may take its time over a chunk");
        client.look_after(Instant::now() + PATIENCE, false, None);
        assert!(client.gone);
    }

    #[test]
    fn what_an_ended_process_left_waits_for_its_client_but_not_for_ever() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let wants = Streams { stdin: false, stdout: true, stderr: true };
        let mut client = Client::new(ours, wants, true).unwrap();
        while client.is_idle() {
            client.send(1, &[0; 1 << 16], false);
        }
        client.look_after(Instant::now() + UNREAD / 2, true, None);
        assert!(!client.gone);
        client.look_after(Instant::now() + UNREAD, true, None);
        assert!(client.gone);
    }
}
