//! Stop, restart, kill, pause, rename, resize: what users do to a container that exists.

use crate::container::{Container, NextEnd};
use crate::error::{EngineError, Result};
use crate::model::{ContainerRecord, Happening, RestartPolicy, Status};
use crate::whole::whole;
use crate::{Engine, names, signals, spec};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Whether a call changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It did.
    Now,
    /// It was so before.
    Before,
}

/// How long SIGKILL may take: a process that sleeps in the kernel ends when it wakes up.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Asks a container to end, and kills it when it does not within `timeout` seconds (-1: never).
    pub async fn stop(&self, name: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<Changed> {
        let container = self.container(name)?;
        let signal = signal.filter(|s| !s.is_empty()).map(signals::parse).transpose()?;
        let engine = self.clone();
        whole(async move { engine.stop_container(&container, signal, timeout).await }).await
    }

    async fn stop_container(
        &self,
        container: &Arc<Container>,
        signal: Option<i32>,
        timeout: Option<i64>,
    ) -> Result<Changed> {
        let record = container.record();
        if !record.state.status.is_up() {
            return Ok(Changed::Before);
        }
        let signal = signal.unwrap_or_else(|| stop_signal(&record));
        let timeout = timeout.or(record.config.stop_timeout).unwrap_or(10);
        let patience = u64::try_from(timeout).ok().map(Duration::from_secs);
        self.end_run(container, signal, patience).await?;
        self.tell(container, "stop", &[]);
        Ok(Changed::Now)
    }

    /// Ends the current run on behalf of a user: the restart policy stays out of it. Returns once it has ended.
    pub(crate) async fn end_run(
        &self,
        container: &Arc<Container>,
        signal: i32,
        patience: Option<Duration>,
    ) -> Result<()> {
        let (live, end) = {
            let turn = container.turn().await;
            let record = self.stopped_by_user(container, &turn).await?;
            if record.state.status == Status::Restarting {
                return self.give_up_restart(container, &turn);
            }
            match container.live_now() {
                Some(live) => (live, container.next_end()),
                None => return Ok(()),
            }
        };
        self.end_live(container, &live, end, signal, patience).await
    }

    /// Puts on record that a user ends the run. What a restart policy must respect even after a power cut is worth an
    /// fsync.
    async fn stopped_by_user(
        &self,
        container: &Container,
        turn: &crate::container::Turn<'_>,
    ) -> Result<Arc<ContainerRecord>> {
        let record = container.change(turn, |record| record.state.stopped_by_user = true);
        if record.host.restart_policy != RestartPolicy::No {
            self.0.journal.note(&record)?;
            self.0.db.store(&record).await?;
        }
        Ok(record)
    }

    /// Ends the run of `live`: by `signal`, and by SIGKILL when that takes longer than `patience`.
    async fn end_live(
        &self,
        container: &Arc<Container>,
        live: &hostd_runtime::Container,
        mut end: NextEnd,
        signal: i32,
        patience: Option<Duration>,
    ) -> Result<()> {
        let paused = container.record().state.status == Status::Paused;
        self.tell(container, "kill", &[("signal", signal.to_string())]);
        let sent = live.kill(signal).await;
        if paused {
            // A frozen process acts on no signal.
            let _ = live.unpause().await;
        }
        if sent.is_ok() {
            let in_time = match patience {
                None => {
                    end.wait().await;
                    true
                }
                Some(patience) => tokio::time::timeout(patience, end.wait()).await.is_ok(),
            };
            if in_time {
                return Ok(());
            }
        }
        // One that has ended by itself meanwhile gets no second signal.
        let over = sent.is_err() && ended(live).await;
        if signal != signals::KILL && !over {
            self.tell(container, "kill", &[("signal", signals::KILL.to_string())]);
        }
        if !over && let Err(error) = live.kill(signals::KILL).await {
            // It may have ended by itself a moment ago.
            tracing::debug!(id = container.id, %error, "cannot kill");
        }
        match tokio::time::timeout(KILL_PATIENCE, end.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(EngineError::internal(format!(
                "cannot stop container: {}: tried to kill container, but did not receive an exit event",
                container.id
            ))),
        }
    }

    /// A user stops a container that is between two runs.
    fn give_up_restart(&self, container: &Arc<Container>, turn: &crate::container::Turn<'_>) -> Result<()> {
        let record = container.advance(turn, Happening::Exited, |_| {})?;
        self.note(&record)?;
        container.hurry.notify_waiters();
        container.ends.send_modify(|ends| ends.count += 1);
        Ok(())
    }

    /// Stops a container if it runs, and starts it.
    pub async fn restart(&self, name: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        let container = self.container(name)?;
        let signal = signal.filter(|s| !s.is_empty()).map(signals::parse).transpose()?;
        let engine = self.clone();
        whole(async move { engine.restart_container(&container, signal, timeout).await }).await
    }

    async fn restart_container(
        &self,
        container: &Arc<Container>,
        signal: Option<i32>,
        timeout: Option<i64>,
    ) -> Result<()> {
        // One that is to be removed when it ends does not end for good here.
        container.spared.fetch_add(1, Ordering::AcqRel);
        let restarted = async {
            self.stop_container(container, signal, timeout).await?;
            self.start_container(container).await
        };
        let restarted = restarted.await;
        container.spared.fetch_sub(1, Ordering::AcqRel);
        restarted?;
        self.tell(container, "restart", &[]);
        Ok(())
    }

    /// Stops all containers along with the daemon: each is asked to end, and killed when it does not within its own
    /// time to stop or `patience`. What restart policies say holds when the daemon starts again.
    pub async fn stop_containers(&self, patience: Option<Duration>) {
        self.0.stopping.store(true, Ordering::Release);
        let stops = self.0.index.all().into_iter().map(|container| {
            let engine = self.clone();
            async move { engine.stop_with_daemon(&container, patience).await }
        });
        futures_util::future::join_all(stops).await;
    }

    async fn stop_with_daemon(&self, container: &Arc<Container>, patience: Option<Duration>) {
        let (live, end) = {
            let _turn = container.turn().await;
            let Some(live) = container.live_now() else { return };
            (live, container.next_end())
        };
        let record = container.record();
        let own = u64::try_from(record.config.stop_timeout.unwrap_or(10)).ok().map(Duration::from_secs);
        let patience = [own, patience].into_iter().flatten().min();
        if let Err(error) = self.end_live(container, &live, end, stop_signal(&record), patience).await {
            tracing::warn!(
                id = container.id,
                error = error.chain(),
                "cannot stop a container with the daemon"
            );
        }
    }

    /// Sends a signal, SIGKILL unless told.
    pub async fn kill(&self, name: &str, signal: Option<&str>) -> Result<()> {
        let signal = match signal.filter(|s| !s.is_empty()) {
            Some(signal) => signals::parse(signal)?,
            None => signals::KILL,
        };
        let container = self.container(name)?;
        let not_running = EngineError::conflict(format!(
            "cannot kill container: {name}: container {} is not running",
            container.id
        ));
        let engine = self.clone();
        whole(async move { engine.kill_container(&container, signal, not_running).await }).await
    }

    async fn kill_container(
        &self,
        container: &Arc<Container>,
        signal: i32,
        not_running: EngineError,
    ) -> Result<()> {
        let turn = container.turn().await;
        let record = container.record();
        let Some(live) = container.live_now() else { return Err(not_running) };
        // As Docker: a signal that is to end it counts as stopped by the user.
        if signal == signals::KILL || signal == stop_signal(&record) {
            self.stopped_by_user(container, &turn).await?;
        }
        let mut end = container.next_end();
        if let Err(error) = live.kill(signal).await {
            // Its end is on record in a moment.
            return Err(if ended(&live).await { not_running } else { error.into() });
        }
        // While the turn is held, so that its end is told after it.
        self.tell(container, "kill", &[("signal", signal.to_string())]);
        drop(turn);
        if record.state.status == Status::Paused && signal == signals::KILL {
            let _ = live.unpause().await;
        }
        if signal == signals::KILL {
            // Docker answers once it is dead; a client goes on to remove it.
            let _ = tokio::time::timeout(KILL_PATIENCE, end.wait()).await;
        }
        Ok(())
    }

    /// Freezes all processes.
    pub async fn pause(&self, name: &str) -> Result<()> {
        let (engine, container) = (self.clone(), self.container(name)?);
        whole(async move { engine.pause_container(&container).await }).await
    }

    async fn pause_container(&self, container: &Arc<Container>) -> Result<()> {
        let turn = container.turn().await;
        match container.record().state.status {
            Status::Paused => {
                Err(EngineError::conflict(format!("Container {} is already paused", container.id)))
            }
            Status::Restarting => Err(EngineError::conflict(format!(
                "Container {} is restarting, wait until the container is running",
                container.id
            ))),
            Status::Running => {
                // A frozen probe would only run into its time limit.
                container.set_prober(None);
                if let Err(error) = container.live()?.pause().await {
                    self.watch_health(container, Vec::new());
                    return Err(error.into());
                }
                let record = container.advance(&turn, Happening::Froze, |_| {})?;
                self.note(&record)?;
                self.tell(container, "pause", &[]);
                Ok(())
            }
            _ => Err(EngineError::conflict(format!("Container {} is not running", container.id))),
        }
    }

    /// Thaws them.
    pub async fn unpause(&self, name: &str) -> Result<()> {
        let (engine, container) = (self.clone(), self.container(name)?);
        whole(async move { engine.unpause_container(&container).await }).await
    }

    async fn unpause_container(&self, container: &Arc<Container>) -> Result<()> {
        let turn = container.turn().await;
        if container.record().state.status != Status::Paused {
            return Err(EngineError::conflict(format!("Container {} is not paused", container.id)));
        }
        container.live()?.unpause().await?;
        let record = container.advance(&turn, Happening::Thawed, |_| {})?;
        self.watch_health(container, Vec::new());
        self.note(&record)?;
        self.tell(container, "unpause", &[]);
        Ok(())
    }

    /// Gives a container another name.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let container = self.container(name)?;
        if new_name.is_empty() {
            return Err(EngineError::invalid("Neither old nor new names may be empty"));
        }
        let slashed = format!("/{}", new_name.strip_prefix('/').unwrap_or(new_name));
        let new_name = names::validate(&slashed).map_err(not_allocated)?.to_owned();
        let engine = self.clone();
        whole(async move { engine.rename_container(&container, &new_name).await }).await
    }

    async fn rename_container(&self, container: &Arc<Container>, new_name: &str) -> Result<()> {
        let turn = container.turn().await;
        let old_name = container.record().name.clone();
        if old_name == new_name {
            return Err(EngineError::invalid("Renaming a container with the same name as its current name"));
        }
        self.0.index.reserve(new_name, &container.id).map_err(not_allocated)?;
        let mut renamed = (*container.record()).clone();
        new_name.clone_into(&mut renamed.name);
        if let Err(error) = self.0.db.store(&renamed).await {
            self.0.index.release(new_name);
            // The failed write may still be queued.
            let _ = self.0.db.store_lazily(&container.record());
            return Err(error);
        }
        container.change(&turn, |record| new_name.clone_into(&mut record.name));
        self.0.index.release(&old_name);
        self.tell(container, "rename", &[("oldName", format!("/{old_name}"))]);
        Ok(())
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, name: &str, rows: u16, cols: u16) -> Result<()> {
        let container = self.container(name)?;
        let live = container.live()?;
        // As with Docker, to what has no terminal nothing happens.
        if let Some(size) = spec::tty_size((rows, cols)).filter(|_| container.record().config.tty) {
            live.resize(size).await?;
        }
        self.tell(&container, "resize", &[("height", rows.to_string()), ("width", cols.to_string())]);
        Ok(())
    }
}

/// Whether it has ended, be it that this is not on record yet.
async fn ended(live: &hostd_runtime::Container) -> bool {
    let live = live.clone();
    tokio::task::spawn_blocking(move || live.has_ended()).await.unwrap_or(false)
}

/// What a stop sends unless told otherwise.
fn stop_signal(record: &ContainerRecord) -> i32 {
    record.config.stop_signal.as_deref().and_then(|s| signals::parse(s).ok()).unwrap_or(signals::TERM)
}
/// Docker's words for a name that a container cannot get.
fn not_allocated(error: EngineError) -> EngineError {
    EngineError { message: format!("Error when allocating new name: {}", error.message), ..error }
}
