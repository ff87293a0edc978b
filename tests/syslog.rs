//! Logs that go to a service: syslog in all its shapes over TLS, and couriers that die on the way.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{Outcome, TestHost, eventually, has, host, run};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Runs `openssl` in the host's directory.
fn openssl(host: &TestHost, args: &str) {
    run(Command::new("openssl").args(args.split(' ')).current_dir(host.path("."))).success();
}

/// An authority `ca`, and `server` (for 127.0.0.1) and `client` with certificates of it; another one, `stranger`.
fn certificates(host: &TestHost) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30";
    for (name, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
        let text =
            format!("subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n");
        fs::write(host.path(&format!("{name}.ext")), text).unwrap();
    }
    for ca in ["ca", "stranger"] {
        openssl(host, &format!("req -x509 {key} -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"));
    }
    for name in ["server", "client"] {
        openssl(host, &format!("req -new {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(
            host,
            &format!(
                "x509 -req -days 30 -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile {name}.ext -out {name}.pem"
            ),
        );
    }
}

/// A syslog server behind TLS that wants a certificate of its clients; what it is sent comes out line by line.
struct Server {
    process: Child,
    port: u16,
    lines: Receiver<String>,
}

impl Server {
    fn start(host: &TestHost) -> Self {
        let port =
            host.within_network(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let file = |name: &str| host.path(name).to_string_lossy().into_owned();
        let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
        let mut process = host
            .inside("openssl")
            .args(["s_server", "-quiet", "-cert", &cert, "-key", &key, "-CAfile", &ca])
            .args(["-Verify", "1", "-verify_return_error", "-accept", &format!("127.0.0.1:{port}")])
            // Kept open: it takes the end of its input for its own.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let listening = format!("0100007F:{port:04X} 00000000:0000 0A");
        eventually("the server to listen", || {
            let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", process.id())).unwrap_or_default();
            sockets.contains(&listening).then_some(())
        });
        let (sender, lines) = channel();
        let output = process.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { process, port, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(60)).expect("a message")
    }

    /// Has a container print two lines to it, one on stderr.
    fn log(&self, host: &TestHost, options: &[&str]) -> Outcome {
        let mut command = host.docker_command();
        command.args(["run", "--rm", "--log-driver", "syslog", "--log-opt", "syslog-facility=local3"]);
        command.args(["--log-opt", &format!("syslog-address=tcp+tls://127.0.0.1:{}", self.port)]);
        for option in options {
            command.args(["--log-opt", option]);
        }
        command.args(["--name", "box", "busybox", "sh", "-c", "echo one; sleep 0.1; echo two >&2"]);
        run(&mut command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Takes the length of RFC 5425 from the front of a message, and holds it against what follows.
fn unframed(line: &str) -> &str {
    let (length, message) = line.split_once(' ').unwrap();
    // The newline is counted.
    assert_eq!(length.parse(), Ok(message.len() + 1), "{line}");
    message
}

#[test]
fn syslog_over_tls_carries_every_format_and_trusts_nobody_else() {
    let host = host!();
    if !has("openssl") {
        eprintln!("skipped: openssl is not on PATH");
        return;
    }
    certificates(&host);
    let server = Server::start(&host);
    let option = |name: &str, file: &str| format!("syslog-tls-{name}={}", host.path(file).display());
    let (ca, cert, key) =
        (option("ca-cert", "ca.pem"), option("cert", "client.pem"), option("key", "client.key"));
    for (format, framed) in [("", false), ("rfc3164", false), ("rfc5424", true), ("rfc5424micro", true)] {
        let shape = format!("syslog-format={format}");
        server.log(&host, &[&ca, &cert, &key, &shape, "tag=t-{{.Name | upper}}"]).success();
        // local3 is 19; informational is 6, an error 3.
        for (priority, text) in [("<158>", "one"), ("<155>", "two")] {
            let line = server.line();
            let message = if framed { unframed(&line) } else { &line };
            let head = message.strip_prefix(priority).unwrap_or_else(|| panic!("{format}: {line}"));
            let words: Vec<_> = head.split_whitespace().collect();
            match words[..] {
                // `1 TIME HOST TAG PID TAG - TEXT`
                [version, time, _, tag, _, again, "-", got] if framed => {
                    assert_eq!((version, tag, again, got), ("1", "t-BOX", "t-BOX", text), "{line}");
                    assert_eq!(time.contains('.'), format == "rfc5424micro", "{line}");
                }
                // `MONTH DAY TIME [HOST] TAG[PID]: TEXT`
                [_, _, _, .., tag, got] if !framed => {
                    assert_eq!(words.len(), if format == "rfc3164" { 6 } else { 5 }, "{line}");
                    assert!(tag.starts_with("t-BOX[") && tag.ends_with("]:") && got == text, "{line}");
                }
                _ => panic!("{format}: {line}"),
            }
        }
    }
    let stranger = option("ca-cert", "stranger.pem");
    server
        .log(&host, &[&stranger, &cert, &key])
        .exits(125)
        .says("failed to initialize logging driver")
        .says("certificate");
    server.log(&host, &[&stranger, &cert, &key, "syslog-tls-skip-verify=true"]).success();
    assert!(server.line().ends_with("]: one"));
}

/// The process that logs for a container.
fn courier(host: &TestHost, name: &str) -> Option<u32> {
    let shim = shim(host, name);
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).find(|pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "hostd-log\n")
    })
}

fn shim(host: &TestHost, name: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.field(name, "{{.State.Pid}}"))).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_courier_that_is_killed_is_replaced_and_the_log_goes_on() {
    let host = host!();
    let listener = UnixListener::bind(host.path("syslog")).unwrap();
    let address = format!("syslog-address=unix://{}", host.path("syslog").display());
    let script = "for i in 1 2 3; do while [ ! -e /$i ]; do sleep 0.1; done; echo line $i; done; sleep 1000";
    let options = ["run", "-d", "--name", "box", "--log-driver", "syslog", "--log-opt", &address];
    run(host.docker_command().args(options).args(["busybox", "sh", "-c", script])).success();
    // What the last exec has left the shim's children with must not be where the courier is born.
    host.docker(["exec", "box", "touch", "/1"]).success();
    let accept = || BufReader::new(listener.accept().unwrap().0);
    let line = |connection: &mut BufReader<UnixStream>| {
        let mut line = String::new();
        connection.get_ref().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        connection.read_line(&mut line).unwrap();
        line
    };
    let mut connection = accept();
    assert!(line(&mut connection).ends_with("]: line 1\n"));
    for n in [2, 3] {
        let pid = courier(&host, "box").unwrap();
        run(Command::new("kill").args(["-KILL", &pid.to_string()])).success();
        eventually("the courier to be gone", || (courier(&host, "box") != Some(pid)).then_some(()));
        host.docker(["exec", "box", "touch", &format!("/{n}")]).success();
        connection = accept();
        assert!(line(&mut connection).ends_with(&format!("]: line {n}\n")));
        assert_eq!(host.docker(["top", "box"]).text().matches("hostd").count(), 0, "it is seen from inside");
    }
    host.docker(["logs", "box"]).success().says("line 1\nline 2\nline 3");
    let words =
        fs::read_to_string(host.path("run/shims").join(host.field("box", "{{.Id}}")).join("shim.log"));
    assert!(words.unwrap().contains("the log's courier is gone"));
}

#[test]
fn files_are_logged_to_without_blocking() {
    let host = host!();
    for driver in ["json-file", "local"] {
        let args = ["run", "--name", driver, "--log-driver", driver, "--log-opt", "mode=non-blocking"];
        run(host.docker_command().args(args).args(["busybox", "echo", "hi"])).success();
        assert_eq!(host.docker(["logs", driver]).text(), "hi");
    }
}
