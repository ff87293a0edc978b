//! Reading a container's log: the json-file that its shim writes, and the rotated elders beside it.
//!
//! A task reads in large steps on a thread that may block, decodes (`decode`), and hands chunks to the client's stream;
//! it never runs ahead of the client by more than a few chunks. Following is inotify on the log's directory, set up before the
//! first read, so that nothing slips between; it ends with the run.

mod decode;
mod reader;

use crate::Engine;
use crate::container::Container;
use crate::error::{EngineError, Result, io, joined};
use bytes::Bytes;
use decode::Wanted;
use futures_util::stream::{self, BoxStream, StreamExt};
use reader::{Reader, Step};
use rustix::fs::inotify;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
    /// Put attributes of the log before each line; this driver has none.
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
        if record.log_path.is_empty() {
            return Err(EngineError::unsupported("configured logging driver does not support reading"));
        }
        let tty = record.config.tty;
        let (chunks, stream) = mpsc::channel(CHUNKS);
        let follow = if options.follow && record.state.status.is_up() {
            Some(Follow::new(&container, Path::new(&record.log_path), options.until)?)
        } else {
            None
        };
        let wanted = Wanted::new(&options, !tty);
        let (path, tail) = (PathBuf::from(&record.log_path), options.tail);
        tokio::spawn(async move {
            if let Err(error) = send(path, tail, wanted, follow, &chunks).await {
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
    tail: Option<usize>,
    wanted: Wanted,
    mut follow: Option<Follow>,
    chunks: &mpsc::Sender<Result<Bytes>>,
) -> Result<()> {
    let label = format!("cannot read the log {}", path.display());
    let opened =
        tokio::task::spawn_blocking(move || Reader::open(&path, tail, wanted)).await.map_err(joined)?;
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
            Step::Chunk(bytes) => {
                if !bytes.is_empty() && chunks.send(Ok(bytes)).await.is_err() {
                    return Ok(());
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
    container: Arc<Container>,
    ends: tokio::sync::watch::Receiver<crate::container::Ends>,
    inotify: AsyncFd<OwnedFd>,
    until: Option<OffsetDateTime>,
}

impl Follow {
    fn new(container: &Arc<Container>, log: &Path, until: Option<OffsetDateTime>) -> Result<Self> {
        use inotify::{CreateFlags, WatchFlags};
        let dir = log.parent().unwrap_or(Path::new("/"));
        // Its successor is unsafe because a type may lie about its descriptor; `OwnedFd` does not.
        #[expect(deprecated)]
        let watch = || -> std::io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            inotify::add_watch(&fd, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
            AsyncFd::new(fd)
        };
        let inotify = watch().map_err(io(format!("cannot watch {}", dir.display())))?;
        Ok(Self { container: Arc::clone(container), ends: container.ends.subscribe(), inotify, until })
    }

    /// Waits; `false` when what is there now is the last of it.
    async fn more(&mut self) -> bool {
        if !self.container.record().state.status.is_up() {
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
            // A restart policy's next run goes on in the same log.
            changed = self.ends.changed() => changed.is_ok() && self.container.record().state.status.is_up(),
            () = tokio::time::sleep(left) => false,
        }
    }
}
