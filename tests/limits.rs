//! Limits and devices: that the kernel is told of them, that they hold, and that they can be changed.
//!
//! What is read here are the files of cgroup v1 or v2, wherever the host has a controller; `tests/guest` runs this on v2, and on
//! a hybrid host, with systemd.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::cgroups::{dir as cgroup_dir, is_v2, on_v2};
use e2e::{Outcome, TestHost, cgroups, eventually, host, run};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Returns from the test where the host has no such controller.
macro_rules! controllers {
    ($($name:literal),+) => {
        for name in [$($name),+] {
            if !cgroups::has(name) {
                eprintln!("skipped: there is no {name} cgroup controller");
                return;
            }
        }
    };
}

/// Where a limit stands: the controller and its file on v1, the file on v2.
type Limit = (&'static str, &'static str, &'static str);

const MEMORY: Limit = ("memory", "memory.limit_in_bytes", "memory.max");
/// With the memory on v1, alone on v2.
const SWAP: Limit = ("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
const RESERVATION: Limit = ("memory", "memory.soft_limit_in_bytes", "memory.low");
const SHARES: Limit = ("cpu", "cpu.shares", "cpu.weight");
/// With the period on v2.
const QUOTA: Limit = ("cpu", "cpu.cfs_quota_us", "cpu.max");
const CPUS: Limit = ("cpuset", "cpuset.cpus", "cpuset.cpus");
const PIDS: Limit = ("pids", "pids.max", "pids.max");

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// The value of a limit of a container.
fn limit(host: &TestHost, name: &str, (controller, v1, v2): Limit) -> String {
    read(&cgroup_dir(host, name, controller).join(if on_v2(controller) { v2 } else { v1 }))
}

/// Holds limits of a container against their values on v1 and on v2.
#[track_caller]
fn assert_limits(host: &TestHost, name: &str, limits: &[(Limit, &str, &str)]) {
    for &(kind, v1, v2) in limits {
        assert_eq!(limit(host, name, kind), if on_v2(kind.0) { v2 } else { v1 }, "{kind:?}");
    }
}

/// A block device of this machine and its numbers.
fn block_device() -> Option<(String, String)> {
    let mut names: Vec<_> =
        fs::read_dir("/sys/block").ok()?.flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names.into_iter().rev().find_map(|name| {
        let numbers = fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
        let path = format!("/dev/{name}");
        Path::new(&path).exists().then(|| (path, numbers.trim().to_owned()))
    })
}

/// A request to the API, as JSON.
fn api(host: &TestHost, method: &str, path: &str, body: Option<&Value>) -> Value {
    let socket = host.url().trim_start_matches("unix://").to_owned();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "30", "-X", method, "--unix-socket", &socket]);
    if let Some(body) = body {
        curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
    }
    let text = run(curl.arg(format!("http://localhost/v1.50{path}"))).text();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// `docker run -d --name NAME OPTIONS busybox sleep 1000`.
fn sleeper(host: &TestHost, name: &str, options: &[&str]) -> Outcome {
    let mut command = host.docker_command();
    command.args(["run", "-d", "--name", name]).args(options).args(["busybox", "sleep", "1000"]);
    run(&mut command)
}

#[test]
fn limits_arrive_in_the_kernel_and_in_inspect() {
    controllers!("memory", "cpu", "cpuset", "pids", "blkio");
    let host = host!();
    let mut options = vec!["-m=64m", "--memory-swap=96m", "--memory-reservation=32m", "--cpu-shares=512"];
    options.extend(["--cpu-period=50000", "--cpu-quota=25000", "--pids-limit=50"]);
    options.extend(["--cpuset-cpus=0", "--cpuset-mems=0"]);
    if !on_v2("memory") {
        options.extend(["--memory-swappiness=10", "--oom-kill-disable"]);
    }
    let device = block_device();
    let rates = device.as_ref().map(|(path, _)| {
        [("read-bps", "1mb"), ("write-bps", "2mb"), ("read-iops", "30"), ("write-iops", "40")]
            .map(|(what, rate)| format!("--device-{what}={path}:{rate}"))
    });
    options.extend(rates.iter().flatten().map(String::as_str));
    sleeper(&host, "box", &options).success();
    assert_limits(
        &host,
        "box",
        &[
            (MEMORY, "67108864", "67108864"),
            (RESERVATION, "33554432", "33554432"),
            (SWAP, "100663296", "33554432"),
            (SHARES, "512", "20"),
            (QUOTA, "25000", "25000 50000"),
            (CPUS, "0", "0"),
            (PIDS, "50", "50"),
        ],
    );
    let shown = host.field("box", "{{json .HostConfig}}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    if !on_v2("cpu") {
        assert_eq!(read(&cgroup_dir(&host, "box", "cpu").join("cpu.cfs_period_us")), "50000");
    }
    if !on_v2("memory") {
        let memory = cgroup_dir(&host, "box", "memory");
        assert_eq!(read(&memory.join("memory.swappiness")), "10");
        assert!(read(&memory.join("memory.oom_control")).contains("oom_kill_disable 1"));
        assert_eq!((&shown["OomKillDisable"], &shown["MemorySwappiness"]), (&Value::Bool(true), &10.into()));
    }
    let io = cgroup_dir(&host, "box", "blkio");
    match &device {
        Some((_, numbers)) if on_v2("blkio") => {
            let expected = format!("{numbers} rbps=1048576 wbps=2097152 riops=30 wiops=40");
            assert_eq!(read(&io.join("io.max")), expected);
        }
        Some((_, numbers)) => {
            for (file, rate) in
                [("read_bps", 1 << 20), ("write_bps", 2 << 20), ("read_iops", 30), ("write_iops", 40)]
            {
                let file = format!("blkio.throttle.{file}_device");
                assert_eq!(read(&io.join(&file)), format!("{numbers} {rate}"), "{file}");
            }
        }
        None => {}
    }
    if let Some((path, _)) = &device {
        assert_eq!(shown["BlkioDeviceReadBps"][0]["Path"], path.as_str());
        assert_eq!(shown["BlkioDeviceWriteIOps"][0]["Rate"], 40);
    }
    host.docker(["run", "--rm", "--device-read-bps", "/dev/no-such:1mb", "busybox", "true"])
        .exits(127)
        .says("stat /dev/no-such: no such file or directory");
}

#[test]
fn cpus_become_a_quota_and_can_be_changed_while_it_runs() {
    controllers!("cpu");
    let host = host!();
    sleeper(&host, "box", &["--cpus", "0.5"]).success();
    assert_limits(&host, "box", &[(QUOTA, "50000", "50000 100000")]);
    host.docker(["update", "--cpus", "0.25", "box"]).success();
    assert_limits(&host, "box", &[(QUOTA, "25000", "25000 100000")]);
    assert_eq!(host.field("box", "{{.HostConfig.NanoCpus}}"), "250000000");
    host.docker(["update", "--cpu-quota", "50000", "box"])
        .failure()
        .says("Cannot update container")
        .says("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set");
}

#[test]
fn real_time_scheduling_is_shared_out_of_what_the_daemon_has() {
    controllers!("cpu");
    let root = Path::new("/sys/fs/cgroup/cpu");
    if !root.join("cpu.rt_runtime_us").exists() {
        eprintln!("skipped: the kernel has no real-time scheduling in cgroups");
        return;
    }
    // Not the parent of all the other tests' containers.
    let parent = format!("hostd-rt-{}", std::process::id());
    let host =
        host!("--cpu-rt-runtime=20000", "--cpu-rt-period=1000000", &format!("--cgroup-parent={parent}"));
    sleeper(&host, "box", &["--cpu-rt-period=500000", "--cpu-rt-runtime=5000"]).success();
    let dir = root.join(&parent).join(host.field("box", "{{.Id}}"));
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("cpu.rt_period_us").as_str(), read("cpu.rt_runtime_us").as_str()), ("500000", "5000"));
    host.docker(["update", "--cpu-rt-runtime", "6000", "box"]).success();
    assert_eq!(read("cpu.rt_runtime_us"), "6000");
    host.docker(["run", "--rm", "--cpu-rt-runtime=900000", "busybox", "true"])
        .exits(125)
        .says("cpu.rt_runtime_us");
    host.docker(["rm", "-f", "box"]).success();
    drop(host);
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        // Not in every hierarchy is there one.
        let _ = fs::remove_dir(hierarchy.path().join(&parent));
    }
}

