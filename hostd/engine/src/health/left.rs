//! A probe that an earlier daemon left under way: it gets what is left of its timeout, and its result counts. What it
//! printed went with the daemon that read it.

use super::{Probe, end, exceeded};
use crate::Engine;
use crate::container::Container;
use crate::error::EngineError;
use crate::model::ProbeResult;
use hostd_runtime::FoundExec;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// What the shim keeps of a probe.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// When it was started, in nanoseconds since 1970.
    probe_started: i64,
}

pub(super) fn note(start: OffsetDateTime) -> String {
    let nanoseconds = i64::try_from(start.unix_timestamp_nanos()).unwrap_or(i64::MAX);
    serde_json::to_string(&Note { probe_started: nanoseconds }).unwrap_or_default()
}

/// A probe that runs.
#[derive(Debug)]
pub(crate) struct LeftProbe {
    exec: FoundExec,
    start: OffsetDateTime,
}

impl LeftProbe {
    /// `None` where the exec is none, or has ended: then its result is on record, or was lost with its daemon.
    pub(crate) fn of(exec: FoundExec) -> Option<Self> {
        let note: Note = serde_json::from_str(&exec.note).ok()?;
        let start = OffsetDateTime::from_unix_timestamp_nanos(note.probe_started.into()).ok()?;
        exec.exit.is_none().then_some(Self { exec, start })
    }

    /// Where nobody waits for its result.
    pub(crate) async fn kill(&self, live: &hostd_runtime::Container) {
        if let Err(error) = live.kill_exec(&self.exec.id).await {
            tracing::debug!(exec = self.exec.id, %error, "cannot kill a health check");
        }
    }
}

impl Engine {
    /// Sees those that are left to their end; `false` once the run that they are about is over.
    pub(super) async fn see_out(
        &self,
        container: &Container,
        live: &hostd_runtime::Container,
        probe: &Probe,
        run: OffsetDateTime,
        stop: &CancellationToken,
        left: Vec<LeftProbe>,
    ) -> bool {
        for left in left {
            let result = tokio::select! {
                result = self.result_of(container, live, probe, &left) => result,
                () = stop.cancelled() => {
                    // Its run is over or it is frozen; a daemon that goes leaves it alone.
                    if !self.0.closing.is_cancelled() {
                        left.kill(live).await;
                    }
                    return false;
                }
            };
            if !self.note_probe(container, probe, run, result).await {
                return false;
            }
        }
        true
    }

    async fn result_of(
        &self,
        container: &Container,
        live: &hostd_runtime::Container,
        probe: &Probe,
        left: &LeftProbe,
    ) -> ProbeResult {
        let id = &left.exec.id;
        let age = OffsetDateTime::now_utc() - left.start;
        let patience = probe.timeout.saturating_sub(age.try_into().unwrap_or_default());
        let (exit_code, output) = match tokio::time::timeout(patience, left.exec.handle.wait()).await {
            Ok(Ok(exit)) => (exit.code, String::new()),
            Ok(Err(error)) => (-1, EngineError::from(error).chain()),
            Err(_) => {
                end(live, id).await;
                (-1, exceeded(probe.timeout, ""))
            }
        };
        self.probe_ended(container, id, left.start, exit_code, output)
    }
}
