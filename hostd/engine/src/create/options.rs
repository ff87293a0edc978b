//! The options of a container: defaults filled in, contradictions and what is not supported refused.

use super::limits::{self, Purpose};
use super::namespaces::target_container;
use super::{namespaces, security};
use crate::error::{EngineError, Result};
use crate::logs::Setup;
use crate::machine::Machine;
use crate::model::{ContainerConfig, HostConfig, RestartPolicy};
use crate::runtimes::Runtimes;
use crate::{Defaults, health, signals};

pub(super) fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(EngineError::invalid(message))
}

pub(super) fn unsupported<T>(field: &str, value: &str) -> Result<T> {
    Err(EngineError::unsupported(format!("{field} {value:?} is not supported by this engine")))
}

/// Checks all that can be checked before anything is made; gives warnings for the client. `asks_ports`: the client
/// exposes ports, besides those of the image, which are in `config` too.
pub(super) fn check(
    config: &ContainerConfig,
    asks_ports: bool,
    host: &mut HostConfig,
    machine: &Machine,
    defaults: &Defaults,
) -> Result<Vec<String>> {
    check_config(config)?;
    fill_in(host, machine, defaults);
    check_network(config, host, asks_ports)?;
    namespaces::check(config, host, defaults.id_map.is_some())?;
    security::check(host, &defaults.security)?;
    check_sysctls(host)?;
    check_ulimits(host)?;
    check_devices(host)?;
    Setup::read(&host.log_driver, &host.log_options)?;
    if host.auto_remove && host.restart_policy != RestartPolicy::No {
        return refuse("can't create 'AutoRemove' container with restart policy");
    }
    if host.oom_score_adj.is_some_and(|adj| !(-1000..=1000).contains(&adj)) {
        return refuse(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj.unwrap_or_default()
        ));
    }
    let mut warnings = limits::check(&mut host.resources, machine, Purpose::Create)?;
    let published = !host.port_bindings.is_empty() || host.publish_all_ports;
    if published && ["host", "none"].contains(&host.network_mode.as_str()) {
        warnings.push(format!("Published ports are discarded when using {} network mode", host.network_mode));
    }
    Ok(warnings)
}

fn check_config(config: &ContainerConfig) -> Result<()> {
    if let Some(signal) = &config.stop_signal {
        signals::parse(signal)?;
    }
    if let Some(check) = &config.healthcheck {
        health::validate(check)?;
    }
    if let Some(bad) = config.env.iter().find(|v| v.is_empty() || v.starts_with('=')) {
        return refuse(format!("invalid environment variable: {bad}"));
    }
    let nul = |text: &String| text.contains('\0');
    let lists = [Some(&config.env), config.cmd.as_ref(), config.entrypoint.as_ref()];
    if lists.into_iter().flatten().flatten().any(nul) || nul(&config.user) || nul(&config.working_dir) {
        return refuse("strings that go to a program cannot hold a zero byte");
    }
    let label = |part: &str| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-');
    let good = config.hostname.len() <= 64
        && config.hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        && (config.hostname.is_empty() || config.hostname.split('.').all(label));
    if !good {
        return refuse(format!("invalid hostname: {}", config.hostname));
    }
    Ok(())
}

