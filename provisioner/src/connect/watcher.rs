//! A process beside each machine whose ports are forwarded: it follows what containers do, whoever starts them, and brings
//! the forwards in step.
//!
//! ```text
//! machines/<name>/forwarder.lock   held while it runs: there is one at most
//! machines/<name>/forwarder.log    what it has done
//! ```
//! It ends by itself when its machine stops or goes. Any command that finds it gone starts another, so that nobody has to
//! think of it; and as what is to be forwarded follows from the engine alone, it may be killed at any time.

use super::Forwarder;
use crate::error::{CliError, Doing as _};
use crate::store::{Machine, MachineName, Stage, Store};
use drivers::driver::MachineState;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};
use tokio::time::Instant;

const LOCK: &str = "forwarder.lock";
const LOG: &str = "forwarder.log";
/// A log that is larger when the process starts begins anew.
const MOST_LOG: u64 = 1 << 20;
/// An event is shorter.
const MOST_EVENT: u64 = 1 << 20;
/// Pause before the engine is asked again after it was lost.
const PAUSE: Duration = Duration::from_millis(300);
/// How often it is looked whether the machine still has its name, and whether ports that were taken are free.
const LOOK: Duration = Duration::from_secs(2);
/// How long the process may take to notice that its machine is down.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Events after which other ports may be published than before.
const EVENTS: &str = r#"{"type":["container"],"event":["start","die","destroy","restart"]}"#;

/// Sees to it that the process runs, where the machine's ports are forwarded. That it cannot be started is no failure of the
/// command that wants it.
pub(crate) fn watch_ports(machine: &Machine) {
    let needed = machine.record.state == Stage::Ready
        && machine.driver().is_ok_and(|driver| driver.features().forwards_ports);
    if needed && let Err(error) = ensure(machine) {
        let error = CliError::new("ports that containers publish do not reach this computer by themselves")
            .because(error);
        crate::ui::stderr(&format!("warning: {}", error.one_line()));
    }
}

fn ensure(machine: &Machine) -> io::Result<()> {
    if claim(&machine.dir())?.is_none() {
        return Ok(());
    }
    // It is started by a process that ends at once, so that it is nobody's child.
    let mut starter = command(machine)?;
    starter.arg("--detach").stderr(Stdio::null());
    let ended = starter.status()?;
    if ended.success() { Ok(()) } else { Err(io::Error::other(format!("berth ended with {ended}"))) }
}

fn command(machine: &Machine) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["machine", "forwarder", machine.name.as_str()])
        .env("BERTH_HOME", machine.home())
        .env_remove("BERTH_MACHINE")
        .env_remove("BERTH_VIA")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command)
}

/// The lock of a machine's process; `None` where it has it.
fn claim(dir: &Path) -> io::Result<Option<File>> {
    let lock = File::options().write(true).create(true).truncate(false).open(dir.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Waits until the process of a machine that is down has ended.
pub(crate) async fn ended(dir: &Path) {
    let until = Instant::now() + END_LIMIT;
    // A directory that is gone has no process that could be waited for.
    while matches!(claim(dir), Ok(None)) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts the process, and leaves it to itself.
pub(crate) fn detach(machine: &Machine) -> Result<(), CliError> {
    let path = machine.dir().join(LOG);
    let doing = || format!("cannot write {}", path.display());
    let log = File::options().append(true).create(true).open(&path).doing(doing())?;
    if log.metadata().doing(doing())?.len() > MOST_LOG {
        log.set_len(0).doing(doing())?;
    }
    let mut process = command(machine).doing("cannot tell where berth is")?;
    process.stderr(log).spawn().doing("cannot start a process")?;
    Ok(())
}

/// The process itself.
pub(crate) async fn run(name: &MachineName, store: &Store) -> Result<(), CliError> {
    // Not the terminal's any more, which may close. It fails where that is so already.
    let _ = rustix::process::setsid();
    let machine = store.load(name)?;
    let Some(_lock) = claim(&machine.dir()).doing("cannot lock the machine's port forwards")? else {
        return Ok(());
    };
    log("watching");
    let mut told = String::new();
    loop {
        let Some(machine) = running(name, &machine, store).await else { break };
        let followed = tokio::select! {
            followed = follow(&machine) => followed,
            () = renamed(name, store) => break,
        };
        if let Err(error) = followed {
            let error = error.one_line();
            if error != told {
                log(&error);
                told = error;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    log("the machine is down");
    Ok(())
}

/// The machine as it is on record now, unless it is off, or another has its name.
async fn running(name: &MachineName, before: &Machine, store: &Store) -> Option<Machine> {
    let machine = store.load(name).ok()?;
    let state = machine.driver().ok()?.state().await.ok()?;
    let up = !matches!(state, MachineState::Stopped | MachineState::Absent);
    (up && machine.record.id == before.record.id).then_some(machine)
}

/// Until no machine has this name: under its new one, it gets another process.
async fn renamed(name: &MachineName, store: &Store) {
    while store.contains(name) {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Keeps the forwards in step until the engine is lost.
async fn follow(machine: &Machine) -> Result<(), CliError> {
    let engine = super::engine(machine).await.map_err(|e| super::failed("cannot speak to the engine", e))?;
    let forwarder = Forwarder::of(machine)?;
    let filters = percent_encoding::utf8_percent_encode(EVENTS, percent_encoding::NON_ALPHANUMERIC);
    // First listen, then look: what happens between is told.
    let mut events = engine
        .stream(hyper::Method::GET, &format!("/events?filters={filters}"))
        .await
        .map_err(|e| super::failed("cannot follow the engine's events", e))?;
    let mut told = None;
    let mut event = Vec::new();
    loop {
        let failed = forwarder.sync(&engine).await.err().map(|error| error.one_line());
        if failed != told {
            log(failed.as_deref().unwrap_or("all published ports are forwarded"));
            told.clone_from(&failed);
        }
        loop {
            event.clear();
            let mut next = (&mut events).take(MOST_EVENT);
            match tokio::time::timeout(LOOK, next.read_until(b'\n', &mut event)).await {
                Ok(read) => {
                    if read.doing("cannot follow the engine's events")? == 0 {
                        return Ok(());
                    }
                    break;
                }
                // Renamed or removed: whoever did it waits for our end.
                Err(_) if !machine.dir().exists() => return Ok(()),
                // Whoever has a port may have let go of it.
                Err(_) if failed.is_some() => break,
                Err(_) => {}
            }
        }
    }
}

fn log(text: &str) {
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0);
    let now = now.ok().and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok());
    crate::ui::stderr(&format!("{} {text}", now.unwrap_or_default()));
}
