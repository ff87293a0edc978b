//! A hostd of the test's own.

use crate::{Outcome, built, eventually, has, run};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// hostd on a temporary root, in namespaces of its own. Stopped, with all that it ran, when dropped.
pub struct TestHost {
    dir: TempDir,
    /// Keeps the namespaces while hostd is down.
    holder: Child,
    hostd: Option<Child>,
    program: PathBuf,
    args: Vec<String>,
}

impl TestHost {
    /// Starts hostd with further arguments, and loads the busybox image.
    ///
    /// # Errors
    /// The reason why this machine cannot: to be printed as the reason to skip.
    ///
    /// # Panics
    /// hostd does not come up.
    pub fn start(args: &[&str]) -> Result<Self, String> {
        Self::start_after(args, |_| {})
    }

    /// As [`TestHost::start`], after `prepare` has changed what hostd is to find in its namespaces.
    ///
    /// # Errors
    /// As [`TestHost::start`].
    ///
    /// # Panics
    /// As [`TestHost::start`].
    pub fn start_after(args: &[&str], prepare: impl FnOnce(&Self)) -> Result<Self, String> {
        let program = built("BERTH_TEST_HOSTD", "hostd")?;
        let busybox = built("BERTH_TEST_BUSYBOX", "busybox.tar")?;
        if !fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nUid:\t0\t")) {
            return Err("hostd needs root".to_owned());
        }
        if let Some(missing) = ["docker", "unshare", "nsenter", "ip", "setpriv"].iter().find(|p| !has(p)) {
            return Err(format!("{missing} is not on PATH"));
        }
        let mut host = Self {
            dir: tempfile::Builder::new().prefix("hostd-").tempdir().map_err(|error| error.to_string())?,
            holder: hold_namespaces(),
            hostd: None,
            program,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        // Not the one that a hostd of this machine may have.
        fs::write(host.path("hostd.json"), "{}").map_err(|error| error.to_string())?;
        prepare(&host);
        host.up();
        host.docker(["load", "-q", "-i", &busybox.to_string_lossy()]).success();
        Ok(host)
    }