#[test]
fn an_update_changes_a_running_container_and_is_told_of() {
    controllers!("memory", "cpu", "cpuset", "pids", "blkio");
    let host = host!();
    sleeper(&host, "box", &["-m", "64m", "--memory-swap", "64m", "--pids-limit", "50"]).success();
    let update =
        ["update", "-m", "128m", "--memory-swap", "256m", "--memory-reservation", "32m", "--cpu-shares"];
    let mut command = host.docker_command();
    command.args(update).args([
        "2048",
        "--cpuset-cpus",
        "0",
        "--pids-limit",
        "-1",
        "--restart",
        "on-failure:3",
    ]);
    run(command.arg("box")).success().says("box");
    assert_limits(
        &host,
        "box",
        &[
            (MEMORY, "134217728", "134217728"),
            (SWAP, "268435456", "134217728"),
            (RESERVATION, "33554432", "33554432"),
            (SHARES, "2048", "79"),
            (CPUS, "0", "0"),
            (PIDS, "max", "max"),
        ],
    );
    assert_eq!(
        host.field(
            "box",
            "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}"
        ),
        "134217728 0 on-failure"
    );
    // `--until` counts in whole seconds, the present one left out.
    eventually("the event", || {
        let events = host.docker(["events", "--since", "10m", "--until", "0s", "--filter", "event=update"]);
        events.stdout().contains("container update").then_some(())
    });
    if let Some((path, numbers)) = block_device() {
        let rate = |rate: u32| serde_json::json!({ "BlkioDeviceReadBps": [{ "Path": path, "Rate": rate }] });
        assert_eq!(api(&host, "POST", "/containers/box/update", Some(&rate(4096)))["Warnings"], Value::Null);
        let rates: Limit = ("blkio", "blkio.throttle.read_bps_device", "io.max");
        let v2 = format!("{numbers} rbps=4096 wbps=max riops=max wiops=max");
        assert_limits(&host, "box", &[(rates, &format!("{numbers} 4096"), &v2)]);
        api(&host, "POST", "/containers/box/update", Some(&rate(0)));
        assert_eq!(limit(&host, "box", rates), "");
    }
}

