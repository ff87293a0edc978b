//! Containers and execs as the engine holds them: handles that ask the shim.

use crate::cgroup::{Cgroup, CgroupError};
use crate::spec::{ExecSpec, Resources, TtySize};
use crate::state;
use crate::wire::{self, Failure, Reply, Request};
use crate::{Exit, RuntimeError, Streams};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

type Result<T> = std::result::Result<T, RuntimeError>;

/// How long a shim may take to answer what takes it milliseconds.
const ANSWER: Duration = Duration::from_secs(60);

/// How long a signal may wait for a shim that is busy, before it goes its own way.
const BUSY: Duration = Duration::from_secs(5);

/// How long a shim may be crowded.
const CROWDED: Duration = Duration::from_secs(10);

/// `what` could not be done because of `error`.
pub(crate) fn failed(
    what: impl Into<String>,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RuntimeError {
    RuntimeError::Failed { what: what.into(), source: error.into() }
}

/// A failure of create or start in Docker's words.
pub(crate) fn create_failed(failure: &Failure) -> RuntimeError {
    if failure.logging {
        let message = &failure.message;
        return RuntimeError::Other(format!(
            "failed to create task for container: failed to initialize logging driver: {message}"
        ));
    }
    let message = match failure.whole {
        true => format!("{}: unknown", failure.message),
        false => format!(
            "failed to create task for container: failed to create shim task: OCI runtime create failed: \
             runc create failed: unable to start container process: {}: unknown",
            failure.message
        ),
    };
    if failure.code == 0 {
        RuntimeError::Other(message)
    } else {
        RuntimeError::Exec { code: failure.code, message }
    }
}

fn exec_failed(failure: &Failure) -> RuntimeError {
    let message = match failure.whole {
        true => format!("{}: unknown", failure.message),
        false => format!(
            "OCI runtime exec failed: exec failed: unable to start container process: {}: unknown",
            failure.message
        ),
    };
    if failure.code == 0 {
        RuntimeError::Other(message)
    } else {
        RuntimeError::Exec { code: failure.code, message }
    }
}

/// Connects to a bundle's shim, however long the path is. `EAGAIN` when it accepts no connections.
pub(crate) fn connect(bundle: &Path) -> io::Result<UnixStream> {
    let dir = rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    UnixStream::from_std(socket.into())
}

/// As [`connect`], of a shim that may have more callers than it can hear just now.
pub(crate) async fn connect_in_time(bundle: &Path) -> io::Result<UnixStream> {
    let started = std::time::Instant::now();
    loop {
        match connect(bundle) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && started.elapsed() < CROWDED => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}

/// Sends one request and reads its reply.
pub(crate) async fn ask(stream: &mut UnixStream, request: &Request) -> io::Result<Reply> {
    stream.write_all(&wire::encode(request, &[])?).await?;
    let reply = wire::read_async(stream).await?;
    reply.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the shim has ended"))
}

/// As [`ask`], of a shim that may not answer at all: stopped, or stuck in the kernel.
pub(crate) async fn ask_in_time(stream: &mut UnixStream, request: &Request) -> io::Result<Reply> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the shim does not answer");
    tokio::time::timeout(ANSWER, ask(stream, request)).await.map_err(late)?
}

fn unexpected(reply: Reply) -> RuntimeError {
    match reply {
        Reply::Failed(failure) => RuntimeError::Other(failure.message),
        reply => RuntimeError::Other(format!("unexpected reply of the shim: {reply:?}")),
    }
}

/// A container that has a shim. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Container {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) pid: i32,
    pub(crate) cgroup: Cgroup,
    /// Whether another runtime built it, which then is to be asked for what hostd's own leaves to cgroups.
    pub(crate) other_runtime: bool,
    /// Protocol version of its shim.
    pub(crate) shim_version: u32,
    pub(crate) exit: watch::Receiver<Option<Exit>>,
    pub(crate) ooms: watch::Receiver<u64>,
}

