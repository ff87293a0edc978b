//! The unified hierarchy (Linux, Documentation/admin-guide/cgroup-v2.rst).

use super::devices::Rules;
use super::files::{field, make_dir, write, write_limit};
use super::v1::unlimited_below_one;
use super::{CgroupError, Result};
use crate::spec::Resources;
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

/// Controllers that containers need; those that the host lacks are left out.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

pub(super) fn create(root: &Path, path: &Path) -> Result<()> {
    let mut dir = root.to_owned();
    for part in path.iter() {
        enable_controllers(&dir);
        dir.push(part);
        make_dir(&dir)?;
    }
    Ok(())
}

/// A controller works in a cgroup once its parent passes it on. One that cannot be passed on shows itself by
/// name when a limit asks for it.
fn enable_controllers(dir: &Path) {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|controller| controller == name);
    for name in CONTROLLERS.into_iter().filter(|name| has(&available, name) && !has(&enabled, name)) {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

pub(super) fn limit(dir: &Path, wanted: &Resources) -> Result<()> {
    let set = |controller: &'static str, file: &str, value: Option<String>, limit: &'static str| match value {
        None => Ok(()),
        Some(value) => write_limit(&dir.join(file), &value, controller, limit),
    };
    set("memory", "memory.max", wanted.memory.map(max_below_zero), "a memory limit")?;
    set("memory", "memory.low", wanted.memory_reservation.map(max_below_zero), "a memory reservation")?;
    set("memory", "memory.swap.max", swap_alone(wanted), "a swap limit")?;
    if wanted.memory_swappiness.is_some() {
        return Err(CgroupError::NoController { controller: "memory (v1)", limit: "swappiness" });
    }
    set("cpu", "cpu.weight", wanted.cpu_shares.map(|shares| weight(shares).to_string()), "cpu shares")?;
    set("cpu", "cpu.max", cpu_max(wanted), "a cpu quota")?;
    set("cpuset", "cpuset.cpus", wanted.cpuset_cpus.clone(), "cpuset cpus")?;
    set("cpuset", "cpuset.mems", wanted.cpuset_mems.clone(), "cpuset mems")?;
    set("pids", "pids.max", wanted.pids_limit.map(unlimited_below_one), "a pids limit")
}

fn max_below_zero(bytes: i64) -> String {
    if bytes < 0 { "max".to_owned() } else { bytes.to_string() }
}

/// Docker counts memory and swap together, v2 swap alone.
fn swap_alone(wanted: &Resources) -> Option<String> {
    let both = wanted.memory_swap?;
    if both < 0 {
        return Some("max".to_owned());
    }
    Some((both - wanted.memory.unwrap_or(0).max(0)).max(0).to_string())
}

/// v1 shares (2 to 262144, 1024 by default) as a v2 weight (1 to 10000), as runc converts them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn cpu_max(wanted: &Resources) -> Option<String> {
    if wanted.cpu_quota.is_none() && wanted.cpu_period.is_none() {
        return None;
    }
    let quota =
        wanted.cpu_quota.filter(|&quota| quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
    Some(format!("{quota} {}", wanted.cpu_period.unwrap_or(100_000)))
}

pub(super) fn allow_devices(dir: &Path, rules: &Rules) -> Result<()> {
    let Rules::Only(rules) = rules else { return Ok(()) };
    let program = super::devices::program(rules);
    let cgroup = fs::File::open(dir).map_err(|source| CgroupError::File {
        what: "open",
        path: dir.to_owned(),
        source,
    })?;
    hostd_sys::bpf::load_device_filter(&program)
        .and_then(|filter| hostd_sys::bpf::attach_device_filter(&cgroup, &filter))
        .map_err(CgroupError::DeviceFilter)
}

pub(super) fn freeze(dir: &Path, frozen: bool) -> Result<()> {
    let wanted = u64::from(frozen);
    write(&dir.join("cgroup.freeze"), &wanted.to_string())?;
    for _ in 0..1000 {
        if field(&dir.join("cgroup.events"), "frozen") == Some(wanted) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    write(&dir.join("cgroup.freeze"), "0")?;
    Err(CgroupError::Timeout { what: "freeze", path: dir.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_quota_and_swap_are_converted() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
        let wanted = Resources {
            memory: Some(100),
            memory_swap: Some(250),
            cpu_quota: Some(50_000),
            ..Resources::default()
        };
        assert_eq!(swap_alone(&wanted).as_deref(), Some("150"));
        assert_eq!(cpu_max(&wanted).as_deref(), Some("50000 100000"));
        let free = Resources { memory_swap: Some(-1), cpu_quota: Some(-1), ..Resources::default() };
        assert_eq!(swap_alone(&free).as_deref(), Some("max"));
        assert_eq!(cpu_max(&free).as_deref(), Some("max 100000"));
        assert_eq!(cpu_max(&Resources::default()), None);
    }
}
