//! Containers as the engine drives them: real shims, namespaces, cgroups and overlays.
//!
//! This program is its own shim, so it has a `main` instead of libtest's; it takes name filters.
#![allow(missing_docs, clippy::unwrap_used)]

mod host;
mod intruders;
mod mounts;
mod protocol;

use host::*;
use hostd_runtime::spec::*;
use hostd_runtime::{Found, Kernel, RuntimeError, SHIM_ARG, Streams, shim_main};
use intruders::*;
use mounts::*;
use protocol::*;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::io::AsyncWriteExt;

type Test = (&'static str, fn(Kernel));

macro_rules! tests {
    ($($name:ident)*) => { &[$((stringify!($name), |kernel| run($name, kernel))),*] };
}

fn run<F: Future<Output = ()>>(test: fn(Host) -> F, kernel: Kernel) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { limited(test(Host::start(kernel))).await });
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == SHIM_ARG) {
        shim_main();
    }
    let tests: &[Test] = tests![
        a_program_runs_and_its_exit_code_is_told
        stdout_and_stderr_are_framed_and_logged
        stdin_reaches_the_program_and_ends_with_the_client
        a_terminal_is_raw_and_resizes
        exec_runs_in_the_container
        exec_with_a_terminal
        who_reads_the_end_of_the_output_can_ask_for_the_exit
        a_program_that_closes_its_outputs_ends_the_stream_and_reads_on
        what_cannot_be_executed_fails_in_dockers_words
        users_groups_and_home_come_from_the_image
        capabilities_seccomp_and_no_new_privileges_are_in_force
        masked_paths_are_empty_and_read_only_ones_refuse
        a_read_only_root_refuses_writes
        namespaces_are_its_own
        binds_tmpfs_and_devices_are_there
        read_only_binds_are_so_at_every_depth_and_keep_their_options
        only_allowed_devices_can_be_opened
        a_link_in_the_image_leads_nowhere_outside
        init_forwards_signals_and_reaps
        signals_end_it_with_128_and_the_number
        pausing_stops_it_and_unpausing_goes_on
        a_container_without_memory_is_killed_for_it
        limits_are_set_and_updated
        the_log_is_rotated
        much_output_arrives_whole_at_a_slow_client
        a_container_outlives_its_daemon_and_is_found_again
        a_container_never_started_is_gone_with_its_daemon
        a_killed_shim_leaves_nothing
        a_stopped_shim_does_not_hold_up_removal
        the_hosts_binary_is_out_of_reach
        a_failed_create_leaves_nothing
        a_root_file_system_may_have_many_layers
        sysctls_and_ulimits_are_set
        a_shim_outlives_what_it_does_not_understand
        a_shim_with_too_many_callers_serves_those_it_has
        a_container_of_an_older_hostd_goes_on
        init_may_do_no_more_than_the_program
        what_the_shim_forks_after_an_exec_is_not_in_the_container
        a_container_that_stops_who_enters_it_can_be_killed
        a_layer_that_is_written_to_from_outside_is_not_mounted_by_a_shim
        a_mounted_dev_leaves_the_images_alone
        what_a_machine_shows_of_itself_in_proc_can_be_covered
    ];
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/usr/bin/busybox").exists() {
        println!("skipped: needs root and /usr/bin/busybox");
        return;
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    own_mounts();
    // As much as the kernel can do, and as little as it may.
    let kernels: &[Kernel] = match Kernel::detect() {
        Kernel::OLDEST => &[Kernel::OLDEST],
        newer => &[newer, Kernel::OLDEST],
    };
    let mut failed = Vec::new();
    for (name, test) in
        tests.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(*f)))
    {
        for kernel in kernels {
            println!("test {name} on {kernel:?} ...");
            if catch_unwind(AssertUnwindSafe(|| test(*kernel))).is_err() {
                failed.push(*name);
            }
        }
    }
    println!("{} failed: {failed:?}", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}

