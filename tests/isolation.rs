//! What keeps a container in: namespaces, capabilities, seccomp, masked paths, limits.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host};
use std::fs;

#[test]
fn a_container_has_its_own_namespaces_and_sees_only_itself() {
    let host = host!();
    let out = host
        .docker([
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "ls -l /proc/self/ns; echo $$; ls /proc | grep -c '^[0-9]'",
        ])
        .text();
    for kind in ["pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(!out.contains(&*link.to_string_lossy()), "{kind} is the host's:\n{out}");
    }
    assert!(out.contains("\n1\n"), "its shell is process 1:\n{out}");
    assert_eq!(
        host.docker(["run", "--rm", "--pid", "host", "busybox", "sh", "-c", "readlink /proc/self/ns/pid"])
            .text(),
        fs::read_link("/proc/self/ns/pid").unwrap().to_string_lossy()
    );
}

#[test]
fn privileges_are_dockers_default_and_can_be_changed() {
    let host = host!();
    let status = host.docker(["run", "--rm", "busybox", "cat", "/proc/self/status"]).text();
    assert!(status.contains("CapEff:\t00000000a80425fb"), "{status}");
    assert!(
        status.contains("CapBnd:\t00000000a80425fb") && status.contains("CapInh:\t0000000000000000"),
        "{status}"
    );
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t0"), "{status}");
    host.docker(["run", "--rm", "busybox", "mount", "-t", "tmpfs", "x", "/mnt"]).failure();
    host.docker(["run", "--rm", "busybox", "unshare", "-U", "true"])
        .failure()
        .says("Operation not permitted");
    let bare = host
        .docker([
            "run",
            "--rm",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "busybox",
            "cat",
            "/proc/self/status",
        ])
        .text();
    assert!(bare.contains("CapEff:\t0000000000000000") && bare.contains("NoNewPrivs:\t1"), "{bare}");
    let open = host
        .docker([
            "run",
            "--rm",
            "--security-opt",
            "seccomp=unconfined",
            "busybox",
            "cat",
            "/proc/self/status",
        ])
        .text();
    assert!(open.contains("Seccomp:\t0"), "{open}");
    host.docker(["run", "--rm", "--cap-add", "NOPE", "busybox", "true"]).exits(125).says("NOPE");
    host.docker(["run", "--rm", "--privileged", "busybox", "sh", "-c", "mkdir /m && mount -t tmpfs x /m"])
        .success();
}

#[test]
fn paths_that_would_leak_the_host_are_masked_or_read_only() {
    let host = host!();
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        host.docker([
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            &format!("! [ -e {path} ] || [ -z \"$(head -c1 {path})\" ]"),
        ])
        .success();
    }
    host.docker(["run", "--rm", "busybox", "sh", "-c", "echo x > /proc/sys/kernel/hostname"])
        .failure()
        .says("Read-only");
    host.docker(["run", "--rm", "busybox", "sh", "-c", "echo b > /proc/sysrq-trigger"]).failure();
    host.docker(["run", "--rm", "busybox", "mkdir", "/sys/x"]).failure();
    host.docker(["run", "--rm", "busybox", "ls", "/sys/firmware"]).success().lacks("acpi");
}

#[test]
fn devices_of_the_host_stay_out_of_reach() {
    let host = host!();
    let script = "mknod /disk b 254 0 && dd if=/disk bs=512 count=1 of=/dev/null";
    host.docker(["run", "--rm", "busybox", "sh", "-c", script]).failure().says("Operation not permitted");
    host.docker([
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "head -c4 /dev/zero | wc -c; echo > /dev/null; ls /dev",
    ])
    .success()
    .lacks("vda");
}

#[test]
fn limits_of_memory_and_processes_hold() {
    let host = host!();
    let id = host
        .docker([
            "run",
            "-d",
            "--name",
            "hungry",
            "--memory",
            "16m",
            "--memory-swap",
            "16m",
            "busybox",
            "sh",
            "-c",
            "tail /dev/zero",
        ])
        .text();
    host.docker(["wait", "hungry"]).says("137");
    assert_eq!(host.field("hungry", "{{.State.OOMKilled}}"), "true");
    host.docker([
        "run",
        "--rm",
        "--pids-limit",
        "5",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7; do sleep 1 & done; wait",
    ])
    .says("Resource temporarily unavailable");
    host.docker(["run", "--rm", "--memory", "1m", "busybox", "true"])
        .exits(125)
        .says("Minimum memory limit allowed is 6MB");
    host.docker(["rm", "hungry"]).success();
    eventually("the cgroup to go", || TestHost::cgroups(&id).is_empty().then_some(()));
}

#[test]
fn no_descriptor_of_the_host_leaks_into_a_container() {
    let host = host!();
    let out = host.docker(["run", "--rm", "busybox", "ls", "-l", "/proc/self/fd"]).text();
    let open: Vec<_> = out.lines().filter(|line| line.starts_with('l')).collect();
    assert_eq!(open.len(), 4, "stdin, stdout, stderr and the directory being listed:\n{out}");
    host.docker(["run", "--rm", "-w", "/proc/self/fd/8", "busybox", "true"]).failure();
}
