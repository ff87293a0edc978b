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
mod template;

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
/// How often a log is looked at that cannot be watched.
const LOOK: Duration = Duration::from_millis(200);

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
    /// `None` where there are no more to be had.
    inotify: Option<AsyncFd<OwnedFd>>,
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
        let inotify = unless_used_up(watch()).map_err(io(format!("cannot watch {}", dir.display())))?;
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
            more = touched(self.inotify.as_ref()) => more,
            changed = self.ends.changed() => changed.is_ok() && self.ends.borrow().count == self.runs,
            () = tokio::time::sleep(left) => false,
        }
    }
}

/// The kernel gives a user only so many watches (`fs.inotify.max_user_instances`, 128 as a rule, for all of root's
/// programs together): more clients than that are to follow logs all the same.
fn unless_used_up<T>(watch: std::io::Result<T>) -> std::io::Result<Option<T>> {
    use rustix::io::Errno;
    let used_up = |error: &std::io::Error| {
        matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOSPC))
    };
    match watch {
        Err(error) if used_up(&error) => Ok(None),
        watch => watch.map(Some),
    }
}

/// Waits until something was written, or may have been; `false` where that cannot be told any more.
async fn touched(inotify: Option<&AsyncFd<OwnedFd>>) -> bool {
    let Some(inotify) = inotify else {
        tokio::time::sleep(LOOK).await;
        return true;
    };
    let Ok(mut ready) = inotify.readable().await else { return false };
    let mut buffer = [0_u8; 4096];
    while rustix::io::read(inotify.get_ref(), &mut buffer).is_ok_and(|n| n > 0) {}
    ready.clear_ready();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[tokio::test]
    async fn a_log_is_followed_to_its_end_where_no_more_watches_are_to_be_had() {
        for used_up in [Errno::MFILE, Errno::NOSPC] {
            assert!(unless_used_up::<()>(Err(used_up.into())).unwrap().is_none());
        }
        assert!(unless_used_up::<()>(Err(Errno::ACCESS.into())).is_err());
        let container = Container::new(crate::container::tests::record("aa", "web"));
        let ends = container.ends.subscribe();
        let mut follow = Follow { runs: 0, ends, inotify: None, until: None };
        assert!(follow.more().await, "there may be something to read");
        container.ends.send_modify(|ends| ends.count += 1);
        assert!(!follow.more().await, "that was the last of it");
    }
}
