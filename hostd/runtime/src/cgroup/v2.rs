//! The unified hierarchy (Linux, Documentation/admin-guide/cgroup-v2.rst).

use super::devices::Rules;
use super::files::{field, make_dir, write};
use super::limits::{Writer, line_of};
use super::{CgroupError, Result};
use crate::spec::Resources;
use std::path::Path;
use std::time::Duration;
use std::{fs, io, thread};

/// Controllers that containers need; those that the host lacks are left out.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

pub(super) fn create(root: &Path, path: &Path) -> Result<()> {
    let mut dir = root.to_owned();
    for part in path.iter() {
        // One that is refused shows itself by name when a limit asks for it.
        drop(enable_controllers(&dir, dir == root));
        dir.push(part);
        make_dir(&dir)?;
    }
    Ok(())
}

/// A controller works in a cgroup once its parent passes it on. Those that the kernel does not let it, and why.
pub(super) fn enable_controllers(dir: &Path, is_root: bool) -> Vec<(&'static str, io::Error)> {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|controller| controller == name);
    let mut missing =
        CONTROLLERS.into_iter().filter(|name| has(&available, name) && !has(&enabled, name)).peekable();
    if is_root && missing.peek().is_some() {
        // Not only once the kernel refuses: `cpu` and `pids` it passes on beside processes, and then nothing else any more,
        // as the cgroup has become one of threads.
        make_room(dir);
    }
    let control = dir.join("cgroup.subtree_control");
    missing
        .filter_map(|name| fs::write(&control, format!("+{name}")).err().map(|error| (name, error)))
        .collect()
}

/// Moves what is in a cgroup itself to one below it: but for the hierarchy's own root, none may hold processes and pass
/// controllers on. That root is not ours where hostd itself runs in a container and sees its own cgroup as the root.
fn make_room(dir: &Path) {
    let leaf = dir.join("init");
    if !dir.join("cgroup.type").exists() || make_dir(&leaf).is_err() {
        return;
    }
    // Again for those that were forked meanwhile; who ends meanwhile is gone as well.
    for _ in 0..10 {
        let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        if pids.is_empty() {
            return;
        }
        for pid in pids.lines() {
            let _ = fs::write(leaf.join("cgroup.procs"), pid);
        }
    }
}

pub(super) fn limit_memory(out: &mut Writer<'_>, wanted: &Resources) -> Result<()> {
    for (asked, limit) in [
        (wanted.memory_swappiness.is_some(), "swappiness"),
        (wanted.kernel_memory_tcp.is_some(), "a limit of TCP buffers"),
        (wanted.oom_kill_disable == Some(true), "disabling the OOM killer"),
    ] {
        if asked {
            return Err(CgroupError::NoController { controller: "memory (v1)", limit });
        }
    }
    let swap = swap_alone(wanted);
    // A kernel without swap has no such file, and then no limit and none at all are the same.
    let pointless = swap.as_deref().is_none_or(|swap| ["max", "0"].contains(&swap));
    if !pointless || out.has("memory", "memory.swap.max") {
        out.set("memory", "memory.swap.max", swap, "a swap limit")?;
    }
    out.set("memory", "memory.max", wanted.memory.map(max_below_zero), "a memory limit")?;
    out.set("memory", "memory.low", wanted.memory_reservation.map(max_below_zero), "a memory reservation")
}

pub(super) fn limit_cpu(out: &mut Writer<'_>, wanted: &Resources) -> Result<()> {
    if wanted.cpu_rt_period.is_some() || wanted.cpu_rt_runtime.is_some() {
        return Err(CgroupError::NoController { controller: "cpu (v1)", limit: "real-time scheduling" });
    }
    out.set("cpu", "cpu.weight", wanted.cpu_shares.map(weight), "cpu shares")?;
    out.set("cpu", "cpu.max", cpu_max(wanted), "a cpu quota")
}

