//! The OCI runtimes that a container may choose from.
//!
//! hostd's own is always there, under the name `hostd`. Those that were configured are offered by their names; runc
//! and crun by theirs wherever they are on `PATH`. Docker's clients also ask for `runc` and `io.containerd.runc.v2`
//! by name, dockerd's defaults: that is runc where there is one, and hostd's own runtime where there is none.

use crate::error::{EngineError, Result};
use crate::{Engine, Inner};
use hostd_runtime::spec::OciRuntime;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError};

/// The name of hostd's own.
pub(crate) const OWN: &str = "hostd";
/// What is offered where it is installed.
const USUAL: [&str; 2] = ["crun", "runc"];
/// dockerd's defaults.
const DOCKERS: [&str; 2] = ["runc", "io.containerd.runc.v2"];

/// What the daemon's configuration says.
#[derive(Clone, Debug, Default)]
pub struct RuntimeChoice {
    /// By name.
    pub others: BTreeMap<String, OtherRuntime>,
    /// `None` is hostd's own.
    pub default: Option<String>,
}

/// A configured runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherRuntime {
    /// The program: a path, or a name to look up on `PATH`.
    pub path: PathBuf,
    /// What stands before every command.
    pub args: Vec<String>,
}

/// The runtimes of this machine.
#[derive(Debug)]
pub(crate) struct Runtimes {
    others: BTreeMap<String, OciRuntime>,
    default: String,
    /// Asked once, when somebody wants to know.
    runc_commit: OnceLock<String>,
}

impl Runtimes {
    /// Those of the configuration and those that are installed.
    pub(crate) fn of(choice: &RuntimeChoice) -> Result<Self> {
        Self::on(choice, &std::env::var("PATH").unwrap_or_default())
    }

    fn on(choice: &RuntimeChoice, path: &str) -> Result<Self> {
        let mut others = BTreeMap::new();
        for (name, OtherRuntime { path: program, args }) in &choice.others {
            if name == OWN || name.is_empty() || name.starts_with("io.containerd.") {
                return Err(EngineError::invalid(format!("runtime name '{name}' is reserved")));
            }
            // One that is not there yet may be installed later: containers that ask for it are told.
            let path = look_up(program, path).unwrap_or_else(|| program.clone());
            others.insert(name.clone(), OciRuntime { name: name.clone(), path, args: args.clone() });
        }
        for name in USUAL {
            if let (false, Some(path)) = (others.contains_key(name), look_up(Path::new(name), path)) {
                others.insert(name.to_owned(), OciRuntime { name: name.to_owned(), path, args: Vec::new() });
            }
        }
        let default =
            choice.default.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| OWN.to_owned());
        let runtimes = Self { others, default, runc_commit: OnceLock::new() };
        match runtimes.find(&runtimes.default) {
            Ok(_) => Ok(runtimes),
            Err(_) => Err(EngineError::invalid(format!(
                "specified default runtime '{}' does not exist",
                runtimes.default
            ))),
        }
    }

    /// The runtime of that name; `None` is hostd's own, also of records without a name.
    pub(crate) fn find(&self, name: &str) -> Result<Option<OciRuntime>> {
        if name.is_empty() || name == OWN {
            return Ok(None);
        }
        let known = if DOCKERS.contains(&name) { "runc" } else { name };
        match self.others.get(known) {
            Some(runtime) => Ok(Some(runtime.clone())),
            None if DOCKERS.contains(&name) => Ok(None),
            None => Err(EngineError::invalid(format!("unknown or invalid runtime name: {name}"))),
        }
    }

    /// The name that a container gets which asks for none.
    pub(crate) fn default_name(&self) -> &str {
        &self.default
    }

    /// Name, program and arguments of every one.
    pub(crate) fn list(&self) -> Vec<(String, String, Vec<String>)> {
        let own = (OWN.to_owned(), OWN.to_owned(), Vec::new());
        let row = |runtime: &OciRuntime| {
            (runtime.name.clone(), runtime.path.to_string_lossy().into_owned(), runtime.args.clone())
        };
        let mut all: Vec<_> = std::iter::once(own).chain(self.others.values().map(row)).collect();
        let runc = self.others.get("runc").map_or_else(|| OWN.to_owned(), |runc| row(runc).1);
        for name in DOCKERS.into_iter().filter(|name| !self.others.contains_key(*name)) {
            all.push((name.to_owned(), runc.clone(), Vec::new()));
        }
        all.sort();
        all
    }

    /// The commit that runc says it was built from; empty where there is none. Runs it once.
    pub(crate) fn runc_commit(&self) -> String {
        let ask = |runtime: &OciRuntime| {
            let output = std::process::Command::new(&runtime.path).arg("--version").output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().find_map(|line| line.strip_prefix("commit: ")).map(str::to_owned)
        };
        let asked = || self.others.get("runc").and_then(ask).unwrap_or_default();
        self.runc_commit.get_or_init(asked).clone()
    }
}

