//! `GET /containers/{id}/json`: a container as Docker shows it, every field in its place.

use crate::error::ApiError;
use crate::version::ApiVersion;
use crate::{hostconfig, ports, timestamps};
use hostd_engine::Engine;
use hostd_engine::model::{ContainerConfig, ContainerRecord, Health, MountPoint, Status};
use serde_json::{Map, Value, json};

/// The whole object.
pub(crate) async fn encode(
    engine: &Engine,
    record: &ContainerRecord,
    size: bool,
    version: ApiVersion,
) -> Result<Value, ApiError> {
    let exec_ids = engine.exec_ids(&record.id);
    let mut value = encode_record(record, &exec_ids, version);
    let links = engine.links_shown(record);
    if !links.is_empty() {
        value["HostConfig"]["Links"] = json!(links);
    }
    value["GraphDriver"]["Data"] = encode_layers(engine, record);
    name_network(&mut value["NetworkSettings"]["Networks"], engine.network_id(record).as_deref());
    if size && let Value::Object(map) = &mut value {
        let (writable, all) = engine.size(&record.id).await?;
        map.insert("SizeRw".to_owned(), json!(writable));
        map.insert("SizeRootFs".to_owned(), json!(all));
    }
    Ok(value)
}

/// The overlay's directories, by Docker's names. Where it is mounted is to be seen from the container alone.
fn encode_layers(engine: &Engine, record: &ContainerRecord) -> Value {
    let Some(layers) = engine.layer_dirs(record) else { return json!({}) };
    let lower: Vec<_> = layers.lower.iter().map(|dir| dir.to_string_lossy()).collect();
    let mut data = json!({ "LowerDir": lower.join(":"), "UpperDir": layers.upper, "WorkDir": layers.work });
    if record.state.pid > 0 {
        data["MergedDir"] = json!(format!("/proc/{}/root", record.state.pid));
    }
    data
}

/// Tells which network it is that a container was on, and that has no endpoint of it any more.
pub(crate) fn name_network(networks: &mut Value, id: Option<&str>) {
    let (Some(id), Value::Object(networks)) = (id, networks) else { return };
    for network in networks.values_mut().filter(|network| network["NetworkID"] == "") {
        network["NetworkID"] = json!(id);
    }
}

fn encode_record(record: &ContainerRecord, exec_ids: &[String], version: ApiVersion) -> Value {
    let (path, args) = record.args.split_first().map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    json!({
        "Id": record.id,
        "Created": timestamps::rfc3339(record.created),
        "Path": path,
        "Args": args,
        "State": encode_state(record),
        "Image": record.image_id,
        "ResolvConfPath": record.resolv_conf_path,
        "HostnamePath": record.hostname_path,
        "HostsPath": record.hosts_path,
        "LogPath": record.log_path,
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": record.mount_label,
        "ProcessLabel": record.process_label,
        "AppArmorProfile": "",
        "ExecIDs": if exec_ids.is_empty() { Value::Null } else { json!(exec_ids) },
        "HostConfig": hostconfig::encode(&record.host, version),
        "GraphDriver": { "Name": "overlay2", "Data": {} },
        "Mounts": record.mounts.iter().map(encode_mount).collect::<Value>(),
        "Config": encode_config(&record.config, record.mac_address.as_deref()),
        "NetworkSettings": encode_network_settings(record, version),
    })
}

fn encode_state(record: &ContainerRecord) -> Value {
    let state = &record.state;
    let mut value = json!({
        "Status": state.status.as_str(),
        // A paused container runs, and one between two runs counts as running, to Docker.
        "Running": matches!(state.status, Status::Running | Status::Paused | Status::Restarting),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": timestamps::rfc3339_or_never(state.started_at),
        "FinishedAt": timestamps::rfc3339_or_never(state.finished_at),
    });
    if let (Some(health), Value::Object(map)) = (&state.health, &mut value) {
        map.insert("Health".to_owned(), encode_health(health));
    }
    value
}

