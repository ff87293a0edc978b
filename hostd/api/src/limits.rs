//! The limits in `HostConfig`, both ways, and `POST /containers/{id}/update`, which changes them.

use crate::error::ApiError;
use crate::fields::Fields;
use crate::hostconfig::{or_null, restart_policy};
use crate::request::JsonBody;
use crate::version::ApiVersion;
use axum::Json;
use axum::extract::{Path, State};
use hostd_engine::model::{BLKIO_RATES, DeviceRate, DeviceRequest, HostConfig, Resources};
use hostd_engine::{Engine, UpdateRequest};
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, ApiError>;

/// `POST /containers/{id}/update`.
pub(crate) async fn update(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    let request = decode_update(&Fields::root(&body), version)?;
    let warnings = engine.update(&id, request).await?;
    Ok(Json(json!({ "Warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) } })))
}

fn decode_update(fields: &Fields<'_>, version: ApiVersion) -> Result<UpdateRequest> {
    // What stands in the same object of the description, but cannot change during a container's life.
    fields.refuse(&["CgroupParent", "Devices", "DeviceCgroupRules", "DeviceRequests", "Ulimits", "Init"])?;
    let resources = resources(fields, version)?;
    let pids_limit = fields.opt_integer("PidsLimit")?.filter(|_| version.since(40));
    let named = match fields.object("RestartPolicy")? {
        Some(policy) => !policy.string("Name")?.is_empty(),
        None => false,
    };
    Ok(UpdateRequest {
        // No limit from now on, which is not the same as none that was ever asked for.
        resources: Resources { pids_limit: pids_limit.map(|limit| limit.max(0)), ..resources },
        restart_policy: named.then(|| restart_policy(fields)).transpose()?,
    })
}

/// Reads the limits.
pub(crate) fn resources(fields: &Fields<'_>, version: ApiVersion) -> Result<Resources> {
    let mut rates = BLKIO_RATES.map(|name| device_rates(fields, name, "Rate"));
    Ok(Resources {
        memory: fields.integer("Memory")?,
        memory_reservation: fields.integer("MemoryReservation")?,
        memory_swap: fields.integer("MemorySwap")?,
        // The CLI sends -1 for not set.
        memory_swappiness: fields.opt_integer("MemorySwappiness")?.filter(|value| *value != -1),
        // From 1.42 on Docker ignores it.
        kernel_memory: if version.since(42) { 0 } else { fields.integer("KernelMemory")? },
        kernel_memory_tcp: if version.since(40) { fields.integer("KernelMemoryTCP")? } else { 0 },
        oom_kill_disable: fields.opt_boolean("OomKillDisable")?,
        cpu_shares: fields.integer("CpuShares")?,
        cpu_period: fields.integer("CpuPeriod")?,
        cpu_quota: fields.integer("CpuQuota")?,
        cpu_realtime_period: fields.integer("CpuRealtimePeriod")?,
        cpu_realtime_runtime: fields.integer("CpuRealtimeRuntime")?,
        nano_cpus: fields.integer("NanoCpus")?,
        cpuset_cpus: fields.string("CpusetCpus")?,
        cpuset_mems: fields.string("CpusetMems")?,
        pids_limit: fields.opt_integer("PidsLimit")?.filter(|limit| *limit > 0 && version.since(40)),
        blkio_weight: weight(fields, "BlkioWeight")?,
        blkio_weight_device: device_rates(fields, "BlkioWeightDevice", "Weight")?,
        blkio_rates: {
            let mut next = |at: usize| std::mem::replace(&mut rates[at], Ok(Vec::new()));
            [next(0)?, next(1)?, next(2)?, next(3)?]
        },
        cpu_count: fields.integer("CpuCount")?,
        cpu_percent: fields.integer("CpuPercent")?,
        io_maximum_iops: unsigned(fields, "IOMaximumIOps")?,
        io_maximum_bandwidth: unsigned(fields, "IOMaximumBandwidth")?,
    })
}

fn unsigned(fields: &Fields<'_>, name: &str) -> Result<u64> {
    let number = fields.integer(name)?;
    u64::try_from(number)
        .map_err(|_| ApiError::bad_request(format!("{} must not be negative", fields.path(name))))
}

fn weight(fields: &Fields<'_>, name: &str) -> Result<u16> {
    u16::try_from(fields.integer(name)?)
        .map_err(|_| ApiError::bad_request("Range of blkio weight is from 10 to 1000"))
}

/// A list of `{"Path": …, "Rate": …}`.
fn device_rates(fields: &Fields<'_>, name: &str, number: &str) -> Result<Vec<DeviceRate>> {
    let rate = |item: &Fields<'_>| {
        let path = item.string("Path")?;
        if !path.starts_with('/') {
            let message = format!("{} must be the path of a device", item.path("Path"));
            return Err(ApiError::bad_request(message));
        }
        Ok(DeviceRate { path, rate: unsigned(item, number)? })
    };
    fields.objects(name)?.iter().map(rate).collect()
}

/// Reads `DeviceRequests`: what `--gpus` asks for, and CDI devices.
pub(crate) fn device_requests(fields: &Fields<'_>) -> Result<Vec<DeviceRequest>> {
    let request = |item: &Fields<'_>| {
        Ok(DeviceRequest {
            driver: item.string("Driver")?,
            count: item.integer("Count")?,
            device_ids: item.strings("DeviceIDs")?.unwrap_or_default(),
            capabilities: item.lists("Capabilities")?,
            options: item.string_map("Options")?,
        })
    };
    fields.objects("DeviceRequests")?.iter().map(request).collect()
}

/// The limits as inspect shows them.
pub(crate) fn encode(host: &HostConfig, version: ApiVersion, map: &mut Map<String, Value>) {
    let limits = &host.resources;
    let Value::Object(fields) = json!({
        "CpuShares": limits.cpu_shares,
        "Memory": limits.memory,
        "NanoCpus": limits.nano_cpus,
        "CgroupParent": host.cgroup_parent,
        "BlkioWeight": limits.blkio_weight,
        "BlkioWeightDevice": encode_rates(&limits.blkio_weight_device, "Weight"),
        "CpuPeriod": limits.cpu_period,
        "CpuQuota": limits.cpu_quota,
        "CpuRealtimePeriod": limits.cpu_realtime_period,
        "CpuRealtimeRuntime": limits.cpu_realtime_runtime,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "MemoryReservation": limits.memory_reservation,
        "MemorySwap": limits.memory_swap,
        "MemorySwappiness": limits.memory_swappiness,
        "OomKillDisable": limits.oom_kill_disable,
        "PidsLimit": limits.pids_limit,
        "CpuCount": limits.cpu_count,
        "CpuPercent": limits.cpu_percent,
        "IOMaximumIOps": limits.io_maximum_iops,
        "IOMaximumBandwidth": limits.io_maximum_bandwidth,
    }) else {
        return;
    };
    map.extend(fields);
    for (name, rates) in BLKIO_RATES.into_iter().zip(&limits.blkio_rates) {
        map.insert(name.to_owned(), encode_rates(rates, "Rate"));
    }
    encode_devices(host, map);
    // Left out while nobody set them, from 1.42 on.
    for (name, value) in
        [("KernelMemory", limits.kernel_memory), ("KernelMemoryTCP", limits.kernel_memory_tcp)]
    {
        if value != 0 || !version.since(42) {
            map.insert(name.to_owned(), json!(value));
        }
    }
}

fn encode_rates(rates: &[DeviceRate], number: &str) -> Value {
    rates.iter().map(|device| json!({ "Path": device.path, number: device.rate })).collect()
}

fn encode_devices(host: &HostConfig, map: &mut Map<String, Value>) {
    let devices = host.devices.iter().map(|(on_host, in_container, permissions)| {
        json!({ "PathOnHost": on_host, "PathInContainer": in_container, "CgroupPermissions": permissions })
    });
    let ulimits =
        host.ulimits.iter().map(|(name, soft, hard)| json!({ "Name": name, "Soft": soft, "Hard": hard }));
    let requests: Vec<Value> = host.device_requests.iter().map(encode_request).collect();
    for (name, value) in [
        ("Devices", devices.collect()),
        ("DeviceCgroupRules", or_null(&host.device_cgroup_rules)),
        ("DeviceRequests", if requests.is_empty() { Value::Null } else { json!(requests) }),
        ("Ulimits", ulimits.collect()),
    ] {
        map.insert(name.to_owned(), value);
    }
}

fn encode_request(request: &DeviceRequest) -> Value {
    let list = |empty: bool, value: Value| if empty { Value::Null } else { value };
    json!({
        "Driver": request.driver,
        "Count": request.count,
        "DeviceIDs": list(request.device_ids.is_empty(), json!(request.device_ids)),
        "Capabilities": list(request.capabilities.is_empty(), json!(request.capabilities)),
        "Options": request.options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(value: Value, read: impl FnOnce(&Fields<'_>) -> T) -> T {
        read(&Fields::root(value.as_object().unwrap()))
    }

    #[test]
    fn every_limit_comes_back_from_inspect() {
        let asked = json!({
            "BlkioWeight": 300, "BlkioWeightDevice": [{ "Path": "/dev/sda", "Weight": 200 }],
            "BlkioDeviceReadBps": [{ "Path": "/dev/sda", "Rate": 1 }],
            "BlkioDeviceWriteBps": [{ "Path": "/dev/sda", "Rate": 2 }],
            "BlkioDeviceReadIOps": [{ "Path": "/dev/sda", "Rate": 3 }],
            "BlkioDeviceWriteIOps": [{ "Path": "/dev/sda", "Rate": 4 }],
            "CpuRealtimePeriod": 10, "CpuRealtimeRuntime": 5, "KernelMemoryTCP": 7, "OomKillDisable": true,
            "MemorySwappiness": 0, "CpuCount": 1, "CpuPercent": 2, "IOMaximumIOps": 3, "IOMaximumBandwidth": 4,
            "DeviceRequests": [{
                "Driver": "", "Count": -1, "DeviceIDs": null, "Capabilities": [["gpu", "nvidia"]],
                "Options": { "a": "b" },
            }],
        });
        let version = ApiVersion(50);
        let host = read(asked.clone(), |fields| HostConfig {
            resources: resources(fields, version).unwrap(),
            device_requests: device_requests(fields).unwrap(),
            ..HostConfig::default()
        });
        let mut shown = Map::new();
        encode(&host, version, &mut shown);
        for (name, value) in asked.as_object().unwrap() {
            assert_eq!(&shown[name], value, "{name}");
        }
        assert!(!shown.contains_key("KernelMemory"));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (body, words) in [
            (json!({ "BlkioWeight": 70000 }), "Range of blkio weight is from 10 to 1000"),
            (json!({ "BlkioWeight": -1 }), "Range of blkio weight is from 10 to 1000"),
            (json!({ "BlkioDeviceReadBps": [{ "Path": "sda" }] }), "BlkioDeviceReadBps[0].Path"),
            (json!({ "BlkioDeviceReadBps": [{ "Path": "/dev/sda", "Rate": -1 }] }), "must not be negative"),
            (json!({ "IOMaximumIOps": -1 }), "IOMaximumIOps must not be negative"),
            (json!({ "OomKillDisable": "yes" }), "OomKillDisable must be true or false"),
        ] {
            let error = read(body, |fields| resources(fields, ApiVersion(50))).unwrap_err();
            assert!(error.message().contains(words), "{}", error.message());
        }
        let odd = json!({ "DeviceRequests": [{ "Capabilities": ["gpu"] }] });
        assert!(read(odd, device_requests).unwrap_err().message().contains("Capabilities"));
    }

    #[test]
    fn an_update_lifts_the_pids_limit_and_leaves_the_policy_alone_unless_named() {
        let at = |body: Value, minor| read(body, |fields| decode_update(fields, ApiVersion(minor)));
        let body =
            json!({ "PidsLimit": -1, "RestartPolicy": { "Name": "" }, "KernelMemory": 1, "Devices": null });
        let update = at(body.clone(), 50).unwrap();
        assert_eq!((update.resources.pids_limit, update.resources.kernel_memory), (Some(0), 0));
        assert_eq!(update.restart_policy, None);
        let update = at(body, 39).unwrap();
        assert_eq!((update.resources.pids_limit, update.resources.kernel_memory), (None, 1));
        // What clients send that fill in every field.
        let empty = json!({
            "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": [], "Ulimits": [], "CgroupParent": "",
            "Init": false, "BlkioWeightDevice": [], "BlkioDeviceReadBps": null, "NanoCpus": 0, "Memory": 0,
            "OomKillDisable": null, "MemorySwappiness": null, "PidsLimit": null, "CpusetCpus": "", "RestartPolicy": {},
        });
        assert_eq!(at(empty, 50).unwrap().resources, Resources::default());
        let named = at(json!({ "RestartPolicy": { "Name": "always" } }), 50).unwrap();
        assert_eq!(named.restart_policy, Some(hostd_engine::model::RestartPolicy::Always));
        let ulimits = json!({ "Ulimits": [{ "Name": "nofile", "Soft": 1, "Hard": 1 }] });
        assert!(at(ulimits, 50).unwrap_err().message().contains("Ulimits"));
    }
}
