//! Many machines at a time: labels, lists, bulk creates, with machines of driver `none`, which cost nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Laptop;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

const NOBODY: [&str; 4] = ["--driver", "none", "--none-url", "tcp://127.0.0.1:1"];

fn create(laptop: &Laptop, args: &[&str]) -> common::Said {
    laptop.berth(&[&["create"], &NOBODY[..], args].concat())
}

/// An engine that answers every request the same, and whatever else it is asked with 404.
fn engine(answers: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, answers));
        }
    });
    url
}

fn answer(mut stream: TcpStream, answers: &[(&str, &str)]) {
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => asked.extend_from_slice(&buffer[..n]),
            }
        }
        let text = String::from_utf8_lossy(&asked).into_owned();
        asked.clear();
        let path = text.split(' ').nth(1).unwrap_or_default();
        let found = answers.iter().find(|(part, _)| path.contains(part));
        let (status, body) = found.map_or(("404 Not Found", "{}"), |(_, body)| ("200 OK", *body));
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_err() {
            return;
        }
    }
}

const VERSION: (&str, &str) =
    ("/version", r#"{"Version":"9.8.7","ApiVersion":"1.45","MinAPIVersion":"1.24"}"#);

#[test]
fn labels_are_given_changed_shown_and_selected_by() {
    let laptop = Laptop::new();
    create(&laptop, &["--label", "role=web", "--label", "spot", "web-1"]).success();
    create(&laptop, &["--label", "role=web", "web-2"]).success();
    create(&laptop, &["--label", "role=ci", "ci"]).success();
    create(&laptop, &["--label", "ro le=ci", "x"]).exits(2);
    let named = |selector: &str| laptop.berth(&["ls", "-q", "-l", selector]).success().stdout;
    assert_eq!(named("role=web"), "web-1\nweb-2\n");
    assert_eq!(named("role=web,spot"), "web-1\n");
    assert_eq!(named("role!=web"), "ci\n");
    assert_eq!(laptop.berth(&["label", "web-1"]).success().stdout, "web-1: role=web,spot\n");
    laptop.berth(&["label", "web-1", "web-2", "zone=eu", "spot-"]).success();
    assert_eq!(
        laptop.berth(&["label", "-l", "zone"]).success().stdout,
        "web-1: role=web,zone=eu\nweb-2: role=web,zone=eu\n"
    );
    laptop.berth(&["label", "-l", "zone", "zone-"]).success();
    laptop.berth(&["ls", "-q", "-l", "ro le"]).exits(2);
    laptop.berth(&["label", "absent", "a=b"]).exits(1).says("no such machine: absent");
    laptop.berth(&["label", "web-1", "-bad=b"]).exits(2);
    laptop
        .berth(&["url", "-l", "role=web"])
        .success()
        .says("web-1: tcp://127.0.0.1:1\nweb-2: tcp://127.0.0.1:1\n");
    laptop.berth(&["ip", "-l", "role=web"]).success().says("web-2: 127.0.0.1\n");
    laptop.berth(&["status", "-l", "role=web"]).exits(1).says("web-1: Stopped\n");
    laptop.berth(&["status", "-l", "role=db"]).exits(1).says("no machine has the labels role=db");
    let said = laptop.berth(&["stop", "-l", "role=web"]).exits(1);
    assert_eq!(said.stderr.matches("driver `none` cannot stop machines").count(), 2, "{said:?}");
    laptop.berth(&["stop", "-l", "role=web", "ci"]).exits(2);
    laptop.berth(&["machine", "stop", "-l", "role=web", "ci"]).exits(2).says("either name machines");
    laptop.berth(&["rm", "-y", "-l", "role=web"]).success();
    assert_eq!(laptop.berth(&["ls", "-q"]).success().stdout, "ci\n");
}

#[test]
fn a_record_from_before_labels_still_loads() {
    let laptop = Laptop::new();
    create(&laptop, &["old"]).success();
    let record = laptop.home().join("machines/old/machine.toml");
    let text = fs::read_to_string(&record).unwrap();
    let kept = text.split("[flags]").next().unwrap().to_owned();
    let driver = &text[text.find("[driver_config]").unwrap()..];
    fs::write(&record, kept + driver).unwrap();
    laptop.berth(&["label", "old", "a=b"]).success();
    laptop.berth(&["ls"]).success().says("a=b");
}

#[test]
fn ls_filters_and_writes_as_it_is_told_to() {
    let laptop = Laptop::new();
    let url = engine(&[VERSION]);
    laptop.berth(&["create", "--driver", "none", "--none-url", &url, "--label", "a=b", "up-1"]).success();
    create(&laptop, &["down-1"]).success();
    let listed = |args: &[&str]| laptop.berth(&[&["ls"], args].concat()).success().stdout;
    let table = listed(&[]);
    let heads: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heads, ["NAME", "ACTIVE", "DRIVER", "STATE", "URL", "VERSION", "CERT", "LABELS", "ERRORS"]);
    assert_eq!(listed(&["--filter", "state=running", "-q"]), "up-1\n");
    assert_eq!(listed(&["--filter", "name=^down", "-q"]), "down-1\n");
    assert_eq!(listed(&["--filter", "label=a=b", "--filter", "driver=none", "-q"]), "up-1\n");
    assert_eq!(listed(&["--filter", "driver=qemu", "-q"]), "");
    assert_eq!(
        listed(&["--format", "{{.Name}} {{.State}} {{.Version}}"]),
        "down-1 Stopped \nup-1 Running 9.8.7\n"
    );
    assert_eq!(
        listed(&["--format", "table {{.Name}}\\t{{.DriverName}}"]),
        "NAME     DRIVER NAME\ndown-1   none\nup-1     none\n"
    );
    let json: serde_json::Value = serde_json::from_str(&listed(&["--format", "json"])).unwrap();
    assert_eq!((&json[1]["labels"]["a"], &json[1]["version"]), (&"b".into(), &"9.8.7".into()));
    laptop.berth(&["ls", "--format", "{{.Colour}}"]).exits(2).says("the fields are Name, Active");
    laptop.berth(&["ls", "--format", "{{range .}}"]).exits(2);
    laptop.berth(&["ls", "--filter", "swarm=x"]).exits(2).says("no Swarm");
    let live: serde_json::Value =
        serde_json::from_str(&laptop.berth(&["inspect", "up-1"]).success().stdout).unwrap();
    assert_eq!(live[0]["live"]["state"], "Running");
    laptop.berth(&["status", "up-1"]).success().says("Running");
}

