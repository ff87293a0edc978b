//! `berth doctor`: each hop is made to fail, and is the one that is named, with what mends it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Laptop, Said, Sshd, in_own_world, keygen};
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use time::format_description::well_known::Rfc2822;
use time::{Duration, OffsetDateTime};

const GOOD: &str = r#"{"Version":"1.2.3","ApiVersion":"1.50","MinAPIVersion":"1.24"}"#;

/// An engine without TLS whose every answer is this one; answers its URL.
fn engine(skew: Duration, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            answer(&mut stream, skew, body);
        }
    });
    url
}

fn answer(stream: &mut (impl std::io::Read + std::io::Write), skew: Duration, body: &str) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
    }
    let date = (OffsetDateTime::now_utc() + skew).format(&Rfc2822).unwrap().replace("+0000", "GMT");
    let head = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
    let _ = stream.flush();
}

fn create(laptop: &Laptop, url: &str) {
    laptop.berth(&["create", "--driver", "none", "--none-url", url, "m"]).success();
}

/// What doctor says, and that its exit code goes with that.
#[track_caller]
fn doctor(laptop: &Laptop) -> Value {
    let said = laptop.berth(&["doctor", "--timeout", "20", "--format", "json", "m"]);
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    assert_eq!(said.code, Some(i32::from(report["healthy"] != true)), "{report:#}");
    report
}

#[track_caller]
fn fails_at(laptop: &Laptop, hop: &str, remedy: &str) -> Value {
    let report = doctor(laptop);
    assert_eq!(report["failed"], hop, "{report:#}");
    let told = report["remedy"].as_str().unwrap();
    assert!(told.contains(remedy), "no `{remedy}` in `{told}`");
    report
}

fn outcome(report: &Value, hop: &str) -> String {
    let hops = report["hops"].as_array().unwrap();
    hops.iter().find(|found| found["hop"] == hop).unwrap()["outcome"].as_str().unwrap().to_owned()
}

#[test]
fn an_engine_that_answers_is_well() {
    let laptop = Laptop::new();
    create(&laptop, &engine(Duration::ZERO, GOOD));
    let report = doctor(&laptop);
    assert_eq!(report["healthy"], true);
    for (hop, expected) in
        [("driver", "ok"), ("route", "ok"), ("SSH port", "skipped"), ("TLS", "skipped"), ("API", "ok")]
    {
        assert_eq!(outcome(&report, hop), expected, "{report:#}");
    }
    laptop.berth(&["doctor", "m"]).success().says("HOP").says("1.2.3").says("machine `m` is well");
}

#[test]
fn a_closed_port_a_name_without_address_and_an_interrupted_create_are_told_apart() {
    let laptop = Laptop::new();
    create(&laptop, "tcp://127.0.0.1:1");
    let report = fails_at(&laptop, "engine port", "start the engine behind tcp://127.0.0.1:1");
    assert_eq!(outcome(&report, "API"), "skipped");
    let record = laptop.home().join("machines/m/machine.toml");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("tcp://127.0.0.1:1", "tcp://nobody.invalid:1")).unwrap();
    let report = fails_at(&laptop, "name", "getent hosts nobody.invalid");
    assert_eq!(outcome(&report, "route"), "skipped");
    fs::write(&record, text.replace("\"ready\"", "\"creating\"")).unwrap();
    fails_at(&laptop, "driver", "berth create --resume m");
    laptop.berth(&["doctor", "m"]).exits(1).says("`driver` fails first: `berth create --resume m`");
    laptop.berth(&["doctor", "nobody"]).exits(1).says("no such machine");
}

