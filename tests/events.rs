//! `GET /events`: what is told, in which order, and to whom.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host, run};

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
