//! Attach and exec on the wire: both kinds of upgrade, several and slow clients, WebSocket, after a restart of hostd.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Hijacked, TestHost, demultiplex, eventually, host};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";

fn rest(mut stream: UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

fn create(host: &TestHost, name: &str, config: &str) {
    let body = format!("{{\"Image\":\"busybox\",{config}}}");
    let (status, text) = host.call("POST", &format!("/v1.44/containers/create?name={name}"), &body);
    assert_eq!(status, 201, "{text}");
}

#[test]
fn both_kinds_of_upgrade_carry_both_directions_and_stdin_ends_alone() {
    let host = host!();
    for (name, headers, status, kind) in [
        ("new", UPGRADE, "HTTP/1.1 101 ", "application/vnd.docker.multiplexed-stream"),
        ("old", "", "HTTP/1.1 200 ", "application/vnd.docker.raw-stream"),
    ] {
        create(&host, name, r#""OpenStdin":true,"StdinOnce":true,"Cmd":["sh","-c","cat; echo err >&2"]"#);
        let path = format!("/v1.44/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let Hijacked { head, mut stream } = host.hijack("POST", &path, headers, "");
        assert!(head.starts_with(status) && head.contains(kind), "{head}");
        assert_eq!(host.call("POST", &format!("/containers/{name}/start"), "").0, 204);
        stream.write_all(b"to and fro\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(demultiplex(&rest(stream)), (b"to and fro\n".to_vec(), b"err\n".to_vec()));
        // On a busy machine a program's output may end a good while before the program.
        assert_eq!(host.call("POST", &format!("/containers/{name}/wait"), "").0, 200);

        let (_, text) = host.call("POST", &format!("/containers/{name}/start"), "");
        assert_eq!(text, "");
        let exec = r#"{"AttachStdin":true,"AttachStdout":true,"AttachStderr":true,"Cmd":["cat"]}"#;
        let (status, text) = host.call("POST", &format!("/containers/{name}/exec"), exec);
        assert_eq!(status, 201, "{text}");
        let id: serde_json::Value = serde_json::from_str(&text).unwrap();
        let path = format!("/v1.44/exec/{}/start", id["Id"].as_str().unwrap());
        let Hijacked { mut stream, .. } = host.hijack("POST", &path, headers, "{}");
        stream.write_all(b"in").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(demultiplex(&rest(stream)).0, b"in");
        host.docker(["rm", "-f", name]).success();
    }
}

#[test]
fn detach_keys_end_the_clients_stream_and_not_the_container() {
    let host = host!();
    create(&host, "box", r#""Tty":true,"OpenStdin":true,"Cmd":["cat"]"#);
    host.docker(["start", "box"]).success();
    let path = "/containers/box/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-x,q";
    let Hijacked { mut stream, .. } = host.hijack("POST", path, UPGRADE, "");
    stream.write_all(b"a\x18q").unwrap();
    rest(stream);
    assert_eq!(host.field("box", "{{.State.Running}}"), "true");
    host.call("POST", "/containers/box/resize?h=17&w=42", "");
    host.docker(["exec", "box", "stty", "-F", "/dev/pts/0", "size"]).says("17 42");
    let (status, text) = host.call("POST", "/containers/box/attach?stream=1&stdin=1&detachKeys=ctrl-%3F", "");
    assert_eq!((status, text.contains("Invalid detach keys")), (400, true), "{text}");
}

/// Reads frames until they have carried `enough` bytes, or end; how many they carried.
fn payload(mut stream: UnixStream, enough: usize) -> usize {
    let (mut carried, mut text) = (0, Vec::new());
    while carried < enough {
        let mut head = [0; 8];
        if stream.read_exact(&mut head).is_err() {
            break;
        }
        text.resize(u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize, 0);
        stream.read_exact(&mut text).unwrap();
        carried += text.len();
    }
    carried
}

/// The most memory that a process has had, in kilobytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody_costs_no_memory_and_misses_nothing() {
    let host = host!();
    // 40 MB, far more than sockets and pipes hold.
    let script = r#"["sh","-c","read go; head -c 40000000 /dev/zero | tr '\\0' a; sleep 1000"]"#;
    create(
        &host,
        "box",
        &format!(r#""OpenStdin":true,"Cmd":{script},"HostConfig":{{"LogConfig":{{"Type":"none"}}}}"#),
    );
    let attach = |more: &str| {
        host.hijack("POST", &format!("/containers/box/attach?stream=1&stdout=1{more}"), UPGRADE, "").stream
    };
    let slow = attach("");
    host.docker(["start", "box"]).success();
    let (late, mut fast) = (attach(""), attach("&stdin=1"));
    let shim: u32 = {
        let pid = host.field("box", "{{.State.Pid}}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
    };
    fast.write_all(b"go\n").unwrap();
    assert_eq!(payload(fast, 40_000_000), 40_000_000);
    let memory = peak(shim);
    assert!(memory < 24 << 10, "the shim took {memory} kB");
    // Both read it now, whole, as long as the container runs.
    assert_eq!(payload(slow, 40_000_000), 40_000_000);
    assert_eq!(payload(late, 40_000_000), 40_000_000);
}

#[test]
fn output_comes_behind_the_head_however_late_that_is_read() {
    let host = host!();
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    let exec = r#"{"AttachStdout":true,"Cmd":["echo","hi"]}"#;
    for headers in [UPGRADE, ""] {
        let (_, text) = host.call("POST", "/v1.44/containers/box/exec", exec);
        let id: serde_json::Value = serde_json::from_str(&text).unwrap();
        let id = id["Id"].as_str().unwrap();
        let mut stream = UnixStream::connect(host.path("hostd.sock")).unwrap();
        let head = format!(
            "POST /v1.44/exec/{id}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n{headers}\r\n{{}}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        eventually("the exec to end", || {
            host.call("GET", &format!("/exec/{id}/json"), "").1.contains("\"ExitCode\":0").then_some(())
        });
        // As a client that reads through a buffer; what else came along would be lost to docker-py.
        let mut buffer = [0; 8192];
        let length = stream.read(&mut buffer).unwrap();
        assert!(buffer[..length].ends_with(b"\r\n\r\n"), "{}", String::from_utf8_lossy(&buffer[..length]));
        assert_eq!(demultiplex(&rest(stream)).0, b"hi\n");
    }
}

#[test]
fn a_slow_client_gets_the_rest_of_a_container_that_has_ended_and_is_gone() {
    let host = host!();
    // 8 MB, far more than sockets and pipes hold.
    let script =
        r#"["sh","-c","[ ! -e /again ] || exec sleep 1000; touch /again; head -c 8000000 /dev/zero"]"#;
    for (name, end) in
        [("removed", r#""AutoRemove":true"#), ("restarted", r#""RestartPolicy":{"Name":"always"}"#)]
    {
        create(
            &host,
            name,
            &format!(r#""Cmd":{script},"HostConfig":{{"LogConfig":{{"Type":"none"}},{end}}}"#),
        );
        let path = format!("/containers/{name}/attach?stream=1&stdout=1");
        let slow = host.hijack("POST", &path, UPGRADE, "").stream;
        host.docker(["start", name]).success();
        // Neither end waits for the client.
        if name == "removed" {
            eventually("the container to go", || (host.docker(["inspect", name]).code() != 0).then_some(()));
        } else {
            eventually("the second run", || {
                (host.field(name, "{{.RestartCount}} {{.State.Running}}") == "1 true").then_some(())
            });
            host.docker(["rm", "-f", name]).success();
        }
        assert_eq!(payload(slow, 8_000_000), 8_000_000, "{name}");
    }
    eventually("the last shim to end", || host.leftovers().is_empty().then_some(()));
}

#[test]
fn attaching_replays_the_log_when_asked() {
    let host = host!();
    host.docker(["run", "--name", "box", "busybox", "sh", "-c", "echo one; echo two >&2"]).success();
    let Hijacked { stream, .. } = host.hijack("POST", "/containers/box/attach?logs=1&stdout=1", UPGRADE, "");
    assert_eq!(demultiplex(&rest(stream)), (b"one\n".to_vec(), Vec::new()));
}

/// A frame as a client sends it, masked with zeros.
fn frame(kind: u8, data: &[u8]) -> Vec<u8> {
    [&[0x80 | kind, 0x80 | data.len() as u8, 0, 0, 0, 0][..], data].concat()
}

#[test]
fn a_websocket_carries_both_directions() {
    let host = host!();
    create(
        &host,
        "box",
        r#""OpenStdin":true,"StdinOnce":true,"Cmd":["sh","-c","read x; echo got $x; echo err >&2"]"#,
    );
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let path = "/v1.44/containers/box/attach/ws?stream=1&stdin=1&stdout=1&stderr=1";
    let Hijacked { head, mut stream } = host.hijack("GET", path, handshake, "");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    host.docker(["start", "box"]).success();
    stream.write_all(&frame(9, b"?")).unwrap();
    stream.write_all(&frame(1, b"it\n")).unwrap();
    let (mut text, mut answered) = (Vec::new(), false);
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut data = vec![0; usize::from(head[1])];
        stream.read_exact(&mut data).unwrap();
        match head[0] {
            0x82 => text.extend(data),
            0x8a => answered = data == b"?",
            0x88 => break,
            other => panic!("a frame of kind {other:x}"),
        }
    }
    stream.write_all(&frame(8, &[3, 232])).unwrap();
    assert_eq!((String::from_utf8(text).unwrap().as_str(), answered), ("got it\nerr\n", true));
    assert_eq!(host.call("GET", path, "").0, 400);
}

#[test]
fn execs_are_found_again_after_hostd_was_killed_and_new_ones_start_at_once() {
    let mut host = host!();
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    let script = "while [ ! -e /go ]; do sleep 0.1; done; exit 4";
    host.docker(["exec", "-d", "box", "sh", "-c", script]).success();
    let id = host.field("box", "{{index .ExecIDs 0}}");
    host.kill();
    host.up();
    let exec = |host: &TestHost| -> serde_json::Value {
        let (status, text) = host.call("GET", &format!("/exec/{id}/json"), "");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text[text.find('{').unwrap()..=text.rfind('}').unwrap()]).unwrap()
    };
    let found = exec(&host);
    assert_eq!(
        (found["Running"].as_bool(), found["ProcessConfig"]["entrypoint"].as_str()),
        (Some(true), Some("sh"))
    );
    assert_eq!(host.docker(["exec", "box", "touch", "/go"]).code(), 0);
    eventually("the exec to end", || (exec(&host)["ExitCode"] == 4).then_some(()));
    host.kill();
    host.up();
    assert_eq!(exec(&host)["ExitCode"], 4, "also one that ended before");
}

#[test]
fn a_size_for_what_has_no_terminal_changes_nothing() {
    let host = host!();
    create(&host, "box", r#""Cmd":["sleep","1000"]"#);
    let (status, text) = host.call("POST", "/containers/box/resize?h=10&w=10", "");
    assert_eq!(status, 409, "{text}");
    host.docker(["start", "box"]).success();
    assert_eq!(host.call("POST", "/containers/box/resize?h=10&w=10", ""), (200, String::new()));
    let (_, text) = host.call("POST", "/containers/box/exec", r#"{"Cmd":["sleep","1000"]}"#);
    let exec: serde_json::Value = serde_json::from_str(&text).unwrap();
    let id = exec["Id"].as_str().unwrap();
    assert_eq!(host.call("POST", &format!("/exec/{id}/start"), r#"{"Detach":true}"#).0, 200);
    assert_eq!(host.call("POST", &format!("/exec/{id}/resize?h=10&w=10"), "").0, 200);
}
