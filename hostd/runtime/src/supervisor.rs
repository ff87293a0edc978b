//! Creating containers, finding them again, and keeping an eye on their shims.

use crate::capabilities::CapSet;
use crate::cgroup::{self, Cgroup, Driver};
use crate::client::{self, Container, Inner, failed};
use crate::spec::{ContainerSpec, NetNs, OciRuntime, Seccomp, masked_paths};
use crate::state::{self, State};
use crate::wire::{self, Create, ExitRecord, Reply, Request, chain};
use crate::{Exit, Found, Kernel, RuntimeConfig, RuntimeError, SHIM_ARG, seccomp};
use hostd_sys::mount::{MountAttr, RDONLY, mount_setattr};
use rustix::fs::{CWD, MemfdFlags, SealFlags};
use rustix::mount::OpenTreeFlags;
use rustix::process::{Pid, PidfdFlags};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;

type Result<T> = std::result::Result<T, RuntimeError>;

/// How long a shim may take to end its container before it is killed itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a shim may take to build a container; milliseconds where nothing is wrong.
const BUILDING: Duration = Duration::from_secs(120);

/// Creates containers and finds them again. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Config>,
}

#[derive(Debug)]
struct Config {
    config: RuntimeConfig,
    /// The program of the shims, which nobody can write to through it.
    shim: OwnedFd,
    kernel: Kernel,
}

impl Runtime {
    /// Makes the exec root and gets the shim's program ready.
    ///
    /// # Errors
    /// When the kernel is too old, the directory cannot be made or the program not be opened.
    pub fn open(config: RuntimeConfig) -> Result<Self> {
        Self::open_on(config, Kernel::detect())
    }

