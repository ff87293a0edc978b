//! The configuration: settings checked, defaults filled in.

use crate::Result;
use crate::failure::Failure;
use crate::limits::Limits;
use crate::listen::Host;
use crate::remap;
use crate::settings::{Flags, NamedRuntime, Settings};
use hostd_engine::{
    Defaults, Dns, LogDefaults, OtherRuntime, RuntimeChoice, SeccompProfile, SecurityDefaults,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// Where to listen unless told.
const DEFAULT_HOST: &str = "unix:///run/hostd.sock";
/// The socket of [`DEFAULT_HOST`].
pub(crate) const DEFAULT_SOCKET: &str = "/run/hostd.sock";
/// Where `ca.pem`, `cert.pem` and `key.pem` are looked for unless told.
const CERTIFICATES: &str = "/etc/hostd";

/// Files of the TLS listeners.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// Certificate authority of the clients; `None` lets in those without a certificate.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// What hostd is to do.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) hosts: Vec<Host>,
    /// Group of the unix sockets, where one was asked for.
    pub(crate) group: Option<String>,
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) pidfile: PathBuf,
    pub(crate) tls: Option<TlsFiles>,
    /// Network sockets of the service manager may do without client certificates.
    pub(crate) open_inherited: bool,
    pub(crate) bridge: String,
    pub(crate) bip: Option<(Ipv4Addr, u8)>,
    pub(crate) icc: bool,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) registry_mirrors: Vec<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) limits: Limits,
    /// What containers get that do not say.
    pub(crate) defaults: Defaults,
    pub(crate) runtimes: RuntimeChoice,
    /// Whose ids stand for those of containers, to be looked up at the start.
    pub(crate) userns_remap: Option<String>,
    /// How containers are logged.
    pub(crate) log: LogDefaults,
    pub(crate) log_level: LevelFilter,
    /// Containers run on while hostd does not.
    pub(crate) live_restore: bool,
    /// What containers have to end when hostd stops them; `None`: as long as they take.
    pub(crate) shutdown_timeout: Option<Duration>,
}

impl Config {
    /// From flags and file.
    pub(crate) fn load(flags: &Flags) -> Result<Self> {
        Self::check(Settings::load(flags)?)
    }

    /// Has containers' users be others on the host. Everything that is kept is apart from what is kept without: files
    /// have other owners, and containers that ran before are not this daemon's.
    pub(crate) fn remap(mut self) -> Result<Self> {
        let Some(spec) = &self.userns_remap else { return Ok(self) };
        let Some(map) = remap::resolve(spec)? else { return Ok(self) };
        let (uid, gid) = map.root().ok_or_else(|| Failure::new("the ranges of --userns-remap are empty"))?;
        let name = format!("{uid}.{gid}");
        self.data_root.push(&name);
        self.exec_root.push(&name);
        self.defaults.id_map = Some(map);
        Ok(self)
    }

    fn check(settings: Settings) -> Result<Self> {
        let tls = tls_files(&settings);
        let (limits, defaults) = (Limits::check(&settings)?, defaults(&settings)?);
        let exec_root = absolute("exec-root", settings.exec_root.as_deref(), "/run/hostd")?;
        Ok(Self {
            hosts: hosts(&settings, tls.as_ref())?,
            open_inherited: settings.allow_unauthenticated.iter().any(|url| url.starts_with("fd://")),
            group: settings.group,
            data_root: absolute("data-root", settings.data_root.as_deref(), "/var/lib/hostd")?,
            pidfile: settings.pidfile.unwrap_or_else(|| exec_root.join("hostd.pid")),
            exec_root,
            tls,
            bridge: bridge(settings.bridge)?,
            bip: settings.bip.as_deref().map(bip).transpose()?,
            icc: settings.icc.unwrap_or(true),
            limits,
            insecure_registries: settings.insecure_registries,
            registry_mirrors: mirrors(settings.registry_mirrors)?,
            labels: labels(settings.labels)?,
            defaults,
            live_restore: settings.live_restore.unwrap_or(true),
            shutdown_timeout: shutdown_timeout(settings.shutdown_timeout)?,
            runtimes: runtimes(settings.runtimes, settings.default_runtime)?,
            userns_remap: settings.userns_remap.filter(|user| !user.is_empty()),
            log: LogDefaults {
                driver: settings.log_driver.unwrap_or_else(|| "json-file".to_owned()),
                options: settings.log_opts.into_iter().collect(),
            },
            log_level: level(settings.log_level.as_deref(), settings.debug.unwrap_or(false))?,
        })
    }
}

