//! Starting containers again together with the daemon: those that their restart policies want, each after those that it
//! depends on.

use crate::Engine;
use crate::container::Container;
use crate::create::target_container;
use crate::model::{ContainerRecord, RestartPolicy, Status};
use crate::watch::restarts;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Starts under way at once, so that those of a machine full of containers do not all time out together.
const AT_ONCE: usize = 8;
/// What is waited for one that others depend on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the policy starts an ended container together with the daemon. As with Docker, "always" overrides a stop
/// by a user there, and "unless-stopped" does not.
pub(crate) fn wants_to_run(record: &ContainerRecord) -> bool {
    match record.host.restart_policy {
        RestartPolicy::Always => true,
        _ => restarts(record, record.state.exit_code),
    }
}

impl Engine {
    /// Starts `containers`, all of which are between two runs, in the order of their dependencies. Returns at once.
    pub(crate) fn revive(&self, containers: Vec<Arc<Container>>) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let tried: HashMap<String, CancellationToken> =
            containers.iter().map(|container| (container.id.clone(), CancellationToken::new())).collect();
        let needs: HashMap<String, HashSet<String>> = containers
            .iter()
            .map(|container| (container.id.clone(), self.dependencies(&container.record())))
            .collect();
        for container in containers {
            let first = needs[&container.id].iter().filter(|id| !leads_to(&needs, id, &container.id));
            let first: Vec<_> = first.filter_map(|id| tried.get(id).cloned()).collect();
            let (engine, places) = (self.clone(), Arc::clone(&places));
            let done = tried[&container.id].clone().drop_guard();
            tokio::spawn(async move {
                for other in first {
                    let _ = tokio::time::timeout(PATIENCE, other.cancelled()).await;
                }
                let Ok(place) = places.acquire().await else { return };
                let again = engine.revive_one(&container).await;
                drop((place, done));
                if let Some(pause) = again {
                    engine.restart_later(&container, pause);
                }
            });
        }
    }

    /// As Docker, a start by the daemon begins to count anew.
    async fn revive_one(&self, container: &Arc<Container>) -> Option<Duration> {
        {
            let turn = container.turn().await;
            if container.record().state.status != Status::Restarting {
                return None;
            }
            container.change(&turn, |record| {
                record.restart_count = 0;
                record.state.last_pause = 0;
                record.state.stopped_by_user = false;
            });
        }
        self.restart_now(container, false).await
    }

    /// Ids of the containers that one needs to be started first.
    fn dependencies(&self, record: &ContainerRecord) -> HashSet<String> {
        let host = &record.host;
        let modes = [&host.network_mode, &host.ipc_mode, &host.pid_mode];
        let shared = modes.into_iter().filter_map(|mode| target_container(mode));
        let volumes = host.volumes_from.iter().map(|text| text.split(':').next().unwrap_or(text));
        let links = record.links.iter().map(|link| link.target.as_str());
        let all = shared.chain(volumes).chain(links);
        all.filter_map(|name| Some(self.container(name).ok()?.id.clone()))
            .filter(|id| *id != record.id)
            .collect()
    }
}

/// Whether `from` needs `to`, directly or by way of others.
fn leads_to(needs: &HashMap<String, HashSet<String>>, from: &str, to: &str) -> bool {
    let (mut seen, mut todo) = (HashSet::new(), vec![from]);
    while let Some(id) = todo.pop() {
        if id == to {
            return true;
        }
        if seen.insert(id) {
            todo.extend(needs.get(id).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    #[test]
    fn always_overrides_a_users_stop_and_unless_stopped_does_not() {
        for (policy, stopped, code, expected) in [
            (RestartPolicy::Always, true, 0, true),
            (RestartPolicy::UnlessStopped, true, 0, false),
            (RestartPolicy::UnlessStopped, false, 0, true),
            (RestartPolicy::OnFailure(0), false, 0, false),
            (RestartPolicy::OnFailure(0), false, 1, true),
            (RestartPolicy::No, false, 1, false),
        ] {
            let mut record = record("aa", "web");
            record.host.restart_policy = policy;
            record.state.stopped_by_user = stopped;
            record.state.exit_code = code;
            assert_eq!(wants_to_run(&record), expected, "{policy:?} {stopped} {code}");
        }
    }

    #[test]
    fn those_that_need_each_other_do_not_wait_for_each_other() {
        let needs: HashMap<String, HashSet<String>> = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")]
            .map(|(from, to)| (from.to_owned(), HashSet::from([to.to_owned()])))
            .into();
        assert!(leads_to(&needs, "d", "c"));
        assert!(leads_to(&needs, "b", "b"));
        assert!(!leads_to(&needs, "b", "a"));
    }
}
