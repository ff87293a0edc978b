//! The life of containers, driven by the stock docker CLI.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{eventually, host, run};
use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn a_container_prints_and_its_exit_code_becomes_the_clients() {
    let host = host!();
    host.docker(["run", "--rm", "busybox", "echo", "hello"]).success().says("hello");
    host.docker(["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .exits(7)
        .says("out")
        .says("err");
    let outcome = host.docker(["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((outcome.stdout().as_str(), outcome.stderr().as_str()), ("out\n", "err\n"));
    assert_eq!(host.docker(["ps", "-aq"]).text(), "");
}

#[test]
fn a_program_that_cannot_run_has_dockers_exit_code() {
    let host = host!();
    host.docker(["run", "--rm", "busybox", "nope"])
        .exits(127)
        .says(r#"exec: "nope": executable file not found in $PATH"#);
    host.docker(["run", "--rm", "busybox", "/etc/passwd"]).exits(126).says("permission denied");
    host.docker(["run", "--rm", "--user", "nobody-here", "busybox", "true"])
        .exits(125)
        .says("unable to find user nobody-here");
    host.docker(["run", "--rm", "no-such-image.invalid/x", "true"]).exits(125);
    host.docker(["run", "--rm", "--network", "no-such-network", "busybox", "true"])
        .exits(125)
        .says("no-such-network");
    assert_eq!(host.docker(["ps", "-aq"]).text(), "", "failed runs with --rm leave nothing");
}

#[test]
fn stdin_reaches_the_container_and_ends_there() {
    let host = host!();
    let mut child = host
        .docker_command()
        .args(["run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent = "line\n".repeat(100_000);
    let mut stdin = child.stdin.take().unwrap();
    let text = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().len(), sent.len() + "end\n".len());
}

#[test]
fn a_terminal_has_its_size_and_ends_lines_as_terminals_do() {
    let host = host!();
    let script = "stty size; tty; echo done";
    // script(1) gives the CLI a terminal of its own.
    let line = format!("stty rows 33 cols 77; docker run --rm -it busybox sh -c 'sleep 0.3; {script}'");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("DOCKER_HOST", host.url()).stdin(Stdio::null());
    let outcome = run(&mut command).success().says("33 77").says("/dev/pts/0");
    assert!(outcome.stdout().contains("done\r\n"), "{outcome:?}");
}

#[test]
fn a_detached_container_is_listed_stopped_started_and_removed() {
    let host = host!();
    let id = host.docker(["run", "-d", "--name", "web", "busybox", "sleep", "1000"]).text();
    assert_eq!(id.len(), 64);
    host.docker(["ps"]).says("web").says("Up ").says(r#""sleep 1000""#);
    host.docker(["run", "--name", "web", "busybox"])
        .exits(125)
        .says(r#"The container name "/web" is already in use by container"#);
    host.docker(["rm", "web"]).failure().says("container is running");
    host.docker(["stop", "-t", "0", "web"]).success();
    host.docker(["ps", "-a"]).says("Exited (137)");
    host.docker(["stop", "web"]).success();
    host.docker(["start", "web"]).success();
    host.docker(["rename", "web", "www"]).success();
    host.docker(["inspect", "web"]).failure().says("No such object: web");
    host.docker(["kill", "-s", "KILL", "www"]).success();
    host.docker(["wait", "www"]).says("137");
    host.docker(["kill", "www"]).failure().says("is not running");
    host.docker(["restart", "-t", "0", &id[..12]]).success();
    assert_eq!(host.field("www", "{{.State.Status}} {{.Name}}"), "running /www");
    host.docker(["rm", "-f", "www"]).success();
    host.docker(["start", "www"]).failure().says("No such container: www");
}

#[test]
fn a_process_that_heeds_the_stop_signal_ends_with_its_own_code() {
    let host = host!();
    let script = "trap 'exit 3' TERM; echo ready; while true; do sleep 0.05; done";
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).success();
    eventually("the trap", || host.docker(["logs", "box"]).stdout().contains("ready").then_some(()));
    host.docker(["stop", "box"]).success();
    assert_eq!(host.field("box", "{{.State.ExitCode}}"), "3");
}

#[test]
fn logs_of_running_and_ended_containers_are_complete() {
    let host = host!();
    let script = "for i in $(seq 2000); do echo out $i; done; echo err >&2; printf partial";
    host.docker(["run", "--name", "box", "busybox", "sh", "-c", script]).success();
    let logs = host.docker(["logs", "box"]).success();
    assert_eq!(logs.stdout().lines().count(), 2001);
    assert!(logs.stdout().ends_with("out 2000\npartial"), "{:?}", &logs.stdout()[logs.stdout().len() - 40..]);
    assert_eq!(logs.stderr(), "err\n");
    assert_eq!(host.docker(["logs", "--tail", "2", "box"]).success().stdout(), "partial");
    host.docker(["logs", "-t", "--tail", "1", "box"]).success().says("T").says("Z partial");
    let follow = host.docker([
        "run",
        "-d",
        "--name",
        "follower",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3; do echo $i; sleep 0.2; done",
    ]);
    follow.success();
    assert_eq!(host.docker(["logs", "-f", "follower"]).text(), "1\n2\n3");
}

#[test]
fn exec_runs_beside_the_first_process_with_its_own_exit_code() {
    let host = host!();
    host.docker(["run", "-d", "--name", "box", "-e", "WHO=me", "-w", "/tmp", "busybox", "sleep", "1000"])
        .success();
    host.docker(["exec", "box", "sh", "-c", "echo $WHO $PWD; exit 5"]).exits(5).says("me /tmp");
    host.docker([
        "exec",
        "-e",
        "A=b",
        "-w",
        "/etc",
        "-u",
        "nobody",
        "box",
        "sh",
        "-c",
        "echo $A $PWD; id -un",
    ])
    .says("b /etc")
    .says("nobody");
    host.docker(["exec", "box", "nope"]).exits(127).says("executable file not found");
    host.docker(["exec", "box", "/etc/passwd"]).exits(126);
    host.docker(["exec", "box", "ps"]).says("sleep 1000");
    host.docker(["exec", "-d", "box", "sh", "-c", "echo x > /tmp/made"]).success();
    eventually("the detached exec", || {
        (host.docker(["exec", "box", "cat", "/tmp/made"]).code() == 0).then_some(())
    });
    host.docker(["stop", "-t", "0", "box"]).success();
    host.docker(["exec", "box", "true"]).failure().says("is not running");
}

#[test]
fn options_of_run_arrive_in_the_container() {
    let host = host!();
    let out = host
        .docker([
            "run",
            "--rm",
            "-e",
            "A=1",
            "-w",
            "/made/here",
            "-u",
            "nobody",
            "--hostname",
            "box",
            "--entrypoint",
            "sh",
            "busybox",
            "-c",
            "echo $A $PWD $(id -un) $(hostname); cat /etc/hostname; grep box /etc/hosts",
        ])
        .text();
    assert!(out.starts_with("1 /made/here nobody box\nbox\n172."), "{out}");
    host.docker(["run", "--rm", "--read-only", "busybox", "touch", "/x"])
        .failure()
        .says("Read-only file system");
    host.docker(["run", "--rm", "--tmpfs", "/t:size=1m", "busybox", "df", "/t"]).says("1024");
    host.docker(["run", "--rm", "--init", "busybox", "sh", "-c", "ps; exit 9"]).exits(9);
}

#[test]
fn a_client_may_attach_later_and_detach() {
    let host = host!();
    host.docker(["run", "-dit", "--name", "box", "busybox", "sh"]).success();
    let mut command = Command::new("script");
    command.args(["-qec", "docker attach box", "/dev/null"]).env("DOCKER_HOST", host.url());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"echo $((40+2))\n").unwrap();
    eventually("the answer", || host.docker(["logs", "box"]).stdout().contains("42").then_some(()));
    stdin.write_all(b"\x10\x11").unwrap(); // ctrl-p ctrl-q
    stdin.flush().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("42"));
    assert_eq!(host.field("box", "{{.State.Running}}"), "true", "it goes on when the client leaves");
}

#[test]
fn events_tell_a_containers_life_in_order() {
    let host = host!();
    host.docker(["run", "--rm", "--name", "box", "busybox", "true"]).success();
    let seen = eventually("the destroy event", || {
        let out = host
            .docker([
                "events",
                "--since",
                "1h",
                "--until",
                "0s",
                "--filter",
                "type=container",
                "--format",
                "{{.Action}}",
            ])
            .text();
        out.contains("destroy").then_some(out)
    });
    let order: Vec<_> =
        seen.lines().filter(|line| ["create", "start", "die", "destroy"].contains(line)).collect();
    assert_eq!(order, ["create", "start", "die", "destroy"], "{seen}");
}

#[test]
fn restart_policies_start_again_and_give_up_when_told() {
    let host = host!();
    host.docker(["run", "-d", "--name", "follower", "--restart", "on-failure:2", "busybox", "false"])
        .success();
    eventually("two restarts", || {
        (host.field("follower", "{{.RestartCount}} {{.State.Status}}") == "2 exited").then_some(())
    });
    host.docker(["run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "1000"])
        .success();
    let first = host.field("always", "{{.State.Pid}}");
    run(Command::new("kill").args(["-KILL", &first])).success();
    eventually("the restart", || {
        let now = host.field("always", "{{.State.Pid}} {{.State.Running}}");
        (now.ends_with("true") && !now.starts_with(&format!("{first} "))).then_some(())
    });
    host.docker(["stop", "-t", "0", "always"]).success();
    assert_eq!(host.field("always", "{{.State.Running}}"), "false", "a stop by the user is final");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let host = host!();
    host.docker(["swarm", "init"]).failure().says("/swarm/init");
}

#[test]
fn many_containers_run_side_by_side() {
    let host = host!();
    std::thread::scope(|scope| {
        for n in 0..16 {
            let host = &host;
            scope.spawn(move || {
                let name = format!("c{n}");
                assert_eq!(
                    host.docker(["run", "--rm", "--name", &name, "busybox", "echo", &name]).text(),
                    name
                );
            });
        }
    });
}

#[test]
fn a_removal_that_fails_ends_the_wait_for_it_and_can_be_tried_again() {
    let host = host!();
    // A rename into another mount fails.
    let removing = host.path("data/removing");
    let place = removing.to_string_lossy();
    run(host.inside("mount").args(["--bind", &place, &place])).success();
    // Bounded by `timeout`: the CLI waits for the removal.
    let mut docker = Command::new("timeout");
    docker.args(["90", "docker", "-H", &host.url(), "run", "--rm", "--name", "box", "busybox", "true"]);
    let outcome = run(&mut docker).says("cannot remove");
    assert_ne!(outcome.code(), 124, "it hangs");
    assert_eq!(host.field("box", "{{.State.Status}}"), "dead");
    run(host.inside("umount").arg(&*place)).success();
    host.docker(["rm", "box"]).success();
    host.docker(["inspect", "box"]).failure();
}

#[test]
fn prune_removes_what_does_not_run_and_top_shows_what_does() {
    let host = host!();
    host.docker(["run", "-d", "--name", "up", "busybox", "sleep", "1000"]).success();
    host.docker(["create", "--name", "new", "busybox", "true"]).success();
    host.docker(["create", "--name", "kept", "--label", "keep", "busybox", "true"]).success();
    host.docker(["top", "up"]).success().says("PID").says("sleep 1000");
    host.docker(["top", "up", "-o", "pid,comm"]).success().says("sleep");
    let used =
        host.docker(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "up"]).text();
    assert!(used.starts_with("up 1 ") && !used.contains(" 0B"), "{used}");
    host.docker(["top", "new"]).failure().says("is not running");
    host.docker(["container", "prune", "-f", "--filter", "label!=keep"]).says("Deleted Containers");
    assert_eq!(host.docker(["ps", "-a", "--format", "{{.Names}}"]).text(), "kept\nup");
    host.docker(["system", "prune", "-f"]).success();
    assert_eq!(host.docker(["ps", "-a", "--format", "{{.Names}}"]).text(), "up");
    host.docker(["system", "df"]).success().says("Local Volumes");
    host.docker(["rm", "-f", "up"]).success();
}

#[test]
fn programs_see_that_they_are_in_a_container_and_where_mounts_are_listed() {
    let host = host!();
    for user in ["0", "1000"] {
        let shown =
            host.docker(["run", "-u", user, "busybox", "sh", "-c", "ls /.dockerenv; readlink /etc/mtab"]);
        assert_eq!(shown.text(), "/.dockerenv\n/proc/mounts", "{user}");
    }
    let id = host.docker(["ps", "-lq"]).text();
    assert_eq!(host.docker(["diff", &id]).text(), "", "neither is a change of the container's");
    // What the image or the user has there stays as it is.
    host.docker([
        "run",
        "-d",
        "--name",
        "own",
        "busybox",
        "sh",
        "-c",
        "rm /etc/mtab; echo mine > /etc/mtab; sleep 1000",
    ])
    .success();
    eventually("the file to be written", || {
        host.docker(["exec", "own", "cat", "/etc/mtab"]).stdout().contains("mine").then_some(())
    });
    host.docker(["commit", "own", "own"]).success();
    assert_eq!(host.docker(["run", "--rm", "own", "cat", "/etc/mtab"]).text(), "mine");
    host.docker(["run", "--rm", "-v", "conf:/etc", "busybox", "true"]).success();
    let shown = host.docker(["run", "--rm", "-v", "conf:/kept", "busybox", "ls", "/kept"]).text();
    assert!(shown.contains("passwd") && !shown.contains("mtab"), "{shown}");
}

#[test]
fn inspect_tells_where_layers_and_volumes_are_and_which_network_it_was() {
    let host = host!();
    let bridge = host.docker(["network", "inspect", "-f", "{{.Id}}", "bridge"]).text();
    let none = host.docker(["network", "inspect", "-f", "{{.Id}}", "none"]).text();
    host.docker([
        "create",
        "--name",
        "box",
        "--mac-address",
        "02:42:ac:11:00:07",
        "-v",
        "named:/n",
        "-v",
        "/anonymous",
        "busybox",
        "touch",
        "/made",
    ])
    .success();
    let network = "{{range .NetworkSettings.Networks}}{{.NetworkID}}{{end}}";
    assert_eq!(host.field("box", network), "", "it was on none yet");
    host.docker(["start", "-a", "box"]).success();
    assert_eq!(host.field("box", network), bridge);
    assert_eq!(host.field("box", "{{.Config.MacAddress}}"), "02:42:ac:11:00:07");
    let upper = host.field("box", "{{.GraphDriver.Data.UpperDir}}");
    assert!(std::path::Path::new(&upper).join("made").exists(), "{upper}");
    let lower = host.field("box", "{{.GraphDriver.Data.LowerDir}}");
    assert!(std::path::Path::new(&lower).join("bin/busybox").exists(), "{lower}");
    let modes = host.field("box", "{{range .Mounts}}{{.Destination}}={{.Mode}};{{end}}");
    assert!(modes.contains("/n=z;") && modes.contains("/anonymous=;"), "{modes}");
    host.docker(["run", "-d", "--name", "alone", "--network", "none", "busybox", "sleep", "1000"]).success();
    assert_eq!(host.field("alone", network), none);
    let merged = host.field("alone", "{{.GraphDriver.Data.MergedDir}}");
    assert!(std::path::Path::new(&merged).join("bin/busybox").exists(), "{merged}");
    let listed = host.api().call("GET", "/containers/json?all=1&size=1", None).unwrap().json();
    let of = |name: &str| {
        let items = listed.as_array().unwrap().iter();
        items.clone().find(|item| item["Names"][0] == name).unwrap().clone()
    };
    assert_eq!(of("/box")["NetworkSettings"]["Networks"]["bridge"]["NetworkID"], bridge.as_str());
    assert!(of("/alone").get("SizeRw").is_none() || of("/alone")["SizeRw"].as_u64() > Some(0));
}

#[test]
fn wrong_requests_are_refused_in_dockers_words() {
    let host = host!();
    host.docker(["create", "--name", "box", "busybox", "sleep", "1000"]).success();
    for (method, path, status, words) in [
        (
            "GET",
            "/containers/box/stats?stream=1&one-shot=1",
            400,
            "cannot have stream=true and one-shot=true",
        ),
        (
            "POST",
            "/containers/box/rename?name=a%20b",
            400,
            "Error when allocating new name: Invalid container name (/a b), only",
        ),
        ("POST", "/containers/create?name=//x", 400, "Invalid container name (//x), only"),
    ] {
        let answer = host.ask(method, path, Some(r#"{"Image":"busybox"}"#)).is(status);
        assert!(answer.message().starts_with(words), "{answer:?}");
    }
    host.ask("POST", "/containers/box/start", Some(r#"{"a":"b"}"#)).is(400);
    // What cannot say anything, some clients send for nothing.
    host.ask("POST", "/containers/box/start", Some("null")).is(204);
    host.docker(["rm", "-f", "box"]).success();
}
