//! Cgroups that systemd makes: a scope per container, so that systemd knows whose the processes are.
//!
//! A scope is a transient unit around processes that somebody else has started; its cgroup is handed over to us
//! (`Delegate`), and the limits stand in the unit's properties as well as in the cgroup's files, since systemd
//! writes the ones that it knows of again when it reloads. It is asked on its private socket, and where that
//! cannot be reached on the system bus (org.freedesktop.systemd1(5)).

use super::v2;
use crate::dbus::{Body, CallError, Connection, Message, Target};
use crate::spec::Resources;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const PRIVATE: &str = "/run/systemd/private";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const BUS: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// How long the scope of an earlier run may take to go.
const LEAVING: Duration = Duration::from_secs(5);

/// The unit of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// `hostd-<id>.scope`.
    name: String,
    /// `system.slice`.
    slice: String,
}

/// What a property is set to.
#[derive(Debug, PartialEq)]
enum Value {
    Text(String),
    Bool(bool),
    U64(u64),
    Pids(Vec<u32>),
    Bytes(Vec<u8>),
    /// Pairs of a device and what may be done with it.
    Devices(Vec<(String, String)>),
}

impl Value {
    fn write(&self, out: &mut Body) {
        match self {
            Self::Text(text) => {
                out.signature("s");
                out.text(text);
            }
            Self::Bool(on) => {
                out.signature("b");
                out.bool(*on);
            }
            Self::U64(number) => {
                out.signature("t");
                out.u64(*number);
            }
            Self::Pids(pids) => {
                out.signature("au");
                out.array(4, |out| pids.iter().for_each(|pid| out.u32(*pid)));
            }
            Self::Bytes(bytes) => {
                out.signature("ay");
                out.array(1, |out| bytes.iter().for_each(|byte| out.byte(*byte)));
            }
            Self::Devices(devices) => {
                out.signature("a(ss)");
                out.array(8, |out| {
                    for (device, access) in devices {
                        out.structure();
                        out.text(device);
                        out.text(access);
                    }
                });
            }
        }
    }
}

type Properties = Vec<(&'static str, Value)>;

fn write_properties(out: &mut Body, properties: &Properties) {
    out.array(8, |out| {
        for (name, value) in properties {
            out.structure();
            out.text(name);
            value.write(out);
        }
    });
}

/// Whether this is the name of a slice: what is between the dashes are the slices that it is in.
pub(super) fn is_slice(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".slice") else { return false };
    let sane = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:@\\".contains(&b))
    };
    name.len() < 256 && (stem == "-" || stem.split('-').all(sane))
}