fn encode_health(health: &Health) -> Value {
    let log = health.log.iter().map(|result| {
        json!({
            "Start": timestamps::rfc3339(result.start),
            "End": timestamps::rfc3339(result.end),
            "ExitCode": result.exit_code,
            "Output": result.output,
        })
    });
    json!({
        "Status": health.status.as_str(),
        "FailingStreak": health.failing_streak,
        "Log": log.collect::<Value>(),
    })
}

/// A set, as Go writes one.
fn set<'a>(keys: impl Iterator<Item = &'a String>) -> Value {
    Value::Object(keys.map(|key| (key.clone(), json!({}))).collect())
}

fn encode_config(config: &ContainerConfig, mac_address: Option<&str>) -> Value {
    let ports: Vec<String> =
        config.exposed_ports.iter().map(|port| ports::key(port.number, port.protocol)).collect();
    let mut value = json!({
        "Hostname": config.hostname,
        "Domainname": config.domainname,
        "User": config.user,
        "AttachStdin": config.attach_stdin,
        "AttachStdout": config.attach_stdout,
        "AttachStderr": config.attach_stderr,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": config.env,
        "Cmd": config.cmd,
        "Image": config.image,
        "Volumes": if config.volumes.is_empty() { Value::Null } else { set(config.volumes.iter()) },
        "WorkingDir": config.working_dir,
        "Entrypoint": config.entrypoint,
        "OnBuild": config.on_build,
        "Labels": config.labels,
    });
    let Value::Object(map) = &mut value else { return value };
    // Docker leaves these out while they are empty.
    for (name, value, empty) in [
        ("ExposedPorts", set(ports.iter()), ports.is_empty()),
        ("NetworkDisabled", json!(true), !config.network_disabled),
        ("ArgsEscaped", json!(true), !config.args_escaped),
        ("MacAddress", json!(mac_address), mac_address.is_none()),
        ("StopSignal", json!(config.stop_signal), config.stop_signal.is_none()),
        ("StopTimeout", json!(config.stop_timeout), config.stop_timeout.is_none()),
        ("Shell", json!(config.shell), config.shell.is_none()),
        ("Healthcheck", json!(config.healthcheck), config.healthcheck.is_none()),
    ] {
        if !empty {
            map.insert(name.to_owned(), value);
        }
    }
    value
}

/// A mount, in inspect and in the list.
pub(crate) fn encode_mount(mount: &MountPoint) -> Value {
    let mut map = Map::new();
    map.insert("Type".to_owned(), json!(hostconfig::mount_type(mount.kind)));
    if let Some(name) = &mount.name {
        map.insert("Name".to_owned(), json!(name));
    }
    map.insert("Source".to_owned(), json!(mount.source));
    map.insert("Destination".to_owned(), json!(mount.destination));
    if let Some(driver) = &mount.driver {
        map.insert("Driver".to_owned(), json!(driver));
    }
    map.insert("Mode".to_owned(), json!(mount.mode));
    map.insert("RW".to_owned(), json!(mount.rw));
    map.insert("Propagation".to_owned(), json!(mount.propagation));
    Value::Object(map)
}

fn encode_network_settings(record: &ContainerRecord, version: ApiVersion) -> Value {
    let endpoint = record.endpoint.as_ref();
    let running = record.state.pid > 0;
    json!({
        "Bridge": "",
        "SandboxID": if running { &record.id } else { "" },
        "SandboxKey": if running { format!("/proc/{}/ns/net", record.state.pid) } else { String::new() },
        "Ports": ports::encode_published(record),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": endpoint.map_or("", |endpoint| &endpoint.endpoint_id),
        "Gateway": endpoint.map(|endpoint| endpoint.gateway.to_string()).unwrap_or_default(),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": endpoint.map(|endpoint| endpoint.ip.to_string()).unwrap_or_default(),
        "IPPrefixLen": endpoint.map_or(0, |endpoint| endpoint.prefix_len),
        "IPv6Gateway": "",
        "MacAddress": endpoint.map_or("", |endpoint| &endpoint.mac),
        "Networks": encode_networks(record, version),
    })
}

