//! The authority is made once, and found whole.

use crate::{Authority, CertError};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const RACE_DIR: &str = "CERTS_TEST_RACE_DIR";

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_authority_is_the_same_when_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let made = Authority::load_or_create(dir.path()).unwrap();
    let loaded = Authority::load_or_create(dir.path()).unwrap();
    assert_eq!(made.cert_pem(), loaded.cert_pem());
    assert_eq!(names(dir.path()), ["ca-key.pem", "ca.lock", "ca.pem"]);
}

#[test]
fn keys_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(&dir.path().join("ca")).unwrap();
    let leaf = authority.issue_client("someone").unwrap();
    crate::write_client_bundle(&dir.path().join("bundle"), authority.cert_pem(), &leaf).unwrap();
    assert_eq!(mode(&dir.path().join("ca")), 0o700);
    assert_eq!(mode(&dir.path().join("ca/ca-key.pem")), 0o600);
    assert_eq!(mode(&dir.path().join("bundle/key.pem")), 0o600);
    assert_eq!(mode(&dir.path().join("bundle/cert.pem")), 0o644);
}

#[test]
fn keys_do_not_show_in_debug_output() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(dir.path()).unwrap();
    let leaf = authority.issue_client("someone").unwrap();
    assert!(!format!("{leaf:?}{authority:?}").contains("PRIVATE"));
}

#[test]
fn ten_threads_make_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let certs: Vec<_> = std::thread::scope(|scope| {
        let load = || Authority::load_or_create(dir.path()).unwrap().cert_pem().to_owned();
        let threads: Vec<_> = (0..10).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(certs.iter().all(|cert| *cert == certs[0]));
}

#[test]
fn ten_processes_make_one_authority() {
    if let Some(dir) = std::env::var_os(RACE_DIR) {
        println!("{}", Authority::load_or_create(Path::new(&dir)).unwrap().cert_pem());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let child = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "tests::creation::ten_processes_make_one_authority", "--nocapture"]);
        command.env(RACE_DIR, dir.path()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..10).map(|_| child()).collect();
    let made = || std::fs::read_to_string(dir.path().join("ca.pem")).unwrap();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(made().trim()));
    }
}

#[test]
fn what_a_crash_left_half_made_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca-key.pem"), "-----BEGIN PRIV").unwrap();
    std::fs::write(dir.path().join(".certs-tmp-Xa81k"), "-----BEGIN").unwrap();
    let made = Authority::load_or_create(dir.path()).unwrap();
    assert_eq!(names(dir.path()), ["ca-key.pem", "ca.lock", "ca.pem"]);
    assert_eq!(Authority::load_or_create(dir.path()).unwrap().cert_pem(), made.cert_pem());
}

#[test]
fn an_authority_without_its_key_is_refused_rather_than_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let cert = Authority::load_or_create(dir.path()).unwrap().cert_pem().to_owned();
    std::fs::remove_file(dir.path().join("ca-key.pem")).unwrap();
    let error = Authority::load_or_create(dir.path()).unwrap_err();
    assert!(matches!(error, CertError::KeyLost { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(dir.path().join("ca.pem")).unwrap(), cert);
}

#[test]
fn an_authority_with_the_key_of_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    Authority::load_or_create(&one).unwrap();
    Authority::load_or_create(&two).unwrap();
    std::fs::copy(two.join("ca-key.pem"), one.join("ca-key.pem")).unwrap();
    let error = Authority::load_or_create(&one).unwrap_err();
    assert!(matches!(error, CertError::KeyMismatch { .. }), "{error}");
}

#[test]
fn a_name_that_cannot_be_in_a_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(dir.path()).unwrap();
    let error = authority.issue_server(uuid::Uuid::new_v4(), &["bücher".to_owned()], &[]).unwrap_err();
    assert!(error.to_string().contains("bücher"), "{error}");
}
