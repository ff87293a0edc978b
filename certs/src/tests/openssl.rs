//! What OpenSSL makes of our certificates.

use super::{Fixture, have, text};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

fn openssl(args: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(args).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn openssl_verifies_both_leaves_for_their_purpose_and_no_other() {
    if !have("openssl", "version") {
        return;
    }
    let fixture = Fixture::new();
    let ca = text(&fixture.ca());
    let server = text(&fixture.dir.path().join("server.pem"));
    let client = text(&fixture.bundle().join("cert.pem"));
    let verify = |purpose: &str, cert: &str| {
        openssl(&["verify", "-x509_strict", "-CAfile", &ca, "-purpose", purpose, cert])
    };
    for (purpose, cert) in [("sslserver", &server), ("sslclient", &server), ("sslclient", &client)] {
        let (good, said) = verify(purpose, cert);
        assert!(good, "{purpose}: {said}");
    }
    let (good, said) = verify("sslserver", &client);
    assert!(!good, "{said}");
    let name = crate::identity_name(fixture.machine);
    let (good, said) = openssl(&["verify", "-CAfile", &ca, "-verify_hostname", &name, &server]);
    assert!(good, "{said}");
}

#[test]
fn openssl_refuses_the_certificate_of_another_authority() {
    if !have("openssl", "version") {
        return;
    }
    let (one, two) = (Fixture::new(), Fixture::new());
    let (good, said) =
        openssl(&["verify", "-CAfile", &text(&one.ca()), &text(&two.dir.path().join("server.pem"))]);
    assert!(!good, "{said}");
}

#[test]
fn certificates_say_what_they_are() {
    if !have("openssl", "version") {
        return;
    }
    let fixture = Fixture::new();
    let show = |cert: &str| openssl(&["x509", "-noout", "-text", "-in", cert]).1;
    let ca = show(&text(&fixture.ca()));
    for expected in
        ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "prime256v1", "Subject Key Identifier"]
    {
        assert!(ca.contains(expected), "{expected} in {ca}");
    }
    let server = show(&text(&fixture.dir.path().join("server.pem")));
    let identity = format!("DNS:{}", crate::identity_name(fixture.machine));
    for expected in [
        "CA:FALSE",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "Authority Key Identifier",
        "Subject Key Identifier",
        "DNS:localhost, DNS:build-1, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, IP Address:192.0.2.7",
        &identity,
    ] {
        assert!(server.contains(expected), "{expected} in {server}");
    }
    let client = show(&text(&fixture.bundle().join("cert.pem")));
    assert!(
        client.contains("TLS Web Client Authentication") && !client.contains("TLS Web Server"),
        "{client}"
    );
    let serial = |cert: &str| openssl(&["x509", "-noout", "-serial", "-in", cert]).1.trim().to_owned();
    let serial = serial(&text(&fixture.bundle().join("cert.pem")));
    assert_eq!(serial.len(), "serial=".len() + 32, "{serial}");
}

#[test]
fn the_end_of_a_certificate_is_as_openssl_reads_it() {
    if !have("openssl", "version") {
        return;
    }
    let fixture = Fixture::new();
    let cert = text(&fixture.dir.path().join("server.pem"));
    let end = crate::not_after(&fixture.server.cert_pem).unwrap();
    assert_eq!(end.unix_timestamp(), fixture.server.not_after.unix_timestamp());
    let left = (end - time::OffsetDateTime::now_utc()).whole_seconds();
    let still_valid =
        |seconds: i64| openssl(&["x509", "-noout", "-checkend", &seconds.to_string(), "-in", &cert]).0;
    assert!(still_valid(left - 60));
    assert!(!still_valid(left + 60));
}

/// One connection to a server of ours.
fn serve_once(config: Arc<rustls::ServerConfig>) -> (u16, std::thread::JoinHandle<Result<(), String>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), socket);
        stream.write_all(b"hello\n").map_err(|e| e.to_string())?;
        stream.conn.send_close_notify();
        stream.flush().map_err(|e| e.to_string())
    });
    (port, thread)
}

#[test]
fn openssl_s_client_shakes_hands_with_our_server() {
    if !have("openssl", "version") {
        return;
    }
    let fixture = Fixture::new();
    let (server, client) = (&fixture.server, fixture.bundle());
    let config =
        crate::server_config(fixture.authority.cert_pem(), &server.cert_pem, &server.key_pem).unwrap();
    let (port, served) = serve_once(config);
    let (good, said) = openssl(&[
        "s_client",
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-CAfile",
        &text(&fixture.ca()),
        "-cert",
        &text(&client.join("cert.pem")),
        "-key",
        &text(&client.join("key.pem")),
        "-verify_return_error",
        "-verify_ip",
        "127.0.0.1",
        "-alpn",
        "http/1.1",
        "-ign_eof",
    ]);
    assert!(good && said.contains("hello") && said.contains("ALPN protocol: http/1.1"), "{said}");
    served.join().unwrap().unwrap();
}

/// Ended when the test ends, however it ends.
struct Server(Child);
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_client_shakes_hands_with_openssl_s_server() {
    if !have("openssl", "version") {
        return;
    }
    let fixture = Fixture::new();
    let dir = fixture.dir.path();
    let mut server = Command::new("openssl");
    server.args([
        "s_server",
        "-accept",
        "127.0.0.1:0",
        "-naccept",
        "1",
        "-Verify",
        "1",
        "-verify_return_error",
    ]);
    server.arg("-CAfile").arg(fixture.ca()).arg("-cert").arg(dir.join("server.pem"));
    server.arg("-key").arg(dir.join("server-key.pem"));
    server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Server(server.spawn().unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let accept = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("ACCEPT")).unwrap();
    let port: u16 = accept.rsplit(':').next().unwrap().parse().unwrap();

    let client = &fixture.client;
    let config =
        crate::client_config(fixture.authority.cert_pem(), &client.cert_pem, &client.key_pem).unwrap();
    let name = crate::identity_name(fixture.machine).try_into().unwrap();
    let connection = rustls::ClientConnection::new(config, name).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, socket);
    stream.write_all(b"hello from our client\n").unwrap();
    stream.flush().unwrap();
    assert!(lines.map(Result::unwrap).any(|line| line.contains("hello from our client")));
}