/// A program as `PATH` leads to it; one with a slash in its name is what it says.
fn look_up(program: &Path, path: &str) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(executable);
    }
    std::env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(program)).find(executable)
}

impl Inner {
    pub(crate) fn runtimes(&self) -> Arc<Runtimes> {
        Arc::clone(&self.runtimes.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Engine {
    /// Takes other runtimes from now on; containers that run keep theirs.
    pub fn set_runtimes(&self, choice: &RuntimeChoice) -> Result<()> {
        let fresh = Arc::new(Runtimes::of(choice)?);
        *self.0.runtimes.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(others: &[(&str, &str)], default: Option<&str>) -> RuntimeChoice {
        let other = |path: &str| OtherRuntime { path: path.into(), args: Vec::new() };
        RuntimeChoice {
            others: others.iter().map(|(name, path)| ((*name).to_owned(), other(path))).collect(),
            default: default.map(str::to_owned),
        }
    }

    #[test]
    fn dockers_names_lead_to_runc_or_to_our_own() {
        let nothing = Runtimes::on(&RuntimeChoice::default(), "/nowhere").unwrap();
        for name in ["", "hostd", "runc", "io.containerd.runc.v2"] {
            assert_eq!(nothing.find(name).unwrap(), None, "{name}");
        }
        let error = nothing.find("nope").unwrap_err();
        assert_eq!(error.message, "unknown or invalid runtime name: nope");
        let configured = Runtimes::on(&choice(&[("runc", "/opt/runc")], Some("runc")), "/nowhere").unwrap();
        for name in ["runc", "io.containerd.runc.v2"] {
            assert_eq!(configured.find(name).unwrap().unwrap().path, Path::new("/opt/runc"));
        }
        assert_eq!(configured.default_name(), "runc");
    }

    #[test]
    fn installed_ones_are_found_on_the_path() {
        let dir = std::env::temp_dir().join(format!("hostd-runtimes-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (name, mode) in [("crun", 0o755), ("runc", 0o644)] {
            std::fs::write(dir.join(name), "").unwrap();
            std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let found = Runtimes::on(&choice(&[("mine", "crun")], None), dir.to_str().unwrap()).unwrap();
        assert_eq!(found.find("crun").unwrap().unwrap().path, dir.join("crun"));
        assert_eq!(found.find("mine").unwrap().unwrap().path, dir.join("crun"));
        assert_eq!(found.find("runc").unwrap(), None, "it is not executable");
        let names: Vec<_> = found.list().into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["crun", "hostd", "io.containerd.runc.v2", "mine", "runc"]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn reserved_names_and_a_default_that_is_not_there_are_refused() {
        let refused = |choice: &RuntimeChoice| Runtimes::on(choice, "").unwrap_err().message;
        assert_eq!(refused(&choice(&[("hostd", "/x")], None)), "runtime name 'hostd' is reserved");
        assert_eq!(refused(&choice(&[], Some("kata"))), "specified default runtime 'kata' does not exist");
    }
}
