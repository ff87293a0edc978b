//! Requests of absurd size, depth and number: each gets a clear answer, hostd keeps its memory and goes on serving.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::http::answer;
use e2e::{TestHost, host};
use std::fs;
use std::io::{BufReader, Read, Write};

/// What hostd has held at most, in MiB.
fn peak(host: &TestHost) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// hostd still does its work, and has not grown beyond what a few bodies of the largest size take.
#[track_caller]
fn sound(host: &TestHost) {
    host.docker(["run", "--rm", "busybox", "echo", "sound"]).success().says("sound");
    let peak = peak(host);
    assert!(peak < 192, "hostd has held {peak} MiB");
}

fn create(host: &TestHost, body: &str) -> e2e::http::Answer {
    host.ask("POST", "/containers/create", Some(body))
}

#[test]
fn bodies_of_absurd_size_and_depth_are_refused_and_not_kept() {
    let host = host!();
    // Announced only, and sent in earnest, with a length and in chunks.
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let text = "x".repeat(64 << 20);
    for announced in ["1073741824", "18446744073709551615"] {
        let answer = host.send(format!("{head}Content-Length: {announced}\r\n\r\n{{\"Image\":\"{text}"));
        // 431 where the number itself is beyond all bounds.
        assert!([400, 413, 431].contains(&answer.status), "{answer:?}");
    }
    let chunks = format!("{:x}\r\n{text}\r\n", text.len());
    let refused = host.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")).is(413);
    assert!(refused.message().contains("larger than"), "{refused:?}");
    drop((text, chunks));
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"Labels\":{}1{}}}", open.repeat(200_000), close.repeat(200_000));
        assert!(create(&host, &deep).is(400).message().contains("invalid JSON"));
    }
    sound(&host);
}

#[test]
fn numbers_beyond_all_bounds_are_refused_by_the_fields_name() {
    let host = host!();
    for (field, number) in [
        ("Memory", "9223372036854775808"),
        ("Memory", "1e400"),
        ("Memory", "1.5"),
        ("PidsLimit", "-99999999999999999999"),
        ("OomScoreAdj", "4294967296"),
        ("CpuQuota", "1e300"),
        ("ShmSize", "-1"),
        ("ConsoleSize", "[70000, 1]"),
    ] {
        let body = format!(r#"{{"Image":"busybox","HostConfig":{{"{field}":{number}}}}}"#);
        let message = create(&host, &body).is(400).message();
        let named = message.contains(field) || message.contains("number") || message.contains("SHM");
        assert!(named || message.contains("oom score adj"), "{field}: {message}");
    }
    for query in ["limit=99999999999999999999", "limit=x", "limit=1e3"] {
        host.ask("GET", &format!("/containers/json?{query}"), None).is(400);
    }
    assert_eq!(host.docker(["ps", "-aq"]).text(), "");
}

#[test]
fn environments_labels_and_commands_of_absurd_length_are_kept_or_refused_clearly() {
    let host = host!();
    let list = |item: &dyn Fn(usize) -> String, count: usize| {
        (0..count).map(|n| format!("\"{}\"", item(n))).collect::<Vec<_>>().join(",")
    };
    let env = list(&|n| format!("VARIABLE_{n}=value"), 100_000);
    let body = format!(r#"{{"Image":"busybox","Cmd":["true"],"Env":[{env}]}}"#);
    let id = create(&host, &body).is(201).json()["Id"].as_str().unwrap().to_owned();
    let shown = host.ask("GET", &format!("/containers/{id}/json"), None).is(200).json();
    assert!(shown["Config"]["Env"].as_array().unwrap().len() >= 100_000);
    // More than the kernel hands to a program.
    let refused = host.ask("POST", &format!("/containers/{id}/start"), None);
    assert!([400, 500].contains(&refused.status), "{refused:?}");
    assert!(refused.message().to_lowercase().contains("argument list too long"), "{refused:?}");
    host.ask("DELETE", &format!("/containers/{id}"), None).is(204);

    let labels = (0..50_000).map(|n| format!("\"label-{n}\":\"{n}\"")).collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"Image":"busybox","Cmd":["true"],"Labels":{{{labels}}}}}"#);
    let id = create(&host, &body).is(201).json()["Id"].as_str().unwrap().to_owned();
    host.ask("POST", &format!("/containers/{id}/start"), None).is(204);
    host.ask("POST", &format!("/containers/{id}/wait"), None).is(200);
    host.ask("DELETE", &format!("/containers/{id}"), None).is(204);
    sound(&host);
}

