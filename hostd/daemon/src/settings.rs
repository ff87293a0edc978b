//! Flags and the configuration file: the same settings, under dockerd's names, from either.

use crate::Result;
use crate::failure::Failure;
use crate::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Where the configuration file is looked for.
const DEFAULT_FILE: &str = "/etc/hostd/hostd.json";

/// A container engine that speaks the Docker Engine API
#[derive(Debug, clap::Parser)]
#[command(version, about, disable_version_flag = true)]
pub(crate) struct Flags {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub(crate) config_file: PathBuf,
    /// Check the configuration and exit
    #[arg(long)]
    pub(crate) validate: bool,
    /// Print the version and exit
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What can be set. `None` and empty lists are not set.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// Where to listen: unix:///path, tcp://address:port, fd:// (can be repeated)
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub(crate) hosts: Vec<String>,
    /// Group of the unix socket
    #[arg(short = 'G', long)]
    pub(crate) group: Option<String>,
    /// Where images, containers and volumes are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) data_root: Option<PathBuf>,
    /// Where the state of running containers is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) exec_root: Option<PathBuf>,
    /// File that holds the process id
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// Serve TLS on tcp listeners; implied by --tlsverify
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) tls: Option<bool>,
    /// Serve TLS and demand a client certificate
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) tlsverify: Option<bool>,
    /// Certificate authority of the clients
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// Certificate of this server
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscert: Option<PathBuf>,
    /// Key of this server
    #[arg(long, value_name = "FILE")]
    pub(crate) tlskey: Option<PathBuf>,
    /// A listener of --host that may do without client certificates: whoever reaches it is root on this machine
    #[arg(long = "allow-unauthenticated", value_name = "URL")]
    pub(crate) allow_unauthenticated: Vec<String>,
    /// Default bridge
    #[arg(short, long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// Address and prefix length of the default bridge
    #[arg(long, value_name = "CIDR")]
    pub(crate) bip: Option<String>,
    /// Containers on the default bridge reach each other
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) icc: Option<bool>,
    /// Registry that may be spoken to without TLS (can be repeated)
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(crate) insecure_registries: Vec<String>,
    /// Mirror of Docker Hub (can be repeated)
    #[arg(long = "registry-mirror", value_name = "URL")]
    pub(crate) registry_mirrors: Vec<String>,
    /// IPC namespace of containers that do not say: private or shareable
    #[arg(long, value_name = "MODE")]
    pub(crate) default_ipc_mode: Option<String>,
    /// Cgroup namespace of containers that do not say: private or host
    #[arg(long, value_name = "MODE")]
    pub(crate) default_cgroupns_mode: Option<String>,
    /// Containers gain no privileges by setuid programs unless they ask for it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) no_new_privileges: Option<bool>,
    /// System call filter of containers that do not say: builtin, unconfined, or the path of a profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) seccomp_profile: Option<String>,
    /// SELinux labels for containers, where this host has a policy with any
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) selinux_enabled: Option<bool>,
    /// Users that stand for those of containers: default, or user[:group] by name or id
    #[arg(long, value_name = "USER")]
    pub(crate) userns_remap: Option<String>,
    /// Label of this machine, key=value (can be repeated)
    #[arg(long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// A further OCI runtime, name=path (can be repeated; in the file an object)
    #[arg(long = "add-runtime", value_name = "NAME=PATH")]
    #[serde(with = "named_runtimes")]
    pub(crate) runtimes: Vec<NamedRuntime>,
    /// OCI runtime of containers that ask for none
    #[arg(long, value_name = "NAME")]
    pub(crate) default_runtime: Option<String>,
    /// Log driver of containers that name none (json-file)
    #[arg(long, value_name = "NAME")]
    pub(crate) log_driver: Option<String>,
    /// Option of that log driver, name=value (can be repeated)
    #[arg(long = "log-opt", value_name = "OPTION", value_parser = log_option)]
    #[serde(with = "log_options")]
    pub(crate) log_opts: Vec<(String, String)>,
    /// Containers run on while hostd does not; otherwise they are stopped along with it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) live_restore: Option<bool>,
    /// Seconds that containers have to end when hostd stops them; -1: as long as they take
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) shutdown_timeout: Option<i64>,
    /// native.cgroupdriver=cgroupfs or native.cgroupdriver=systemd
    #[arg(long = "exec-opt", value_name = "KEY=VALUE")]
    pub(crate) exec_opts: Vec<String>,
    /// Parent of the containers' cgroups
    #[arg(long, value_name = "CGROUP")]
    pub(crate) cgroup_parent: Option<String>,
    /// Microseconds of real-time scheduling per period for all containers (cgroup v1)
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Microseconds of such a period (cgroup v1)
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_rt_period: Option<i64>,
    /// Resource limit of containers that ask for none, TYPE=SOFT[:HARD] (can be repeated)
    #[arg(long = "default-ulimit", value_name = "LIMIT")]
    #[serde(deserialize_with = "limits::ulimits")]
    pub(crate) default_ulimits: Vec<String>,
    /// Size of /dev/shm of containers that ask for none
    #[arg(long, value_name = "BYTES")]
    #[serde(deserialize_with = "limits::size")]
    pub(crate) default_shm_size: Option<String>,
    /// Where CDI specifications are, instead of /etc/cdi and /var/run/cdi; an empty one switches CDI off (can be repeated)
    #[arg(long = "cdi-spec-dir", value_name = "DIR")]
    pub(crate) cdi_spec_dirs: Vec<String>,
    /// Name server of containers that ask for none (can be repeated)
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<std::net::IpAddr>,
    /// Option of their resolv.conf (can be repeated)
    #[arg(long = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_opts: Vec<String>,
    /// Domain in which they look up names (can be repeated)
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// Give containers that do not say our init as process 1
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) init: Option<bool>,
    /// debug, info, warn, error or fatal
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Log at level debug
    #[arg(short = 'D', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) debug: Option<bool>,
}

