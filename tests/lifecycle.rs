//! A container's life: restart policies, waits, statuses, volumes and links of others, and what the end of the daemon
//! and of the machine mean for it.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host, run};
use serde_json::json;
use std::io::Read;
use std::process::Command;

fn docker(host: &TestHost, args: &[&str]) -> e2e::Outcome {
    run(host.docker_command().args(args))
}

/// Status code and message of a call that has no body.
fn ask(host: &TestHost, method: &str, path: &str) -> (u16, String) {
    let answer = host.api().call(method, path, None).unwrap();
    (answer.status, answer.message())
}

fn is(host: &TestHost, name: &str, template: &str, wanted: &str) {
    eventually(&format!("{name} to be {wanted}"), || (host.field(name, template) == wanted).then_some(()));
}

#[test]
fn a_stop_during_the_pause_before_a_restart_is_final_and_a_start_begins_anew() {
    let host = host!();
    docker(&host, &["run", "-d", "--name", "box", "--restart", "always", "busybox", "false"]).success();
    eventually("some restarts", || {
        let count: u32 = host.field("box", "{{.RestartCount}}").parse().unwrap();
        (count >= 3).then_some(())
    });
    is(&host, "box", "{{.State.Status}}", "restarting");
    assert_eq!(ask(&host, "POST", "/containers/box/start").0, 304, "it is up, as clients see it");
    docker(&host, &["stop", "box"]).success();
    assert_eq!(host.field("box", "{{.State.Status}} {{.State.ExitCode}}"), "exited 1");
    let count = host.field("box", "{{.RestartCount}}");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(host.field("box", "{{.State.Status}} {{.RestartCount}}"), format!("exited {count}"));
    // Both begin to count anew, the second out of the pause.
    docker(&host, &["start", "box"]).success();
    eventually("a restart", || (host.field("box", "{{.RestartCount}}") != "0").then_some(()));
    docker(&host, &["restart", "box"]).success();
    docker(&host, &["rm", "-f", "box"]).success();
}

#[test]
fn a_restart_spares_what_is_to_be_removed_when_it_ends() {
    let host = host!();
    docker(&host, &["run", "-d", "--rm", "--name", "box", "-v", "/data", "busybox", "sleep", "1000"])
        .success();
    let first = host.field("box", "{{.State.Pid}}");
    docker(&host, &["restart", "-t", "0", "box"]).success();
    assert_ne!(host.field("box", "{{.State.Pid}}"), first);
    docker(&host, &["stop", "-t", "0", "box"]).success();
    eventually("the removal", || (docker(&host, &["inspect", "box"]).code() != 0).then_some(()));
    eventually("its volume to go", || docker(&host, &["volume", "ls", "-q"]).text().is_empty().then_some(()));
}

#[test]
fn volumes_come_from_other_containers_that_run_or_not() {
    let host = host!();
    let dir = host.path("shared");
    std::fs::create_dir(&dir).unwrap();
    let bind = format!("{}:/bound", dir.display());
    docker(
        &host,
        &["create", "--name", "store", "-v", "/anonymous", "-v", "named:/named", "-v", &bind, "busybox"],
    )
    .success();
    let script = "echo a > /anonymous/f; echo n > /named/f; echo b > /bound/f";
    docker(&host, &["run", "--rm", "--volumes-from", "store", "busybox", "sh", "-c", script]).success();
    let read = ["run", "--rm", "--volumes-from", "store:ro", "busybox", "cat"];
    let read = docker(&host, &[&read[..], &["/anonymous/f", "/named/f", "/bound/f"]].concat());
    assert_eq!(read.text(), "a\nn\nb", "the volumes of store outlived a container that borrowed them");
    docker(&host, &["run", "--rm", "--volumes-from", "store:ro", "busybox", "touch", "/named/g"])
        .failure()
        .says("Read-only file system");
    let own = ["run", "--rm", "--volumes-from", "store", "-v", "other:/named", "busybox", "ls", "/named"];
    assert_eq!(docker(&host, &own).text(), "", "what is asked for by itself comes first");
    docker(&host, &["create", "--name", "user", "--volumes-from", "store:ro", "busybox"]).success();
    assert_eq!(host.field("user", "{{.HostConfig.VolumesFrom}} {{len .Mounts}}"), "[store:ro] 3");
    docker(&host, &["create", "--volumes-from", "nobody", "busybox"])
        .failure()
        .says("No such container: nobody");
    docker(&host, &["create", "--volumes-from", "store:purple", "busybox"])
        .failure()
        .says("invalid mode: purple");
    docker(&host, &["rm", "-v", "store"]).success();
    let left = docker(&host, &["volume", "ls", "-q"]).text();
    assert_eq!(left.lines().count(), 3, "another container has it still: {left}");
}