#[test]
fn names_and_paths_of_absurd_length_are_told_apart_from_good_ones() {
    let host = host!();
    let long = "a".repeat(40_000);
    host.ask("GET", &format!("/containers/{long}/json"), None).is(404);
    host.ask("DELETE", &format!("/images/{long}"), None);
    let named = host.ask("POST", &format!("/containers/create?name={long}"), Some(r#"{"Image":"busybox"}"#));
    assert!([201, 400].contains(&named.status), "{named:?}");
    if named.status == 201 {
        host.ask("DELETE", &format!("/containers/{long}"), None).is(204);
    }
    let tree = "/d".repeat(20_000);
    for body in [
        format!(r#"{{"Image":"busybox","Cmd":["true"],"WorkingDir":"{tree}"}}"#),
        format!(r#"{{"Image":"busybox","Cmd":["true"],"HostConfig":{{"Binds":["{tree}:/x"]}}}}"#),
        format!(r#"{{"Image":"busybox","Cmd":["true"],"HostConfig":{{"Binds":["/tmp:{tree}"]}}}}"#),
        format!(r#"{{"Image":"busybox","Cmd":["true"],"HostConfig":{{"Binds":["v:/{long}"]}}}}"#),
        format!(r#"{{"Image":"busybox","Cmd":["{long}"]}}"#),
        format!(r#"{{"Image":"busybox","Cmd":["true"],"User":"{long}"}}"#),
        format!(r#"{{"Image":"busybox","Cmd":["true"],"Hostname":"{long}"}}"#),
        format!(r#"{{"Image":"busybox","Cmd":["true"],"HostConfig":{{"Sysctls":{{"net.{long}":"1"}}}}}}"#),
        format!(r#"{{"Image":"busybox","Cmd":["true"],"HostConfig":{{"CgroupParent":"/{long}"}}}}"#),
    ] {
        let created = create(&host, &body);
        if created.status != 201 {
            assert!([400, 404].contains(&created.status), "{} {}", &body[..80], &created.body[..200]);
            continue;
        }
        let id = created.json()["Id"].as_str().unwrap().to_owned();
        let started = host.ask("POST", &format!("/containers/{id}/start"), None);
        assert!([400, 404, 500].contains(&started.status), "{} {started:?}", &body[..80]);
        assert!(!started.message().is_empty());
        host.ask("DELETE", &format!("/containers/{id}?v=1"), None).is(204);
    }
    host.docker(["volume", "prune", "-af"]).success();
    sound(&host);
}

#[test]
fn heads_that_are_no_http_or_too_large_are_refused() {
    let host = host!();
    let filler = "x".repeat(2 << 20);
    let many = (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    for (request, statuses) in [
        (format!("GET /_ping HTTP/1.1\r\nHost: x\r\nX-Long: {filler}\r\n\r\n"), [400, 431]),
        (format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{many}\r\n"), [400, 431]),
        (format!("GET /{filler} HTTP/1.1\r\nHost: x\r\n\r\n"), [414, 431]),
        ("GARBAGE\r\n\r\n".to_owned(), [400, 400]),
        ("\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".to_owned(), [400, 400]),
        ("GET /_ping HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(), [400, 505]),
        ("GET /_ping HTTP/1.1\r\nBad Header\r\n\r\n".to_owned(), [400, 400]),
        ("POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(), [400, 400]),
    ] {
        let answer = host.send(&request);
        assert!(statuses.contains(&answer.status), "{}: {answer:?}", &request[..request.len().min(60)]);
    }
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunks in ["ZZ\r\n{}\r\n", "2\r\n{}oops\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFFF\r\n{}\r\n", "-2\r\n{}\r\n"]
    {
        host.send(format!("{head}{chunks}")).is(400);
    }
    sound(&host);
}

#[test]
fn ten_thousand_parameters_and_deep_filters_are_read_or_refused() {
    let host = host!();
    let many = (0..10_000).map(|n| format!("p{n}=1&")).collect::<String>();
    let answer = host.ask("GET", &format!("/containers/json?{}all=1", &many[..60_000]), None);
    assert_eq!(answer.is(200).json(), serde_json::json!([]));
    let deep = format!("/containers/json?filters={}", "%5B".repeat(10_000));
    assert!(host.ask("GET", &deep, None).is(400).message().contains("invalid filter"));
    let wide = (0..2_000).map(|n| format!("%22l{n}%22")).collect::<Vec<_>>().join(",");
    host.ask("GET", &format!("/containers/json?filters=%7B%22label%22:[{wide}]%7D"), None).is(200);
    sound(&host);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let host = host!();
    let stream = host.connection();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for n in 0..2_000 {
            let request = format!("GET /containers/missing-{n}/json HTTP/1.1\r\nHost: x\r\n\r\n");
            writer.write_all(request.as_bytes()).unwrap();
        }
    });
    let mut reader = BufReader::new(stream);
    for n in 0..2_000 {
        let message = answer(&mut reader).is(404).message();
        assert_eq!(message, format!("No such container: missing-{n}"));
    }
    sender.join().unwrap();
    sound(&host);
}

#[test]
fn thousands_of_idle_and_dribbling_clients_leave_room_for_others() {
    let host = host!();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let ours = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, ours).unwrap();
    let count = limit.maximum.map_or(3_000, |most| most.saturating_sub(200).min(3_000));
    let mut clients: Vec<_> = (0..count).map(|_| host.connection()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        // Nothing, a part of a head, and a head whose body never comes whole.
        match n % 3 {
            0 => {}
            1 => client.write_all(b"GET /_ping HTTP/1.1\r\nX-Slow: ").unwrap(),
            _ => client
                .write_all(b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
                .unwrap(),
        }
    }
    host.docker(["version"]).success();
    for client in clients.iter_mut().skip(1).step_by(3) {
        client.write_all(b"y").unwrap();
    }
    sound(&host);
    // One that had dribbled so far is served when it comes to its end.
    let slow = &mut clients[1];
    slow.write_all(b"\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    slow.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("OK"), "{text}");
    drop(clients);
    sound(&host);
}
