//! A laptop for tests: the built `berth` with a home of its own, and a world of its own to do damage in.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A user: `$HOME` and `$BERTH_HOME` in a directory that goes away.
pub struct Laptop {
    pub dir: TempDir,
}

impl Laptop {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".ssh")).unwrap();
        Self { dir }
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join(".berth")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(args).env("HOME", self.dir.path()).env("BERTH_HOME", self.home()).stdin(Stdio::null());
        for name in ["BERTH_MACHINE", "BERTH_DRIVER", "BERTH_VIA", "SSH_AUTH_SOCK"] {
            command.env_remove(name);
        }
        command
    }

    pub fn berth(&self, args: &[&str]) -> Said {
        Said::of(&mut self.command(args))
    }

    /// A machine of driver `none` that nobody answers for.
    pub fn create_none(&self, name: &str) -> Said {
        self.berth(&["create", "--driver", "none", "--none-url", "tcp://127.0.0.1:1", name])
    }
}

/// What a program did.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn of(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text) || self.stderr.contains(text), "no `{text}` in {self:#?}");
        self
    }
}

/// Runs the rest of a test in namespaces of its own, where /etc, /usr/local, /var and /run take writes that never reach
/// the host, and where the network has a loopback alone. `false` in the process outside, whose work is then done.
pub fn in_own_world(test: &str) -> bool {
    if let Some(below) = std::env::var_os("BERTH_TEST_WORLD") {
        let set_up = "set -e
            ip link set lo up
            mount --make-rprivate /
            mount -t tmpfs tmpfs $t
            for d in etc usr/local var; do
                mkdir -p $t/$d/upper $t/$d/work
                mount -t overlay overlay -o lowerdir=/$d,upperdir=$t/$d/upper,workdir=$t/$d/work /$d
            done
            mount -t tmpfs tmpfs /run
            mkdir -p /run/sshd /var/lib/hostd
            mount -t tmpfs tmpfs /var/lib/hostd";
        Said::of(Command::new("sh").args(["-c", set_up]).env("t", below)).success();
        return true;
    }
    if let Some(lacking) =
        ["unshare", "ip", "/usr/sbin/sshd", "ssh-keygen"].iter().find(|program| !has(program))
    {
        eprintln!("skipped: {lacking} is missing");
        return false;
    }
    if Said::of(Command::new("unshare").args(["-m", "-n", "-p", "-f", "true"])).code != Some(0) {
        eprintln!("skipped: namespaces need root");
        return false;
    }
    // Removed when nothing is mounted there any more.
    let below = tempfile::Builder::new().prefix("berth-world-").tempdir().unwrap();
    let mut child = Command::new("unshare")
        .args(["-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env("BERTH_TEST_WORLD", below.path())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(300);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > until => {
                child.kill().unwrap();
                panic!("{test} hangs");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{test} failed in its own world");
    false
}

pub fn has(program: &str) -> bool {
    Path::new(program).is_absolute() && Path::new(program).exists()
        || std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|dir| dir.join(program).is_file())
}

/// An sshd of the test's own.
pub struct Sshd {
    pub port: u16,
    dir: TempDir,
    child: Child,
    settings: String,
}

impl Sshd {
    /// Lets `key` in.
    pub fn start(port: u16, key: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-sshd-").tempdir().unwrap();
        keygen(&dir.path().join("host"), "");
        std::fs::copy(key.with_extension("pub"), dir.path().join("authorized")).unwrap();
        // Its keys are read as the user who logs in.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let child = Self::spawn(dir.path(), port, "");
        Self { port, dir, child, settings: String::new() }
    }

    fn spawn(dir: &Path, port: u16, settings: &str) -> Child {
        let at = dir.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n{settings}"
        );
        std::fs::write(dir.join("config"), config).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(dir.join("config")).stdin(Stdio::null());
        let child = command.stderr(std::fs::File::create(dir.join("log")).unwrap()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    /// Pid of the one that listens.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The same server with further settings; what runs on it is cut off.
    pub fn configure(&mut self, settings: &str) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.settings.push_str(settings);
        self.child = Self::spawn(self.dir.path(), self.port, &self.settings);
    }

    /// The same server with another host key.
    pub fn change_host_key(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(self.dir.path().join("host")).unwrap();
        keygen(&self.dir.path().join("host"), "");
        self.child = Self::spawn(self.dir.path(), self.port, &self.settings);
    }

    /// `ssh-ed25519 AAAA…`.
    pub fn host_key(&self) -> String {
        let line = std::fs::read_to_string(self.dir.path().join("host.pub")).unwrap();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        let mut command = Command::new("ssh-keygen");
        let said = Said::of(command.arg("-lf").arg(self.dir.path().join("host.pub"))).success();
        said.stdout.split(' ').nth(1).unwrap().to_owned()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a key pair.
pub fn keygen(path: &Path, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    Said::of(command.args(["-q", "-t", "ed25519", "-N", passphrase, "-f"]).arg(path)).success();
}
