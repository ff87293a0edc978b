//! Clients of old API versions get the shapes and the defaults of their time; all get Docker's tolerance of how JSON is
//! written.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, host};
use serde_json::{Value, json};

fn get(host: &TestHost, version: &str, path: &str) -> Value {
    host.ask("GET", &format!("/v{version}{path}"), None).is(200).json()
}

/// Creates a container by a client of that version; gives its id.
#[track_caller]
fn create(host: &TestHost, version: &str, body: &str) -> String {
    let answer = host.ask("POST", &format!("/v{version}/containers/create"), Some(body)).is(201);
    answer.json()["Id"].as_str().unwrap().to_owned()
}

#[test]
fn fields_of_answers_come_and_go_with_the_versions() {
    let host = host!();
    let id = host.docker(["run", "-d", "busybox", "sleep", "1000"]).text();
    let inspect = format!("/containers/{id}/json");
    // Where, the pointer to the field, and the versions at which it is there and is not.
    for (path, field, with, without) in [
        ("/info", "/BridgeNfIptables", "1.49", "1.50"),
        ("/info", "/BridgeNfIp6tables", "1.24", "1.50"),
        (&inspect, "/HostConfig/KernelMemory", "1.41", "1.42"),
        (&inspect, "/NetworkSettings/Networks/bridge/DNSNames", "1.44", "1.43"),
        (&inspect, "/NetworkSettings/Networks/bridge/GwPriority", "1.48", "1.47"),
        ("/containers/json", "/0/NetworkSettings/Networks/bridge/GwPriority", "1.48", "1.47"),
    ] {
        assert!(get(&host, with, path).pointer(field).is_some(), "{path} of {with} lacks {field}");
        assert!(get(&host, without, path).pointer(field).is_none(), "{path} of {without} has {field}");
    }
    // What never changed is there for the oldest and the newest.
    for version in ["1.24", "1.30", "1.41", "1.50"] {
        for (path, fields) in [
            ("/version", &["/Version", "/ApiVersion", "/MinAPIVersion", "/Os", "/KernelVersion"][..]),
            ("/info", &["/ID", "/Containers", "/Driver", "/NCPU", "/ServerVersion", "/RegistryConfig"]),
            (&inspect, &["/Id", "/State/Running", "/NetworkSettings/IPAddress", "/HostConfig/Memory"]),
            ("/containers/json", &["/0/Id", "/0/Names/0", "/0/State", "/0/Mounts", "/0/HostConfig"]),
        ] {
            let answer = get(&host, version, path);
            for field in fields {
                assert!(answer.pointer(field).is_some(), "{path} of {version} lacks {field}");
            }
        }
    }
}

#[test]
fn info_tells_old_clients_what_they_were_told_in_their_time() {
    let host = host!();
    let option = |version: &str| get(&host, version, "/info")["SecurityOptions"][0].clone();
    assert_eq!((option("1.24"), option("1.25")), (json!("seccomp"), json!("name=seccomp,profile=builtin")));
    for (field, last) in [
        ("/ExecutionDriver", 24),
        ("/RuncCommit/Expected", 48),
        ("/ContainerdCommit/Expected", 48),
        ("/InitCommit/Expected", 48),
        ("/RegistryConfig/AllowNondistributableArtifactsCIDRs", 48),
        ("/RegistryConfig/AllowNondistributableArtifactsHostnames", 48),
    ] {
        let has = |minor: u32| get(&host, &format!("1.{minor}"), "/info").pointer(field).is_some();
        assert_eq!((has(last), has(last + 1)), (true, false), "{field}");
    }
    let images = get(&host, "1.42", "/images/json");
    assert_eq!((&images[0]["RepoTags"], &images[0]["RepoDigests"]), (&json!(["busybox:latest"]), &json!([])));
}

