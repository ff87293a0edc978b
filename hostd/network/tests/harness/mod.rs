//! Hosts made of network namespaces: each test runs again in a process of its own, in a namespace of its own, so that
//! nothing it does reaches this machine.

use hostd_network::{
    Endpoint, EndpointRequest, NetworkConfig, NetworkError, Networks, PortRequest, Protocol, new_netns,
};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

/// Longer than anything here takes: a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(5);
/// For what must not arrive.
const SILENCE: Duration = Duration::from_millis(300);

/// Runs `test` (named `name`) as root in a network namespace of its own, with a runtime.
pub(crate) fn in_own_netns<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    const INSIDE: &str = "HOSTD_NETWORK_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        if let Some(reason) = missing() {
            println!("skipped: {reason}");
            return;
        }
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{name} failed in its namespace");
        return;
    }
    ip("link set lo up");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test()).await.expect("the test hangs")
    });
}

fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let works =
        |program: &str, arg: &str| Command::new(program).arg(arg).output().is_ok_and(|o| o.status.success());
    if !works("nft", "--version") {
        return Some("needs nft");
    }
    if !works("ip", "-V") || !works("unshare", "--version") {
        return Some("needs ip and unshare");
    }
    None
}

/// Runs `ip` in the host's namespace.
pub(crate) fn ip(args: &str) -> String {
    run("ip", args)
}

pub(crate) fn nft(args: &str) -> String {
    run("nft", args)
}

fn run(program: &str, args: &str) -> String {
    let output = Command::new(program).args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A container as far as networks see one.
pub(crate) struct Container {
    pub(crate) netns: OwnedFd,
    pub(crate) endpoint: Option<Endpoint>,
}

impl Container {
    pub(crate) fn new() -> Self {
        Self { netns: new_netns().unwrap(), endpoint: None }
    }

    pub(crate) fn request(&self, ports: Vec<PortRequest>) -> EndpointRequest<'_> {
        EndpointRequest {
            container_id: "c".repeat(64),
            network: "bridge".into(),
            netns: self.netns.as_fd(),
            ports,
            ip: None,
            mac: None,
            links: Vec::new(),
        }
    }

    pub(crate) async fn connected(networks: &Networks, ports: Vec<PortRequest>) -> Self {
        let mut container = Self::new();
        container.endpoint = Some(container.try_connect(networks, ports).await.unwrap());
        container
    }

    pub(crate) async fn try_connect(
        &self,
        networks: &Networks,
        ports: Vec<PortRequest>,
    ) -> Result<Endpoint, NetworkError> {
        networks.connect(self.request(ports)).await
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.endpoint.as_ref().unwrap()
    }

    pub(crate) fn addr(&self, port: u16) -> SocketAddr {
        (self.endpoint().ip, port).into()
    }

    /// Runs `f` inside the container.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        in_netns(&self.netns, f)
    }

    /// Answers every TCP connection to `port` with the address that it comes from.
    pub(crate) fn serve_tcp(&self, port: u16) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = stream.write_all(peer.ip().to_string().as_bytes());
            }
        });
    }

    /// Sends every UDP packet back, behind a `>`.
    pub(crate) fn serve_udp(&self, port: u16) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            let mut packet = [0; 100];
            while let Ok((length, peer)) = socket.recv_from(&mut packet) {
                let _ = socket.send_to(&[b">", &packet[..length]].concat(), peer);
            }
        });
    }
}

/// Runs `f` in `netns`, on a thread of its own.
pub(crate) fn in_netns<T: Send>(netns: &OwnedFd, f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            f()
        });
        thread.join().unwrap()
    })
}

/// What the TCP server at `to` sees as our address; `None` if it is not to be reached.
pub(crate) fn call_tcp(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut seen = String::new();
    stream.read_to_string(&mut seen).ok()?;
    (!seen.is_empty()).then_some(seen)
}

/// Whether packets to `to` vanish (a refusal is an answer).
pub(crate) fn is_silent(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, SILENCE).is_err_and(|e| e.kind() == std::io::ErrorKind::TimedOut)
}

pub(crate) fn call_udp(to: SocketAddr) -> Option<String> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"hello").ok()?;
    let mut packet = [0; 100];
    let length = socket.recv(&mut packet).ok()?;
    Some(String::from_utf8_lossy(&packet[..length]).into_owned())
}

/// Another machine on a network with this host: its namespace; the host is 10.99.0.1 there, and it is 10.99.0.2.
pub(crate) fn remote() -> OwnedFd {
    let netns = new_netns().unwrap();
    // ip(8) takes a namespace by a name, so it gets one for a moment, in this test's own mount namespace.
    std::fs::create_dir_all("/run/netns").unwrap();
    let name = "hostd-network-test-remote";
    let file = format!("/run/netns/{name}-{}", std::process::id());
    std::fs::write(&file, "").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&netns);
    run("mount", &format!("--bind /proc/{}/fd/{fd} {file}", std::process::id()));
    ip(&format!("link add lan0 type veth peer name eth0 netns {name}-{}", std::process::id()));
    ip("addr add 10.99.0.1/24 dev lan0");
    ip("link set lan0 up");
    for command in ["addr add 10.99.0.2/24 dev eth0", "link set eth0 up", "route add default via 10.99.0.1"] {
        ip(&format!("-n {name}-{} {command}", std::process::id()));
    }
    run("umount", &file);
    std::fs::remove_file(&file).unwrap();
    netns
}

pub(crate) fn config(state_dir: &std::path::Path) -> NetworkConfig {
    NetworkConfig { bridge: "hostd0".into(), bip: None, icc: true, state_dir: state_dir.to_owned() }
}

pub(crate) fn tcp(host_port: u16, container_port: u16) -> PortRequest {
    PortRequest {
        container_port,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: Some(host_port..=host_port),
    }
}

pub(crate) fn udp(host_port: u16, container_port: u16) -> PortRequest {
    PortRequest { protocol: Protocol::Udp, ..tcp(host_port, container_port) }
}

/// Names of the host's links.
pub(crate) fn links() -> Vec<String> {
    ip("-o link")
        .lines()
        .filter_map(|line| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned()))
        .collect()
}

/// Waits until the host has exactly `expected` links: a disconnected one goes in the background.
pub(crate) async fn settled(expected: &[String]) {
    let wait = async {
        while links() != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{:?} is not {expected:?}", links());
}
