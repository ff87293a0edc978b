//! `version`, `info`, `events`.

use crate::error::ApiError;
use crate::fields::Fields;
use crate::params::Params;
use crate::request::JsonBody;
use crate::version::{ApiVersion, MAX_API_VERSION, MIN_API_VERSION};
use crate::{SERVER_VERSION, progress, timestamps};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use hostd_engine::{Auth, Engine, Event, EventOptions, Info, Machine};
use serde_json::{Map, Value, json};

/// `GET /version`.
pub(crate) async fn version(State(engine): State<Engine>) -> Result<Json<Value>, ApiError> {
    let info = engine.info().await?;
    let arch = go_arch(&info.architecture);
    Ok(Json(json!({
        "Platform": { "Name": "hostd" },
        "Components": [{
            "Name": "Engine",
            "Version": SERVER_VERSION,
            "Details": {
                "ApiVersion": MAX_API_VERSION,
                "Arch": arch,
                "BuildTime": "",
                "Experimental": "false",
                "GitCommit": "",
                "GoVersion": "",
                "KernelVersion": info.kernel_version,
                "MinAPIVersion": MIN_API_VERSION,
                "Os": "linux",
            },
        }],
        "Version": SERVER_VERSION,
        "ApiVersion": MAX_API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": info.kernel_version,
        "BuildTime": "",
    })))
}

/// The architecture in Go's words, which clients compare with those of images.
fn go_arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `GET /info`.
pub(crate) async fn info(State(engine): State<Engine>, version: ApiVersion) -> Result<Json<Value>, ApiError> {
    let mut value = encode_info(&engine.info().await?, version);
    value["RuncCommit"]["ID"] = json!(engine.runc_commit().await);
    if !version.since(49) {
        expect_commits(&mut value);
    }
    Ok(Json(value))
}

/// The name in `name=seccomp,profile=builtin`: all that there was before 1.25.
fn bare(security_option: &str) -> &str {
    let option = security_option.strip_prefix("name=").unwrap_or(security_option);
    option.split(',').next().unwrap_or(option)
}

/// Before 1.49 it was told which commit of its parts an engine was made for: the one that it has.
fn expect_commits(info: &mut Value) {
    for part in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
        info[part]["Expected"] = info[part]["ID"].clone();
    }
}

fn encode_info(info: &Info, version: ApiVersion) -> Value {
    let mut map = Map::new();
    for part in [encode_host(info), encode_limits(&info.machine), encode_engine(info)] {
        if let Value::Object(part) = part {
            map.extend(part);
        }
    }
    if !version.since(49) {
        map.remove("FirewallBackend");
    }
    if !version.since(50) || info.discovered_devices.is_empty() {
        map.remove("DiscoveredDevices");
    }
    if version.since(42) {
        map.remove("KernelMemory");
    }
    if !version.since(25) {
        map.insert("ExecutionDriver".to_owned(), json!("<not supported>"));
        let names = info.security_options.iter().map(|option| bare(option));
        map.insert("SecurityOptions".to_owned(), names.collect());
    }
    if !version.since(49) {
        for name in ["CIDRs", "Hostnames"] {
            map["RegistryConfig"][format!("AllowNondistributableArtifacts{name}")] = Value::Null;
        }
    }
    if !version.since(50) {
        map.insert("BridgeNfIptables".to_owned(), Value::Bool(info.bridge_netfilter.0));
        map.insert("BridgeNfIp6tables".to_owned(), Value::Bool(info.bridge_netfilter.1));
    }
    Value::Object(map)
}

/// What the machine is and holds.
fn encode_host(info: &Info) -> Value {
    json!({
        "ID": info.id,
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped,
        "Images": info.images,
        "IPv4Forwarding": info.ipv4_forwarding,
        "SystemTime": timestamps::rfc3339(info.system_time),
        "KernelVersion": info.kernel_version,
        "OperatingSystem": info.operating_system,
        "OSVersion": info.os_version,
        "OSType": "linux",
        "Architecture": info.architecture,
        "MemTotal": info.memory,
        "Name": info.name,
        "Labels": info.labels,
        "SecurityOptions": info.security_options,
        "Warnings": info.warnings,
    })
}

/// What limits the machine can keep.
fn encode_limits(machine: &Machine) -> Value {
    let mut value = json!({
        "MemoryLimit": machine.memory_limit,
        "SwapLimit": machine.swap_limit,
        "CpuCfsPeriod": machine.cpu_cfs,
        "CpuCfsQuota": machine.cpu_cfs,
        "CPUShares": machine.cpu_shares,
        "CPUSet": machine.cpuset,
        "PidsLimit": machine.pids_limit,
        "OomKillDisable": machine.oom_kill_disable,
        "CgroupVersion": machine.cgroup_version.to_string(),
        "NCPU": machine.cpus,
    });
    // Docker leaves these out where the kernel has them no more.
    for (name, has) in
        [("KernelMemory", machine.kernel_memory), ("KernelMemoryTCP", machine.kernel_memory_tcp)]
    {
        if has {
            value[name] = json!(true);
        }
    }
    value
}