#[test]
fn defaults_are_those_of_the_clients_time() {
    let host = host!();
    for (version, ipc, cgroupns) in [
        ("1.24", "shareable", "host"),
        ("1.39", "shareable", "host"),
        ("1.40", "private", "host"),
        ("1.41", "private", "private"),
        ("1.50", "private", "private"),
    ] {
        let id = create(&host, version, r#"{"Image":"busybox","Cmd":["true"]}"#);
        let shown = get(&host, version, &format!("/containers/{id}/json"));
        let got = (&shown["HostConfig"]["IpcMode"], &shown["HostConfig"]["CgroupnsMode"]);
        assert_eq!(got, (&json!(ipc), &json!(cgroupns)), "{version}");
    }
    // Parameters and fields from before they were known are ignored.
    let of = |version: &str| {
        let body = r#"{"Image":"busybox","HostConfig":{"AutoRemove":true},"Healthcheck":{"StartInterval":2000000000}}"#;
        let id = create(&host, version, body);
        let shown = get(&host, version, &format!("/containers/{id}/json"));
        let start_interval = shown["Config"]["Healthcheck"]["StartInterval"].as_i64().unwrap_or(0);
        (shown["HostConfig"]["AutoRemove"].clone(), start_interval)
    };
    assert_eq!((of("1.24"), of("1.25")), ((json!(false), 0), (json!(true), 0)));
    assert_eq!((of("1.43"), of("1.44")), ((json!(true), 0), (json!(true), 2_000_000_000)));
    let id = create(&host, "1.41", r#"{"Image":"busybox","Cmd":["sleep","1000"]}"#);
    let post = |path: String, status: u16| host.ask("POST", &path, None).is(status);
    post(format!("/v1.41/containers/{id}/start"), 204);
    post(format!("/v1.42/containers/{id}/stop?signal=NOPE&t=0"), 400);
    post(format!("/v1.41/containers/{id}/stop?signal=NOPE&t=0"), 204);
    post(format!("/v1.29/containers/{id}/wait?condition=some-day"), 200);
    post(format!("/v1.30/containers/{id}/wait?condition=some-day"), 400);
}

#[test]
fn streams_say_what_they_are_from_1_42_on() {
    let host = host!();
    let id = host.docker(["create", "busybox", "echo", "said"]).text();
    host.docker(["start", "-a", &id]).success().says("said");
    for (version, kind) in [
        ("1.24", "application/vnd.docker.raw-stream"),
        ("1.41", "application/vnd.docker.raw-stream"),
        ("1.42", "application/vnd.docker.multiplexed-stream"),
        ("1.50", "application/vnd.docker.multiplexed-stream"),
    ] {
        let logs = host.ask("GET", &format!("/v{version}/containers/{id}/logs?stdout=1"), None).is(200);
        let told = logs.headers.iter().any(|line| line.to_lowercase() == format!("content-type: {kind}"));
        assert!(told, "{version}: {:?}", logs.headers);
        assert_eq!(logs.body, "\u{1}\0\0\0\0\0\0\u{5}said\n", "{version}");
    }
}

#[test]
fn versions_out_of_range_are_refused_and_every_answer_names_the_newest() {
    let host = host!();
    for (version, words) in [
        ("1.23", "client version 1.23 is too old. Minimum supported API version is 1.24"),
        ("1.51", "client version 1.51 is too new. Maximum supported API version is 1.50"),
        ("9.9", "client version 9.9 is too new"),
    ] {
        let answer = host.ask("GET", &format!("/v{version}/info"), None).is(400);
        assert!(answer.message().starts_with(words), "{answer:?}");
        let named = answer.headers.iter().any(|line| line.to_lowercase() == "api-version: 1.50");
        assert!(named, "{:?}", answer.headers);
    }
    host.ask("GET", "/v1.50/nonsense", None).is(404);
}

#[test]
fn json_is_read_as_loosely_as_docker_reads_it() {
    let host = host!();
    let body = r#"{
        "image": "busybox", "ENTRYPOINT": "/bin/echo", "cmd": ["one", "two"], "Env": null, "labels": {"Key": "V", "key": "v"},
        "ExposedPorts": null, "Volumes": null, "SomethingNew": {"of": "later"},
        "hostConfig": {"binds": null, "MEMORY": 67108864.0, "restartpolicy": {"name": ""}, "PortBindings": {"80/tcp": null}},
        "NetworkingConfig": null
    }"#;
    let id = create(&host, "1.50", body);
    let shown = get(&host, "1.50", &format!("/containers/{id}/json"));
    assert_eq!(shown["Config"]["Entrypoint"], json!(["/bin/echo"]));
    assert_eq!(shown["Config"]["Labels"], json!({ "Key": "V", "key": "v" }));
    assert_eq!(shown["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(shown["HostConfig"]["RestartPolicy"]["Name"], "no");
    assert_eq!(host.docker(["start", "-a", &id]).text(), "one two");
    for (body, words) in [
        (r#"{"Image":"busybox","Cmd":{"a":1}}"#, "Cmd"),
        (r#"{"Image":"busybox","HostConfig":[]}"#, "HostConfig"),
        (r#"{"Image":"busybox","HostConfig":{"Memory":"64m"}}"#, "Memory"),
        (r#"{"Image":7}"#, "Image"),
        ("{}", "config cannot be empty"),
        ("[1]", "invalid JSON"),
        (r#"{"Image":"busybox"} {}"#, "invalid JSON"),
    ] {
        let message = host.ask("POST", "/containers/create", Some(body)).is(400).message();
        assert!(message.contains(words), "{body}: {message}");
    }
}

#[test]
fn what_keeps_files_away_is_refused_to_versions_that_do_not_have_it() {
    let host = host!();
    for (version, newer, mount, says) in [
        (
            "1.44",
            "1.45",
            json!({ "Type": "volume", "Source": "data", "Target": "/data", "VolumeOptions": { "Subpath": "mine" } }),
            "VolumeOptions.Subpath needs API v1.45 or newer",
        ),
        (
            "1.43",
            "1.44",
            json!({ "Type": "bind", "Source": "/usr", "Target": "/data", "ReadOnly": true,
                "BindOptions": { "ReadOnlyForceRecursive": true, "Propagation": "rprivate" } }),
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
        ),
    ] {
        let body = json!({ "Image": "busybox", "HostConfig": { "Mounts": [mount] } }).to_string();
        let path = format!("/v{version}/containers/create");
        let refused = host.ask("POST", &path, Some(&body)).is(400).json();
        assert_eq!(refused["message"], says);
        create(&host, newer, &body);
    }
}