pub(super) fn limit_block_io(out: &mut Writer<'_>, wanted: &Resources) -> Result<()> {
    let wanted = &wanted.block_io;
    // BFQ's own file takes v1's weights; the general one has a scale of its own.
    let bfq = out.has("io", "io.bfq.weight");
    let (file, scale): (_, fn(u64) -> u64) =
        if bfq { ("io.bfq.weight", |weight| weight) } else { ("io.weight", io_weight) };
    let general = wanted.weight.map(|weight| scale(weight.into()));
    out.set_line("io", file, general, "a block I/O weight", |text| {
        line_of(text, "default", "100").replace("default ", "")
    })?;
    for limit in &wanted.device_weights {
        let device = format!("{}:{}", limit.major, limit.minor);
        let value = Some(format!("{device} {}", scale(limit.value)));
        out.set_line("io", file, value, "a block I/O weight of a device", |text| {
            line_of(text, &device, "default")
        })?;
    }
    for (key, limits, what) in [
        ("rbps", &wanted.read_bps, "a block I/O read rate"),
        ("wbps", &wanted.write_bps, "a block I/O write rate"),
        ("riops", &wanted.read_iops, "a block I/O read rate"),
        ("wiops", &wanted.write_iops, "a block I/O write rate"),
    ] {
        for limit in limits {
            let device = format!("{}:{}", limit.major, limit.minor);
            let rate = if limit.value == 0 { "max".to_owned() } else { limit.value.to_string() };
            let value = Some(format!("{device} {key}={rate}"));
            out.set_line("io", "io.max", value, what, |text| {
                line_of(text, &device, "rbps=max wbps=max riops=max wiops=max")
            })?;
        }
    }
    Ok(())
}

/// v1's weight of block I/O (10 to 1000) as v2's (1 to 10000), as runc converts it.
fn io_weight(weight: u64) -> u64 {
    1 + weight.clamp(10, 1000).saturating_sub(10) * 9_999 / 990
}

fn max_below_zero(bytes: i64) -> String {
    if bytes < 0 { "max".to_owned() } else { bytes.to_string() }
}

/// Docker counts memory and swap together, v2 swap alone.
pub(super) fn swap_alone(wanted: &Resources) -> Option<String> {
    let both = wanted.memory_swap?;
    if both < 0 {
        return Some("max".to_owned());
    }
    Some((both - wanted.memory.unwrap_or(0).max(0)).max(0).to_string())
}

/// v1 shares (2 to 262144, 1024 by default) as a v2 weight (1 to 10000), as runc converts them.
pub(super) fn weight(shares: u64) -> u64 {
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
    fn a_root_that_holds_processes_makes_room_for_containers() {
        // Wherever the host has a hierarchy of this kind, with any controller.
        let controller = |dir: &Path| -> Option<String> {
            fs::read_to_string(dir.join("cgroup.controllers"))
                .ok()?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        };
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let found = mounts.into_iter().find_map(|dir| Some((dir, controller(dir)?)));
        let (Some((mount, name)), true) = (found, rustix::process::geteuid().is_root()) else {
            eprintln!("skipped: needs root, and a cgroup2 file system with a controller");
            return;
        };
        let control = mount.join("cgroup.subtree_control");
        let before = fs::read_to_string(&control).unwrap();
        fs::write(&control, format!("+{name}")).unwrap();
        let root = mount.join(format!("hostd-test-room-{}", std::process::id()));
        fs::create_dir(&root).unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        fs::write(root.join("cgroup.procs"), child.id().to_string()).unwrap();
        create(&root, Path::new("hostd/box")).unwrap();
        let (moved, passed_on) = (
            fs::read_to_string(root.join("init/cgroup.procs")).unwrap(),
            fs::read_to_string(root.join("cgroup.subtree_control")).unwrap(),
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(moved.trim(), child.id().to_string());
        assert!(!passed_on.trim().is_empty());
        for dir in ["hostd/box", "hostd", "init", ""] {
            fs::remove_dir(root.join(dir)).unwrap();
        }
        if !before.split_whitespace().any(|known| known == name) {
            // Somebody else may need it by now.
            drop(fs::write(&control, format!("-{name}")));
        }
    }

    #[test]
    fn shares_quota_and_swap_are_converted() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4_950, 10_000]);
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
