//! Containers (network namespaces) on a host (another one), with real packets.
#![allow(clippy::unwrap_used)] // helpers fail a test as the tests themselves do

mod harness;
#[path = "network/linked.rs"]
mod linked;

use harness::{
    Container, call_tcp, call_udp, config, in_netns, in_own_netns, ip, is_silent, links, nft, remote,
    settled, tcp, udp,
};
use hostd_network::{EndpointRequest, NetworkConfig, NetworkError, Networks, PortRequest, Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use tempfile::tempdir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn containers_reach_each_other_the_host_and_the_world() {
    in_own_netns("containers_reach_each_other_the_host_and_the_world", || async {
        let dir = tempdir().unwrap();
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        assert_eq!(networks.bridge_gateway(), Ipv4Addr::new(172, 17, 0, 1));
        let a = Container::connected(&networks, vec![]).await;
        let b = Container::connected(&networks, vec![]).await;
        assert_eq!(a.endpoint().ip, Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(a.endpoint().mac, "02:42:ac:11:00:02");
        assert_eq!((b.endpoint().ip, b.endpoint().prefix_len), (Ipv4Addr::new(172, 17, 0, 3), 16));
        b.serve_tcp(80);
        assert_eq!(a.run(|| call_tcp(b.addr(80))).unwrap(), "172.17.0.2");
        assert_eq!(call_tcp(b.addr(80)).unwrap(), "172.17.0.1");

        let world = Container { netns: remote(), endpoint: None };
        world.serve_tcp(80);
        let seen = a.run(|| call_tcp("10.99.0.2:80".parse().unwrap()));
        assert_eq!(seen.unwrap(), "10.99.0.1", "the world sees the host's address");
        // The world has a route to the containers; what nobody published stays closed all the same.
        assert!(in_netns(&world.netns, || is_silent(b.addr(80))));
    });
}

#[test]
fn published_ports_answer_from_everywhere() {
    in_own_netns("published_ports_answer_from_everywhere", check_published_ports);
}

#[test]
fn published_ports_answer_from_everywhere_without_br_netfilter() {
    in_own_netns("published_ports_answer_from_everywhere_without_br_netfilter", || async {
        // Where it is not loaded at all, there is no such file.
        let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
        check_published_ports().await;
    });
}

async fn check_published_ports() {
    let dir = tempdir().unwrap();
    let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
    let web = Container::connected(&networks, vec![tcp(8080, 80), udp(5353, 53)]).await;
    web.serve_tcp(80);
    web.serve_udp(53);
    let other = Container::connected(&networks, vec![]).await;
    let world = remote();
    let gateway = IpAddr::from(networks.bridge_gateway());
    let lan: IpAddr = "10.99.0.1".parse().unwrap();

    for address in [LOCALHOST, gateway, lan, Ipv6Addr::LOCALHOST.into()] {
        assert!(call_tcp((address, 8080).into()).is_some(), "tcp from the host at {address}");
        assert_eq!(
            call_udp((address, 5353).into()).as_deref(),
            Some(">hello"),
            "udp from the host at {address}"
        );
    }
    let seen = in_netns(&world, || (call_tcp((lan, 8080).into()), call_udp((lan, 5353).into())));
    assert_eq!(seen.0.as_deref(), Some("10.99.0.2"), "the container sees who calls");
    assert_eq!(seen.1.as_deref(), Some(">hello"));
    for (who, container) in [("another container", &other), ("the container itself", &web)] {
        for address in [gateway, lan] {
            let seen = container.run(|| (call_tcp((address, 8080).into()), call_udp((address, 5353).into())));
            assert!(seen.0.is_some(), "tcp from {who} at {address}");
            assert_eq!(seen.1.as_deref(), Some(">hello"), "udp from {who} at {address}");
        }
    }
    let ports = &web.endpoint().ports;
    assert_eq!(ports.len(), 4, "one for v4 and one for v6 of each: {ports:?}");
}

#[test]
fn a_port_published_on_one_address_is_closed_on_the_others() {
    in_own_netns("a_port_published_on_one_address_is_closed_on_the_others", || async {
        let dir = tempdir().unwrap();
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        let local = PortRequest { host_ip: Some(LOCALHOST), ..tcp(8080, 80) };
        let web = Container::connected(&networks, vec![local]).await;
        web.serve_tcp(80);
        let gateway = IpAddr::from(networks.bridge_gateway());
        assert!(call_tcp((LOCALHOST, 8080).into()).is_some());
        assert!(call_tcp((gateway, 8080).into()).is_none());
        // The same port on another address is another port.
        let elsewhere = PortRequest { host_ip: Some(gateway), ..tcp(8080, 80) };
        let second = Container::connected(&networks, vec![elsewhere]).await;
        second.serve_tcp(80);
        assert!(call_tcp((gateway, 8080).into()).is_some());
    });
}

#[test]
fn a_taken_port_is_refused_in_dockers_words_and_nothing_is_left_behind() {
    in_own_netns("a_taken_port_is_refused_in_dockers_words_and_nothing_is_left_behind", || async {
        let dir = tempdir().unwrap();
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        let _first = Container::connected(&networks, vec![tcp(8080, 80)]).await;
        let before = (links(), nft("list ruleset"));
        let second = Container::new();

        let error = second.try_connect(&networks, vec![tcp(8080, 81)]).await.unwrap_err();
        assert_eq!(error.to_string(), "Bind for 0.0.0.0:8080 failed: port is already allocated");
        let error = second.try_connect(&networks, vec![tcp(9000, 80), tcp(9000, 81)]).await.unwrap_err();
        assert!(matches!(error, NetworkError::PortTaken { host_port: 9000, .. }), "{error}");
        let local = PortRequest { host_ip: Some(LOCALHOST), ..tcp(8080, 80) };
        let error = second.try_connect(&networks, vec![local]).await.unwrap_err();
        assert_eq!(error.to_string(), "Bind for 127.0.0.1:8080 failed: port is already allocated");

        let _other = TcpListener::bind("0.0.0.0:9001").unwrap();
        let error = second.try_connect(&networks, vec![tcp(9001, 80)]).await.unwrap_err();
        assert_eq!(error.to_string(), "failed to bind host port for 0.0.0.0:9001/tcp");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.starts_with("Address already in use"), "{source}");

        assert_eq!((links(), nft("list ruleset")), before);
        // UDP is another matter, and what failed is free again.
        let fine = second.try_connect(&networks, vec![udp(8080, 80), tcp(9000, 80)]).await.unwrap();
        assert_eq!(fine.ports.len(), 4);
    });
}

#[test]
fn ports_nobody_chose_are_free_ones_of_the_range() {
    in_own_netns("ports_nobody_chose_are_free_ones_of_the_range", || async {
        let dir = tempdir().unwrap();
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        let any =
            || PortRequest { host_ports: None, host_ip: Some(Ipv4Addr::UNSPECIFIED.into()), ..tcp(0, 80) };
        let _taken = TcpListener::bind("0.0.0.0:49154").unwrap();
        let a = Container::connected(&networks, vec![any(), any()]).await;
        let ports: Vec<_> = a.endpoint().ports.iter().map(|port| port.host_port).collect();
        assert_eq!(ports, [49153, 49155]);

        let range = || PortRequest { host_ports: Some(7000..=7001), ..any() };
        let b = Container::connected(&networks, vec![range()]).await;
        let c = Container::connected(&networks, vec![range()]).await;
        assert_eq!((b.endpoint().ports[0].host_port, c.endpoint().ports[0].host_port), (7000, 7001));
        let error = Container::new().try_connect(&networks, vec![range()]).await.unwrap_err();
        assert!(matches!(error, NetworkError::PortsTaken { first: 7000, last: 7001, .. }), "{error}");
    });
}

#[test]
fn disconnecting_leaves_nothing_and_frees_address_and_port() {
    in_own_netns("disconnecting_leaves_nothing_and_frees_address_and_port", || async {
        let dir = tempdir().unwrap();
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        let before = (links(), nft("list ruleset"));
        for round in 0..3 {
            let web = Container::connected(&networks, vec![tcp(8080, 80), udp(8080, 80)]).await;
            web.serve_tcp(80);
            assert!(call_tcp((LOCALHOST, 8080).into()).is_some(), "round {round}");
            assert!(call_tcp((Ipv6Addr::LOCALHOST, 8080).into()).is_some(), "round {round}");
            networks.disconnect(web.endpoint()).await.unwrap();
            networks.disconnect(web.endpoint()).await.unwrap();
            assert_eq!(nft("list ruleset"), before.1);
            settled(&before.0).await;
            assert!(TcpListener::bind("0.0.0.0:8080").is_ok(), "round {round}");
        }
        // A container that ended took its link with it.
        let mut gone = Container::connected(&networks, vec![]).await;
        let endpoint = gone.endpoint.take().unwrap();
        drop(gone);
        networks.disconnect(&endpoint).await.unwrap();
    });
}

#[test]
fn a_restart_keeps_what_lives_and_clears_the_rest() {
    in_own_netns("a_restart_keeps_what_lives_and_clears_the_rest", || async {
        let dir = tempdir().unwrap();
        let mut lives = Container::new();
        let dead = Container::new();
        {
            // A daemon of its own, with a runtime of its own, that ends without a word.
            let dir = dir.path().to_owned();
            let (lives, dead) = (&mut lives, &dead);
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let networks = Networks::open(config(&dir), &[]).await.unwrap();
                        lives.endpoint =
                            Some(lives.try_connect(&networks, vec![tcp(8080, 80)]).await.unwrap());
                        dead.try_connect(&networks, vec![tcp(8081, 80)]).await.unwrap();
                    });
                });
            });
        }
        lives.serve_tcp(80);
        assert!(call_tcp((LOCALHOST, 8080).into()).is_some(), "ports work while the daemon is away");
        ip("link add bridge7 type bridge");
        ip("link add foreign type veth peer name foreign2");
        ip("link set foreign master hostd0");
        nft("add table ip other");

        let live = [lives.endpoint().clone()];
        let networks = Networks::open(config(dir.path()), &live).await.unwrap();
        for address in [LOCALHOST, Ipv6Addr::LOCALHOST.into()] {
            assert!(call_tcp((address, 8080).into()).is_some(), "{address}");
        }
        let now = links();
        let veths: Vec<_> = now.iter().filter(|name| name.starts_with("veth")).collect();
        assert_eq!(veths, [&live[0].host_interface]);
        for foreign in ["bridge7", "foreign", "foreign2"] {
            assert!(now.contains(&foreign.to_owned()), "{foreign}");
        }
        assert!(nft("list tables").contains("table ip other"));
        assert!(!nft("list table ip hostd").contains("8081"));
        // Its port is taken, the other is free; its address is taken.
        let error = dead.try_connect(&networks, vec![tcp(8080, 80)]).await.unwrap_err();
        assert!(matches!(error, NetworkError::PortTaken { host_port: 8080, .. }), "{error}");
        let again = Container::connected(&networks, vec![tcp(8081, 80)]).await;
        assert_ne!(again.endpoint().ip, live[0].ip);
        assert_eq!(again.endpoint().network_id, live[0].network_id);
        networks.disconnect(&live[0]).await.unwrap();
        assert!(!nft("list table ip hostd").contains("8080"));
    });
}

