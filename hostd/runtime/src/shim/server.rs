//! The shim's loop: one poll(2) over signals, the socket, the clients and the processes' stdio.

use super::maker::Maker;
use super::pins::Pins;
use super::rest;
use super::streams::{ProcessStreams, Source};
use crate::Streams;
use crate::cgroup::Cgroup;
use crate::cgroup::oom::OomWatch;
use crate::container::{program, resize};
use crate::spec::{NsMode, TtySize};
use crate::wire::{self, Attempt, Doing, ExitRecord, Failure, KnownExec, Reply, Request};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// How long output is still read of a process that has ended while others hold its pipes open.
const GRACE: Duration = Duration::from_secs(2);
/// How long a client may take to send a request that it has begun.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nobody new is heard when there are too many already.
const DEAF: Duration = Duration::from_millis(200);
/// After how long without anything to do the memory that is free goes back to the kernel.
const IDLE: Duration = Duration::from_secs(1);
/// The exit code of a process that SIGKILL ended.
const KILLED: i32 = 128 + 9;
/// How many ended execs are remembered.
const REMEMBERED: usize = 128;

/// A process of the container that the shim started.
#[derive(Debug)]
pub(super) struct Task {
    id: String,
    /// What a daemon is told of an exec that finds the container again; empty for none.
    note: String,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) streams: ProcessStreams,
    exit: Option<ExitRecord>,
    ended: Option<Instant>,
    waiters: Vec<UnixStream>,
}

impl Task {
    pub(super) fn new(id: String, pid: i32, pidfd: OwnedFd, streams: ProcessStreams) -> Self {
        Self { id, note: String::new(), pid, pidfd, streams, exit: None, ended: None, waiters: Vec::new() }
    }

    /// Takes note of the end, and tells first the waiters, then those attached: who reads end of file may ask
    /// for the exit.
    fn tell(&mut self, record: ExitRecord) {
        self.exit = Some(record);
        for mut waiter in std::mem::take(&mut self.waiters) {
            // A waiter that left does not care.
            let _ = send(&mut waiter, &Reply::Exited(record));
        }
        if self.streams.outputs_ended() || self.streams.terminal {
            self.streams.close();
        }
    }

    /// Reads what the ended process left.
    fn drain(&mut self) {
        self.ended = Some(Instant::now());
        self.streams.drain();
    }

    /// Drops who left, and closes what others hold open for too long; when to look again.
    fn sweep(&mut self) -> Option<Instant> {
        if self.ended.is_none() && self.streams.hold_is_over() && is_exiting(self.pid) {
            self.streams.hold_on();
        }
        self.streams.sweep();
        let grace = self.ended.map(|ended| ended + GRACE).filter(|_| !self.streams.outputs_ended());
        if grace.is_some_and(|end| Instant::now() >= end) {
            self.streams.close();
            return self.streams.deadline();
        }
        if self.ended.is_some() && self.streams.outputs_ended() {
            self.streams.close();
        }
        [grace, self.streams.deadline()].into_iter().flatten().min()
    }

    /// What a daemon is told that asks for execs.
    fn known(&self) -> Option<KnownExec> {
        let (id, note) = (self.id.clone(), self.note.clone());
        (!note.is_empty()).then_some(KnownExec { id, note, pid: self.pid, exit: self.exit })
    }

    fn is_done(&self) -> bool {
        self.exit.is_some() && self.streams.is_done()
    }
}

/// The shim of one container.
#[derive(Debug)]
pub(super) struct Shim {
    container: Task,
    cgroup: Cgroup,
    maker: Box<dyn Maker>,
    execs: Vec<Task>,
    /// Whether the first process was let go on to its program.
    started: bool,
    signals: SignalFd,
    listener: UnixListener,
    connections: Vec<UnixStream>,
    /// Until when the listener is left alone.
    deaf_until: Option<Instant>,
    /// Whether processes may outlive the first one.
    shares_pids: bool,
    /// Tells of memory running out; absent where the kernel does not, and once the cgroup is to go.
    oom: Option<OomWatch>,
    /// How often that happened.
    ooms: u64,
    quit: bool,
    /// Paused: a process that is started now would freeze half made.
    frozen: bool,
    /// The last field: dropped when nobody can ask for anything any more.
    _pins: Pins,
}

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy, Debug)]
enum Token {
    Memory,
    Signals,
    Listener,
    Connection(usize),
    Waiter(usize, usize),
    /// Task 0 is the container, the others are execs.
    Stream(usize, Source),
}

