//! The ways to an engine: a real sshd, a real hostd behind it, and ports that are filtered, in a world of their own.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Laptop, Said, Sshd, has, in_own_world, keygen};
use std::fs;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(90);

/// The hostd that is to be installed, where it has been built.
fn hostd() -> Option<PathBuf> {
    let built = std::env::var_os("BERTH_HOSTD").map(PathBuf::from);
    let found = built.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_berth")).with_file_name("hostd"));
    if !found.is_file() {
        eprintln!("skipped: hostd has not been built");
        return None;
    }
    for program in ["docker", "nft", "/usr/bin/busybox", "python3"] {
        if !has(program) {
            eprintln!("skipped: {program} is missing");
            return None;
        }
    }
    Some(found)
}

/// A laptop, a host that accepts its key, and hostd to put there.
struct World {
    laptop: Laptop,
    sshd: Sshd,
    key: PathBuf,
    hostd: PathBuf,
}

impl World {
    fn new(hostd: PathBuf) -> Self {
        let laptop = Laptop::new();
        let key = laptop.dir.path().join("key");
        keygen(&key, "");
        Self { sshd: Sshd::start(2201, &key), laptop, key, hostd }
    }

    /// Makes the host a machine.
    fn create(&self, host: &str, extra: &[&str]) -> Said {
        let key = self.key.to_str().unwrap();
        let args = ["create", "--driver", "generic", "--generic-ip-address", host, "--generic-ssh-key", key];
        let port = ["--generic-ssh-port", "2201"];
        self.berth(&[&args[..], &port, extra, &["m"]].concat())
    }

    fn berth(&self, args: &[&str]) -> Said {
        Said::of(self.laptop.command(args).env("BERTH_HOSTD", &self.hostd))
    }

    /// Gives the machine the busybox image.
    fn load(&self) {
        let image = self.laptop.dir.path().join("busybox.tar");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/busybox-image");
        Said::of(Command::new("python3").arg(script).arg(&image)).success();
        self.berth(&["load", "-q", "-i", image.to_str().unwrap()]).success();
    }

    /// `berth proxy`, and docker that goes there.
    fn proxy(&self) -> Proxy {
        let log = fs::File::create(self.laptop.dir.path().join("proxy.log")).unwrap();
        let child = self.laptop.command(&["proxy"]).stderr(log).spawn().unwrap();
        let proxy = Proxy { child, socket: self.laptop.home().join("proxy.sock") };
        eventually("the proxy", || proxy.socket.exists().then_some(()));
        proxy
    }
}

struct Proxy {
    child: Child,
    socket: PathBuf,
}

