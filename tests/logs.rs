//! Containers' logs: drivers and their options, and reading them back.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host};
use std::fs;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Numbered lines of a hundred bytes.
const FLOOD: &str = r#"awk 'BEGIN { for (i = 1; i <= 60000; i++) printf "%099d\n", i }'"#;

fn flood() -> String {
    (1..=60_000).map(|n| format!("{n:099}\n")).collect()
}

fn dir(host: &TestHost, name: &str) -> PathBuf {
    host.path("data/containers").join(host.field(name, "{{.Id}}"))
}

#[test]
fn json_file_is_written_as_docker_writes_it() {
    let host = host!();
    let script = "echo '<hi>'; printf half; printf other >&2";
    host.docker([
        "run",
        "--name",
        "web",
        "--label",
        "com.a=1",
        "--label",
        "b=2",
        "-e",
        "ONE=x y",
        "--log-opt",
        "labels=b",
        "--log-opt",
        "labels-regex=^com",
        "--log-opt",
        "env=ONE",
        "--log-opt",
        "tag={{.Name}}/{{.ImageName}}",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .success();
    let text = fs::read_to_string(host.field("web", "{{.LogPath}}")).unwrap();
    let first = text.lines().next().unwrap();
    let expected = r#"{"log":"\u003chi\u003e\n","stream":"stdout","attrs":{"ONE":"x y","b":"2","com.a":"1","tag":"web/busybox"},"time":""#;
    assert!(first.starts_with(expected), "{first}");
    assert!(text.contains(r#"{"log":"half","stream":"stdout","#), "{text}");
    let logs = host.docker(["logs", "--details", "web"]).success();
    assert_eq!(
        logs.stdout(),
        "ONE=x+y,b=2,com.a=1,tag=web%2Fbusybox <hi>\nONE=x+y,b=2,com.a=1,tag=web%2Fbusybox half"
    );
    assert!(logs.stderr().ends_with(" other"), "{logs:?}");
}

#[test]
fn no_line_is_lost_or_doubled_by_rotation_neither_read_nor_followed() {
    let host = host!();
    for (name, driver, size) in [("json", "json-file", "700k"), ("local", "local", "400k")] {
        let size = format!("max-size={size}");
        let script = format!("read go; {FLOOD}");
        host.docker([
            "create",
            "-i",
            "--name",
            name,
            "--log-driver",
            driver,
            "--log-opt",
            &size,
            "--log-opt",
            "max-file=100",
            "--log-opt",
            "compress=true",
            "busybox",
            "sh",
            "-c",
            &script,
        ])
        .success();
        host.docker(["start", name]).success();
        let follower =
            host.docker_command().args(["logs", "-f", name]).stdout(Stdio::piped()).spawn().unwrap();
        let mut go = host.docker_command();
        let mut go = go
            .args(["attach", "--no-stdin=false", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(go.stdin.as_mut().unwrap(), b"go\n").unwrap();
        let followed = follower.wait_with_output().unwrap().stdout;
        go.wait().unwrap();
        let expected = flood();
        assert!(String::from_utf8(followed).unwrap() == expected, "{name}: followed");
        let read = host.docker(["logs", name]).success().stdout();
        assert!(read == expected, "{name}: read");
        for tail in [0, 1, 999, 20_000, 59_999, 70_000_usize] {
            let read = host.docker(["logs", "--tail", &tail.to_string(), name]).success().stdout();
            assert!(read == expected[(60_000 - tail.min(60_000)) * 100..], "{name}: tail {tail}");
        }
        let log = if name == "json" { dir(&host, name) } else { dir(&host, name).join("local-logs") };
        eventually("the elders to be compressed", || {
            let names =
                fs::read_dir(&log).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let (gz, plain): (Vec<_>, Vec<_>) =
                names.filter(|name| name.contains(".log.")).partition(|name| name.ends_with(".gz"));
            (gz.len() > 5 && plain.is_empty()).then_some(())
        });
    }
}

#[test]
fn long_lines_are_whole_again_when_read() {
    let host = host!();
    let script = "head -c 50000 /dev/zero | tr '\\0' x; echo; echo end";
    for driver in ["json-file", "local"] {
        host.docker(["run", "--name", driver, "--log-driver", driver, "busybox", "sh", "-c", script])
            .success();
        let expected = format!("{}\nend\n", "x".repeat(50_000));
        assert!(host.docker(["logs", driver]).stdout() == expected, "{driver}");
        assert!(host.docker(["logs", "--tail", "2", driver]).stdout() == expected, "{driver}");
        let timed = host.docker(["logs", "-t", driver]).stdout();
        assert_eq!(timed.lines().count(), 2, "{driver}");
        assert_eq!(timed.lines().next().unwrap().len(), 31 + 50_000, "{driver}");
    }
}

#[test]
fn following_ends_with_the_run_and_a_restart_is_another_run() {
    let host = host!();
    let script = "echo run; sleep 1; exit 1";
    host.docker(["run", "-d", "--name", "again", "--restart", "on-failure:1", "busybox", "sh", "-c", script])
        .success();
    assert_eq!(host.docker(["logs", "-f", "again"]).text(), "run");
    eventually("the second run to end", || {
        (host.field("again", "{{.RestartCount}} {{.State.Status}}") == "1 exited").then_some(())
    });
    assert_eq!(host.docker(["logs", "-f", "again"]).text(), "run\nrun");
    let since = host.field("again", "{{.State.StartedAt}}");
    assert_eq!(host.docker(["logs", "--since", &since, "again"]).text(), "run");
    assert_eq!(host.docker(["logs", "--until", &since, "again"]).text(), "run");
}

#[test]
fn drivers_and_options_that_do_not_exist_are_refused_in_dockers_words() {
    let host = host!();
    let start = "failed to initialize logging driver: ";
    for (driver, option, words) in [
        ("nope", "a=b", "logger: no log driver named 'nope' is registered".to_owned()),
        ("json-file", "a=b", "unknown log opt 'a' for json-file log driver".to_owned()),
        (
            "json-file",
            "compress=true",
            format!("{start}compress cannot be true when max-file is less than 2"),
        ),
        (
            "json-file",
            "tag={{.Foo}}",
            format!("{start}template: log-tag:1:2: executing \"log-tag\" at <.Foo>"),
        ),
        ("local", "max-size=x", format!("{start}invalid value for max-size: x: invalid size: 'x'")),
        (
            "syslog",
            "syslog-address=tcp://127.0.0.1:9",
            format!("{start}dial tcp 127.0.0.1:9: connect: connection refused"),
        ),
        ("journald", "tag=x", format!("{start}journald is not enabled on this host")),
    ] {
        if driver == "journald" && Path::new("/run/systemd/journal/socket").exists() {
            eprintln!("skipped: this host has a journal");
            continue;
        }
        host.docker(["run", "--log-driver", driver, "--log-opt", option, "busybox", "true"])
            .exits(125)
            .says(&words);
    }
    host.docker(["run", "--name", "none", "--log-driver", "none", "busybox", "echo", "hi"])
        .success()
        .says("hi");
    host.docker(["logs", "none"]).failure().says("configured logging driver does not support reading");
}

#[test]
fn the_daemons_driver_and_options_are_those_of_containers_that_name_none() {
    let host = host!("--log-driver=local", "--log-opt=max-size=1m", "--log-opt=max-file=3");
    assert_eq!(host.docker(["info", "--format", "{{.LoggingDriver}}"]).text(), "local");
    host.docker(["run", "--name", "box", "busybox", "echo", "hi"]).success();
    assert_eq!(
        host.field("box", "{{json .HostConfig.LogConfig}}"),
        r#"{"Type":"local","Config":{"max-file":"3","max-size":"1m"}}"#
    );
    assert_eq!(host.docker(["logs", "box"]).text(), "hi");
    host.docker(["run", "--name", "own", "--log-driver", "json-file", "busybox", "true"]).success();
    assert_eq!(host.field("own", "{{json .HostConfig.LogConfig.Config}}"), "{}");
}

/// Runs a container that logs to `address`, and reads its log back from what is kept of it here.
fn log_to(host: &TestHost, address: &str, format: &str) {
    let address = format!("syslog-address={address}");
    host.docker([
        "run",
        "--rm=false",
        "--name",
        "box",
        "--log-driver",
        "syslog",
        "--log-opt",
        &address,
        "--log-opt",
        format,
        "--log-opt",
        "syslog-facility=local3",
        "--log-opt",
        "tag=t-{{.Name}}",
        "busybox",
        "sh",
        "-c",
        "echo one; sleep 0.1; echo two >&2",
    ])
    .success();
    assert_eq!(host.docker(["logs", "box"]).stdout(), "one\n");
    assert_eq!(host.docker(["logs", "box"]).stderr(), "two\n");
    host.docker(["rm", "box"]).success();
}

#[test]
fn syslog_servers_get_messages_over_every_transport() {
    let host = host!();
    let timeout = Some(Duration::from_secs(30));
    let udp = host.within_network(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    udp.set_read_timeout(timeout).unwrap();
    log_to(&host, &format!("udp://{}", udp.local_addr().unwrap()), "syslog-format=rfc3164");
    let mut buffer = [0; 4096];
    let mut message = || {
        let length = udp.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    // local3 is 19; informational is 6, an error 3.
    let (first, second) = (message(), message());
    assert!(
        first.starts_with("<158>") && first.contains(" t-box[") && first.ends_with("]: one\n"),
        "{first}"
    );
    assert!(second.starts_with("<155>") && second.ends_with("]: two\n"), "{second}");

    let tcp = host.within_network(|| TcpListener::bind("127.0.0.1:0").unwrap());
    log_to(&host, &format!("tcp://{}", tcp.local_addr().unwrap()), "syslog-format=rfc5424micro");
    let mut text = String::new();
    tcp.accept().unwrap().0.read_to_string(&mut text).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("<158>1 20") && lines[0].ends_with(" t-box - one"), "{text}");
    assert!(lines[1].starts_with("<155>1 20") && lines[1].ends_with(" t-box - two"), "{text}");

    let stream = UnixListener::bind(host.path("stream")).unwrap();
    log_to(&host, &format!("unix://{}", host.path("stream").display()), "env=X");
    let mut text = String::new();
    stream.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("<158>") && text.contains("]: one\n<155>"), "{text}");

    let datagram = UnixDatagram::bind(host.path("datagram")).unwrap();
    datagram.set_read_timeout(timeout).unwrap();
    log_to(&host, &format!("unixgram://{}", host.path("datagram").display()), "labels=x");
    let mut buffer = [0; 4096];
    let length = datagram.recv(&mut buffer).unwrap();
    assert!(String::from_utf8_lossy(&buffer[..length]).ends_with("]: one\n"));
}

#[test]
fn what_a_service_gets_is_kept_for_reading_unless_told_otherwise() {
    let host = host!();
    let listener = UnixListener::bind(host.path("syslog")).unwrap();
    let address = format!("syslog-address=unix://{}", host.path("syslog").display());
    host.docker([
        "run",
        "--name",
        "box",
        "--log-driver",
        "syslog",
        "--log-opt",
        &address,
        "--log-opt",
        "cache-disabled=true",
        "busybox",
        "echo",
        "hi",
    ])
    .success();
    host.docker(["logs", "box"]).failure().says("configured logging driver does not support reading");
    drop(listener);
}

#[test]
fn a_service_that_takes_nothing_does_not_hold_up_a_container_that_need_not_wait() {
    let host = host!();
    let listener = UnixListener::bind(host.path("syslog")).unwrap();
    let address = format!("syslog-address=unix://{}", host.path("syslog").display());
    let script = format!("{FLOOD}; touch /done; sleep 1000");
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--log-driver",
        "syslog",
        "--log-opt",
        &address,
        "--log-opt",
        "mode=non-blocking",
        "--log-opt",
        "max-buffer-size=64k",
        "busybox",
        "sh",
        "-c",
        &script,
    ])
    .success();
    eventually("the container to have printed all", || {
        (host.docker(["exec", "box", "test", "-e", "/done"]).code() == 0).then_some(())
    });
    assert!(host.docker(["logs", "box"]).success().stdout() == flood(), "what is kept here is whole");
    // What the service gets has gaps, and whole lines only.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    host.docker(["kill", "box"]).success();
    let text = reader.join().unwrap();
    let numbers: Vec<u64> =
        text.lines().map(|line| line.split("]: ").nth(1).unwrap().parse().unwrap()).collect();
    assert!(numbers.len() < 60_000 && numbers.is_sorted(), "{} lines", numbers.len());
    assert!(text.lines().all(|line| line.split("]: ").nth(1).unwrap().len() == 99));
}

/// A stand-in for systemd's journal: a socket of its own where the journal's would be. Tells what arrives; what the
/// journal makes of it is not tested.
fn journal(host: &TestHost) -> UnixDatagram {
    let socket = UnixDatagram::bind(host.path("journal")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let script = "[ -e /run/systemd/journal/socket ] || {
                      mount -t tmpfs journal /run && mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket
                  } && mount --bind \"$0\" /run/systemd/journal/socket";
    e2e::run(host.inside("sh").args(["-c", script, host.path("journal").to_str().unwrap()])).success();
    socket
}

#[test]
fn the_journal_gets_dockers_fields() {
    let host = host!();
    let socket = journal(&host);
    host.docker([
        "run",
        "--name",
        "box",
        "--label",
        "com.x=1",
        "--log-driver",
        "journald",
        "--log-opt",
        "labels=com.x",
        "--log-opt",
        "tag={{.Name}}",
        "busybox",
        "sh",
        "-c",
        "head -c 20000 /dev/zero | tr '\\0' x; echo; sleep 0.1; echo bad >&2",
    ])
    .success();
    let mut buffer = vec![0; 64 << 10];
    let mut message = || {
        let length = socket.recv(&mut buffer).unwrap();
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        text.lines()
            .map(|line| line.split_once('=').unwrap())
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    };
    let (first, second, third): (std::collections::BTreeMap<String, String>, _, _) =
        (message(), message(), message());
    let second: std::collections::BTreeMap<String, String> = second;
    let third: std::collections::BTreeMap<String, String> = third;
    let id = host.field("box", "{{.Id}}");
    for (name, value) in [
        ("PRIORITY", "6"),
        ("CONTAINER_ID", &id[..12]),
        ("CONTAINER_ID_FULL", &id),
        ("CONTAINER_NAME", "box"),
        ("CONTAINER_TAG", "box"),
        ("SYSLOG_IDENTIFIER", "box"),
        ("IMAGE_NAME", "busybox"),
        ("COM_X", "1"),
        ("CONTAINER_PARTIAL_MESSAGE", "true"),
        ("CONTAINER_PARTIAL_LAST", "false"),
        ("CONTAINER_PARTIAL_ORDINAL", "1"),
    ] {
        assert_eq!(first[name], value, "{name}");
    }
    assert_eq!((first["MESSAGE"].len(), second["MESSAGE"].len()), (16 << 10, 20_000 - (16 << 10)));
    assert_eq!(second["CONTAINER_PARTIAL_LAST"], "true");
    assert_eq!(second.get("CONTAINER_PARTIAL_MESSAGE"), None);
    assert_eq!(second["CONTAINER_PARTIAL_ID"], first["CONTAINER_PARTIAL_ID"]);
    assert_eq!((third["MESSAGE"].as_str(), third["PRIORITY"].as_str()), ("bad", "3"));
    assert_eq!(host.docker(["logs", "box"]).stderr(), "bad\n");
}
