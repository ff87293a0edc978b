//! The end of a run: one task per running container waits for it, records it, takes down what the run used, and
//! applies the restart policy.
//!
//! A container that keeps ending is started again after pauses that double from 100 ms to a minute; a run of ten
//! seconds makes them short again. A stop by a user ends the pause, and a start too.

use crate::Engine;
use crate::container::{Container, Turn};
use crate::model::{ContainerRecord, Happening, HealthStatus, RestartPolicy, Status};
use hostd_runtime::Exit;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use time::OffsetDateTime;

/// First pause before a restart, in milliseconds; it doubles with every further one.
const FIRST_PAUSE: u64 = 100;
const LONGEST_PAUSE: u64 = 60_000;
/// A run as long as this makes the pauses short again.
const GOOD_RUN: time::Duration = time::Duration::seconds(10);

impl Engine {
    /// Watches a running container until it ends.
    pub(crate) fn watch(&self, container: &Arc<Container>, live: hostd_runtime::Container) {
        let (engine, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let mut ooms = live.ooms();
            // One that was found again tells once more of what is on record.
            let mut told = container.record().state.oom_killed;
            let exit = loop {
                tokio::select! {
                    biased;
                    Ok(()) = ooms.changed() => {
                        if !std::mem::take(&mut told) {
                            engine.ran_out_of_memory(&container).await;
                        }
                    }
                    exit = live.wait() => break exit,
                    () = engine.0.closing.cancelled() => return,
                }
            };
            let exit = exit.unwrap_or_else(|error| {
                tracing::error!(id = container.id, %error, "lost sight of a container");
                Exit { code: 255, oom_killed: false, at: OffsetDateTime::now_utc() }
            });
            engine.ended(&container, exit).await;
        });
    }

    /// Records that the kernel killed a process for want of memory: the first one or any other.
    async fn ran_out_of_memory(&self, container: &Arc<Container>) {
        let turn = container.turn().await;
        let record = container.change(&turn, |record| record.state.oom_killed = true);
        if let Err(error) = self.note(&record) {
            tracing::error!(id = container.id, %error, "cannot record that memory ran out");
        }
        self.tell(container, "oom", &[]);
    }

    /// Records the end of a run, and goes on from there.
    async fn ended(&self, container: &Arc<Container>, exit: Exit) {
        let turn = container.turn().await;
        if !container.record().state.status.is_up() {
            return;
        }
        // A daemon that stops its containers leaves them to the policies of its next start.
        let restart = restarts(&container.record(), exit.code) && !self.0.stopping.load(Ordering::Acquire);
        let record = self.record_end(container, &turn, exit, restart).await;
        // Asked while the turn is held: who spares it starts it in the next one.
        let spared = container.spared.load(Ordering::Acquire) > 0;
        drop(turn);
        if restart {
            self.restart_later(container, Duration::from_millis(record.state.last_pause));
        } else if record.host.auto_remove && !spared {
            self.remove_ended(container).await;
        }
    }

    /// The record of the end, the events, the waiters; what the run used is gone when this returns.
    pub(crate) async fn record_end(
        &self,
        container: &Arc<Container>,
        turn: &Turn<'_>,
        exit: Exit,
        restart: bool,
    ) -> Arc<ContainerRecord> {
        let before = container.record();
        container.set_live(None);
        container.set_prober(None);
        // A port must be free again when somebody is told of the end; all else can follow.
        let publishes = before.endpoint.as_ref().is_some_and(|endpoint| !endpoint.ports.is_empty());
        if publishes {
            self.tear_down(&container.id, before.endpoint.as_ref()).await;
        }
        let happening = if restart { Happening::WillRestart } else { Happening::Exited };
        let advanced = container.advance(turn, happening, |record| {
            record.state.pid = 0;
            record.state.exit_code = exit.code;
            record.state.oom_killed |= exit.oom_killed;
            record.state.finished_at = Some(exit.at);
            record.state.last_pause =
                if restart { next_pause(record.state.last_pause, run_length(record)) } else { 0 };
            if let Some(health) = &mut record.state.health {
                // As Docker: what does not run is not well.
                health.status = HealthStatus::Unhealthy;
            }
            record.endpoint = None;
        });
        let record = advanced.unwrap_or_else(|error| {
            tracing::error!(id = container.id, %error, "an end that makes no sense");
            container.record()
        });
        if let Err(error) = self.note(&record) {
            tracing::error!(id = container.id, %error, "cannot record the end of a container");
        }
        self.0.execs.container_ended(&container.id);
        // Unless it was told when it happened.
        if exit.oom_killed && !before.state.oom_killed {
            self.tell(container, "oom", &[]);
        }
        let seconds = run_length(&record).whole_seconds().max(0);
        let facts = [("exitCode", exit.code.to_string()), ("execDuration", seconds.to_string())];
        self.tell(container, "die", &facts);
        self.tell_released(&before);
        container.ends.send_modify(|ends| {
            ends.count += 1;
            ends.code = exit.code;
        });
        // Lets them answer first: they are next on this very thread, and would wait for what follows.
        tokio::task::yield_now().await;
        if !publishes {
            self.tear_down(&container.id, before.endpoint.as_ref()).await;
        }
        record
    }

    /// Starts a container again after a pause, unless it was stopped, started or removed meanwhile.
    pub(crate) fn restart_later(&self, container: &Arc<Container>, pause: Duration) {
        let (engine, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let mut pause = Some(pause);
            while let Some(length) = pause {
                tokio::select! {
                    () = tokio::time::sleep(length) => {}
                    () = container.hurry.notified() => return,
                    () = engine.0.closing.cancelled() => return,
                }
                pause = engine.restart_now(&container, true).await;
            }
        });
    }

    /// Starts a container whose pause is over; what is to be waited for another attempt after one that failed.
    pub(crate) async fn restart_now(&self, container: &Arc<Container>, counts: bool) -> Option<Duration> {
        let turn = container.turn().await;
        let gone = self.0.closing.is_cancelled() || self.0.stopping.load(Ordering::Acquire);
        if container.record().state.status != Status::Restarting || gone {
            return None;
        }
        container.change(&turn, |record| record.restart_count += u32::from(counts));
        let error = self.run(container, turn).await.err()?;
        tracing::warn!(id = container.id, error = error.chain(), "cannot restart");
        // `run` has left it exited; a policy that goes on after failures goes on after this one.
        let turn = container.turn().await;
        let record = container.record();
        if record.state.status != Status::Exited || !restarts(&record, record.state.exit_code) {
            return None;
        }
        let again = container.change(&turn, |record| {
            record.state.status = Status::Restarting;
            record.state.last_pause = next_pause(record.state.last_pause, time::Duration::ZERO);
        });
        if let Err(error) = self.note(&again) {
            tracing::error!(id = container.id, %error, "cannot record a restart");
        }
        Some(Duration::from_millis(again.state.last_pause))
    }
}