#[test]
fn an_update_that_the_kernel_refuses_changes_nothing() {
    controllers!("memory", "pids", "cpu");
    if on_v2("memory") {
        eprintln!("skipped: a limit below what is in use is not refused on cgroup v2");
        return;
    }
    let host = host!();
    let fill = "dd if=/dev/zero of=/dev/shm/x bs=1M count=32 && touch /full && exec sleep 1000";
    let mut command = host.docker_command();
    command.args(["run", "-d", "--name", "box", "-m", "64m", "--memory-swap", "64m", "--pids-limit", "50"]);
    run(command.args(["busybox", "sh", "-c", fill])).success();
    eventually("the memory to be in use", || {
        (host.docker(["exec", "box", "test", "-e", "/full"]).code() == 0).then_some(())
    });
    let shares = limit(&host, "box", SHARES);
    let mut command = host.docker_command();
    command.args(["update", "-m", "8m", "--memory-swap", "8m", "--pids-limit", "7", "--cpu-shares", "77"]);
    run(command.args(["--restart", "always", "box"])).failure().says("Cannot update container");
    for (kind, expected) in
        [(MEMORY, "67108864"), (SWAP, "67108864"), (PIDS, "50"), (SHARES, shares.as_str())]
    {
        assert_eq!(limit(&host, "box", kind), expected, "{kind:?}");
    }
    assert_eq!(
        host.field(
            "box",
            "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}"
        ),
        "67108864 50 no"
    );
}