impl Inner {
    /// The container's first process: no other, even if that has just ended and its number is in use again. It is the one
    /// that is a child of the shim.
    pub(crate) fn first_process(&self) -> Result<OwnedFd> {
        let gone = || RuntimeError::Other(format!("container {} has ended", self.id));
        let pid = Pid::from_raw(self.pid).ok_or_else(gone)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
        let is_child = || -> Option<bool> {
            let shim = connect(&self.bundle).ok()?.peer_cred().ok()?.pid()?;
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
            Some(status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim() == shim.to_string())
        };
        if is_child() != Some(true) {
            return Err(gone());
        }
        // That was about the process behind the descriptor if that process is still there.
        hostd_sys::fork::pidfd_send_signal(pidfd.as_fd(), 0).map_err(|_| gone())?;
        Ok(pidfd)
    }
}

impl Container {
    /// Host pid of its first process.
    pub fn pid(&self) -> i32 {
        self.inner.pid
    }

    /// Its cgroup, whose files tell what it takes.
    pub fn cgroup(&self) -> &Cgroup {
        &self.inner.cgroup
    }

    /// Opens one of the namespaces of its first process (`mnt`, `net` …), of no other process even if that one has just
    /// ended and its number is in use again. Blocks for moments.
    ///
    /// # Errors
    /// When it has ended.
    pub fn namespace(&self, kind: &str) -> Result<OwnedFd> {
        let inner = &self.inner;
        let process = inner.first_process()?;
        let namespace = std::fs::File::open(format!("/proc/{}/ns/{kind}", inner.pid)).map_err(|error| {
            failed(format!("cannot open the {kind} namespace of container {}", inner.id), error)
        })?;
        // It is that of the process behind the descriptor if that process is still there.
        hostd_sys::fork::pidfd_send_signal(process.as_fd(), 0)
            .map_err(|_| RuntimeError::Other(format!("container {} has ended", inner.id)))?;
        Ok(namespace.into())
    }

    /// Whether its first process has ended, be it that nobody has been told yet.
    pub fn has_ended(&self) -> bool {
        self.inner.exit.borrow().is_some() || self.inner.first_process().is_err()
    }

    async fn request(&self, request: &Request) -> Result<(Reply, UnixStream)> {
        if request.since() > self.inner.shim_version {
            return Err(RuntimeError::Other(format!(
                "container {} was started by an older hostd, whose shim cannot do that: restart the container",
                self.inner.id
            )));
        }
        let context = || format!("cannot reach the shim of container {}", self.inner.id);
        let mut stream = connect_in_time(&self.inner.bundle).await.map_err(|e| failed(context(), e))?;
        let reply = match request {
            Request::Wait | Request::ExecWait(_) => ask(&mut stream, request).await,
            _ => ask_in_time(&mut stream, request).await,
        };
        Ok((reply.map_err(|e| failed(context(), e))?, stream))
    }

    async fn done(&self, request: &Request) -> Result<()> {
        match self.request(request).await?.0 {
            Reply::Done => Ok(()),
            reply => Err(unexpected(reply)),
        }
    }

    /// Lets the created container exec its program; returns once execve(2) succeeded or failed.
    ///
    /// # Errors
    /// [`RuntimeError::Exec`] when execve(2) failed; the container has ended then.
    pub async fn start(&self) -> Result<()> {
        match self.request(&Request::Start).await?.0 {
            Reply::Done => Ok(()),
            Reply::Failed(failure) => Err(create_failed(&failure)),
            reply => Err(unexpected(reply)),
        }
    }

    /// Completes when the first process has ended; at once when it had. Any number of callers.
    ///
    /// # Errors
    /// When nobody can tell any more.
    pub async fn wait(&self) -> Result<Exit> {
        let mut exit = self.inner.exit.clone();
        match exit.wait_for(Option::is_some).await.map(|exit| *exit) {
            Ok(Some(exit)) => Ok(exit),
            _ => Err(RuntimeError::Other(format!("lost track of container {}", self.inner.id))),
        }
    }

    /// How often its memory has run out, as it changes; those of before included where it was found again.
    pub fn ooms(&self) -> watch::Receiver<u64> {
        self.inner.ooms.clone()
    }

