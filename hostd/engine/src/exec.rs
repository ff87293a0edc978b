//! Further processes in a running container.
//!
//! Kept in memory: an exec belongs to the client that made it, and is forgotten some minutes after its end or with its
//! container. The shims keep a note of each, so that another daemon finds those that were started.

use crate::attach::Attached;
use crate::container::Container;
use crate::error::{EngineError, ErrorKind, Result, io};
use crate::health::LeftProbe;
use crate::model::{ContainerRecord, Status};
use crate::recast::Recast;
use crate::whole::whole;
use crate::{Engine, detach, names, spec};
use hostd_runtime::spec::ExecSpec;
use hostd_runtime::{ExecHandle, RuntimeError, Streams};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// How long an ended exec can still be asked about.
const REMEMBER: Duration = Duration::from_secs(300);
/// How long the report of a process's exit may be under way.
const EXIT_REPORT: Duration = Duration::from_secs(2);

/// Whether no process has this pid any more.
fn is_gone(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// What is to run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`, on top of the container's.
    #[serde(skip)]
    pub env: Vec<String>,
    /// The container's when empty.
    pub working_dir: String,
    /// The container's when empty.
    pub user: String,
    /// Give it a pseudo terminal.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Write to its standard input.
    pub attach_stdin: bool,
    /// Read its standard output.
    pub attach_stdout: bool,
    /// Read its standard error.
    pub attach_stderr: bool,
    /// As for attach.
    pub detach_keys: Option<String>,
    /// (rows, columns).
    pub console_size: Option<(u16, u16)>,
}

/// What is known about an exec.
#[derive(Clone, Debug)]
pub struct ExecInfo {
    /// 64 hex digits.
    pub id: String,
    /// Where it runs.
    pub container_id: String,
    /// What was asked for.
    pub request: ExecRequest,
    /// Whether it runs.
    pub running: bool,
    /// Once it has ended.
    pub exit_code: Option<i32>,
    /// Host pid; 0 before the start.
    pub pid: i32,
    /// Whether it is over and will be forgotten.
    pub can_remove: bool,
}

/// How to start it.
#[derive(Clone, Debug, Default)]
pub struct ExecStart {
    /// Do not attach.
    pub detach: bool,
    /// Whether the client expects a terminal's bytes, raw, rather than frames.
    pub tty: bool,
    /// (rows, columns).
    pub console_size: Option<(u16, u16)>,
}

#[derive(Default)]
pub(crate) struct Execs {
    table: Mutex<HashMap<String, Exec>>,
}

struct Exec {
    info: ExecInfo,
    started: bool,
    handle: Option<ExecHandle>,
    ended: Option<Instant>,
}

impl Execs {
    fn with<T>(&self, id: &str, act: impl FnOnce(&mut Exec) -> T) -> Result<T> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let exec = table.get_mut(id);
        exec.map(act).ok_or_else(|| EngineError::not_found(format!("No such exec instance: {id}")))
    }

    fn insert(&self, info: ExecInfo) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, exec| exec.ended.is_none_or(|at| at.elapsed() < REMEMBER));
        table.insert(info.id.clone(), Exec { info, started: false, handle: None, ended: None });
    }

    /// Puts one back that an earlier daemon started.
    fn found(&self, info: ExecInfo, handle: Option<ExecHandle>) {
        let ended = (!info.running).then(Instant::now);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(info.id.clone(), Exec { info, started: true, handle, ended });
    }

    /// Ids of those of a container that are not over.
    fn ids(&self, container: &str) -> Vec<String> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let of = table.values().filter(|exec| exec.info.container_id == container && exec.ended.is_none());
        of.map(|exec| exec.info.id.clone()).collect()
    }

    /// Those that never started never will.
    pub(crate) fn container_ended(&self, container: &str) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, exec| exec.started || exec.info.container_id != container);
    }

    pub(crate) fn forget_container(&self, container: &str) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, exec| exec.info.container_id != container);
    }

    fn end(&self, id: &str, code: i32) {
        let _ = self.with(id, |exec| {
            exec.info.running = false;
            exec.info.can_remove = true;
            exec.info.exit_code = Some(code);
            exec.handle = None;
            exec.ended = Some(Instant::now());
        });
    }
}

/// A command as events name it. Docker puts a space behind the program even where nothing follows, and scripts match that.
fn in_events(command: &[String]) -> String {
    let (program, args) = command.split_first().map_or(("", &[][..]), |(p, args)| (p.as_str(), args));
    format!("{program} {}", args.join(" "))
}

fn again(info: &ExecInfo) -> EngineError {
    let state = if info.running { "is already running" } else { "has already run" };
    EngineError::conflict(format!("Error: Exec command {} {state}", info.id))
}

