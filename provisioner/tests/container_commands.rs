//! Container commands, with a real hostd behind mutual TLS.

mod engine;

use engine::Engine;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const ALONE: [&str; 2] = ["--network", "none"];

fn run(engine: &Engine, options: &[&str], command: &[&str]) -> std::process::Output {
    engine.berth(&[&["run"], options, &ALONE[..], &["busybox"], command].concat())
}

fn start(engine: &Engine, name: &str, command: &[&str]) -> String {
    engine.good(&[&["run", "-d", "--name", name], &ALONE[..], &["busybox"], command].concat())
}

#[test]
fn a_containers_streams_and_exit_code_are_ours() {
    let Some(engine) = engine::start() else { return };
    let output = run(&engine, &["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(engine.good(&["ps", "-aq"]), "");
}

#[test]
fn nothing_of_a_large_output_is_lost() {
    let Some(engine) = engine::start() else { return };
    let output = run(&engine, &["--rm"], &["seq", "200000"]);
    let lines: Vec<_> = output.stdout.split(|b| *b == b'\n').collect();
    assert_eq!((lines.len(), lines[199_999]), (200_001, &b"200000"[..]));
}

#[test]
fn input_is_sent_and_its_end_too() {
    let Some(engine) = engine::start() else { return };
    let input = vec![b'x'; 3_000_000];
    let output = engine.fed(&[&["run", "-i", "--rm"], &ALONE[..], &["busybox", "wc", "-c"]].concat(), &input);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3000000", "{output:?}");
    start(&engine, "cat", &["sleep", "600"]);
    let output = engine.fed(&["exec", "-i", "cat", "cat"], b"to exec");
    assert_eq!(output.stdout, b"to exec");
}

#[test]
fn what_cannot_be_run_ends_as_docker_does() {
    let Some(engine) = engine::start() else { return };
    for (command, code) in [("nope", 127), ("/nope", 127), ("/etc", 126)] {
        let output = run(&engine, &["--rm"], &[command]);
        assert_eq!(output.status.code(), Some(code), "{command}: {output:?}");
    }
    let (code, said) = engine.bad(&["run", "--pull", "never", "absent"]);
    assert_eq!(code, 125, "{said}");
    assert!(said.contains("No such image: absent"), "{said}");
    let (code, said) = engine.bad(&["run", "--rm", "--restart", "always", "busybox"]);
    assert!(code == 125 && said.contains("conflicting options"), "{said}");
    let (code, said) = engine.bad(&["run", "-it", "busybox"]);
    assert!(code == 1 && said.contains("the input device is not a TTY"), "{said}");
    let (code, _) = engine.bad(&["run", "-p", "x", "busybox"]);
    assert_eq!(code, 2);
    assert_eq!(engine.good(&["ps", "-aq"]), "");
}

#[test]
fn options_reach_the_container() {
    let Some(engine) = engine::start() else { return };
    let file = engine.path("env");
    std::fs::write(&file, "FROM_FILE=1\n").unwrap();
    let options =
        ["--rm", "-e", "A=b c", "--env-file", file.to_str().unwrap(), "-w", "/tmp", "-u", "65534:65534"];
    let more = ["--hostname", "there", "--tmpfs", "/scratch", "--read-only", "-v", "/anonymous"];
    let script = "echo $A $FROM_FILE $(pwd) $(id -u) $(hostname); touch /x 2>/dev/null || echo read-only; grep -c -e /scratch -e /anonymous /proc/mounts";
    let output = run(&engine, &[&options[..], &more[..]].concat(), &["sh", "-c", script]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "b c 1 /tmp 65534 there\nread-only\n2\n",
        "{output:?}"
    );
    let output = run(&engine, &["--rm", "--entrypoint", "echo"], &["-n", "entry"]);
    assert_eq!(output.stdout, b"entry", "{output:?}");
}

#[test]
fn a_container_lives_through_its_commands() {
    let Some(engine) = engine::start() else { return };
    let id = start(&engine, "web", &["sh", "-c", "echo hello; exec sleep 600"]);
    assert_eq!(id.len(), 64);
    let listed = engine.good(&["ps"]);
    assert!(listed.contains(&id[..12]) && listed.contains("Up ") && listed.ends_with("web"), "{listed}");
    let json: serde_json::Value = serde_json::from_str(&engine.good(&["ps", "--format", "json"])).unwrap();
    assert_eq!((json["Names"].as_str(), json["State"].as_str()), (Some("web"), Some("running")));
    let inspected: serde_json::Value = serde_json::from_str(&engine.good(&["inspect", "web"])).unwrap();
    assert_eq!(inspected[0]["Id"], id);
    assert_eq!(engine.good(&["exec", "web", "echo", "in there"]), "in there");
    assert_eq!(engine.bad(&["exec", "web", "sh", "-c", "exit 3"]).0, 3);
    let (code, said) = engine.bad(&["rm", "web"]);
    assert!(code == 1 && said.starts_with("error: cannot remove container `web`\ncaused by: "), "{said}");
    assert_eq!(engine.good(&["kill", "web"]), "web");
    assert_eq!(engine.good(&["wait", "web"]), "137");
    assert_eq!(engine.good(&["start", "web"]), "web");
    assert_eq!(engine.good(&["restart", "-t", "0", "web"]), "web");
    assert_eq!(engine.good(&["stop", "-t", "0", "web"]), "web");
    assert!(engine.good(&["ps", "-a", "--filter", "status=exited"]).contains("web"));
    assert_eq!(engine.good(&["logs", "--tail", "1", "web"]), "hello");
    assert_eq!(engine.good(&["rm", "web"]), "web");
    let (code, said) = engine.bad(&["rm", "web"]);
    assert!(code == 1 && said.contains("No such container: web"), "{said}");
}

#[test]
fn logs_are_followed_to_the_end() {
    let Some(engine) = engine::start() else { return };
    start(&engine, "talk", &["sh", "-c", "echo one; echo two >&2; sleep 1; echo three"]);
    let output = engine.berth(&["logs", "-f", "talk"]);
    assert_eq!((output.stdout, output.stderr), (b"one\nthree\n".to_vec(), b"two\n".to_vec()));
    let stamped = engine.good(&["logs", "-t", "-n", "1", "talk"]);
    assert!(stamped.starts_with("20") && stamped.ends_with("Z three"), "{stamped}");
    assert_eq!(engine.good(&["logs", "--since", "2100-01-01", "talk"]), "");
}

#[test]
fn signals_go_to_the_container() {
    let Some(engine) = engine::start() else { return };
    let script = "trap 'echo caught; exit 6' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = engine.inside(env!("CARGO_BIN_EXE_berth"));
    command.args(["run", "--rm"]).args(ALONE).args(["busybox", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("ready"));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(lines.next().as_deref(), Some("caught"));
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[test]
fn images_are_loaded_named_listed_and_removed() {
    let Some(engine) = engine::start() else { return };
    let listed = engine.good(&["images"]);
    assert!(
        listed.starts_with("REPOSITORY   TAG      IMAGE ID") && listed.contains("busybox      latest"),
        "{listed}"
    );
    engine.good(&["tag", "busybox", "localhost:5000/mine:2"]);
    let json = engine.good(&["images", "--format", "json", "localhost:5000/mine"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["Repository"].as_str(), json["Tag"].as_str()), (Some("localhost:5000/mine"), Some("2")));
    assert_eq!(engine.good(&["rmi", "localhost:5000/mine:2"]), "Untagged: localhost:5000/mine:2");
    let archive = std::fs::read(engine.path("busybox.tar")).unwrap();
    let output = engine.fed(&["load"], &archive);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "Loaded image: busybox:latest", "{output:?}");
    let output = engine.fed(&["load"], b"this is no archive");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (code, said) = engine.bad(&["rmi", "absent"]);
    assert!(code == 1 && said.contains("No such image: absent"), "{said}");
}

#[test]
fn a_machine_that_is_not_there_is_named_with_the_reason_and_what_to_do() {
    let Some(engine) = engine::start() else { return };
    engine.good(&["create", "gone", "--driver", "none", "--none-url", "tcp://127.0.0.1:9"]);
    let (code, said) = engine.bad(&["--machine", "gone", "ps"]);
    assert_eq!(code, 1);
    let expected = "error: cannot reach machine `gone`\ncaused by: connect to 127.0.0.1:9\n";
    assert!(said.starts_with(expected) && said.contains("refused"), "{said}");
    assert!(said.ends_with("hint: `berth status gone` tells whether it is running\n"), "{said}");
    assert_eq!(engine.bad(&["-m", "gone", "run", "busybox"]).0, 125);
}

#[test]
fn images_are_pulled_by_name_and_when_a_container_needs_them() {
    let Some(engine) = engine::start() else { return };
    let Some(_registry) = engine.registry() else { return };
    let image = "127.0.0.1:5000/box:1";
    let output = engine.berth(&["pull", image]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), image);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("1: Pulling from box") && told.contains("Status: "), "{told}");
    engine.good(&["rmi", image]);
    assert_eq!(engine.good(&["pull", "-q", image]), image);
    engine.good(&["rmi", image]);
    let output = engine.berth(&["run", "--rm", "--network", "none", image, "echo", "pulled"]);
    assert_eq!(output.stdout, b"pulled\n", "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.starts_with(&format!("Unable to find image '{image}' locally\n")), "{told}");
    let (code, said) = engine.bad(&["pull", "127.0.0.1:5000/box:absent"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("error: cannot pull `127.0.0.1:5000/box:absent`\ncaused by: "), "{said}");
}

#[test]
fn what_is_not_used_is_pruned_and_what_is_used_stays() {
    let Some(engine) = engine::start() else { return };
    assert!(run(&engine, &["--name", "gone"], &["true"]).status.success());
    start(&engine, "stays", &["sleep", "600"]);
    engine.good(&["tag", "busybox", "unused:1"]);
    assert!(engine.bad(&["prune"]).1.contains("refusing to remove stopped containers unasked"));
    let told = engine.good(&["prune", "-y", "--networks", "--volumes", "--images", "--all-machines"]);
    assert!(told.contains("MACHINE") && told.contains("\nbox "), "{told}");
    assert_eq!(engine.good(&["ps", "-a", "--format", "{{.Names}}"]), "stays");
    assert_eq!(engine.good(&["images", "--format", "{{.Repository}}"]).lines().count(), 2);
    assert_eq!(engine.good(&["ps", "--all-machines", "--format", "{{.Machine}} {{.Names}}"]), "box stays");
}