/// Blocks SIGCHLD, and reports it on a descriptor.
pub(super) fn child_signals() -> Attempt<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block().doing(|| "block SIGCHLD".into())?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .doing(|| "watch for SIGCHLD".into())
}

fn send(to: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    to.write_all(&wire::encode(reply, &[])?)
}

impl Shim {
    pub(super) fn new(
        container: Task,
        cgroup: Cgroup,
        maker: Box<dyn Maker>,
        signals: SignalFd,
        listener: UnixListener,
        pins: Pins,
        pid: NsMode,
    ) -> Self {
        Self {
            container,
            oom: cgroup.watch_oom(),
            ooms: 0,
            cgroup,
            maker,
            execs: Vec::new(),
            started: false,
            signals,
            listener,
            connections: Vec::new(),
            deaf_until: None,
            shares_pids: pid != NsMode::Private,
            quit: false,
            frozen: false,
            _pins: pins,
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.container.pid
    }

    /// Serves until the container has ended and everyone knows. `owner` is the hostd that created it.
    pub(super) fn serve(mut self, owner: UnixStream) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        self.connections.push(owner);
        // The owner's is the first connection until it closes, which it never does before the start.
        // When what was done last has left memory free, and for long enough.
        let mut tidy_at = None;
        while !self.quit && !self.is_done() {
            let deadline = self.sweep();
            if self.is_done() {
                break;
            }
            let ready = self.wait([deadline, tidy_at].into_iter().flatten().min())?;
            if !ready.is_empty() {
                tidy_at = Some(Instant::now() + IDLE);
            } else if tidy_at.is_some_and(|at| Instant::now() >= at) {
                self.container.streams.rest();
                self.execs.iter_mut().for_each(|task| task.streams.rest());
                hostd_sys::fork::trim_heap();
                tidy_at = None;
            }
            self.dispatch(&ready);
        }
        if self.quit {
            self.abandon();
        }
        self.see_off()
    }

    /// Lets go of all that belongs to the container, which may run anew from now on, and stays for the clients that have
    /// not read to the end.
    fn see_off(self) -> io::Result<()> {
        let Self { container, execs, maker, listener, connections, signals, _pins: pins, .. } = self;
        let mut tasks: Vec<Task> = std::iter::once(container).chain(execs).collect();
        for task in &mut tasks {
            task.drain();
            task.streams.close();
            task.waiters.clear();
        }
        // Whoever waits for the shim to end reads end of file here.
        drop((listener, connections, signals, maker));
        drop(pins);
        rest::deliver(tasks.into_iter().map(|task| task.streams).collect())
    }

    fn is_done(&self) -> bool {
        self.container.is_done() && self.execs.iter().all(Task::is_done)
    }

    fn task(&mut self, at: usize) -> &mut Task {
        if at == 0 { &mut self.container } else { &mut self.execs[at - 1] }
    }

    fn sweep(&mut self) -> Option<Instant> {
        let deadlines = [self.container.sweep()].into_iter();
        self.deaf_until = self.deaf_until.filter(|until| Instant::now() < *until);
        let deadlines = deadlines.chain(self.execs.iter_mut().map(Task::sweep));
        let deadline = deadlines.flatten().chain(self.deaf_until).min();
        while self.execs.len() > REMEMBERED {
            let Some(oldest) = self.execs.iter().position(Task::is_done) else { break };
            self.execs.remove(oldest);
        }
        deadline
    }

