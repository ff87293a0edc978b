//! The engine on real parts: image store, network, volumes, runtime, shims.
//!
//! Runs itself again in a network and a mount namespace of its own, and there one test after the other, each with an
//! engine on a fresh tmpfs. The same program is the shim.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::StreamExt;
use hostd_engine::model::{ContainerConfig, HostConfig, RestartPolicy, Status};
use hostd_engine::{
    AttachOptions, Changed, CreateRequest, Engine, EngineConfig, ErrorKind, EventOptions, ExecRequest,
    ExecStart, ListOptions, LogOptions, RemoveOptions, WaitCondition,
};
use hostd_image::ImageStoreConfig;
use hostd_network::NetworkConfig;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const INSIDE: &str = "HOSTD_ENGINE_TEST_INSIDE";
/// No test may hang.
const LIMIT: Duration = Duration::from_secs(60);

type Test = for<'a> fn(&'a Host) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), |host| Box::pin($name(host)))),*] };
}

const TESTS: &[(&str, Test)] = tests![
    a_program_runs_to_its_end_and_its_code_output_and_log_are_known,
    a_container_on_the_bridge_has_an_address_and_gives_it_back,
    what_cannot_be_executed_fails_the_start_with_dockers_code,
    an_attachment_made_before_the_start_gets_everything,
    stop_and_kill_end_a_run_and_stay_ended,
    removing_a_running_container_needs_force,
    a_container_that_is_to_go_when_it_ends_goes_with_its_volumes,
    an_exec_runs_beside_the_program_and_has_its_own_code,
    a_restart_policy_starts_it_again_as_often_as_it_says,
    a_log_is_followed_to_the_end_of_the_run,
    containers_survive_the_engine_and_ends_are_caught_up_with,
    events_tell_a_containers_life,
    eight_at_a_time_do_not_disturb_each_other,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == hostd_runtime::SHIM_ARG) {
        hostd_runtime::shim_main();
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: containers need root");
        return ExitCode::SUCCESS;
    }
    for tool in ["busybox", "unshare", "tar", "nft"] {
        if Command::new("sh")
            .args(["-c", "command -v \"$0\" >/dev/null", tool])
            .status()
            .is_ok_and(|s| !s.success())
        {
            println!("skipped: no {tool} on this machine");
            return ExitCode::SUCCESS;
        }
    }
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().unwrap();
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .arg(own)
            .args(&args[1..])
            .env(INSIDE, "1")
            .status();
        return if status.unwrap().success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    run_all(args.iter().skip(1).find(|arg| !arg.starts_with('-')).map_or("", String::as_str))
}