#[test]
fn without_icc_containers_reach_only_what_is_published() {
    in_own_netns("without_icc_containers_reach_only_what_is_published", || async {
        let dir = tempdir().unwrap();
        let config = NetworkConfig { icc: false, ..config(dir.path()) };
        let networks = Networks::open(config, &[]).await.unwrap();
        let a = Container::connected(&networks, vec![]).await;
        let b = Container::connected(&networks, vec![tcp(8080, 80)]).await;
        b.serve_tcp(80);
        assert!(call_tcp(b.addr(80)).is_some());
        let reached = a
            .run(|| std::net::TcpStream::connect_timeout(&b.addr(80), std::time::Duration::from_millis(300)));
        assert!(reached.is_err());
        let published = SocketAddr::from((networks.bridge_gateway(), 8080));
        assert!(a.run(|| call_tcp(published)).is_some());
        let _world = remote();
        assert!(a.run(|| call_tcp("10.99.0.1:8080".parse().unwrap())).is_some());
    });
}

#[test]
fn fixed_addresses_are_given_and_bad_ones_refused() {
    in_own_netns("fixed_addresses_are_given_and_bad_ones_refused", || async {
        let dir = tempdir().unwrap();
        let bip = Some((Ipv4Addr::new(10, 20, 0, 1), 24));
        let networks = Networks::open(NetworkConfig { bip, ..config(dir.path()) }, &[]).await.unwrap();
        let container = Container::new();
        let fixed = |ip: [u8; 4]| EndpointRequest { ip: Some(ip.into()), ..container.request(vec![]) };
        let mac = EndpointRequest { mac: Some("02:00:00:00:00:07".into()), ..fixed([10, 20, 0, 7]) };
        let endpoint = networks.connect(mac).await.unwrap();
        assert_eq!((endpoint.ip.octets(), endpoint.mac.as_str()), ([10, 20, 0, 7], "02:00:00:00:00:07"));
        let shown = container.run(|| ip("addr show eth0"));
        assert!(
            shown.contains("10.20.0.7/24") && shown.contains("02:00:00:00:00:07") && !shown.contains("inet6"),
            "{shown}"
        );

        let error = networks.connect(fixed([10, 20, 0, 7])).await.unwrap_err();
        assert!(matches!(error, NetworkError::AddressTaken(_)), "{error}");
        let error = networks.connect(fixed([10, 21, 0, 7])).await.unwrap_err();
        assert!(matches!(error, NetworkError::AddressOutside { .. }), "{error}");
        let bad = EndpointRequest { mac: Some("nonsense".into()), ..container.request(vec![]) };
        assert!(matches!(networks.connect(bad).await, Err(NetworkError::InvalidMac(_))));
        let nowhere = EndpointRequest { network: "backend".into(), ..container.request(vec![]) };
        assert_eq!(networks.connect(nowhere).await.unwrap_err().to_string(), "network backend not found");
        // The container has an `eth0` already: the kernel says no, and the new link is gone again.
        let before = links();
        let error = networks.connect(container.request(vec![tcp(8080, 80)])).await.unwrap_err();
        assert!(matches!(error, NetworkError::Link { .. }), "{error}");
        assert_eq!(links(), before);
        assert!(!nft("list table ip hostd").contains("8080"));
    });
}