/// Where a slice's cgroup is: `a-b.slice` in `a.slice`.
fn slice_path(name: &str) -> PathBuf {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    if stem == "-" {
        return PathBuf::new();
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.map(|end| format!("{}.slice", &stem[..end])).collect()
}

impl Unit {
    pub(super) fn of(slice: &str, id: &str) -> Self {
        Self { name: format!("hostd-{id}.scope"), slice: slice.to_owned() }
    }

    /// Where its cgroup is, relative to the root of each hierarchy.
    pub(super) fn path(&self) -> PathBuf {
        slice_path(&self.slice).join(&self.name)
    }

    /// Puts a process into a new scope; returns once it is in there.
    pub(super) fn start(
        &self,
        pid: i32,
        resources: &Resources,
        devices: Option<Vec<(String, String)>>,
    ) -> Result<(), CallError> {
        let mut systemd = Systemd::connect()?;
        let mut properties = self.properties(pid);
        if let Some(devices) = devices {
            properties.push(("DevicePolicy", Value::Text("strict".to_owned())));
            properties.push(("DeviceAllow", Value::Devices(devices)));
        }
        properties.extend(limits(resources, super::version()));
        let mut body = Body::default();
        body.text(&self.name);
        body.text("fail");
        write_properties(&mut body, &properties);
        body.array(8, |_| {}); // no auxiliary units
        let started = Instant::now();
        loop {
            match systemd.job("StartTransientUnit", "ssa(sv)a(sa(sv))", &body) {
                Err(CallError::Refused { name, .. })
                    if name.ends_with(".UnitExists") && started.elapsed() < LEAVING =>
                {
                    // That of an earlier run is about to go, or has failed and stays until it is told to go.
                    let _ = systemd.end(&self.name);
                    thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    fn properties(&self, pid: i32) -> Properties {
        let id = self.name.trim_start_matches("hostd-").trim_end_matches(".scope");
        let accounting = if super::version() == 2 { "IOAccounting" } else { "BlockIOAccounting" };
        vec![
            ("Description", Value::Text(format!("hostd container {id}"))),
            ("Slice", Value::Text(self.slice.clone())),
            ("PIDs", Value::Pids(vec![pid.unsigned_abs()])),
            ("Delegate", Value::Bool(true)),
            // It does not stay when it fails, which to systemd it does when the kernel kills it for its memory.
            ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
            ("DefaultDependencies", Value::Bool(false)),
            ("CPUAccounting", Value::Bool(true)),
            ("MemoryAccounting", Value::Bool(true)),
            ("TasksAccounting", Value::Bool(true)),
            (accounting, Value::Bool(true)),
        ]
    }

    /// Tells systemd of changed limits.
    pub(super) fn update(&self, resources: &Resources) -> Result<(), CallError> {
        let properties = limits(resources, super::version());
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = Body::default();
        body.text(&self.name);
        body.bool(true); // for as long as the unit lives
        write_properties(&mut body, &properties);
        let mut systemd = Systemd::connect()?;
        systemd.connection.call(MANAGER, "SetUnitProperties", "sba(sv)", &body, drop).map(drop)
    }

    /// Ends a scope whose cgroup is gone, where systemd does not do so by itself. On v1 it may miss the end of the last
    /// process. On v2 the kernel tells of it by `cgroup.events`, but holds the news back for 10 ms after the one before (of the
    /// first process, of a pause), and tells nothing any more once the cgroup is removed: the unit would stay for ever.
    pub(super) fn end(&self) {
        if let Ok(mut systemd) = Systemd::connect() {
            // It may be gone already, and that is what is wanted.
            let _ = systemd.end(&self.name);
        }
    }
}

/// A connection to systemd, on which it tells of jobs that end.
struct Systemd {
    connection: Connection,
}

impl Systemd {
    fn connect() -> Result<Self, CallError> {
        // There, signals come unasked.
        if let Ok(connection) = Connection::open(Path::new(PRIVATE)) {
            return Ok(Self { connection });
        }
        let mut connection = Connection::open(Path::new(SYSTEM_BUS))?;
        let none = Body::default();
        connection.call(BUS, "Hello", "", &none, drop)?;
        let mut rule = Body::default();
        rule.text("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'");
        connection.call(BUS, "AddMatch", "s", &rule, drop)?;
        connection.call(MANAGER, "Subscribe", "", &none, drop)?;
        Ok(Self { connection })
    }

    /// Calls a method that answers with a job, and waits for the job's end.
    fn job(&mut self, method: &str, signature: &str, body: &Body) -> Result<(), CallError> {
        let mut ended = Vec::new();
        let note = |message: Message, ended: &mut Vec<(String, String)>| {
            if message.is_signal("JobRemoved")
                && let Ok(job) = removed_job(&message)
            {
                ended.push(job);
            }
        };
        let answer =
            self.connection.call(MANAGER, method, signature, body, |message| note(message, &mut ended))?;
        let job = answer.arguments().text()?.to_owned();
        loop {
            match ended.iter().find(|(path, _)| *path == job) {
                Some((_, result)) if result == "done" => return Ok(()),
                Some((_, result)) => {
                    return Err(CallError::Io(io::Error::other(format!("the job of {method} is {result}"))));
                }
                None => {}
            }
            let message = self.connection.receive()?;
            note(message, &mut ended);
        }
    }

    fn end(&mut self, unit: &str) -> Result<(), CallError> {
        let mut body = Body::default();
        body.text(unit);
        body.text("replace");
        let stopped = self.job("StopUnit", "ss", &body);
        if matches!(&stopped, Err(CallError::Refused { name, .. }) if name.ends_with(".NoSuchUnit")) {
            return Ok(());
        }
        let mut body = Body::default();
        body.text(unit);
        let reset = self.connection.call(MANAGER, "ResetFailedUnit", "s", &body, drop);
        stopped.or(reset.map(drop))
    }
}

/// The path and result of the job that a signal tells of.
fn removed_job(message: &Message) -> io::Result<(String, String)> {
    let mut arguments = message.arguments();
    let _id = arguments.u32()?;
    let path = arguments.text()?.to_owned();
    let _unit = arguments.text()?;
    Ok((path, arguments.text()?.to_owned()))
}

/// The limits that systemd knows of, by its names on cgroups of this version.
fn limits(from: &Resources, version: u8) -> Properties {
    let mut all = Properties::new();
    let mut number = |name, value: Option<u64>| all.extend(value.map(|value| (name, Value::U64(value))));
    let bytes = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    number("TasksMax", from.pids_limit.map(|limit| if limit <= 0 { u64::MAX } else { bytes(limit) }));
    if version == 1 {
        number("MemoryLimit", from.memory.map(bytes));
        number("CPUShares", from.cpu_shares);
        number("BlockIOWeight", from.block_io.weight.map(u64::from));
    } else {
        number("MemoryMax", from.memory.map(bytes));
        number("MemoryLow", from.memory_reservation.map(bytes));
        let swap = v2::swap_alone(from).map(|swap| swap.parse().unwrap_or(u64::MAX));
        number("MemorySwapMax", swap);
        number("CPUWeight", from.cpu_shares.map(v2::weight));
    }
    if let Some(quota) = from.cpu_quota {
        number("CPUQuotaPerSecUSec", Some(per_second(quota, from.cpu_period.unwrap_or(100_000))));
        number("CPUQuotaPeriodUSec", from.cpu_period);
    }
    if version == 2 {
        for (name, list) in [("AllowedCPUs", &from.cpuset_cpus), ("AllowedMemoryNodes", &from.cpuset_mems)] {
            all.extend(list.as_deref().map(|list| (name, Value::Bytes(bits(list)))));
        }
    }
    all
}

/// Microseconds in a second, rounded up to ten milliseconds as systemd does.
fn per_second(quota: i64, period: u64) -> u64 {
    match u64::try_from(quota) {
        Ok(quota) if quota > 0 && period > 0 => {
            quota.saturating_mul(1_000_000).div_ceil(period).next_multiple_of(10_000)
        }
        _ => u64::MAX,
    }
}

/// A list such as `0-2,9` as a bit mask, the lowest byte first.
fn bits(list: &str) -> Vec<u8> {
    let mut mask = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        // Checked when the container was created.
        let (Ok(from), Ok(to)) = (from.trim().parse::<usize>(), to.trim().parse::<usize>()) else { continue };
        for bit in from..=to.min(8191) {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_in_the_slices_that_their_names_begin_with() {
        for (name, path) in [
            ("system.slice", "system.slice"),
            ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
            ("-.slice", ""),
        ] {
            assert!(is_slice(name), "{name}");
            assert_eq!(slice_path(name), Path::new(path));
        }
        for name in
            ["", ".slice", "a", "a--b.slice", "-a.slice", "a/b.slice", "../x.slice", "a b.slice", "...slice"]
        {
            assert!(!is_slice(name), "{name}");
        }
        assert_eq!(Unit::of("system.slice", "ab").path(), Path::new("system.slice/hostd-ab.scope"));
    }

    #[test]
    fn limits_have_systemds_names_and_units() {
        let wanted = Resources {
            memory: Some(100),
            memory_swap: Some(150),
            cpu_shares: Some(1024),
            cpu_quota: Some(55_555),
            cpu_period: Some(100_000),
            cpuset_cpus: Some("0-2,9".to_owned()),
            pids_limit: Some(0),
            ..Resources::default()
        };
        let expected: Properties = vec![
            ("TasksMax", Value::U64(u64::MAX)),
            ("MemoryMax", Value::U64(100)),
            ("MemorySwapMax", Value::U64(50)),
            ("CPUWeight", Value::U64(39)),
            ("CPUQuotaPerSecUSec", Value::U64(560_000)),
            ("CPUQuotaPeriodUSec", Value::U64(100_000)),
            ("AllowedCPUs", Value::Bytes(vec![0b111, 0b10])),
        ];
        assert_eq!(limits(&wanted, 2), expected);
        let v1: Vec<_> = limits(&wanted, 1).into_iter().map(|(name, _)| name).collect();
        assert_eq!(v1, ["TasksMax", "MemoryLimit", "CPUShares", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec"]);
        assert_eq!(per_second(-1, 100_000), u64::MAX);
    }
}
