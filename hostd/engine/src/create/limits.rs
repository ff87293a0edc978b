//! Limits: which ones make sense, and which ones this machine can keep.

use crate::error::{EngineError, Result};
use crate::info::Machine;
use crate::model::Resources;

const MIN_MEMORY: i64 = 6 << 20;

/// Refuses what makes no sense, drops with a warning what the kernel cannot do, as Docker does.
pub(super) fn check(resources: &mut Resources, machine: &Machine) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if resources.memory != 0 && resources.memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if resources.memory > 0 && !machine.memory_limit {
        warn(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        (resources.memory, resources.memory_swap) = (0, -1);
    }
    if resources.memory > 0 && resources.memory_swap != -1 && !machine.swap_limit {
        warn(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without \
             swap.",
        );
        resources.memory_swap = -1;
    }
    if resources.memory_reservation > 0 && !machine.memory_limit {
        warn(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation \
             discarded.",
        );
        resources.memory_reservation = 0;
    }
    if resources.memory_swappiness.is_some() && (machine.cgroup_version == 2 || !machine.memory_limit) {
        warn(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory \
             swappiness discarded.",
        );
        resources.memory_swappiness = None;
    }
    check_memory(resources)?;
    check_cpu(resources, machine)?;
    if resources.pids_limit.is_some_and(|limit| limit > 0) && !machine.pids_limit {
        warn(
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
        );
        resources.pids_limit = None;
    }
    let chosen = !resources.cpuset_cpus.is_empty() || !resources.cpuset_mems.is_empty();
    if chosen && !machine.cpuset {
        warn("Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.");
        resources.cpuset_cpus.clear();
        resources.cpuset_mems.clear();
    }
    if resources.cpu_shares > 0 && !machine.cpu_shares {
        warn("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.");
        resources.cpu_shares = 0;
    }
    Ok(warnings)
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(EngineError::invalid(message))
}

fn check_memory(r: &Resources) -> Result<()> {
    if r.memory_swap > 0 && r.memory == 0 {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory_swap < -1 {
        return refuse(format!("invalid value {} for MemorySwap", r.memory_swap));
    }
    if let Some(swappiness) = r.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return refuse(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    }
    if r.memory_reservation != 0 && r.memory_reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if r.memory > 0 && r.memory_reservation > 0 && r.memory < r.memory_reservation {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    Ok(())
}

fn check_cpu(r: &Resources, machine: &Machine) -> Result<()> {
    let cpus = machine.cpus;
    if r.nano_cpus != 0 {
        if r.cpu_period > 0 {
            return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
        }
        if r.cpu_quota > 0 {
            return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
        }
        if r.nano_cpus < 0 || r.nano_cpus > cpus as i64 * 1_000_000_000 {
            return refuse(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            ));
        }
    }
    if (r.nano_cpus > 0 || r.cpu_quota > 0 || r.cpu_period > 0) && !machine.cpu_cfs {
        return refuse(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1_000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if r.cpu_shares < 0 {
        return refuse(format!("invalid CPU shares ({}): value must be a positive integer", r.cpu_shares));
    }
    for (list, what, name) in [(&r.cpuset_cpus, "CPUs", "cpus"), (&r.cpuset_mems, "memory nodes", "mems")] {
        let Some(last) = last_of(list) else {
            return refuse(format!("Invalid value {list} for cpuset {name}"));
        };
        if what == "CPUs" && last.is_some_and(|last| last >= cpus) {
            return refuse(format!(
                "Requested CPUs are not available - requested {list}, available: 0-{}",
                cpus.saturating_sub(1)
            ));
        }
    }
    Ok(())
}

/// The highest number in a list such as `0-2,4`; `None` when it is no such list.
fn last_of(list: &str) -> Option<Option<usize>> {
    if list.is_empty() {
        return Some(None);
    }
    let mut last = 0;
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        if from > to {
            return None;
        }
        last = last.max(to);
    }
    Some(Some(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory_limit: true,
            swap_limit: true,
            pids_limit: true,
            cpu_shares: true,
            cpu_cfs: true,
            cpuset: true,
            cgroup_version: 1,
        }
    }

    #[test]
    fn senseless_limits_are_refused_in_dockers_words() {
        let none = Resources::default;
        for (mut limits, message) in [
            (Resources { memory: 5 << 20, ..none() }, "Minimum memory limit allowed is 6MB"),
            (
                Resources { memory_swap: 1 << 30, ..none() },
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                Resources { memory: 2 << 30, memory_swap: 1 << 30, ..none() },
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                Resources { nano_cpus: 3_000_000_000, ..none() },
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                Resources { cpuset_cpus: "0-2".to_owned(), ..none() },
                "Requested CPUs are not available - requested 0-2, available: 0-1",
            ),
            (Resources { cpuset_cpus: "a".to_owned(), ..none() }, "Invalid value a for cpuset cpus"),
            (
                Resources { memory_swappiness: Some(101), ..none() },
                "Invalid value: 101, valid memory swappiness range is 0-100",
            ),
            (Resources { cpu_quota: 10, ..none() }, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        ] {
            assert_eq!(check(&mut limits, &machine()).unwrap_err().message, message);
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_discarded_with_a_warning() {
        let mut limits = Resources { memory: 1 << 30, pids_limit: Some(10), ..Resources::default() };
        let lacking = Machine { swap_limit: false, pids_limit: false, ..machine() };
        assert_eq!(check(&mut limits, &lacking).unwrap().len(), 2);
        assert_eq!((limits.memory, limits.memory_swap, limits.pids_limit), (1 << 30, -1, None));
    }
}