#[test]
fn the_bridge_avoids_the_hosts_networks_and_is_the_same_after_a_restart() {
    in_own_netns("the_bridge_avoids_the_hosts_networks_and_is_the_same_after_a_restart", || async {
        let dir = tempdir().unwrap();
        ip("link add lan type bridge");
        ip("addr add 172.17.3.4/24 dev lan");
        ip("link set lan up");
        ip("route add 172.18.0.0/15 dev lan");
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        assert_eq!(networks.bridge_gateway(), Ipv4Addr::new(172, 20, 0, 1));
        drop(networks);
        // As after a reboot.
        ip("link del hostd0");
        ip("link del lan");
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        assert_eq!(networks.bridge_gateway(), Ipv4Addr::new(172, 20, 0, 1));
        // A bridge that is there is taken as it is.
        ip("link add br7 type bridge");
        ip("addr add 10.7.0.1/16 dev br7");
        let adopted =
            Networks::open(NetworkConfig { bridge: "br7".into(), ..config(dir.path()) }, &[]).await.unwrap();
        assert_eq!(adopted.bridge_gateway(), Ipv4Addr::new(10, 7, 0, 1));
        let error = Networks::open(NetworkConfig { bridge: "lo".into(), ..config(dir.path()) }, &[])
            .await
            .err()
            .unwrap();
        assert!(matches!(error, NetworkError::NotABridge(_)), "{error}");
    });
}

