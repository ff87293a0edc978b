//! A running hostd, seen through its sockets.

use crate::support::{Hostd, Outcome, Root, clean, eventually};
use certs::{Authority, write_client_bundle};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

#[test]
fn the_docker_cli_reads_version_and_info() {
    needs_machine!();
    let hostd = Hostd::start(&["--label", "rack=7"]);
    hostd.docker(["version"]).success().says("API version:      1.50 (minimum version 1.24)");
    let info = hostd.docker(["info", "--format", "{{.Labels}} {{.DockerRootDir}} {{.Driver}}"]).success();
    assert_eq!(info.stdout, format!("[rack=7] {} overlay2\n", hostd.root.path("data")));
    let mode = std::fs::metadata(hostd.root.socket()).unwrap().permissions().mode();
    assert!([0o600, 0o660].contains(&(mode & 0o7777)), "{mode:o}");
}

#[test]
fn requests_that_cannot_be_served_are_answered_in_dockers_words() {
    needs_machine!();
    let hostd = Hostd::start(&[]);
    let json = "Content-Type: application/json\r\n";
    for (method, path, headers, body, status, words) in [
        ("GET", "/_ping", "", "", "200 OK", "\r\n\r\nOK"),
        ("GET", "/v1.24/_ping", "", "", "200 OK", "\r\n\r\nOK"),
        ("HEAD", "/_ping", "", "", "200 OK", "builder-version: 1"),
        (
            "GET",
            "/v1.20/info",
            "",
            "",
            "400",
            "client version 1.20 is too old. Minimum supported API version is 1.24",
        ),
        (
            "GET",
            "/v1.60/info",
            "",
            "",
            "400",
            "client version 1.60 is too new. Maximum supported API version is 1.50",
        ),
        ("GET", "/v1.41/tasks", "", "", "501", r#"{"message":"GET /tasks is not supported by hostd yet"}"#),
        ("GET", "/nowhere", "", "", "404", r#"{"message":"page not found"}"#),
        (
            "POST",
            "/containers/create",
            json,
            "{\"Image\":",
            "400",
            "invalid JSON: got EOF while reading request body",
        ),
        ("POST", "/containers/create", json, "[1]", "400", "invalid JSON"),
        (
            "POST",
            "/containers/create",
            "Content-Type: text/plain\r\n",
            "{}",
            "400",
            "unsupported Content-Type header",
        ),
        (
            "POST",
            "/containers/create",
            json,
            r#"{"Image":"x","HostConfig":{"Cgroup":"y"}}"#,
            "501",
            "HostConfig.Cgroup",
        ),
        ("GET", "/containers/nobody/json", "", "", "404", "No such container: nobody"),
        ("GET", "/volumes/nothing", "", "", "404", "get nothing: no such volume"),
        ("DELETE", "/networks/host", "", "", "403", "host is a pre-defined network and cannot be removed"),
        ("GET", "/images/json?manifests=1", "", "", "501", "the parameter manifests"),
        ("GET", "/images/a/b:c/json", "", "", "404", "No such image: a/b:c"),
    ] {
        let answer = hostd.request(method, path, headers, body);
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {answer}");
        assert!(answer.to_lowercase().contains(&words.to_lowercase()), "{method} {path}: {answer}");
        for header in ["api-version: 1.50", "docker-experimental: false", "ostype: linux", "server: hostd/"] {
            assert!(head.contains(header), "{method} {path}: no {header} in {head}");
        }
    }
    let huge = hostd.raw(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)));
    assert!(huge.starts_with("HTTP/1.1 414") || huge.starts_with("HTTP/1.1 431"), "{huge}");
    hostd.docker(["version"]).success();
}