#[test]
fn a_clock_that_is_off_and_an_api_that_is_too_old_are_found() {
    for hours in [-3, 3] {
        let laptop = Laptop::new();
        create(&laptop, &engine(Duration::hours(hours), GOOD));
        fails_at(&laptop, "clock", "date -u");
    }
    let laptop = Laptop::new();
    create(&laptop, &engine(Duration::ZERO, r#"{"Version":"1","ApiVersion":"1.12"}"#));
    fails_at(&laptop, "API", "berth upgrade m");
    let laptop = Laptop::new();
    create(&laptop, &engine(Duration::ZERO, "<html>"));
    fails_at(&laptop, "API", "berth upgrade m");
}

/// An engine with mutual TLS; answers its port.
fn tls_engine(ca: &str, server: &certs::Leaf) -> u16 {
    let config = certs::server_config(ca, &server.cert_pem, &server.key_pem).unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream);
            answer(&mut tls, Duration::ZERO, GOOD);
            tls.conn.send_close_notify();
            let _ = tls.flush();
            // Whatever the other side has to say first: a reset would take the answer away.
            let _ = tls.sock.shutdown(std::net::Shutdown::Write);
            let _ = tls.sock.read_to_end(&mut Vec::new());
        }
    });
    port
}

/// A machine `m` at an engine with TLS, with this client certificate.
fn create_tls(laptop: &Laptop, host: &str, port: u16, ca: &str, client: &certs::Leaf) {
    let dir = laptop.dir.path().join("client");
    certs::write_client_bundle(&dir, ca, client).unwrap();
    let path = |file: &str| dir.join(file).to_str().unwrap().to_owned();
    let (ca, cert, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    let url = format!("tcp://{host}:{port}");
    let args = ["create", "--driver", "none", "--none-url", &url, "--none-tls-ca", &ca];
    let more = ["--none-tls-cert", &cert, "--none-tls-key", &key, "m"];
    laptop.berth(&[&args[..], &more].concat()).success();
}

/// A certificate like `leaf`, of the same authority's key, that ended an hour ago.
fn ended(dir: &Path, leaf: &certs::Leaf) -> certs::Leaf {
    let path = |file: &str| dir.join(file).to_str().unwrap().to_owned();
    fs::write(path("leaf-key.pem"), &leaf.key_pem).unwrap();
    fs::create_dir_all(path("issued")).unwrap();
    fs::write(path("index.txt"), "").unwrap();
    fs::write(path("serial"), "4242\n").unwrap();
    let config = format!(
        "[ca]\ndefault_ca=it\n[it]\ndatabase={}\nserial={}\nnew_certs_dir={}\ndefault_md=sha256\npolicy=any\n\
         certificate={}\nprivate_key={}\nx509_extensions=leaf\n[any]\ncommonName=supplied\n\
         [leaf]\nbasicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=IP:127.0.0.1\n",
        path("index.txt"),
        path("serial"),
        path("issued"),
        path("ca.pem"),
        path("ca-key.pem")
    );
    fs::write(path("openssl.cnf"), config).unwrap();
    let stamp = |at: OffsetDateTime| {
        let (date, time) = (at.date(), at.time());
        format!(
            "{:04}{:02}{:02}{:02}{:02}{:02}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        )
    };
    let now = OffsetDateTime::now_utc();
    let request =
        ["req", "-new", "-subj", "/CN=ended", "-key", &path("leaf-key.pem"), "-out", &path("leaf.csr")];
    Said::of(Command::new("openssl").args(request)).success();
    let (start, end) = (stamp(now - Duration::hours(5)), stamp(now - Duration::hours(1)));
    let sign = ["ca", "-batch", "-notext", "-config", &path("openssl.cnf"), "-in", &path("leaf.csr")];
    let more = ["-startdate", &start, "-enddate", &end, "-out", &path("leaf.pem")];
    Said::of(Command::new("openssl").args(sign).args(more)).success();
    let cert_pem = fs::read_to_string(path("leaf.pem")).unwrap();
    certs::Leaf { cert_pem, ..leaf.clone() }
}

#[test]
fn names_and_authorities_and_dates_of_certificates_are_told_apart() {
    if !common::has("openssl") {
        eprintln!("skipped: openssl is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = certs::Authority::load_or_create(dir.path()).unwrap();
    let ca = authority.cert_pem();
    let server = authority.issue_server(uuid::Uuid::new_v4(), &[], &[]).unwrap();
    let client = authority.issue_client("test").unwrap();
    let port = tls_engine(ca, &server);

    let laptop = Laptop::new();
    create_tls(&laptop, "127.0.0.1", port, ca, &client);
    let report = doctor(&laptop);
    assert_eq!(report["healthy"], true, "{report:#}");
    assert_eq!((outcome(&report, "certificates").as_str(), outcome(&report, "TLS").as_str()), ("ok", "ok"));

    let laptop = Laptop::new();
    create_tls(&laptop, "127.0.0.2", port, ca, &client);
    let report = fails_at(&laptop, "TLS", "another machine may have its address");
    assert_eq!(outcome(&report, "certificates"), "ok");

    let other = tempfile::tempdir().unwrap();
    let stranger = certs::Authority::load_or_create(other.path()).unwrap();
    let laptop = Laptop::new();
    create_tls(&laptop, "127.0.0.1", port, stranger.cert_pem(), &client);
    fails_at(&laptop, "TLS", "berth provision m");
    let laptop = Laptop::new();
    create_tls(&laptop, "127.0.0.1", port, ca, &stranger.issue_client("stranger").unwrap());
    fails_at(&laptop, "TLS", "berth provision m");

    let laptop = Laptop::new();
    create_tls(&laptop, "127.0.0.1", port, ca, &ended(dir.path(), &client));
    let report = fails_at(&laptop, "certificates", "from whoever runs the engine");
    assert!(report.to_string().contains("the client's certificate ended on"), "{report:#}");

    let laptop = Laptop::new();
    let port = tls_engine(ca, &ended(dir.path(), &server));
    create_tls(&laptop, "127.0.0.1", port, ca, &client);
    let report = fails_at(&laptop, "certificates", "from whoever runs the engine");
    assert_eq!(outcome(&report, "TLS"), "failed");
}

/// A world with an sshd, and a machine `m` on it as far as one gets without hostd.
fn ssh_world() -> (Laptop, Sshd, PathBuf) {
    let laptop = Laptop::new();
    let key = laptop.dir.path().join("key");
    keygen(&key, "");
    let sshd = Sshd::start(2201, &key);
    let flags = ["--generic-ip-address", "127.0.0.1", "--generic-ssh-port", "2201", "--generic-ssh-key"];
    let create = [&["create", "--driver", "generic"][..], &flags, &[key.to_str().unwrap(), "m"]].concat();
    Said::of(laptop.command(&create).env("BERTH_HOSTD", "/nonexistent/hostd")).exits(1);
    // As if hostd had been there once.
    let record = laptop.home().join("machines/m/machine.toml");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("\"creating\"", "\"ready\"")).unwrap();
    (laptop, sshd, key)
}

#[test]
fn what_fails_over_ssh_is_told_apart() {
    if !in_own_world("what_fails_over_ssh_is_told_apart") {
        return;
    }
    let (laptop, mut sshd, key) = ssh_world();
    let report = fails_at(&laptop, "hostd service", "berth provision m");
    for hop in ["SSH port", "SSH host key", "SSH log-in", "clock"] {
        assert_eq!(outcome(&report, hop), "ok", "{report:#}");
    }
    assert_eq!(outcome(&report, "engine port"), "failed");

    sshd.change_host_key();
    let report = fails_at(&laptop, "SSH host key", "berth provision --accept-host-key m");
    assert_eq!(outcome(&report, "SSH log-in"), "skipped");
    let record = laptop.home().join("machines/m/machine.toml");
    let text = fs::read_to_string(&record).unwrap();
    let start = text.find("host_keys = ").unwrap();
    let end = start + text[start..].find(']').unwrap() + 1;
    fs::write(&record, text.replace(&text[start..end], &format!("host_keys = [\"{}\"]", sshd.host_key())))
        .unwrap();

    fs::remove_file(&key).unwrap();
    fs::remove_file(key.with_extension("pub")).unwrap();
    keygen(&key, "");
    let report = fails_at(&laptop, "SSH log-in", "authorized_keys");
    assert_eq!(outcome(&report, "SSH host key"), "ok");

    drop(sshd);
    fails_at(&laptop, "SSH port", "open port 2201");

    // The world has a loopback alone.
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("ip-address = \"127.0.0.1\"", "ip-address = \"192.0.2.1\"")).unwrap();
    fails_at(&laptop, "route", "ip route");
}