    /// Sends a signal to the first process: by its shim, and past it where that is held up by a process that it makes, as
    /// the container itself can bring about.
    ///
    /// # Errors
    /// When it has ended, or the signal does not exist.
    pub async fn kill(&self, signal: i32) -> Result<()> {
        let request = Request::Kill(signal);
        if self.inner.other_runtime {
            return self.done(&request).await;
        }
        if let Ok(done) = tokio::time::timeout(BUSY, self.done(&request)).await {
            return done;
        }
        let what = || format!("cannot send signal {signal} to container {}", self.inner.id);
        hostd_sys::fork::pidfd_send_signal(self.inner.first_process()?.as_fd(), signal)
            .map_err(|error| failed(what(), error))
    }

    /// Freezes all processes (cgroup freezer). The shim does it, never while it starts a process: that would freeze half
    /// made, and the shim wait for it.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub async fn pause(&self) -> Result<()> {
        self.freeze(true).await
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// As [`Cgroup::thaw`].
    pub async fn unpause(&self) -> Result<()> {
        self.freeze(false).await
    }

    async fn freeze(&self, frozen: bool) -> Result<()> {
        let request = Request::Freeze(frozen);
        if request.since() > self.inner.shim_version && !self.inner.other_runtime {
            // Older shims left this to hostd.
            return self
                .with_cgroup(move |cgroup| if frozen { cgroup.freeze() } else { cgroup.thaw() })
                .await;
        }
        self.done(&request).await
    }