/// What this engine is and how it is set up.
fn encode_engine(info: &Info) -> Value {
    let devices = info.discovered_devices.iter();
    let devices = devices.map(|device| json!({ "Source": device.source, "ID": device.id }));
    json!({
        "Driver": "overlay2",
        "DriverStatus": info.driver_status,
        "DockerRootDir": info.data_root,
        "Plugins": {
            "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null,
            "Log": hostd_engine::LOG_DRIVERS,
        },
        "Debug": tracing::enabled!(tracing::Level::DEBUG),
        "NFd": info.descriptors,
        "NGoroutines": info.tasks,
        "LoggingDriver": info.logging_driver,
        "CgroupDriver": info.cgroup_driver.as_str(),
        "NEventsListener": info.event_listeners,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registry_config(info),
        "GenericResources": null,
        "HttpProxy": info.proxies[0],
        "HttpsProxy": info.proxies[1],
        "NoProxy": info.proxies[2],
        "ExperimentalBuild": false,
        "ServerVersion": SERVER_VERSION,
        "Runtimes": runtimes(info),
        "DefaultRuntime": info.default_runtime,
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": info.live_restore,
        "Isolation": "",
        "InitBinary": "hostd",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "DefaultAddressPools": [],
        "FirewallBackend": { "Driver": "nftables" },
        "DiscoveredDevices": devices.collect::<Value>(),
        "CDISpecDirs": info.cdi_spec_dirs,
    })
}

/// The OCI runtimes by name.
fn runtimes(info: &Info) -> Value {
    let entry = |path: &str, args: &[String]| match args {
        [] => json!({ "path": path }),
        args => json!({ "path": path, "runtimeArgs": args }),
    };
    info.runtimes
        .iter()
        .map(|(name, path, args)| (name.clone(), entry(path, args)))
        .collect::<Map<_, _>>()
        .into()
}

fn registry_config(info: &Info) -> Value {
    let (cidrs, hosts): (Vec<_>, Vec<_>) =
        info.insecure_registries.iter().partition(|registry| registry.contains('/'));
    let cidrs: Vec<&str> = cidrs.into_iter().map(String::as_str).chain(["::1/128", "127.0.0.0/8"]).collect();
    let index = |name: &str, mirrors: &[String], secure: bool, official: bool| json!({ "Name": name, "Mirrors": mirrors, "Secure": secure, "Official": official });
    let mut indexes = Map::new();
    indexes.insert("docker.io".to_owned(), index("docker.io", &info.mirrors, true, true));
    for host in hosts {
        indexes.insert(host.clone(), index(host, &[], false, false));
    }
    json!({ "InsecureRegistryCIDRs": cidrs, "IndexConfigs": indexes, "Mirrors": info.mirrors })
}

/// `POST /auth`: asks the registry whether it takes these credentials. They are not kept.
pub(crate) async fn auth(
    State(engine): State<Engine>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let fields = Fields::root(&body);
    engine
        .login(&Auth {
            username: fields.string("username")?,
            password: fields.string("password")?,
            identitytoken: fields.string("identitytoken")?,
            registrytoken: fields.string("registrytoken")?,
            serveraddress: fields.string("serveraddress")?,
        })
        .await?;
    Ok(Json(json!({ "Status": "Login Succeeded", "IdentityToken": "" })))
}

/// `POST /build/prune`: there is no builder yet, and so no cache.
pub(crate) async fn prune_builds() -> Json<Value> {
    Json(json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }))
}

/// `GET /events`: one JSON object after the other, until `until` or the client leaves.
pub(crate) async fn events(State(engine): State<Engine>, params: Params) -> Result<Response<Body>, ApiError> {
    let options = EventOptions {
        since: timestamps::parse("since", params.get("since"))?,
        until: timestamps::parse("until", params.get("until"))?,
        filters: params.filters()?,
    };
    // An error breaks the connection off, so that the client knows that its list has a hole.
    let lines = engine.events(options)?.map(|event| {
        event.map(|event| Bytes::from(format!("{}\n", encode_event(&event)))).inspect_err(|error| {
            tracing::warn!("an events client was cut off: {}", crate::error::chain(error));
        })
    });
    Ok(progress::json_stream(Body::from_stream(lines)))
}

fn encode_event(event: &Event) -> Value {
    let nanos = event.at.unix_timestamp_nanos();
    let mut value = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.actor_id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.at.unix_timestamp(),
        "timeNano": i64::try_from(nanos).unwrap_or(i64::MAX),
    });
    // The shape from before `Actor` stays for containers and images.
    if let Value::Object(map) = &mut value
        && matches!(event.kind, "container" | "image")
    {
        map.insert("status".to_owned(), json!(event.action));
        if !event.actor_id.is_empty() {
            map.insert("id".to_owned(), json!(event.actor_id));
        }
        if let Some(image) = event.attributes.get("image").filter(|_| event.kind == "container") {
            map.insert("from".to_owned(), json!(image));
        }
    }
    value
}
