//! A process's stdio as the shim sees it: what it prints goes to the log and to every attached client, what
//! clients write goes to its stdin.
//!
//! Nothing is read from the process while a client has not taken a chunk that it was sent, for as long as `clients`
//! says, or while the log has to be waited for.
//!
//! End of file tells a client that the process has ended: it may ask for the exit status at once. So it is
//! held back until the process is reaped; but for no longer than [`HOLD`] where it is not about to end, as a
//! process may close its outputs and go on.

use super::clients::Client;
use super::log::Logger;
use crate::Streams;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the end of all output is kept from clients while the process has not ended.
const HOLD: Duration = Duration::from_millis(100);

/// Most that is read from a process at once; also what a pipe to it holds.
pub(super) const CHUNK: usize = 256 << 10;

/// One process's streams.
#[derive(Debug, Default)]
pub(super) struct ProcessStreams {
    /// stdout and stderr; with a terminal its master is the first.
    outputs: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
    pub(super) terminal: bool,
    /// Close stdin when a client that may write leaves or ends its half.
    pub(super) stdin_once: bool,
    pub(super) log: Option<Logger>,
    /// Where what clients have not taken may wait.
    pub(super) scratch: Option<PathBuf>,
    clients: Vec<Client>,
    /// What is read goes through here; empty when nothing was printed for a while.
    buffer: Vec<u8>,
    /// What a client wrote and the process has not taken yet.
    unread: Vec<u8>,
    /// Close stdin once `unread` is gone.
    stdin_ends: bool,
    /// When the last output ended.
    silent: Option<Instant>,
    /// Clients come no more and what is there is the last.
    closing: bool,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Output(usize),
    Stdin,
    Client(usize),
    Log,
}

impl ProcessStreams {
    pub(super) fn pipes(stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> Self {
        Self { outputs: [stdout, stderr], stdin, ..Self::default() }
    }

    /// Streams of a process on the terminal whose master this is.
    pub(super) fn terminal(master: OwnedFd, stdin: bool) -> rustix::io::Result<Self> {
        let writer = if stdin { Some(rustix::io::fcntl_dupfd_cloexec(&master, 3)?) } else { None };
        Ok(Self { outputs: [Some(master), None], stdin: writer, terminal: true, ..Self::default() })
    }

    /// The terminal's master.
    pub(super) fn master(&self) -> Option<BorrowedFd<'_>> {
        self.outputs[0].as_ref().filter(|_| self.terminal).map(AsFd::as_fd)
    }

