//! Limits: which ones make sense, and which ones this machine can keep.

use crate::error::{EngineError, Result};
use crate::machine::Machine;
use crate::model::Resources;

const MIN_MEMORY: i64 = 6 << 20;

/// What the limits are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// All that a container is to have.
    Create,
    /// Changes to what it has.
    Update,
}

/// Refuses what makes no sense, drops with a warning what the kernel cannot do, as Docker does.
pub(crate) fn check(resources: &mut Resources, machine: &Machine, purpose: Purpose) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    check_memory(resources, machine, purpose, &mut warnings)?;
    check_cpu(resources, machine, &mut warnings)?;
    check_cpuset(resources, machine, &mut warnings)?;
    check_block_io(resources, machine, &mut warnings)?;
    Ok(warnings)
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(EngineError::invalid(message))
}

fn warn(warnings: &mut Vec<String>, text: impl Into<String>) {
    warnings.push(text.into());
}

/// "… does not support `what`; `what` is gone".
fn lacking(warnings: &mut Vec<String>, what: &str, discarded: &str) {
    warn(
        warnings,
        format!("Your kernel does not support {what} or the cgroup is not mounted. {discarded} discarded."),
    );
}

fn check_memory(
    r: &mut Resources,
    machine: &Machine,
    purpose: Purpose,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if r.memory != 0 && r.memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if r.memory > 0 && !machine.memory_limit {
        lacking(warnings, "memory limit capabilities", "Limitation");
        (r.memory, r.memory_swap) = (0, -1);
    }
    if r.memory > 0 && r.memory_swap != -1 && !machine.swap_limit {
        warn(
            warnings,
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without \
             swap.",
        );
        r.memory_swap = -1;
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory == 0 && r.memory_swap > 0 && purpose == Purpose::Create {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if r.memory_swap < -1 {
        return refuse(format!("invalid value {} for MemorySwap", r.memory_swap));
    }
    if r.memory_swappiness.is_some() && !machine.memory_swappiness {
        lacking(warnings, "memory swappiness capabilities", "Memory swappiness");
        r.memory_swappiness = None;
    }
    if let Some(swappiness) = r.memory_swappiness
        && !(0..=100).contains(&swappiness)
    {
        return refuse(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    }
    if r.memory_reservation > 0 && !machine.memory_reservation {
        lacking(warnings, "memory soft limit capabilities", "Limitation");
        r.memory_reservation = 0;
    }
    if r.memory_reservation != 0 && r.memory_reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if r.memory > 0 && r.memory_reservation > 0 && r.memory < r.memory_reservation {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    check_kernel_memory(r, machine, warnings)?;
    check_oom_killer(r, machine, warnings);
    if let Some(limit) = r.pids_limit
        && !machine.pids_limit
    {
        if limit > 0 {
            lacking(warnings, "PIDs limit capabilities", "PIDs limit");
        }
        r.pids_limit = None;
    }
    Ok(())
}

fn check_kernel_memory(r: &mut Resources, machine: &Machine, warnings: &mut Vec<String>) -> Result<()> {
    if r.kernel_memory > 0 && !machine.kernel_memory {
        lacking(warnings, "kernel memory limit capabilities", "Limitation");
        r.kernel_memory = 0;
    }
    if r.kernel_memory != 0 && r.kernel_memory < MIN_MEMORY {
        return refuse("Minimum kernel memory limit allowed is 6MB");
    }
    if r.kernel_memory_tcp != 0 && !machine.kernel_memory_tcp {
        lacking(warnings, "kernel memory TCP limit capabilities", "Limitation");
        r.kernel_memory_tcp = 0;
    }
    Ok(())
}

fn check_oom_killer(r: &mut Resources, machine: &Machine, warnings: &mut Vec<String>) {
    let disable = r.oom_kill_disable == Some(true);
    if !machine.oom_kill_disable {
        if disable {
            warn(warnings, "Your kernel does not support OomKillDisable. OomKillDisable discarded.");
        }
        r.oom_kill_disable = None;
    } else if disable && r.memory == 0 {
        warn(
            warnings,
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources.",
        );
    }
}

fn check_cpu(r: &mut Resources, machine: &Machine, warnings: &mut Vec<String>) -> Result<()> {
    let cpus = machine.cpus;
    if r.nano_cpus > 0 && r.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if r.nano_cpus > 0 && r.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if r.nano_cpus > 0 && !machine.cpu_cfs {
        return refuse(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    if r.nano_cpus < 0 || r.nano_cpus > cpus as i64 * 1_000_000_000 {
        return refuse(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        ));
    }
    if r.cpu_shares < 0 {
        return refuse(format!("invalid CPU shares ({}): value must be a positive integer", r.cpu_shares));
    }
    if r.cpu_shares > 0 && !machine.cpu_shares {
        lacking(warnings, "CPU shares", "Shares");
        r.cpu_shares = 0;
    }
    if (r.cpu_period != 0 || r.cpu_quota != 0) && !machine.cpu_cfs {
        warn(warnings, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.");
        (r.cpu_period, r.cpu_quota) = (0, 0);
    }
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1_000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if r.cpu_percent > 0 {
        warn(warnings, "linux does not support CPU percent. Percent discarded.");
        r.cpu_percent = 0;
    }
    if (r.cpu_realtime_period != 0 || r.cpu_realtime_runtime != 0) && !machine.cpu_realtime {
        return refuse("kernel does not support CPU real-time scheduler");
    }
    if r.cpu_realtime_period < 0 || r.cpu_realtime_runtime < 0 {
        return refuse("cpu real-time period and runtime must not be negative");
    }
    if r.cpu_realtime_period != 0 && r.cpu_realtime_runtime > r.cpu_realtime_period {
        return refuse("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    Ok(())
}

fn check_cpuset(r: &mut Resources, machine: &Machine, warnings: &mut Vec<String>) -> Result<()> {
    let chosen = !r.cpuset_cpus.is_empty() || !r.cpuset_mems.is_empty();
    if chosen && !machine.cpuset {
        lacking(warnings, "cpuset", "Cpuset");
        r.cpuset_cpus.clear();
        r.cpuset_mems.clear();
    }
    for (list, available, what, name) in [
        (&r.cpuset_cpus, &machine.cpus_available, "CPUs", "cpus"),
        (&r.cpuset_mems, &machine.mems_available, "memory nodes", "mems"),
    ] {
        let Some(asked) = numbers(list) else {
            return refuse(format!("Invalid value {list} for cpuset {name}"));
        };
        let there = numbers(available).unwrap_or_default();
        let covered = |(from, to): &(usize, usize)| {
            (*from..=*to).all(|n| there.iter().any(|(low, high)| (low..=high).contains(&&n)))
        };
        if !asked.iter().all(covered) {
            return refuse(format!(
                "Requested {what} are not available - requested {list}, available: {available}"
            ));
        }
    }
    Ok(())
}

fn check_block_io(r: &mut Resources, machine: &Machine, warnings: &mut Vec<String>) -> Result<()> {
    if r.blkio_weight > 0 && !machine.blkio_weight {
        lacking(warnings, "Block I/O weight", "Weight");
        r.blkio_weight = 0;
    }
    if r.io_maximum_bandwidth != 0 || r.io_maximum_iops != 0 {
        return refuse(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps",
        );
    }
    if !r.blkio_weight_device.is_empty() && !machine.blkio_weight_device {
        lacking(warnings, "Block I/O weight_device", "Weight-device");
        r.blkio_weight_device.clear();
    }
    let weights = r.blkio_weight_device.iter().map(|device| device.rate);
    let general = Some(u64::from(r.blkio_weight)).filter(|weight| *weight > 0);
    if weights.chain(general).any(|weight| !(10..=1000).contains(&weight)) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    let texts = [
        ("BPS Block I/O read limit", "Block I/O BPS read limit"),
        ("BPS Block I/O write limit", "Block I/O BPS write limit"),
        ("IOPS Block read limit", "Block I/O IOPS read limit"),
        ("IOPS Block write limit", "Block I/O IOPS write limit"),
    ];
    for ((rates, has), (what, discarded)) in r.blkio_rates.iter_mut().zip(machine.blkio_rates).zip(texts) {
        if !rates.is_empty() && !has {
            lacking(warnings, what, discarded);
            rates.clear();
        }
    }
    Ok(())
}

/// How high the numbers in a list may go: more than any machine has, and few enough to walk through.
const HIGHEST: usize = 8191;

/// The ranges of a list such as `0-2,4`; `None` when it is no such list.
fn numbers(list: &str) -> Option<Vec<(usize, usize)>> {
    if list.is_empty() {
        return Some(Vec::new());
    }
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (from <= to && to <= HIGHEST).then_some((from, to))
    };
    list.split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine::everything(2)
    }

    fn refusal(mut limits: Resources) -> String {
        check(&mut limits, &machine(), Purpose::Create).unwrap_err().message
    }

    #[test]
    fn senseless_limits_are_refused_in_dockers_words() {
        let none = Resources::default;
        for (limits, message) in [
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
            (
                Resources { cpuset_mems: "0-1".to_owned(), ..none() },
                "Requested memory nodes are not available - requested 0-1, available: 0",
            ),
            (
                Resources { cpuset_cpus: "0-99999999999".to_owned(), ..none() },
                "Invalid value 0-99999999999 for cpuset cpus",
            ),
            (
                Resources { cpu_realtime_period: 1000, cpu_realtime_runtime: 2000, ..none() },
                "cpu real-time runtime cannot be higher than cpu real-time period",
            ),
            (Resources { blkio_weight: 5, ..none() }, "Range of blkio weight is from 10 to 1000"),
            (
                Resources { io_maximum_iops: 1, ..none() },
                "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps",
            ),
        ] {
            assert_eq!(refusal(limits), message);
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_discarded_with_a_warning() {
        let rate = || vec![crate::model::DeviceRate { path: "/dev/vda".to_owned(), rate: 1 }];
        let mut limits = Resources {
            memory: 1 << 30,
            pids_limit: Some(10),
            oom_kill_disable: Some(true),
            blkio_weight: 100,
            blkio_rates: [rate(), Vec::new(), Vec::new(), rate()],
            ..Resources::default()
        };
        let lacking = Machine {
            swap_limit: false,
            pids_limit: false,
            oom_kill_disable: false,
            blkio_weight: false,
            blkio_rates: [true, true, true, false],
            ..machine()
        };
        let warnings = check(&mut limits, &lacking, Purpose::Create).unwrap();
        assert_eq!(
            warnings,
            [
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited \
                 without swap.",
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
                "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit \
                 discarded.",
                "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
                "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS \
                 write limit discarded.",
            ]
        );
        assert_eq!((limits.memory, limits.memory_swap, limits.pids_limit), (1 << 30, -1, None));
        assert_eq!((limits.oom_kill_disable, limits.blkio_weight), (None, 0));
        assert!(limits.blkio_rates[0] == rate() && limits.blkio_rates[3].is_empty());
    }

    #[test]
    fn an_update_may_change_swap_alone() {
        let swap = || Resources { memory_swap: 1 << 30, ..Resources::default() };
        assert!(check(&mut swap(), &machine(), Purpose::Create).is_err());
        assert!(check(&mut swap(), &machine(), Purpose::Update).is_ok());
    }
}