#[test]
fn an_update_that_makes_no_sense_is_refused_in_dockers_words() {
    controllers!("memory", "cpuset");
    let host = host!();
    sleeper(&host, "box", &["-m", "64m", "--memory-swap", "64m"]).success();
    host.docker(["update", "-m", "128m", "box"])
        .failure()
        .says("Memory limit should be smaller than already set memoryswap limit");
    host.docker(["update", "-m", "5m", "box"]).failure().says("Minimum memory limit allowed is 6MB");
    host.docker(["update", "--cpuset-cpus", "4000", "box"])
        .failure()
        .says("Requested CPUs are not available");
    host.docker(["update", "-m", "64m", "nobody"]).failure().says("No such container: nobody");
}

#[test]
fn an_update_of_a_stopped_container_counts_from_its_start_on_and_outlives_the_daemon() {
    controllers!("memory");
    let mut host = host!();
    host.docker(["create", "--name", "box", "busybox", "sleep", "1000"]).success();
    host.docker(["update", "-m", "64m", "--memory-swap", "64m", "--restart", "always", "box"]).success();
    host.kill();
    host.up();
    assert_eq!(
        host.field("box", "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}"),
        "67108864 always"
    );
    host.docker(["start", "box"]).success();
    assert_limits(&host, "box", &[(MEMORY, "67108864", "67108864")]);
    sleeper(&host, "gone", &["--rm"]).success();
    host.docker(["update", "--restart", "always", "gone"])
        .failure()
        .says("Restart policy cannot be updated because AutoRemove is enabled for the container");
    host.docker(["update", "--restart", "sometimes", "box"]).failure().says("invalid restart policy");
}

#[test]
fn memory_that_runs_out_is_told_of_when_it_happens_and_for_any_process() {
    controllers!("memory");
    let mut host = host!();
    let options = ["-m", "16m", "--memory-swap", "16m"];
    sleeper(&host, "box", &options).success();
    assert_eq!(host.field("box", "{{.State.OOMKilled}}"), "false");
    host.docker(["exec", "box", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]).exits(137);
    eventually("the exec's end to be told of", || {
        (host.field("box", "{{.State.OOMKilled}} {{.State.Running}}") == "true true").then_some(())
    });
    let ooms = |host: &TestHost| {
        let filters = ["--since", "10m", "--until", "0s", "--filter", "event=oom"];
        let mut command = host.docker_command();
        run(command.arg("events").args(filters).args(["--format", "{{.Actor.Attributes.name}}"])).text()
    };
    eventually("the event", || ooms(&host).contains("box").then_some(()));
    // It stays so for a daemon that comes after.
    host.kill();
    host.up();
    assert_eq!(host.field("box", "{{.State.OOMKilled}}"), "true");
    let hungry = "dd if=/dev/zero of=/dev/null bs=64M count=1; exec sleep 1000";
    let mut command = host.docker_command();
    command.args(["run", "-d", "--name", "child"]).args(options).args(["busybox", "sh", "-c", hungry]);
    run(&mut command).success();
    eventually("the child's end to be told of", || {
        (host.field("child", "{{.State.OOMKilled}} {{.State.Running}}") == "true true").then_some(())
    });
    host.docker([
        "run",
        "--name",
        "all",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=64M",
        "count=1",
    ])
    .exits(137);
    assert_eq!(host.field("all", "{{.State.OOMKilled}}"), "true");
    eventually("the event", || ooms(&host).contains("all").then_some(()));
    // A new run begins anew.
    host.docker(["update", "-m", "512m", "--memory-swap", "512m", "all"]).success();
    host.docker(["start", "-a", "all"]).success();
    assert_eq!(host.field("all", "{{.State.OOMKilled}}"), "false");
}

