//! hostd inside a container of hostd.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, TestHost, eventually, host};
use std::fs;
use std::path::Path;

/// Starts hostd in a privileged container, with its socket and all that it needs in `dir`.
fn start(host: &TestHost, dir: &Path, options: &[&str], args: &[&str]) -> Outcome {
    let program = e2e::built("BERTH_TEST_HOSTD", "hostd").unwrap();
    fs::copy(program, dir.join("hostd")).unwrap();
    let nest = format!("{}:/nest", dir.display());
    // What programs of the host need that hostd calls.
    let shared = ["/usr", "/lib", "/lib64"].map(|dir| format!("{dir}:{dir}:ro"));
    let shared = shared.iter().filter(|bind| Path::new(bind.split(':').next().unwrap()).exists());
    let mut command = host.docker_command();
    command.args(["run", "-d", "--privileged", "--name", "inner", "-v", &nest]);
    for bind in shared {
        command.args(["-v", bind]);
    }
    command.args(options).args(["-e", "PATH=/bin:/usr/sbin:/usr/bin", "busybox"]);
    command.args(["/nest/hostd", "--data-root", "/data", "-H", "unix:///nest/hostd.sock"]).args(args);
    e2e::run(&mut command)
}

/// The docker CLI against the inner one.
fn inner(host: &TestHost, dir: &Path, args: &[&str]) -> Outcome {
    let socket = format!("unix://{}", dir.join("hostd.sock").display());
    e2e::run(host.docker_command().env("DOCKER_HOST", socket).args(args))
}

#[test]
fn hostd_runs_containers_inside_a_privileged_container_of_hostd() {
    runs_containers("private");
}

#[test]
fn hostd_runs_containers_inside_a_container_that_shares_the_cgroup_namespace() {
    runs_containers("host");
}

fn runs_containers(cgroupns: &str) {
    let host = host!();
    let dir = tempfile::tempdir().unwrap();
    let options = ["-v", "inner-data:/data", "--cgroupns", cgroupns];
    start(&host, dir.path(), &options, &["--bip", "172.31.99.1/24"]).success();
    eventually("the inner hostd to answer", || {
        if host.field("inner", "{{.State.Running}}") != "true" {
            panic!("{:?}", host.docker(["logs", "inner"]));
        }
        inner(&host, dir.path(), &["version"]).succeeded().then_some(())
    });
    let inner = |args: &[&str]| inner(&host, dir.path(), args);
    let busybox = e2e::built("BERTH_TEST_BUSYBOX", "busybox.tar").unwrap();
    inner(&["load", "-q", "-i", &busybox.to_string_lossy()]).success();
    assert_eq!(inner(&["run", "--rm", "busybox", "echo", "deep"]).text(), "deep");
    // Its own network, limits, volumes, execs and logs.
    inner(&[
        "run", "-d", "--name", "web", "-p", "8088:80", "--memory", "32m", "-v", "www:/www", "busybox",
        "httpd", "-f", "-p", "80", "-h", "/www",
    ])
    .success();
    let limit = "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(inner(&["exec", "web", "sh", "-c", limit]).text(), (32 << 20).to_string());
    inner(&["exec", "web", "sh", "-c", "echo from below > /www/index.html"]).success();
    let fetch = ["exec", "inner", "wget", "-q", "-O", "-", "http://127.0.0.1:8088/"];
    let page = eventually("the page", || Some(host.docker(fetch)).filter(Outcome::succeeded));
    assert_eq!(page.text(), "from below");
    inner(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "ping -c 1 -W 5 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')",
    ])
    .success();
    inner(&["run", "--rm", "-t", "busybox", "tty"]).success().says("/dev/pts/0");
    assert_eq!(inner(&["ps", "-q"]).text().lines().count(), 1);
    assert_eq!(host.docker(["ps", "-q"]).text().lines().count(), 1);
    inner(&["rm", "-fv", "web"]).success();
    host.docker(["stop", "-t", "5", "inner"]).success();
    // What it has kept is there when it comes back.
    host.docker(["start", "inner"]).success();
    eventually("the inner hostd to answer again", || inner(&["version"]).succeeded().then_some(()));
    assert_eq!(inner(&["run", "--rm", "busybox", "echo", "again"]).text(), "again");
}

#[test]
fn a_data_root_on_an_overlay_is_refused_with_what_to_do() {
    let host = host!();
    let dir = tempfile::tempdir().unwrap();
    start(&host, dir.path(), &[], &[]).success();
    host.docker(["wait", "inner"]).says("1");
    host.docker(["logs", "inner"]).says("is on an overlay").says("volume");
}
