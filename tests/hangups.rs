//! Clients that hang up before they are answered: what they asked for is done whole all the same.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host};
use std::io::Write;
use std::time::Duration;

/// Asks, and hangs up after `patience`; the answer is not to have come by then.
fn ask_and_leave(host: &TestHost, path: &str, patience: Duration) {
    let mut stream = host.connection();
    let request = format!("POST {path} HTTP/1.1\r\nHost: hostd\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    std::thread::sleep(patience);
}

/// A container that goes on for a second after it was asked to stop, and ends with 7.
fn run_slow_to_stop<const N: usize>(host: &TestHost, options: [&str; N]) {
    let script = "trap 'sleep 1; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = host.docker_command();
    command.args(["run", "-d", "--name", "box"]).args(options).args(["busybox", "sh", "-c", script]);
    e2e::run(&mut command).success();
    eventually("the trap", || host.docker(["logs", "box"]).text().contains("ready").then_some(()));
}

fn is(host: &TestHost, template: &str, wanted: &str) {
    eventually(&format!("{template} to be {wanted}"), || {
        (host.field("box", template) == wanted).then_some(())
    });
}

#[test]
fn a_container_is_killed_although_who_stopped_it_is_gone() {
    let host = host!();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).success();
    eventually("the trap", || host.docker(["logs", "box"]).text().contains("ready").then_some(()));
    ask_and_leave(&host, "/containers/box/stop?t=1", Duration::from_millis(300));
    is(&host, "{{.State.Status}} {{.State.ExitCode}}", "exited 137");
}

#[test]
fn a_restart_starts_again_although_its_client_is_gone_and_spares_only_this_once() {
    let host = host!();
    run_slow_to_stop(&host, ["--rm"]);
    let first = host.field("box", "{{.State.Pid}}");
    ask_and_leave(&host, "/containers/box/restart", Duration::from_millis(300));
    eventually("another run", || {
        let now = host.field("box", "{{.State.Pid}}");
        (now != first && now != "0").then_some(())
    });
    host.docker(["stop", "-t", "0", "box"]).success();
    eventually("the removal", || (host.docker(["inspect", "box"]).code() != 0).then_some(()));
}

#[test]
fn a_container_whose_start_nobody_waits_for_can_be_started_stopped_and_removed() {
    let host = host!();
    // Wherever the start is just then: what it leaves behind is looked at when the host goes.
    for n in 0..20 {
        let name = format!("box{n}");
        host.docker(["create", "--name", &name, "busybox", "sleep", "1000"]).success();
        ask_and_leave(&host, &format!("/containers/{name}/start"), Duration::from_millis(n));
        host.docker(["start", &name]).success();
        host.docker(["exec", &name, "true"]).success();
        host.docker(["rm", "-f", &name]).success();
    }
}

#[test]
fn an_exec_that_nobody_waits_for_is_known_to_run_and_to_end() {
    let host = host!();
    host.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    for n in 0..10 {
        let body = serde_json::json!({ "Cmd": ["sh", "-c", "exit 5"] }).to_string();
        let made = host.ask("POST", "/containers/box/exec", Some(&body)).is(201).json();
        let id = made["Id"].as_str().unwrap().to_owned();
        let body = "{\"Detach\":true}";
        let head = "Host: hostd\r\nContent-Type: application/json";
        let mut stream = host.connection();
        let request = format!(
            "POST /exec/{id}/start HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(n));
        drop(stream);
        // Unless it left before its request was even read.
        eventually("its end", || {
            let exec = host.ask("GET", &format!("/exec/{id}/json"), None).is(200).json();
            let again = || host.ask("POST", &format!("/exec/{id}/start"), Some(body)).status == 200;
            (exec["ExitCode"] == 5 || again()).then_some(())
        });
    }
}