fn run_all(filter: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(filter)) {
        let outcome = std::panic::catch_unwind(|| {
            runtime.block_on(async {
                let host = Host::start().await;
                let outcome = tokio::time::timeout(LIMIT, test(&host)).await;
                host.end().await;
                outcome.expect("took too long");
            });
        });
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed += u32::from(outcome.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An engine with a `busybox` image.
struct Host {
    dir: tempfile::TempDir,
    engine: std::sync::Mutex<Engine>,
}

impl Host {
    async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("engine-test-").tempdir().unwrap();
        sh(&format!("ip link set lo up; mount -t tmpfs none {}", dir.path().display()));
        let engine = Self::open(dir.path()).await;
        let host = Self { dir, engine: engine.into() };
        host.import().await;
        host
    }

    fn engine(&self) -> Engine {
        self.engine.lock().unwrap().clone()
    }

    /// Lets go of everything, as a crash would, has `meanwhile` done, and opens again.
    async fn reopen(&self, meanwhile: impl Future<Output = ()>) {
        self.engine().shutdown().await;
        meanwhile.await;
        let engine = Self::open(self.dir.path()).await;
        *self.engine.lock().unwrap() = engine;
    }

    async fn open(dir: &Path) -> Engine {
        let config = EngineConfig {
            data_root: dir.join("data"),
            exec_root: dir.join("exec"),
            shim_exe: PathBuf::from("/proc/self/exe"),
            images: ImageStoreConfig::default(),
            network: NetworkConfig {
                bridge: "hostd0".to_owned(),
                bip: Some(("10.213.0.1".parse().unwrap(), 24)),
                icc: true,
                state_dir: dir.join("data/network"),
            },
            labels: Vec::new(),
            cdi_spec_dirs: Vec::new(),
            cgroup_driver: hostd_engine::CgroupDriver::Cgroupfs,
            cgroup_parent: "hostd".to_owned(),
            realtime: (0, 0),
            defaults: hostd_engine::Defaults::default(),
            live_restore: true,
            runtimes: Default::default(),
            log: hostd_engine::LogDefaults::default(),
        };
        Engine::open(config).await.unwrap()
    }

    async fn import(&self) {
        let rootfs = self.dir.path().join("rootfs");
        sh(&format!(
            "mkdir -p {0}/bin {0}/tmp {0}/etc && cp $(command -v busybox) {0}/bin/ && for c in sh true false sleep cat echo \
             ip hostname id touch test trap seq stat; do ln -s busybox {0}/bin/$c; done && tar -C {0} -cf {0}.tar .",
            rootfs.display()
        ));
        let tar = std::fs::read(self.dir.path().join("rootfs.tar")).unwrap();
        let stream = futures_util::stream::iter([Ok(Bytes::from(tar))]).boxed();
        self.engine().import(stream, Some("busybox"), "for tests").await.unwrap();
    }

    /// Creates; `none` as network unless `edit` says otherwise.
    async fn create(&self, name: &str, script: &str, edit: impl FnOnce(&mut CreateRequest)) -> String {
        let mut request = CreateRequest {
            name: Some(name.to_owned()),
            config: ContainerConfig {
                image: "busybox".to_owned(),
                cmd: Some(vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()]),
                ..ContainerConfig::default()
            },
            host: HostConfig { network_mode: "none".to_owned(), ..HostConfig::default() },
            ..CreateRequest::default()
        };
        edit(&mut request);
        self.engine().create(request).await.unwrap().id
    }

    async fn run(&self, name: &str, script: &str) -> i32 {
        let id = self.create(name, script, |_| {}).await;
        let end = self.engine().wait(&id, WaitCondition::NextExit).await.unwrap();
        self.engine().start(&id).await.unwrap();
        end.await.code
    }

    async fn logs(&self, name: &str, follow: bool) -> String {
        let options = LogOptions { stdout: true, stderr: true, follow, ..LogOptions::default() };
        let (_, stream) = self.engine().logs(name, options).await.unwrap();
        let chunks: Vec<Bytes> = stream.map(|chunk| chunk.unwrap()).collect().await;
        payload(&chunks.concat())
    }

    async fn end(self) {
        for record in self.engine().list(&ListOptions { all: true, ..ListOptions::default() }).unwrap() {
            self.engine().remove(&record.id, RemoveOptions { force: true, volumes: true }).await.unwrap();
        }
        self.engine().shutdown().await;
        let left: Vec<_> = std::fs::read_dir(self.dir.path().join("data/containers")).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        drop(self.engine);
        sh(&format!("umount -l {}", self.dir.path().display()));
    }
}

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}

/// What frames carry.
fn payload(mut frames: &[u8]) -> String {
    let mut text = Vec::new();
    while let Some((header, rest)) = frames.split_at_checked(8) {
        let length = u32::from_be_bytes(header[4..8].try_into().unwrap()) as usize;
        text.extend_from_slice(&rest[..length]);
        frames = &rest[length..];
    }
    String::from_utf8(text).unwrap()
}

async fn a_program_runs_to_its_end_and_its_code_output_and_log_are_known(host: &Host) {
    assert_eq!(host.run("box", "echo out; echo err >&2; hostname; cat /etc/hostname; exit 7").await, 7);
    let record = host.engine().inspect("box").unwrap();
    assert_eq!((record.state.status, record.state.exit_code, record.state.pid), (Status::Exited, 7, 0));
    let log = host.logs("box", false).await;
    let short = &record.id[..12];
    // The two streams may overtake each other.
    for (expected, times) in [("out\n", 1), ("err\n", 1), (&format!("{short}\n"), 2)] {
        assert_eq!(log.matches(expected).count(), times, "{expected:?} in {log:?}");
    }
}

async fn a_container_on_the_bridge_has_an_address_and_gives_it_back(host: &Host) {
    let id = host
        .create("net", "ip -4 addr show eth0; cat /etc/hosts; sleep 100", |request| {
            request.host.network_mode = String::new();
        })
        .await;
    host.engine().start(&id).await.unwrap();
    let endpoint = host.engine().inspect(&id).unwrap().endpoint.unwrap();
    let ip = endpoint.ip.to_string();
    assert!(ip.starts_with("10.213.0."), "{ip}");
    // Once as the interface's, once in /etc/hosts.
    let mut log = String::new();
    while log.matches(&ip).count() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        log = host.logs(&id, false).await;
    }
    host.engine().kill(&id, None).await.unwrap();
    assert_eq!(host.engine().inspect(&id).unwrap().endpoint, None);
}

