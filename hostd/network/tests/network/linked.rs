//! Links between containers that are kept apart.

use crate::harness::{Container, call_tcp, config, in_own_netns, ip, is_silent, nft};
use hostd_network::{Endpoint, EndpointLink, EndpointRequest, NetworkConfig, Networks, Protocol};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;
use tempfile::tempdir;

const PORTS: [(Protocol, u16); 3] = [(Protocol::Tcp, 80), (Protocol::Tcp, 82), (Protocol::Udp, 53)];

async fn apart(dir: &Path, live: &[Endpoint]) -> Networks {
    Networks::open(NetworkConfig { icc: false, ..config(dir) }, live).await.unwrap()
}

/// A container with that id, and a link to the container `target`.
async fn connected(networks: &Networks, id: &str, target: Option<&str>) -> Container {
    let mut container = Container::new();
    let links = target.map(|target| EndpointLink { container_id: target.into(), ports: PORTS.into() });
    let request = EndpointRequest {
        container_id: id.into(),
        links: links.into_iter().collect(),
        ..container.request(vec![])
    };
    container.endpoint = Some(networks.connect(request).await.unwrap());
    container
}

/// Whether `text` arrives at port 53 of `callee` when `caller` sends it again and again; from the address `forged` if
/// that is given.
fn hears(callee: &Container, caller: &Container, forged: Option<Ipv4Addr>, text: &str) -> bool {
    let socket = callee.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let from = caller.run(|| UdpSocket::bind((forged.unwrap_or(caller.endpoint().ip), 0)).unwrap());
    let mut packet = [0; 100];
    // What must not arrive is given less time than what must.
    let attempts = if forged.is_some() || text.starts_with("not") { 10 } else { 100 };
    (0..attempts).any(|_| {
        let _ = from.send_to(text.as_bytes(), callee.addr(53));
        socket.recv_from(&mut packet).is_ok_and(|(length, _)| &packet[..length] == text.as_bytes())
    })
}

#[test]
fn a_link_lets_one_call_the_others_ports_and_nobody_else() {
    in_own_netns("linked::a_link_lets_one_call_the_others_ports_and_nobody_else", || async {
        let dir = tempdir().unwrap();
        let networks = apart(dir.path(), &[]).await;
        assert_eq!(networks.no_links(), None);
        let db = connected(&networks, "db", None).await;
        let other = connected(&networks, "other", None).await;
        let web = connected(&networks, "web", Some("db")).await;
        for container in [&db, &web, &other] {
            container.serve_tcp(80);
            container.serve_tcp(81);
        }
        let reached = |from: &Container, to: SocketAddr| from.run(|| call_tcp(to).is_some());
        assert!(reached(&web, db.addr(80)));
        assert!(hears(&db, &web, None, "hello"));
        let silent = |from: &Container, to: SocketAddr| from.run(|| is_silent(to));
        assert!(silent(&web, db.addr(81)), "a port that is not exposed");
        let unheard = |from: &Container, to: &Container, port| {
            from.run(|| {
                std::net::TcpStream::connect_timeout(&to.addr(port), Duration::from_millis(300)).is_err()
            })
        };
        for (from, to) in [(&db, &web), (&other, &db), (&other, &web), (&web, &other), (&db, &other)] {
            assert!(unheard(from, to, 80));
        }
        // From a port that it is called on, the other one may answer and not call.
        let from_82 = || -> rustix::io::Result<()> {
            use rustix::net::{AddressFamily, SocketType, sockopt};
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            let patience = Some(Duration::from_millis(500));
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, patience)?;
            rustix::net::bind(&socket, &db.addr(82))?;
            rustix::net::connect(&socket, &web.addr(81))
        };
        assert_eq!(db.run(from_82), Err(rustix::io::Errno::INPROGRESS));
    });
}

#[test]
fn a_forged_address_gets_nobody_through_a_link() {
    in_own_netns("linked::a_forged_address_gets_nobody_through_a_link", || async {
        let dir = tempdir().unwrap();
        let networks = apart(dir.path(), &[]).await;
        let db = connected(&networks, "db", None).await;
        let web = connected(&networks, "web", Some("db")).await;
        // Linked itself, so that its port is not isolated, but to somebody else.
        let target = connected(&networks, "target", None).await;
        let forger = connected(&networks, "forger", Some("target")).await;
        assert!(hears(&target, &forger, None, "own"));
        let (forged, callee) = (web.endpoint().ip, db.endpoint());
        forger.run(|| {
            ip(&format!("addr add {forged}/32 dev eth0"));
            ip(&format!("neigh replace {} lladdr {} dev eth0 nud permanent", callee.ip, callee.mac));
        });
        assert!(!hears(&db, &forger, Some(forged), "bridged"));
        forger.run(|| ip(&format!("route add {}/32 via {}", callee.ip, networks.bridge_gateway())));
        assert!(!hears(&db, &forger, Some(forged), "routed"));
        assert!(hears(&db, &web, None, "honest"));
        // Where nobody is kept apart it would have been heard.
        let live = [&db, &web, &target, &forger].map(|container| container.endpoint().clone());
        drop(networks);
        let _together = Networks::open(config(dir.path()), &live).await.unwrap();
        assert!(hears(&db, &forger, Some(forged), "routed or bridged"));
    });
}

#[test]
fn links_follow_restarts_of_containers_of_the_daemon_and_of_the_firewall() {
    in_own_netns("linked::links_follow_restarts_of_containers_of_the_daemon_and_of_the_firewall", || async {
        let dir = tempdir().unwrap();
        let networks = apart(dir.path(), &[]).await;
        let db = connected(&networks, "db", None).await;
        let web = connected(&networks, "web", Some("db")).await;
        assert!(hears(&db, &web, None, "first"));
        // The target starts anew, and gets another address.
        networks.disconnect(db.endpoint()).await.unwrap();
        assert!(!nft("list table bridge hostd").contains("veth"));
        let db = connected(&networks, "db", None).await;
        assert!(hears(&db, &web, None, "second"));
        // Somebody flushes the rules; the next change brings them back.
        nft("flush ruleset");
        let late = connected(&networks, "late", Some("db")).await;
        assert!(hears(&db, &late, None, "third") && hears(&db, &web, None, "fourth"));
        // The daemon starts anew, and only those of the two that linked are left.
        drop(networks);
        let networks = apart(dir.path(), &[db.endpoint().clone(), web.endpoint().clone()]).await;
        assert!(hears(&db, &web, None, "fifth"));
        assert!(!nft("list table bridge hostd").contains(&late.endpoint().host_interface));
        networks.unlink(web.endpoint(), "db").await.unwrap();
        assert!(!hears(&db, &web, None, "not sixth"));
        assert!(!nft("list table bridge hostd").contains("veth"));
        for container in [&db, &web] {
            let port = ip(&format!("-d link show {}", container.endpoint().host_interface));
            assert!(port.contains("isolated on"), "{port}");
        }
        // Nor is anything of it left where containers reach each other.
        drop(networks);
        let live = [db.endpoint().clone(), web.endpoint().clone()];
        let _together = Networks::open(config(dir.path()), &live).await.unwrap();
        assert!(!nft("list tables").contains("bridge hostd"));
        assert!(hears(&db, &web, None, "seventh"));
    });
}
