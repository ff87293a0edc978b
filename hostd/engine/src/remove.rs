//! Removing a container and what belongs to it.
//!
//! The point of no return is the rename of its directory: at start-up, a record without a directory is of a container
//! that was removed. Interrupted before that, the removal begins again.

use crate::Engine;
use crate::container::{Container, Turn};
use crate::error::{EngineError, Result, io};
use crate::model::{ContainerRecord, Happening, Status};
use crate::signals;
use crate::whole::whole;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// How to remove a container.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveOptions {
    /// Kill it first.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

impl Engine {
    /// Removes a container.
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        let (engine, container) = (self.clone(), self.container(name)?);
        whole(async move { engine.remove_container(&container, options).await }).await
    }

    /// After its end, what was created to go then.
    pub(crate) async fn remove_ended(&self, container: &Arc<Container>) {
        self.go_on_removing(container, true).await;
    }

    /// On nobody's behalf.
    pub(crate) async fn go_on_removing(&self, container: &Arc<Container>, volumes: bool) {
        let options = RemoveOptions { force: false, volumes };
        if let Err(error) = self.remove_container(container, options).await {
            tracing::error!(id = container.id, error = error.chain(), "cannot remove after its end");
            // `docker run --rm` waits for the removal, and nobody else will try again.
            container.ends.send_modify(|ends| ends.removal_error = Some(error.chain()));
        }
    }

    async fn remove_container(&self, container: &Arc<Container>, options: RemoveOptions) -> Result<()> {
        loop {
            let turn = container.turn().await;
            if container.ends.borrow().removed {
                return Ok(());
            }
            let record = container.record();
            if record.state.status.is_up() {
                if !options.force {
                    return Err(EngineError::conflict(refusal(&record)));
                }
                drop(turn);
                self.end_run(container, signals::KILL, Some(Duration::from_secs(10))).await?;
                continue;
            }
            let record = container.advance(&turn, Happening::RemovalBegan, |record| {
                record.state.remove_volumes = options.volumes;
            })?;
            container.ends.send_modify(|ends| ends.removal_error = None);
            let removed = match self.note(&record) {
                Ok(()) => self.take_apart(&record, options.volumes).await,
                Err(error) => Err(error),
            };
            match &removed {
                Ok(()) => self.forget(container, &record),
                Err(error) => self.removal_failed(container, &turn, error),
            }
            return removed;
        }
    }

    /// Tells those who wait before anything else can fail, and leaves the container for another attempt.
    fn removal_failed(&self, container: &Container, turn: &Turn<'_>, error: &EngineError) {
        container.ends.send_modify(|ends| ends.removal_error = Some(error.chain()));
        let dead = container.advance(turn, Happening::RemovalFailed, |record| {
            record.state.error = error.chain();
        });
        if let Err(error) = dead.and_then(|record| self.note(&record)) {
            tracing::error!(id = container.id, error = error.chain(), "cannot record a failed removal");
        }
    }

    /// Everything that it has on this machine, up to the point of no return.
    pub(crate) async fn take_apart(&self, record: &ContainerRecord, volumes: bool) -> Result<()> {
        // Ended runs were taken down; this finds what a failure left.
        self.0.runtime.remove(&record.id).await?;
        self.0.images.remove_snapshot(&record.id)?;
        if volumes {
            self.remove_anonymous_volumes(record).await;
        }
        let (dir, removing) = (self.container_dir(&record.id), self.0.config.data_root.join("removing"));
        let aside = removing.join(&record.id);
        match fs::rename(&dir, &aside) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(io(format!("cannot remove {}", dir.display())))?,
        }
        tokio::task::spawn_blocking(move || fs::remove_dir_all(aside));
        Ok(())
    }

    fn forget(&self, container: &Arc<Container>, record: &ContainerRecord) {
        if let Err(error) = self.0.db.forget_lazily(&record.id) {
            tracing::debug!(id = record.id, %error, "the record goes at the next start");
        }
        self.0.journal.forget(&record.id);
        self.0.execs.forget_container(&record.id);
        self.0.index.remove(&record.id, &record.name);
        self.0.levels.release(&record.process_label);
        drop(container.take_pending());
        self.tell(container, "destroy", &[]);
        container.ends.send_modify(|ends| ends.removed = true);
    }
}

fn refusal(record: &ContainerRecord) -> String {
    let why = match record.state.status {
        Status::Paused => "paused and must be unpaused first".to_owned(),
        status => format!("{}: stop the container before removing or force remove", status.as_str()),
    };
    format!("cannot remove container \"/{}\": container is {why}", record.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    #[test]
    fn the_refusal_is_dockers() {
        let mut record = record("aa", "web");
        record.state.status = Status::Running;
        assert_eq!(
            refusal(&record),
            "cannot remove container \"/web\": container is running: stop the container before removing or force remove"
        );
        record.state.status = Status::Paused;
        assert_eq!(
            refusal(&record),
            "cannot remove container \"/web\": container is paused and must be unpaused first"
        );
    }
}
