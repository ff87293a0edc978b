//! The program of a container: who it runs as, where it is found, and what is told when it cannot run.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, TestHost, host};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn run(host: &TestHost, options: &[&str], command: &[&str]) -> Outcome {
    e2e::run(host.docker_command().args(["run", "--rm"]).args(options).arg("busybox").args(command))
}

#[test]
fn users_groups_and_home_come_from_the_images_files() {
    let host = host!();
    let who = "echo $(id -u) $(id -g) $(id -G) $HOME";
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "600"]).success();
    for (user, expected) in [
        ("", "0 0 0 /root"),
        ("root", "0 0 0 /root"),
        ("nobody", "65534 65534 65534 /home"),
        ("65534", "65534 65534 65534 /home"),
        ("nobody:root", "65534 0 0 /home"),
        ("1234", "1234 0 0 /"),
        ("1234:4321", "1234 4321 4321 /"),
    ] {
        assert_eq!(run(&host, &["-u", user], &["sh", "-c", who]).text(), expected, "run as {user:?}");
        let exec = host.docker(["exec", "-u", user, "box", "sh", "-c", who]);
        assert_eq!(exec.text(), expected, "exec as {user:?}");
    }
    let more = ["-u", "1234", "--group-add", "nobody", "--group-add", "77"];
    assert_eq!(run(&host, &more, &["id", "-G"]).text(), "0 77 65534");
    assert_eq!(run(&host, &["-e", "HOME=/x"], &["sh", "-c", "echo $HOME"]).text(), "/x");
    for (user, words) in [
        ("eve", "unable to find user eve: no matching entries in passwd file"),
        ("root:eve", "unable to find group eve: no matching entries in group file"),
        ("-5", "uids and gids must be in range 0-2147483647"),
    ] {
        let option = format!("--user={user}");
        run(&host, &[&option], &["true"]).failure().says(words);
        host.docker(["exec", &option, "box", "true"]).failure().says(words);
    }
}

#[test]
fn programs_are_looked_up_in_the_container_as_its_user() {
    let host = host!();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, text, mode) in [
        ("greet", "#!/bin/sh\necho hello\n", 0o755),
        ("locked", "#!/bin/sh\n", 0o700),
        ("noise", "noise\n", 0o755),
        ("lost", "#!/no/such\n", 0o755),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let opt = format!("{}:/opt", dir.path().display());
    let at = |options: &[&str], command: &[&str]| run(&host, &[&["-v", &opt], options].concat(), command);
    assert_eq!(at(&["-e", "PATH=/nowhere:/opt"], &["greet"]).text(), "hello");
    assert_eq!(at(&["-w", "/opt"], &["./greet"]).text(), "hello");
    assert_eq!(at(&["--entrypoint", "/opt/greet"], &["ignored"]).text(), "hello");
    at(&[], &["greet"]).exits(127).says("exec: \"greet\": executable file not found in $PATH");
    at(&[], &["/opt/none"]).exits(127).says("stat /opt/none: no such file or directory");
    at(&[], &["/opt/lost"]).exits(127).says("no such file or directory");
    at(&[], &["/opt"]).exits(126).says("is a directory");
    // The client knows no code for this one; the engine does.
    at(&[], &["/opt/noise"]).exits(125).says("exec format error");
    at(&["-u", "1234"], &["/opt/locked"]).exits(126).says("permission denied");
    at(&["-u", "1234", "-e", "PATH=/opt"], &["locked"]).exits(126).says("permission denied");
    at(&[], &["/opt/locked"]).success();
    // By exec the same.
    host.docker(["run", "-d", "--name", "box", "-v", &opt, "busybox", "sleep", "600"]).success();
    let exec = |user: &str, program: &str| host.docker(["exec", "-u", user, "box", program]);
    assert_eq!(exec("0", "/opt/greet").text(), "hello");
    exec("0", "greet").exits(127).says("executable file not found in $PATH");
    exec("0", "/opt/noise").exits(126).says("exec format error");
    exec("1234", "/opt/locked").exits(126).says("permission denied");
    // A failed start leaves its code on record.
    let id = host.docker(["create", "busybox", "greet"]).text();
    host.docker(["start", &id]).failure().says("executable file not found");
    assert_eq!(host.field(&id, "{{.State.ExitCode}} {{.State.Status}}"), "127 created");
}

#[test]
fn the_working_directory_is_made_where_it_is_missing() {
    let host = host!();
    assert_eq!(run(&host, &["-w", "/a/b/../c"], &["pwd"]).text(), "/a/c");
    assert_eq!(
        run(&host, &["-w", "/a/b", "-u", "1234"], &["sh", "-c", "pwd; stat -c %u ."]).text(),
        "/a/b\n0"
    );
    host.docker(["create", "-w", "a/b", "busybox"]).failure().says("the working directory 'a/b' is invalid");
    run(&host, &["-w", "/etc/passwd"], &["true"]).failure().says("/etc/passwd");
    host.docker(["run", "-d", "--name", "box", "-w", "/home", "busybox", "sleep", "600"]).success();
    assert_eq!(host.docker(["exec", "box", "pwd"]).text(), "/home");
    assert_eq!(host.docker(["exec", "-w", "/tmp", "box", "pwd"]).text(), "/tmp");
    host.docker(["exec", "-w", "/none", "box", "pwd"]).failure().says("/none");
}

#[test]
fn exit_codes_are_the_programs_or_tell_the_signal() {
    let host = host!();
    run(&host, &[], &["sh", "-c", "exit 42"]).exits(42);
    run(&host, &[], &["sh", "-c", "kill -KILL $$ & wait; exit 3"]).exits(3);
    run(&host, &["--init"], &["sh", "-c", "kill -TERM $$"]).exits(143);
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "600"]).success();
    host.docker(["exec", "box", "sh", "-c", "exit 7"]).exits(7);
    host.docker(["exec", "box", "sh", "-c", "kill -KILL $$"]).exits(137);
    host.docker(["kill", "box"]).success();
    assert_eq!(host.field("box", "{{.State.ExitCode}}"), "137");
}

#[test]
fn an_init_passes_on_signals_that_have_no_names() {
    let host = host!();
    let script = "trap 'exit 7' 37; echo ready; while :; do sleep 0.1; done";
    host.docker(["run", "-d", "--init", "--name", "box", "busybox", "sh", "-c", script]).success();
    e2e::eventually("the trap is set", || (host.docker(["logs", "box"]).text() == "ready").then_some(()));
    host.docker(["kill", "-s", "RTMIN+3", "box"]).success();
    assert_eq!(host.docker(["wait", "box"]).text(), "7");
}