/// What Docker's inspect shows where the client gave nothing.
fn fill_in(host: &mut HostConfig, machine: &Machine, defaults: &Defaults) {
    if matches!(host.network_mode.as_str(), "" | "default") {
        "bridge".clone_into(&mut host.network_mode);
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode.clone_from(&defaults.ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        // As Docker: a privileged container on cgroup v1 is expected to see the host's tree.
        let shared = host.privileged && machine.cgroup_version == 1;
        let mode = if shared { "host" } else { &defaults.cgroupns_mode };
        mode.clone_into(&mut host.cgroupns_mode);
    }
    if defaults.init {
        host.init.get_or_insert(true);
    }
    if host.log_driver.is_empty() {
        "json-file".clone_into(&mut host.log_driver);
    }
    host.shm_size = Some(host.shm_size.filter(|size| *size > 0).or(defaults.shm_size).unwrap_or(64 << 20));
    let resources = &mut host.resources;
    if resources.memory > 0 && resources.memory_swap == 0 {
        resources.memory_swap = resources.memory.saturating_mul(2);
    }
    if resources.pids_limit == Some(0) {
        resources.pids_limit = None;
    }
    resources.oom_kill_disable.get_or_insert(false);
    if resources.memory_swappiness == Some(-1) {
        resources.memory_swappiness = None;
    }
}

fn check_network(config: &ContainerConfig, host: &HostConfig, asks_ports: bool) -> Result<()> {
    let mode = host.network_mode.as_str();
    if let Some(target) = target_container(mode) {
        if target.is_empty() {
            return refuse("invalid container format container:<name|id>");
        }
        if !config.hostname.is_empty() {
            return refuse("conflicting options: hostname and the network mode");
        }
        if !host.dns.is_empty() {
            return refuse("conflicting options: dns and the network mode");
        }
        if !host.extra_hosts.is_empty() {
            return refuse("conflicting options: custom host-to-IP mapping and the network mode");
        }
        if !host.port_bindings.is_empty() || host.publish_all_ports {
            return refuse("conflicting options: port publishing and the container type network mode");
        }
        if asks_ports {
            return refuse("conflicting options: port exposing and the container type network mode");
        }
    } else if !matches!(mode, "bridge" | "host" | "none") {
        // Not `NotFound`: of a create, clients take that for a missing image, and pull it.
        return Err(EngineError::invalid(format!("network {mode} not found")));
    }
    if config.network_disabled && mode != "none" && mode != "bridge" {
        return unsupported("NetworkDisabled with HostConfig.NetworkMode", mode);
    }
    for ports in host.port_bindings.values().flatten().filter_map(|binding| binding.host_ports) {
        if ports.0 == 0 || ports.0 > ports.1 {
            return refuse(format!("invalid port range: {}-{}", ports.0, ports.1));
        }
    }
    for entry in &host.extra_hosts {
        parse_extra_host(entry)?;
    }
    Ok(())
}

/// `name:address` or `name=address`; the address may be `host-gateway`.
pub(crate) fn parse_extra_host(entry: &str) -> Result<(&str, &str)> {
    let bad = || EngineError::invalid(format!("bad format for add-host: \"{entry}\""));
    let (name, address) = entry.split_once(['=', ':']).ok_or_else(bad)?;
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if name.is_empty() {
        return Err(bad());
    }
    if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
        return Err(EngineError::invalid(format!("invalid IP address in add-host: \"{address}\"")));
    }
    Ok((name, address))
}

/// A fixed MAC makes sense only on a network of the container's own.
pub(super) fn check_mac(mac: Option<&str>, host: &HostConfig) -> Result<()> {
    let Some(mac) = mac.filter(|mac| !mac.is_empty()) else { return Ok(()) };
    let bytes: Vec<_> =
        mac.split([':', '-']).map(|part| (part.len(), u8::from_str_radix(part, 16))).collect();
    if bytes.len() != 6 || bytes.iter().any(|(len, byte)| *len != 2 || byte.is_err()) {
        return refuse(format!("invalid MAC address: {mac}"));
    }
    if host.network_mode == "bridge" {
        Ok(())
    } else {
        refuse("conflicting options: mac-address and the network mode")
    }
}

/// The runtime by its name, the default's where there was none.
pub(super) fn check_runtime(host: &mut HostConfig, runtimes: &Runtimes) -> Result<()> {
    if host.runtime.is_empty() {
        runtimes.default_name().clone_into(&mut host.runtime);
    }
    runtimes.find(&host.runtime)?;
    Ok(())
}

fn check_sysctls(host: &HostConfig) -> Result<()> {
    const IPC: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    for key in host.sysctls.keys() {
        let refuse_in =
            |namespace: &str| refuse(format!("sysctl {key:?} not allowed in host {namespace} namespace"));
        if key.contains("..") || key.contains('/') {
            return refuse(format!("sysctl {key:?} is not a valid name"));
        }
        if key.starts_with("net.") {
            if host.network_mode == "host" {
                return refuse_in("network");
            }
        } else if key.starts_with("fs.mqueue.")
            || key.strip_prefix("kernel.").is_some_and(|k| IPC.contains(&k))
        {
            if host.ipc_mode == "host" {
                return refuse_in("ipc");
            }
        } else {
            return refuse(format!("sysctl {key:?} is not in a separate kernel namespace"));
        }
    }
    Ok(())
}

fn check_ulimits(host: &HostConfig) -> Result<()> {
    host.ulimits.iter().try_for_each(check_ulimit)
}