    /// As [`Runtime::open`], on a kernel that can do no more than told.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub fn open_on(config: RuntimeConfig, kernel: Kernel) -> Result<Self> {
        Kernel::require()?;
        let root = &config.exec_root;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|e| failed(format!("cannot make {}", root.display()), e))?;
        cgroup::allow_realtime(&config.cgroup_parent, config.realtime)?;
        let exe = &config.shim_exe;
        let shim =
            protected(exe).map_err(|e| failed(format!("cannot use {} as the shim", exe.display()), e))?;
        Ok(Self { inner: Arc::new(Config { config, shim, kernel }) })
    }

    /// What the kernel can do.
    pub(crate) fn kernel(&self) -> Kernel {
        self.inner.kernel
    }

    /// Spawns the shim and builds the container up to, not including, the exec of its program.
    /// On error nothing is left behind.
    ///
    /// # Errors
    /// [`RuntimeError::Exec`] when the program does not exist or is none.
    pub async fn create(&self, spec: ContainerSpec) -> Result<Container> {
        let runtime = self.clone();
        // A caller that loses interest half-way must not leave half a container.
        match tokio::spawn(async move { runtime.create_whole(spec).await }).await {
            Ok(result) => result,
            Err(error) => Err(failed("cannot create the container", error)),
        }
    }

    async fn create_whole(&self, mut spec: ContainerSpec) -> Result<Container> {
        let id = spec.id.clone();
        let caps = CapSet::for_container(spec.privileged, &spec.cap_add, &spec.cap_drop)
            .map_err(RuntimeError::Other)?;
        let program = if spec.privileged && spec.seccomp == Seccomp::Default {
            None
        } else {
            seccomp::program(&spec.seccomp, caps)?
        };
        // Looked up where the machine's own are to be seen.
        spec.masked_paths.get_or_insert_with(|| masked_paths().to_vec());
        let config = &self.inner.config;
        if let (Driver::Systemd, Some(runtime)) = (config.cgroup_driver, &mut spec.runtime) {
            runtime.args.push("--systemd-cgroup".to_owned());
        }
        let place = State {
            cgroup_parent: spec.cgroup_parent.clone().unwrap_or_else(|| config.cgroup_parent.clone()),
            cgroup_driver: config.cgroup_driver,
            runtime: spec.runtime.clone(),
        };
        let bundle = self.bundle(&id)?;
        DirBuilder::new()
            .mode(0o700)
            .create(&bundle)
            .map_err(|e| failed(format!("cannot make {}", bundle.display()), e))?;
        let made = self.spawn(spec, caps, program.as_deref().unwrap_or_default(), &bundle, place).await;
        if made.is_err() {
            // The error that counts is the first one.
            let _ = self.remove(&id).await;
        }
        made
    }

    async fn spawn(
        &self,
        mut spec: ContainerSpec,
        caps: CapSet,
        program: &[u8],
        bundle: &Path,
        place: State,
    ) -> Result<Container> {
        let id = spec.id.clone();
        let doing = || format!("cannot start the shim of container {id}");
        let cgroup = place.cgroup(&id);
        state::write_state(bundle, &place).map_err(|e| failed(doing(), e))?;
        let netns = match std::mem::replace(&mut spec.namespaces.net, NetNs::Host) {
            NetNs::Host => None,
            NetNs::Fd(fd) => Some(fd),
        };
        let userns = spec.namespaces.user.take();
        let text = bundle.to_str().ok_or_else(|| failed(doing(), "its directory's path is not UTF-8"))?;
        let create = Create {
            spec,
            bundle: text.to_owned(),
            cgroup_parent: place.cgroup_parent.clone(),
            cgroup_driver: place.cgroup_driver,
            netns: netns.is_some(),
            userns: userns.is_some(),
            caps: caps.0,
            kernel: self.inner.kernel,
        };
        let frame = wire::encode(&create, program).map_err(|e| failed(doing(), e))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| failed(doing(), e))?;
        let shim = self.run_shim(&id, bundle, theirs.into()).map_err(|e| failed(doing(), e))?;
        let exchange = async {
            ours.set_nonblocking(true)?;
            let fds: Vec<BorrowedFd<'_>> = netns.iter().chain(&userns).map(AsFd::as_fd).collect();
            wire::send_fds(ours.as_fd(), &frame[..1], &fds)?;
            let mut ours = UnixStream::from_std(ours)?;
            ours.write_all(&frame[1..]).await?;
            let reply = wire::read_async::<Reply>(&mut ours).await?;
            Ok((ours, reply))
        };
        let late = || io::Error::new(ErrorKind::TimedOut, "it does not answer");
        let exchanged: io::Result<(UnixStream, Option<Reply>)> =
            tokio::time::timeout(BUILDING, exchange).await.unwrap_or_else(|_| Err(late()));
        match exchanged {
            Ok((stream, Some(Reply::Created { pid }))) => {
                let other_runtime = place.runtime.is_some();
                let bundle = bundle.to_owned();
                let known = Known { id, bundle, pid, cgroup, other_runtime, shim_version: wire::VERSION };
                Ok(supervise(known, stream, Some(shim)))
            }
            Ok((_, Some(Reply::Failed(failure)))) => {
                end(shim).await;
                Err(client::create_failed(&failure))
            }
            Ok((_, reply)) => {
                end(shim).await;
                let words = fs::read_to_string(bundle.join("shim.log")).unwrap_or_default();
                Err(failed(doing(), format!("it answered {reply:?} {}", words.trim_end())))
            }
            Err(error) => {
                end(shim).await;
                let words = fs::read_to_string(bundle.join("shim.log")).unwrap_or_default();
                Err(failed(doing(), format!("{error} {}", words.trim_end())))
            }
        }
    }

    fn run_shim(&self, id: &str, bundle: &Path, control: OwnedFd) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(bundle.join("shim.log"))?;
        let shim = Command::new(format!("/proc/self/fd/{}", self.inner.shim.as_raw_fd()))
            .args([SHIM_ARG, id])
            .env_clear()
            .stdin(control)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        // It waits for what it is to do: nothing has been started with the daemon's own limit.
        if let Some(pid) = shim.id() {
            hostd_sys::process::restore_open_files(pid)?;
        }
        Ok(shim)
    }

    /// Finds a container again that an earlier daemon created.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub async fn reattach(&self, id: &str) -> Result<Found> {
        let bundle = self.bundle(id)?;
        let doing = |e: io::Error| failed(format!("cannot find container {id} again"), e);
        let Some(state) = state::read_state(&bundle).map_err(doing)? else {
            self.remove(id).await?;
            return Ok(Found::Gone);
        };
        let cgroup = state.cgroup(id);
        if let Ok(mut stream) = client::connect_in_time(&bundle).await
            && let Ok(Reply::Hello { pid, started, version }) =
                client::ask_in_time(&mut stream, &Request::Hello).await
        {
            if !started {
                self.remove(id).await?;
                return Ok(Found::Gone);
            }
            let asked = wire::encode(&Request::Wait, &[]).map_err(doing)?;
            if stream.write_all(&asked).await.is_ok() {
                let (id, other_runtime) = (id.to_owned(), state.runtime.is_some());
                let known = Known { id, bundle, pid, cgroup, other_runtime, shim_version: version };
                return Ok(Found::Running(supervise(known, stream, None)));
            }
        }
        Ok(Found::Exited(settle(&bundle, &cgroup).await))
    }

    /// Ids of all containers that have a bundle here (running, exited, or left over by a crash).
    ///
    /// # Errors
    /// When the exec root cannot be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        let root = &self.inner.config.exec_root;
        let doing = |e: io::Error| failed(format!("cannot list {}", root.display()), e);
        let mut ids = Vec::new();
        for entry in fs::read_dir(root).map_err(doing)? {
            let entry = entry.map_err(doing)?;
            if let Some(id) = entry.file_name().to_str().filter(|id| self.bundle(id).is_ok())
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
            {
                ids.push(id.to_owned());
            }
        }
        Ok(ids)
    }

    /// Removes what is left of an exited or never started container (kills it and its shim if there are any):
    /// bundle, cgroup, shim. Succeeds when there is nothing. The mounts of one that has just ended go a moment later.
    ///
    /// # Errors
    /// When something resists; the rest is removed all the same.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let bundle = self.bundle(id)?;
        if !bundle.exists() {
            return Ok(());
        }
        end_shim(&bundle).await;
        let config = &self.inner.config;
        let default = || State {
            cgroup_parent: config.cgroup_parent.clone(),
            cgroup_driver: config.cgroup_driver,
            runtime: None,
        };
        let state = state::read_state(&bundle).ok().flatten().unwrap_or_else(default);
        if let Some(runtime) = &state.runtime {
            delete_by(runtime, &bundle, id).await;
        }
        let cgroup = state.cgroup(id);
        let id = id.to_owned();
        let work = move || {
            let cgroup = cgroup.remove().map_err(RuntimeError::from);
            let dir = remove_dir(&bundle)
                .map_err(|error| failed(format!("cannot remove {}", bundle.display()), error));
            cgroup.and(dir)
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(failed(format!("cannot remove container {id}"), error)))
    }

    /// Directory of container `id`, which must be a plain name.
    fn bundle(&self, id: &str) -> Result<PathBuf> {
        let plain = !id.is_empty()
            && id.len() <= 128
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if plain {
            Ok(self.inner.config.exec_root.join(id))
        } else {
            Err(RuntimeError::Other(format!("invalid container id {id:?}")))
        }
    }
}

