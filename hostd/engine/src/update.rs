//! Changing the limits and the restart policy of a container that exists.

use crate::Engine;
use crate::container::Container;
use crate::create::limits::{self, Purpose};
use crate::error::{EngineError, Result};
use crate::model::{ContainerRecord, DeviceRate, HostConfig, Resources, RestartPolicy, Status};
use crate::spec;
use crate::whole::whole;
use hostd_runtime::spec::{BlockIo, DeviceLimit};

/// What is to change; what is zero or empty stays.
#[derive(Clone, Debug, Default)]
pub struct UpdateRequest {
    /// Limits.
    pub resources: Resources,
    /// `None`: stays.
    pub restart_policy: Option<RestartPolicy>,
}

impl Engine {
    /// Changes limits, of a running container at once, and the restart policy: all of it or nothing.
    /// Gives warnings for the client.
    pub async fn update(&self, name: &str, request: UpdateRequest) -> Result<Vec<String>> {
        let container = self.container(name)?;
        let mut request = request;
        let warnings = limits::check(&mut request.resources, &self.machine(), Purpose::Update)?;
        let engine = self.clone();
        whole(async move { engine.update_container(&container, request).await }).await?;
        Ok(warnings)
    }

    async fn update_container(&self, container: &Container, request: UpdateRequest) -> Result<()> {
        let turn = container.turn().await;
        let before = container.record();
        let cannot = |error: EngineError| EngineError {
            message: format!("Cannot update container {}: {}", container.id, error.message),
            ..error
        };
        if matches!(before.state.status, Status::Removing | Status::Dead) {
            let marked = "container is marked for removal and cannot be \"update\"";
            return Err(cannot(EngineError::conflict(marked)));
        }
        let mut host = before.host.clone();
        merge(&mut host, request).map_err(cannot)?;
        let after = ContainerRecord { host, ..(*before).clone() };
        let changes = changes(&before.host, &after.host).map_err(cannot)?;
        // On disk first: a limit that the kernel has taken cannot be taken back where nobody knows the one before.
        if let Err(error) = self.0.db.store(&after).await {
            let _ = self.0.db.store_lazily(&before); // the failed write may still be queued
            return Err(cannot(error));
        }
        if let Some(live) = container.live_now()
            && let Err(error) = live.update(&changes).await
        {
            self.0.db.store(&before).await?;
            return Err(cannot(error.into()));
        }
        container.change(&turn, |record| record.host = after.host);
        self.tell(container, "update", &[]);
        Ok(())
    }
}

fn conflict<T>(message: &str) -> Result<T> {
    Err(EngineError::conflict(message))
}

