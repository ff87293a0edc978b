//! The security modules of the machine, as containers and `info` see them.

use crate::Engine;
use crate::create::{SecurityDefaults, is_host, security_options, target_container};
use crate::error::{EngineError, Result, io};
use crate::model::{ContainerRecord, HostConfig, MountType};
use hostd_runtime::apparmor;
use hostd_runtime::selinux::{self, Policy};
use hostd_runtime::spec::Labels;
use std::path::Path;

/// The profile that takes nothing away.
const UNCONFINED: &str = "unconfined";

impl Engine {
    /// The AppArmor profile of a container that asks for `asked`, loaded where it is our own. Blocks while it is.
    pub(crate) fn apparmor_profile(&self, asked: Option<String>, privileged: bool) -> Result<Option<String>> {
        let asked = asked.filter(|name| !name.is_empty());
        if !apparmor::is_enabled() {
            return match asked {
                Some(name) if name != UNCONFINED => Err(EngineError::invalid(format!(
                    "AppArmor is not supported on this host, but the profile '{name}' was specified"
                ))),
                _ => Ok(None),
            };
        }
        let name = match asked {
            Some(name) => name,
            None if privileged => UNCONFINED.to_owned(),
            // Where our own cannot be loaded, `info` says so.
            None if apparmor::parser().is_none() => return Ok(None),
            None => apparmor::DEFAULT_PROFILE.to_owned(),
        };
        if name == apparmor::DEFAULT_PROFILE {
            apparmor::ensure_default().map_err(|error| {
                EngineError::internal(
                    "AppArmor enabled on system but the docker-default profile could not be loaded",
                )
                .caused_by(error)
            })?;
        }
        Ok(Some(name))
    }

    /// The SELinux labels of a new container; empty where containers get none. Their level is taken for it.
    pub(crate) fn labels_for(&self, host: &HostConfig) -> Result<Labels> {
        let Some(policy) = &self.0.selinux else { return Ok(Labels::default()) };
        let mut options = security_options(host, &self.0.config.defaults.security)?.labels;
        if options.is_empty() {
            options = self.usual_labels(host)?;
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        policy.labels(&options, &self.0.levels).map_err(EngineError::invalid)
    }

    /// What goes for a container that says nothing about its labels: none for one that sees the host's processes, and
    /// those of a container whose namespaces it shares.
    fn usual_labels(&self, host: &HostConfig) -> Result<Vec<String>> {
        if host.privileged || is_host(&host.pid_mode) || is_host(&host.ipc_mode) {
            return Ok(vec!["disable".to_owned()]);
        }
        let of = |mode: &str| -> Result<Option<Vec<String>>> {
            let Some(target) = target_container(mode) else { return Ok(None) };
            Ok(Some(selinux::options_of(&self.container(target)?.record().process_label)))
        };
        match (of(&host.ipc_mode)?, of(&host.pid_mode)?) {
            (Some(ipc), Some(pid)) if ipc != pid => {
                Err(EngineError::invalid("--ipc and --pid containers SELinux labels aren't the same"))
            }
            (ipc, pid) => Ok(ipc.or(pid).unwrap_or_default()),
        }
    }

    /// `SecurityOptions` of `info`.
    pub(crate) fn security_features(&self) -> Vec<String> {
        let defaults = &self.0.config.defaults;
        let mut features = Vec::new();
        if apparmor::is_enabled() && apparmor::parser().is_some() {
            features.push("name=apparmor".to_owned());
        }
        if self.0.selinux.is_some() {
            features.push("name=selinux".to_owned());
        }
        features.push(format!("name=seccomp,profile={}", defaults.security.seccomp.name()));
        for (on, name) in [
            (defaults.id_map.is_some(), "name=userns"),
            (defaults.cgroupns_mode == "private", "name=cgroupns"),
            (defaults.security.no_new_privileges, "name=no-new-privileges"),
        ] {
            if on {
                features.push(name.to_owned());
            }
        }
        features
    }

    /// What `info` warns of.
    pub(crate) fn security_warnings() -> Option<String> {
        (apparmor::is_enabled() && apparmor::parser().is_none()).then(|| {
            "WARNING: AppArmor is enabled, but apparmor_parser is missing: containers run without a profile".to_owned()
        })
    }
}

/// The labels that containers get, where they are asked for and the host has any.
pub(crate) fn selinux_policy(defaults: &SecurityDefaults) -> Option<Policy> {
    if !defaults.selinux {
        return None;
    }
    if !selinux::is_enabled() {
        tracing::warn!("SELinux is not enabled on this host: containers get no labels");
        return None;
    }
    Policy::load().inspect_err(|error| tracing::warn!(error, "containers get no SELinux labels")).ok()
}

/// Whether security modules make the engine read files for every container.
pub(crate) fn reads_files() -> bool {
    apparmor::is_enabled()
}

/// Gives the engine's own files a container's label, and those of mounts that ask for it (`:z`, `:Z`).
pub(crate) fn label_files(record: &ContainerRecord) -> Result<()> {
    let label = &record.mount_label;
    if label.is_empty() || !selinux::is_enabled() {
        return Ok(());
    }
    for path in [&record.hostname_path, &record.hosts_path, &record.resolv_conf_path] {
        selinux::relabel(Path::new(path), label, false).map_err(io(format!("cannot label {path}")))?;
    }
    for point in record.mounts.iter().filter(|point| point.kind != MountType::Tmpfs) {
        let shared = point.mode.split(',').any(|part| part == "z");
        if shared || point.mode.split(',').any(|part| part == "Z") {
            let source = &point.source;
            selinux::relabel(Path::new(source), label, shared).map_err(|cause| {
                EngineError::invalid(format!("error setting label on mount source '{source}'"))
                    .caused_by(cause)
            })?;
        }
    }
    Ok(())
}
