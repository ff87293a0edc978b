//! A real hostd in namespaces of its own, and berth beside it with a machine `box` that is this hostd.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Nothing here takes that long; what does has failed.
const LONG: Duration = Duration::from_secs(60);

pub struct Engine {
    dir: tempfile::TempDir,
    holder: Child,
    hostd: Option<Child>,
}

/// An engine, or the reason why there is none here is printed.
pub fn start() -> Option<Engine> {
    match Engine::start() {
        Ok(engine) => Some(engine),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

fn hostd() -> Result<PathBuf, String> {
    let given = std::env::var_os("BERTH_TEST_HOSTD").map(PathBuf::from);
    let hostd = given.unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_berth")).with_file_name("hostd"));
    if hostd.exists() { Ok(hostd) } else { Err(format!("no hostd at {}", hostd.display())) }
}

impl Engine {
    fn start() -> Result<Self, String> {
        let hostd = hostd()?;
        if !rustix::process::geteuid().is_root() {
            return Err("hostd needs root".to_owned());
        }
        for program in
            ["unshare", "nsenter", "setpriv", "setsid", "timeout", "ip", "python3", "/usr/bin/busybox"]
        {
            if Command::new(program).arg("--help").output().is_err() {
                return Err(format!("{program} is not on this host"));
            }
        }
        let dir = tempfile::Builder::new().prefix("berth-container-").tempdir().unwrap();
        let mut engine = Self { dir, holder: hold_namespaces(), hostd: None };
        engine.boot(&hostd);
        Ok(engine)
    }

    fn boot(&mut self, hostd: &Path) {
        let authority = certs::Authority::load_or_create(&self.path("ca")).unwrap();
        let server = authority.issue_server(uuid::Uuid::new_v4(), &[], &[]).unwrap();
        certs::write_client_bundle(&self.path("server"), authority.cert_pem(), &server).unwrap();
        let client = authority.issue_client("test").unwrap();
        certs::write_client_bundle(&self.path("client"), authority.cert_pem(), &client).unwrap();
        let log = File::create(self.path("hostd.log")).unwrap();
        let mut command = self.inside(hostd.to_str().unwrap());
        for (flag, path) in [
            ("--data-root", "data"),
            ("--exec-root", "run"),
            ("--pidfile", "hostd.pid"),
            ("--tlscacert", "server/ca.pem"),
            ("--tlscert", "server/cert.pem"),
            ("--tlskey", "server/key.pem"),
        ] {
            command.arg(flag).arg(self.path(path));
        }
        command.args(["--tlsverify", "-H", "tcp://127.0.0.1:2376"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.hostd = Some(command.spawn().unwrap());
        let client = |file: &str| self.path("client").join(file).to_str().unwrap().to_owned();
        let (ca, cert, key) = (client("ca.pem"), client("cert.pem"), client("key.pem"));
        let create = ["create", "box", "--driver", "none", "--none-url", "tcp://127.0.0.1:2376"];
        let files = ["--none-tls-ca", &ca, "--none-tls-cert", &cert, "--none-tls-key", &key];
        let created = self.berth(&[&create[..], &files[..]].concat());
        assert!(created.status.success(), "{created:?}");
        let deadline = Instant::now() + LONG;
        while !self.berth(&["info"]).status.success() {
            let ended = self.hostd.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "hostd does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let image = self.path("busybox.tar");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/busybox-image");
        assert!(Command::new("python3").arg(script).arg(&image).status().unwrap().success());
        self.good(&["load", "-q", "-i", image.to_str().unwrap()]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("hostd.log")).unwrap_or_default()
    }

    /// A command in the engine's namespaces, which cannot run for ever.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.holder.id().to_string(), "--", program]);
        command.env("BERTH_HOME", self.path("home")).env_remove("BERTH_MACHINE");
        command
    }

    /// berth, to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.inside("timeout");
        command.args(["--foreground", "60", env!("CARGO_BIN_EXE_berth")]).args(args).stdin(Stdio::null());
        command
    }

    pub fn berth(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// berth, fed with `input`.
    pub fn fed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join();
        output
    }

    /// What berth says when it succeeds.
    #[track_caller]
    pub fn good(&self, args: &[&str]) -> String {
        let output = self.berth(args);
        assert!(output.status.success(), "berth {args:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The exit code, and what berth says when it fails.
    #[track_caller]
    pub fn bad(&self, args: &[&str]) -> (i32, String) {
        let output = self.berth(args);
        assert!(!output.status.success(), "berth {args:?}: {output:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// berth on a terminal of 30 rows and 100 columns.
    pub fn terminal(&self, args: &[&str]) -> Terminal {
        let mine = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&mine).unwrap();
        unlockpt(&mine).unwrap();
        let path = ptsname(&mine, Vec::new()).unwrap();
        let theirs = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        resize(&mine, 30, 100);
        let mut command = self.inside("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_berth")]).args(args);
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap());
        let child = command.stderr(theirs.try_clone().unwrap()).spawn().unwrap();
        let (sender, output) = mpsc::channel();
        let mut reader = File::from(mine.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose other side is closed reads as an error.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { mine, theirs, child, output, seen: String::new() }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the engine\n{}", self.log());
        }
        let ids = String::from_utf8(self.berth(&["ps", "-aq"]).stdout).unwrap_or_default();
        for id in ids.split_whitespace() {
            drop(self.berth(&["container", "rm", "-f", "-v", id]));
        }
        if let Some(mut hostd) = self.hostd.take() {
            drop(Command::new("kill").arg(hostd.id().to_string()).status());
            drop(hostd.wait());
        }
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// A process that does nothing in a new network and mount namespace; it goes when the test does.
fn hold_namespaces() -> Child {
    let mut holder = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"])
        .args(["sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready", "cannot make namespaces");
    holder
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

pub struct Terminal {
    mine: OwnedFd,
    theirs: File,
    child: Child,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.mine, rows, columns);
    }

    pub fn types(&mut self, keys: &[u8]) {
        File::from(self.mine.try_clone().unwrap()).write_all(keys).unwrap();
    }

    /// Waits until the screen shows `text`, after what was waited for before.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("the terminal does not show {text:?}: {:?}", self.seen),
            }
        }
    }

    /// Types `command` until the screen shows `text`: a terminal's size arrives when it arrives.
    #[track_caller]
    pub fn types_until(&mut self, command: &[u8], text: &str) {
        for _ in 0..100 {
            self.types(command);
            let deadline = Instant::now() + Duration::from_millis(300);
            while let Ok(bytes) = self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
            if self.seen.contains(text) {
                return self.shows(text);
            }
        }
        panic!("the terminal does not show {text:?}: {:?}", self.seen);
    }

    /// Whether the terminal is one where lines are edited and echoed, as a shell expects it.
    pub fn is_cooked(&self) -> bool {
        tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// The exit code, once berth has ended.
    #[track_caller]
    pub fn ends(&mut self) -> i32 {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        panic!("berth does not end: {:?}", self.seen);
    }
}

/// A registry on port 5000 beside the engine; it has `busybox` as `127.0.0.1:5000/box:1`.
pub struct Registry(Child);

impl Engine {
    pub fn registry(&self) -> Option<Registry> {
        if Command::new("docker-registry").arg("--version").output().is_err() {
            eprintln!("skipped: docker-registry is not on this host");
            return None;
        }
        let config = self.path("registry.yml");
        let root = self.path("registry");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:5000\n",
            root.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = self.inside("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry(command.spawn().unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/push-image");
        let deadline = Instant::now() + LONG;
        loop {
            let mut push = self.inside("python3");
            push.arg(&script).arg(self.path("busybox.tar")).args(["http://127.0.0.1:5000", "box", "1"]);
            let pushed = push.output().unwrap();
            if pushed.status.success() {
                return Some(registry);
            }
            assert!(Instant::now() < deadline, "cannot push: {pushed:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