#[test]
fn senseless_limits_are_refused_in_dockers_words() {
    let host = host!();
    let systemd = host.docker(["info", "-f", "{{.CgroupDriver}}"]).text() == "systemd";
    let parent_refused = if systemd { "should be a valid slice named as" } else { "invalid cgroup parent" };
    for (options, words) in [
        (&["-m", "5m"][..], "Minimum memory limit allowed is 6MB"),
        (
            &["-m", "64m", "--memory-swap", "32m"],
            "Minimum memoryswap limit should be larger than memory limit",
        ),
        (&["--memory-swap", "64m"], "You should always set the Memory limit when using Memoryswap limit"),
        (&["--cpus", "4000"], "range of CPUs is from 0.01 to"),
        (&["--cpu-period", "10"], "CPU cfs period can not be less than 1ms"),
        (&["--cpuset-cpus", "x"], "Invalid value x for cpuset cpus"),
        (&["--cpuset-mems", "900"], "Requested memory nodes are not available"),
        (&["--cgroup-parent", "../x"], parent_refused),
        (&["--oom-score-adj", "2000"], "range for oom score adj is [-1000, 1000]"),
        (&["--device-cgroup-rule", "c 1:3 rwx"], "invalid"),
        (&["--gpus", "all"], "could not select device driver \"\" with capabilities: [[gpu]]"),
    ] {
        let mut command = host.docker_command();
        command.args(["run", "--rm"]).args(options).args(["busybox", "true"]);
        run(&mut command).exits(125).says(words);
    }
    for (field, words) in [
        ("IOMaximumIOps", "linux does not support Maximum IO Bandwidth or Maximum IO IOps"),
        ("BlkioWeight", "Range of blkio weight is from 10 to 1000"),
    ] {
        let body = serde_json::json!({ "Image": "busybox", "HostConfig": { field: 70_000 } });
        let answer = api(&host, "POST", "/containers/create", Some(&body));
        assert!(answer["message"].as_str().unwrap().contains(words), "{answer}");
    }
}

#[test]
fn devices_come_one_by_one_and_by_the_directory_with_their_permissions() {
    controllers!("devices");
    let host = host!();
    let dir = host.path("devices");
    fs::create_dir_all(dir.join("below")).unwrap();
    // 1:5 is zero, 1:11 the kernel's log.
    for (name, minor) in [("zero", "5"), ("below/log", "11")] {
        run(Command::new("mknod").arg(dir.join(name)).args(["c", "1", minor])).success();
    }
    let dir = dir.to_str().unwrap();
    let look =
        "head -c 3 /dev/mine/zero | wc -c; ls -l /dev/mine/below/log; : > /dev/mine/below/log && echo open";
    host.docker(["run", "--rm", "--device", &format!("{dir}:/dev/mine:rw"), "busybox", "sh", "-c", look])
        .says("3\n")
        .says("1,  11")
        .says("open");
    host.docker(["run", "--rm", "--device", &format!("{dir}:/dev/mine:r"), "busybox", "sh", "-c", look])
        .failure()
        .says("Operation not permitted");
    let log = "mknod /log c 1 11; : > /log && echo open";
    host.docker(["run", "--rm", "--device-cgroup-rule", "c 1:11 rwm", "busybox", "sh", "-c", log]).text();
    host.docker(["run", "--rm", "busybox", "sh", "-c", log]).failure().says("Operation not permitted");
    // For which the CLI has the exit code of a missing program.
    host.docker(["run", "--rm", "--device", "/dev/no-such-device", "busybox", "true"]).exits(127).says(
        "daemon: error gathering device information while adding custom device \"/dev/no-such-device\": no such file or \
         directory",
    );
    fs::create_dir(host.path("empty")).unwrap();
    host.docker(["run", "--rm", "--device", host.path("empty").to_str().unwrap(), "busybox", "true"])
        .exits(125)
        .says("error gathering device information while adding custom device")
        .says("not a device node");
}

const CDI: &str = r#"---
cdiVersion: 0.6.0
kind: vendor.com/class
devices:
- name: one
  containerEdits:
    env: [CDI_DEVICE=one]
    deviceNodes:
    - path: /dev/cdi-zero
      hostPath: /dev/zero
      permissions: r