async fn what_cannot_be_executed_fails_the_start_with_dockers_code(host: &Host) {
    for (program, code) in [("/does/not/exist", 127), ("/etc", 126)] {
        let id = host
            .create(&format!("bad{code}"), "", |request| request.config.cmd = Some(vec![program.to_owned()]))
            .await;
        let error = host.engine().start(&id).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        let state = host.engine().inspect(&id).unwrap().state;
        assert_eq!((state.status, state.exit_code), (Status::Created, code), "{}", state.error);
        assert!(state.error.contains(program), "{}", state.error);
    }
}

async fn an_attachment_made_before_the_start_gets_everything(host: &Host) {
    let id = host
        .create("att", "echo first; cat", |request| {
            request.config.open_stdin = true;
            request.config.stdin_once = true;
        })
        .await;
    let options =
        AttachOptions { stream: true, stdin: true, stdout: true, stderr: true, ..AttachOptions::default() };
    let mut stream = host.engine().attach(&id, options).await.unwrap().stream.unwrap();
    host.engine().start(&id).await.unwrap();
    stream.write_all(b"second\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut frames = Vec::new();
    stream.read_to_end(&mut frames).await.unwrap();
    assert_eq!(payload(&frames), "first\nsecond\n");
}

async fn stop_and_kill_end_a_run_and_stay_ended(host: &Host) {
    let always = |request: &mut CreateRequest| request.host.restart_policy = RestartPolicy::Always;
    let id = host.create("stop", "trap 'exit 3' TERM; while :; do sleep 0.05; done", always).await;
    assert_eq!(host.engine().stop(&id, None, None).await.unwrap(), Changed::Before);
    assert_eq!(host.engine().start(&id).await.unwrap(), Changed::Now);
    assert_eq!(host.engine().start(&id).await.unwrap(), Changed::Before);
    assert_eq!(host.engine().stop(&id, None, Some(20)).await.unwrap(), Changed::Now);
    let state = host.engine().inspect(&id).unwrap().state;
    assert_eq!(state.status, Status::Exited);
    host.engine().start(&id).await.unwrap();
    host.engine().kill(&id, Some("SIGKILL")).await.unwrap();
    let state = host.engine().inspect(&id).unwrap().state;
    assert_eq!((state.status, state.exit_code), (Status::Exited, 137));
    let error = host.engine().kill(&id, None).await.unwrap_err();
    assert!(error.message.contains("is not running"), "{error}");
}

async fn removing_a_running_container_needs_force(host: &Host) {
    let id = host.create("busy", "sleep 100", |_| {}).await;
    host.engine().start(&id).await.unwrap();
    let error = host.engine().remove("busy", RemoveOptions::default()).await.unwrap_err();
    assert_eq!(
        error.message,
        "cannot remove container \"/busy\": container is running: stop the container before removing or force remove"
    );
    let gone = host.engine().wait(&id, WaitCondition::Removed).await.unwrap();
    host.engine().remove("busy", RemoveOptions { force: true, volumes: false }).await.unwrap();
    assert_eq!(gone.await.code, 137);
    assert_eq!(host.engine().inspect("busy").unwrap_err().message, "No such container: busy");
}

async fn a_container_that_is_to_go_when_it_ends_goes_with_its_volumes(host: &Host) {
    let id = host
        .create("once", "touch /data/x", |request| {
            request.host.auto_remove = true;
            request.config.volumes.insert("/data".to_owned());
        })
        .await;
    let source = PathBuf::from(&host.engine().inspect(&id).unwrap().mounts[0].source);
    assert!(source.is_dir());
    let gone = host.engine().wait(&id, WaitCondition::Removed).await.unwrap();
    host.engine().start(&id).await.unwrap();
    assert_eq!(gone.await.code, 0);
    assert!(host.engine().inspect(&id).is_err());
    assert!(!source.exists());
}

async fn an_exec_runs_beside_the_program_and_has_its_own_code(host: &Host) {
    let id = host.create("host", "sleep 100", |request| request.config.env = vec!["A=1".to_owned()]).await;
    let request = ExecRequest {
        cmd: ["sh", "-c", "echo $A$B; exit 5"].map(str::to_owned).to_vec(),
        env: vec!["B=2".to_owned()],
        attach_stdout: true,
        ..ExecRequest::default()
    };
    let error = host.engine().exec_create(&id, request.clone()).await.unwrap_err();
    assert_eq!((error.kind, error.message), (ErrorKind::Conflict, format!("container {id} is not running")));
    host.engine().start(&id).await.unwrap();
    let exec = host.engine().exec_create(&id, request).await.unwrap();
    let mut frames = Vec::new();
    let attached = host.engine().exec_start(&exec, ExecStart::default()).await.unwrap();
    attached.stream.unwrap().read_to_end(&mut frames).await.unwrap();
    assert_eq!(payload(&frames), "12\n");
    while host.engine().exec_inspect(&exec).await.unwrap().running {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(host.engine().exec_inspect(&exec).await.unwrap().exit_code, Some(5));
    assert_eq!(host.engine().exec_inspect("nope").await.unwrap_err().message, "No such exec instance: nope");
}

async fn a_restart_policy_starts_it_again_as_often_as_it_says(host: &Host) {
    let id = host.create("again", "exit 4", |r| r.host.restart_policy = RestartPolicy::OnFailure(2)).await;
    host.engine().start(&id).await.unwrap();
    loop {
        let record = host.engine().inspect(&id).unwrap();
        if record.state.status == Status::Exited {
            assert_eq!((record.restart_count, record.state.exit_code), (2, 4));
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_log_is_followed_to_the_end_of_the_run(host: &Host) {
    let id = host.create("chatty", "for i in 1 2 3; do echo $i; sleep 0.1; done", |_| {}).await;
    host.engine().start(&id).await.unwrap();
    assert_eq!(host.logs(&id, true).await, "1\n2\n3\n");
}

async fn containers_survive_the_engine_and_ends_are_caught_up_with(host: &Host) {
    let bridged = |request: &mut CreateRequest| request.host.network_mode = "bridge".to_owned();
    let lives = host.create("lives", "echo before; sleep 100", bridged).await;
    let ends = host.create("ends", "while ! test -e /tmp/go; do sleep 0.02; done; exit 9", |_| {}).await;
    let always = |request: &mut CreateRequest| request.host.restart_policy = RestartPolicy::Always;
    let again = host.create("again", "sleep 100", always).await;
    for id in [&lives, &ends, &again] {
        host.engine().start(id).await.unwrap();
    }
    let before = host.engine().inspect(&lives).unwrap();
    let (inside, killed) =
        (host.engine().inspect(&ends).unwrap().state.pid, host.engine().inspect(&again).unwrap().state.pid);
    host.reopen(async {
        std::fs::write(format!("/proc/{inside}/root/tmp/go"), "").unwrap();
        sh(&format!("kill -9 {killed}"));
        for pid in [inside, killed] {
            while Path::new(&format!("/proc/{pid}/root/tmp")).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .await;
    let after = host.engine().inspect(&lives).unwrap();
    assert_eq!(after, before);
    let ended = host.engine().inspect(&ends).unwrap().state;
    assert_eq!((ended.status, ended.exit_code), (Status::Exited, 9));
    loop {
        let state = host.engine().inspect(&again).unwrap().state;
        if state.status == Status::Running {
            assert_ne!(state.pid, killed);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    host.engine().kill(&lives, None).await.unwrap();
    assert_eq!(host.engine().inspect(&lives).unwrap().state.exit_code, 137);
    assert_eq!(host.logs(&lives, false).await, "before\n");
}

async fn events_tell_a_containers_life(host: &Host) {
    host.run("told", "exit 2").await;
    host.engine().remove("told", RemoveOptions::default()).await.unwrap();
    let options = EventOptions { until: Some(time::OffsetDateTime::now_utc()), ..EventOptions::default() };
    let events: Vec<_> = host
        .engine()
        .events(options)
        .unwrap()
        .filter(|e| {
            let keep = e.as_ref().unwrap().kind == "container";
            async move { keep }
        })
        .collect()
        .await;
    let actions: Vec<_> = events.iter().map(|e| e.as_ref().unwrap().action.as_str()).collect();
    assert_eq!(actions, ["create", "start", "die", "destroy"]);
    assert_eq!(events[2].as_ref().unwrap().attributes["exitCode"], "2");
}

async fn eight_at_a_time_do_not_disturb_each_other(host: &Host) {
    let runs = (0..8).map(|n| async move {
        let name = format!("par{n}");
        assert_eq!(host.run(&name, &format!("exit {n}")).await, n);
        host.engine().remove(&name, RemoveOptions::default()).await.unwrap();
    });
    futures_util::future::join_all(runs).await;
}
