//! Devices that are asked for by what they can do or by their name in a vendor's description (CDI).

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::model::DeviceRequest;
use hostd_runtime::cdi::Registry;
use hostd_runtime::spec::ContainerSpec;

/// The kind under which NVIDIA's tools describe GPUs.
const NVIDIA: &str = "nvidia.com/gpu";
/// What can be asked for of them.
const NVIDIA_CAPABILITIES: [&str; 8] =
    ["gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display"];

/// A device that a driver has found, for `info`.
#[derive(Clone, Debug)]
pub struct DiscoveredDevice {
    /// `cdi`.
    pub source: &'static str,
    /// Qualified name.
    pub id: String,
}

impl Engine {
    /// Gives a container the devices that were requested.
    pub(crate) fn give_devices(&self, requests: &[DeviceRequest], spec: &mut ContainerSpec) -> Result<()> {
        if requests.is_empty() {
            return Ok(());
        }
        let registry = Registry::load(&self.0.config.cdi_spec_dirs);
        for (file, error) in registry.errors() {
            tracing::warn!(file = %file.display(), error, "unusable CDI specification");
        }
        for request in requests {
            let names = names(request, &registry)?;
            registry
                .inject(spec, &names)
                .map_err(|error| EngineError::internal(format!("CDI device injection failed: {error}")))?;
        }
        Ok(())
    }

    /// What the drivers have found, and what is wrong with their files.
    pub(crate) fn discover_devices(&self) -> (Vec<DiscoveredDevice>, Vec<String>) {
        let registry = Registry::load(&self.0.config.cdi_spec_dirs);
        let devices = registry.devices().map(|id| DiscoveredDevice { source: "cdi", id: id.to_owned() });
        let warning = |(file, error): &(std::path::PathBuf, String)| {
            format!("CDI: Error associated with spec file {}: {error}", file.display())
        };
        (devices.collect(), registry.errors().iter().map(warning).collect())
    }
}

/// Qualified names of the devices that a request means.
fn names(request: &DeviceRequest, registry: &Registry) -> Result<Vec<String>> {
    match request.driver.as_str() {
        "cdi" if request.count != 0 => Err(EngineError::invalid("unexpected count in CDI device request")),
        "cdi" if !request.options.is_empty() => {
            Err(EngineError::invalid("unexpected options in CDI device request"))
        }
        "cdi" => Ok(request.device_ids.clone()),
        "" | "nvidia" if has_capabilities(request) => gpus(request, registry),
        _ => Err(no_driver(request)),
    }
}

/// One of the alternatives must be ours as a whole.
fn has_capabilities(request: &DeviceRequest) -> bool {
    let ours = |set: &Vec<String>| set.iter().all(|name| NVIDIA_CAPABILITIES.contains(&name.as_str()));
    request.capabilities.iter().any(ours)
}

fn no_driver(request: &DeviceRequest) -> EngineError {
    let sets: Vec<_> = request.capabilities.iter().map(|set| format!("[{}]", set.join(" "))).collect();
    EngineError::internal(format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request.driver,
        sets.join(" ")
    ))
}

/// NVIDIA's GPUs, where their description is there.
fn gpus(request: &DeviceRequest, registry: &Registry) -> Result<Vec<String>> {
    let prefix = format!("{NVIDIA}=");
    let known: Vec<&str> = registry.devices().filter_map(|name| name.strip_prefix(&prefix)).collect();
    if known.is_empty() {
        return Err(no_driver(request));
    }
    if !request.options.is_empty() {
        return Err(EngineError::unsupported(
            "HostConfig.DeviceRequests with Options is not supported by this engine",
        ));
    }
    if request.count != 0 && !request.device_ids.is_empty() {
        return Err(EngineError::invalid("cannot set both Count and DeviceIDs on device request"));
    }
    let named = |name: &str| format!("{prefix}{name}");
    if !request.device_ids.is_empty() {
        return Ok(request.device_ids.iter().map(|id| named(id)).collect());
    }
    if request.count < 0 && known.contains(&"all") {
        return Ok(vec![named("all")]);
    }
    // Each GPU is described by its number, and often by its UUID too.
    let mut numbers: Vec<u32> = known.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    let wanted = usize::try_from(request.count).unwrap_or(numbers.len());
    if wanted > numbers.len() {
        return Err(EngineError::invalid(format!(
            "{wanted} GPUs are asked for, and {} are described",
            numbers.len()
        )));
    }
    Ok(numbers.iter().take(wanted).map(|number| named(&number.to_string())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(driver: &str, count: i64, ids: &[&str], capabilities: &[&[&str]]) -> DeviceRequest {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        DeviceRequest {
            driver: driver.to_owned(),
            count,
            device_ids: owned(ids),
            capabilities: capabilities.iter().map(|set| owned(set)).collect(),
            ..DeviceRequest::default()
        }
    }

    fn registry(names: &[&str]) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let devices: Vec<_> = names.iter().map(|name| serde_json::json!({ "name": name })).collect();
        if !devices.is_empty() {
            let text = serde_json::json!({ "cdiVersion": "0.5.0", "kind": NVIDIA, "devices": devices });
            std::fs::write(dir.path().join("nvidia.json"), text.to_string()).unwrap();
        }
        Registry::load(&[dir.path().to_owned()])
    }

    #[test]
    fn gpus_are_chosen_by_count_and_by_name() {
        let full = registry(&["0", "1", "10", "2", "all", "GPU-77"]);
        let chosen = |count, ids: &[&str]| names(&request("", count, ids, &[&["gpu"]]), &full);
        let list = |ids: &[&str]| ids.iter().map(|id| format!("{NVIDIA}={id}")).collect::<Vec<_>>();
        assert_eq!(chosen(-1, &[]).unwrap(), list(&["all"]));
        assert_eq!(chosen(3, &[]).unwrap(), list(&["0", "1", "2"]));
        assert_eq!(chosen(0, &["GPU-77", "1"]).unwrap(), list(&["GPU-77", "1"]));
        assert!(chosen(5, &[]).is_err() && chosen(1, &["0"]).is_err());
        let without_all = registry(&["0", "1"]);
        assert_eq!(names(&request("nvidia", -1, &[], &[&["gpu"]]), &without_all).unwrap(), list(&["0", "1"]));
    }

    #[test]
    fn without_a_driver_the_request_is_refused_in_dockers_words() {
        let none = registry(&[]);
        let refusal = |request| names(&request, &none).unwrap_err().message;
        assert_eq!(
            refusal(request("", -1, &[], &[&["gpu"]])),
            "could not select device driver \"\" with capabilities: [[gpu]]"
        );
        assert_eq!(
            refusal(request("fpga", 0, &[], &[&["a", "b"], &["c"]])),
            "could not select device driver \"fpga\" with capabilities: [[a b] [c]]"
        );
        assert_eq!(refusal(request("cdi", 1, &["x"], &[])), "unexpected count in CDI device request");
        assert_eq!(names(&request("cdi", 0, &["v.com/c=x"], &[]), &none).unwrap(), ["v.com/c=x"]);
    }
}
