//! A hostd on a temporary root, in a network and a mount namespace of its own.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing that is waited for takes this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why these tests cannot run here, if they cannot.
pub(crate) fn lacking() -> Option<String> {
    if !std::fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nUid:\t0\t")) {
        return Some("hostd needs root".to_owned());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let missing = |program: &&str| !path.split(':').any(|dir| PathBuf::from(dir).join(program).exists());
    ["docker", "unshare", "nsenter", "ip", "curl", "openssl"]
        .iter()
        .find(|p| missing(p))
        .map(|p| format!("{p} is not on PATH"))
}

/// Ends the test with the reason on stdout where this machine lacks something.
macro_rules! needs_machine {
    () => {
        if let Some(reason) = crate::support::lacking() {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
    #[track_caller]
    pub(crate) fn failure(self) -> Self {
        assert!(self.code.is_some_and(|code| code != 0), "{self:?}");
        self
    }
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text) || self.stderr.contains(text), "no {text:?} in {self:?}");
        self
    }
}

/// A directory with a place for everything, and the arguments that put it there.
pub(crate) struct Root {
    pub(crate) dir: TempDir,
    /// Keeps the namespaces while hostd is down.
    holder: Child,
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Root {
    pub(crate) fn new() -> Self {
        // `cat` ends with the pipe, should this process die before it can end it.
        let script = "ip link set lo up && echo up && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut up = [0; 3];
        holder.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        Self { dir: tempfile::Builder::new().prefix("hostd-").tempdir().unwrap(), holder }
    }
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
    pub(crate) fn socket(&self) -> String {
        self.path("hostd.sock")
    }
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket())
    }

    /// A command in the namespaces of this root.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.holder.id().to_string(), "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// hostd with its directories here, in namespaces of its own. `prelude` is run by the shell that becomes hostd.
    pub(crate) fn command(&self, prelude: &str, args: &[&str]) -> Command {
        let mut command = self.inside("sh");
        let script = format!("{prelude} exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_hostd")]);
        command.args(["--config-file", &self.path("hostd.json")]);
        if !PathBuf::from(self.path("hostd.json")).exists() {
            std::fs::write(self.path("hostd.json"), "{}").unwrap();
        }
        command.args(["--data-root", &self.path("data"), "--exec-root", &self.path("run")]).args(args);
        command
    }

    /// Runs hostd, which is to refuse to start.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str]) -> Outcome {
        let mut child = self
            .command("", args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > DEADLINE {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let outcome = Outcome::from(child.wait_with_output().unwrap());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        outcome
    }
}

/// A running hostd.
pub(crate) struct Hostd {
    pub(crate) root: Root,
    child: Child,
}

impl Hostd {
    /// Starts it on a unix socket and with further arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        let root = Root::new();
        let url = root.url();
        let args: Vec<&str> = ["-H", &url].into_iter().chain(args.iter().copied()).collect();
        Self::with(root, "", &args, None)
    }

    /// Starts it in a root that is there, with all its arguments given.
    pub(crate) fn with(root: Root, prelude: &str, args: &[&str], stdin: Option<OwnedFd>) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(root.path("log")).unwrap();
        let mut command = root.command(prelude, args);
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut hostd = Self { root, child };
        eventually("hostd to be ready", || {
            let log = hostd.log();
            let ended = hostd.child.try_wait().unwrap();
            assert!(ended.is_none(), "hostd ended: {log}");
            log.contains(" ready ").then_some(())
        });
        hostd
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.root.path("log")).unwrap()
    }

    /// A command in hostd's namespaces.
    pub(crate) fn inside(&self, program: &str) -> Command {
        self.root.inside(program)
    }

    /// The docker CLI over the unix socket.
    pub(crate) fn docker_command(&self) -> Command {
        // A client that waits for what never comes must fail the test, not hold it up. It is killed outright, since the
        // docker CLI passes other signals on to the container.
        let mut command = self.inside("timeout");
        command.args(["--foreground", "-s", "KILL", "60", "docker"]);
        clean(&mut command).env("DOCKER_CONFIG", self.root.path("docker")).args(["-H", &self.root.url()]);
        command
    }

    pub(crate) fn docker<const N: usize>(&self, args: [&str; N]) -> Outcome {
        self.docker_command().args(args).output().unwrap().into()
    }

    /// Sends a request as it stands and reads all that comes until the other side closes.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.root.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // A request that is refused halfway is not read to its end.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A request whose connection is closed after the answer.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Sends it a signal that ends it, and waits.
    pub(crate) fn end(mut self, signal: &str) -> (Root, Option<i32>) {
        self.signal(signal);
        let status = eventually("hostd to end", || self.child.try_wait().unwrap());
        let root = std::mem::replace(&mut self.root, Root::new());
        (root, status.code())
    }
}

impl Hostd {
    /// Kills it as `kill -9` does, and starts it again.
    pub(crate) fn crash_and_start(self) -> Self {
        let (root, _) = self.end("KILL");
        std::fs::remove_file(root.path("log")).unwrap();
        let url = root.url();
        Self::with(root, "", &["-H", &url], None)
    }
}

impl Drop for Hostd {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        if std::thread::panicking() {
            eprintln!("hostd said: {}", self.log());
        }
        if PathBuf::from(self.root.socket()).exists() {
            let ids = self.docker(["ps", "-aq"]).stdout;
            if !ids.is_empty() {
                let _ = self.docker_command().args(["rm", "-f"]).args(ids.split_whitespace()).output();
            }
        }
        self.signal("TERM");
        let start = Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if start.elapsed() > DEADLINE {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The docker CLI without what the environment would tell it.
pub(crate) fn clean(command: &mut Command) -> &mut Command {
    for name in [
        "DOCKER_HOST",
        "DOCKER_TLS_VERIFY",
        "DOCKER_TLS",
        "DOCKER_CERT_PATH",
        "DOCKER_CONTEXT",
        "DOCKER_API_VERSION",
    ] {
        command.env_remove(name);
    }
    command
}
