//! `GET /events`: what is told, in which order, and to whom.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host, run};
use serde_json::Value;
use std::io::Read;

/// What happened so far: type, action and attributes.
fn history(host: &TestHost, filters: &[&str]) -> Vec<String> {
    let mut command = host.docker_command();
    command.args(["events", "--since", "1h", "--until", "0s", "--format", "{{.Type}} {{.Action}}"]);
    for filter in filters {
        command.args(["--filter", filter]);
    }
    run(&mut command).text().lines().map(str::to_owned).collect()
}

#[test]
fn a_life_is_told_as_docker_tells_it() {
    let host = host!();
    host.docker(["volume", "create", "data"]).success();
    host.docker(["run", "--rm", "--name", "box", "-v", "data:/data", "busybox", "true"]).success();
    eventually("the end", || history(&host, &[]).contains(&"container destroy".to_owned()).then_some(()));
    let told = history(&host, &["type=container", "type=network", "type=volume"]);
    let expected = [
        "volume create",
        "container create",
        "container attach",
        "network connect",
        "volume mount",
        "container start",
        "container die",
        "network disconnect",
        "volume unmount",
        "container destroy",
    ];
    assert_eq!(told, expected);
    assert_eq!(history(&host, &["type=network", "event=connect"]), ["network connect"]);
    assert_eq!(history(&host, &["container=bo", "event=die"]), ["container die"]);
    assert_eq!(history(&host, &["volume=data", "event=mount"]), ["volume mount"]);
    assert!(history(&host, &["container=other"]).is_empty());
}

fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