/// Docker's refusals.
fn check_runs(container: &Container) -> Result<hostd_runtime::Container> {
    let id = &container.id;
    match container.record().state.status {
        Status::Paused => {
            Err(EngineError::conflict(format!("Container {id} is paused, unpause the container before exec")))
        }
        Status::Restarting => Err(EngineError::conflict(format!(
            "Container {id} is restarting, wait until the container is running"
        ))),
        Status::Running => container.live(),
        _ => Err(EngineError::conflict(format!("container {id} is not running"))),
    }
}

impl Engine {
    /// Registers a further process for a running container.
    pub async fn exec_create(&self, name: &str, request: ExecRequest) -> Result<String> {
        let container = self.container(name)?;
        check_runs(&container)?;
        if request.cmd.is_empty() {
            return Err(EngineError::invalid("No exec command specified"));
        }
        if !request.working_dir.is_empty() && !request.working_dir.starts_with('/') {
            return Err(EngineError::invalid(format!(
                "OCI runtime exec failed: exec failed: Cwd must be an absolute path: {}",
                request.working_dir
            )));
        }
        detach::parse(request.detach_keys.as_deref())?;
        let id = names::random_id()?;
        let action = format!("exec_create: {}", in_events(&request.cmd));
        self.0.execs.insert(ExecInfo {
            id: id.clone(),
            container_id: container.id.clone(),
            request,
            running: false,
            exit_code: None,
            pid: 0,
            can_remove: false,
        });
        self.tell(&container, action, &[("execID", id.clone())]);
        Ok(id)
    }

    /// Whether it can be started: what [`Engine::exec_start`] refuses before it does anything.
    pub fn exec_check(&self, id: &str) -> Result<ExecInfo> {
        let (info, started) = self.0.execs.with(id, |exec| (exec.info.clone(), exec.started))?;
        check_runs(&*self.container(&info.container_id)?)?;
        if started { Err(again(&info)) } else { Ok(info) }
    }

    /// Starts it.
    pub async fn exec_start(&self, id: &str, start: ExecStart) -> Result<Attached> {
        let (engine, id) = (self.clone(), id.to_owned());
        whole(async move { engine.start_exec(&id, start).await }).await
    }

    async fn start_exec(&self, id: &str, start: ExecStart) -> Result<Attached> {
        let info = self.0.execs.with(id, |exec| exec.info.clone())?;
        let container = self.container(&info.container_id)?;
        let live = check_runs(&container)?;
        let started = self.0.execs.with(id, |exec| std::mem::replace(&mut exec.started, true))?;
        if started {
            return Err(again(&info));
        }
        let request = &info.request;
        let streams = (!start.detach).then_some(Streams {
            stdin: request.attach_stdin,
            stdout: request.attach_stdout,
            stderr: request.attach_stderr,
        });
        let record = container.record();
        let linked = self.linked_environment(&record).unwrap_or_default();
        let spec = exec_spec(&info, &record, linked, start.console_size);
        self.tell(
            &container,
            format!("exec_start: {}", in_events(&request.cmd)),
            &[("execID", id.to_owned())],
        );
        let exec = match live.exec(spec, streams).await {
            Ok(exec) => exec,
            Err(error) => {
                let code = if let RuntimeError::Exec { code, .. } = &error { *code } else { 126 };
                self.0.execs.end(id, code);
                return Err(error.into());
            }
        };
        let handle = exec.handle.clone();
        self.0.execs.with(id, |known| {
            known.info.running = true;
            known.info.pid = exec.pid;
            known.handle = Some(exec.handle);
        })?;
        self.watch_exec(&container, id, handle);
        let stream = match (streams, exec.stream) {
            (Some(streams), Some(stream)) => {
                let stream = self.exec_stream(&container, request, streams, stream)?;
                match Recast::between(request.tty, start.tty) {
                    Some(recast) => Some(recast.bridge(stream)?),
                    None => Some(stream),
                }
            }
            _ => None,
        };
        Ok(Attached { tty: start.tty, replay: None, stream })
    }

    fn exec_stream(
        &self,
        container: &Arc<Container>,
        request: &ExecRequest,
        streams: Streams,
        stream: UnixStream,
    ) -> Result<UnixStream> {
        if !(request.tty && streams.stdin) {
            return Ok(stream);
        }
        let keys = detach::parse(request.detach_keys.as_deref())?;
        let (theirs, ours) = UnixStream::pair().map_err(io("cannot make a socket pair"))?;
        let (engine, container) = (self.clone(), Arc::clone(container));
        detach::bridge(ours, stream, Some(keys), move || engine.tell(&container, "exec_detach", &[]));
        Ok(theirs)
    }

