//! The security modules of the machine, as containers and `info` see them.

use crate::Engine;
use crate::error::{EngineError, Result};
use hostd_runtime::apparmor;

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

    /// `SecurityOptions` of `info`.
    pub(crate) fn security_features(&self) -> Vec<String> {
        let defaults = &self.0.config.defaults;
        let mut features = Vec::new();
        if apparmor::is_enabled() && apparmor::parser().is_some() {
            features.push("name=apparmor".to_owned());
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
