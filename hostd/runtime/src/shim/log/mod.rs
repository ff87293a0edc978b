//! What becomes of a container's output besides being streamed: a file that can be read back, a service, or both.
//!
//! ```text
//! read from the container ──▶ lines ──▶ file (json-file, local, or the cache of a service)
//!                        └──▶ courier, a process of its own ──▶ lines ──▶ syslog, journald; a file that must not block
//! ```
//! The shim has one thread, and a service may keep a writer waiting for as long as it likes: so it has a *courier*,
//! a fork of the shim that may block. A courier that falls behind holds the container back, or has output dropped
//! (`mode=non-blocking`); the shim itself never waits for it before the container has ended. One that dies is replaced.

mod courier;
mod dial;
mod file;
mod journald;
mod json;
mod lines;
mod local;
mod syslog;

use crate::spec::{Log, LogFile, LogService};
use crate::wire::{Attempt, Doing, Failure};
use courier::Courier;
use file::FileLog;
use hostd_sys::fork::SingleThreaded;
use lines::{Lines, Piece};
use std::os::fd::BorrowedFd;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A container's log.
#[derive(Debug)]
pub(super) struct Logger {
    file: Option<(Lines, FileLog)>,
    courier: Option<Courier>,
    /// Whether writing has failed, which is told once.
    failed: bool,
}

impl Logger {
    /// Opens what `log` names; `None` where that is nothing. Connects to a service, so that a container does not
    /// start whose log has nowhere to go.
    pub(super) fn open(log: &Log, proof: SingleThreaded) -> Attempt<Option<Self>> {
        let (file, target) = match (log.file.clone(), log.service.clone()) {
            (file, Some(service)) => (file, Some(Target::Service(service))),
            (file, None) if log.buffer.is_some() => (None, file.map(Target::File)),
            (file, None) => (file, None),
        };
        let file = file.map(|spec| open_file(&spec, proof)).transpose()?;
        let courier = target.map(|target| Courier::start(proof, log.buffer, target)).transpose()?;
        let file = file.map(|file| (Lines::default(), file));
        let any = file.is_some() || courier.is_some();
        Ok(any.then_some(Self { file, courier, failed: false }))
    }

    /// Takes what was printed on stdout (`stream` 1) or stderr (2).
    pub(super) fn add(&mut self, stream: u8, data: &[u8]) {
        let time = now();
        if let Some((lines, file)) = &mut self.file {
            lines.feed(stream, data, time, |piece| file.piece(&piece));
            let written = file.flush();
            self.complain(written);
        }
        if let Some(courier) = &mut self.courier {
            courier.take(stream, data, time);
        }
    }

    /// A full disk must not stop the container: what cannot be logged is lost, as with Docker, and that is said once.
    fn complain(&mut self, written: std::io::Result<()>) {
        if let Err(error) = written
            && !std::mem::replace(&mut self.failed, true)
        {
            eprintln!("hostd shim: cannot write the log: {error}");
        }
    }

    /// Whether the container has to wait until a service has taken what it was sent.
    pub(super) fn holds_back(&self) -> bool {
        self.courier.as_ref().is_some_and(Courier::holds_back)
    }

    /// What to poll for being writable, if anything.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.courier.as_ref().and_then(Courier::waits_for)
    }

    /// When something is to be done about a courier that has died.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.courier.as_ref().and_then(Courier::deadline)
    }

    /// Does what is due.
    pub(super) fn look_after(&mut self, now: Instant) {
        if let Some(courier) = &mut self.courier {
            courier.look_after(now);
        }
    }

    /// Sends on what was waited for.
    pub(super) fn flush(&mut self) {
        if let Some(courier) = &mut self.courier {
            courier.flush();
        }
    }

    /// Writes what is left of last lines without end, and waits until a service has it all (for so long, no longer).
    pub(super) fn finish(mut self) {
        if let Some((mut lines, mut file)) = self.file.take() {
            lines.finish(|piece| file.piece(&piece));
            let written = file.flush();
            self.complain(written);
        }
        if let Some(courier) = self.courier {
            courier.finish();
        }
    }
}

/// Where pieces of output go.
trait Sink {
    /// Takes a piece; it may be kept back until the next flush.
    fn piece(&mut self, piece: &Piece<'_>);
    /// Sends on all that was kept back.
    fn flush(&mut self) -> std::io::Result<()>;
}

/// What a courier writes to.
#[derive(Debug)]
enum Target {
    Service(LogService),
    File(LogFile),
}

impl Target {
    /// Opens it. A service that cannot be reached is an error for the `first` courier; later ones drop messages until
    /// they reach it.
    fn open(&self, first: bool, proof: SingleThreaded) -> Attempt<Box<dyn Sink>> {
        let opened: Result<Box<dyn Sink>, String> = match self {
            Self::File(spec) => return Ok(Box::new(open_file(spec, proof)?)),
            Self::Service(LogService::Syslog(spec)) => {
                syslog::Syslog::open(spec, first).map(|sink| Box::new(sink) as Box<dyn Sink>)
            }
            Self::Service(LogService::Journald(spec)) => {
                journald::Journald::open(spec, first).map(|sink| Box::new(sink) as Box<dyn Sink>)
            }
        };
        opened.map_err(|message| Failure { logging: true, ..Failure::new(message) })
    }
}

fn open_file(spec: &LogFile, proof: SingleThreaded) -> Attempt<FileLog> {
    FileLog::open(spec, Some(proof)).doing(|| format!("open the log {}", spec.path.display()))
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
