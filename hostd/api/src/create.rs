//! `POST /containers/create`: from the body to what the engine takes. Fields that Docker honours and hostd does not are
//! refused by name here; what a field means is the engine's to say.

use crate::error::ApiError;
use crate::fields::Fields;
use crate::hostconfig;
use crate::ports;
use crate::version::ApiVersion;
use hostd_engine::CreateRequest;
use hostd_engine::model::{ContainerConfig, Healthcheck, HostConfig};
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, ApiError>;

/// Reads the body.
pub(crate) fn decode(body: &Map<String, Value>, version: ApiVersion) -> Result<CreateRequest> {
    if body.is_empty() {
        return Err(ApiError::bad_request("config cannot be empty in order to create a container"));
    }
    let fields = Fields::root(body);
    let config = container_config(&fields, version)?;
    let host = match fields.object("HostConfig")? {
        Some(fields) => hostconfig::decode(&fields, version)?,
        None => hostconfig::decode(&Fields::root(&Map::new()), version)?,
    };
    let mut mac_address = fields.opt_string("MacAddress")?.filter(|mac| !mac.is_empty());
    if let Some(networking) = fields.object("NetworkingConfig")? {
        let on_endpoint = endpoints(&networking, &host)?;
        if on_endpoint.is_some() && mac_address.is_some() && on_endpoint != mac_address {
            return Err(ApiError::bad_request(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or \
                 should be left empty",
            ));
        }
        mac_address = on_endpoint.or(mac_address);
    }
    Ok(CreateRequest { config, host, mac_address, ..CreateRequest::default() })
}

pub(crate) fn container_config(fields: &Fields<'_>, version: ApiVersion) -> Result<ContainerConfig> {
    Ok(ContainerConfig {
        hostname: fields.string("Hostname")?,
        domainname: fields.string("Domainname")?,
        user: fields.string("User")?,
        attach_stdin: fields.boolean("AttachStdin")?,
        attach_stdout: fields.boolean("AttachStdout")?,
        attach_stderr: fields.boolean("AttachStderr")?,
        exposed_ports: ports::exposed(fields)?,
        tty: fields.boolean("Tty")?,
        open_stdin: fields.boolean("OpenStdin")?,
        stdin_once: fields.boolean("StdinOnce")?,
        env: fields.strings("Env")?.unwrap_or_default(),
        cmd: fields.command("Cmd")?,
        entrypoint: fields.command("Entrypoint")?,
        image: fields.string("Image")?,
        volumes: fields.keys("Volumes")?.into_iter().map(str::to_owned).collect(),
        working_dir: fields.string("WorkingDir")?,
        network_disabled: fields.boolean("NetworkDisabled")?,
        labels: fields.string_map("Labels")?,
        stop_signal: fields.opt_string("StopSignal")?.filter(|signal| !signal.is_empty()),
        stop_timeout: fields.opt_integer("StopTimeout")?,
        shell: fields.command("Shell")?,
        healthcheck: healthcheck(fields, version)?,
        on_build: fields.strings("OnBuild")?,
        args_escaped: fields.boolean("ArgsEscaped")?,
    })
}

/// What it means, and whether it makes sense, is the engine's to say.
fn healthcheck(fields: &Fields<'_>, version: ApiVersion) -> Result<Option<Healthcheck>> {
    let Some(check) = fields.object("Healthcheck")? else { return Ok(None) };
    Ok(Some(Healthcheck {
        test: check.strings("Test")?.unwrap_or_default(),
        interval: check.integer("Interval")?,
        timeout: check.integer("Timeout")?,
        start_period: check.integer("StartPeriod")?,
        start_interval: if version.since(44) { check.integer("StartInterval")? } else { 0 },
        retries: check.integer("Retries")?,
    }))
}

