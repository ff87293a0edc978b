//! Networking: addresses, ports, the ways to have none.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host, run};

const PAGE: &str = "mkdir -p /www && echo page of $NAME > /www/index.html && exec httpd -f -p 80 -h /www";

fn web(host: &TestHost, name: &str, publish: &str) {
    let env = format!("NAME={name}");
    host.docker(["run", "-d", "--name", name, "-e", &env, "-p", publish, "busybox", "sh", "-c", PAGE])
        .success();
}

fn fetch(host: &TestHost, url: &str) -> String {
    eventually(&format!("a page at {url}"), || {
        let outcome = run(host.inside("curl").args(["-fsS", "--max-time", "2", url]));
        (outcome.code() == 0).then(|| outcome.stdout())
    })
}

#[test]
fn a_published_port_answers_on_every_address_of_the_host() {
    let host = host!();
    web(&host, "web", "8080:80");
    let gateway = host.field("web", "{{.NetworkSettings.Networks.bridge.Gateway}}");
    let address = host.field("web", "{{.NetworkSettings.Networks.bridge.IPAddress}}");
    for url in [
        "http://127.0.0.1:8080/".to_owned(),
        "http://[::1]:8080/".to_owned(),
        format!("http://{gateway}:8080/"),
        format!("http://{address}/"),
    ] {
        assert_eq!(fetch(&host, &url), "page of web\n", "{url}");
    }
    host.docker(["ps"]).says("0.0.0.0:8080->80/tcp");
    host.docker(["port", "web"]).says("80/tcp -> 0.0.0.0:8080");
    // Its own published port, from inside: out to the bridge and back.
    host.docker(["exec", "web", "wget", "-qO-", &format!("http://{gateway}:8080/")]).says("page of web");
    host.docker(["run", "-d", "-p", "8080:80", "busybox", "sleep", "100"])
        .exits(125)
        .says("port is already allocated");
    host.docker(["rm", "-f", "web"]).success();
    run(host.inside("curl").args(["-fsS", "--max-time", "2", "http://127.0.0.1:8080/"])).failure();
    web(&host, "again", "8080:80");
    assert_eq!(fetch(&host, "http://127.0.0.1:8080/"), "page of again\n");
}

#[test]
fn a_port_can_be_published_on_one_address_or_a_free_one() {
    let host = host!();
    web(&host, "local", "127.0.0.1:9000:80");
    assert_eq!(fetch(&host, "http://127.0.0.1:9000/"), "page of local\n");
    let gateway = host.field("local", "{{.NetworkSettings.Networks.bridge.Gateway}}");
    run(host.inside("curl").args(["-fsS", "--max-time", "1", &format!("http://{gateway}:9000/")])).failure();
    web(&host, "free", "80");
    let port = host.docker(["port", "free", "80/tcp"]).text();
    let port = port.lines().next().unwrap().rsplit(':').next().unwrap().to_owned();
    assert_eq!(fetch(&host, &format!("http://127.0.0.1:{port}/")), "page of free\n");
}