    /// Waits for something to happen.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<Vec<(Token, PollFlags)>> {
        let mut tokens = vec![Token::Signals, Token::Listener];
        let hears = if self.deaf_until.is_none() { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::new(&self.listener, hears),
        ];
        if let Some((fd, events)) = self.oom.as_ref().map(OomWatch::interest) {
            tokens.push(Token::Memory);
            fds.push(PollFd::from_borrowed_fd(fd, events));
        }
        for (at, connection) in self.connections.iter().enumerate() {
            tokens.push(Token::Connection(at));
            fds.push(PollFd::new(connection, PollFlags::IN));
        }
        for (at, task) in std::iter::once(&self.container).chain(&self.execs).enumerate() {
            for (which, waiter) in task.waiters.iter().enumerate() {
                tokens.push(Token::Waiter(at, which));
                fds.push(PollFd::new(waiter, PollFlags::empty()));
            }
            task.streams.poll(|fd, source| {
                tokens.push(Token::Stream(at, source));
                fds.push(fd);
            });
        }
        poll_until(tokens, fds, deadline)
    }

    fn dispatch(&mut self, ready: &[(Token, PollFlags)]) {
        let mut leaving = Vec::new();
        // Streams first: they are known by their place, which requests and signals may change.
        for &(token, events) in ready {
            match token {
                Token::Stream(at, source) => self.task(at).streams.ready(source, events),
                Token::Waiter(at, which) => leaving.push((at, which)),
                _ => {}
            }
        }
        for (at, which) in leaving.into_iter().rev() {
            self.task(at).waiters.remove(which);
            // A container that nobody can start any more: the hostd that created it is gone.
            self.quit |= at == 0 && self.is_waiting();
        }
        let mut readable = Vec::new();
        for &(token, _) in ready {
            match token {
                Token::Connection(at) => readable.push(at),
                Token::Listener => self.accept(),
                Token::Signals => self.reap(),
                Token::Memory => self.count_ooms(),
                Token::Stream(..) | Token::Waiter(..) => {}
            }
        }
        for at in readable.into_iter().rev() {
            let connection = self.connections.swap_remove(at);
            self.serve_connection(connection);
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((connection, _)) => {
                    if connection.set_write_timeout(Some(REQUEST_TIMEOUT)).is_ok() {
                        self.connections.push(connection);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Out of descriptors: who waits there keeps the socket ready, and would keep this loop turning.
                Err(_) => {
                    self.deaf_until = Some(Instant::now() + DEAF);
                    return;
                }
            }
        }
    }

    /// Reads one request and answers it.
    fn serve_connection(&mut self, connection: UnixStream) {
        let until = Instant::now() + REQUEST_TIMEOUT;
        let mut from = InTime { stream: &connection, until, fds: Vec::new() };
        let request = wire::read_request(&mut from);
        let fds = from.fds;
        match request {
            Ok(Some(Ok(request))) => self.answer(request, connection, fds),
            Ok(Some(Err(strange))) => self.reply(connection, &Reply::Failed(strange)),
            // As above, before it waited.
            Ok(None) | Err(_) => {
                self.quit |=
                    self.is_waiting() && self.connections.is_empty() && self.container.waiters.is_empty()
            }
        }
    }

    fn answer(&mut self, request: Request, mut connection: UnixStream, fds: Vec<OwnedFd>) {
        let result = match request {
            Request::Hello => {
                Ok(Reply::Hello { pid: self.pid(), started: !self.is_waiting(), version: wire::VERSION })
            }
            Request::Start => self.start().map(|()| Reply::Done),
            Request::Kill(signal) => {
                // What memory ran out for before that, here or beside us, is not why it ends.
                self.count_ooms();
                self.maker.kill(signal, &self.container).map(|()| Reply::Done)
            }
            Request::Freeze(frozen) => self.freeze(frozen).map(|()| Reply::Done),
            Request::Update(wanted) => self.maker.update(&wanted, &self.cgroup).map(|()| Reply::Done),
            Request::Resize(size) => set_size(&self.container, size).map(|()| Reply::Done),
            Request::Wait => {
                if self.ooms > 0 && send(&mut connection, &Reply::OutOfMemory(self.ooms)).is_err() {
                    return;
                }
                return wait(&mut self.container, connection);
            }
            Request::Attach(wants) => return self.attach(connection, wants),
            Request::AttachTo(wants) => self.attach_to(fds, wants).map(|()| Reply::Done),
            Request::Execs => Ok(Reply::Execs(self.execs.iter().filter_map(Task::known).collect())),
            Request::Exec { .. } if self.frozen => Err(Failure::new("the container is paused")),
            Request::Exec { spec, attach } => {
                match self.maker.exec(&spec, attach, &self.container, &self.cgroup) {
                    Ok(task) => return self.add_exec(Task { note: spec.note, ..task }, attach, connection),
                    Err(failure) => Err(failure),
                }
            }
            Request::ExecWait(id) => match self.exec(&id) {
                Some(task) => return wait(task, connection),
                None => Ok(Reply::NoSuchExec),
            },
            Request::ExecPid(id) => {
                Ok(self.exec(&id).map_or(Reply::NoSuchExec, |task| Reply::ExecIs { pid: task.pid }))
            }
            Request::ExecResize(id, size) => match self.exec(&id) {
                Some(task) => set_size(task, size).map(|()| Reply::Done),
                None => Ok(Reply::NoSuchExec),
            },
            Request::ExecKill(id) => match self.exec(&id) {
                Some(task) => kill_group(task).map(|()| Reply::Done),
                None => Ok(Reply::NoSuchExec),
            },
            Request::Quit => {
                self.quit = true;
                Ok(Reply::Done)
            }
        };
        self.reply(connection, &result.unwrap_or_else(Reply::Failed));
    }

    /// Answers, and keeps the connection for more; when the asker is gone there is nobody to keep it for.
    fn reply(&mut self, mut connection: UnixStream, reply: &Reply) {
        if send(&mut connection, reply).is_ok() {
            self.connections.push(connection);
        }
    }

    fn exec(&mut self, id: &str) -> Option<&mut Task> {
        self.execs.iter_mut().find(|task| task.id == id)
    }

    /// Whether the first process stands before its program still.
    fn is_waiting(&self) -> bool {
        !self.started && self.container.exit.is_none()
    }

    fn freeze(&mut self, frozen: bool) -> Attempt<()> {
        self.maker.freeze(frozen, &self.cgroup)?;
        self.frozen = frozen;
        Ok(())
    }

    fn start(&mut self) -> Attempt<()> {
        if !self.is_waiting() {
            return Err(Failure::new("the container was started before"));
        }
        self.started = true;
        self.maker.start(&self.container)
    }

    fn attach(&mut self, mut connection: UnixStream, wants: Streams) {
        if send(&mut connection, &Reply::Done).is_ok() {
            // One that cannot be attached is closed, which its client reads as the end.
            let owner = !self.started;
            let _ = self.container.streams.attach(connection, wants, owner);
        }
    }

    fn attach_to(&mut self, fds: Vec<OwnedFd>, wants: Streams) -> Attempt<()> {
        let socket = fds.into_iter().next().ok_or_else(|| Failure::new("the client's socket got lost"))?;
        let owner = !self.started;
        self.container.streams.attach(socket.into(), wants, owner).doing(|| "attach a client".into())
    }

    fn add_exec(&mut self, mut task: Task, attach: Option<Streams>, mut connection: UnixStream) {
        let answered = send(&mut connection, &Reply::ExecIs { pid: task.pid }).is_ok();
        match attach {
            Some(wants) if answered => {
                task.streams.scratch.clone_from(&self.container.streams.scratch);
                let _ = task.streams.attach(connection, wants, true);
            }
            _ => self.connections.push(connection),
        }
        self.execs.push(task);
        // It may have ended before it was on the list.
        self.reap();
    }

    /// Takes note of every process that has ended.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            let (pid, code) = (pid.as_raw_pid(), program::exit_code(status));
            if pid == self.container.pid {
                self.container_ended(code);
            } else if let Some(task) = self.execs.iter_mut().find(|t| t.pid == pid && t.exit.is_none()) {
                task.drain();
                task.tell(ExitRecord::now(code, false));
            }
        }
    }

    /// Takes note of memory running out, and tells who waits for the container.
    fn count_ooms(&mut self) {
        let more = self.oom.as_mut().map_or(0, OomWatch::take);
        self.tell_ooms(more);
    }

    fn tell_ooms(&mut self, more: u64) {
        if more > 0 {
            self.ooms += more;
            for waiter in &mut self.container.waiters {
                // One that left is noticed by its own event.
                let _ = send(waiter, &Reply::OutOfMemory(self.ooms));
            }
        }
    }

    fn container_ended(&mut self, code: i32) {
        self.count_ooms();
        // The end of the cgroup reads as an event too.
        let watch = self.oom.take();
        if code == KILLED && watch.is_some_and(|mut watch| watch.may_have_missed()) {
            self.tell_ooms(1);
        }
        let record = ExitRecord::now(code, self.ooms > 0 || self.cgroup.oom_kills() > 0);
        if self.shares_pids {
            self.cgroup.kill_all();
        }
        self.container.drain();
        if let Err(error) = crate::state::write_exit(".".as_ref(), &record) {
            eprintln!("hostd shim: cannot write exit.json: {error}");
        }
        // Who is told of the end may read the log.
        if self.container.streams.outputs_ended() {
            self.container.streams.finish_log();
        }
        self.container.tell(record);
        self.maker.ended();
        // Killed by the kernel along with their pid namespace, or just now.
        if let Err(error) = self.cgroup.remove() {
            eprintln!("hostd shim: {}", wire::chain(&error));
        }
    }

    /// Ends the container for a hostd that wants no more of it.
    fn abandon(&mut self) {
        if self.container.exit.is_none() {
            self.cgroup.kill_all();
            let _ = hostd_sys::fork::pidfd_send_signal(self.container.pidfd.as_fd(), libc::SIGKILL);
            while self.container.exit.is_none() {
                match rustix::process::wait(rustix::process::WaitOptions::empty()) {
                    Ok(Some((pid, status))) if pid.as_raw_pid() == self.container.pid => {
                        self.container_ended(program::exit_code(status));
                    }
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

/// Waits until one of the descriptors is ready, and says which.
pub(super) fn poll_until<T>(
    tokens: Vec<T>,
    mut fds: Vec<PollFd<'_>>,
    deadline: Option<Instant>,
) -> io::Result<Vec<(T, PollFlags)>> {
    let timeout = deadline.map(|at| {
        // Rounded up, or the last fraction of a millisecond would be spent spinning.
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
    });
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = tokens.into_iter().zip(&fds).map(|(token, fd)| (token, fd.revents()));
    Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
}

/// A connection on which a whole request must come in time.
struct InTime<'a> {
    stream: &'a UnixStream,
    until: Instant,
    /// Descriptors that came along.
    fds: Vec<OwnedFd>,
}

impl io::Read for InTime<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let (length, fds) = wire::recv_message(self.stream.as_fd(), into)?;
        self.fds.extend(fds);
        Ok(length)
    }
}

/// Whether a child of ours is on its way out: its descriptors are closed some time before it can be reaped,
/// a long time where the kernel is busy taking namespaces down.
fn is_exiting(pid: i32) -> bool {
    const PF_EXITING: u32 = 4;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before may hold anything; then come state, ppid, pgrp, session, tty, tpgid, flags (proc(5)).
    let flags =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

fn wait(task: &mut Task, mut connection: UnixStream) {
    match task.exit {
        Some(record) => {
            let _ = send(&mut connection, &Reply::Exited(record));
        }
        None => task.waiters.push(connection),
    }
}

/// An exec leads a session, and with it a process group, whose number stays its own until it is reaped. One that another
/// runtime has started may lead none.
fn kill_group(task: &Task) -> Attempt<()> {
    let Some(pid) = rustix::process::Pid::from_raw(task.pid).filter(|_| task.exit.is_none()) else {
        return Ok(());
    };
    let kill = rustix::process::Signal::KILL;
    match rustix::process::kill_process_group(pid, kill) {
        Err(Errno::SRCH) => rustix::process::kill_process(pid, kill),
        killed => killed,
    }
    .doing(|| "kill an exec".into())
}

fn set_size(task: &Task, size: TtySize) -> Attempt<()> {
    let master = task.streams.master().ok_or_else(|| Failure::new("the process has no terminal"))?;
    resize(master, size).doing(|| "resize the terminal".into())
}