    /// Starts hostd again after [`TestHost::down`] or [`TestHost::kill`].
    ///
    /// # Panics
    /// It does not answer.
    pub fn up(&mut self) {
        let log =
            File::options().create(true).append(true).open(self.path("hostd.log")).expect("open the log");
        let mut command = self.inside(&self.program.to_string_lossy());
        if !self.args.iter().any(|arg| arg.starts_with("--config-file")) {
            command.args(["--config-file", &self.text_path("hostd.json")]);
        }
        command
            .args(["--data-root", &self.text_path("data"), "--exec-root", &self.text_path("run")])
            .args(["--pidfile", &self.text_path("hostd.pid"), "-H", &self.url()])
            .args(std::env::var("BERTH_TEST_HOSTD_ARGS").unwrap_or_default().split_whitespace())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log);
        self.hostd = Some(command.spawn().expect("start hostd"));
        eventually("hostd to answer", || {
            if let Some(Ok(Some(status))) = self.hostd.as_mut().map(Child::try_wait) {
                panic!("hostd ended with {status}:\n{}", self.log());
            }
            // To connect is not enough: a process that a killed hostd was about to start holds its socket for a moment.
            self.api().call("GET", "/_ping", None).ok()
        });
    }

    /// Asks hostd to end, and waits until it has.
    ///
    /// # Panics
    /// It does not run.
    pub fn down(&mut self) {
        self.signal("TERM");
    }

    /// Kills hostd as `kill -9` does.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(&mut self) {
        self.signal("KILL");
    }

    /// Waits for a hostd that was killed by its pid.
    ///
    /// # Panics
    /// It does not run.
    pub fn reap(&mut self) {
        self.hostd.take().expect("hostd ran").wait().expect("wait for hostd");
    }

    fn signal(&mut self, name: &str) {
        let mut hostd = self.hostd.take().expect("hostd runs");
        run(Command::new("kill").args([&format!("-{name}"), &hostd.id().to_string()])).success();
        hostd.wait().expect("wait for hostd");
    }

    /// Runs the docker CLI against this host.
    pub fn docker<const N: usize>(&self, args: [&str; N]) -> Outcome {
        run(self.docker_command().args(args))
    }

    /// The docker CLI, pointed at this host.
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.url()).env("DOCKER_CONFIG", self.path("docker")).stdin(Stdio::null());
        for name in ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", "DOCKER_API_VERSION"] {
            command.env_remove(name);
        }
        command
    }

    /// A command in the namespaces of this host.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.holder.id().to_string(), "--", program]);
        command
    }

    /// Runs `act` in the network of this host; what it opens stays there.
    ///
    /// # Panics
    /// The namespace cannot be entered.
    pub fn within_network<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(format!("/proc/{}/ns/net", self.holder.id())).expect("open the namespace");
        let enter = || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(netns.as_fd(), kind).expect("enter the namespace");
            act()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().expect("act in the namespace"))
    }

    /// One field of `docker inspect`, by Go template.
    #[track_caller]
    pub fn field(&self, name: &str, template: &str) -> String {
        self.docker(["inspect", "--format", template, name]).text()
    }

    /// What hostd has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("hostd.log")).unwrap_or_default()
    }

    /// `unix://…`.
    pub fn url(&self) -> String {
        format!("unix://{}", self.text_path("hostd.sock"))
    }

    /// A path in this host's temporary directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text_path(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Pid of hostd.
    ///
    /// # Panics
    /// It does not run.
    pub fn pid(&self) -> u32 {
        self.hostd.as_ref().expect("hostd runs").id()
    }

    /// Pids of the shims and other processes that name this host's directory on their command line.
    pub fn processes(&self) -> Vec<u32> {
        let mark = self.dir.path().to_string_lossy().into_owned();
        let pids = fs::read_dir("/proc").expect("read /proc").flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).contains(&mark)
            })
            .collect()
    }

    /// Mounts, links, processes and directories that containers have left; empty once all are removed.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mounts = run(&mut self.inside_with("cat", &["/proc/self/mounts"])).text();
        let mark = self.dir.path().to_string_lossy().into_owned();
        // The data root itself may be a test's mount.
        let data = self.text_path("data");
        let ours =
            mounts.lines().filter(|line| line.contains(&mark) && line.split(' ').nth(1) != Some(&data));
        left.extend(ours.map(|line| format!("mount {line}")));
        let links = run(&mut self.inside_with("ip", &["-o", "link", "show", "type", "veth"])).text();
        left.extend(links.lines().map(|line| format!("link {line}")));
        let hostd = self.hostd.as_ref().map(Child::id);
        left.extend(
            self.processes().iter().filter(|pid| Some(**pid) != hostd).map(|pid| format!("process {pid}")),
        );
        for dir in ["data/containers", "data/image/containers"] {
            let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| format!("directory {}", entry.path().display())));
        }
        left
    }

    fn inside_with(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.inside(program);
        command.args(args);
        command
    }

    /// cgroups, in any hierarchy, whose name has this container id.
    pub fn cgroups(id: &str) -> Vec<PathBuf> {
        fn walk(dir: &Path, id: &str, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if entry.file_name().to_string_lossy().contains(id) {
                        found.push(entry.path());
                    }
                    walk(&entry.path(), id, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(Path::new("/sys/fs/cgroup"), id, &mut found);
        found
    }
}

/// A process that does nothing in a new network and mount namespace; it goes when the test does.
fn hold_namespaces() -> Child {
    let mut holder = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"])
        .args(["sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start unshare");
    let mut line = String::new();
    let stdout = holder.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("read from unshare");
    assert_eq!(line.trim(), "ready", "cannot make namespaces");
    holder
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of hostd\n{}", self.log());
        }
        let mut left = Vec::new();
        if let Some(mut hostd) = self.hostd.take() {
            let ids = self.docker(["ps", "-aq"]).stdout();
            for id in ids.split_whitespace() {
                drop(self.docker(["rm", "-fv", id]));
            }
            self.hostd = Some(hostd);
            // Links are taken down behind the answer; on a machine that is slow, long behind it.
            for _ in 0..600 {
                left = self.leftovers();
                if left.is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            hostd = self.hostd.take().expect("it was put there");
            drop(run(Command::new("kill").args(["-TERM", &hostd.id().to_string()])));
            drop(hostd.wait());
        }
        // Shims outlive a hostd that was killed: what the test did not bring back is ended here.
        for pid in self.processes() {
            drop(run(Command::new("kill").args(["-KILL", &pid.to_string()])));
        }
        drop(self.holder.kill());
        drop(self.holder.wait());
        assert!(std::thread::panicking() || left.is_empty(), "removed containers have left: {left:#?}");
    }
}