#[test]
fn a_start_is_told_no_later_than_it_is_answered() {
    let host = host!();
    host.docker(["create", "--name", "box", "busybox", "true"]).success();
    for _ in 0..10 {
        let before = now();
        assert_eq!(host.api().call("POST", "/containers/box/start", None).unwrap().status, 204);
        let path = format!("/events?since={before:.6}&until={:.6}", now());
        let told = host.api().call("GET", &path, None).unwrap().body;
        assert!(told.contains(r#""Action":"start""#), "{told}");
        assert_eq!(host.api().call("POST", "/containers/box/wait", None).unwrap().status, 200);
    }
}

#[test]
fn a_kill_is_told_before_the_end_that_it_brings() {
    let host = host!();
    host.docker(["create", "--name", "box", "busybox", "sleep", "1000"]).success();
    for _ in 0..30 {
        assert_eq!(host.api().call("POST", "/containers/box/start", None).unwrap().status, 204);
        assert_eq!(host.api().call("POST", "/containers/box/kill", None).unwrap().status, 204);
    }
    eventually("the last end", || (history(&host, &["event=die"]).len() == 30).then_some(()));
    let told = history(&host, &["event=kill", "event=die"]);
    let expected = ["container kill", "container die"].repeat(30);
    assert_eq!(told, expected);
}

#[test]
fn events_have_dockers_attributes_and_the_shape_of_old() {
    let host = host!();
    let id =
        host.docker(["run", "-d", "--name", "box", "--label", "tier=web", "busybox", "sleep", "1000"]).text();
    host.docker(["exec", "box", "sh", "-c", "exit 3"]).exits(3);
    host.docker(["pause", "box"]).success();
    host.docker(["unpause", "box"]).success();
    host.docker(["rename", "box", "crate"]).success();
    host.docker(["top", "crate"]).success();
    host.docker(["kill", "-s", "HUP", "crate"]).success();
    host.docker(["restart", "-t", "0", "crate"]).success();
    host.docker(["stop", "-t", "0", "crate"]).success();
    host.docker(["rm", "crate"]).success();
    let path = format!("/events?since=1&until={:.3}", now());
    let body = host.api().call("GET", &path, None).unwrap().body;
    let events: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |action: &str| {
        let hit =
            events.iter().find(|event| event["Action"].as_str().is_some_and(|own| own.starts_with(action)));
        hit.unwrap_or_else(|| panic!("no {action} in {body}"))
    };
    for (action, attribute, value) in [
        ("create", "tier", "web"),
        ("create", "image", "busybox"),
        ("start", "name", "box"),
        ("exec_die", "exitCode", "3"),
        ("rename", "oldName", "/box"),
        ("kill", "signal", "1"),
        ("die", "exitCode", "137"),
    ] {
        assert_eq!(find(action)["Actor"]["Attributes"][attribute], value, "{action}");
    }
    for action in
        ["exec_create: sh -c", "exec_start: sh -c", "pause", "unpause", "top", "restart", "stop", "destroy"]
    {
        find(action);
    }
    assert!(find("die")["Actor"]["Attributes"]["execDuration"].is_string());
    let start = find("start");
    assert_eq!(
        (&start["status"], &start["id"], &start["from"]),
        (&"start".into(), &id.into(), &"busybox".into())
    );
    assert_eq!((&start["scope"], &start["Type"]), (&"local".into(), &"container".into()));
    let times: Vec<i64> = events.iter().map(|event| event["timeNano"].as_i64().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    assert_eq!(start["time"].as_i64().unwrap(), start["timeNano"].as_i64().unwrap() / 1_000_000_000);
    let bad = host.api().call("GET", "/events?since=2&until=1", None).unwrap();
    assert_eq!(bad.status, 400);
    assert_eq!(bad.message(), "`since` time (2) cannot be after `until` time (1)");
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_holds_nobody_up() {
    let host = host!();
    // Every event about it tells its labels: few of them fill a socket.
    let label = format!("long={}", "x".repeat(8 << 10));
    host.docker(["run", "-d", "-t", "--name", "box", "--label", &label, "busybox", "sleep", "1000"])
        .success();
    let mut idle = host.api().send("GET", "/events?filters={}", None).unwrap();
    // More than its socket and its backlog hold together.
    for _ in 0..1500 {
        let resized = host.api().call("POST", "/containers/box/resize?h=24&w=80", None).unwrap();
        assert_eq!(resized.status, 200);
    }
    let mut told = Vec::new();
    idle.read_to_end(&mut told).unwrap();
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("resize"), "it gets what it was sent before");
    assert!(!told.ends_with("0\r\n\r\n"), "the answer must not look whole");
    assert!(host.log().contains("an events client was cut off"), "{}", host.log());
}

#[test]
fn a_hangup_of_the_daemon_is_told_as_a_reload() {
    let host = host!();
    run(std::process::Command::new("kill").args(["-HUP", &host.pid().to_string()])).success();
    eventually("the event", || {
        history(&host, &["type=daemon"]).contains(&"daemon reload".to_owned()).then_some(())
    });
}

#[test]
fn images_and_prunes_are_told_as_docker_tells_them() {
    let host = host!();
    let load = host.api().call("GET", &format!("/events?since=1&until={:.3}", now()), None).unwrap().body;
    let load: Value = serde_json::from_str(load.lines().next().unwrap()).unwrap();
    assert_eq!((&load["Action"], &load["Actor"]["Attributes"]["name"]), (&"load".into(), &load["id"]));
    let before = now();
    host.docker(["tag", "busybox", "other:1"]).success();
    host.docker(["rmi", "other:1"]).success();
    let empty = host.path("empty.tar");
    std::fs::write(&empty, [0; 1024]).unwrap();
    host.docker(["import", &empty.to_string_lossy(), "made:1"]).success();
    host.docker(["network", "prune", "-f"]).success();
    host.docker(["image", "prune", "-f"]).success();
    let path = format!("/events?since={before:.6}&until={:.3}", now());
    let body = host.api().call("GET", &path, None).unwrap().body;
    let events: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |event: &Value| {
        let name = event["Actor"]["Attributes"]["name"].as_str().unwrap_or("").split(':').next().unwrap();
        format!("{} {} {name}", event["Type"].as_str().unwrap(), event["Action"].as_str().unwrap())
    };
    let told: Vec<String> = events.iter().map(told).collect();
    let wanted = [
        "image tag other",
        "image untag sha256",
        "image tag made",
        "image import sha256",
        "network prune ",
        "image prune ",
    ];
    assert_eq!(told, wanted);
    assert_eq!(events[4]["Actor"]["Attributes"]["reclaimed"], "0");
    assert!(events[5].get("id").is_none(), "{body}");
}