#[test]
fn a_link_gives_a_name_and_an_environment_and_follows_its_target() {
    let host = host!();
    let target =
        ["run", "-d", "--name", "db", "--expose", "5432", "-e", "USER=me", "busybox", "sleep", "1000"];
    docker(&host, &target).success();
    docker(&host, &["run", "-d", "--name", "web", "--link", "db:data-base", "busybox", "sleep", "1000"])
        .success();
    let ip = host.field("db", "{{.NetworkSettings.IPAddress}}");
    let env = docker(&host, &["exec", "web", "env"]).text();
    for line in [
        format!("DATA_BASE_PORT=tcp://{ip}:5432"),
        format!("DATA_BASE_PORT_5432_TCP_ADDR={ip}"),
        "DATA_BASE_NAME=/web/data-base".to_owned(),
        "DATA_BASE_ENV_USER=me".to_owned(),
    ] {
        assert!(env.lines().any(|own| own == line), "{line} is not in\n{env}");
    }
    docker(&host, &["exec", "web", "grep", "-w", "data-base", "/etc/hosts"]).success().says(&ip).says("db");
    docker(&host, &["exec", "web", "ping", "-c1", "-W5", "data-base"]).success();
    assert_eq!(host.field("web", "{{.HostConfig.Links}}"), "[/db:/web/data-base]");
    docker(&host, &["ps", "--no-trunc", "--format", "{{.Names}}"]).says("db,web/data-base");
    assert_eq!(host.field("web/data-base", "{{.Name}}"), "/db");
    // Another container takes its address while it is away.
    docker(&host, &["stop", "-t", "0", "db"]).success();
    docker(&host, &["run", "-d", "--name", "squatter", "busybox", "sleep", "1000"]).success();
    docker(&host, &["start", "db"]).success();
    let now = host.field("db", "{{.NetworkSettings.IPAddress}}");
    docker(&host, &["exec", "web", "grep", "-w", "data-base", "/etc/hosts"]).success().says(&now);
    docker(&host, &["rename", "web", "www"]).success();
    assert_eq!(host.field("www", "{{.HostConfig.Links}}"), "[/db:/www/data-base]");
    docker(&host, &["rm", "--link", "/www/none"]).failure().says("No such container: www/none");
    docker(&host, &["rm", "--link", "/www/data-base"]).success();
    docker(&host, &["exec", "www", "grep", "-w", "data-base", "/etc/hosts"]).failure();
    assert_eq!(host.field("www", "{{.HostConfig.Links}} {{.State.Running}}"), "[] true");
    docker(&host, &["create", "--link", "nobody", "busybox"])
        .failure()
        .says("could not get container for nobody");
    docker(&host, &["create", "--link", "db", "--network", "host", "busybox"])
        .failure()
        .says("host type networking can't be used with links");
    docker(&host, &["stop", "-t", "0", "db"]).success();
    docker(&host, &["run", "--rm", "--name", "late", "--link", "db", "busybox", "true"])
        .exits(125)
        .says("Cannot link to a non running container: /db AS /late/db");
}