#[test]
fn udp_is_published_too() {
    let host = host!();
    host.docker(["run", "-d", "--name", "echo", "-p", "5353:53/udp", "busybox", "sleep", "1000"]).success();
    // The busybox of the image has no UDP server: one runs in the container's network from outside.
    let pid = host.field("echo", "{{.State.Pid}}");
    let server = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',53))\n\
                  while True:\n d,a=s.recvfrom(99); s.sendto(b'pong '+d,a)";
    let mut command = std::process::Command::new("nsenter");
    let mut server = command.args(["--net", "--target", &pid, "python3", "-c", server]).spawn().unwrap();
    let client = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(1)\n\
                  s.sendto(b'ping',('127.0.0.1',5353)); print(s.recv(10))";
    eventually("a datagram back", || {
        run(host.inside("python3").args(["-c", client])).stdout().contains("pong ping").then_some(())
    });
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn containers_reach_each_other_and_what_is_beyond_the_host() {
    let host = host!();
    web(&host, "web", "80");
    let address = host.field("web", "{{.NetworkSettings.IPAddress}}");
    eventually("the other container", || {
        let outcome = host.docker(["run", "--rm", "busybox", "wget", "-qO-", &format!("http://{address}/")]);
        outcome.stdout().contains("page of web").then_some(())
    });
    // A network beyond: a second namespace that has no route back, so that only NAT brings answers.
    let far = run(host.inside("sh").args(["-c", "unshare -n sleep 60 >/dev/null 2>&1 & echo $!"])).text();
    for step in [
        format!("ip link add out type veth peer name far netns {far}"),
        "ip addr add 198.51.100.1/24 dev out".to_owned(),
        "ip link set out up".to_owned(),
        format!("nsenter -n -t {far} ip addr add 198.51.100.2/24 dev far"),
        format!("nsenter -n -t {far} ip link set far up"),
    ] {
        eventually(&step, || (run(host.inside("sh").args(["-c", &step])).code() == 0).then_some(()));
    }
    host.docker(["run", "--rm", "busybox", "ping", "-c", "1", "-W", "2", "198.51.100.2"]).success();
    drop(run(std::process::Command::new("kill").arg(&far)));
}

#[test]
fn host_none_and_shared_networks_are_what_they_say() {
    let host = host!();
    let none = host.docker(["run", "--rm", "--network", "none", "busybox", "ip", "-o", "link"]).text();
    assert_eq!(none.lines().count(), 1, "only lo:\n{none}");
    let own = run(host.inside("readlink").arg("/proc/self/ns/net")).text();
    assert_eq!(
        host.docker(["run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net"]).text(),
        own
    );
    web(&host, "web", "80");
    eventually("the shared network", || {
        let outcome = host.docker([
            "run",
            "--rm",
            "--network",
            "container:web",
            "busybox",
            "wget",
            "-qO-",
            "http://127.0.0.1/",
        ]);
        outcome.stdout().contains("page of web").then_some(())
    });
}

#[test]
fn names_and_servers_are_configured_inside() {
    let host = host!();
    let out = host
        .docker([
            "run",
            "--rm",
            "--dns",
            "192.0.2.53",
            "--dns-search",
            "example.com",
            "--add-host",
            "db:192.0.2.7",
            "busybox",
            "cat",
            "/etc/resolv.conf",
            "/etc/hosts",
        ])
        .text();
    for expected in ["nameserver 192.0.2.53", "search example.com", "192.0.2.7\tdb", "127.0.0.1\tlocalhost"] {
        assert!(out.contains(expected), "{expected} is missing:\n{out}");
    }
}

#[test]
fn the_built_in_networks_are_listed_and_cannot_be_changed() {
    let host = host!();
    let names = host.docker(["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]).text();
    assert_eq!(names, "bridge bridge local\nhost host local\nnone null local");
    let id = host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).text();
    let address = host.field("box", "{{.NetworkSettings.IPAddress}}");
    let member =
        format!("{{{{(index .Containers \"{id}\").Name}}}} {{{{(index .Containers \"{id}\").IPv4Address}}}}");
    let shown = host.docker(["network", "inspect", "-f", &member, "bridge"]).text();
    assert_eq!(shown, format!("box {address}/16"));
    let network = host.docker(["network", "inspect", "-f", "{{.Id}}", "bridge"]).text();
    assert_eq!(host.field("box", "{{.NetworkSettings.Networks.bridge.NetworkID}}"), network);
    host.docker(["network", "inspect", &network[..12]]).success();
    host.docker(["network", "inspect", "backend"]).failure().says("network backend not found");
    host.docker(["network", "rm", "none"])
        .failure()
        .says("none is a pre-defined network and cannot be removed");
    host.docker(["network", "create", "backend"]).failure().says("not supported");
    host.docker(["network", "prune", "-f"]).success();
    host.docker(["rm", "-f", "box"]).success();
}

/// What `from` gets of port 80 of the container `to`, by its address.
fn page(host: &TestHost, from: &str, to: &str, port: u16) -> Option<String> {
    let url = format!("http://{}:{port}/", host.field(to, "{{.NetworkSettings.IPAddress}}"));
    let outcome = host.docker(["exec", from, "timeout", "2", "wget", "-qO-", &url]);
    (outcome.code() == 0).then(|| outcome.stdout())
}

#[test]
fn a_link_leads_to_a_container_that_is_kept_apart_from_all_others() {
    let mut host = host!("--icc=false");
    let serve = format!("(httpd -f -p 81 -h /) & {PAGE}");
    host.docker([
        "run", "-d", "--name", "db", "-e", "NAME=db", "--expose", "80", "busybox", "sh", "-c", &serve,
    ])
    .success();
    host.docker(["run", "-d", "--name", "web", "--link", "db:data", "busybox", "sleep", "1000"]).success();
    host.docker(["run", "-d", "--name", "other", "busybox", "sleep", "1000"]).success();
    let linked = |host: &TestHost| {
        eventually("the page of the linked container", || page(host, "web", "db", 80));
    };
    linked(&host);
    assert_eq!(host.docker(["exec", "web", "wget", "-qO-", "http://data/"]).text(), "page of db");
    assert_eq!(page(&host, "web", "db", 81), None, "a port that is not exposed");
    assert_eq!(page(&host, "other", "db", 80), None, "a container without a link");

    // Its address changes, its name, and the daemon and the firewall come and go.
    host.docker(["stop", "-t", "0", "db"]).success();
    host.docker(["run", "-d", "--name", "squatter", "busybox", "sleep", "1000"]).success();
    host.docker(["start", "db"]).success();
    linked(&host);
    host.docker(["rename", "db", "store"]).success();
    host.docker(["rename", "store", "db"]).success();
    host.kill();
    host.up();
    linked(&host);
    assert_eq!(page(&host, "other", "db", 80), None);
    run(host.inside("nft").args(["flush", "ruleset"])).success();
    host.docker(["run", "-d", "--name", "late", "--link", "db", "busybox", "sleep", "1000"]).success();
    linked(&host);
    assert_eq!(page(&host, "other", "db", 80), None);
    host.docker(["rm", "--link", "/web/data"]).success();
    assert_eq!(page(&host, "web", "db", 80), None, "a link that was taken away");
    host.kill();
    host.up();
    assert_eq!(page(&host, "web", "db", 80), None, "a link that was taken away");
    eventually("the page of the container that is linked still", || page(&host, "late", "db", 80));
}