/// Starts this program anew with mounts that are nobody else's.
fn own_mounts() {
    const DONE: &str = "HOSTD_TEST_OWN_MOUNTS";
    if std::env::var_os(DONE).is_some() {
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    // This program's file is on a mount of the host's; a new one's is on ours, which shims can be made of.
    let mut args = std::env::args_os();
    let program = args.next().unwrap();
    let error = std::process::Command::new(program).args(args).env(DONE, "1").exec();
    panic!("cannot start anew: {error}");
}

async fn a_program_runs_and_its_exit_code_is_told(host: Host) {
    let spec = host.spec("exit 42");
    let id = spec.id.clone();
    let (exit, out, err) = host.run(spec).await;
    assert_eq!((exit.code, exit.oom_killed, out.as_str(), err.as_str()), (42, false, "", ""));
    host.assert_nothing_left(&id);
}

async fn stdout_and_stderr_are_framed_and_logged(host: Host) {
    let spec = host.spec("echo out; echo '<err>' >&2; printf partial");
    let log = host.log(&spec.id);
    let (_, out, err) = host.run(spec).await;
    assert_eq!((out.as_str(), err.as_str()), ("out\npartial", "<err>\n"));
    let text = fs::read_to_string(log).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains(r#"{"log":"out\n","stream":"stdout","time":"2"#), "{text}");
    assert!(text.contains(r#"{"log":"\u003cerr\u003e\n","stream":"stderr","time":"2"#), "{text}");
    assert!(text.contains(r#"{"log":"partial","stream":"stdout""#), "{text}");
}

async fn stdin_reaches_the_program_and_ends_with_the_client(host: Host) {
    let mut spec = host.spec("cat; echo end");
    spec.stdin = Stdin::Once;
    let container = host.runtime.create(spec).await.unwrap();
    let mut stream = container.attach(BOTH).await.unwrap();
    container.start().await.unwrap();
    let text = "line of input\n".repeat(20_000);
    let (mut read, mut write) = stream.split();
    let both = async {
        let writer = async {
            write.write_all(text.as_bytes()).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut all = Vec::new();
        let reader = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut all);
        let ((), read) = tokio::join!(writer, reader);
        read.unwrap();
        all
    };
    let all = limited(both).await;
    assert!(all.len() > text.len() && all.ends_with(b"end\n"));
    assert_eq!(container.wait().await.unwrap().code, 0);
}

async fn a_terminal_is_raw_and_resizes(host: Host) {
    let mut spec =
        host.spec("tty; stty size; readlink /proc/self/fd/0; read line; stty size; echo got $line");
    spec.tty = true;
    spec.stdin = Stdin::Open;
    spec.console_size = Some(TtySize { rows: 31, cols: 99 });
    let id = spec.id.clone();
    let container = host.runtime.create(spec).await.unwrap();
    let mut stream = container.attach(BOTH).await.unwrap();
    container.start().await.unwrap();
    until(&mut stream, "31 99\r\n").await;
    container.resize(TtySize { rows: 40, cols: 120 }).await.unwrap();
    stream.write_all(b"hello\n").await.unwrap();
    let rest = raw(stream).await;
    assert!(rest.contains("40 120\r\n") && rest.contains("got hello\r\n"), "{rest:?}");
    host.runtime.remove(&id).await.unwrap();
}

async fn exec_runs_in_the_container(host: Host) {
    let spec = host.spec("echo $$ > /marker; exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    let (code, out, _) = host.exec(&container, &["sh", "-c", "hostname; pwd; echo $HOME; exit 7"]).await;
    assert_eq!((code, out.as_str()), (7, "box\n/\n/root\n"));
    let (_, out, _) = host.exec(&container, &["cat", "/proc/1/comm"]).await;
    assert_eq!(out, "sleep\n");
    let exec = container.exec(exec_spec(&["cat"]), Some(BOTH)).await.unwrap();
    let mut stream = exec.stream.unwrap();
    feed(&mut stream, "through cat").await;
    assert_eq!(frames(stream).await.0, "through cat");
    assert!(container.exec_again(&exec_spec(&["x"]).id).await.unwrap().is_none());
    let detached = container.exec(exec_spec(&["sh", "-c", "exit 3"]), None).await.unwrap();
    assert_eq!(limited(detached.handle.wait()).await.unwrap().code, 3);
    let (_, status, _) =
        host.exec(&container, &["grep", "-E", "^(CapEff|Seccomp):", "/proc/self/status"]).await;
    assert_eq!(status, "CapEff:\t00000000a80425fb\nSeccomp:\t2\n");
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
}

async fn who_reads_the_end_of_the_output_can_ask_for_the_exit(host: Host) {
    for code in 0..10 {
        let spec = host.spec(&format!("echo out; exit {code}"));
        let id = spec.id.clone();
        let container = host.runtime.create(spec).await.unwrap();
        let stream = container.attach(BOTH).await.unwrap();
        container.start().await.unwrap();
        frames(stream).await;
        let exit = fs::read_to_string(host.dir.path().join("exec").join(&id).join("exit.json")).unwrap();
        assert!(exit.contains(&format!("\"code\":{code},")), "{exit}");
        host.runtime.remove(&id).await.unwrap();
    }
}

async fn a_program_that_closes_its_outputs_ends_the_stream_and_reads_on(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    let script = "exec >/seen 2>&1; cat; exit 3";
    let exec = container.exec(exec_spec(&["sh", "-c", script]), Some(BOTH)).await.unwrap();
    let mut stream = exec.stream.unwrap();
    let mut all = Vec::new();
    limited(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all)).await.unwrap();
    feed(&mut stream, "said later").await;
    assert_eq!(limited(exec.handle.wait()).await.unwrap().code, 3);
    assert_eq!(host.exec(&container, &["cat", "/seen"]).await.1, "said later");
    // It need not end for that.
    let exec = container.exec(exec_spec(&["sh", "-c", "exec >&- 2>&-; exec sleep 1000"]), Some(BOTH));
    let stream = exec.await.unwrap().stream.unwrap();
    assert_eq!(frames(stream).await, (String::new(), String::new()));
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
}

async fn exec_with_a_terminal(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    let mut spec = exec_spec(&["sh", "-c", "read x; stty size; tty; exit 5"]);
    (spec.tty, spec.console_size) = (true, Some(TtySize { rows: 10, cols: 20 }));
    let exec = container.exec(spec, Some(BOTH)).await.unwrap();
    exec.handle.resize(TtySize { rows: 11, cols: 22 }).await.unwrap();
    let mut stream = exec.stream.unwrap();
    stream.write_all(b"\n").await.unwrap();
    let out = raw(stream).await;
    assert!(out.contains("11 22\r\n") && out.contains("/dev/pts/0\r\n"), "{out:?}");
    assert_eq!(limited(exec.handle.wait()).await.unwrap().code, 5);
    host.runtime.remove(&id).await.unwrap();
}

async fn what_cannot_be_executed_fails_in_dockers_words(host: Host) {
    let prefix = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                  runc create failed: unable to start container process: ";
    let cases = [
        ("nosuch", 127, r#"exec: "nosuch": executable file not found in $PATH: unknown"#),
        ("/nosuch", 127, r#"exec: "/nosuch": stat /nosuch: no such file or directory: unknown"#),
        ("/etc/plain", 126, r#"exec: "/etc/plain": permission denied: unknown"#),
        ("/etc", 126, r#"exec: "/etc": is a directory: unknown"#),
    ];
    for (program, code, message) in cases {
        let mut spec = host.spec("");
        spec.args = vec![program.into()];
        let id = spec.id.clone();
        match host.try_run(spec).await {
            Err(RuntimeError::Exec { code: got, message: text }) => {
                assert_eq!((got, text), (code, format!("{prefix}{message}")));
            }
            other => panic!("{other:?}"),
        }
        host.assert_nothing_left(&id);
    }
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    match container.exec(exec_spec(&["nosuch"]), Some(BOTH)).await {
        Err(RuntimeError::Exec { code: 127, message }) => assert_eq!(
            message,
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": \
             executable file not found in $PATH: unknown"
        ),
        other => panic!("{other:?}"),
    }
    host.runtime.remove(&id).await.unwrap();
}

async fn users_groups_and_home_come_from_the_image(host: Host) {
    let mut spec = host.spec("id; echo $HOME; pwd; echo x > /dev/stdout");
    (spec.user, spec.cwd, spec.group_add) = ("web".into(), "/made/here".into(), vec!["77".into()]);
    let (_, out, err) = host.run(spec).await;
    assert_eq!(out, "uid=33(web) gid=34(web) groups=34(web),50(log),77\n/tmp\n/made/here\nx\n", "{err}");
    let mut spec = host.spec("exec sleep 1000");
    (spec.user, spec.group_add) = ("web".into(), vec!["77".into()]);
    let id = spec.id.clone();
    let container = host.up(spec).await;
    let exec = ExecSpec { user: "web:log".into(), ..exec_spec(&["id", "-G"]) };
    let stream = container.exec(exec, Some(BOTH)).await.unwrap().stream.unwrap();
    assert_eq!(frames(stream).await.0, "50 77\n", "an exec has the groups that were added too");
    host.runtime.remove(&id).await.unwrap();
    let mut spec = host.spec("true");
    spec.user = "foo".into();
    let error = host.try_run(spec).await.unwrap_err().to_string();
    assert!(error.contains("unable to find user foo: no matching entries in passwd file"), "{error}");
}

async fn capabilities_seccomp_and_no_new_privileges_are_in_force(host: Host) {
    let script = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; echo $?";
    let (_, out, _) = host.run(host.spec(script)).await;
    for line in [
        "CapInh:\t0000000000000000",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ] {
        assert!(out.contains(line), "{line} is missing in {out}");
    }
    let mut spec = host.spec(script);
    (spec.no_new_privileges, spec.cap_drop) = (true, vec!["ALL".into()]);
    let (_, out, _) = host.run(spec).await;
    assert!(out.contains("CapEff:\t0000000000000000") && out.contains("NoNewPrivs:\t1"), "{out}");
    let mut spec = host.spec(script);
    spec.user = "web".into();
    let (_, out, _) = host.run(spec).await;
    assert!(out.contains("CapEff:\t0000000000000000") && out.contains("CapBnd:\t00000000a80425fb"), "{out}");
    let mut spec = host.spec(script);
    spec.privileged = true;
    let (_, out, _) = host.run(spec).await;
    assert!(out.contains("Seccomp:\t0"), "{out}");
}

async fn namespaces_are_its_own(host: Host) {
    let (_, out, _) = host
        .run(host.spec("echo $$; hostname; cat /proc/self/cgroup | head -1; ls /proc | grep -c '^[0-9]'"))
        .await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["1", "box"]);
    assert!(lines[2].ends_with(":/"), "{out}");
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let first = host.up(spec).await;
    let mut spec = host.spec("ps | grep -v grep | grep -c 'sleep 1000'; hostname");
    spec.namespaces.pid = NsMode::Of(first.pid());
    spec.namespaces.ipc = NsMode::Of(first.pid());
    spec.namespaces.uts = NsMode::Of(first.pid());
    spec.namespaces.net =
        NetNs::Fd(OwnedFd::from(fs::File::open(format!("/proc/{}/ns/net", first.pid())).unwrap()));
    let (_, out, err) = host.run(spec).await;
    assert_eq!(out, "1\nbox\n", "{err}");
    host.runtime.remove(&id).await.unwrap();
}

async fn init_forwards_signals_and_reaps(host: Host) {
    let mut spec = host.spec("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    spec.init = true;
    let id = spec.id.clone();
    let container = host.runtime.create(spec).await.unwrap();
    let mut stream = container.attach(BOTH).await.unwrap();
    container.start().await.unwrap();
    until(&mut stream, "ready").await;
    container.kill(15).await.unwrap();
    assert_eq!(limited(container.wait()).await.unwrap().code, 9);
    host.runtime.remove(&id).await.unwrap();
    let mut spec = host.spec("");
    (spec.init, spec.args) = (true, vec!["/etc".into()]);
    assert!(matches!(host.try_run(spec).await, Err(RuntimeError::Exec { code: 126, .. })));
    let mut spec = host.spec("echo $$; exit 4");
    spec.init = true;
    let (exit, out, _) = host.run(spec).await;
    assert_eq!((exit.code, out.as_str()), (4, "2\n"));
}

async fn signals_end_it_with_128_and_the_number(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    container.kill(9).await.unwrap();
    assert_eq!(limited(container.wait()).await.unwrap().code, 137);
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
}

async fn pausing_stops_it_and_unpausing_goes_on(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    container.pause().await.unwrap();
    container.unpause().await.unwrap();
    let (code, _, _) = host.exec(&container, &["true"]).await;
    assert_eq!(code, 0);
    container.pause().await.unwrap();
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
}

async fn a_container_without_memory_is_killed_for_it(host: Host) {
    if !hostd_runtime::cgroup::has_controller("memory") {
        println!("skipped: there is no memory controller");
        return;
    }
    let mut spec = host.spec("x=$(dd if=/dev/zero bs=1M count=60 | tr '\\0' x); echo ${#x}");
    spec.resources.memory = Some(16 << 20);
    spec.resources.memory_swap = Some(16 << 20);
    spec.args =
        vec!["dd".into(), "if=/dev/zero".into(), "of=/dev/null".into(), "bs=100M".into(), "count=1".into()];
    let (exit, _, err) = host.run(spec).await;
    assert!(exit.oom_killed && exit.code == 137, "{exit:?} {err}");
}

async fn limits_are_set_and_updated(host: Host) {
    if !hostd_runtime::cgroup::has_controller("pids") {
        println!("skipped: there is no pids controller");
        return;
    }
    let mut spec = host.spec("exec sleep 1000");
    spec.resources.pids_limit = Some(20);
    let id = spec.id.clone();
    let container = host.up(spec).await;
    let read = "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max";
    assert_eq!(host.exec(&container, &["sh", "-c", read]).await.1, "20\n");
    container.update(&Resources { pids_limit: Some(30), ..Resources::default() }).await.unwrap();
    assert_eq!(host.exec(&container, &["sh", "-c", read]).await.1, "30\n");
    host.runtime.remove(&id).await.unwrap();
}

async fn the_log_is_rotated(host: Host) {
    let mut spec = host.spec("for i in $(seq 1000); do echo line number $i; done");
    let path = host.log(&spec.id);
    spec.log = json_log(path.clone(), Some(20_000), 3);
    host.run(spec).await;
    let size = |suffix: &str| fs::metadata(format!("{}{suffix}", path.display())).map(|meta| meta.len());
    assert!(size("").unwrap() <= 20_000 && size(".1").unwrap() <= 20_000 && size(".2").unwrap() <= 20_000);
    assert!(size(".3").is_err());
    assert!(fs::read_to_string(&path).unwrap().contains(r"line number 1000\n"));
}

async fn much_output_arrives_whole_at_a_slow_client(host: Host) {
    let spec = host.spec("head -c 3000000 /dev/zero | tr '\\0' a");
    let id = spec.id.clone();
    let container = host.runtime.create(spec).await.unwrap();
    let slow = container.attach(BOTH).await.unwrap();
    let only_err = container.attach(Streams { stdin: false, stdout: false, stderr: true }).await.unwrap();
    container.start().await.unwrap();
    assert_eq!(frames(slow).await.0.len(), 3_000_000);
    assert_eq!(frames(only_err).await, (String::new(), String::new()));
    host.runtime.remove(&id).await.unwrap();
}

async fn a_container_outlives_its_daemon_and_is_found_again(host: Host) {
    let mut spec = host.spec("read line; echo $line; exit 6");
    spec.stdin = Stdin::Once;
    let id = spec.id.clone();
    {
        // The daemon's tasks end with its tokio.
        let daemon = host.another_runtime();
        let thread = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio.block_on(async { daemon.create(spec).await.unwrap().start().await.unwrap() });
        });
        thread.join().unwrap();
    }
    let Found::Running(container) = host.runtime.reattach(&id).await.unwrap() else { panic!("not running") };
    let mut stream = container.attach(BOTH).await.unwrap();
    stream.write_all(b"still here\n").await.unwrap();
    assert_eq!(frames(stream).await.0, "still here\n");
    assert_eq!(limited(container.wait()).await.unwrap().code, 6);
    assert_eq!(host.runtime.ids().unwrap(), std::slice::from_ref(&id));
    match host.another_runtime().reattach(&id).await.unwrap() {
        Found::Exited(exit) => assert_eq!(exit.code, 6),
        other => panic!("{other:?}"),
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
    assert!(matches!(host.runtime.reattach(&id).await.unwrap(), Found::Gone));
}

async fn a_container_never_started_is_gone_with_its_daemon(host: Host) {
    let spec = host.spec("true");
    let id = spec.id.clone();
    let daemon = host.another_runtime();
    let thread = std::thread::spawn(move || {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio.block_on(async { daemon.create(spec).await.map(drop).unwrap() });
    });
    thread.join().unwrap();
    limited(async {
        while !shims(&id).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!matches!(host.runtime.reattach(&id).await.unwrap(), Found::Running(_)));
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
}

async fn a_killed_shim_leaves_nothing(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    for pid in shims(&id) {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    }
    assert_eq!(limited(container.wait()).await.unwrap().code, 137);
    match host.another_runtime().reattach(&id).await.unwrap() {
        Found::Exited(exit) => assert_eq!(exit.code, 137),
        other => panic!("{other:?}"),
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
}

async fn a_stopped_shim_does_not_hold_up_removal(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    for pid in shims(&id) {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }
    host.runtime.remove(&id).await.unwrap();
    assert_eq!(limited(container.wait()).await.unwrap().code, 137);
    host.assert_nothing_left(&id);
}

async fn the_hosts_binary_is_out_of_reach(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    for pid in shims(&id) {
        // To write to it fails with "text file busy" while it runs, and for the read-only mount afterwards.
        let exe = format!("/proc/{pid}/exe");
        let read_only = rustix::fs::StatVfsMountFlags::RDONLY;
        let mounted = rustix::fs::statvfs(&exe).unwrap().f_flag.contains(read_only);
        // A sealed copy, on kernels without mount_setattr(2).
        let copied = fs::read_link(&exe).unwrap().starts_with("/memfd:hostd-shim (deleted)");
        assert!(mounted || copied);
    }
    let (_, out, _) = host.exec(&container, &["ls", "/proc/self/fd"]).await;
    assert_eq!(out, "0\n1\n2\n3\n");
    host.runtime.remove(&id).await.unwrap();
}

async fn a_failed_create_leaves_nothing(host: Host) {
    let mut spec = host.spec("true");
    let id = spec.id.clone();
    spec.rootfs.lower = vec![host.dir.path().join("missing")];
    let error = host.runtime.create(spec).await.unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
    host.assert_nothing_left(&id);
    let mut spec = host.spec("true");
    spec.id = "../escape".into();
    assert!(host.runtime.create(spec).await.unwrap_err().to_string().contains("invalid container id"));
}

async fn sysctls_and_ulimits_are_set(host: Host) {
    let mut spec = host.spec("ulimit -n; cat /proc/sys/kernel/shm_rmid_forced /proc/self/oom_score_adj");
    spec.ulimits = vec![Ulimit { name: "nofile".into(), soft: 100, hard: 200 }];
    spec.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    spec.oom_score_adj = Some(500);
    let (_, out, err) = host.run(spec).await;
    assert_eq!(out, "100\n1\n500\n", "{err}");
    let mut spec = host.spec("true");
    spec.ulimits = vec![Ulimit { name: "nosuch".into(), soft: 1, hard: 1 }];
    assert!(host.try_run(spec).await.unwrap_err().to_string().contains("nosuch"));
}
