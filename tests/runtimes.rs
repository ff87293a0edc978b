//! Other OCI runtimes: the same containers by runc and by crun, and what becomes of one that fails.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, has, host, run};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A host whose cgroup hierarchies every runtime takes: crun refuses v1 where controllers are on v2 too.
macro_rules! host_of {
    ($runtime:expr) => {{
        if !has($runtime) {
            eprintln!("skipped: {} is not on PATH", $runtime);
            return;
        }
        let host = host!();
        if Path::new("/sys/fs/cgroup/memory").exists() {
            drop(run(host.inside("umount").arg("/sys/fs/cgroup/unified")));
        }
        host
    }};
}

/// Each of these tests, for both runtimes.
macro_rules! by_each {
    ($($name:ident)*) => {
        mod runc { $(#[test] fn $name() { super::$name("runc"); })* }
        mod crun { $(#[test] fn $name() { super::$name("crun"); })* }
    };
}

by_each! {
    a_container_prints_reads_and_ends_with_its_code
    a_terminal_has_its_size
    exec_runs_in_the_container
    users_limits_and_filters_are_in_force
    volumes_ports_and_names_work
    what_cannot_run_has_dockers_exit_code
    an_init_forwards_reaps_and_ends_as_the_program_does
    it_is_paused_changed_killed_and_stopped
    a_restart_policy_starts_it_again
    it_outlives_its_daemon
    a_killed_shim_takes_it_along_and_leaves_nothing
}

/// `docker run --runtime …`, with these arguments.
fn start(host: &TestHost, runtime: &str, args: &[&str]) -> e2e::Outcome {
    run(host.docker_command().args(["run", "--runtime", runtime]).args(args))
}

/// Nothing of a container of this id is left on the machine, and nothing of its runtime.
fn assert_nothing_left(host: &TestHost, id: &str) {
    eventually("the cgroups to go", || TestHost::cgroups(id).is_empty().then_some(()));
    eventually("its directory to go", || (!host.path("run/shims").join(id).exists()).then_some(()));
    eventually("its processes to go", || processes_about(id).is_empty().then_some(()));
}

/// Command lines, of any process, that name this container.
fn processes_about(id: &str) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let lines = pids.filter_map(|path| fs::read(path.join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(id))
        .collect()
}

fn a_container_prints_reads_and_ends_with_its_code(runtime: &str) {
    let host = host_of!(runtime);
    let outcome =
        start(&host, runtime, &["--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]).exits(7);
    assert_eq!((outcome.stdout().as_str(), outcome.stderr().as_str()), ("out\n", "err\n"));
    let mut child = host
        .docker_command()
        .args(["run", "-i", "--rm", "--runtime", runtime, "busybox", "sh", "-c", "cat; echo end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through cat\n").unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), "through cat\nend\n");
    let id =
        start(&host, runtime, &["--name", "box", "-d", "busybox", "sh", "-c", "seq 3000; echo last >&2"])
            .text();
    host.docker(["wait", "box"]).says("0");
    let logs = host.docker(["logs", "box"]).success();
    assert_eq!((logs.stdout().lines().count(), logs.stderr().as_str()), (3000, "last\n"));
    assert_eq!(host.field("box", "{{.HostConfig.Runtime}}"), runtime);
    host.docker(["rm", "box"]).success();
    assert_nothing_left(&host, &id);
}

fn a_terminal_has_its_size(runtime: &str) {
    let host = host_of!(runtime);
    let on_terminal = |command: &str| {
        let line = format!("stty rows 33 cols 77; docker {command}");
        let mut script = Command::new("script");
        run(script.args(["-qec", &line, "/dev/null"]).env("DOCKER_HOST", host.url()).stdin(Stdio::null()))
    };
    let show = "sh -c 'sleep 0.3; stty size; tty; echo done'";
    let outcome = on_terminal(&format!("run --rm -it --runtime {runtime} busybox {show}"));
    assert!(outcome.stdout().contains("done\r\n"), "{outcome:?}");
    outcome.success().says("33 77").says("/dev/pts/0");
    start(&host, runtime, &["-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    on_terminal(&format!("exec -it box {show}")).success().says("33 77").says("/dev/pts/");
    host.docker(["rm", "-f", "box"]).success();
}

fn exec_runs_in_the_container(runtime: &str) {
    let host = host_of!(runtime);
    start(&host, runtime, &["-d", "--name", "box", "-e", "OF=box", "busybox", "sleep", "1000"]).success();
    let outcome =
        host.docker(["exec", "box", "sh", "-c", "echo out; echo err >&2; cat /proc/1/comm; exit 9"]).exits(9);
    assert_eq!((outcome.stdout().as_str(), outcome.stderr().as_str()), ("out\nsleep\n", "err\n"));
    host.docker([
        "exec",
        "-u",
        "nobody",
        "-w",
        "/etc",
        "-e",
        "A=b",
        "box",
        "sh",
        "-c",
        "id; pwd; echo $A $OF $HOME",
    ])
    .success()
    .says("uid=65534(nobody) gid=65534(nobody)")
    .says("/etc\nb box /home");
    host.docker(["exec", "box", "nope"]).exits(127).says("OCI runtime exec failed").says("nope");
    host.docker(["exec", "box", "/etc/passwd"]).exits(126).says("ermission denied");
    host.docker(["exec", "-u", "nobody-here", "box", "true"])
        .failure()
        .says("unable to find user nobody-here");
    let mut child = host
        .docker_command()
        .args(["exec", "-i", "box", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through cat").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through cat");
    host.docker(["exec", "-d", "box", "touch", "/made"]).success();
    eventually("the detached exec", || {
        (host.docker(["exec", "box", "test", "-e", "/made"]).code() == 0).then_some(())
    });
    let bundle = host.path("run/shims").join(host.field("box", "{{.Id}}"));
    assert!(!bundle.join("process.json").exists(), "the environment of an exec is left in a file");
    host.docker(["rm", "-f", "box"]).success();
}

fn users_limits_and_filters_are_in_force(runtime: &str) {
    let host = host_of!(runtime);
    let script = "id; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; hostname; cat /proc/self/oom_score_adj; ulimit -n; pwd";
    start(
        &host,
        runtime,
        &[
            "--rm",
            "-u",
            "nobody:5",
            "--group-add",
            "77",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--hostname",
            "named",
            "--oom-score-adj",
            "300",
            "--ulimit",
            "nofile=99:100",
            "-w",
            "/made/here",
            "busybox",
            "sh",
            "-c",
            script,
        ],
    )
    .success()
    .says("uid=65534(nobody) gid=5")
    .says(",77")
    .says("CapEff:\t0000000000000000")
    .says("CapBnd:\t0000000000000000")
    .says("NoNewPrivs:\t1")
    .says("Seccomp:\t2")
    .says("named\n300\n99\n/made/here");
    let status = ["--rm", "busybox", "cat", "/proc/self/status"];
    start(&host, runtime, &status)
        .success()
        .says("CapEff:\t00000000a80425fb")
        .says("CapInh:\t0000000000000000");
    // A call that the default profile denies, one that a profile of the user's denies, and neither without a filter.
    start(&host, runtime, &["--rm", "busybox", "unshare", "-U", "true"])
        .failure()
        .says("Operation not permitted");
    let profile = host.path("profile.json");
    let rule = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    fs::write(&profile, rule).unwrap();
    let seccomp = format!("seccomp={}", profile.display());
    start(&host, runtime, &["--rm", "--security-opt", &seccomp, "busybox", "mkdir", "/x"])
        .failure()
        .says("No space left on device");
    let open = ["--rm", "--security-opt", "seccomp=unconfined", "busybox", "cat", "/proc/self/status"];
    start(&host, runtime, &open).success().says("Seccomp:\t0");
    start(
        &host,
        runtime,
        &["--rm", "--privileged", "busybox", "sh", "-c", "mkdir /m && mount -t tmpfs x /m"],
    )
    .success();
    for masked in ["/proc/kcore", "/proc/keys"] {
        let script = format!("! [ -e {masked} ] || [ -z \"$(head -c1 {masked})\" ]");
        start(&host, runtime, &["--rm", "busybox", "sh", "-c", &script]).success();
    }
    let write = ["--rm", "busybox", "sh", "-c", "echo x > /proc/sys/kernel/hostname"];
    start(&host, runtime, &write).failure().says("Read-only");
    start(&host, runtime, &["--rm", "--read-only", "busybox", "touch", "/x"]).failure().says("Read-only");
    let device = [
        "--rm",
        "--device",
        "/dev/null:/dev/zilch:rw",
        "busybox",
        "sh",
        "-c",
        "echo > /dev/zilch && ls -l /dev/zilch",
    ];
    start(&host, runtime, &device).success().says("1,   3");
    let hungry = ["--name", "hungry", "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero"];
    start(&host, runtime, &hungry).exits(137);
    assert_eq!(host.field("hungry", "{{.State.OOMKilled}}"), "true");
    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait";
    start(&host, runtime, &["--rm", "--pids-limit", "5", "busybox", "sh", "-c", forks])
        .says("Resource temporarily unavailable");
    host.docker(["rm", "hungry"]).success();
}

fn volumes_ports_and_names_work(runtime: &str) {
    let host = host_of!(runtime);
    let dir = host.path("bound");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "of the host").unwrap();
    let bind = format!("{}:/bound:ro", dir.display());
    let script = "cat /bound/file; touch /bound/x; echo kept > /volume/file; mount | grep ' /scratch '";
    let args = [
        "--rm",
        "-v",
        &bind,
        "-v",
        "data:/volume",
        "--tmpfs",
        "/scratch:size=1m",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    start(&host, runtime, &args).success().says("of the host").says("Read-only").says("size=1024k");
    start(&host, runtime, &["--rm", "-v", "data:/volume", "busybox", "cat", "/volume/file"]).says("kept");
    let web = "echo hi > /index.html; exec httpd -f -p 80 -h /";
    start(&host, runtime, &["-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", web]).success();
    eventually("the page", || {
        let fetched = run(host.inside("curl").args(["-fsS", "--max-time", "2", "http://127.0.0.1:8080/"]));
        (fetched.stdout() == "hi\n").then_some(())
    });
    // Namespaces of others: of a container by another runtime too, and the host's.
    let pid = [
        "--rm",
        "--pid",
        "container:web",
        "--network",
        "container:web",
        "busybox",
        "sh",
        "-c",
        "ps; ip addr",
    ];
    let address = host.field("web", "{{.NetworkSettings.IPAddress}}");
    start(&host, runtime, &pid).success().says("httpd").says(&address);
    start(&host, "hostd", &pid).success().says("httpd").says(&address);
    let of_host = fs::read_link("/proc/self/ns/pid").unwrap();
    start(&host, runtime, &["--rm", "--pid", "host", "busybox", "readlink", "/proc/self/ns/pid"])
        .says(&of_host.to_string_lossy());
    host.docker(["top", "web"]).success().says("httpd");
    host.docker(["stats", "--no-stream", "web"]).success().says("web");
    host.docker(["rm", "-f", "web"]).success();
    host.docker(["volume", "rm", "data"]).success();
}

fn what_cannot_run_has_dockers_exit_code(runtime: &str) {
    let host = host_of!(runtime);
    start(&host, runtime, &["--rm", "busybox", "nope"])
        .exits(127)
        .says("OCI runtime create failed")
        .says("nope");
    start(&host, runtime, &["--rm", "busybox", "/etc/passwd"]).exits(126).says("permission denied");
    start(&host, runtime, &["--rm", "-u", "nobody-here", "busybox", "true"])
        .exits(125)
        .says("unable to find user nobody-here");
    assert_eq!(host.docker(["ps", "-aq"]).text(), "", "failed runs with --rm leave nothing");
    let id = host.docker(["create", "--name", "box", "--runtime", runtime, "busybox", "nope"]).text();
    host.docker(["start", "box"]).failure().says("nope");
    assert_eq!(host.field("box", "{{.State.ExitCode}} {{.State.Running}}"), "127 false");
    assert_nothing_left(&host, &id);
    host.docker(["rm", "box"]).success();
}

fn an_init_forwards_reaps_and_ends_as_the_program_does(runtime: &str) {
    let host = host_of!(runtime);
    let program = e2e::built("BERTH_TEST_HOSTD", "hostd").unwrap();
    if run(Command::new("ldd").arg(program)).stdout().contains("=>") {
        eprintln!("skipped: this hostd is linked dynamically, so that it cannot be an init in a container");
        return;
    }
    let first = "tr '\\0' ' ' < /proc/1/cmdline; exit 7";
    start(&host, runtime, &["--rm", "--init", "busybox", "sh", "-c", first])
        .exits(7)
        .says("/sbin/docker-init -- sh -c");
    start(&host, runtime, &["--rm", "--init", "busybox", "nope"])
        .exits(127)
        .says("exec nope failed: No such file or directory");
    start(&host, runtime, &["--rm", "--init", "busybox", "/etc/passwd"]).exits(126).says("Permission denied");
    let script = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    start(&host, runtime, &["-d", "--name", "box", "--init", "busybox", "sh", "-c", script]).success();
    eventually("the program to be ready", || {
        host.docker(["logs", "box"]).stdout().contains("ready").then_some(())
    });
    // An orphan, which is process 1's to reap.
    host.docker(["exec", "box", "sh", "-c", "(true &)"]).success();
    eventually("the orphan to be reaped", || {
        let states = host.docker(["exec", "box", "sh", "-c", "cat /proc/[0-9]*/stat"]).stdout();
        (!states.contains(") Z ")).then_some(())
    });
    host.docker(["exec", "box", "sh", "-c", "echo > /sbin/docker-init"])
        .failure()
        .says("Read-only file system");
    host.docker(["stop", "box"]).success();
    assert_eq!(host.field("box", "{{.State.ExitCode}}"), "3");
    host.docker(["logs", "box"]).says("told");
    host.docker(["rm", "box"]).success();
    // As with Docker, not where it would not be process 1.
    start(
        &host,
        runtime,
        &["--rm", "--init", "--pid", "host", "busybox", "sh", "-c", "ls /sbin/docker-init"],
    )
    .failure();
}

fn it_is_paused_changed_killed_and_stopped(runtime: &str) {
    let host = host_of!(runtime);
    let script = "trap 'exit 3' TERM; trap 'echo usr1' USR1; echo ready; i=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.05; done";
    let id = start(&host, runtime, &["-d", "--name", "box", "busybox", "sh", "-c", script]).text();
    eventually("the traps", || host.docker(["logs", "box"]).stdout().contains("ready").then_some(()));
    host.docker(["pause", "box"]).success();
    assert_eq!(host.field("box", "{{.State.Status}}"), "paused");
    let find = format!(
        "find /sys/fs/cgroup/ -path '*{id}*' '(' -name freezer.state -o -name cgroup.events ')' -exec cat {{}} +"
    );
    let frozen = run(Command::new("sh").args(["-c", &find]));
    assert!(frozen.stdout().contains("FROZEN") || frozen.stdout().contains("frozen 1"), "{frozen:?}");
    host.docker(["unpause", "box"]).success();
    let count = || host.docker(["exec", "box", "cat", "/count"]).text();
    let before = count();
    eventually("it to go on", || (count() != before).then_some(()));
    host.docker(["update", "-m", "64m", "--memory-swap", "128m", "--pids-limit", "50", "box"]).success();
    let limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null || \
                  cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    host.docker(["exec", "box", "sh", "-c", limits]).success().says("67108864\n50");
    assert_eq!(host.field("box", "{{.HostConfig.Memory}}"), "67108864");
    host.docker(["kill", "-s", "USR1", "box"]).success();
    eventually("the signal", || host.docker(["logs", "box"]).stdout().contains("usr1").then_some(()));
    host.docker(["stop", "box"]).success();
    assert_eq!(host.field("box", "{{.State.ExitCode}}"), "3");
    host.docker(["start", "box"]).success();
    host.docker(["kill", "box"]).success();
    assert_eq!(host.field("box", "{{.State.ExitCode}}"), "137");
    host.docker(["restart", "-t", "0", "box"]).success();
    assert_eq!(host.field("box", "{{.State.Status}}"), "running");
    host.docker(["pause", "box"]).success();
    host.docker(["rm", "-f", "box"]).success();
    assert_nothing_left(&host, &id);
}

fn a_restart_policy_starts_it_again(runtime: &str) {
    let host = host_of!(runtime);
    let args =
        ["-d", "--name", "box", "--restart", "on-failure:2", "busybox", "sh", "-c", "echo run; exit 4"];
    let id = start(&host, runtime, &args).text();
    eventually("the last run", || {
        (host.field("box", "{{.RestartCount}} {{.State.Status}}") == "2 exited").then_some(())
    });
    assert_eq!(host.docker(["logs", "box"]).stdout(), "run\nrun\nrun\n");
    assert_eq!(host.field("box", "{{.State.ExitCode}}"), "4");
    assert_nothing_left(&host, &id);
    host.docker(["rm", "box"]).success();
}

fn it_outlives_its_daemon(runtime: &str) {
    let mut host = host_of!(runtime);
    let script = "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.05; done";
    let id = start(&host, runtime, &["-d", "--name", "box", "busybox", "sh", "-c", script]).text();
    start(&host, runtime, &["-d", "--name", "short", "busybox", "sh", "-c", "sleep 0.5; exit 42"]).success();
    let pids = ["box", "short"].map(|name| host.field(name, "{{.State.Pid}}"));
    host.kill();
    let gone = |pid: &str| !Path::new("/proc").join(pid).exists();
    eventually("the exit", || gone(&pids[1]).then_some(()));
    host.up();
    assert_eq!(host.field("short", "{{.State.Status}} {{.State.ExitCode}}"), "exited 42");
    assert_eq!(host.field("box", "{{.State.Running}} {{.State.Pid}}"), format!("true {}", pids[0]));
    host.docker(["exec", "box", "echo", "again"]).says("again");
    host.docker(["pause", "box"]).success();
    host.docker(["unpause", "box"]).success();
    let ticks = host.docker(["logs", "box"]).text();
    let mut numbers = ticks.lines().map(|line| line[5..].parse::<u32>().unwrap());
    assert!(
        numbers.by_ref().zip(1..).all(|(seen, expected)| seen == expected),
        "a line is missing:\n{ticks}"
    );
    host.docker(["stop", "-t", "0", "box"]).success();
    assert_nothing_left(&host, &id);
    host.docker(["rm", "box", "short"]).success();
}

fn a_killed_shim_takes_it_along_and_leaves_nothing(runtime: &str) {
    let host = host_of!(runtime);
    let id = start(&host, runtime, &["-d", "--name", "box", "busybox", "sleep", "1000"]).text();
    let pid = host.field("box", "{{.State.Pid}}");
    let shim = run(Command::new("ps").args(["-o", "ppid=", "-p", &pid])).text();
    run(Command::new("kill").args(["-KILL", &shim])).success();
    eventually("hostd to notice", || (host.field("box", "{{.State.Running}}") == "false").then_some(()));
    eventually("its process to die", || (!Path::new("/proc").join(&pid).exists()).then_some(()));
    assert_eq!(host.field("box", "{{.State.ExitCode}}"), "137");
    assert_nothing_left(&host, &id);
    host.docker(["start", "box"]).success();
    host.docker(["exec", "box", "true"]).success();
    host.docker(["rm", "-f", "box"]).success();
    assert_nothing_left(&host, &id);
}

#[test]
fn runtimes_are_listed_chosen_and_refused_by_name() {
    let host = host!();
    let runtimes = host.docker(["info", "--format", "{{json .Runtimes}} {{.DefaultRuntime}}"]).text();
    assert!(runtimes.contains(r#""hostd":{"path":"hostd"}"#) && runtimes.ends_with(" hostd"), "{runtimes}");
    for name in ["runc", "crun"].into_iter().filter(|name| has(name)) {
        assert!(runtimes.contains(&format!("\"{name}\":{{\"path\":\"/")), "{runtimes}");
    }
    if has("runc") {
        let commit = host.docker(["info", "--format", "{{.RuncCommit.ID}}"]).text();
        assert!(
            !commit.is_empty() && run(Command::new("runc").arg("--version")).stdout().contains(&commit),
            "{commit}"
        );
    }
    host.docker(["run", "--rm", "--runtime", "nope", "busybox", "true"])
        .exits(125)
        .says("unknown or invalid runtime name: nope");
    for dockers in ["runc", "io.containerd.runc.v2"] {
        start(&host, dockers, &["--rm", "busybox", "echo", "runs"]).success().says("runs");
    }
    start(&host, "hostd", &["--name", "own", "busybox", "true"]).success();
    assert_eq!(host.field("own", "{{.HostConfig.Runtime}}"), "hostd");
    host.docker(["rm", "own"]).success();
}

/// A program that does what runc does, but for what `script` does before it gets there.
fn fake(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("fake-runtime");
    let real = run(Command::new("sh").args(["-c", "command -v runc"])).text();
    // The command is the first word that is no option; `--log FILE` is where an error is expected.
    let text = format!(
        "#!/bin/sh\nlog=; command=; previous=\nfor word; do\n\
         case $previous in --log) log=$word;; esac\n\
         case $word in create|start|exec|kill|pause|resume|update|delete|state) command=${{command:-$word}};; esac\n\
         previous=$word\ndone\n{script}\nexec {real} \"$@\"\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_runtime_that_fails_is_quoted_and_leaves_nothing() {
    if !has("runc") {
        eprintln!("skipped: runc is not on PATH");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = fake(dir.path(), "");
    let host = host!("--add-runtime", &format!("fake={}", path.display()), "--default-runtime=fake");
    assert_eq!(host.docker(["info", "--format", "{{.DefaultRuntime}}"]).text(), "fake");
    host.docker(["run", "--rm", "busybox", "echo", "fine"]).success().says("fine");
    let error = r#"echo '{"level":"error","msg":"no luck today"}' >> "$log"; exit 1"#;
    let cases = [
        (
            "create",
            format!(r#"[ $command != create ] || {{ {error}; }}"#),
            "OCI runtime create failed: no luck today",
        ),
        (
            "create",
            "[ $command != create ] || { echo 'out of order' >&2; exit 3; }".to_owned(),
            "exit status 3: out of order",
        ),
        ("create", "[ $command != create ] || kill -9 $$".to_owned(), "signal 9"),
        ("create", "[ $command != create ] || exit 0".to_owned(), "process.pid"),
        // It leaves a process behind, and what the real one has made.
        (
            "create",
            format!(r#"[ $command != create ] || {{ sleep 1000 & {} "$@"; {error}; }}"#, "runc"),
            "no luck today",
        ),
        (
            "start",
            format!(r#"[ $command != start ] || {{ {error}; }}"#),
            "OCI runtime start failed: no luck today",
        ),
        (
            "delete",
            format!(r#"[ $command != create -a $command != delete ] || {{ {error}; }}"#),
            "no luck today",
        ),
    ];
    for (phase, script, words) in cases {
        fake(dir.path(), &script);
        let id = host.docker(["create", "--name", "box", "busybox", "sleep", "1000"]).text();
        host.docker(["start", "box"]).failure().says(words);
        assert_eq!(host.field("box", "{{.State.Running}} {{.State.Pid}}"), "false 0", "{phase}: {script}");
        assert_nothing_left(&host, &id);
        host.docker(["rm", "box"]).success();
    }
    for (command, args) in [
        ("exec", ["exec", "box", "true"]),
        ("pause", ["pause", "box", ""]),
        ("kill", ["kill", "-s=USR1", "box"]),
    ] {
        fake(dir.path(), "");
        let id = host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).text();
        fake(dir.path(), &format!(r#"[ $command != {command} ] || {{ {error}; }}"#));
        let args = args.iter().filter(|arg| !arg.is_empty());
        run(host.docker_command().args(args)).failure().says("no luck today");
        assert_eq!(host.field("box", "{{.State.Status}}"), "running", "{command}");
        // A runtime that is out of order does not keep a container from being killed.
        host.docker(["rm", "-f", "box"]).success();
        assert_nothing_left(&host, &id);
    }
    fs::remove_file(dir.path().join("fake-runtime")).unwrap();
    host.docker(["run", "--rm", "busybox", "true"]).failure().says("fake-runtime");
    assert_eq!(host.docker(["ps", "-aq"]).text(), "");
}

#[test]
fn runtimes_are_reloaded_while_containers_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hostd.json");
    fs::write(&file, "{}").unwrap();
    let host = host!("--config-file", &file.to_string_lossy());
    host.docker(["run", "--rm", "--runtime", "mine", "busybox", "true"])
        .exits(125)
        .says("unknown or invalid runtime name: mine");
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    let reload = |text: &str| {
        fs::write(&file, text).unwrap();
        run(Command::new("kill").args(["-HUP", &host.pid().to_string()])).success();
    };
    let offered = || host.docker(["info", "--format", "{{json .Runtimes}} {{.DefaultRuntime}}"]).text();
    reload(
        r#"{"runtimes": {"mine": {"path": "/opt/mine", "runtimeArgs": ["--debug"]}}, "default-runtime": "mine"}"#,
    );
    eventually("the new runtime", || {
        offered().contains(r#""mine":{"path":"/opt/mine","runtimeArgs":["--debug"]}"#).then_some(())
    });
    assert!(offered().ends_with(" mine"));
    // What is wrong changes nothing.
    reload(r#"{"default-runtime": "kata"}"#);
    eventually("the refusal", || {
        host.log().contains("specified default runtime 'kata' does not exist").then_some(())
    });
    assert!(offered().ends_with(" mine"));
    reload("{}");
    eventually("the old default", || offered().ends_with(" hostd").then_some(()));
    host.docker(["exec", "box", "true"]).success();
    host.docker(["rm", "-f", "box"]).success();
}
