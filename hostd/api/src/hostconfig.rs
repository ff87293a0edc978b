//! `HostConfig`, both ways.

use crate::error::ApiError;
use crate::fields::Fields;
use crate::limits;
use crate::ports;
use crate::version::ApiVersion;
use hostd_engine::model::{HostConfig, MountRequest, MountType, RestartPolicy};
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, ApiError>;

/// Docker's fields that nothing here honours yet.
const NOT_HONOURED: &[&str] = &["Cgroup"];

/// Reads the object; older clients get the defaults of their time.
pub(crate) fn decode(fields: &Fields<'_>, version: ApiVersion) -> Result<HostConfig> {
    fields.refuse(NOT_HONOURED)?;
    let isolation = fields.string("Isolation")?;
    if !matches!(isolation.as_str(), "" | "default") {
        let message = format!("invalid isolation: \"{isolation}\" - linux only supports 'default'");
        return Err(ApiError::bad_request(message));
    }
    let (log_driver, log_options) = log_config(fields)?;
    let or_before = |name: &str, minor: u16, default: &str| -> Result<String> {
        let value = fields.string(name)?;
        Ok(if value.is_empty() && !version.since(minor) { default.to_owned() } else { value })
    };
    let network_mode = fields.string("NetworkMode")?;
    Ok(HostConfig {
        binds: fields.strings("Binds")?.unwrap_or_default(),
        mounts: fields.objects("Mounts")?.iter().map(|item| mount(item, version)).collect::<Result<_>>()?,
        tmpfs: fields.string_map("Tmpfs")?,
        volume_driver: fields.string("VolumeDriver")?,
        volumes_from: fields.strings("VolumesFrom")?.unwrap_or_default(),
        links: fields.strings("Links")?.unwrap_or_default(),
        network_mode: if network_mode.is_empty() { "default".to_owned() } else { network_mode },
        port_bindings: ports::bindings(fields)?,
        publish_all_ports: fields.boolean("PublishAllPorts")?,
        restart_policy: restart_policy(fields)?,
        // Before 1.25 the client removed the container.
        auto_remove: fields.boolean("AutoRemove")? && version.since(25),
        cap_add: fields.strings("CapAdd")?.unwrap_or_default(),
        cap_drop: fields.strings("CapDrop")?.unwrap_or_default(),
        privileged: fields.boolean("Privileged")?,
        security_opt: fields.strings("SecurityOpt")?.unwrap_or_default(),
        dns: dns(fields)?,
        dns_search: fields.strings("DnsSearch")?.unwrap_or_default(),
        dns_options: fields.strings("DnsOptions")?.unwrap_or_default(),
        extra_hosts: fields.strings("ExtraHosts")?.unwrap_or_default(),
        group_add: fields.strings("GroupAdd")?.unwrap_or_default(),
        ipc_mode: or_before("IpcMode", 40, "shareable")?,
        pid_mode: fields.string("PidMode")?,
        uts_mode: fields.string("UTSMode")?,
        cgroupns_mode: or_before("CgroupnsMode", 41, "host")?,
        userns_mode: fields.string("UsernsMode")?,
        cgroup_parent: fields.string("CgroupParent")?,
        readonly_rootfs: fields.boolean("ReadonlyRootfs")?,
        shm_size: shm_size(fields)?,
        sysctls: fields.string_map("Sysctls")?,
        ulimits: fields.objects("Ulimits")?.iter().map(ulimit).collect::<Result<_>>()?,
        init: fields.opt_boolean("Init")?,
        oom_score_adj: oom_score_adj(fields)?,
        devices: fields.objects("Devices")?.iter().map(device).collect::<Result<_>>()?,
        device_cgroup_rules: fields.strings("DeviceCgroupRules")?.unwrap_or_default(),
        log_driver,
        log_options,
        masked_paths: fields.strings("MaskedPaths")?,
        readonly_paths: fields.strings("ReadonlyPaths")?,
        console_size: if version.since(42) { console_size(fields)? } else { None },
        device_requests: limits::device_requests(fields)?,
        resources: limits::resources(fields, version)?,
        container_id_file: fields.string("ContainerIDFile")?,
        isolation,
        runtime: fields.string("Runtime")?,
        storage_opt: fields.string_map("StorageOpt")?,
        annotations: if version.since(43) { fields.string_map("Annotations")? } else { Default::default() },
    })
}