/// Writes the server's files of a new authority, and a client's bundle below `client`.
fn certificates(dir: &Path) {
    let authority = Authority::load_or_create(&dir.join("authority")).unwrap();
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let server = authority.issue_server(uuid::Uuid::new_v4(), &[], &[address]).unwrap();
    let client = authority.issue_client("test").unwrap();
    std::fs::create_dir_all(dir.join("client")).unwrap();
    write_client_bundle(&dir.join("client"), authority.cert_pem(), &client).unwrap();
    for (name, text) in
        [("ca.pem", authority.cert_pem()), ("cert.pem", &server.cert_pem), ("key.pem", &server.key_pem)]
    {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

/// The docker CLI over TLS with the bundle in `client`.
fn docker_tls(hostd: &Hostd, client: &Path, args: &[&str]) -> Outcome {
    let mut command = hostd.inside("docker");
    clean(&mut command).env("DOCKER_CERT_PATH", client).env("DOCKER_CONFIG", hostd.root.path("docker"));
    command.args(["-H", "tcp://127.0.0.1:2376", "--tlsverify"]).args(args).output().unwrap().into()
}

#[test]
fn over_tcp_only_clients_with_our_certificate_are_served_and_new_certificates_need_no_restart() {
    needs_machine!();
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    for dir in [&first, &second] {
        std::fs::create_dir(dir).unwrap();
        certificates(dir);
    }
    let file = |name: &str| first.join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let hostd = Hostd::start(&[
        "-H",
        "tcp://127.0.0.1:2376",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ]);
    docker_tls(&hostd, &first.join("client"), &["version"]).success();
    docker_tls(&hostd, &second.join("client"), &["version"]).failure();
    // Another authority's client certificate, though the server's is trusted.
    let mixed = dir.path().join("mixed");
    std::fs::create_dir(&mixed).unwrap();
    std::fs::copy(first.join("client/ca.pem"), mixed.join("ca.pem")).unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(second.join("client").join(name), mixed.join(name)).unwrap();
    }
    docker_tls(&hostd, &mixed, &["version"]).failure();
    let curl = |scheme: &str| -> Outcome {
        let url = format!("{scheme}://127.0.0.1:2376/_ping");
        hostd.inside("curl").args(["-sS", "--cacert", &ca, &url]).output().unwrap().into()
    };
    curl("https").failure();
    let plain = curl("http");
    assert!(!plain.stdout.contains("OK"), "{plain:?}");

    for name in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::copy(second.join(name), first.join(name)).unwrap();
    }
    hostd.signal("HUP");
    eventually("the new certificates", || {
        (docker_tls(&hostd, &second.join("client"), &["version"]).code == Some(0)).then_some(())
    });
    docker_tls(&hostd, &first.join("client"), &["version"]).failure();
}

#[test]
fn plain_tcp_that_was_named_is_served_with_a_warning() {
    needs_machine!();
    let host = "tcp://127.0.0.1:2375";
    let hostd = Hostd::start(&["-H", host, "--allow-unauthenticated", host]);
    let ping = hostd.inside("curl").args(["-sS", "http://127.0.0.1:2375/_ping"]).output().unwrap();
    assert_eq!(ping.stdout, b"OK");
    assert!(hostd.log().contains("demands no client certificate"), "{}", hostd.log());
}

#[test]
fn a_socket_of_the_service_manager_is_served() {
    needs_machine!();
    let root = Root::new();
    let socket = UnixListener::bind(root.socket()).unwrap();
    // The shell that becomes hostd plays the service manager: the socket arrives as its stdin.
    let prelude = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$";
    let hostd = Hostd::with(root, prelude, &["-H", "fd://"], Some(socket.into()));
    hostd.docker(["version"]).success();
}

#[test]
fn a_second_daemon_on_the_same_root_is_refused() {
    needs_machine!();
    let hostd = Hostd::start(&[]);
    let other = format!("unix://{}", hostd.root.path("other.sock"));
    hostd.root.refused(&["-H", &other]).says("is in use by another hostd (process ").says("hint: ");
    hostd.docker(["version"]).success();
}

#[test]
fn a_stop_leaves_no_socket_and_a_crash_only_one_that_the_next_start_replaces() {
    needs_machine!();
    let hostd = Hostd::start(&[]);
    let hostd = hostd.crash_and_start();
    hostd.docker(["version"]).success();
    let (root, code) = hostd.end("TERM");
    assert_eq!(code, Some(0));
    assert!(!Path::new(&root.socket()).exists());
    assert!(!Path::new(&root.path("run/hostd.pid")).exists());
}
