mod clients;
mod creation;
mod openssl;

use crate::Authority;
use crate::leaf::{Leaf, Validity};
use rcgen::{ExtendedKeyUsagePurpose as Eku, SanType};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// An authority, a machine's certificate and a client's, as files for other programs.
struct Fixture {
    dir: TempDir,
    authority: Authority,
    machine: Uuid,
    server: Leaf,
    client: Leaf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(&dir.path().join("ca")).unwrap();
        let machine = Uuid::new_v4();
        let ips = ["192.0.2.7".parse().unwrap()];
        let server = authority.issue_server(machine, &["build-1".to_owned()], &ips).unwrap();
        let client = authority.issue_client("someone").unwrap();
        let fixture = Self { dir, authority, machine, server, client };
        fixture.put("server", &fixture.server);
        crate::write_client_bundle(&fixture.bundle(), fixture.authority.cert_pem(), &fixture.client).unwrap();
        fixture
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca/ca.pem")
    }

    /// Writes `<name>.pem` and `<name>-key.pem`.
    fn put(&self, name: &str, leaf: &Leaf) -> (PathBuf, PathBuf) {
        let cert = self.dir.path().join(format!("{name}.pem"));
        let key = self.dir.path().join(format!("{name}-key.pem"));
        std::fs::write(&cert, &leaf.cert_pem).unwrap();
        std::fs::write(&key, &leaf.key_pem).unwrap();
        (cert, key)
    }

    /// A client's certificate that ended yesterday.
    fn expired_client(&self) -> Leaf {
        self.authority.issue("late", Vec::new(), &[Eku::ClientAuth], yesterday()).unwrap()
    }

    /// A server's certificate with these SANs.
    fn server_with(&self, sans: Vec<SanType>, validity: Validity) -> Leaf {
        self.authority.issue("server", sans, &[Eku::ServerAuth], validity).unwrap()
    }
}

fn yesterday() -> Validity {
    let now = OffsetDateTime::now_utc();
    Validity { not_before: now - Duration::days(2), not_after: now - Duration::days(1) }
}

/// Whether `program` is there; says that the test is skipped where it is not.
fn have(program: &str, version: &str) -> bool {
    let found = Command::new(program).arg(version).output().is_ok();
    if !found {
        eprintln!("skipped: no {program} on this host");
    }
    found
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