containerEdits:
  env: [CDI_CLASS=class]
  mounts:
  - hostPath: HERE/shared
    containerPath: /cdi
    options: [ro, nosuid, nodev, noexec, rbind, rprivate]
  additionalGids: [4242]
"#;

#[test]
fn devices_that_a_vendor_describes_bring_all_that_they_need() {
    let specs = tempfile::tempdir().unwrap();
    let dir = specs.path();
    fs::create_dir(dir.join("shared")).unwrap();
    fs::write(dir.join("shared/file"), "from the vendor\n").unwrap();
    fs::write(dir.join("vendor.yaml"), CDI.replace("HERE", dir.to_str().unwrap())).unwrap();
    let gpu = r#"{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [
        {"name": "0", "containerEdits": {"env": ["GPU=0"]}}, {"name": "1", "containerEdits": {"env": ["GPU=1"]}},
        {"name": "all", "containerEdits": {"env": ["GPU=all"]}},
        {"name": "shared", "containerEdits": {"intelRdt": {"closID": "x"}}}]}"#;
    fs::write(dir.join("nvidia.json"), gpu).unwrap();
    fs::write(dir.join("broken.json"), "{").unwrap();
    let host = host!(&format!("--cdi-spec-dir={}", dir.display()));
    let look = "echo $CDI_DEVICE $CDI_CLASS; cat /cdi/file; touch /cdi/x; head -c 3 /dev/cdi-zero | wc -c; id -G; \
                grep ' /cdi ' /proc/self/mountinfo";
    host.docker(["run", "--rm", "--device", "vendor.com/class=one", "busybox", "sh", "-c", look])
        .success()
        .says("one class\nfrom the vendor\n3\n")
        .says("4242")
        .says("ro,nosuid,nodev,noexec")
        .says("Read-only file system");
    host.docker(["run", "--rm", "--device", "vendor.com/class=two", "busybox", "true"])
        .exits(125)
        .says("CDI device injection failed: unresolvable CDI devices vendor.com/class=two");
    for (gpus, expected) in [("all", "all"), ("1", "0"), ("device=1", "1")] {
        let out = host.docker(["run", "--rm", "--gpus", gpus, "busybox", "sh", "-c", "echo $GPU"]).text();
        assert_eq!(out, expected, "--gpus {gpus}");
    }
    host.docker(["run", "--rm", "--device", "nvidia.com/gpu=shared", "busybox", "true"])
        .exits(125)
        .says("intelRdt is not supported");
    let info = api(&host, "GET", "/info", None);
    assert_eq!(info["CDISpecDirs"][0], dir.to_str().unwrap());
    let devices = info["DiscoveredDevices"].as_array().unwrap();
    assert!(
        devices.contains(&serde_json::json!({ "Source": "cdi", "ID": "vendor.com/class=one" })),
        "{devices:?}"
    );
    assert!(info["Warnings"].to_string().contains("broken.json"), "{}", info["Warnings"]);
}

#[test]
fn the_daemons_defaults_hold_for_containers_that_ask_for_nothing() {
    let config = tempfile::tempdir().unwrap();
    let file = config.path().join("hostd.json");
    let text = r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 300, "Hard": 400}}, "default-shm-size": "16M"}"#;
    fs::write(&file, text).unwrap();
    let host = host!(&format!("--config-file={}", file.display()));
    let look = "ulimit -Sn; ulimit -Hn; df -m /dev/shm | tail -n 1 | awk '{print $2}'";
    assert_eq!(host.docker(["run", "--rm", "busybox", "sh", "-c", look]).text(), "300\n400\n16");
    let own = ["run", "--rm", "--ulimit", "nofile=50:60", "--shm-size", "8m", "busybox", "sh", "-c", look];
    assert_eq!(host.docker(own).text(), "50\n60\n8");
    assert_eq!(
        host.docker(["run", "--rm", "--oom-score-adj", "500", "busybox", "cat", "/proc/self/oom_score_adj"])
            .text(),
        "500"
    );
    assert_eq!(
        host.docker(["run", "--rm", "--group-add", "7", "--group-add", "8", "busybox", "id", "-G"]).text(),
        "0 7 8"
    );
    let sysctl = [
        "run",
        "--rm",
        "--sysctl",
        "net.core.somaxconn=99",
        "busybox",
        "cat",
        "/proc/sys/net/core/somaxconn",
    ];
    assert_eq!(host.docker(sysctl).text(), "99");
    let tmpfs = "grep ' /t ' /proc/self/mountinfo; stat -c %a /t";
    host.docker(["run", "--rm", "--tmpfs", "/t:size=2m,mode=711,exec,uid=5", "busybox", "sh", "-c", tmpfs])
        .success()
        .says("rw,nosuid,nodev")
        .says("size=2048k")
        .says("uid=5")
        .lacks("noexec")
        .says("711");
}