/// An OCI runtime: a flag's `name=path`, or an entry of the file's `runtimes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedRuntime {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
}

impl std::str::FromStr for NamedRuntime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.trim().is_empty() && !path.trim().is_empty() => {
                Ok(Self { name: name.trim().to_owned(), path: path.trim().into(), args: Vec::new() })
            }
            _ => Err(format!("invalid runtime {text:?}: it must have the form name=path")),
        }
    }
}

/// `runtimes` as dockerd's configuration file has it.
mod named_runtimes {
    use super::NamedRuntime;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    #[derive(Default, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Entry {
        #[serde(default)]
        path: PathBuf,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        runtime_args: Vec<String>,
        /// dockerd's way to name a containerd shim: the one for runc's kind is what hostd does anyway.
        #[serde(default, skip_serializing)]
        runtime_type: String,
        #[serde(default, skip_serializing)]
        options: Option<Options>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        #[serde(rename = "BinaryName")]
        binary_name: PathBuf,
    }

    pub(super) fn serialize<S: Serializer>(all: &[NamedRuntime], to: S) -> Result<S::Ok, S::Error> {
        let entry = |runtime: &NamedRuntime| Entry {
            path: runtime.path.clone(),
            runtime_args: runtime.args.clone(),
            ..Entry::default()
        };
        all.iter().map(|runtime| (&runtime.name, entry(runtime))).collect::<BTreeMap<_, _>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<NamedRuntime>, D::Error> {
        let all = BTreeMap::<String, Entry>::deserialize(from)?;
        all.into_iter().map(|(name, entry)| entry.named(name).map_err(D::Error::custom)).collect()
    }

    impl Entry {
        fn named(self, name: String) -> Result<NamedRuntime, String> {
            let binary = self.options.map(|options| options.binary_name);
            if !["", "io.containerd.runc.v2"].contains(&self.runtime_type.as_str()) {
                return Err(format!(
                    "runtimes.{name}: runtimeType {:?} is not supported: hostd runs OCI runtimes by their path",
                    self.runtime_type
                ));
            }
            if binary.is_some() && self.runtime_type.is_empty() {
                return Err(format!("runtimes.{name}: options cannot be set without runtimeType"));
            }
            if !self.path.as_os_str().is_empty() && !self.runtime_type.is_empty() {
                return Err(format!("runtimes.{name}: cannot have both path and runtimeType"));
            }
            let fallback = if self.runtime_type.is_empty() { "" } else { "runc" };
            let path =
                [Some(self.path), binary].into_iter().flatten().find(|path| !path.as_os_str().is_empty());
            let path = path.unwrap_or_else(|| fallback.into());
            if path.as_os_str().is_empty() {
                return Err(format!("runtimes.{name}: path is missing"));
            }
            Ok(NamedRuntime { name, path, args: self.runtime_args })
        }
    }
}

impl Settings {
    /// Those of the flags and those of the file together; one set in both is an error, as in dockerd.
    pub(crate) fn load(flags: &Flags) -> Result<Self> {
        let failed =
            || Failure::new(format!("unable to configure hostd with file {}", flags.config_file.display()));
        let Some(text) = read(&flags.config_file)? else { return Ok(flags.settings.clone()) };
        let file: Self = serde_json::from_str(&text).map_err(|error| failed().because(error))?;
        let merged =
            merge(set(&flags.settings), set(&file)).map_err(|conflict| failed().because(conflict))?;
        serde_json::from_value(Value::Object(merged)).map_err(|error| failed().because(error))
    }
}

fn log_option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("invalid logging option: {text}")),
    }
}

/// Log options are a list of flags, and an object in the file.
mod log_options {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S: Serializer>(options: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(options.iter().map(|(name, value)| (name, value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
        BTreeMap::deserialize(from).map(|options| options.into_iter().collect())
    }
}

/// The file's text; `None` where the default one is missing or it is empty.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_FILE) => {
            Ok(None)
        }
        Err(error) => {
            Err(Failure::new(format!("cannot read configuration file {}", path.display())).because(error))
        }
    }
}

/// What is set, by the file's names.
fn set(settings: &Settings) -> Map<String, Value> {
    let Ok(Value::Object(mut map)) = serde_json::to_value(settings) else { return Map::new() };
    map.retain(|_, value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        _ => true,
    });
    map
}

fn merge(flags: Map<String, Value>, mut file: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let both = flags.iter().filter_map(|(name, from_flag)| {
        file.get(name).map(|from_file| format!("{name}: (from flag: {from_flag}, from file: {from_file})"))
    });
    let both: Vec<_> = both.collect();
    if !both.is_empty() {
        return Err(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            both.join(", ")
        ));
    }
    file.extend(flags);
    Ok(file)
}