/// Whether the policy wants another run after one that ended with `code`.
pub(crate) fn restarts(record: &ContainerRecord, code: i32) -> bool {
    !record.state.stopped_by_user
        && match record.host.restart_policy {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure(most) => code != 0 && (most == 0 || record.restart_count < most),
        }
}

fn run_length(record: &ContainerRecord) -> time::Duration {
    match (record.state.started_at, record.state.finished_at) {
        (Some(from), Some(to)) => to - from,
        _ => time::Duration::ZERO,
    }
}

/// Milliseconds until the next run, after one of length `run` that came after a pause of `last`.
fn next_pause(last: u64, run: time::Duration) -> u64 {
    if last == 0 || run >= GOOD_RUN { FIRST_PAUSE } else { last.saturating_mul(2).min(LONGEST_PAUSE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    #[test]
    fn policies_decide_as_dockers_do() {
        use RestartPolicy as P;
        for (policy, code, count, stopped, expected) in [
            (P::No, 1, 0, false, false),
            (P::Always, 0, 9, false, true),
            (P::Always, 0, 0, true, false),
            (P::UnlessStopped, 1, 0, false, true),
            (P::OnFailure(0), 1, 99, false, true),
            (P::OnFailure(0), 0, 0, false, false),
            (P::OnFailure(3), 1, 2, false, true),
            (P::OnFailure(3), 1, 3, false, false),
        ] {
            let mut record = record("aa", "web");
            record.host.restart_policy = policy;
            record.restart_count = count;
            record.state.stopped_by_user = stopped;
            assert_eq!(restarts(&record, code), expected, "{policy:?} {code} {count} {stopped}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_a_good_run_resets_them() {
        let short = time::Duration::seconds(1);
        let mut pauses = vec![next_pause(0, short)];
        (0..11).for_each(|n| pauses.push(next_pause(pauses[n], short)));
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[9..], [51_200, 60_000, 60_000]);
        assert_eq!(next_pause(51_200, time::Duration::seconds(10)), 100);
    }
}