#[test]
fn containers_go_below_the_cgroup_that_is_asked_for() {
    controllers!("memory");
    let host = host!();
    let systemd = host.docker(["info", "-f", "{{.CgroupDriver}}"]).text() == "systemd";
    let parent = format!("hostd_parent_{}{}", std::process::id(), if systemd { ".slice" } else { "" });
    sleeper(&host, "box", &["--cgroup-parent", &parent]).success();
    let id = host.field("box", "{{.Id}}");
    let name = if systemd { format!("hostd-{id}.scope") } else { id };
    let place = cgroup_dir(&host, "box", "memory");
    assert!(place.is_dir() && place.ends_with(Path::new(&parent).join(&name)), "{}", place.display());
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.procs").exists() {
        let procs = read(&unified.join(&parent).join(&name).join("cgroup.procs"));
        assert_eq!(procs, host.field("box", "{{.State.Pid}}"));
    }
    let seen = |mode: &str| {
        host.docker([
            "run",
            "--rm",
            "--cgroupns",
            mode,
            "--cgroup-parent",
            &parent,
            "busybox",
            "cat",
            "/proc/self/cgroup",
        ])
        .text()
    };
    assert!(seen("host").contains(&parent), "the host's tree is seen");
    let own = seen("private");
    assert!(own.lines().all(|line| line.ends_with(":/")), "its own is the root everywhere: {own}");
    // Of an exec too.
    assert_eq!(host.docker(["exec", "box", "cat", "/proc/self/cgroup"]).text(), own);
    host.docker(["rm", "-f", "box"]).success();
    eventually("its cgroups to go", || TestHost::cgroups(&name).is_empty().then_some(()));
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join(&parent));
    }
}

#[test]
fn info_tells_what_the_machine_can_limit() {
    controllers!("memory", "cpu", "blkio");
    let host = host!();
    let info = api(&host, "GET", "/info", None);
    if is_v2() {
        assert_eq!(info["CgroupVersion"], "2");
        for field in ["MemoryLimit", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit"] {
            assert_eq!(info[field], true, "{field}");
        }
        assert_eq!(info["OomKillDisable"], false, "v2 has no such thing");
        return;
    }
    let asked =
        std::env::var("BERTH_TEST_HOSTD_ARGS").is_ok_and(|args| args.contains("cgroupdriver=systemd"));
    let driver = if asked { "systemd" } else { "cgroupfs" };
    assert_eq!((&info["CgroupDriver"], &info["CgroupVersion"]), (&driver.into(), &"1".into()));
    let root = Path::new("/sys/fs/cgroup");
    for (field, file) in [
        ("MemoryLimit", "memory/memory.limit_in_bytes"),
        ("SwapLimit", "memory/memory.memsw.limit_in_bytes"),
        ("OomKillDisable", "memory/memory.oom_control"),
        ("CpuCfsQuota", "cpu/cpu.cfs_quota_us"),
        ("CPUShares", "cpu/cpu.shares"),
        ("CPUSet", "cpuset/cpuset.cpus"),
        ("PidsLimit", "pids/cgroup.procs"),
    ] {
        let controller = file.split('/').next().unwrap();
        // Of the memory on v2 there is a limit of swap where the kernel has any, and no way to disable the killer.
        let (unified, kept) = (on_v2(controller), !["SwapLimit", "OomKillDisable"].contains(&field));
        if unified && field == "SwapLimit" {
            continue;
        }
        assert_eq!(info[field], if unified { kept } else { root.join(file).exists() }, "{field}");
    }
    // As in dockerd: nobody can do anything about it on v1.
    assert!(!info["Warnings"].to_string().contains("No blkio weight support"), "{}", info["Warnings"]);
    let weighs = root.join("blkio/blkio.weight").exists() || root.join("blkio/blkio.bfq.weight").exists();
    let body =
        serde_json::json!({ "Image": "busybox", "HostConfig": { "BlkioWeight": 300, "CpuPercent": 5 } });
    let warnings = api(&host, "POST", "/containers/create", Some(&body))["Warnings"].to_string();
    assert!(warnings.contains("linux does not support CPU percent. Percent discarded."), "{warnings}");
    assert_eq!(warnings.contains("Your kernel does not support Block I/O weight"), !weighs, "{warnings}");
}