impl Proxy {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", "DOCKER_API_VERSION"] {
            command.env_remove(name);
        }
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display())).stdin(Stdio::null());
        command
    }

    fn docker(&self, args: &[&str]) -> Said {
        Said::of(self.command("docker").args(args))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LONG;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < until, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nft(rules: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

/// What happens to packets for the engine's port from now on.
fn port_2376(verdict: &str) {
    nft(&format!(
        "table inet test\ndelete table inet test\n\
         table inet test {{ chain in {{ type filter hook input priority 0; tcp dport 2376 {verdict}; }}; }}\n"
    ));
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn an_engine_without_a_port_serves_all_clients_through_a_jump_host() {
    let Some(hostd) = hostd() else { return };
    if !in_own_world("an_engine_without_a_port_serves_all_clients_through_a_jump_host") {
        return;
    }
    let world = World::new(hostd);
    let jump = Sshd::start(2202, &world.key);
    let key = world.key.display();
    let config = format!(
        "Host box\nHostName 127.0.0.1\nProxyJump bastion\nHost bastion\nHostName 127.0.0.1\nPort 2202\nUser root\nIdentityFile {key}\n"
    );
    fs::write(world.laptop.dir.path().join(".ssh/config"), config).unwrap();
    world.create("box", &["--via", "ssh"]).success().says("ready and active");
    assert!(!listens(2376), "the engine listens where nobody comes by");
    assert!(jump.log().contains("Accepted publickey"), "{}", jump.log());
    world.load();
    world
        .berth(&["run", "--rm", "--network", "none", "busybox", "echo", "over ssh"])
        .success()
        .says("over ssh");
    world.berth(&["ls"]).success().says("Running");

    let proxy = world.proxy();
    let sessions = || world.sshd.log().matches("Accepted publickey").count();
    proxy.docker(&["ps"]).success();
    let before = sessions();
    let tty = "docker run --network none --rm -it busybox sh -c 'test -t 0 && exit 6'";
    assert_eq!(Said::of(proxy.command("script").args(["-qec", tty, "/dev/null"])).code, Some(6));
    let mut cat = proxy.command("docker");
    cat.args(["run", "--network", "none", "--rm", "-i", "busybox", "sha256sum"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The half that closes is the client's alone: the sum comes after it.
    cat.stdin.take().unwrap().write_all(&vec![0; 5_000_000]).unwrap();
    let sum = String::from_utf8(cat.wait_with_output().unwrap().stdout).unwrap();
    let zeros = Said::of(Command::new("sh").args(["-c", "head -c 5000000 /dev/zero | sha256sum"])).stdout;
    assert_eq!(sum, zeros);
    let script = "i=0; while sleep 0.1; do i=$((i+1)); echo tick $i; done";
    proxy
        .docker(&["run", "-d", "--network", "none", "--name", "web", "busybox", "sh", "-c", script])
        .success();
    let follow = "docker logs -f web | grep -m 1 'tick 3'";
    Said::of(proxy.command("sh").args(["-c", follow])).success().says("tick 3");
    let mut events = proxy.command("docker");
    events.args([
        "events",
        "--since",
        "60s",
        "--filter",
        "event=kill",
        "--format",
        "{{.Actor.Attributes.name}}",
    ]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    proxy.docker(&["kill", "web"]).success();
    let mut line = String::new();
    std::io::BufReader::new(events.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "web\n");
    events.kill().unwrap();
    events.wait().unwrap();
    let file = world.laptop.dir.path().join("file");
    fs::write(&file, vec![7; 300_000]).unwrap();
    proxy.docker(&["cp", file.to_str().unwrap(), "web:/copied"]).success();
    let back = world.laptop.dir.path().join("back");
    proxy.docker(&["cp", "web:/copied", back.to_str().unwrap()]).success();
    assert_eq!(fs::read(&back).unwrap(), fs::read(&file).unwrap());
    let context = world.laptop.dir.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), "FROM busybox\n").unwrap();
    fs::write(context.join("large"), vec![1; 20_000_000]).unwrap();
    let built = proxy.docker(&["build", context.to_str().unwrap()]);
    assert!(built.code == Some(0) || built.stderr.contains("/build is not supported by hostd"), "{built:?}");
    assert_eq!(sessions(), before, "not all went over one session");

    docker_py(&proxy);
    compose(&proxy, &context);
    world.berth(&["env", "m"]).success().says("proxy-m.sock").says("berth proxy --machine m");
    // Back to TLS, without a restart of anything but hostd.
    world.berth(&["provision", "--via", "auto", "m"]).success();
    eventually("the engine's port", || listens(2376).then_some(()));
    world.berth(&["ps", "-a"]).success().says("web");
    drop(proxy.docker(&["rm", "-f", "web"]));
}

fn docker_py(proxy: &Proxy) {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/python");
    let packages = std::env::var_os("BERTH_TEST_PYTHON").map_or(default, PathBuf::from);
    if !packages.exists() {
        eprintln!("skipped: docker-py is not there");
        return;
    }
    let script = "
import docker
c = docker.from_env()
out = c.containers.run('busybox', ['echo', 'from python'], network_mode='none', remove=True)
assert out == b'from python\\n', out
k = c.containers.run('busybox', ['sleep', '100'], network_mode='none', detach=True)
code, out = k.exec_run(['sh', '-c', 'sleep 1; echo out; echo err >&2; exit 3'], demux=True)
assert (code, out) == (3, (b'out\\n', b'err\\n')), (code, out)
_, s = k.exec_run(['cat'], stdin=True, socket=True)
s._sock.sendall(b'hi\\n')
assert s.read(11)[8:] == b'hi\\n'
k.remove(force=True)
";
    Said::of(proxy.command("/usr/bin/python3").args(["-c", script]).env("PYTHONPATH", packages)).success();
}

fn compose(proxy: &Proxy, dir: &Path) {
    if !has("docker-compose") {
        eprintln!("skipped: docker-compose is not on PATH");
        return;
    }
    let file = "version: '3'\nservices:\n  one:\n    image: busybox\n    network_mode: none\n    command: echo composed\n";
    fs::write(dir.join("docker-compose.yml"), file).unwrap();
    let mut up = proxy.command("docker-compose");
    Said::of(up.arg("up").current_dir(dir)).success().says("composed");
    Said::of(proxy.command("docker-compose").args(["rm", "-f"]).current_dir(dir)).success();
}

#[test]
fn ssh_takes_over_where_the_engines_port_is_filtered() {
    let Some(hostd) = hostd() else { return };
    if !in_own_world("ssh_takes_over_where_the_engines_port_is_filtered") {
        return;
    }
    let world = World::new(hostd);
    for verdict in ["drop", "reject with tcp reset"] {
        port_2376(verdict);
        world.create("127.0.0.1", &[]).success().says("reached over SSH");
        world.berth(&["ps"]).success();
        world.berth(&["ls"]).success().says("Running").says("0.1.0");
        world.berth(&["machine", "rm", "-y", "m"]).success();
    }
    world.create("127.0.0.1", &[]).success();
    world.berth(&["--via", "tls", "ps"]).exits(1).says("Connection refused").says("berth status m");
    let accepted = || world.sshd.log().matches("Accepted publickey").count();
    port_2376("accept");
    let before = accepted();
    world.berth(&["ps"]).success();
    world.berth(&["--via", "tls", "ps"]).success();
    assert_eq!(accepted(), before, "SSH is used where TLS leads there");
    Said::of(world.laptop.command(&["ps"]).env("BERTH_VIA", "ssh")).success();
    assert_eq!(accepted(), before + 1);
    // What is not trusted is no reason to try another way.
    let key = world.laptop.home().join("machines/m/key.pem");
    fs::write(&key, "nonsense").unwrap();
    world.berth(&["ps"]).exits(1);
    // An engine that no way leads to is told of with both reasons.
    world.berth(&["provision", "m"]).success();
    port_2376("reject with tcp reset");
    nft(
        "table inet test2 { chain in { type filter hook input priority 0; tcp dport 2201 reject with tcp reset; }; }\n",
    );
    world.berth(&["ps"]).exits(1).says("127.0.0.1:2376").says("ssh://root@127.0.0.1:2201");
}

#[test]
fn a_server_that_forwards_no_sockets_and_few_sessions_is_no_hindrance() {
    let Some(hostd) = hostd() else { return };
    if !in_own_world("a_server_that_forwards_no_sockets_and_few_sessions_is_no_hindrance") {
        return;
    }
    let mut world = World::new(hostd);
    world.create("127.0.0.1", &["--via", "ssh"]).success();
    world.sshd.configure("AllowStreamLocalForwarding no\nMaxSessions 2\n");
    world.load();
    let proxy = world.proxy();
    let mut followed: Vec<Child> = (0..7)
        .map(|number| {
            let name = format!("c{number}");
            let words =
                ["run", "--network", "none", "--name", &name, "busybox", "sh", "-c", "echo up; sleep 1000"];
            proxy.command("docker").args(words).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    eventually("seven to run at once", || {
        (proxy.docker(&["ps", "-q"]).success().stdout.lines().count() == 7).then_some(())
    });
    let names: Vec<String> = (0..7).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    proxy.docker(&[&["rm", "-f"], &names[..]].concat()).success();
    for child in &mut followed {
        child.wait().unwrap();
    }
    drop(proxy);
    // None of the programs that carried the streams stays.
    eventually("the programs on the machine to end", || {
        let found = Said::of(Command::new("pgrep").args(["-f", "hostd dial-stdio"]));
        (found.code == Some(1)).then_some(())
    });
}

#[test]
fn a_user_who_may_not_open_the_engines_socket_comes_by_sudo() {
    let Some(hostd) = hostd() else { return };
    if let Some(missing) = ["sudo", "/usr/sbin/useradd"].iter().find(|program| !has(program)) {
        eprintln!("skipped: {missing} is missing");
        return;
    }
    if !in_own_world("a_user_who_may_not_open_the_engines_socket_comes_by_sudo") {
        return;
    }
    let world = World::new(hostd);
    // Without a password, and yet not locked.
    Said::of(Command::new("/usr/sbin/useradd").args(["-M", "-d", "/", "-s", "/bin/sh", "-p", "*", "deploy"]))
        .success();
    fs::write("/etc/sudoers.d/deploy", "deploy ALL=(ALL) NOPASSWD: ALL\n").unwrap();
    Said::of(Command::new("chmod").args(["440", "/etc/sudoers.d/deploy"])).success();
    world.create("127.0.0.1", &["--generic-ssh-user", "deploy", "--via", "ssh"]).success();
    assert!(!listens(2376));
    world.berth(&["ps"]).success();
    world.load();
    let proxy = world.proxy();
    let mut cat = proxy.command("docker");
    cat.args(["run", "--network", "none", "--rm", "-i", "busybox", "sha256sum"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(&vec![0; 3_000_000]).unwrap();
    let sum = String::from_utf8(cat.wait_with_output().unwrap().stdout).unwrap();
    let zeros = Said::of(Command::new("sh").args(["-c", "head -c 3000000 /dev/zero | sha256sum"])).stdout;
    assert_eq!(sum, zeros);
    fs::remove_file("/etc/sudoers.d/deploy").unwrap();
    drop(proxy);
    world.berth(&["ps"]).exits(1).says("opens no connection to /run/hostd.sock").says("sudo");
}

#[test]
fn a_session_that_no_longer_answers_is_replaced() {
    let Some(hostd) = hostd() else { return };
    if !in_own_world("a_session_that_no_longer_answers_is_replaced") {
        return;
    }
    let world = World::new(hostd);
    world.create("127.0.0.1", &["--via", "ssh"]).success();
    let proxy = world.proxy();
    let accepted = || world.sshd.log().matches("Accepted publickey").count();
    proxy.docker(&["ps"]).success();
    let sessions = |signal: &str| {
        // Children of the server that listens.
        let children =
            Said::of(Command::new("pgrep").args(["-P", &world.sshd.pid().to_string()])).success().stdout;
        let children: Vec<&str> = children.split_whitespace().collect();
        Said::of(Command::new("kill").arg(signal).args(&children)).success();
    };
    // Held, as a laptop's own end is while it sleeps: packets go unanswered.
    let before = accepted();
    sessions("-STOP");
    proxy.docker(&["ps"]).success();
    assert_eq!(accepted(), before + 1);
    // Broken.
    sessions("-KILL");
    proxy.docker(&["ps"]).success();
    assert_eq!(accepted(), before + 2);
}

#[test]
fn a_machine_is_known_by_its_identity_wherever_its_name_leads() {
    let Some(hostd) = hostd() else { return };
    if !in_own_world("a_machine_is_known_by_its_identity_wherever_its_name_leads") {
        return;
    }
    let world = World::new(hostd);
    let leads_to = |address: &str| fs::write("/etc/hosts", format!("{address} box\n")).unwrap();
    leads_to("127.0.0.1");
    world.create("box", &[]).success();
    world.berth(&["--via", "tls", "ps"]).success();
    // The host has come up with another address, which no certificate names.
    leads_to("127.0.0.9");
    world.berth(&["--via", "tls", "ps"]).success();
    // Another machine has the address now: it has another identity.
    let record = world.laptop.home().join("machines/m/machine.toml");
    let text = fs::read_to_string(&record).unwrap();
    let id = text.lines().find(|line| line.starts_with("id = ")).unwrap();
    let other = text.replace(id, "id = \"00000000-0000-4000-8000-000000000000\"");
    fs::write(&record, other).unwrap();
    world.berth(&["ps"]).exits(1).says("TLS handshake");
}