#[test]
fn flushed_rules_come_back_with_the_next_change() {
    in_own_netns("flushed_rules_come_back_with_the_next_change", || async {
        let dir = tempdir().unwrap();
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        let a = Container::connected(&networks, vec![tcp(8080, 80)]).await;
        a.serve_tcp(80);
        nft("flush ruleset");
        let b = Container::connected(&networks, vec![tcp(8081, 80)]).await;
        b.serve_tcp(80);
        let gateway = networks.bridge_gateway();
        let seen = |port| call_tcp((gateway, port).into());
        assert_eq!((seen(8080).is_some(), seen(8081).is_some()), (true, true));
        nft("flush ruleset");
        networks.disconnect(b.endpoint()).await.unwrap();
        assert!(nft("list table ip hostd").contains("8080"));
        assert!(!nft("list table ip hostd").contains("8081"));
    });
}

#[test]
fn a_connection_nobody_waits_for_is_undone() {
    in_own_netns("a_connection_nobody_waits_for_is_undone", || async {
        let dir = tempdir().unwrap();
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        let before = links();
        for _ in 0..5 {
            let container = Container::new();
            let connecting = container.try_connect(&networks, vec![tcp(8080, 80)]);
            let _ = tokio::time::timeout(std::time::Duration::from_micros(300), connecting).await;
        }
        // Whatever is under way is done when the port can be had again.
        let container = Container::new();
        let mut last = container.try_connect(&networks, vec![tcp(8080, 80)]).await;
        while last.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            last = container.try_connect(&networks, vec![tcp(8080, 80)]).await;
        }
        networks.disconnect(&last.unwrap()).await.unwrap();
        settled(&before).await;
    });
}