#[test]
fn stats_have_dockers_shape() {
    controllers!("memory", "pids", "cpuacct", "blkio");
    let host = host!();
    sleeper(&host, "box", &["-m", "64m", "--pids-limit", "40"]).success();
    let once = api(&host, "GET", "/containers/box/stats?stream=0&one-shot=1", None);
    assert_eq!((&once["pids_stats"]["current"], &once["pids_stats"]["limit"]), (&1.into(), &40.into()));
    assert_eq!(once["memory_stats"]["limit"], 64 << 20);
    assert_eq!(once["precpu_stats"]["cpu_usage"]["total_usage"], 0, "one look tells of no time before");
    let twice = api(&host, "GET", "/containers/box/stats?stream=0", None);
    assert!(twice["precpu_stats"]["system_cpu_usage"].as_u64().unwrap() > 0);
    assert!(twice["cpu_stats"]["online_cpus"].as_u64().unwrap() > 0);
    let write = "dd if=/dev/zero of=/file bs=64k count=64 conv=fsync 2>/dev/null";
    host.docker(["exec", "box", "sh", "-c", write]).success();
    let io = &api(&host, "GET", "/containers/box/stats?stream=0&one-shot=1", None)["blkio_stats"];
    let counted = ["io_service_bytes_recursive", "io_serviced_recursive"];
    for field in &counted[..if on_v2("blkio") { 1 } else { 2 }] {
        // A file system that is no block device's counts nothing.
        for entry in io[field].as_array().unwrap() {
            assert!(entry["major"].is_u64() && entry["value"].is_u64() && entry["op"].is_string(), "{io}");
        }
    }
    if on_v2("cpuacct") {
        // Of each CPU it does not tell.
        return;
    }
    assert_eq!(io["sectors_recursive"], serde_json::json!([]), "not counted, on a kernel that counts");
    assert!(!twice["cpu_stats"]["cpu_usage"]["percpu_usage"].as_array().unwrap().is_empty());
}

/// The soft and the hard limit of open files of a process.
fn open_files(pid: &str) -> [String; 2] {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    [words.next().unwrap(), words.next().unwrap()]
}

#[test]
fn the_daemon_opens_all_files_that_it_may_and_containers_keep_the_limit_that_it_was_given() {
    let host = host!();
    let given = open_files("self");
    assert_eq!(open_files(&host.pid().to_string()), [given[1].clone(), given[1].clone()]);
    let own = host.docker(["run", "--rm", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn"]).text();
    assert_eq!(own.lines().collect::<Vec<_>>(), given);
    let exec = ["exec", "box", "sh", "-c", "ulimit -Sn"];
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    assert_eq!(host.docker(exec).text(), given[0]);
    host.docker(["rm", "-f", "box"]).success();
    let asked = ["run", "--rm", "--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -Sn"];
    assert_eq!(host.docker(asked).text(), "100");
}
