//! Hooks: programs of the host's that are run at points of a container's life (OCI runtime specification, config.md,
//! "POSIX-platform Hooks").
//!
//! ```text
//! kind              run by             sees                     when                                    on failure
//! prestart          shim               the host                 namespaces and mounts are there         no container
//! createRuntime     shim               the host                 after prestart                          no container
//! createContainer   first process      the container's          after createRuntime, before the root    no container
//!                                      namespaces, the host's   is turned to
//!                                      files
//! startContainer    first process      the container            before its program                      no start
//! poststart         shim               the host                 the program runs                        a warning
//! poststop          shim               the host                 the container has ended                 a warning
//! ```
//! Each gets the container's state as JSON on its standard input. While a container is created, its root file system with
//! all mounts is to be seen at `<bundle>/rootfs`, as `<bundle>/config.json` says.

mod run;

pub(crate) use run::Runner;

use serde::{Deserialize, Serialize};
use std::fmt;

/// A container's hooks; serialised as `config.json` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// The older name of `createRuntime`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// In the host's namespaces, before the container turns to its root.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before it turns to its root.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// In the container, before its program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// In the host's namespaces, once the program runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// In the host's namespaces, once the container has ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute.
    pub path: String,
    /// All of them, the program's own name first; empty: that name alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `NAME=value`; empty: a `PATH`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// Points of a container's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// As the specification spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// Where the container then is in its life.
    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Hooks {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.of(*kind).is_empty())
    }

    /// Whether some are run between the making of the container and its turn to its root.
    pub(crate) fn at_creation(&self) -> bool {
        [Kind::Prestart, Kind::CreateRuntime, Kind::CreateContainer]
            .iter()
            .any(|kind| !self.of(*kind).is_empty())
    }

    pub(crate) fn of(&self, kind: Kind) -> &[Hook] {
        match kind {
            Kind::Prestart => &self.prestart,
            Kind::CreateRuntime => &self.create_runtime,
            Kind::CreateContainer => &self.create_container,
            Kind::StartContainer => &self.start_container,
            Kind::Poststart => &self.poststart,
            Kind::Poststop => &self.poststop,
        }
    }

    /// Adds one that is to run when `name` says.
    ///
    /// # Errors
    /// There is no such kind, or the hook makes no sense.
    pub fn add(&mut self, name: &str, hook: Hook) -> Result<(), String> {
        hook.check().map_err(|why| format!("invalid {name} hook {:?}: {why}", hook.path))?;
        let list = match name {
            "prestart" => &mut self.prestart,
            "createRuntime" => &mut self.create_runtime,
            "createContainer" => &mut self.create_container,
            "startContainer" => &mut self.start_container,
            "poststart" => &mut self.poststart,
            "poststop" => &mut self.poststop,
            other => return Err(format!("invalid hook name {other:?}")),
        };
        list.push(hook);
        Ok(())
    }
}

impl Hook {
    fn check(&self) -> Result<(), String> {
        if !self.path.starts_with('/') {
            return Err("its path is not absolute".to_owned());
        }
        if self.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err("its timeout is not above zero".to_owned());
        }
        if let Some(odd) = self.env.iter().find(|variable| variable.find('=').is_none_or(|at| at == 0)) {
            return Err(format!("invalid environment variable {odd:?}"));
        }
        if std::iter::once(&self.path).chain(&self.args).chain(&self.env).any(|text| text.contains('\0')) {
            return Err("it has a zero byte".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(path: &str) -> Hook {
        Hook { path: path.to_owned(), args: Vec::new(), env: Vec::new(), timeout: None }
    }

    #[test]
    fn hooks_go_where_their_name_says_and_read_as_in_a_bundle() {
        let mut hooks = Hooks::default();
        assert!(hooks.is_empty() && !hooks.at_creation());
        for kind in Kind::ALL {
            hooks.add(kind.name(), hook(&format!("/bin/{kind}"))).unwrap();
        }
        assert!(Kind::ALL.iter().all(|kind| hooks.of(*kind)[0].path == format!("/bin/{kind}")));
        assert!(hooks.at_creation() && !hooks.is_empty());
        let only = Hooks { create_container: vec![hook("/bin/x")], ..Hooks::default() };
        let json = serde_json::json!({ "createContainer": [{ "path": "/bin/x" }] });
        assert_eq!(serde_json::to_value(&only).unwrap(), json);
        assert_eq!(serde_json::from_value::<Hooks>(json).unwrap(), only);
    }

    #[test]
    fn hooks_without_sense_are_refused() {
        let refusal = |name: &str, hook| Hooks::default().add(name, hook).unwrap_err();
        assert_eq!(refusal("later", hook("/x")), "invalid hook name \"later\"");
        assert_eq!(refusal("poststop", hook("x")), "invalid poststop hook \"x\": its path is not absolute");
        let odd = Hook { env: vec!["=x".to_owned()], ..hook("/x") };
        assert!(refusal("poststop", odd).contains("environment variable"));
        assert!(refusal("poststop", Hook { timeout: Some(0), ..hook("/x") }).contains("timeout"));
    }
}