/// Puts what is asked for into what there is, in Docker's order of complaints.
fn merge(host: &mut HostConfig, request: UpdateRequest) -> Result<()> {
    let (now, new) = (&mut host.resources, request.resources);
    if new.nano_cpus > 0 && now.cpu_period > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        );
    }
    if new.nano_cpus > 0 && now.cpu_quota > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        );
    }
    if new.cpu_period > 0 && now.nano_cpus > 0 {
        return conflict(
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        );
    }
    if new.cpu_quota > 0 && now.nano_cpus > 0 {
        return conflict("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    if new.memory > now.memory_swap && new.memory_swap == 0 && now.memory_swap != -1 && new.memory != 0 {
        return conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    merge_resources(now, new);
    if now.memory_swap > 0 && now.memory == 0 {
        return Err(EngineError::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if now.memory_swap > 0 && now.memory_swap < now.memory {
        return Err(EngineError::invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if let Some(policy) = request.restart_policy {
        if host.auto_remove && policy != RestartPolicy::No {
            return conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            );
        }
        host.restart_policy = policy;
    }
    Ok(())
}

fn merge_resources(now: &mut Resources, new: Resources) {
    for (now, new) in [
        (&mut now.memory, new.memory),
        (&mut now.memory_reservation, new.memory_reservation),
        (&mut now.memory_swap, new.memory_swap),
        (&mut now.kernel_memory, new.kernel_memory),
        (&mut now.kernel_memory_tcp, new.kernel_memory_tcp),
        (&mut now.cpu_shares, new.cpu_shares),
        (&mut now.cpu_period, new.cpu_period),
        (&mut now.cpu_quota, new.cpu_quota),
        (&mut now.cpu_realtime_period, new.cpu_realtime_period),
        (&mut now.cpu_realtime_runtime, new.cpu_realtime_runtime),
        (&mut now.nano_cpus, new.nano_cpus),
        (&mut now.cpu_count, new.cpu_count),
    ] {
        if new != 0 {
            *now = new;
        }
    }
    for (now, new) in [(&mut now.cpuset_cpus, new.cpuset_cpus), (&mut now.cpuset_mems, new.cpuset_mems)] {
        if !new.is_empty() {
            *now = new;
        }
    }
    now.memory_swappiness = new.memory_swappiness.or(now.memory_swappiness);
    now.oom_kill_disable = new.oom_kill_disable.or(now.oom_kill_disable);
    now.pids_limit = new.pids_limit.or(now.pids_limit);
    if new.blkio_weight != 0 {
        now.blkio_weight = new.blkio_weight;
    }
    merge_devices(&mut now.blkio_weight_device, new.blkio_weight_device);
    for (now, new) in now.blkio_rates.iter_mut().zip(new.blkio_rates) {
        merge_devices(now, new);
    }
}

/// By device: a new rate takes the place of the one before, and one of 0 lifts it.
fn merge_devices(now: &mut Vec<DeviceRate>, new: Vec<DeviceRate>) {
    for device in new {
        now.retain(|known| known.path != device.path);
        if device.rate > 0 {
            now.push(device);
        }
    }
}

/// What the kernel is to be told. Limits that depend on each other go together.
fn changes(before: &HostConfig, after: &HostConfig) -> Result<hostd_runtime::spec::Resources> {
    let (old, mut new) = (spec::resources(&before.resources, &[])?, spec::resources(&after.resources, &[])?);
    if (old.memory, old.memory_swap) == (new.memory, new.memory_swap) {
        (new.memory, new.memory_swap) = (None, None);
    }
    if (old.cpu_quota, old.cpu_period) == (new.cpu_quota, new.cpu_period) {
        (new.cpu_quota, new.cpu_period) = (None, None);
    }
    let rt = (new.cpu_rt_period, new.cpu_rt_runtime);
    if (old.cpu_rt_period, old.cpu_rt_runtime) == rt {
        (new.cpu_rt_period, new.cpu_rt_runtime) = (None, None);
    }
    keep_changed(&old.memory_reservation, &mut new.memory_reservation);
    keep_changed(&old.memory_swappiness, &mut new.memory_swappiness);
    keep_changed(&old.kernel_memory_tcp, &mut new.kernel_memory_tcp);
    if after.resources.oom_kill_disable != before.resources.oom_kill_disable {
        new.oom_kill_disable = after.resources.oom_kill_disable;
    } else {
        new.oom_kill_disable = None;
    }
    keep_changed(&old.cpu_shares, &mut new.cpu_shares);
    keep_changed(&old.cpuset_cpus, &mut new.cpuset_cpus);
    keep_changed(&old.cpuset_mems, &mut new.cpuset_mems);
    keep_changed(&old.pids_limit, &mut new.pids_limit);
    change_block_io(&old.block_io, &mut new.block_io);
    Ok(new)
}

fn keep_changed<T: PartialEq>(old: &Option<T>, new: &mut Option<T>) {
    if old == new {
        *new = None;
    }
}

fn change_block_io(old: &BlockIo, new: &mut BlockIo) {
    keep_changed(&old.weight, &mut new.weight);
    for (old, new) in [
        (&old.device_weights, &mut new.device_weights),
        (&old.read_bps, &mut new.read_bps),
        (&old.write_bps, &mut new.write_bps),
        (&old.read_iops, &mut new.read_iops),
        (&old.write_iops, &mut new.write_iops),
    ] {
        let same = |a: &DeviceLimit, b: &DeviceLimit| (a.major, a.minor) == (b.major, b.minor);
        let gone = old.iter().filter(|limit| !new.iter().any(|other| same(other, limit)));
        let gone: Vec<_> = gone.map(|limit| DeviceLimit { value: 0, ..*limit }).collect();
        new.retain(|limit| !old.contains(limit));
        new.extend(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn host(resources: Resources) -> HostConfig {
        HostConfig { resources, ..HostConfig::default() }
    }

    fn request(resources: Resources) -> UpdateRequest {
        UpdateRequest { resources, restart_policy: None }
    }

    #[test]
    fn contradictions_with_what_is_set_are_refused_in_dockers_words() {
        let none = Resources::default;
        for (now, new, words) in [
            (
                Resources { cpu_quota: 1000, ..none() },
                Resources { nano_cpus: 1, ..none() },
                "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
            ),
            (
                Resources { nano_cpus: 1, ..none() },
                Resources { cpu_period: 1000, ..none() },
                "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
            ),
            (
                Resources { memory: 10, memory_swap: 20, ..none() },
                Resources { memory: 30, ..none() },
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            ),
            (
                none(),
                Resources { memory: 30, ..none() },
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            ),
        ] {
            let mut host = host(now);
            let error = merge(&mut host, request(new)).unwrap_err();
            assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Conflict, words));
        }
        let mut host = HostConfig { auto_remove: true, ..HostConfig::default() };
        let policy = |policy| UpdateRequest { restart_policy: Some(policy), ..UpdateRequest::default() };
        assert!(merge(&mut host, policy(RestartPolicy::No)).is_ok());
        assert_eq!(
            merge(&mut host, policy(RestartPolicy::Always)).unwrap_err().message,
            "Restart policy cannot be updated because AutoRemove is enabled for the container"
        );
    }

    #[test]
    fn only_what_is_asked_for_changes() {
        let before = host(Resources {
            memory: 100,
            memory_swap: 200,
            pids_limit: Some(5),
            cpu_shares: 10,
            ..Resources::default()
        });
        let mut after = before.clone();
        let asked = Resources { pids_limit: Some(0), memory_swap: 300, ..Resources::default() };
        merge(&mut after, request(asked)).unwrap();
        assert_eq!((after.resources.memory, after.resources.cpu_shares), (100, 10));
        let told = changes(&before, &after).unwrap();
        assert_eq!((told.memory, told.memory_swap), (Some(100), Some(300)), "they go together");
        assert_eq!((told.pids_limit, told.cpu_shares, told.oom_kill_disable), (Some(0), None, None));
        assert_eq!(changes(&before, &before).unwrap(), Default::default());
    }

    #[test]
    fn a_rate_of_zero_lifts_the_one_before() {
        let rate = |path: &str, rate| DeviceRate { path: path.to_owned(), rate };
        let mut now = vec![rate("/dev/a", 1), rate("/dev/b", 2)];
        merge_devices(&mut now, vec![rate("/dev/a", 0), rate("/dev/b", 3), rate("/dev/c", 4)]);
        assert_eq!(now, [rate("/dev/b", 3), rate("/dev/c", 4)]);
        let limit = |minor, value| DeviceLimit { major: 8, minor, value };
        let old = BlockIo { read_bps: vec![limit(0, 5), limit(1, 6)], ..BlockIo::default() };
        let mut new = BlockIo { read_bps: vec![limit(1, 6), limit(2, 7)], ..BlockIo::default() };
        change_block_io(&old, &mut new);
        assert_eq!(new.read_bps, [limit(2, 7), limit(0, 0)]);
    }
}