    /// Finds the execs of a container again that an earlier daemon started; what was created and never started is
    /// forgotten, as by Docker. Gives the probes of health checks that are under way.
    pub(crate) async fn take_up_execs(
        &self,
        container: &Arc<Container>,
        live: &hostd_runtime::Container,
    ) -> Vec<LeftProbe> {
        // A shim of an older version cannot tell.
        let Ok(found) = live.execs().await else { return Vec::new() };
        let mut probes = Vec::new();
        for exec in found {
            let Ok(request) = serde_json::from_str(&exec.note) else {
                probes.extend(LeftProbe::of(exec));
                continue;
            };
            let info = ExecInfo {
                id: exec.id.clone(),
                container_id: container.id.clone(),
                request,
                running: exec.exit.is_none(),
                exit_code: exec.exit.map(|exit| exit.code),
                pid: exec.pid,
                can_remove: exec.exit.is_some(),
            };
            let running = info.running;
            self.0.execs.found(info, running.then(|| exec.handle.clone()));
            if running {
                self.watch_exec(container, &exec.id, exec.handle);
            }
        }
        probes
    }

    fn watch_exec(&self, container: &Arc<Container>, id: &str, handle: ExecHandle) {
        let (engine, container, id) = (self.clone(), Arc::clone(container), id.to_owned());
        tokio::spawn(async move {
            let exit = tokio::select! {
                exit = handle.wait() => exit,
                () = engine.0.closing.cancelled() => return,
            };
            let code = exit.map_or(255, |exit| exit.code);
            engine.0.execs.end(&id, code);
            engine.tell(&container, "exec_die", &[("execID", id), ("exitCode", code.to_string())]);
        });
    }

    /// Sets the size of its terminal.
    pub async fn exec_resize(&self, id: &str, rows: u16, cols: u16) -> Result<()> {
        let (handle, tty) = self.0.execs.with(id, |exec| (exec.handle.clone(), exec.info.request.tty))?;
        let handle = handle.ok_or_else(|| {
            EngineError::new(
                ErrorKind::Conflict,
                format!("exec {id} is not running, its terminal has no size"),
            )
        })?;
        match spec::tty_size((rows, cols)).filter(|_| tty) {
            Some(size) => Ok(handle.resize(size).await?),
            None => Ok(()),
        }
    }

    /// What is known about an exec.
    ///
    /// A client asks as soon as its stream has ended; where the process is gone and its exit not heard of yet,
    /// the answer waits for it.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInfo> {
        let (mut info, handle) = self.0.execs.with(id, |exec| (exec.info.clone(), exec.handle.clone()))?;
        if let Some(handle) = handle.filter(|_| info.running && is_gone(info.pid))
            && let Ok(Ok(exit)) = tokio::time::timeout(EXIT_REPORT, handle.wait()).await
        {
            info.running = false;
            info.can_remove = true;
            info.exit_code = Some(exit.code);
        }
        // An exec dies with its container; its own end may be heard of a moment later.
        if info.running && self.container(&info.container_id).is_ok_and(|c| c.live_now().is_none()) {
            info.running = false;
            info.exit_code.get_or_insert(137);
        }
        Ok(info)
    }

    /// Ids of a container's execs that are not over.
    pub fn exec_ids(&self, id: &str) -> Vec<String> {
        self.0.execs.ids(id)
    }
}

/// What the shim keeps for a daemon after this one. Bounded: it keeps many.
fn note(request: &ExecRequest) -> String {
    const LONGEST: usize = 16 << 10;
    let write = |request: &ExecRequest| serde_json::to_string(request).unwrap_or_default();
    let whole = write(request);
    if whole.len() <= LONGEST {
        return whole;
    }
    let program = request.cmd.first().map(|name| name.chars().take(256).collect());
    write(&ExecRequest {
        cmd: program.into_iter().collect(),
        working_dir: String::new(),
        detach_keys: None,
        ..request.clone()
    })
}

fn exec_spec(
    info: &ExecInfo,
    record: &ContainerRecord,
    linked: Vec<String>,
    console_size: Option<(u16, u16)>,
) -> ExecSpec {
    let request = &info.request;
    let mut env = spec::environment(record, linked);
    if request.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    spec::override_env(&mut env, &request.env);
    let or = |own: &String, default: &String| if own.is_empty() { default.clone() } else { own.clone() };
    ExecSpec {
        note: note(request),
        id: info.id.clone(),
        args: request.cmd.clone(),
        env,
        cwd: or(&request.working_dir, &record.config.working_dir),
        user: or(&request.user, &record.config.user),
        tty: request.tty,
        console_size: console_size.or(request.console_size).and_then(spec::tty_size),
        stdin: request.attach_stdin,
        privileged: request.privileged,
    }
}
