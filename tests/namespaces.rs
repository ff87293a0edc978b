//! Namespaces that containers share with each other or with the host, and what becomes of them when one ends.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, host};
use std::fs;

/// The namespace that a container's processes are in.
fn namespace(host: &TestHost, name: &str, kind: &str) -> String {
    host.docker(["exec", name, "readlink", &format!("/proc/self/ns/{kind}")]).text()
}

fn of_host(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

/// What a container of these options prints.
fn run(host: &TestHost, options: &[&str], command: &[&str]) -> e2e::Outcome {
    e2e::run(host.docker_command().args(["run", "--rm"]).args(options).arg("busybox").args(command))
}

#[test]
fn ipc_is_private_shared_by_consent_or_absent() {
    let host = host!();
    for (name, mode) in [("open", "shareable"), ("closed", "private"), ("bare", "none")] {
        host.docker(["run", "-d", "--name", name, "--ipc", mode, "busybox", "sleep", "600"]).success();
        assert_eq!(host.field(name, "{{.HostConfig.IpcMode}}"), mode);
        assert_ne!(namespace(&host, name, "ipc"), of_host("ipc"));
    }
    host.docker(["exec", "open", "sh", "-c", "echo hello > /dev/shm/note"]).success();
    let id = host.field("open", "{{.Id}}");
    host.docker(["run", "-d", "--name", "guest", "--ipc", "container:open", "busybox", "sleep", "600"])
        .success();
    assert_eq!(host.field("guest", "{{.HostConfig.IpcMode}}"), format!("container:{id}"));
    assert_eq!(namespace(&host, "guest", "ipc"), namespace(&host, "open", "ipc"));
    host.docker(["exec", "guest", "cat", "/dev/shm/note"]).success().says("hello");
    // Who has joined may be joined too.
    run(&host, &["--ipc", "container:guest"], &["cat", "/dev/shm/note"]).success().says("hello");
    for name in ["closed", "bare"] {
        run(&host, &["--ipc", &format!("container:{name}")], &["true"])
            .exits(125)
            .says("non-shareable IPC (hint: use IpcMode:shareable for the donor container)");
    }
    host.docker(["exec", "bare", "ls", "/dev/shm"]).failure().says("No such file");
    host.docker(["exec", "closed", "df", "/dev/shm"]).success().says("shm");
    assert_eq!(run(&host, &["--ipc", "host"], &["readlink", "/proc/self/ns/ipc"]).text(), of_host("ipc"));
    run(&host, &["--ipc", "container:nobody"], &["true"]).exits(125).says("No such container: nobody");
    host.docker(["create", "--ipc", "purple", "busybox"]).failure().says("purple");
}

#[test]
fn processes_names_and_cgroups_can_be_shared() {
    let host = host!();
    host.docker(["run", "-d", "--name", "one", "--hostname", "first", "busybox", "sleep", "600"]).success();
    let seen =
        run(&host, &["--pid", "container:one"], &["sh", "-c", "readlink /proc/self/ns/pid; ps"]).text();
    assert!(seen.contains("sleep 600"), "{seen}");
    assert!(seen.contains(&namespace(&host, "one", "pid")), "{seen}");
    assert_eq!(run(&host, &["--pid", "host"], &["readlink", "/proc/self/ns/pid"]).text(), of_host("pid"));
    assert_eq!(run(&host, &["--uts", "host"], &["readlink", "/proc/self/ns/uts"]).text(), of_host("uts"));
    let name = run(&host, &["--uts", "host"], &["hostname"]).text();
    assert_eq!(name, fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    run(&host, &["--uts", "host", "--hostname", "x"], &["true"])
        .exits(125)
        .says("conflicting options: hostname and the UTS mode");
    let cgroup =
        |mode| run(&host, &["--cgroupns", mode], &["sh", "-c", "readlink /proc/self/ns/cgroup"]).text();
    assert_eq!(cgroup("host"), of_host("cgroup"));
    assert_ne!(cgroup("private"), of_host("cgroup"));
    let own = run(&host, &["--cgroupns", "private"], &["cat", "/proc/self/cgroup"]).text();
    assert!(own.lines().any(|line| line.ends_with(":/")), "{own}");
}

#[test]
fn who_joins_a_container_that_does_not_run_is_refused() {
    let host = host!();
    host.docker(["run", "-d", "--name", "base", "--ipc", "shareable", "busybox", "sleep", "600"]).success();
    let id = host.field("base", "{{.Id}}");
    for (name, option) in [("net", "--network"), ("pid", "--pid"), ("ipc", "--ipc")] {
        host.docker(["run", "-d", "--name", name, option, "container:base", "busybox", "sleep", "600"])
            .success();
    }
    assert_eq!(namespace(&host, "net", "net"), namespace(&host, "base", "net"));
    host.docker(["stop", "-t", "0", "base"]).success();
    // Its processes were ended with the pid namespace that they lived in.
    host.docker(["wait", "pid"]).says("137");
    host.docker(["stop", "-t", "0", "net", "ipc"]).success();
    host.docker(["start", "net"])
        .failure()
        .says("cannot join network namespace of a non running container: container base is exited");
    host.docker(["start", "pid"])
        .failure()
        .says(&format!("failed to join PID namespace: Container {id} is not running"));
    host.docker(["start", "ipc"])
        .failure()
        .says(&format!("failed to join IPC namespace: Container {id} is not running"));
    host.docker(["start", "base"]).success();
    for name in ["net", "pid", "ipc"] {
        host.docker(["start", name]).success();
        host.docker(["restart", "-t", "0", name]).success();
        assert_eq!(namespace(&host, name, name), namespace(&host, "base", name));
    }
    host.docker(["rm", "-f", "net", "base"]).success();
    host.docker(["create", "--network", "container:base", "busybox"])
        .failure()
        .says("No such container: base");
    run(&host, &["--network", "container:pid", "-p", "80"], &["true"]).exits(125).says("conflicting options");
    run(&host, &["--network", "container:pid", "--expose", "80"], &["true"])
        .exits(125)
        .says("conflicting options: port exposing and the container type network mode");
}

#[test]
fn a_container_in_anothers_network_goes_by_its_name() {
    let host = host!();
    host.docker([
        "run",
        "-d",
        "--name",
        "base",
        "--hostname",
        "db",
        "--domainname",
        "example.org",
        "busybox",
        "sleep",
        "600",
    ])
    .success();
    let names = "hostname; cat /etc/hostname /proc/sys/kernel/domainname; echo $HOSTNAME";
    let told = run(&host, &["--network", "container:base"], &["sh", "-c", names]).text();
    assert_eq!(told, "db\ndb\nexample.org\ndb");
    run(&host, &["--network", "container:base", "--hostname", "x"], &["true"])
        .exits(125)
        .says("conflicting options: hostname and the network mode");
}

#[test]
fn the_daemons_defaults_hold_for_containers_that_do_not_say() {
    let profile = tempfile::NamedTempFile::new().unwrap();
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    fs::write(profile.path(), text).unwrap();
    let path = profile.path().to_string_lossy().into_owned();
    let option = format!("--seccomp-profile={path}");
    let host = host!("--default-ipc-mode=shareable", "--no-new-privileges", &option);
    let id = host.docker(["create", "busybox"]).text();
    assert_eq!(host.field(&id, "{{.HostConfig.IpcMode}}"), "shareable");
    assert!(run(&host, &[], &["cat", "/proc/self/status"]).text().contains("NoNewPrivs:\t1"));
    let own = ["--security-opt", "no-new-privileges=false"];
    assert!(run(&host, &own, &["cat", "/proc/self/status"]).text().contains("NoNewPrivs:\t0"));
    run(&host, &[], &["mkdir", "/x"]).failure().says("Operation not permitted");
    run(&host, &["--security-opt", "seccomp=unconfined"], &["mkdir", "/x"]).success();
    run(&host, &["--security-opt", "seccomp=builtin"], &["mkdir", "/x"]).success();
    let info = host.docker(["info", "--format", "{{json .SecurityOptions}}"]).text();
    for words in [&format!("name=seccomp,profile={path}"), "name=no-new-privileges", "name=cgroupns"] {
        assert!(info.contains(words), "{info}");
    }
}

#[test]
fn options_of_security_modules_that_the_host_lacks_are_refused_or_mean_nothing() {
    let host = host!();
    if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        eprintln!("skipped: this host has AppArmor");
        return;
    }
    assert!(!host.docker(["info", "--format", "{{.SecurityOptions}}"]).text().contains("apparmor"));
    run(&host, &["--security-opt", "apparmor=mine"], &["true"])
        .exits(125)
        .says("AppArmor is not supported on this host, but the profile 'mine' was specified");
    for option in ["apparmor=unconfined", "label=disable", "label=type:spc_t"] {
        run(&host, &["--security-opt", option], &["true"]).success();
    }
    run(&host, &["--security-opt", "label=purple"], &["true"]).exits(125).says("bad label option");
    let dir = tempfile::tempdir().unwrap();
    run(&host, &["-v", &format!("{}:/x:z", dir.path().display())], &["touch", "/x/y"]).success();
    assert!(dir.path().join("y").exists());
    // The client spells it by empty lists.
    let open = ["--security-opt", "systempaths=unconfined"];
    run(&host, &open, &["sh", "-c", "grep -c ' /proc/sys ' /proc/self/mounts"]).says("0");
    run(&host, &[], &["sh", "-c", "grep -c ' /proc/sys ' /proc/self/mounts"]).says("1");
}
