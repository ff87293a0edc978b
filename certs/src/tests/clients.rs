//! Whom a server of ours lets in, and whom our client believes.

use super::{Fixture, have, yesterday};
use crate::leaf::{Leaf, Validity};
use rcgen::SanType;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use time::Duration;

/// An Engine API of two endpoints, behind mutual TLS. It ends with the test process.
fn serve(config: Arc<rustls::ServerConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            std::thread::spawn(move || answer(config, socket));
        }
    });
    port
}

fn answer(config: Arc<rustls::ServerConfig>, socket: TcpStream) -> std::io::Result<()> {
    let connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(connection, socket);
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let body = match head.split(' ').nth(1) {
            Some(path) if path.ends_with("/_ping") => "OK",
            Some(path) if path.ends_with("/version") => {
                r#"{"Version":"7.7.7","ApiVersion":"1.44","MinAPIVersion":"1.24","Os":"linux","Arch":"amd64"}"#
            }
            _ => "{}",
        };
        let length = body.len();
        let body = if head.starts_with("HEAD") { "" } else { body };
        write!(stream, "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: {length}\r\n\r\n{body}")?;
        stream.flush()?;
    }
}

fn mutual(fixture: &Fixture, server: &Leaf) -> u16 {
    serve(crate::server_config(fixture.authority.cert_pem(), &server.cert_pem, &server.key_pem).unwrap())
}

/// Asks our server with our client, and gives the answer's first line or the refusal.
fn ask(port: u16, ca_pem: &str, client: &Leaf, name: &str) -> Result<String, String> {
    let config = crate::client_config(ca_pem, &client.cert_pem, &client.key_pem).unwrap();
    let connection = rustls::ClientConnection::new(config, name.to_owned().try_into().unwrap()).unwrap();
    ask_over(connection, port)
}

fn ask_over(connection: rustls::ClientConnection, port: u16) -> Result<String, String> {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, socket);
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn our_client_and_server_accept_each_other() {
    let fixture = Fixture::new();
    let port = mutual(&fixture, &fixture.server);
    let name = crate::identity_name(fixture.machine);
    let answer = ask(port, fixture.authority.cert_pem(), &fixture.client, &name).unwrap();
    assert_eq!(answer, "HTTP/1.1 200 OK");
}

#[test]
fn a_client_without_certificate_is_refused_unless_the_server_asks_for_none() {
    let fixture = Fixture::new();
    let mut roots = rustls::RootCertStore::empty();
    for cert in crate::tls::certificates("the CA", fixture.authority.cert_pem()).unwrap() {
        roots.add(cert).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let client = || rustls::ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
    let refusal = ask_over(client(), mutual(&fixture, &fixture.server)).unwrap_err();
    assert!(refusal.contains("CertificateRequired"), "{refusal}");
    let server = &fixture.server;
    let open = serve(crate::server_config_without_clients(&server.cert_pem, &server.key_pem).unwrap());
    assert_eq!(ask_over(client(), open).unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn a_client_of_another_authority_is_refused() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let port = mutual(&ours, &ours.server);
    let name = crate::identity_name(ours.machine);
    let refusal = ask(port, ours.authority.cert_pem(), &theirs.client, &name).unwrap_err();
    assert!(refusal.contains("UnknownCA") || refusal.contains("DecryptError"), "{refusal}");
}

#[test]
fn an_expired_client_is_refused() {
    let fixture = Fixture::new();
    let port = mutual(&fixture, &fixture.server);
    let name = crate::identity_name(fixture.machine);
    let refusal = ask(port, fixture.authority.cert_pem(), &fixture.expired_client(), &name).unwrap_err();
    assert!(refusal.contains("CertificateExpired"), "{refusal}");
}

#[test]
fn a_server_of_another_authority_is_not_believed() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let port = mutual(&theirs, &theirs.server);
    let name = crate::identity_name(theirs.machine);
    let refusal = ask(port, ours.authority.cert_pem(), &ours.client, &name).unwrap_err();
    assert!(refusal.contains("UnknownIssuer") || refusal.contains("BadSignature"), "{refusal}");
}

#[test]
fn an_expired_server_is_not_believed() {
    let fixture = Fixture::new();
    let name = crate::identity_name(fixture.machine);
    let sans = vec![SanType::DnsName(name.as_str().try_into().unwrap())];
    let port = mutual(&fixture, &fixture.server_with(sans, yesterday()));
    let refusal = ask(port, fixture.authority.cert_pem(), &fixture.client, &name).unwrap_err();
    assert!(refusal.contains("expired"), "{refusal}");
}

#[test]
fn another_machine_at_the_same_address_is_not_believed() {
    let fixture = Fixture::new();
    let port = mutual(&fixture, &fixture.server);
    let name = crate::identity_name(uuid::Uuid::new_v4());
    let refusal = ask(port, fixture.authority.cert_pem(), &fixture.client, &name).unwrap_err();
    assert!(refusal.contains("not valid for name"), "{refusal}");
}

/// `docker version` against `port` with this bundle.
fn docker(port: u16, bundle: &std::path::Path) -> (bool, String) {
    let output = Command::new("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .env("DOCKER_HOST", format!("tcp://127.0.0.1:{port}"))
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", bundle)
        .env("DOCKER_CONFIG", bundle)
        .env_remove("DOCKER_CONTEXT")
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn the_docker_cli_accepts_our_certificates() {
    if !have("docker", "--version") {
        return;
    }
    let fixture = Fixture::new();
    let (good, said) = docker(mutual(&fixture, &fixture.server), &fixture.bundle());
    assert!(good && said.contains("7.7.7"), "{said}");
}

#[test]
fn the_docker_cli_is_refused_with_another_authoritys_or_an_expired_certificate() {
    if !have("docker", "--version") {
        return;
    }
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let port = mutual(&ours, &ours.server);
    let bundle = ours.dir.path().join("other");
    crate::write_client_bundle(&bundle, ours.authority.cert_pem(), &theirs.client).unwrap();
    let (good, said) = docker(port, &bundle);
    assert!(!good && said.contains("tls:"), "{said}");
    crate::write_client_bundle(&bundle, ours.authority.cert_pem(), &ours.expired_client()).unwrap();
    let (good, said) = docker(port, &bundle);
    assert!(!good && said.contains("expired certificate"), "{said}");
}

#[test]
fn the_docker_cli_refuses_a_server_with_a_wrong_name_another_authority_or_an_old_certificate() {
    if !have("docker", "--version") {
        return;
    }
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let elsewhere = vec![SanType::IpAddress("192.0.2.7".parse().unwrap())];
    let here = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let wrong_name = ours.server_with(elsewhere, Validity::from_now(Duration::days(1)));
    for (server, reason) in [
        (mutual(&ours, &wrong_name), "certificate is valid for 192.0.2.7, not 127.0.0.1"),
        (mutual(&theirs, &theirs.server), "certificate signed by unknown authority"),
        (mutual(&ours, &ours.server_with(here, yesterday())), "certificate has expired"),
    ] {
        let (good, said) = docker(server, &ours.bundle());
        assert!(!good && said.contains(reason), "{reason}: {said}");
    }
}
