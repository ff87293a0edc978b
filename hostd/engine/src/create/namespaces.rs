//! Whose namespaces a container lives in: its own, the host's, another container's.

use super::options::refuse;
use crate::error::Result;
use crate::model::{ContainerConfig, HostConfig};

/// The container that `container:<name>` names.
pub(crate) fn target_container(mode: &str) -> Option<&str> {
    mode.strip_prefix("container:")
}

/// Whether the namespace is the host's.
pub(crate) fn is_host(mode: &str) -> bool {
    mode == "host"
}

/// Whether other containers may join this one's IPC namespace: one that is private or has no `/dev/shm` keeps them out.
pub(crate) fn is_shareable(ipc_mode: &str) -> bool {
    !matches!(ipc_mode, "" | "private" | "none")
}

/// Whether a container of a daemon that remaps users (`userns`) runs in a user namespace.
pub(crate) fn in_userns(host: &HostConfig, userns: bool) -> bool {
    userns && !is_host(&host.userns_mode)
}

/// Refuses modes that do not exist and those that contradict each other, in Docker's words.
pub(super) fn check(config: &ContainerConfig, host: &HostConfig, userns: bool) -> Result<()> {
    let names_one = |mode: &str| target_container(mode).is_some_and(|target| !target.is_empty());
    match host.ipc_mode.as_str() {
        "none" | "private" | "shareable" | "host" => {}
        mode if names_one(mode) => {}
        other => return refuse(format!("invalid IPC mode: {other}")),
    }
    match host.pid_mode.as_str() {
        "" | "private" | "host" => {}
        mode if names_one(mode) => {}
        other => return refuse(format!("invalid PID mode: {other}")),
    }
    match host.uts_mode.as_str() {
        "" | "private" => {}
        "host" if !config.hostname.is_empty() => {
            return refuse("conflicting options: hostname and the UTS mode");
        }
        "host" => {}
        other => return refuse(format!("invalid UTS mode: {other}")),
    }
    match host.cgroupns_mode.as_str() {
        "private" | "host" => {}
        other => return refuse(format!("invalid cgroup namespace mode: {other}")),
    }
    match host.userns_mode.as_str() {
        "" | "private" | "host" => {}
        other => return refuse(format!("invalid user namespace mode: {other}")),
    }
    if in_userns(host, userns) { check_remapped(host) } else { Ok(()) }
}

/// What a container whose root is not the host's cannot have.
fn check_remapped(host: &HostConfig) -> Result<()> {
    if host.privileged {
        return refuse(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host \
             namespace when running privileged mode",
        );
    }
    if is_host(&host.network_mode) {
        return refuse("cannot share the host's network namespace when user namespaces are enabled");
    }
    if is_host(&host.pid_mode) {
        return refuse("cannot share the host PID namespace when user namespaces are enabled");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_do_not_exist_are_refused() {
        let known = |change: &dyn Fn(&mut HostConfig)| {
            let mut host = HostConfig {
                ipc_mode: "private".to_owned(),
                cgroupns_mode: "private".to_owned(),
                ..HostConfig::default()
            };
            change(&mut host);
            check(&ContainerConfig::default(), &host, false).map_err(|error| error.message)
        };
        for mode in ["none", "private", "shareable", "host", "container:x"] {
            assert!(known(&|host| mode.clone_into(&mut host.ipc_mode)).is_ok(), "{mode}");
        }
        for (field, words) in [
            ("ipc", "invalid IPC mode: container:"),
            ("pid", "invalid PID mode: container:"),
            ("uts", "invalid UTS mode: container:"),
            ("cgroup", "invalid cgroup namespace mode: container:"),
            ("user", "invalid user namespace mode: container:"),
        ] {
            let set = |host: &mut HostConfig| {
                let mode = match field {
                    "ipc" => &mut host.ipc_mode,
                    "pid" => &mut host.pid_mode,
                    "uts" => &mut host.uts_mode,
                    "cgroup" => &mut host.cgroupns_mode,
                    _ => &mut host.userns_mode,
                };
                "container:".clone_into(mode);
            };
            assert_eq!(known(&set), Err(words.to_owned()));
        }
    }

    #[test]
    fn a_remapped_container_shares_neither_network_nor_pids_with_the_host() {
        let refused = |host: HostConfig| check_remapped(&host).unwrap_err().message;
        let host = HostConfig::default;
        let network = HostConfig { network_mode: "host".to_owned(), ..host() };
        assert!(refused(network).contains("network namespace"));
        assert!(refused(HostConfig { pid_mode: "host".to_owned(), ..host() }).contains("PID namespace"));
        assert!(refused(HostConfig { privileged: true, ..host() }).contains("privileged mode"));
        let out = HostConfig { userns_mode: "host".to_owned(), ..host() };
        assert!(!in_userns(&out, true) && in_userns(&host(), true) && !in_userns(&host(), false));
    }
}