/// Checks one of `(name, soft, hard)`.
///
/// # Errors
/// In Docker's words.
pub fn check_ulimit((name, soft, hard): &(String, i64, i64)) -> Result<()> {
    const KNOWN: [&str; 16] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
        "as",
    ];
    if !KNOWN.contains(&name.as_str()) {
        return refuse(format!("invalid ulimit type: {name}"));
    }
    if *hard != -1 && (*soft == -1 || soft > hard) {
        return refuse(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(())
}

fn check_devices(host: &HostConfig) -> Result<()> {
    for (on_host, inside, permissions) in &host.devices {
        for path in [on_host, inside] {
            if !path.starts_with('/') {
                return refuse(format!("bad format for path: {path:?} is not an absolute path"));
            }
        }
        if permissions.is_empty() || !permissions.chars().all(|c| "rwm".contains(c)) {
            return refuse(format!("invalid device mode: {permissions}"));
        }
    }
    for rule in &host.device_cgroup_rules {
        let parts: Vec<&str> = rule.split(' ').collect();
        let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
        let good = match parts[..] {
            [kind, numbers, access] => {
                matches!(kind, "a" | "b" | "c")
                    && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                    && (1..=3).contains(&access.len())
                    && access.chars().all(|c| "rwm".contains(c))
            }
            _ => false,
        };
        if !good {
            return refuse(format!("invalid device cgroup rule format: '{rule}'"));
        }
    }
    Ok(())
}

/// `10m`, `64k`, `1g`, `512`, with or without a `b` behind.
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, shift) = match bare.chars().last()? {
        'k' => (&bare[..bare.len() - 1], 10),
        'm' => (&bare[..bare.len() - 1], 20),
        'g' => (&bare[..bare.len() - 1], 30),
        't' => (&bare[..bare.len() - 1], 40),
        _ => (bare, 0),
    };
    let number: f64 = digits.trim().parse().ok().filter(|n: &f64| *n >= 0.0 && n.is_finite())?;
    Some((number * (1_u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn sysctls_must_belong_to_a_namespace_of_the_container() {
        let check = |key: &str, network: &str| {
            check_sysctls(&HostConfig {
                sysctls: options(&[(key, "1")]),
                network_mode: network.to_owned(),
                ..HostConfig::default()
            })
        };
        assert!(check("net.core.somaxconn", "bridge").is_ok());
        assert!(check("net.core.somaxconn", "host").is_err());
        assert!(check("kernel.shmmax", "bridge").is_ok());
        assert!(check("kernel.panic", "bridge").is_err());
        assert!(check("net/../../x", "bridge").is_err());
    }

    #[test]
    fn extra_hosts_are_names_and_addresses() {
        assert_eq!(parse_extra_host("db:10.0.0.1").unwrap(), ("db", "10.0.0.1"));
        assert_eq!(parse_extra_host("db=[::1]").unwrap(), ("db", "::1"));
        assert_eq!(parse_extra_host("me:host-gateway").unwrap(), ("me", "host-gateway"));
        assert_eq!(parse_extra_host("db").unwrap_err().message, "bad format for add-host: \"db\"");
        assert_eq!(parse_extra_host("db:x").unwrap_err().message, "invalid IP address in add-host: \"x\"");
    }

    #[test]
    fn contradictions_are_refused() {
        let check = |config: ContainerConfig, mut host: HostConfig| {
            check(&config, false, &mut host, &Machine::everything(2), &Defaults::default())
                .map(drop)
                .unwrap_err()
                .message
        };
        let (config, host) = (ContainerConfig::default, HostConfig::default);
        let always = HostConfig { auto_remove: true, restart_policy: RestartPolicy::Always, ..host() };
        assert_eq!(check(config(), always), "can't create 'AutoRemove' container with restart policy");
        let joined = HostConfig { network_mode: "container:x".to_owned(), publish_all_ports: true, ..host() };
        assert_eq!(
            check(config(), joined),
            "conflicting options: port publishing and the container type network mode"
        );
        let backend = HostConfig { network_mode: "backend".to_owned(), ..host() };
        assert_eq!(check(config(), backend), "network backend not found");
        let named = ContainerConfig { hostname: "-x".to_owned(), ..config() };
        assert_eq!(check(named, host()), "invalid hostname: -x");
        let ulimit = HostConfig { ulimits: vec![("nofile".to_owned(), 5, 3)], ..host() };
        assert_eq!(
            check(config(), ulimit),
            "ulimit soft limit must be less than or equal to hard limit: 5 > 3"
        );
    }
}
