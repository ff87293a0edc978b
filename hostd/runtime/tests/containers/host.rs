//! A runtime on a temporary directory, with busybox as every container's root file system.

use hostd_runtime::spec::*;
use hostd_runtime::{Container, Exit, Kernel, Runtime, RuntimeConfig, RuntimeError, Streams};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Far longer than anything here takes, so that nothing hangs.
const LIMIT: Duration = Duration::from_secs(60);
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "ls", "sleep", "true", "false", "id", "grep", "stty", "head", "mount", "touch",
    "tty", "hostname", "ps", "kill", "readlink", "wc", "dd", "tr", "pwd", "env", "seq", "mkdir", "stat",
    "printf", "test", "mknod",
];
static NEXT: AtomicU32 = AtomicU32::new(1);
pub(crate) const BOTH: Streams = Streams { stdin: true, stdout: true, stderr: true };

pub(crate) struct Host {
    pub(crate) dir: TempDir,
    pub(crate) runtime: Runtime,
    pub(crate) cgroup: String,
    kernel: Kernel,
}

impl Host {
    pub(crate) fn start(kernel: Kernel) -> Self {
        let dir = tempfile::Builder::new().prefix("hostd-runtime-").tempdir().unwrap();
        let cgroup = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        make_rootfs(&dir.path().join("rootfs"));
        let runtime = Runtime::open_on(Self::config(dir.path(), &cgroup), kernel).unwrap();
        Self { dir, runtime, cgroup, kernel }
    }

    fn config(dir: &Path, cgroup: &str) -> RuntimeConfig {
        RuntimeConfig {
            exec_root: dir.join("exec"),
            shim_exe: PathBuf::from("/proc/self/exe"),
            cgroup_driver: hostd_runtime::cgroup::Driver::Cgroupfs,
            realtime: (0, 0),
            cgroup_parent: cgroup.to_owned(),
        }
    }

    /// What a daemon that starts anew has.
    pub(crate) fn another_runtime(&self) -> Runtime {
        Runtime::open_on(Self::config(self.dir.path(), &self.cgroup), self.kernel).unwrap()
    }

    pub(crate) fn spec(&self, script: &str) -> ContainerSpec {
        let id = unique_id();
        let layer = self.dir.path().join("layers").join(&id);
        fs::create_dir_all(layer.join("upper")).unwrap();
        fs::create_dir_all(layer.join("work")).unwrap();
        ContainerSpec {
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            group_add: Vec::new(),
            hostname: "box".into(),
            domainname: String::new(),
            tty: false,
            console_size: None,
            stdin: Stdin::Null,
            rootfs: RootFs {
                lower: vec![self.dir.path().join("rootfs")],
                upper: layer.join("upper"),
                work: layer.join("work"),
                label: String::new(),
            },
            read_only_rootfs: false,
            mounts: Vec::new(),
            namespaces: Namespaces {
                net: NetNs::Host,
                user: None,
                pid: NsMode::Private,
                ipc: NsMode::Private,
                uts: NsMode::Private,
                cgroup: NsMode::Private,
            },
            privileged: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            seccomp: Seccomp::Default,
            no_new_privileges: false,
            masked_paths: None,
            readonly_paths: None,
            resources: Resources::default(),
            cgroup_parent: None,
            devices: Vec::new(),
            sysctls: BTreeMap::new(),
            ulimits: Vec::new(),
            oom_score_adj: None,
            shm_size: 64 << 20,
            no_shm: false,
            id_map: None,
            apparmor: None,
            writable_cgroups: false,
            init: false,
            log: json_log(layer.join("json.log"), None, 1),
            scratch: Some(layer.clone()),
            runtime: None,
            annotations: BTreeMap::new(),
            hooks: Default::default(),
            selinux: Default::default(),
            id,
        }
    }

    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.dir.path().join("layers").join(id).join("json.log")
    }

    /// Runs a container to its end: its exit, stdout and stderr.
    pub(crate) async fn run(&self, spec: ContainerSpec) -> (Exit, String, String) {
        self.try_run(spec).await.unwrap()
    }

    pub(crate) async fn try_run(&self, spec: ContainerSpec) -> Result<(Exit, String, String), RuntimeError> {
        let (id, tty) = (spec.id.clone(), spec.tty);
        let result = async {
            let container = self.runtime.create(spec).await?;
            let stream = container.attach(BOTH).await?;
            container.start().await?;
            let (out, err) = if tty { (raw(stream).await, String::new()) } else { frames(stream).await };
            Ok((limited(container.wait()).await?, out, err))
        }
        .await;
        self.runtime.remove(&id).await.unwrap();
        result
    }

    /// Starts a container that is to go on.
    pub(crate) async fn up(&self, spec: ContainerSpec) -> Container {
        let container = self.runtime.create(spec).await.unwrap();
        container.start().await.unwrap();
        container
    }

    /// Runs a command in a container: exit code, stdout, stderr.
    pub(crate) async fn exec(&self, container: &Container, args: &[&str]) -> (i32, String, String) {
        let exec = container.exec(exec_spec(args), Some(BOTH)).await.unwrap();
        let (out, err) = frames(exec.stream.unwrap()).await;
        (limited(exec.handle.wait()).await.unwrap().code, out, err)
    }

    /// Fails when anything of a container is left.
    pub(crate) fn assert_nothing_left(&self, id: &str) {
        assert!(!self.dir.path().join("exec").join(id).exists(), "the bundle is left");
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            assert!(!line.contains(id), "a mount is left: {line}");
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let cgroup = hierarchy.path().join(&self.cgroup).join(id);
            assert!(!cgroup.exists(), "{} is left", cgroup.display());
        }
        // A shim has told everything before its process is gone.
        let deadline = Instant::now() + LIMIT / 2;
        while !shims(id).is_empty() {
            assert!(Instant::now() < deadline, "a shim is left: {:?}", shims(id));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What a failed test left: with its processes gone, a container's shim ends.
        for id in self.runtime.ids().unwrap() {
            hostd_runtime::cgroup::Cgroup::open(&self.cgroup, &id).remove().unwrap();
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.cgroup));
        }
    }
}