    /// The process's stderr, where it is a pipe.
    pub(super) fn stderr(&self) -> Option<BorrowedFd<'_>> {
        self.outputs[1].as_ref().map(AsFd::as_fd)
    }

    /// Adds a client. An `owner` may hold the process back.
    pub(super) fn attach(&mut self, socket: UnixStream, wants: Streams, owner: bool) -> std::io::Result<()> {
        self.clients.push(Client::new(socket, wants, owner)?);
        Ok(())
    }

    /// Gives back the memory that only serves a process that prints.
    pub(super) fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Whether there is nothing more to do: the outputs ended and every client has all.
    pub(super) fn is_done(&self) -> bool {
        self.outputs_ended() && self.clients.is_empty()
    }

    pub(super) fn outputs_ended(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    /// Adds what is to be waited for.
    pub(super) fn poll<'a>(&'a self, mut add: impl FnMut(PollFd<'a>, Source)) {
        let held_back =
            self.clients.iter().any(Client::holds_back) || self.log.as_ref().is_some_and(Logger::holds_back);
        if !held_back {
            for (at, output) in self.outputs.iter().enumerate() {
                if let Some(fd) = output {
                    add(PollFd::new(fd, PollFlags::IN), Source::Output(at));
                }
            }
        }
        if let Some(fd) = self.stdin.as_ref().filter(|_| !self.unread.is_empty()) {
            add(PollFd::new(fd, PollFlags::OUT), Source::Stdin);
        }
        if let Some(fd) = self.log.as_ref().and_then(Logger::waits_for) {
            add(PollFd::from_borrowed_fd(fd, PollFlags::OUT), Source::Log);
        }
        for (at, client) in self.clients.iter().enumerate() {
            add(PollFd::new(&client.socket, client.events(self.unread.is_empty())), Source::Client(at));
        }
    }

    /// When a client counts as slow, or may be told of the end of all output.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let untold = |client: &&Client| !client.output_ended && client.is_idle();
        let end = self.silent.filter(|_| self.clients.iter().any(|client| untold(&client)));
        let slow = self.clients.iter().filter_map(|client| client.deadline(self.closing));
        let log = self.log.as_ref().and_then(Logger::deadline);
        slow.chain(end.map(|since| since + HOLD)).chain(log).min()
    }

    /// Whether clients are about to be told that there is no more output.
    pub(super) fn hold_is_over(&self) -> bool {
        self.silent.is_some_and(|since| Instant::now() >= since + HOLD)
            && self.clients.iter().any(|client| !client.output_ended)
    }

    /// Keeps the end of all output from clients once more.
    pub(super) fn hold_on(&mut self) {
        self.silent = Some(Instant::now());
    }

    /// Deals with what poll(2) reported.
    pub(super) fn ready(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Output(at) => {
                self.read_output(at);
            }
            Source::Stdin => self.feed(events),
            Source::Log => {
                if let Some(log) = &mut self.log {
                    log.flush();
                }
            }
            Source::Client(at) => {
                if events.contains(PollFlags::OUT) {
                    self.clients[at].flush();
                }
                if events.contains(PollFlags::IN) {
                    self.read_client(at);
                } else if events.intersects(PollFlags::HUP | PollFlags::ERR) {
                    self.clients[at].gone = true;
                }
            }
        }
    }

    /// Drops the clients that left or stalled; the process's stdin may end with one.
    pub(super) fn sweep(&mut self) {
        let (now, closing) = (Instant::now(), self.closing);
        if let Some(log) = &mut self.log {
            log.look_after(now);
        }
        let silent = self.silent.is_some_and(|since| now >= since + HOLD);
        let takes_input = self.stdin.is_some() && !self.stdin_ends;
        let (before, mut writers) = (self.clients.len(), 0);
        let scratch = self.scratch.as_deref();
        self.clients.retain_mut(|client| {
            client.look_after(now, closing, scratch);
            let over = client.is_idle() && (closing || silent && !client.end_output(takes_input));
            let keep = !(client.gone || over);
            writers += usize::from(!keep && client.wants.stdin && client.input_open);
            keep
        });
        if before != self.clients.len() && writers > 0 {
            self.end_stdin_if_once();
        }
    }

    /// Takes everything that a dead process left in its pipes, without regard to slow clients: that is at most
    /// what a pipe holds.
    pub(super) fn drain(&mut self) {
        for at in 0..2 {
            for _ in 0..64 {
                if self.outputs[at].is_none() || !self.read_output(at) {
                    break;
                }
            }
        }
        self.stdin = None;
        self.unread = Vec::new();
    }

    /// Ends the streams: what is in the queues still goes out, then clients read end of file.
    pub(super) fn close(&mut self) {
        self.outputs = [None, None];
        self.stdin = None;
        self.closing = true;
        self.finish_log();
        self.sweep();
    }

    /// Completes the log, of a process that prints nothing more.
    pub(super) fn finish_log(&mut self) {
        if let Some(log) = self.log.take() {
            log.finish();
        }
    }

    /// Reads once; whether there may be more.
    fn read_output(&mut self, at: usize) -> bool {
        let Some(fd) = &self.outputs[at] else { return false };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK, 0);
        let more = match rustix::io::read(fd, &mut buffer[..]) {
            Ok(len) if len > 0 => {
                self.deliver(at as u8 + 1, &buffer[..len]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // End of file; or EIO: no process has the terminal open.
            _ => {
                self.end_output(at);
                false
            }
        };
        self.buffer = buffer;
        more
    }

    fn end_output(&mut self, at: usize) {
        self.outputs[at] = None;
        if self.outputs_ended() {
            self.silent = Some(Instant::now());
        }
    }

    fn deliver(&mut self, stream: u8, data: &[u8]) {
        if let Some(log) = &mut self.log {
            log.add(stream, data);
        }
        for client in &mut self.clients {
            if if stream == 2 { client.wants.stderr } else { client.wants.stdout } {
                client.send(stream, data, self.terminal);
            }
        }
    }

    fn read_client(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let mut buffer = vec![0; 32 << 10];
        match rustix::io::read(&client.socket, &mut buffer[..]) {
            Ok(0) => {
                client.input_open = false;
                if client.wants.stdin {
                    self.end_stdin_if_once();
                }
            }
            Ok(len) if client.wants.stdin && self.stdin.is_some() && !self.stdin_ends => {
                // Another's may be waiting there, of whom poll(2) has told in the same breath.
                self.unread.extend_from_slice(&buffer[..len]);
                self.feed(PollFlags::OUT);
            }
            // It may write, but nobody reads.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => client.gone = true,
        }
    }

    /// Gives the process what it is ready to take.
    fn feed(&mut self, events: PollFlags) {
        let Some(fd) = &self.stdin else { return };
        match rustix::io::write(fd, &self.unread) {
            Ok(len) => {
                self.unread.drain(..len);
            }
            Err(Errno::AGAIN | Errno::INTR) if !events.contains(PollFlags::ERR) => {}
            // It has closed its stdin.
            Err(_) => {
                self.unread.clear();
                self.stdin_ends = true;
            }
        }
        if self.unread.is_empty() {
            self.unread = Vec::new();
            if self.stdin_ends {
                self.stdin = None;
            }
        }
    }

    /// End of file on stdin where one client is all it gets. A terminal has no end of file.
    fn end_stdin_if_once(&mut self) {
        if !self.stdin_once || self.terminal {
            return;
        }
        self.stdin_ends = true;
        if self.unread.is_empty() {
            self.stdin = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_two_clients_write_at_once_reaches_the_process_whole() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
        let mut streams = ProcessStreams::pipes(Some(write), None, None);
        let wants = Streams { stdin: true, stdout: false, stderr: false };
        for (byte, len) in [(b'a', 10_000), (b'b', 5)] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&vec![byte; len]).unwrap();
            streams.attach(ours, wants, false).unwrap();
        }
        for at in 0..2 {
            streams.ready(Source::Client(at), PollFlags::IN);
        }
        let mut process = std::fs::File::from(read);
        let mut got = Vec::new();
        while !streams.unread.is_empty() {
            let mut part = [0; 4096];
            let len = process.read(&mut part).unwrap();
            got.extend_from_slice(&part[..len]);
            streams.ready(Source::Stdin, PollFlags::OUT);
        }
        drop(streams);
        process.read_to_end(&mut got).unwrap();
        assert!(got == [vec![b'a'; 10_000], vec![b'b'; 5]].concat(), "{} bytes", got.len());
    }
}