/// `NetworkSettings.Networks`: the network it is, or will be, connected to.
pub(crate) fn encode_networks(record: &ContainerRecord, version: ApiVersion) -> Value {
    let name = hostconfig::network_mode(&record.host);
    if name.starts_with("container:") {
        return json!({});
    }
    let endpoint = record.endpoint.as_ref();
    let mut entry = json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": null,
        "MacAddress": endpoint.map(|endpoint| &endpoint.mac).or(record.mac_address.as_ref()).map_or("", |mac| mac),
        "DriverOpts": null,
        "NetworkID": endpoint.map_or("", |endpoint| &endpoint.network_id),
        "EndpointID": endpoint.map_or("", |endpoint| &endpoint.endpoint_id),
        "Gateway": endpoint.map(|endpoint| endpoint.gateway.to_string()).unwrap_or_default(),
        "IPAddress": endpoint.map(|endpoint| endpoint.ip.to_string()).unwrap_or_default(),
        "IPPrefixLen": endpoint.map_or(0, |endpoint| endpoint.prefix_len),
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
    });
    if let Value::Object(map) = &mut entry {
        if version.since(44) {
            map.insert("DNSNames".to_owned(), Value::Null);
        }
        if version.since(48) {
            map.insert("GwPriority".to_owned(), json!(0));
        }
    }
    json!({ name: entry })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::create;
    use hostd_engine::model::State;
    use hostd_engine::{Endpoint, Protocol, PublishedPort};
    use std::collections::BTreeSet;
    use time::macros::datetime;

    /// The published description of API 1.50, where it lies beside the checkout or where the variable says.
    pub(crate) fn description() -> Option<String> {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/docker-api/v1.50.yaml");
        let path = std::env::var("DOCKER_API_DESCRIPTION").unwrap_or_else(|_| beside.to_owned());
        let text = std::fs::read_to_string(&path).ok();
        if text.is_none() {
            println!("skipped: no API description at {path}");
        }
        text
    }

    /// The names of the fields of a definition that stands alone (without `allOf`).
    fn defined(description: &str, name: &str) -> BTreeSet<String> {
        let start =
            description.find(&format!("\n  {name}:\n")).unwrap_or_else(|| panic!("no definition {name}"));
        let body = description[start + 1..].split_once('\n').unwrap().1;
        let mut lines = body.lines().take_while(|line| line.starts_with("   ") || line.trim().is_empty());
        let indent = lines.by_ref().find(|line| line.trim() == "properties:").unwrap().find('p').unwrap();
        let mut names = BTreeSet::new();
        for line in lines {
            let depth = line.len() - line.trim_start().len();
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            if depth <= indent {
                break;
            }
            if depth == indent + 2
                && let Some((name, _)) = line.trim().split_once(':')
            {
                names.insert(name.trim_matches('"').to_owned());
            }
        }
        names
    }

    #[track_caller]
    pub(crate) fn fits(description: &str, name: &str, value: &Value, may_lack: &[&str], own: &[&str]) {
        let defined = defined(description, name);
        let got: BTreeSet<String> = value.as_object().unwrap().keys().cloned().collect();
        let lacking: Vec<_> =
            defined.difference(&got).filter(|field| !may_lack.contains(&field.as_str())).collect();
        let strange: Vec<_> =
            got.difference(&defined).filter(|field| !own.contains(&field.as_str())).collect();
        assert!(lacking.is_empty() && strange.is_empty(), "{name} lacks {lacking:?} and has {strange:?}");
    }

    /// A running container with a published port.
    pub(crate) fn record() -> ContainerRecord {
        let request = create::tests::decode(create::tests::sent_by_the_cli()).unwrap();
        ContainerRecord {
            id: "f".repeat(64),
            name: "web".to_owned(),
            created: datetime!(2024-05-01 10:00 UTC),
            image_id: format!("sha256:{}", "a".repeat(64)),
            config: request.config,
            host: request.host,
            args: vec!["sh".to_owned(), "-c".to_owned(), "echo hi".to_owned()],
            mounts: Vec::new(),
            endpoint: Some(Endpoint {
                endpoint_id: "e".repeat(64),
                container_id: "f".repeat(64),
                network: "bridge".to_owned(),
                network_id: "d".repeat(64),
                host_interface: "veth0".to_owned(),
                ip: [172, 17, 0, 2].into(),
                prefix_len: 16,
                gateway: [172, 17, 0, 1].into(),
                mac: "02:42:ac:11:00:02".to_owned(),
                ports: vec![PublishedPort {
                    container_port: 80,
                    protocol: Protocol::Tcp,
                    host_ip: [0, 0, 0, 0].into(),
                    host_port: 8080,
                }],
                links: Vec::new(),
            }),
            restart_count: 0,
            mac_address: None,
            links: Vec::new(),
            process_label: String::new(),
            mount_label: String::new(),
            log_path: "/log".to_owned(),
            hostname_path: "/hostname".to_owned(),
            hosts_path: "/hosts".to_owned(),
            resolv_conf_path: "/resolv.conf".to_owned(),
            state: State {
                status: Status::Running,
                pid: 42,
                exit_code: 0,
                error: String::new(),
                oom_killed: false,
                started_at: Some(datetime!(2024-05-01 10:00:01.5 UTC)),
                finished_at: None,
                stopped_by_user: false,
                remove_volumes: false,
                health: None,
                last_pause: 0,
            },
        }
    }

    #[test]
    fn a_running_container_reads_as_in_docker() {
        let shown = encode_record(&record(), &[], ApiVersion(50));
        assert_eq!(shown["Name"], "/web");
        assert_eq!((&shown["Path"], &shown["Args"]), (&json!("sh"), &json!(["-c", "echo hi"])));
        assert_eq!(shown["State"]["Status"], "running");
        assert_eq!(shown["State"]["StartedAt"], "2024-05-01T10:00:01.5Z");
        assert_eq!(shown["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(shown["HostConfig"]["NetworkMode"], "bridge");
        let network = &shown["NetworkSettings"];
        assert_eq!(network["Ports"], json!({ "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }] }));
        assert_eq!(network["IPAddress"], "172.17.0.2");
        assert_eq!(network["Networks"]["bridge"]["Gateway"], "172.17.0.1");
    }

    #[test]
    fn shapes_hold_every_field_of_the_description() {
        let Some(description) = description() else { return };
        let shown = encode_record(&record(), &[], ApiVersion(50));
        let sizes = ["SizeRw", "SizeRootFs", "ImageManifestDescriptor"];
        fits(&description, "ContainerInspectResponse", &shown, &sizes, &[]);
        fits(&description, "ContainerState", &shown["State"], &["Health"], &[]);
        fits(&description, "NetworkSettings", &shown["NetworkSettings"], &[], &[]);
        fits(&description, "EndpointSettings", &shown["NetworkSettings"]["Networks"]["bridge"], &[], &[]);
        let rare = [
            "Healthcheck",
            "ArgsEscaped",
            "NetworkDisabled",
            "MacAddress",
            "StopSignal",
            "StopTimeout",
            "Shell",
        ];
        fits(&description, "ContainerConfig", &shown["Config"], &rare, &[]);
        let limits = ["KernelMemoryTCP", "Init"];
        let host = shown["HostConfig"].as_object().unwrap();
        let resources = defined(&description, "Resources");
        let (of_resources, _): (Map<_, _>, Map<_, _>) =
            host.clone().into_iter().partition(|(name, _)| resources.contains(name));
        fits(&description, "Resources", &Value::Object(of_resources), &limits, &[]);
    }
}