/// Removes a bundle, in which whoever watched over a killed shim may be writing down the exit just now.
fn remove_dir(bundle: &Path) -> io::Result<()> {
    let mut attempts = 0..3;
    loop {
        match fs::remove_dir_all(bundle) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && attempts.next().is_some() => {}
            result => return result,
        }
    }
}

/// The program as a file that cannot be written to by whoever runs it: a read-only mount of it that is
/// attached nowhere, or, where the kernel cannot do that, a sealed copy in memory.
fn protected(exe: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mounted = rustix::mount::open_tree(CWD, exe, flags).map_err(io::Error::from).and_then(|fd| {
        mount_setattr(fd.as_fd(), MountAttr { set: RDONLY, ..MountAttr::default() }, false)?;
        Ok(fd)
    });
    if mounted.is_ok() {
        return mounted;
    }
    let copy = rustix::fs::memfd_create("hostd-shim", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(exe)?, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

/// Sees to it that a shim that has failed ends, and reaps it.
async fn end(mut shim: Child) {
    if tokio::time::timeout(PATIENCE, shim.wait()).await.is_err() {
        // What it has cloned is killed along with the cgroup.
        let _ = shim.start_kill();
        // One that is stuck in the kernel dies when the kernel lets it; tokio reaps it then.
        let _ = tokio::time::timeout(PATIENCE, shim.wait()).await;
    }
}

/// Has another runtime take down what it still knows of a container, whose shim could not see to that.
async fn delete_by(runtime: &OciRuntime, bundle: &Path, id: &str) {
    let state = bundle.join("runtime");
    if !fs::read_dir(&state).is_ok_and(|mut entries| entries.next().is_some()) {
        return;
    }
    let mut command = Command::new(&runtime.path);
    command.args(&runtime.args).arg("--root").arg(&state).args(["delete", "--force", id]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.status()).await {
        Ok(Ok(status)) if status.success() => {}
        // Its processes end with the cgroup, its state goes with the bundle.
        outcome => {
            tracing::warn!(id, runtime = runtime.name, ?outcome, "a runtime cannot delete a container")
        }
    }
}

/// Waits for a shim of ours to end, and reaps it.
async fn ended(mut shim: Child) {
    if let Err(error) = shim.wait().await {
        tracing::warn!(%error, "cannot reap a shim");
    }
}

/// What is known about a container that has a shim.
struct Known {
    id: String,
    bundle: PathBuf,
    pid: i32,
    cgroup: Cgroup,
    other_runtime: bool,
    shim_version: u32,
}

/// Watches over a container whose shim answers on `stream` when it has ended.
fn supervise(known: Known, mut stream: UnixStream, shim: Option<Child>) -> Container {
    let (tell, exit) = watch::channel(None);
    let (tell_oom, ooms) = watch::channel(0);
    let Known { id, bundle, pid, cgroup, other_runtime, shim_version } = known;
    let (directory, own) = (bundle.clone(), cgroup.clone());
    let inner = Inner { id, bundle: directory, pid, cgroup: own, other_runtime, shim_version, exit, ooms };
    tokio::spawn(async move {
        let asked = match (&shim, wire::encode(&Request::Wait, &[])) {
            (Some(_), Ok(frame)) => stream.write_all(&frame).await,
            // One that was found again was asked when it was.
            _ => Ok(()),
        };
        let told = if asked.is_ok() { until_exit(&mut stream, &tell_oom).await } else { None };
        let exit = match told {
            Some(record) => record.into(),
            None => settle(&bundle, &cgroup).await,
        };
        tell.send_replace(Some(exit));
        drop(stream);
        if let Some(shim) = shim {
            ended(shim).await;
        }
    });
    Container { inner: Arc::new(inner) }
}

/// Reads what a shim has to tell until its container has ended; `None` where the shim itself has.
async fn until_exit(stream: &mut UnixStream, ooms: &watch::Sender<u64>) -> Option<ExitRecord> {
    while let Ok(Some(text)) = wire::read_text(stream).await {
        match serde_json::from_slice(&text) {
            Ok(Reply::Exited(record)) => return Some(record),
            Ok(Reply::OutOfMemory(count)) => drop(ooms.send_replace(count)),
            // News of a younger shim's, which is no reason to give its container up.
            Ok(_) | Err(_) => {}
        }
    }
    None
}

/// How a container without shim ended: as its shim wrote down, or else it is killed now.
async fn settle(bundle: &Path, cgroup: &Cgroup) -> Exit {
    if let Ok(Some(record)) = state::read_exit(bundle) {
        return record.into();
    }
    let (bundle, cgroup) = (bundle.to_owned(), cgroup.clone());
    let work = move || {
        tracing::warn!(bundle = %bundle.display(), "the shim is gone: killing what is left of its container");
        if let Err(error) = cgroup.remove() {
            tracing::warn!(error = chain(&error), "cannot remove a cgroup");
        }
        let record = ExitRecord::now(137, false);
        if bundle.exists()
            && let Err(error) = state::write_exit(&bundle, &record)
        {
            tracing::warn!(%error, "cannot write down how a container ended");
        }
        record.into()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(exit) => exit,
        Err(_) => ExitRecord::now(137, false).into(),
    }
}

/// Asks a bundle's shim, if there is one, to kill its container and end; kills it when it does not.
async fn end_shim(bundle: &Path) {
    let Ok(mut stream) = client::connect(bundle) else { return };
    let pidfd = stream
        .peer_cred()
        .ok()
        .and_then(|peer| Pid::from_raw(peer.pid()?))
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    let quit = async {
        client::ask(&mut stream, &Request::Quit).await?;
        // It answers, kills, and closes the connection by ending.
        stream.read(&mut [0]).await
    };
    let in_time = tokio::time::timeout(PATIENCE, quit).await.is_ok();
    if let (false, Some(pidfd)) = (in_time, pidfd) {
        tracing::warn!(bundle = %bundle.display(), "the shim does not end: killing it");
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    }
}
