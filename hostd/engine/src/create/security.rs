//! `HostConfig.SecurityOpt`, and what the daemon gives those containers that do not say.

use crate::error::{EngineError, Result};
use crate::model::HostConfig;
use hostd_runtime::capabilities::CapSet;
use hostd_runtime::selinux;
use hostd_runtime::spec::Seccomp;
use std::path::PathBuf;

/// The daemon's default system call filter (`--seccomp-profile`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// Docker's own.
    #[default]
    Builtin,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON format.
    File {
        /// Where it was read.
        path: PathBuf,
        /// What it says.
        text: String,
    },
}

impl SeccompProfile {
    /// As `info` names it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Builtin => "builtin".to_owned(),
            Self::Unconfined => "unconfined".to_owned(),
            Self::File { path, .. } => path.to_string_lossy().into_owned(),
        }
    }

    fn filter(&self) -> Seccomp {
        match self {
            Self::Builtin => Seccomp::Default,
            Self::Unconfined => Seccomp::Unconfined,
            Self::File { text, .. } => Seccomp::Profile(text.clone()),
        }
    }
}

/// What containers get that do not say.
#[derive(Clone, Debug, Default)]
pub struct SecurityDefaults {
    /// System call filter.
    pub seccomp: SeccompProfile,
    /// `--no-new-privileges`.
    pub no_new_privileges: bool,
    /// SELinux labels, where the host has a policy with any (`--selinux-enabled`).
    pub selinux: bool,
}

/// What `--security-opt` asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct SecurityOptions {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
    /// Name of the AppArmor profile, where one was asked for.
    pub(crate) apparmor: Option<String>,
    /// Let the container write to its own cgroup.
    pub(crate) writable_cgroups: bool,
    /// What is to be other than usual about its SELinux labels.
    pub(crate) labels: Vec<String>,
}

/// Checks capabilities and security options.
pub(super) fn check(host: &HostConfig, defaults: &SecurityDefaults) -> Result<()> {
    CapSet::for_container(host.privileged, &host.cap_add, &host.cap_drop)
        .map_err(|message| EngineError::invalid(message.replace('"', "")))?;
    security_options(host, defaults).map(drop)
}

/// Reads `HostConfig.SecurityOpt`.
pub(crate) fn security_options(host: &HostConfig, defaults: &SecurityDefaults) -> Result<SecurityOptions> {
    let mut options = SecurityOptions {
        no_new_privileges: defaults.no_new_privileges,
        // A privileged container has a filter only if it asks for one.
        seccomp: if host.privileged { Seccomp::Unconfined } else { defaults.seccomp.filter() },
        apparmor: None,
        writable_cgroups: host.privileged,
        labels: Vec::new(),
    };
    for option in &host.security_opt {
        match option.as_str() {
            "no-new-privileges" => {
                options.no_new_privileges = true;
                continue;
            }
            // The oldest spelling of `label=disable`.
            "disable" => {
                options.labels.push("disable".to_owned());
                continue;
            }
            _ => {}
        }
        let invalid = |step| EngineError::invalid(format!("invalid --security-opt {step}: {option:?}"));
        // The colon is the older spelling.
        let (key, value) =
            option.split_once('=').or_else(|| option.split_once(':')).ok_or_else(|| invalid(1))?;
        match key {
            "no-new-privileges" => options.no_new_privileges = boolean(value).ok_or_else(|| invalid(2))?,
            "writable-cgroups" => options.writable_cgroups = boolean(value).ok_or_else(|| invalid(2))?,
            "seccomp" => options.seccomp = filter(value)?,
            "apparmor" => options.apparmor = Some(value.to_owned()),
            "label" => {
                selinux::check_option(value).map_err(EngineError::invalid)?;
                options.labels.push(value.to_owned());
            }
            _ => return Err(invalid(2)),
        }
    }
    Ok(options)
}

/// What Go's `strconv.ParseBool` takes.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn filter(profile: &str) -> Result<Seccomp> {
    match profile {
        "unconfined" => Ok(Seccomp::Unconfined),
        "builtin" | "default" => Ok(Seccomp::Default),
        text => {
            // Whether it is JSON at all; as values it would take many times its size.
            serde_json::from_str::<serde::de::IgnoredAny>(text)
                .map_err(|e| EngineError::invalid("Decoding seccomp profile failed").caused_by(e))?;
            Ok(Seccomp::Profile(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &[&str], defaults: &SecurityDefaults) -> Result<SecurityOptions> {
        let security_opt = list.iter().map(|s| (*s).to_owned()).collect();
        security_options(&HostConfig { security_opt, ..HostConfig::default() }, defaults)
    }

    #[test]
    fn security_options_are_read_or_refused() {
        let read = |list: &[&str]| read(list, &SecurityDefaults::default());
        assert!(read(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(!read(&["no-new-privileges:true", "no-new-privileges=false"]).unwrap().no_new_privileges);
        assert_eq!(read(&["seccomp:unconfined"]).unwrap().seccomp, Seccomp::Unconfined);
        assert_eq!(read(&["seccomp={}"]).unwrap().seccomp, Seccomp::Profile("{}".to_owned()));
        assert_eq!(read(&["apparmor=mine"]).unwrap().apparmor.as_deref(), Some("mine"));
        assert!(read(&["writable-cgroups=true"]).unwrap().writable_cgroups);
        let labels =
            read(&["disable", "label=disable", "label:type:spc_t", "label=level:s0:c1,c2"]).unwrap().labels;
        assert_eq!(labels, ["disable", "disable", "type:spc_t", "level:s0:c1,c2"]);
        for bad in
            ["seccomp={", "label=purple", "label=user:", "colour=red", "seccomp", "no-new-privileges=maybe"]
        {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_daemons_defaults_hold_unless_a_container_says_otherwise() {
        let file = SeccompProfile::File { path: "/p.json".into(), text: "{}".to_owned() };
        let defaults = SecurityDefaults { seccomp: file, no_new_privileges: true, selinux: false };
        let got = read(&[], &defaults).unwrap();
        assert_eq!((got.no_new_privileges, got.seccomp), (true, Seccomp::Profile("{}".to_owned())));
        let got = read(&["no-new-privileges=false", "seccomp=builtin"], &defaults).unwrap();
        assert_eq!((got.no_new_privileges, got.seccomp), (false, Seccomp::Default));
        let privileged = HostConfig { privileged: true, ..HostConfig::default() };
        assert_eq!(security_options(&privileged, &defaults).unwrap().seccomp, Seccomp::Unconfined);
    }
}
