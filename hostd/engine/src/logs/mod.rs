//! Logs: which drivers there are and what they take (`options`, `tag`, `setup`), and reading a container's log.
//!
//! What is read is the file that the container's shim writes, json-file or `local`, with its rotated elders (`files`); of
//! a log that a service gets, the cache that is kept beside. A task reads in large steps on a thread that may block,
//! decodes (`entry`, `decode`), and hands chunks to the client's stream; it never runs ahead of the client by more than
//! a few chunks. Following is inotify on the log's directory, set up before the first read, so that nothing slips
//! between; as with Docker it ends with the run, also where a restart follows.

mod decode;
mod entry;
mod files;
mod options;
mod reader;
mod setup;
mod tag;

pub use options::LOG_DRIVERS;
pub(crate) use options::Setup;
pub use setup::LogDefaults;

use crate::Engine;
use crate::container::Container;
use crate::error::{EngineError, Result, io, joined};
use crate::model::Status;
use bytes::Bytes;
use decode::{Format, Wanted};
use futures_util::stream::{self, BoxStream, StreamExt};
use reader::{Reader, Step};
use rustix::fs::inotify;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Which part of a log, and how.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Go on with what is printed from now on, until the run ends.
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Nothing older.
    pub since: Option<OffsetDateTime>,
    /// Nothing newer.
    pub until: Option<OffsetDateTime>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Put the attributes of the log before each line.
    pub details: bool,
    /// The last lines only.
    pub tail: Option<usize>,
}

/// Chunks that may wait for a slow client.
const CHUNKS: usize = 4;

impl Engine {
    /// Whether the container has a terminal (its log is raw then, framed otherwise), and the log.
    pub async fn logs(
        &self,
        name: &str,
        options: LogOptions,
    ) -> Result<(bool, BoxStream<'static, Result<Bytes>>)> {
        let container = self.container(name)?;
        let record = container.record();
        if !(options.stdout || options.stderr) {
            return Err(EngineError::invalid("Bad parameters: you must choose at least one stream"));
        }
        let Some((path, format)) = setup::readable(&record, &self.container_dir(&container.id))? else {
            return Err(EngineError::unsupported("configured logging driver does not support reading"));
        };
        let tty = record.config.tty;
        let (chunks, stream) = mpsc::channel(CHUNKS);
        let follow = if options.follow { Follow::new(&container, &path, options.until)? } else { None };
        let wanted = Wanted::new(&options, !tty);
        let tail = options.tail;
        tokio::spawn(async move {
            if let Err(error) = send(path, format, tail, wanted, follow, &chunks).await {
                let _ = chunks.send(Err(error)).await;
            }
        });
        let stream =
            stream::unfold(stream, |mut stream| async { stream.recv().await.map(|chunk| (chunk, stream)) });
        Ok((tty, stream.boxed()))
    }
}

/// Reads until there is no more, or the client is gone.
async fn send(
    path: PathBuf,
    format: Format,
    tail: Option<usize>,
    wanted: Wanted,
    mut follow: Option<Follow>,
    chunks: &mpsc::Sender<Result<Bytes>>,
) -> Result<()> {
    let label = format!("cannot read the log {}", path.display());
    let opened = tokio::task::spawn_blocking(move || Reader::open(&path, format, tail, wanted))
        .await
        .map_err(joined)?;
    let mut reader = opened.map_err(io(label.clone()))?;
    let mut last_round = follow.is_none();
    loop {
        let (back, step) = tokio::task::spawn_blocking(move || {
            let step = reader.step();
            (reader, step)
        })
        .await
        .map_err(joined)?;
        reader = back;
        match step.map_err(io(label.clone()))? {
            Step::Chunks(step) => {
                for bytes in step.into_iter().filter(|bytes| !bytes.is_empty()) {
                    if chunks.send(Ok(bytes)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Step::Over => return Ok(()),
            Step::CaughtUp => {
                let Some(follow) = follow.as_mut().filter(|_| !last_round) else { return Ok(()) };
                tokio::select! {
                    // What was printed before the end is read in one more round.
                    more = follow.more() => last_round = !more,
                    () = chunks.closed() => return Ok(()),
                }
            }
        }
    }
}

/// Tells when there may be more to read.
struct Follow {
    /// As it was when the run was found running.
    runs: u64,
    ends: tokio::sync::watch::Receiver<crate::container::Ends>,
    inotify: AsyncFd<OwnedFd>,
    until: Option<OffsetDateTime>,
}

impl Follow {
    /// `None` where the container does not run.
    fn new(container: &Container, log: &Path, until: Option<OffsetDateTime>) -> Result<Option<Self>> {
        use inotify::{CreateFlags, WatchFlags};
        let mut ends = container.ends.subscribe();
        let runs = ends.borrow_and_update().count;
        if !matches!(container.record().state.status, Status::Running | Status::Paused) {
            return Ok(None);
        }
        let dir = log.parent().unwrap_or(Path::new("/"));
        // Its successor is unsafe because a type may lie about its descriptor; `OwnedFd` does not.
        #[expect(deprecated)]
        let watch = || -> std::io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            inotify::add_watch(&fd, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
            AsyncFd::new(fd)
        };
        let inotify = watch().map_err(io(format!("cannot watch {}", dir.display())))?;
        Ok(Some(Self { runs, ends, inotify, until }))
    }

    /// Waits; `false` when what is there now is the last of it.
    async fn more(&mut self) -> bool {
        if self.ends.borrow().count != self.runs {
            return false;
        }
        let left = self.until.map_or(Duration::MAX, |until| {
            (until - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO)
        });
        tokio::select! {
            ready = self.inotify.readable() => {
                let Ok(mut ready) = ready else { return false };
                let mut buffer = [0_u8; 4096];
                while rustix::io::read(self.inotify.get_ref(), &mut buffer).is_ok_and(|n| n > 0) {}
                ready.clear_ready();
                true
            }
            changed = self.ends.changed() => changed.is_ok() && self.ends.borrow().count == self.runs,
            () = tokio::time::sleep(left) => false,
        }
    }
}