#[test]
fn waits_end_when_their_condition_is_met() {
    let host = host!();
    docker(&host, &["create", "--name", "box", "busybox", "sh", "-c", "sleep 0.5; exit 9"]).success();
    assert_eq!(docker(&host, &["wait", "box"]).text(), "0", "it does not run");
    // The head is there once the wait stands.
    let wait = |condition: &str| {
        let path = format!("/containers/box/wait?condition={condition}");
        let mut stream = host.api().send("POST", &path, None).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream
    };
    let code = |mut stream: std::os::unix::net::UnixStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let (next, removed) = (wait("next-exit"), wait("removed"));
    docker(&host, &["start", "box"]).success();
    assert!(code(next).contains(r#""StatusCode":9"#));
    docker(&host, &["rm", "box"]).success();
    assert!(code(removed).contains(r#""StatusCode":9"#));
    assert_eq!(ask(&host, "POST", "/containers/box/wait"), (404, "No such container: box".to_owned()));
    docker(&host, &["create", "--name", "box", "busybox"]).success();
    let (status, message) = ask(&host, "POST", "/containers/box/wait?condition=bored");
    assert_eq!((status, message.as_str()), (400, "invalid condition: \"bored\""));
}

#[test]
fn every_state_answers_with_dockers_statuses() {
    let host = host!();
    let id = docker(&host, &["create", "--name", "box", "busybox", "sleep", "1000"]).text();
    docker(&host, &["create", "--name", "other", "busybox"]).success();
    let post = |what: &str| ask(&host, "POST", &format!("/containers/box/{what}"));
    let not_running = format!("Container {id} is not running");
    assert_eq!(post("stop").0, 304);
    assert_eq!(post("kill"), (409, format!("cannot kill container: box: container {id} is not running")));
    assert_eq!(post("pause"), (409, not_running));
    assert_eq!(post("unpause"), (409, format!("Container {id} is not paused")));
    assert_eq!(post("start").0, 204);
    assert_eq!(post("start").0, 304);
    assert_eq!(post("kill?signal=NOPE"), (400, "Invalid signal: NOPE".to_owned()));
    assert_eq!(post("stop?t=soon").0, 400);
    assert_eq!(post("pause").0, 204);
    assert_eq!(post("pause"), (409, format!("Container {id} is already paused")));
    assert_eq!(post("start"), (409, "cannot start a paused container, try unpause instead".to_owned()));
    let (status, message) = ask(&host, "DELETE", "/containers/box");
    assert_eq!(status, 409);
    assert!(message.starts_with("cannot remove container \"/box\": container is paused"), "{message}");
    assert_eq!(post("stop?t=0").0, 204, "a frozen one can be stopped");
    assert_eq!(post("stop").0, 304);
    let (status, message) = post("rename?name=other");
    assert_eq!(status, 409);
    assert!(
        message.starts_with(
            "Error when allocating new name: Conflict. The container name \"/other\" is already in use by container"
        ),
        "{message}"
    );
    assert_eq!(post("rename?name=box").0, 400);
    assert_eq!(post("rename?name=-x").0, 400);
    assert_eq!(ask(&host, "DELETE", "/containers/box?link=1").0, 400);
    assert_eq!(ask(&host, "DELETE", "/containers/box").0, 204);
    assert_eq!(post("start"), (404, "No such container: box".to_owned()));
}

#[test]
fn a_stop_sends_the_signal_and_waits_as_long_as_told() {
    let host = host!();
    let script = "trap 'exit 4' USR1; trap 'sleep 1; exit 5' HUP; trap '' TERM; echo ready; while true; do sleep 0.05; done";
    let start = |name: &str, more: &[&str]| {
        let head = ["run", "-d", "--name", name];
        docker(&host, &[&head[..], more, &["busybox", "sh", "-c", script]].concat()).success();
        eventually("the traps", || docker(&host, &["logs", name]).stdout().contains("ready").then_some(()));
    };
    start("box-a", &[]);
    docker(&host, &["stop", "-s", "USR1", "box-a"]).success();
    assert_eq!(host.field("box-a", "{{.State.ExitCode}}"), "4");
    start("box-b", &["--stop-signal", "HUP"]);
    docker(&host, &["stop", "-t", "-1", "box-b"]).success();
    assert_eq!(host.field("box-b", "{{.State.ExitCode}}"), "5");
    start("box-c", &["--stop-timeout", "1"]);
    docker(&host, &["stop", "box-c"]).success();
    assert_eq!(host.field("box-c", "{{.State.ExitCode}}"), "137");
    start("box-d", &[]);
    docker(&host, &["kill", "-s", "10", "box-d"]).success();
    is(&host, "box-d", "{{.State.ExitCode}}", "4");
}

#[test]
fn a_daemon_without_live_restore_takes_its_containers_along_and_brings_back_what_is_to_run() {
    let mut host = host!("--live-restore=false", "--shutdown-timeout=2");
    assert_eq!(docker(&host, &["info", "--format", "{{.LiveRestoreEnabled}}"]).text(), "false");
    docker(&host, &["run", "-d", "--name", "plain", "busybox", "sleep", "1000"]).success();
    docker(&host, &["run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "1000"])
        .success();
    docker(
        &host,
        &["run", "-d", "--name", "quit", "--restart", "unless-stopped", "busybox", "sleep", "1000"],
    )
    .success();
    docker(&host, &["stop", "-t", "0", "quit"]).success();
    let pids = [host.field("plain", "{{.State.Pid}}"), host.field("always", "{{.State.Pid}}")];
    host.down();
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} runs on");
    }
    host.up();
    is(&host, "always", "{{.State.Status}} {{.RestartCount}}", "running 0");
    assert_eq!(host.field("plain", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    assert_eq!(host.field("quit", "{{.State.Status}}"), "exited");
}

#[test]
fn after_a_reboot_runs_what_was_to_run_each_after_those_it_depends_on() {
    let mut host = host!();
    let run = |args: &[&str]| {
        docker(
            &host,
            &[&["run", "-d", "--restart", "unless-stopped"], args, &["busybox", "sleep", "1000"]].concat(),
        )
        .success();
    };
    // The ones that depend on others have the names, and were made, in the wrong order.
    run(&["--name", "z-net", "--hostname", "shared"]);
    run(&["--name", "m-linked", "--link", "z-net:net"]);
    run(&["--name", "a-joined", "--network", "container:z-net", "--pid", "container:m-linked"]);
    run(&["--name", "stopped"]);
    docker(&host, &["stop", "-t", "0", "stopped"]).success();
    docker(&host, &["run", "-d", "--name", "never", "busybox", "sleep", "1000"]).success();
    // The end of a daemon brings what it has noted to the disk.
    host.down();
    host.up();
    let pids: Vec<String> = ["z-net", "m-linked", "a-joined", "never"]
        .iter()
        .map(|name| host.field(name, "{{.State.Pid}}"))
        .collect();
    let shims: Vec<String> =
        pids.iter().map(|pid| e2e::run(Command::new("ps").args(["-o", "ppid=", "-p", pid])).text()).collect();
    // What a reboot does: all processes go, and what is in memory.
    host.kill();
    // One may have gone along with another.
    shims.iter().chain(&pids).for_each(|pid| {
        let _ = e2e::run(Command::new("kill").args(["-KILL", pid]));
    });
    for pid in &pids {
        eventually("the end", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    }
    std::fs::remove_dir_all(host.path("run")).unwrap();
    host.up();
    for name in ["z-net", "m-linked", "a-joined"] {
        is(&host, name, "{{.State.Status}} {{.RestartCount}}", "running 0");
    }
    let netns = |name: &str| {
        let pid = host.field(name, "{{.State.Pid}}");
        std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
    };
    assert_eq!(netns("a-joined"), netns("z-net"));
    docker(&host, &["exec", "m-linked", "ping", "-c1", "-W5", "net"]).success();
    assert_eq!(host.field("stopped", "{{.State.Status}}"), "exited");
    assert_eq!(host.field("never", "{{.State.Status}} {{.State.ExitCode}}"), "exited 255");
    assert!(!host.log().contains("cannot restart"), "{}", host.log());
}

#[test]
fn a_removal_reports_to_those_who_wait_and_takes_anonymous_volumes_when_told() {
    let host = host!();
    docker(&host, &["create", "--name", "box", "-v", "/a", "-v", "named:/n", "busybox"]).success();
    docker(&host, &["rm", "-v", "box"]).success();
    assert_eq!(docker(&host, &["volume", "ls", "-q"]).text(), "named");
    docker(&host, &["create", "--name", "old", "--label", "tier=web", "busybox"]).success();
    let prune = |filter: &str| docker(&host, &["container", "prune", "-f", "--filter", filter]).text();
    assert!(!prune("until=1h").contains("Deleted"));
    assert!(!prune("label=tier=db").contains("Deleted"));
    assert!(!prune("label!=tier=web").contains("Deleted"));
    docker(&host, &["container", "prune", "-f", "--filter", "colour=red"])
        .failure()
        .says("invalid filter 'colour'");
    docker(&host, &["container", "prune", "-f", "--filter", "until=1h", "--filter", "until=2h"])
        .failure()
        .says("more than one until filter specified");
    assert!(prune("label=tier=web").contains("Deleted"));
}

#[test]
fn the_list_is_filtered_as_dockers() {
    let host = host!();
    docker(
        &host,
        &["run", "-d", "--name", "web", "-p", "8080:80", "--label", "a=b", "busybox", "sleep", "1000"],
    )
    .success();
    docker(&host, &["create", "--name", "db", "--expose", "5432", "-v", "data:/data", "busybox"]).success();
    docker(&host, &["run", "--name", "job", "--network", "none", "busybox", "sh", "-c", "exit 3"]).exits(3);
    for (filters, names) in [
        (&["ancestor=busybox"][..], "job db web"),
        (&["ancestor=none-such"], ""),
        (&["before=job"], "db web"),
        (&["since=web"], "job db"),
        (&["exited=3"], "job"),
        (&["exited=0"], ""),
        (&["expose=5000-6000/tcp"], "db"),
        (&["publish=8080"], "web"),
        (&["publish=80/udp"], ""),
        (&["health=none"], "job db web"),
        (&["health=healthy"], ""),
        (&["isolation=default"], "job db web"),
        (&["is-task=true"], ""),
        (&["label=a"], "web"),
        (&["label=a=c"], ""),
        (&["name=^/w"], "web"),
        (&["name=b$"], "job db web"),
        (&["network=none"], "job"),
        (&["status=created", "status=running"], "db web"),
        (&["volume=data"], "db"),
        (&["volume=/data"], "db"),
    ] {
        let mut command = host.docker_command();
        command.args(["ps", "-a", "--format", "{{.Names}}"]);
        for filter in filters {
            command.args(["--filter", filter]);
        }
        let shown = run(&mut command).text().lines().collect::<Vec<_>>().join(" ");
        assert_eq!(shown, names, "{filters:?}");
    }
    assert_eq!(docker(&host, &["ps", "-n", "1", "--format", "{{.Names}}"]).text(), "job");
    for bad in [
        "colour=red",
        "status=asleep",
        "health=fine",
        "exited=x",
        "publish=x",
        "is-task=maybe",
        "label!=a",
        "until=1h",
    ] {
        docker(&host, &["ps", "--filter", bad]).failure();
    }
    // What has ended is shown for its status, and not for its age or its exit code.
    for (filter, names) in
        [("status=exited", "job"), ("exited=3", ""), ("since=web", ""), ("before=job", "web")]
    {
        let shown = docker(&host, &["ps", "--filter", filter, "--format", "{{.Names}}"]).text();
        assert_eq!(shown, names, "{filter}");
    }
    let named = |filters: &str| {
        let filters = filters.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
        let list = host.api().call("GET", &format!("/containers/json?all=1&filters={filters}"), None);
        list.unwrap().json().as_array().unwrap().len()
    };
    assert_eq!((named("null"), named(r#"{"id":[""]}"#), named(r#"{"isolation":["x"]}"#)), (3, 0, 3));
    let list = host.api().call("GET", "/containers/json?limit=2&filters={}", None).unwrap().json();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[0]["Names"], json!(["/job"]));
}

#[test]
fn what_the_daemon_is_told_about_containers_holds_for_those_that_do_not_say() {
    let host =
        host!("--dns=192.0.2.7", "--dns-opt=ndots:3", "--dns-search=corp.test", "--init", "--label=rack=4");
    let conf = docker(&host, &["run", "--rm", "busybox", "cat", "/etc/resolv.conf"]).text();
    assert_eq!(conf, "nameserver 192.0.2.7\nsearch corp.test\noptions ndots:3");
    let own = ["run", "--rm", "--dns", "192.0.2.8", "busybox", "cat", "/etc/resolv.conf"];
    docker(&host, &own).success().says("192.0.2.8").lacks("192.0.2.7");
    let first = ["run", "--rm", "busybox", "cat", "/proc/1/comm"];
    assert_ne!(docker(&host, &first).text(), "cat", "an init is process 1");
    let without = ["run", "--rm", "--init=false", "busybox", "cat", "/proc/1/comm"];
    assert_eq!(docker(&host, &without).text(), "cat");
    assert_eq!(docker(&host, &["info", "--format", "{{.Labels}}"]).text(), "[rack=4]");
}
