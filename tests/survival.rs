//! Containers outlive their daemon, and what is acknowledged is never lost.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host, run};
use std::process::Command;

#[test]
fn containers_run_on_while_hostd_is_killed_and_are_found_again() {
    let mut host = host!();
    let script = "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.05; done";
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).success();
    let before = host.field("box", "{{.State.Pid}} {{.State.StartedAt}}");
    host.kill();
    host.up();
    assert_eq!(host.field("box", "{{.State.Pid}} {{.State.StartedAt}}"), before, "the same process goes on");
    host.docker(["exec", "box", "echo", "again"]).says("again");
    let ticks = host.docker(["logs", "box"]).text();
    let numbers: Vec<u32> = ticks.lines().map(|line| line[5..].parse().unwrap()).collect();
    assert!(numbers.iter().zip(1..).all(|(&seen, expected)| seen == expected), "a line is missing:\n{ticks}");
    host.docker(["stop", "-t", "0", "box"]).success();
}

#[test]
fn an_exit_while_hostd_is_away_is_reported_with_its_code() {
    let mut host = host!();
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", "sleep 0.5; exit 42"]).success();
    host.docker(["run", "-d", "--name", "again", "--restart", "always", "busybox", "sleep", "1000"])
        .success();
    let (pid, again) = (host.field("box", "{{.State.Pid}}"), host.field("again", "{{.State.Pid}}"));
    host.kill();
    run(Command::new("kill").args(["-KILL", &again])).success();
    eventually("the exit", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    host.up();
    assert_eq!(host.field("box", "{{.State.Status}} {{.State.ExitCode}}"), "exited 42");
    eventually("the restart policy to be caught up", || {
        (host.field("again", "{{.State.Running}}") == "true").then_some(())
    });
}

#[test]
fn a_published_port_keeps_answering_and_can_be_taken_down_after_a_restart() {
    let mut host = host!();
    let script = "echo hi > /index.html; exec httpd -f -p 80 -h /";
    host.docker(["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", script]).success();
    let fetch = |host: &TestHost| {
        run(host.inside("curl").args(["-fsS", "--max-time", "30", "http://127.0.0.1:8080/"]))
    };
    eventually("the page", || (fetch(&host).code() == 0).then_some(()));
    host.kill();
    fetch(&host).success();
    host.up();
    fetch(&host).success();
    host.docker(["run", "-d", "-p", "8080:80", "busybox", "true"])
        .exits(125)
        .says("port is already allocated");
    host.docker(["rm", "-f", "web"]).success();
    fetch(&host).failure();
}

#[test]
fn a_killed_shim_takes_its_container_along_and_leaves_nothing() {
    let host = host!();
    let id = host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).text();
    let pid = host.field("box", "{{.State.Pid}}");
    let shim = run(Command::new("ps").args(["-o", "ppid=", "-p", &pid])).text();
    run(Command::new("kill").args(["-KILL", &shim])).success();
    eventually("hostd to notice", || (host.field("box", "{{.State.Running}}") == "false").then_some(()));
    eventually("its process to die", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    host.docker(["start", "box"]).success();
    host.docker(["rm", "-f", "box"]).success();
    eventually("the cgroup to go", || TestHost::cgroups(&id).is_empty().then_some(()));
}

#[test]
fn created_containers_and_images_survive_kill_9_at_any_moment() {
    let mut host = host!();
    for round in 0..5 {
        let name = format!("c{round}");
        let id = host.docker(["create", "--name", &name, "busybox", "true"]).text();
        host.kill();
        host.up();
        assert_eq!(host.field(&name, "{{.Id}}"), id);
    }
    host.docker(["start", "-a", "c0"]).success();
    host.docker(["images"]).says("busybox");
}