/// Pids of the shims of container `id`.
pub(crate) fn shims(id: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // The container's first process looks the same until it execs; the shim leads a session.
        if cmdline.split(|b| *b == 0).any(|arg| arg == id.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

fn unique_id() -> String {
    format!("{:032x}{:032x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A log as json-file writes it.
pub(crate) fn json_log(path: PathBuf, max_size: Option<u64>, max_files: u32) -> Log {
    let format = LogFormat::Json { attrs: String::new() };
    let file = LogFile { path, format, max_size, max_files, compress: false };
    Log { file: Some(file), ..Log::default() }
}

pub(crate) fn exec_spec(args: &[&str]) -> ExecSpec {
    ExecSpec {
        note: String::new(),
        id: unique_id(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        tty: false,
        console_size: None,
        stdin: true,
        privileged: false,
    }
}

fn make_rootfs(root: &Path) {
    for dir in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/tmp:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:34:\nlog:x:50:web\n").unwrap();
    fs::write(root.join("etc/plain"), "not a program\n").unwrap();
}

pub(crate) async fn limited<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("it takes far too long")
}

/// Everything on a stream without frames.
pub(crate) async fn raw(mut stream: UnixStream) -> String {
    let mut all = Vec::new();
    limited(stream.read_to_end(&mut all)).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// stdout and stderr off Docker's frames.
pub(crate) async fn frames(stream: UnixStream) -> (String, String) {
    let mut stream = stream;
    let mut all = Vec::new();
    limited(stream.read_to_end(&mut all)).await.unwrap();
    let mut texts = [Vec::new(), Vec::new()];
    let mut rest = &all[..];
    while let Some((head, data)) = rest.split_first_chunk::<8>() {
        assert_eq!(head[1..4], [0, 0, 0]);
        let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        texts[usize::from(head[0]) - 1].extend_from_slice(&data[..len]);
        rest = &data[len..];
    }
    assert!(rest.is_empty(), "half a frame");
    let [out, err] = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
    (out, err)
}

/// Writes, and ends the writing half.
pub(crate) async fn feed(stream: &mut UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

/// Reads until `text` has come.
pub(crate) async fn until(stream: &mut UnixStream, text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut buffer = [0; 4096];
        let len = limited(stream.read(&mut buffer)).await.unwrap();
        assert!(len > 0, "it ended after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
}
