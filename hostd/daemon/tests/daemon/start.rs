//! What hostd refuses at its start, and how it says so.

use crate::support::Root;
use std::os::unix::net::UnixListener;

#[test]
fn a_configuration_is_checked_without_being_used() {
    let root = Root::new();
    std::fs::write(root.path("hostd.json"), r#"{"hosts": ["unix:///x.sock"], "icc": false}"#).unwrap();
    let check = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hostd"));
        let output =
            command.args(["--validate", "--config-file", &root.path("hostd.json")]).args(args).output();
        crate::support::Outcome::from(output.unwrap())
    };
    check(&[]).success().says("configuration OK");
    let conflict = check(&["--icc=true"]).failure();
    assert_eq!(conflict.code, Some(1));
    conflict.says(
        "specified both as a flag and in the configuration file: icc: (from flag: true, from file: false)",
    );
    std::fs::write(root.path("hostd.json"), r#"{"storage-driver": "zfs"}"#).unwrap();
    check(&[]).failure().says("unknown field `storage-driver`");
}

#[test]
fn a_port_in_use_is_named_before_anything_is_built() {
    needs_machine!();
    let root = Root::new();
    let hosts = ["tcp://127.0.0.1:2400", "tcp://0.0.0.0:2400"];
    let mut args = vec![];
    for host in hosts {
        args.extend(["-H", host, "--allow-unauthenticated", host]);
    }
    let outcome = root.refused(&args);
    outcome.says(
        "error: cannot listen on tcp://0.0.0.0:2400\ncaused by: Address already in use (os error 98)\nhint: ",
    );
}

#[test]
fn a_missing_certificate_is_named() {
    needs_machine!();
    let root = Root::new();
    let (ca, cert, key) = (root.path("ca.pem"), root.path("cert.pem"), root.path("key.pem"));
    let args = [
        "-H",
        "tcp://127.0.0.1:2400",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ];
    root.refused(&args).says(&format!("error: cannot read {cert}\ncaused by: No such file or directory"));
    for file in [&ca, &cert, &key] {
        std::fs::write(file, "no certificate").unwrap();
    }
    root.refused(&args).says(&format!("error: cannot use the certificate {cert}\ncaused by: "));
}

#[test]
fn plain_tcp_is_refused_unless_named() {
    needs_machine!();
    let root = Root::new();
    let outcome = root.refused(&["-H", "tcp://127.0.0.1:2400"]);
    outcome
        .says("refusing to listen on tcp://127.0.0.1:2400 without client certificates")
        .says("--allow-unauthenticated=");
}

#[test]
fn a_socket_that_someone_answers_on_and_a_plain_file_stay() {
    needs_machine!();
    let root = Root::new();
    let _other = UnixListener::bind(root.socket()).unwrap();
    root.refused(&["-H", &root.url()]).says("another daemon answers on unix://");
    let file = root.path("file");
    std::fs::write(&file, "precious").unwrap();
    root.refused(&["-H", &format!("unix://{file}")]).says("exists and is not a socket");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn without_sockets_to_inherit_fd_is_refused() {
    needs_machine!();
    Root::new().refused(&["-H", "fd://"]).says("no sockets were passed for fd://");
}
