//! `berth proxy` between a client and engines that the test plays itself: what passes, byte for byte, and to whom.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Laptop, Said};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

/// An engine that lets the test speak for it. Each of its connections is handled by `act`.
fn engine(act: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(LONG)).unwrap();
            let act = act.clone();
            std::thread::spawn(move || act(stream));
        }
    });
    port
}

/// Answers each request on a connection with this text.
fn says(text: &'static str) -> impl Fn(TcpStream) + Send + Sync + Clone + 'static {
    move |stream| {
        let mut reader = BufReader::new(stream);
        while !head(&mut reader).is_empty() {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    }
}

/// Reads up to the empty line that ends a head; empty at the end of the stream.
fn head(reader: &mut impl std::io::BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            break;
        }
    }
    head
}

/// A proxy that listens.
struct Proxy {
    laptop: Laptop,
    child: Child,
    socket: PathBuf,
}

impl Proxy {
    /// With a machine for each port, the first of which is active.
    fn start(ports: &[u16]) -> Self {
        let laptop = Laptop::new();
        for (name, port) in ["a", "b", "c"].iter().zip(ports) {
            let url = format!("tcp://127.0.0.1:{port}");
            laptop.berth(&["create", "--driver", "none", "--none-url", &url, name]).success();
        }
        let socket = laptop.home().join("proxy.sock");
        let child = start(&laptop, &[]);
        Self { laptop, child, socket }
    }

    fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        BufReader::new(stream)
    }

    fn log(&self) -> String {
        log(&self.laptop)
    }
}

fn log(laptop: &Laptop) -> String {
    std::fs::read_to_string(laptop.dir.path().join("proxy.log")).unwrap_or_default()
}

/// A proxy with further arguments, once it listens.
fn start(laptop: &Laptop, args: &[&str]) -> Child {
    let log_file = std::fs::File::create(laptop.dir.path().join("proxy.log")).unwrap();
    let mut command = laptop.command(&[&["proxy"], args].concat());
    let child = command.stdout(Stdio::null()).stderr(log_file).spawn().unwrap();
    eventually("the proxy to listen", || log(laptop).contains("listening on"));
    child
}