    /// Whether its processes are frozen.
    pub fn is_frozen(&self) -> bool {
        self.inner.cgroup.is_frozen()
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// When it has none.
    pub async fn resize(&self, size: TtySize) -> Result<()> {
        self.done(&Request::Resize(size)).await
    }

    /// Changes its limits; those that are `None` stay.
    ///
    /// # Errors
    /// As [`Cgroup::update`].
    pub async fn update(&self, resources: &Resources) -> Result<()> {
        if self.inner.other_runtime {
            return self.done(&Request::Update(Box::new(resources.clone()))).await;
        }
        let resources = resources.clone();
        self.with_cgroup(move |cgroup| cgroup.update(&resources)).await
    }

    async fn with_cgroup(
        &self,
        work: impl FnOnce(&Cgroup) -> std::result::Result<(), CgroupError> + Send + 'static,
    ) -> Result<()> {
        let cgroup = self.inner.cgroup.clone();
        match tokio::task::spawn_blocking(move || work(&cgroup)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(failed(format!("cannot change container {}", self.inner.id), error)),
        }
    }

    /// A stream to the container's stdio, connected before this returns: all that is printed from now on arrives.
    ///
    /// Reading: Docker's multiplexed frames (8-byte header: stream, 0, 0, 0, big-endian length), raw bytes with a
    /// tty; end of file once the process ended and all was delivered. Writing: its stdin; shutting down the
    /// writing half is stdin's end of file where the container's is [`crate::spec::Stdin::Once`]. May be called
    /// between `create` and `start`. Any number at once. What one has not read is kept for it in a
    /// file, and given to it also when the process has ended.
    ///
    /// # Errors
    /// When the container has ended.
    pub async fn attach(&self, streams: Streams) -> Result<UnixStream> {
        match self.request(&Request::Attach(streams)).await? {
            (Reply::Done, stream) => Ok(stream),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// As [`Container::attach`], serving `client` itself: what the process prints takes no way through this daemon.
    ///
    /// # Errors
    /// When the container has ended.
    pub async fn attach_to(&self, streams: Streams, client: BorrowedFd<'_>) -> Result<()> {
        let context = || format!("cannot reach the shim of container {}", self.inner.id);
        let exchange = async {
            let mut stream = connect_in_time(&self.inner.bundle).await?;
            let frame = wire::encode(&Request::AttachTo(streams), &[])?;
            stream.writable().await?;
            wire::send_fds(stream.as_fd(), &frame[..1], &[client])?;
            stream.write_all(&frame[1..]).await?;
            wire::read_async::<Reply>(&mut stream).await
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the shim does not answer");
        let answered = tokio::time::timeout(ANSWER, exchange).await.map_err(late).flatten();
        match answered.map_err(|e| failed(context(), e))? {
            Some(Reply::Done) => Ok(()),
            Some(reply) => Err(unexpected(reply)),
            None => Err(failed(context(), "it has ended")),
        }
    }

    /// Starts a further process; `attach` gives its stream, in the format of [`Container::attach`].
    ///
    /// # Errors
    /// [`RuntimeError::Exec`] when the program cannot be executed.
    pub async fn exec(&self, spec: ExecSpec, attach: Option<Streams>) -> Result<Exec> {
        let id = spec.id.clone();
        match self.request(&Request::Exec { spec: Box::new(spec), attach }).await? {
            (Reply::ExecIs { pid }, stream) => {
                let handle = ExecHandle { container: self.clone(), id: id.into() };
                Ok(Exec { pid, stream: attach.map(|_| stream), handle })
            }
            (Reply::Failed(failure), _) => Err(exec_failed(&failure)),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Kills an exec and its whole process group; nothing happens where it has ended.
    ///
    /// # Errors
    /// When the shim cannot be reached, or does not know it.
    pub async fn kill_exec(&self, id: &str) -> Result<()> {
        self.done(&Request::ExecKill(id.to_owned())).await
    }

    /// The execs that have a note and that the shim remembers: all that run, and those that ended lately.
    ///
    /// # Errors
    /// When the shim cannot be reached, or comes from a version that cannot tell.
    pub async fn execs(&self) -> Result<Vec<FoundExec>> {
        match self.request(&Request::Execs).await?.0 {
            Reply::Execs(known) => Ok(known
                .into_iter()
                .map(|exec| FoundExec {
                    handle: ExecHandle { container: self.clone(), id: exec.id.as_str().into() },
                    id: exec.id,
                    note: exec.note,
                    pid: exec.pid,
                    exit: exec.exit.map(Exit::from),
                })
                .collect()),
            reply => Err(unexpected(reply)),
        }
    }

    /// Finds an exec again after a restart of the daemon; `None` where the shim does not know it (any more).
    ///
    /// # Errors
    /// When the shim cannot be reached.
    pub async fn exec_again(&self, id: &str) -> Result<Option<Exec>> {
        match self.request(&Request::ExecPid(id.to_owned())).await?.0 {
            Reply::ExecIs { pid } => {
                let handle = ExecHandle { container: self.clone(), id: id.into() };
                Ok(Some(Exec { pid, stream: None, handle }))
            }
            Reply::NoSuchExec => Ok(None),
            reply => Err(unexpected(reply)),
        }
    }
}

/// An exec that an earlier daemon started.
#[derive(Debug)]
pub struct FoundExec {
    /// As it was given.
    pub id: String,
    /// As it was given.
    pub note: String,
    /// Host pid of its process.
    pub pid: i32,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// What else can be asked of it.
    pub handle: ExecHandle,
}

/// A started exec.
#[derive(Debug)]
pub struct Exec {
    /// Host pid of its process.
    pub pid: i32,
    /// Its stdio, when asked for.
    pub stream: Option<UnixStream>,
    /// What else can be asked of it.
    pub handle: ExecHandle,
}

/// A process that was started by [`Container::exec`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ExecHandle {
    container: Container,
    id: Arc<str>,
}

impl ExecHandle {
    /// Completes when the process has ended; at once when it had. The shim remembers the last 128 execs.
    ///
    /// # Errors
    /// When it ended too long ago, or the container ended and with it the shim.
    pub async fn wait(&self) -> Result<Exit> {
        match self.container.request(&Request::ExecWait(self.id.to_string())).await {
            Ok((Reply::Exited(record), _)) => Ok(record.into()),
            Ok((Reply::NoSuchExec, _)) => Err(self.unknown()),
            Ok((reply, _)) => Err(unexpected(reply)),
            // The shim went with the container, and a process in it was killed by that at the latest.
            Err(error) => match state::read_exit(&self.container.inner.bundle) {
                Ok(Some(record)) => Ok(Exit { code: 137, ..record.into() }),
                _ => Err(error),
            },
        }
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// When it has none, or is unknown.
    pub async fn resize(&self, size: TtySize) -> Result<()> {
        match self.container.request(&Request::ExecResize(self.id.to_string(), size)).await?.0 {
            Reply::Done => Ok(()),
            Reply::NoSuchExec => Err(self.unknown()),
            reply => Err(unexpected(reply)),
        }
    }

    fn unknown(&self) -> RuntimeError {
        RuntimeError::Other(format!("No such exec instance: {}", self.id))
    }
}