#[test]
fn without_nft_the_engine_starts_and_connecting_says_what_to_install() {
    in_own_netns("without_nft_the_engine_starts_and_connecting_says_what_to_install", || async {
        let dir = tempdir().unwrap();
        // The only test in this process, which has no other threads that read the environment now.
        let hide = tempdir().unwrap();
        std::fs::write(hide.path().join("nft"), "").unwrap();
        let nft = std::process::Command::new("sh").args(["-c", "command -v nft"]).output().unwrap();
        let nft = String::from_utf8(nft.stdout).unwrap().trim().to_owned();
        let real = std::fs::canonicalize(&nft).unwrap();
        let empty = hide.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        let sbin = real.parent().unwrap();
        assert!(
            std::process::Command::new("mount")
                .arg("--bind")
                .arg(&empty)
                .arg(sbin)
                .status()
                .unwrap()
                .success()
        );
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        let container = Container::new();
        let error = container.try_connect(&networks, vec![]).await.unwrap_err();
        assert!(matches!(error, NetworkError::NftMissing), "{error}");
        assert!(error.to_string().contains("install nftables"));
        assert!(std::process::Command::new("umount").arg(sbin).status().unwrap().success());
        container.try_connect(&networks, vec![]).await.unwrap();
    });
}

#[test]
fn sctp_is_published_or_refused_by_name() {
    in_own_netns("sctp_is_published_or_refused_by_name", || async {
        let dir = tempdir().unwrap();
        let networks = Networks::open(config(dir.path()), &[]).await.unwrap();
        let sctp = PortRequest { protocol: Protocol::Sctp, ..tcp(8080, 80) };
        match Container::new().try_connect(&networks, vec![sctp]).await {
            Ok(endpoint) => assert_eq!(endpoint.ports.len(), 1),
            Err(e) => {
                assert!(matches!(e, NetworkError::ProtocolMissing { protocol: Protocol::Sctp, .. }), "{e}")
            }
        }
    });
}
