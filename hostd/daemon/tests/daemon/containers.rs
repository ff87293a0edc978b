//! Images and containers through the API, by the docker CLI.

use crate::support::{Hostd, eventually};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// A hostd that holds an image `busybox`; `None` where there is no static busybox to make it from.
fn with_busybox() -> Option<Hostd> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let Some(busybox) = busybox else {
        println!("skipped: no busybox");
        return None;
    };
    let hostd = Hostd::start(&[]);
    let tree = tempfile::tempdir().unwrap();
    for dir in ["bin", "etc", "tmp"] {
        std::fs::create_dir(tree.path().join(dir)).unwrap();
    }
    std::fs::copy(busybox, tree.path().join("bin/busybox")).unwrap();
    for name in ["sh", "true", "echo", "cat", "sleep", "env", "httpd", "stty", "tty"] {
        std::os::unix::fs::symlink("busybox", tree.path().join("bin").join(name)).unwrap();
    }
    let archive = hostd.root.path("busybox.tar");
    let tar = Command::new("tar").args(["-cf", &archive, "-C"]).arg(tree.path()).arg(".").status().unwrap();
    assert!(tar.success());
    let imported = hostd.docker(["import", &archive, "busybox"]).success();
    assert!(imported.stdout.starts_with("sha256:"), "{imported:?}");
    Some(hostd)
}

#[test]
fn a_container_runs_and_its_output_and_exit_code_come_back() {
    needs_machine!();
    let Some(hostd) = with_busybox() else { return };
    let run = hostd.docker(["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(7), "out\n", "err\n"));
    let missing = hostd.docker(["run", "--rm", "busybox", "nope"]);
    assert_eq!(missing.code, Some(127), "{missing:?}");
    hostd.docker(["run", "busybox:none", "true"]).failure();
    assert_eq!(hostd.docker(["ps", "-aq"]).success().stdout.lines().count(), 0);
}

#[test]
fn stdin_reaches_the_program_up_to_its_end() {
    needs_machine!();
    let Some(hostd) = with_busybox() else { return };
    let mut command = hostd.docker_command();
    command.args(["run", "-i", "--rm", "busybox", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = "line\n".repeat(40_000);
    let writer = std::thread::spawn({
        let text = text.clone();
        move || stdin.write_all(text.as_bytes())
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == text.as_bytes(), "{} bytes came back", output.stdout.len());
}

#[test]
fn a_detached_container_can_be_listed_inspected_entered_read_and_removed() {
    needs_machine!();
    let Some(hostd) = with_busybox() else { return };
    let script = "echo hello; sleep 1000";
    hostd.docker(["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", script]).success();
    let ps = hostd
        .docker(["ps", "--format", "{{.Names}} {{.Image}} {{.Command}} {{.Status}} {{.Ports}}"])
        .success();
    assert!(ps.stdout.starts_with("web busybox \"sh -c 'echo hello; …\" Up "), "{ps:?}");
    assert!(ps.stdout.contains("0.0.0.0:8080->80/tcp"), "{ps:?}");
    let state =
        hostd.docker(["inspect", "-f", "{{.State.Status}} {{.HostConfig.NetworkMode}} {{.Path}}", "web"]);
    assert_eq!(state.success().stdout, "running bridge sh\n");
    eventually("the log", || (hostd.docker(["logs", "web"]).stdout == "hello\n").then_some(()));
    let exec = hostd.docker(["exec", "-e", "A=b", "web", "sh", "-c", "echo $A; exit 3"]);
    assert_eq!((exec.code, exec.stdout.as_str()), (Some(3), "b\n"));
    assert_eq!(hostd.docker(["exec", "web", "nope"]).code, Some(127));
    hostd.docker(["rename", "web", "www"]).success();
    hostd.docker(["rm", "www"]).failure().says("container is running");
    hostd.docker(["stop", "-t", "0", "www"]).success();
    hostd.docker(["ps", "-a", "--format", "{{.Status}}"]).success().says("Exited (137) ");
    hostd.docker(["start", "www"]).success();
    hostd.docker(["rm", "-f", "www"]).success();
    hostd.docker(["inspect", "www"]).failure();
    hostd.docker(["image", "inspect", "busybox"]).success();
    hostd.docker(["history", "busybox"]).success();
    hostd.docker(["tag", "busybox", "example.com/a/b:c"]).success();
    hostd.docker(["image", "inspect", "-f", "{{.Os}}", "example.com/a/b:c"]).success().says("linux");
    hostd.docker(["rmi", "example.com/a/b:c"]).success().says("Untagged: example.com/a/b:c");
}

#[test]
fn a_terminal_is_given_where_one_is_asked_for() {
    needs_machine!();
    let Some(hostd) = with_busybox() else { return };
    // script(1) gives the docker CLI a terminal.
    let program = format!("docker -H {} run --rm -it busybox sh -c 'tty; exit 5'", hostd.root.url());
    let mut command = hostd.inside("script");
    let output = command.args(["-qec", &program, "/dev/null"]).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // Before or after that, the terminal echoes what script(1) makes of the end of its own input.
    assert!(output.status.code() == Some(5) && text.contains("/dev/pts/0\r\n"), "{output:?}");
}

#[test]
fn attach_without_an_upgrade_is_hijacked_with_200() {
    needs_machine!();
    let Some(hostd) = with_busybox() else { return };
    hostd.docker(["create", "-i", "--name", "cat", "busybox", "cat"]).success();
    let mut stream = UnixStream::connect(hostd.root.socket()).unwrap();
    let query = "stream=1&stdin=1&stdout=1&stderr=1";
    write!(stream, "POST /v1.30/containers/cat/attach?{query} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
    hostd.docker(["start", "cat"]).success();
    stream.write_all(b"meow").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    assert_eq!(output, b"\x01\0\0\0\0\0\0\x04meow");
}

#[test]
fn containers_run_on_through_a_crash_of_hostd() {
    needs_machine!();
    let Some(hostd) = with_busybox() else { return };
    hostd.docker(["run", "-d", "--name", "survivor", "busybox", "sleep", "1000"]).success();
    let pid = hostd.docker(["inspect", "-f", "{{.State.Pid}}", "survivor"]).success().stdout;
    let hostd = hostd.crash_and_start();
    let after = hostd.docker(["inspect", "-f", "{{.State.Pid}}", "survivor"]).success().stdout;
    assert_eq!(pid, after);
    hostd.docker(["exec", "survivor", "true"]).success();
}