/// `NetworkingConfig.EndpointsConfig`: there is only the default network. Gives the MAC address asked for.
fn endpoints(networking: &Fields<'_>, host: &HostConfig) -> Result<Option<String>> {
    let mut mac_address = None;
    for (name, value) in networking.entries("EndpointsConfig")? {
        if !["default", "bridge", host.network_mode.as_str()].contains(&name.as_str()) {
            // Not 404: clients take that for a missing image, and pull it.
            return Err(ApiError::bad_request(format!("network {name} not found")));
        }
        if value.is_null() {
            continue;
        }
        let endpoint = networking.item(&format!("EndpointsConfig.{name}"), value)?;
        if let Some(addresses) = endpoint.object("IPAMConfig")?
            && ["IPv4Address", "IPv6Address", "LinkLocalIPs"]
                .iter()
                .any(|field| addresses.refuse(&[field]).is_err())
        {
            return Err(ApiError::bad_request(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        if endpoint.strings("Aliases")?.is_some_and(|aliases| !aliases.is_empty()) {
            return Err(ApiError::bad_request(
                "network-scoped aliases are only supported for user-defined networks",
            ));
        }
        endpoint.refuse(&["Links", "DriverOpts", "GwPriority"])?;
        mac_address = endpoint.opt_string("MacAddress")?.filter(|mac| !mac.is_empty()).or(mac_address);
    }
    Ok(mac_address)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::version::ApiVersion;
    use axum::http::StatusCode;
    use serde_json::json;

    pub(crate) fn decode(value: Value) -> Result<CreateRequest> {
        super::decode(value.as_object().unwrap(), ApiVersion(50))
    }

    /// What docker CLI 28.2 sends for `docker run --rm busybox true`, and with `null` for what it leaves out.
    pub(crate) fn sent_by_the_cli() -> Value {
        let text = r#"{
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
            "ExposedPorts": { "80/tcp": {} }, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null,
            "Cmd": ["true"], "Image": "busybox", "Volumes": {}, "WorkingDir": "", "Entrypoint": null, "OnBuild": null,
            "Labels": {},
            "HostConfig": {
                "Binds": ["/x:/y"], "ContainerIDFile": "", "LogConfig": { "Type": "", "Config": {} }, "NetworkMode": "default",
                "PortBindings": { "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] },
                "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 }, "AutoRemove": true, "VolumeDriver": "",
                "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null, "CgroupnsMode": "", "Dns": [],
                "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null, "IpcMode": "", "Cgroup": "",
                "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false,
                "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "", "ShmSize": 0, "Isolation": "",
                "CpuShares": 0, "Memory": 67108864, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0,
                "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [],
                "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0, "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0,
                "CpusetCpus": "", "CpusetMems": "", "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": null,
                "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0,
                "Ulimits": [], "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
                "Mounts": [{ "Type": "tmpfs", "Target": "/x" }], "MaskedPaths": null, "ReadonlyPaths": null
            },
            "NetworkingConfig": { "EndpointsConfig": { "default": {
                "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "02:42:ac:11:00:05", "DriverOpts": null,
                "GwPriority": 0, "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0,
                "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null
            } } }
        }"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_the_docker_cli_sends_is_taken_whole() {
        let request = decode(sent_by_the_cli()).unwrap();
        assert_eq!(request.config.cmd, Some(vec!["true".to_owned()]));
        assert_eq!(request.config.entrypoint, None);
        assert_eq!(request.host.resources.memory, 64 << 20);
        assert_eq!(request.host.resources.memory_swappiness, None);
        assert_eq!(request.host.network_mode, "default");
        assert_eq!(request.host.oom_score_adj, None);
        assert_eq!(request.host.mounts.len(), 1);
        assert_eq!(request.mac_address.as_deref(), Some("02:42:ac:11:00:05"));
    }

    #[test]
    fn names_in_other_cases_and_strings_for_lists_are_taken() {
        let request = decode(json!({
            "image": "x", "ENTRYPOINT": "/bin/sh", "cmd": "-c", "labels": { "CamelCase": "1" },
            "hostconfig": { "networkmode": "host", "restartpolicy": { "name": "on-failure", "maximumretrycount": 3 } },
            "SomethingNew": { "unknown": true },
        }));
        let request = request.unwrap();
        assert_eq!(request.config.entrypoint, Some(vec!["/bin/sh".to_owned()]));
        assert!(request.config.labels.contains_key("CamelCase"));
        assert_eq!(request.host.network_mode, "host");
        assert_eq!(request.host.restart_policy, hostd_engine::model::RestartPolicy::OnFailure(3));
    }

    #[test]
    fn fields_that_are_not_honoured_are_refused_by_name() {
        for (host, status, name) in [
            (json!({ "BlkioWeight": -1 }), 400, "Range of blkio weight is from 10 to 1000"),
            (json!({ "RestartPolicy": { "Name": "sometimes" } }), 400, "unknown policy 'sometimes'"),
        ] {
            let error = decode(json!({ "Image": "x", "HostConfig": host })).unwrap_err();
            assert_eq!(error.status().as_u16(), status, "{name}");
            assert!(error.message().contains(name), "{}", error.message());
        }
    }

    #[test]
    fn health_checks_are_read_with_nulls_for_what_is_open() {
        let check = |value: Value| {
            decode(json!({ "Image": "x", "Healthcheck": value })).unwrap().config.healthcheck.unwrap()
        };
        let asked =
            check(json!({ "Test": ["CMD", "true"], "Interval": 1_000_000_000, "StartInterval": null }));
        assert_eq!((asked.test.len(), asked.interval, asked.start_interval), (2, 1_000_000_000, 0));
        assert!(check(json!({ "test": null, "retries": 2 })).test.is_empty());
    }

    #[test]
    fn other_networks_than_the_default_are_refused_by_name() {
        let on = |name: &str, endpoint: Value| {
            decode(json!({ "Image": "x", "NetworkingConfig": { "EndpointsConfig": { name: endpoint } } }))
        };
        on("bridge", json!({})).unwrap();
        on("default", Value::Null).unwrap();
        let error = on("backend", json!({})).unwrap_err();
        assert_eq!((error.status(), error.message()), (StatusCode::BAD_REQUEST, "network backend not found"));
        assert!(on("bridge", json!({ "Aliases": ["db"] })).unwrap_err().message().contains("aliases"));
        let fixed = json!({ "IPAMConfig": { "IPv4Address": "172.17.0.9" } });
        assert!(on("bridge", fixed).unwrap_err().message().starts_with("user specified IP address"));
    }
}
