//! Attaching to a container's stdio, before its start or while it runs.

use crate::container::{Container, Pending};
use crate::error::{EngineError, Result, io};
use crate::model::Status;
use crate::{Engine, LogOptions, detach};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use hostd_runtime::Streams;
use std::sync::{Arc, PoisonError};
use tokio::net::UnixStream;

/// How to attach.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// Stream what comes from now on.
    pub stream: bool,
    /// Give what was logged before.
    pub logs: bool,
    /// Write to its standard input.
    pub stdin: bool,
    /// Read its standard output.
    pub stdout: bool,
    /// Read its standard error.
    pub stderr: bool,
    /// Docker's notation (`ctrl-p,ctrl-q`); `None` is that default.
    pub detach_keys: Option<String>,
}

/// A stream to stdio. Framed as in Docker's attach unless `tty`. The engine has taken care of detach keys.
pub struct Attached {
    /// Whether the bytes are a terminal's, raw.
    pub tty: bool,
    /// What to send to the client first (`logs=1`).
    pub replay: Option<BoxStream<'static, Result<Bytes>>>,
    /// To the process.
    pub stream: Option<UnixStream>,
}

/// Attachments that may wait for one start.
const MOST_PENDING: usize = 64;

impl Engine {
    /// Attaches to a container; one that does not run yet is connected when it starts.
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<Attached> {
        let container = self.container(name)?;
        let keys = detach::parse(options.detach_keys.as_deref())?;
        let tty = container.record().config.tty;
        let replay = if options.logs {
            let logs = LogOptions { stdout: options.stdout, stderr: options.stderr, ..LogOptions::default() };
            Some(self.logs(&container.id, logs).await?.1)
        } else {
            None
        };
        if !options.stream {
            return Ok(Attached { tty, replay, stream: None });
        }
        let record = container.record();
        let stdin = options.stdin && record.config.open_stdin;
        let streams = Streams { stdin, stdout: options.stdout, stderr: options.stderr };
        let keys = (stdin && tty).then_some(keys);
        let stream = self.attach_stream(&container, streams, keys).await?;
        self.tell(&container, "attach", &[]);
        Ok(Attached { tty, replay, stream: Some(stream) })
    }

    async fn attach_stream(
        &self,
        container: &Arc<Container>,
        streams: Streams,
        keys: Option<Vec<u8>>,
    ) -> Result<UnixStream> {
        // A start that goes on meanwhile is waited for: its attachments are connected before the program runs.
        let _turn = container.turn().await;
        match container.record().state.status {
            Status::Paused => {
                return Err(EngineError::conflict(format!(
                    "container {} is paused, unpause the container before attach",
                    container.id
                )));
            }
            Status::Removing | Status::Dead => {
                return Err(EngineError::conflict(format!("Container {} is not running", container.id)));
            }
            Status::Running | Status::Restarting | Status::Created | Status::Exited => {}
        }
        if let Some(live) = container.live_now() {
            let stream = live.attach(streams).await?;
            if keys.is_none() {
                return Ok(stream);
            }
            let (theirs, ours) = UnixStream::pair().map_err(io("cannot make a socket pair"))?;
            detach::bridge(ours, stream, keys, self.on_detach(container));
            return Ok(theirs);
        }
        let (theirs, ours) = UnixStream::pair().map_err(io("cannot make a socket pair"))?;
        let mut pending = container.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|pending| !hung_up(&pending.stream));
        if pending.len() >= MOST_PENDING {
            return Err(EngineError::conflict(format!(
                "too many clients wait for the start of container {}",
                container.id
            )));
        }
        pending.push(Pending { stream: ours, streams, detach: keys });
        Ok(theirs)
    }

    /// What to do when a client has typed the detach keys.
    pub(crate) fn on_detach(&self, container: &Arc<Container>) -> impl FnOnce() + Send + 'static {
        let (engine, container) = (self.clone(), Arc::clone(container));
        move || engine.tell(&container, "detach", &[])
    }
}

/// Whether the client has gone away altogether (one that only has nothing more to say has not).
fn hung_up(stream: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(stream, PollFlags::HUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}