#[track_caller]
fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !ready() {
        assert!(Instant::now() < until, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(connection: &mut BufReader<UnixStream>, request: &str) -> (String, String) {
    connection.get_mut().write_all(request.as_bytes()).unwrap();
    let head = head(connection);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap_or("0");
    let mut body = vec![0; length.trim().parse().unwrap()];
    connection.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn a_kept_connection_follows_the_active_machine() {
    let proxy = Proxy::start(&[engine(says("from a")), engine(says("from b"))]);
    let mut connection = proxy.connect();
    let request = "GET /v1.43/info?secret=1 HTTP/1.1\r\nHost: docker\r\n\r\n";
    for (machine, answer) in [("a", "from a"), ("b", "from b"), ("a", "from a")] {
        proxy.laptop.berth(&["use", machine]).success();
        assert_eq!(ask(&mut connection, request).1, answer);
        assert_eq!(ask(&mut connection, request).1, answer);
    }
    // Two requests at a time are answered in turn.
    connection.get_mut().write_all(format!("{request}{request}").as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&mut connection, "").1, "from a");
    }
    let log = proxy.log();
    assert!(log.contains("#1 GET /v1.43/info -> a over tcp://127.0.0.1:"), "{log}");
    assert!(log.contains("#1 GET /v1.43/info -> b over tcp://127.0.0.1:"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn messages_pass_as_they_came() {
    // The engine sends back what it got.
    let echo = engine(|stream| {
        let mut reader = BufReader::new(stream);
        loop {
            let mut got = head(&mut reader);
            if got.is_empty() {
                return;
            }
            if got.contains("Expect: 100-continue") {
                reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            }
            let length = got.lines().find_map(|line| line.strip_prefix("content-LENGTH: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            reader.read_exact(&mut body).unwrap();
            got.push_str(&String::from_utf8(body).unwrap());
            while got.contains("chunked") && !got.ends_with("\r\nX-Sum: 7\r\n\r\n") {
                assert!(reader.read_line(&mut got).unwrap() > 0);
            }
            let answer = format!(
                "HTTP/1.1 200 Quite ok\r\nX-oDD: 1\r\ntransfer-encoding: chunked\r\n\r\n{:x};ext=1\r\n{got}\r\n0\r\nX-End: yes\r\n\r\n",
                got.len()
            );
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    let proxy = Proxy::start(&[echo]);
    for request in [
        "POST /x HTTP/1.1\r\nhOST: docker\r\ncontent-LENGTH: 5\r\n\r\nabcde",
        "POST /x HTTP/1.1\r\nHost: docker\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
        "POST /x HTTP/1.0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: docker\r\nExpect: 100-continue\r\ncontent-LENGTH: 3\r\n\r\nabc",
    ] {
        let mut connection = proxy.connect();
        let (mut first, mut rest) = (request, "");
        if request.contains("Expect") {
            (first, rest) = request.split_at(request.len() - 3);
        }
        connection.get_mut().write_all(first.as_bytes()).unwrap();
        if !rest.is_empty() {
            assert_eq!(head(&mut connection), "HTTP/1.1 100 Continue\r\n\r\n");
            connection.get_mut().write_all(rest.as_bytes()).unwrap();
        }
        let expected = format!(
            "HTTP/1.1 200 Quite ok\r\nX-oDD: 1\r\ntransfer-encoding: chunked\r\n\r\n{:x};ext=1\r\n{request}\r\n0\r\nX-End: yes\r\n\r\n",
            request.len()
        );
        let mut got = vec![0; expected.len()];
        connection.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), expected);
    }
}

#[test]
fn a_connection_that_is_taken_over_closes_half_by_half() {
    for (status, upgrade) in [
        ("101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp", "Connection: Upgrade\r\nUpgrade: tcp\r\n"),
        ("200 OK\r\nContent-Type: application/vnd.docker.raw-stream", ""),
        (
            "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c",
            "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        ),
    ] {
        let taken = engine(move |stream| {
            let mut reader = BufReader::new(stream);
            head(&mut reader);
            reader.get_mut().write_all(format!("HTTP/1.1 {status}\r\n\r\nready\n").as_bytes()).unwrap();
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            // Speaks after the client's half is closed.
            reader.get_mut().write_all(format!("{} bytes\n", got.len()).as_bytes()).unwrap();
        });
        let proxy = Proxy::start(&[taken]);
        let mut connection = proxy.connect();
        // What is sent with the head belongs to the stream.
        let request = format!("POST /attach HTTP/1.1\r\nHost: docker\r\n{upgrade}\r\nearly");
        connection.get_mut().write_all(request.as_bytes()).unwrap();
        assert!(head(&mut connection).starts_with(&format!("HTTP/1.1 {status}")));
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        connection.get_mut().write_all(&vec![7; 3_000_000]).unwrap();
        connection.get_ref().shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        connection.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "3000005 bytes\n");
    }
}

#[test]
fn an_answer_to_a_request_that_is_not_read_is_not_lost() {
    let refuses = engine(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        head(&mut reader);
        let body = r#"{"message":"POST /build is not supported"}"#;
        let answer = format!("HTTP/1.1 501 Not Implemented\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Dropped with much of the request unread: the connection is reset.
    });
    let proxy = Proxy::start(&[refuses]);
    for _ in 0..5 {
        let connection = proxy.connect();
        let mut writer = connection.get_ref().try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            writer
                .write_all(b"POST /build HTTP/1.1\r\nHost: docker\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for _ in 0..200 {
                writer.write_all(b"8000\r\n")?;
                writer.write_all(&[0; 0x8000])?;
                writer.write_all(b"\r\n")?;
            }
            writer.write_all(b"0\r\n\r\n")
        });
        let mut connection = connection;
        let (head, body) = ask(&mut connection, "");
        assert!(head.starts_with("HTTP/1.1 501 "), "{head}");
        assert_eq!(body, r#"{"message":"POST /build is not supported"}"#);
        // The client may send all of it, or be told to stop; it must not hang.
        drop(connection);
        let _ = sending.join().unwrap();
    }
}

#[test]
fn a_connection_that_the_engine_has_closed_meanwhile_is_made_anew() {
    let once = engine(|stream| {
        let mut reader = BufReader::new(stream);
        head(&mut reader);
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        // Reads the next request, and is gone.
        head(&mut reader);
    });
    let proxy = Proxy::start(&[once]);
    let mut connection = proxy.connect();
    for _ in 0..4 {
        assert_eq!(ask(&mut connection, "GET /x HTTP/1.1\r\nHost: docker\r\n\r\n").1, "ok");
    }
}

#[test]
fn a_machine_that_is_down_is_named_in_dockers_words() {
    let proxy = Proxy::start(&[1]);
    let mut connection = proxy.connect();
    let (head, body) = ask(&mut connection, "GET /info HTTP/1.1\r\nHost: docker\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    let message = serde_json::from_str::<serde_json::Value>(&body).unwrap()["message"].to_string();
    assert!(message.contains("cannot reach machine `a`") && message.contains("berth status a"), "{message}");
    proxy.laptop.berth(&["machine", "rm", "-y", "a"]).success();
    let (head, body) = ask(&mut proxy.connect(), "GET /info HTTP/1.1\r\nHost: docker\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 503 ") && body.contains("no machine is selected"), "{head}{body}");
    assert!(proxy.log().contains("cannot reach machine `a`"), "{}", proxy.log());
}

#[test]
fn a_socket_has_one_proxy_and_outlives_none() {
    let mut proxy = Proxy::start(&[engine(says("x"))]);
    let mode = std::fs::metadata(&proxy.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    proxy.laptop.berth(&["proxy"]).exits(1).says("another `berth proxy` (process").says("proxy.sock");
    proxy.child.kill().unwrap();
    proxy.child.wait().unwrap();
    assert!(proxy.socket.exists());
    proxy.child = start(&proxy.laptop, &[]);
    assert_eq!(ask(&mut proxy.connect(), "GET / HTTP/1.1\r\n\r\n").1, "x");
    Said::of(std::process::Command::new("kill").arg(proxy.child.id().to_string())).success();
    assert!(proxy.child.wait().unwrap().success());
    assert!(!proxy.socket.exists());
    // What is no socket is nobody's to remove.
    std::fs::write(&proxy.socket, "mine").unwrap();
    proxy.laptop.berth(&["proxy"]).exits(1).says("no socket");
    assert_eq!(std::fs::read_to_string(&proxy.socket).unwrap(), "mine");
}

#[test]
fn a_proxy_may_be_bound_to_a_machine_and_listen_on_loopback_alone() {
    let laptop = Laptop::new();
    for (name, text) in [("a", "from a"), ("b", "from b")] {
        let url = format!("tcp://127.0.0.1:{}", engine(says(text)));
        laptop.berth(&["create", "--driver", "none", "--none-url", &url, name]).success();
    }
    laptop.berth(&["proxy", "--listen", "tcp://0.0.0.0:2375"]).exits(2).says("127.0.0.1");
    laptop.berth(&["-m", "nobody", "proxy"]).exits(1).says("no such machine");
    let mut child = start(&laptop, &["-m", "b", "--listen", "tcp://127.0.0.1:0"]);
    let told = log(&laptop);
    let port = told.split("tcp://127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let ask = |headers: &str| {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(format!("GET / HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        head(&mut reader)
    };
    assert!(ask("Host: localhost:2375\r\n").starts_with("HTTP/1.1 200"));
    assert!(ask("Host: localhost:2375\r\nOrigin: https://evil.example\r\n").starts_with("HTTP/1.1 403"));
    assert!(ask("Host: evil.example:2375\r\n").starts_with("HTTP/1.1 403"));
    assert!(log(&laptop).contains("-> b over"), "{}", log(&laptop));
    child.kill().unwrap();
    child.wait().unwrap();
}