#[test]
fn a_machine_that_never_answers_costs_the_deadline_and_no_more() {
    let laptop = Laptop::new();
    // Connections are accepted by the kernel, and nobody ever reads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", silent.local_addr().unwrap());
    laptop.berth(&["create", "--driver", "none", "--none-url", &url, "silent"]).success();
    laptop.berth(&["create", "--driver", "none", "--none-url", &engine(&[VERSION]), "up"]).success();
    let said = laptop.berth(&["ls", "-t", "15", "--format", "{{.Name}}|{{.Version}}|{{.Error}}"]).success();
    assert_eq!(said.stdout, "silent||the engine did not answer in time\nup|9.8.7|\n");
}

#[test]
fn watching_appends_snapshots_where_there_is_no_terminal_and_writes_nothing_else() {
    let laptop = Laptop::new();
    create(&laptop, &["m"]).success();
    let mut child = laptop.command(&["ls", "-q", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut text, until) = (String::new(), Instant::now() + Duration::from_secs(60));
    while text != "m\nm\n" {
        let mut byte = [0];
        assert!(Instant::now() < until && out.read(&mut byte).unwrap() == 1, "{text:?}");
        text.push(byte[0].into());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_thousand_machines_are_listed() {
    let laptop = Laptop::new();
    create(&laptop, &["m-1"]).success();
    let machines = laptop.home().join("machines");
    let record = fs::read_to_string(machines.join("m-1/machine.toml")).unwrap();
    for n in 2..=1000 {
        let dir = machines.join(format!("m-{n}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("machine.toml"), record.replace("m-1", &format!("m-{n}"))).unwrap();
    }
    assert_eq!(laptop.berth(&["ls", "-q"]).success().stdout.lines().count(), 1000);
    let said = laptop.berth(&["ls"]).success();
    assert_eq!(said.stdout.lines().count(), 1001);
    assert!(!said.stdout.contains("Too many open files"), "{}", said.stdout);
}

#[test]
fn many_machines_are_made_at_once_and_one_that_fails_leaves_the_others() {
    let laptop = Laptop::new();
    create(&laptop, &["web-{1..4}", "--parallel", "2", "--label", "role=web"]).success();
    create(&laptop, &["{a,b}", "c"]).success();
    assert_eq!(laptop.berth(&["ls", "-q"]).success().stdout, "a\nb\nc\nweb-1\nweb-2\nweb-3\nweb-4\n");
    let said = create(&laptop, &["web-{3..6}"]).exits(1);
    said.says("machine `web-3` already exists")
        .says("machine `web-4` already exists")
        .says("web-6` is ready");
    assert_eq!(laptop.berth(&["ls", "-q", "--filter", "name=web"]).success().stdout.lines().count(), 6);
    create(&laptop, &["web-{8..7}"]).exits(2).says("must count upwards");
    create(&laptop, &["x", "x"]).exits(2).says("named twice");
    create(&laptop, &["x", "--parallel", "0"]).exits(2);
    create(&laptop, &[]).exits(2);
}

#[test]
fn several_engines_are_asked_at_once_and_answer_in_one_table() {
    let laptop = Laptop::new();
    let url = engine(&[
        VERSION,
        (
            "/containers/json",
            r#"[{"Id":"0123456789abcdef","Names":["/db"],"Image":"pg","Command":"run","Created":1,"State":"running","Status":"Up"}]"#,
        ),
        ("/images/json", r#"[{"Id":"sha256:fedcba9876543210","RepoTags":["pg:1"],"Created":1,"Size":2000}]"#),
        ("/info", r#"{"ServerVersion":"9.8.7","Containers":3,"MemTotal":2000000000}"#),
        ("/containers/prune", r#"{"ContainersDeleted":["a","b"],"SpaceReclaimed":1000}"#),
        (
            "/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22",
            r#"{"ImagesDeleted":[{"Untagged":"x"},{"Deleted":"y"}],"SpaceReclaimed":500}"#,
        ),
        ("/volumes/prune", r#"{"VolumesDeleted":null,"SpaceReclaimed":0}"#),
        ("/images/create", r#"{"status":"Downloaded"}"#),
    ]);
    let up = ["create", "--driver", "none", "--none-url", &url, "--label", "role=web", "web-{1..2}"];
    laptop.berth(&up).success();
    create(&laptop, &["dead"]).success();
    let said = laptop.berth(&["ps", "-l", "role=web"]).success();
    let lines: Vec<Vec<&str>> = said.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["MACHINE", "CONTAINER", "ID"]);
    assert_eq!((lines[1][0], lines[1][1], lines[2][0]), ("web-1", "0123456789ab", "web-2"));
    // One that is not reached hides no other, and is told at the end.
    let said = laptop.berth(&["ps", "-a", "-q", "--all-machines"]).exits(1);
    assert_eq!(said.stdout, "web-1: 0123456789ab\nweb-2: 0123456789ab\n");
    said.says("cannot reach machine `dead`");
    let said = laptop.berth(&["ps", "-l", "role", "--format", "{{.Machine}}/{{.Names}}"]).success();
    assert_eq!(said.stdout, "web-1/db\nweb-2/db\n");
    laptop
        .berth(&["ps", "-l", "role", "--format", "{{.Name}}"])
        .exits(2)
        .says("the fields are Machine, ID, Names");
    let said = laptop.berth(&[
        "images",
        "-l",
        "role",
        "--format",
        "{{.Machine}} {{.Repository}}:{{.Tag}} {{.Size}}",
    ]);
    assert_eq!(said.success().stdout, "web-1 pg:1 2kB\nweb-2 pg:1 2kB\n");
    laptop.berth(&["images", "-m", "web-1"]).success().says("fedcba987654");
    laptop.berth(&["info", "-l", "role"]).success().says("MACHINE").says("2GB");
    let said = laptop.berth(&["pull", "-l", "role", "pg:1"]).success();
    assert_eq!(said.stdout, "web-1: docker.io/library/pg:1\nweb-2: docker.io/library/pg:1\n");
    laptop.berth(&["prune", "-l", "role"]).exits(2).says("refusing to remove stopped containers unasked");
    let said = laptop.berth(&["prune", "--images", "--all", "--volumes", "-f", "-l", "role"]).success();
    let line = |line: &str| said.stdout.lines().any(|said| said.split_whitespace().eq(line.split(' ')));
    assert!(line("web-1 2 1 0 0 1.5kB") && line("web-2 2 1 0 0 1.5kB"), "{}", said.stdout);
    laptop
        .berth(&["prune", "-y", "--networks", "-m", "web-1"])
        .exits(1)
        .says("cannot remove unused networks");
    laptop.berth(&["prune", "-y", "--all"]).exits(2);
    laptop.berth(&["ps", "-l", "role=ci"]).exits(1).says("no machine has the labels role=ci");
    laptop.berth(&["ps", "-l", "role", "--all-machines"]).exits(2);
}

#[test]
fn a_machine_that_never_answers_is_given_up_in_time() {
    let laptop = Laptop::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", silent.local_addr().unwrap());
    laptop.berth(&["create", "--driver", "none", "--none-url", &url, "silent"]).success();
    laptop.berth(&["ps", "--timeout", "1"]).exits(1).says("did not answer within 1 seconds");
    laptop
        .berth(&["images", "--all-machines", "--timeout", "1"])
        .exits(1)
        .says("machine `silent` did not answer");
}