/// 0 reads as not set.
fn positive(fields: &Fields<'_>, name: &str) -> Result<Option<u64>> {
    match fields.integer(name)? {
        0 => Ok(None),
        number => u64::try_from(number)
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("{} must not be negative", fields.path(name)))),
    }
}

fn shm_size(fields: &Fields<'_>) -> Result<Option<u64>> {
    positive(fields, "ShmSize").map_err(|error| match fields.integer("ShmSize") {
        Ok(_) => ApiError::bad_request("SHM size can not be less than 0"),
        Err(_) => error,
    })
}

/// Driver and options; no driver is the daemon's.
fn log_config(fields: &Fields<'_>) -> Result<(String, std::collections::BTreeMap<String, String>)> {
    let Some(log) = fields.object("LogConfig")? else { return Ok(Default::default()) };
    Ok((log.string("Type")?, log.string_map("Config")?))
}

pub(crate) fn restart_policy(fields: &Fields<'_>) -> Result<RestartPolicy> {
    let Some(policy) = fields.object("RestartPolicy")? else { return Ok(RestartPolicy::No) };
    let (name, retries) = (policy.string("Name")?, policy.integer("MaximumRetryCount")?);
    if retries != 0 && name != "on-failure" {
        let message = "invalid restart policy: maximum retry count can only be used with 'on-failure'";
        return Err(ApiError::bad_request(message));
    }
    match name.as_str() {
        "" | "no" => Ok(RestartPolicy::No),
        "always" => Ok(RestartPolicy::Always),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        "on-failure" => match u32::try_from(retries) {
            Ok(retries) => Ok(RestartPolicy::OnFailure(retries)),
            Err(_) => {
                Err(ApiError::bad_request("invalid restart policy: maximum retry count cannot be negative"))
            }
        },
        other => Err(ApiError::bad_request(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

fn dns(fields: &Fields<'_>) -> Result<Vec<std::net::IpAddr>> {
    let servers = fields.strings("Dns")?.unwrap_or_default();
    let servers = servers.iter().map(|text| {
        text.parse()
            .map_err(|_| ApiError::bad_request(format!("bad nameserver address {text}: not an IP address")))
    });
    servers.collect()
}

fn oom_score_adj(fields: &Fields<'_>) -> Result<Option<i32>> {
    let score = fields.integer("OomScoreAdj")?;
    match i32::try_from(score) {
        Ok(0) => Ok(None),
        Ok(score @ -1000..=1000) => Ok(Some(score)),
        _ => Err(ApiError::bad_request(format!(
            "Invalid value {score}, range for oom score adj is [-1000, 1000]"
        ))),
    }
}

fn ulimit(item: &Fields<'_>) -> Result<(String, i64, i64)> {
    Ok((item.string("Name")?, item.integer("Soft")?, item.integer("Hard")?))
}

fn device(item: &Fields<'_>) -> Result<(String, String, String)> {
    Ok((item.string("PathOnHost")?, item.string("PathInContainer")?, item.string("CgroupPermissions")?))
}

/// `[rows, columns]`; zeros mean not set.
pub(crate) fn console_size(fields: &Fields<'_>) -> Result<Option<(u16, u16)>> {
    let Some(value) = fields.get("ConsoleSize") else { return Ok(None) };
    let numbers: Option<Vec<u16>> = value
        .as_array()
        .map(|items| items.iter().filter_map(|item| u16::try_from(item.as_u64()?).ok()).collect());
    match numbers.as_deref() {
        Some([0, 0]) => Ok(None),
        Some([rows, columns]) => Ok(Some((*rows, *columns))),
        _ => Err(ApiError::bad_request(format!(
            "invalid JSON: {} must be two numbers below 65536",
            fields.path("ConsoleSize")
        ))),
    }
}

fn mount(item: &Fields<'_>, version: ApiVersion) -> Result<MountRequest> {
    let kind = match item.string("Type")?.as_str() {
        "bind" => MountType::Bind,
        "volume" => MountType::Volume,
        "tmpfs" => MountType::Tmpfs,
        other @ ("image" | "cluster") => {
            return Err(ApiError::not_implemented(format_args!("{} \"{other}\"", item.path("Type"))));
        }
        other => {
            return Err(ApiError::bad_request(format!(
                "invalid mount config for type \"{other}\": mount type unknown"
            )));
        }
    };
    let mut mount = MountRequest {
        kind,
        source: item.string("Source")?,
        target: item.string("Target")?,
        read_only: item.boolean("ReadOnly")?,
        propagation: None,
        non_recursive: false,
        create_mountpoint: false,
        no_copy: false,
        labels: Default::default(),
        driver: None,
        tmpfs_size: None,
        tmpfs_mode: None,
        tmpfs_options: Vec::new(),
        read_only_non_recursive: false,
        read_only_force_recursive: false,
        subpath: String::new(),
    };
    item.refuse(&["ImageOptions", "ClusterOptions"])?;
    let options = |name: &str, of: MountType| -> Result<Option<Fields<'_>>> {
        match item.object(name)? {
            Some(_) if of != kind => Err(ApiError::bad_request(format!(
                "invalid mount config: {} do not fit the mount's type",
                item.path(name)
            ))),
            found => Ok(found),
        }
    };
    if let Some(bind) = options("BindOptions", MountType::Bind)? {
        mount.propagation = bind.opt_string("Propagation")?.filter(|text| !text.is_empty());
        mount.non_recursive = version.since(40) && bind.boolean("NonRecursive")?;
        mount.create_mountpoint = version.since(42) && bind.boolean("CreateMountpoint")?;
        mount.read_only_non_recursive = version.since(44) && bind.boolean("ReadOnlyNonRecursive")?;
        mount.read_only_force_recursive = bind.boolean("ReadOnlyForceRecursive")?;
        // Without these, more would be shown or writable than was asked for: they are refused rather than not known.
        if mount.read_only_force_recursive && !version.since(44) {
            return Err(needs("BindOptions.ReadOnlyForceRecursive", 44));
        }
    }
    if let Some(volume) = options("VolumeOptions", MountType::Volume)? {
        mount.subpath = volume.string("Subpath")?;
        if !mount.subpath.is_empty() && !version.since(45) {
            return Err(needs("VolumeOptions.Subpath", 45));
        }
        mount.no_copy = volume.boolean("NoCopy")?;
        mount.labels = volume.string_map("Labels")?;
        if let Some(driver) = volume.object("DriverConfig")? {
            mount.driver = Some((driver.string("Name")?, driver.string_map("Options")?));
        }
    }
    if let Some(tmpfs) = options("TmpfsOptions", MountType::Tmpfs)? {
        if version.since(46) {
            mount.tmpfs_options = tmpfs.lists("Options")?;
        }
        mount.tmpfs_size = positive(&tmpfs, "SizeBytes")?;
        mount.tmpfs_mode = positive(&tmpfs, "Mode")?.and_then(|mode| u32::try_from(mode).ok());
    }
    Ok(mount)
}

fn needs(field: &str, minor: u16) -> ApiError {
    ApiError::bad_request(format!("{field} needs API v1.{minor} or newer"))
}

/// The object as inspect shows it: everything that Docker has, defaults where nothing was asked for.
pub(crate) fn encode(host: &HostConfig, version: ApiVersion) -> Value {
    let mut map = Map::new();
    encode_own(host, &mut map);
    limits::encode(host, version, &mut map);
    Value::Object(map)
}

/// An empty list as Docker writes one that nobody set.
pub(crate) fn or_null(items: &[String]) -> Value {
    if items.is_empty() { Value::Null } else { json!(items) }
}

/// The name of a network as inspect shows it: the default one by its own name.
pub(crate) fn network_mode(host: &HostConfig) -> &str {
    if ["", "default"].contains(&host.network_mode.as_str()) { "bridge" } else { &host.network_mode }
}

fn encode_restart_policy(policy: RestartPolicy) -> Value {
    let (name, retries) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure(retries) => ("on-failure", retries),
    };
    json!({ "Name": name, "MaximumRetryCount": retries })
}

/// Paths that are masked or read-only: those asked for, else the default ones, none where nothing is fenced.
fn fenced(host: &HostConfig, asked: Option<&[String]>, default: impl serde::Serialize) -> Value {
    match asked {
        Some(paths) => json!(paths),
        None if host.privileged => Value::Null,
        None => json!(default),
    }
}

fn encode_own(host: &HostConfig, map: &mut Map<String, Value>) {
    let (rows, columns) = host.console_size.unwrap_or((0, 0));
    let Value::Object(fields) = json!({
        "Binds": or_null(&host.binds),
        "ContainerIDFile": host.container_id_file,
        "LogConfig": { "Type": host.log_driver, "Config": host.log_options },
        "NetworkMode": network_mode(host),
        "PortBindings": ports::encode_bindings(&host.port_bindings),
        "RestartPolicy": encode_restart_policy(host.restart_policy),
        "AutoRemove": host.auto_remove,
        "VolumeDriver": host.volume_driver,
        "VolumesFrom": or_null(&host.volumes_from),
        "ConsoleSize": [rows, columns],
        "CapAdd": or_null(&host.cap_add),
        "CapDrop": or_null(&host.cap_drop),
        "CgroupnsMode": if host.cgroupns_mode.is_empty() { "private" } else { &host.cgroupns_mode },
        "Dns": host.dns,
        "DnsOptions": host.dns_options,
        "DnsSearch": host.dns_search,
        "ExtraHosts": or_null(&host.extra_hosts),
        "GroupAdd": or_null(&host.group_add),
        "IpcMode": if host.ipc_mode.is_empty() { "private" } else { &host.ipc_mode },
        "Cgroup": "",
        "Links": or_null(&host.links),
        "OomScoreAdj": host.oom_score_adj.unwrap_or(0),
        "PidMode": host.pid_mode,
        "Privileged": host.privileged,
        "PublishAllPorts": host.publish_all_ports,
        "ReadonlyRootfs": host.readonly_rootfs,
        "SecurityOpt": or_null(&host.security_opt),
        "UTSMode": host.uts_mode,
        "UsernsMode": host.userns_mode,
        "ShmSize": host.shm_size.unwrap_or(64 << 20),
        "Runtime": if host.runtime.is_empty() { "hostd" } else { &host.runtime },
        "Isolation": host.isolation,
        "MaskedPaths": fenced(host, host.masked_paths.as_deref(), hostd_engine::masked_paths()),
        "ReadonlyPaths": fenced(host, host.readonly_paths.as_deref(), hostd_engine::READONLY_PATHS),
    }) else {
        return;
    };
    map.extend(fields);
    // Docker leaves these out while they are empty.
    for (name, value, empty) in [
        ("Tmpfs", json!(host.tmpfs), host.tmpfs.is_empty()),
        ("Sysctls", json!(host.sysctls), host.sysctls.is_empty()),
        ("Annotations", json!(host.annotations), host.annotations.is_empty()),
        ("StorageOpt", json!(host.storage_opt), host.storage_opt.is_empty()),
        ("Mounts", host.mounts.iter().map(encode_mount).collect(), host.mounts.is_empty()),
        ("Init", json!(host.init), host.init.is_none()),
    ] {
        if !empty {
            map.insert(name.to_owned(), value);
        }
    }
}

/// The name of a kind of mount.
pub(crate) fn mount_type(kind: MountType) -> &'static str {
    match kind {
        MountType::Bind => "bind",
        MountType::Volume => "volume",
        MountType::Tmpfs => "tmpfs",
    }
}

fn encode_mount(mount: &MountRequest) -> Value {
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
    put("Type", json!(mount_type(mount.kind)));
    if !mount.source.is_empty() {
        put("Source", json!(mount.source));
    }
    put("Target", json!(mount.target));
    if mount.read_only {
        put("ReadOnly", json!(true));
    }
    let mut options = Map::new();
    let mut option = |name: &str, value: Value, set: bool| {
        if set {
            options.insert(name.to_owned(), value);
        }
    };
    let name = match mount.kind {
        MountType::Bind => {
            option("Propagation", json!(mount.propagation), mount.propagation.is_some());
            option("NonRecursive", json!(true), mount.non_recursive);
            option("CreateMountpoint", json!(true), mount.create_mountpoint);
            option("ReadOnlyNonRecursive", json!(true), mount.read_only_non_recursive);
            option("ReadOnlyForceRecursive", json!(true), mount.read_only_force_recursive);
            "BindOptions"
        }
        MountType::Volume => {
            option("NoCopy", json!(true), mount.no_copy);
            option("Labels", json!(mount.labels), !mount.labels.is_empty());
            if let Some((driver, with)) = &mount.driver {
                option("DriverConfig", json!({ "Name": driver, "Options": with }), true);
            }
            option("Subpath", json!(mount.subpath), !mount.subpath.is_empty());
            "VolumeOptions"
        }
        MountType::Tmpfs => {
            option("SizeBytes", json!(mount.tmpfs_size), mount.tmpfs_size.is_some());
            option("Mode", json!(mount.tmpfs_mode), mount.tmpfs_mode.is_some());
            option("Options", json!(mount.tmpfs_options), !mount.tmpfs_options.is_empty());
            "TmpfsOptions"
        }
    };
    if !options.is_empty() {
        put(name, Value::Object(options));
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_comes_back_from_inspect_and_can_be_asked_for_again() {
        let asked = json!({
            "Binds": ["/a:/b:ro"], "NetworkMode": "host", "CapAdd": ["NET_ADMIN"], "Dns": ["1.1.1.1"], "ShmSize": 1024,
            "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 2 }, "Init": true, "PidsLimit": 100,
            "Ulimits": [{ "Name": "nofile", "Soft": 1, "Hard": 2 }], "Tmpfs": { "/t": "size=1m" }, "MaskedPaths": [],
            "VolumeDriver": "local",
            "Devices": [{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm" }],
            "Mounts": [
                { "Type": "bind", "Source": "/a", "Target": "/c", "ReadOnly": true, "BindOptions": { "Propagation": "rslave" } },
                { "Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": { "NoCopy": true, "Labels": { "A": "b" } } },
                { "Type": "tmpfs", "Target": "/e", "TmpfsOptions": { "SizeBytes": 4096, "Mode": 448, "Options": [["exec"]] } },
                { "Type": "bind", "Source": "/a", "Target": "/f", "ReadOnly": true,
                  "BindOptions": { "ReadOnlyNonRecursive": true } },
                { "Type": "bind", "Source": "/a", "Target": "/g", "ReadOnly": true,
                  "BindOptions": { "ReadOnlyForceRecursive": true } },
                { "Type": "volume", "Source": "v", "Target": "/h", "VolumeOptions": { "Subpath": "a/b" } },
            ],
        });
        let version = ApiVersion(50);
        let decoded = decode(&Fields::root(asked.as_object().unwrap()), version).unwrap();
        let shown = encode(&decoded, version);
        for (name, value) in asked.as_object().unwrap() {
            assert_eq!(&shown[name], value, "{name}");
        }
        let again = decode(&Fields::root(shown.as_object().unwrap()), version).unwrap();
        assert_eq!(encode(&again, version), shown);
    }

    #[test]
    fn old_clients_get_the_defaults_of_their_time() {
        let empty = Map::new();
        let at = |minor| decode(&Fields::root(&empty), ApiVersion(minor)).unwrap();
        assert_eq!((at(39).ipc_mode.as_str(), at(40).ipc_mode.as_str()), ("shareable", ""));
        assert_eq!((at(40).cgroupns_mode.as_str(), at(41).cgroupns_mode.as_str()), ("host", ""));
    }

    #[test]
    fn mounts_with_options_of_another_type_are_refused() {
        let refused = |mount: Value| {
            let value = json!({ "Mounts": [mount] });
            decode(&Fields::root(value.as_object().unwrap()), ApiVersion(50))
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert!(refused(json!({ "Type": "bind", "TmpfsOptions": {} })).contains("TmpfsOptions"));
        assert!(refused(json!({ "Type": "image" })).contains("Mounts[0].Type \"image\""));
        assert!(refused(json!({ "Type": "x" })).contains("mount type unknown"));
    }
}