/// TLS is on when asked for in any way; naming a certificate authority without `--tls` alone means to verify by it.
fn tls_files(settings: &Settings) -> Option<TlsFiles> {
    let verify = settings.tlsverify.unwrap_or(false);
    if !verify && !settings.tls.unwrap_or(false) {
        return None;
    }
    let or_default =
        |path: &Option<PathBuf>, name| path.clone().unwrap_or_else(|| Path::new(CERTIFICATES).join(name));
    Some(TlsFiles {
        ca: verify.then(|| or_default(&settings.tlscacert, "ca.pem")),
        cert: or_default(&settings.tlscert, "cert.pem"),
        key: or_default(&settings.tlskey, "key.pem"),
    })
}

fn hosts(settings: &Settings, tls: Option<&TlsFiles>) -> Result<Vec<Host>> {
    let texts =
        if settings.hosts.is_empty() { vec![DEFAULT_HOST.to_owned()] } else { settings.hosts.clone() };
    let allowed = &settings.allow_unauthenticated;
    if let Some(stray) = allowed.iter().find(|url| !texts.contains(url)) {
        return Err(Failure::new(format!(
            "allow-unauthenticated names {stray}, which is not among the hosts"
        )));
    }
    let authenticated = tls.is_some_and(|tls| tls.ca.is_some());
    let mut hosts = Vec::new();
    for text in texts {
        let host = Host::parse(&text, tls.is_some())?;
        if matches!(host, Host::Tcp(_)) && !authenticated && !allowed.contains(&text) {
            return Err(Failure::new(format!("refusing to listen on {text} without client certificates"))
                .because("whoever reaches that port would be root on this machine")
                .hint(format!(
                    "add --tlsverify with --tlscacert, --tlscert and --tlskey, or insist with --allow-unauthenticated={text}"
                )));
        }
        if hosts.contains(&host) {
            return Err(Failure::new(format!("host {text} is given twice")));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

fn absolute(name: &str, path: Option<&Path>, default: &str) -> Result<PathBuf> {
    let path = path.unwrap_or(Path::new(default));
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Failure::new(format!("{name} must be an absolute path, not {}", path.display())))
}

fn bridge(name: Option<String>) -> Result<String> {
    let Some(name) = name else { return Ok("hostd0".to_owned()) };
    if name == "none" {
        return Err(Failure::new("bridge \"none\" is not supported yet"));
    }
    // As the kernel names interfaces: 15 bytes, no slash, no blank.
    let sane = (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if sane && !name.starts_with('.') {
        Ok(name)
    } else {
        Err(Failure::new(format!("invalid bridge name \"{name}\"")))
    }
}

fn bip(text: &str) -> Result<(Ipv4Addr, u8)> {
    let parsed = text.split_once('/').and_then(|(ip, len)| Some((ip.parse().ok()?, len.parse().ok()?)));
    match parsed {
        Some((ip, len @ 8..=30)) => Ok((ip, len)),
        _ => Err(Failure::new(format!("invalid bip \"{text}\""))
            .hint("give an IPv4 address with its prefix length, like 172.17.0.1/16")),
    }
}

fn mirrors(urls: Vec<String>) -> Result<Vec<String>> {
    match urls.iter().find(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        Some(url) => {
            Err(Failure::new(format!("invalid mirror \"{url}\": it must start with http:// or https://")))
        }
        None => Ok(urls),
    }
}

fn labels(labels: Vec<String>) -> Result<Vec<String>> {
    match labels.iter().find(|label| label.split_once('=').is_none_or(|(key, _)| key.is_empty())) {
        Some(label) => {
            Err(Failure::new(format!("bad attribute format: {label}")).hint("labels have the form key=value"))
        }
        None => Ok(labels),
    }
}

fn defaults(settings: &Settings) -> Result<Defaults> {
    let or_private = |mode: &Option<String>| {
        mode.clone().filter(|m| !m.is_empty()).unwrap_or_else(|| "private".to_owned())
    };
    let (ipc_mode, cgroupns_mode) =
        (or_private(&settings.default_ipc_mode), or_private(&settings.default_cgroupns_mode));
    if !matches!(ipc_mode.as_str(), "private" | "shareable") {
        return Err(Failure::new(format!(
            "IPC mode \"{ipc_mode}\" is not supported as default value; use \"shareable\" or \"private\""
        )));
    }
    if !matches!(cgroupns_mode.as_str(), "private" | "host") {
        return Err(Failure::new(format!(
            "default cgroup namespace mode ({cgroupns_mode}) is invalid; use \"host\" or \"private\""
        )));
    }
    let security = SecurityDefaults {
        seccomp: seccomp_profile(settings.seccomp_profile.as_deref().unwrap_or_default())?,
        no_new_privileges: settings.no_new_privileges.unwrap_or(false),
        selinux: settings.selinux_enabled.unwrap_or(false),
    };
    let dns = Dns {
        servers: settings.dns.clone(),
        search: settings.dns_search.clone(),
        options: settings.dns_opts.clone(),
    };
    let init = settings.init.unwrap_or(false);
    Ok(Defaults { ipc_mode, cgroupns_mode, security, init, dns, ..Defaults::default() })
}

/// A profile file is read once, here, and must be JSON; what is in it is checked when the first container needs it.
fn seccomp_profile(name: &str) -> Result<SeccompProfile> {
    match name {
        "" | "builtin" | "default" => return Ok(SeccompProfile::Builtin),
        "unconfined" => return Ok(SeccompProfile::Unconfined),
        _ => {}
    }
    let failed = || Failure::new(format!("opening seccomp profile ({name}) failed"));
    let text = std::fs::read_to_string(name).map_err(|error| failed().because(error))?;
    let parsed: serde_json::Result<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(&text);
    parsed.map_err(|error| failed().because(error))?;
    Ok(SeccompProfile::File { path: name.into(), text })
}

/// dockerd's default and meaning.
fn shutdown_timeout(seconds: Option<i64>) -> Result<Option<Duration>> {
    match seconds.unwrap_or(15) {
        -1 => Ok(None),
        seconds => match u64::try_from(seconds) {
            Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
            Err(_) => Err(Failure::new(format!("invalid shutdown-timeout: {seconds}"))),
        },
    }
}

/// A name is given once, and the programs are absolute paths or names to look up.
fn runtimes(named: Vec<NamedRuntime>, default: Option<String>) -> Result<RuntimeChoice> {
    let mut others = BTreeMap::new();
    for NamedRuntime { name, path, args } in named {
        if !path.is_absolute() && path.components().count() > 1 {
            return Err(Failure::new(format!(
                "the path of runtime {name} must be absolute, or a name on PATH, not {}",
                path.display()
            )));
        }
        if others.insert(name.clone(), OtherRuntime { path, args }).is_some() {
            return Err(Failure::new(format!("runtime {name} is given twice")));
        }
    }
    Ok(RuntimeChoice { others, default })
}

fn level(text: Option<&str>, debug: bool) -> Result<LevelFilter> {
    let level = match text {
        None => LevelFilter::INFO,
        Some("trace") => LevelFilter::TRACE,
        Some("debug") => LevelFilter::DEBUG,
        Some("info") => LevelFilter::INFO,
        Some("warn") => LevelFilter::WARN,
        Some("error" | "fatal") => LevelFilter::ERROR,
        Some(other) => return Err(Failure::new(format!("invalid logging level: {other}"))),
    };
    Ok(if debug { level.max(LevelFilter::DEBUG) } else { level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn load(args: &[&str], file: &str) -> Result<Config, String> {
        let dir = std::env::temp_dir().join(format!("hostd-config-{}-{:p}", std::process::id(), &file));
        std::fs::write(&dir, file).unwrap();
        let path = dir.to_str().unwrap().to_owned();
        let args = ["hostd", "--config-file", &path].into_iter().chain(args.iter().copied());
        let result = Flags::try_parse_from(args).map_err(|error| error.to_string()).and_then(|flags| {
            Config::load(&flags).map_err(|failure| {
                let cause =
                    std::error::Error::source(&failure).map(|cause| format!(": {cause}")).unwrap_or_default();
                format!("{failure}{cause}")
            })
        });
        std::fs::remove_file(&dir).unwrap();
        result
    }

    #[test]
    fn flags_and_file_add_up() {
        let config = load(
            &["-D", "--label=a=b"],
            r#"{"data-root": "/d", "icc": false, "registry-mirrors": ["http://m"]}"#,
        )
        .unwrap();
        assert_eq!((config.data_root.to_str(), config.icc), (Some("/d"), false));
        assert_eq!(config.log_level, LevelFilter::DEBUG);
        assert_eq!(config.log.driver, "json-file");
        assert_eq!((config.labels.len(), config.registry_mirrors.len()), (1, 1));
        assert_eq!(config.pidfile.to_str(), Some("/run/hostd/hostd.pid"));
        assert_eq!((config.live_restore, config.shutdown_timeout), (true, Some(Duration::from_secs(15))));
        let config = load(&["--shutdown-timeout=-1"], r#"{"live-restore": false}"#).unwrap();
        assert_eq!((config.live_restore, config.shutdown_timeout), (false, None));
    }

    #[test]
    fn default_limits_are_read_from_flags_and_in_dockerds_form_from_the_file() {
        let file = r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Hard": 20, "Soft": 10}},
            "default-shm-size": "128M", "exec-opts": ["native.cgroupdriver=systemd"], "cdi-spec-dirs": ["/c"]}"#;
        let limits = load(&["--cgroup-parent=my.slice"], file).unwrap().limits;
        assert_eq!(limits.ulimits, [("nofile".to_owned(), 10, 20)]);
        assert_eq!((limits.shm_size, limits.cgroup_parent.as_str()), (Some(128 << 20), "my.slice"));
        assert_eq!(limits.cgroup_driver, hostd_engine::CgroupDriver::Systemd);
        assert_eq!(limits.cdi_spec_dirs, [Path::new("/c")]);
        let args = [
            "--default-ulimit=nproc=5",
            "--default-shm-size=65536",
            "--exec-opt=native.cgroupdriver=cgroupfs",
        ];
        let limits = load(&[&args[..], &["--cdi-spec-dir="]].concat(), "").unwrap().limits;
        assert_eq!(limits.ulimits, [("nproc".to_owned(), 5, 5)]);
        assert_eq!((limits.shm_size, limits.cgroup_parent.as_str()), (Some(65536), "hostd"));
        assert!(limits.cdi_spec_dirs.is_empty());
    }

    #[test]
    fn log_options_come_as_flags_or_as_an_object() {
        let flags = load(&["--log-driver=local", "--log-opt", "max-size=1m", "--log-opt=max-file=3"], "");
        let file = load(&[], r#"{"log-driver": "local", "log-opts": {"max-file": "3", "max-size": "1m"}}"#);
        for config in [flags.unwrap(), file.unwrap()] {
            let options: Vec<_> =
                config.log.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(
                (config.log.driver.as_str(), options.join(" ")),
                ("local", "max-file=3 max-size=1m".to_owned())
            );
        }
        let both = load(&["--log-opt=max-size=1m"], r#"{"log-opts": {"max-file": "3"}}"#).unwrap_err();
        assert!(both.contains("log-opts: (from flag: "), "{both}");
        assert!(load(&["--log-opt=x"], "").is_err());
    }

    #[test]
    fn what_is_set_twice_is_refused_in_dockerds_words() {
        let error = load(&["-H", "unix:///a"], r#"{"hosts": ["unix:///b"]}"#).unwrap_err();
        assert!(error.contains(
            r#"the following directives are specified both as a flag and in the configuration file: hosts: (from flag: ["unix:///a"], from file: ["unix:///b"])"#
        ), "{error}");
    }

    #[test]
    fn bad_settings_are_refused_by_name() {
        for (args, file, words) in [
            (&[][..], r#"{"data-rot": "/d"}"#, "data-rot"),
            (&[], "{", "EOF"),
            (&["--data-root=d"], "", "data-root must be an absolute path"),
            (&["--bip=1.2.3.4"], "", "invalid bip"),
            (&["--log-level=loud"], "", "invalid logging level: loud"),
            (&["--shutdown-timeout=-2"], "", "invalid shutdown-timeout: -2"),
            (&["--label=x"], "", "bad attribute format"),
            (&["--bridge=a/b"], "", "invalid bridge name"),
            (&["--exec-opt=native.cgroupdriver=none"], "", "native.cgroupdriver option none not supported"),
            (&["--exec-opt=x"], "", "invalid exec-opt x"),
            (
                &["--exec-opt=native.cgroupdriver=systemd", "--cgroup-parent=/x"],
                "",
                r#"cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice""#,
            ),
            (&["--default-ulimit=nofile=2:1"], "", "soft limit must be less than or equal to hard limit"),
            (&["--default-ulimit=files=1"], "", "invalid ulimit type: files"),
            (&["--default-shm-size=big"], "", "invalid size: 'big'"),
            (&["--cdi-spec-dir=cdi"], "", "cdi-spec-dir must be an absolute path"),
            (&["--default-ipc-mode=host"], "", "is not supported as default value"),
            (&["--default-cgroupns-mode=x"], "", "is invalid"),
            (&["--seccomp-profile=/does/not/exist"], "", "opening seccomp profile (/does/not/exist) failed"),
            (&["-H", "tcp://127.0.0.1:2375"], "", "without client certificates"),
            (&["-H", "tcp://127.0.0.1:2376", "--tls"], "", "without client certificates"),
            (&["--allow-unauthenticated=tcp://127.0.0.1:2375"], "", "not among the hosts"),
            (&["-H", "http://x"], "", "invalid host"),
        ] {
            let error = load(args, file).unwrap_err();
            assert!(error.contains(words), "{args:?} {file}: {error}");
        }
    }

    #[test]
    fn runtimes_come_from_flags_and_from_dockerds_file() {
        let config = load(&["--add-runtime=mine=/opt/mine", "--default-runtime", "mine"], "").unwrap();
        assert_eq!(config.runtimes.others["mine"].path, Path::new("/opt/mine"));
        assert_eq!(config.runtimes.default.as_deref(), Some("mine"));
        let file = r#"{"default-runtime": "b", "runtimes": {"b": {"path": "/b", "runtimeArgs": ["--debug"]},
            "c": {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "crun"}}}}"#;
        let others = load(&[], file).unwrap().runtimes.others;
        assert_eq!(others["b"].args, ["--debug"]);
        assert_eq!(others["c"].path, Path::new("crun"));
        for (args, file, words) in [
            (&["--add-runtime=x"][..], "", "name=path"),
            (&["--add-runtime=a=/x", "--add-runtime=a=/y"], "", "runtime a is given twice"),
            (&["--add-runtime=a=x/y"], "", "must be absolute"),
            (&[], r#"{"runtimes": {"a": {}}}"#, "path is missing"),
            (&[], r#"{"runtimes": {"a": {"path": "/a", "shim": 1}}}"#, "shim"),
            (
                &[],
                r#"{"runtimes": {"a": {"runtimeType": "io.containerd.kata.v2"}}}"#,
                "io.containerd.kata.v2",
            ),
            (
                &[],
                r#"{"runtimes": {"a": {"runtimeType": "io.containerd.runc.v2", "options": {"Root": "/r"}}}}"#,
                "Root",
            ),
            (&["--add-runtime=a=/x"], r#"{"runtimes": {"a": {"path": "/a"}}}"#, "both as a flag"),
        ] {
            let error = load(args, file).unwrap_err();
            assert!(error.contains(words), "{args:?} {file}: {error}");
        }
    }

    #[test]
    fn an_open_listener_must_be_named_exactly() {
        let host = "tcp://127.0.0.1:2375";
        assert!(load(&["-H", host, "--allow-unauthenticated", host], "").is_ok());
        assert!(
            load(&["-H", host, "-H", "tcp://0.0.0.0:2375", "--allow-unauthenticated", host], "").is_err()
        );
        assert!(load(&["-H", "tcp://0.0.0.0:2376", "--tlsverify"], "").is_ok());
    }
}
