//! What a container is to be: the options of `run`, and the request that they become.

use super::values::{self, Published, Restart, Volume};
use crate::error::CliError;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, PortBinding, RestartPolicy};
use std::collections::HashMap;
use std::path::PathBuf;

/// The options that say what a container is to be, with docker's names and meanings.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Keep the container's input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Remove the container once it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Set an environment variable; without a value it is passed on from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Mount a volume, a directory of the machine, or one of this computer (relative or below the home directory)
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]")]
    volume: Vec<Volume>,
    /// Mount a volume, directory or tmpfs (type=…,source=…,target=…)
    #[arg(long, value_name = "MOUNT", value_parser = values::mount)]
    mount: Vec<Mount>,
    /// Mount a tmpfs
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Publish a port of the container
    #[arg(short, long, value_name = "[[IP:]PORT:]CONTAINER-PORT[/PROTOCOL]", value_parser = values::publish)]
    publish: Vec<Published>,
    /// Publish all ports that the image exposes
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Expose a port without publishing it
    #[arg(long, value_name = "PORT[/PROTOCOL]", value_parser = values::exposed)]
    expose: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User (and group) to run as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Program to start instead of the image's; an empty one clears it
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Network to join: bridge, host, none, or a name
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Option<String>,
    /// Host name of the container
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Entry for the container's /etc/hosts
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// DNS server of the container
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Limit of memory (bytes, or with b, k, m, g)
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    memory: Option<i64>,
    /// Number of CPUs that may be used
    #[arg(long, value_name = "NUMBER", value_parser = values::cpus)]
    cpus: Option<i64>,
    /// Number of processes that may run; -1 for any
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// When to start again: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    restart: Restart,
    /// Give all privileges
    #[arg(long)]
    privileged: bool,
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Security options
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Make the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Run an init that reaps processes
    #[arg(long)]
    init: bool,
    /// Signal that stops the container
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds to wait for a stop before killing
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stop_timeout: Option<i64>,
    /// Image to run
    pub(crate) image: String,
    /// Command to run in place of the image's
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl CreateArgs {
    /// What no engine is asked.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        if self.rm && self.restart != Restart::default() {
            return Err(
                CliError::usage("conflicting options: cannot specify both --restart and --rm").code(125)
            );
        }
        Ok(())
    }

    /// The ports that are published at a number of their own.
    pub(crate) fn fixed_ports(&self) -> impl Iterator<Item = &Published> {
        self.publish.iter().filter(|port| port.host_port.is_some())
    }

    /// Whether any port is published.
    pub(crate) fn publishes(&self) -> bool {
        self.publish_all || !self.publish.is_empty()
    }

    /// The request. `attached`: the user stays and sees the output.
    pub(crate) fn body(&self, attached: bool) -> Result<ContainerCreateBody, CliError> {
        let input = attached && self.interactive;
        let anonymous = self.volume.iter().filter_map(|volume| match volume {
            Volume::Anonymous(target) => Some(target.clone()),
            Volume::Bind(_) => None,
        });
        let entrypoint = self.entrypoint.as_ref().map(|program| vec![program.clone()]);
        Ok(ContainerCreateBody {
            hostname: self.hostname.clone(),
            user: self.user.clone(),
            attach_stdin: Some(input),
            attach_stdout: Some(attached),
            attach_stderr: Some(attached),
            tty: Some(self.tty),
            open_stdin: Some(self.interactive),
            stdin_once: Some(input),
            env: some(values::environment(&self.env_file, &self.env)?),
            cmd: some(self.command.clone()),
            image: Some(self.image.clone()),
            volumes: some(anonymous.collect()),
            working_dir: self.workdir.clone(),
            entrypoint,
            labels: (!self.label.is_empty())
                .then(|| self.label.iter().map(|label| values::label(label)).collect()),
            exposed_ports: some(self.exposed_ports()),
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            host_config: Some(self.host_config(attached)),
            ..ContainerCreateBody::default()
        })
    }

    fn exposed_ports(&self) -> Vec<String> {
        let published = self.publish.iter().map(|port| port.container.clone());
        let mut ports: Vec<_> = published.chain(self.expose.iter().cloned()).collect();
        ports.sort();
        ports.dedup();
        ports
    }

    fn host_config(&self, attached: bool) -> HostConfig {
        let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
        for port in &self.publish {
            let binding = PortBinding {
                host_ip: Some(port.host_ip.clone()),
                host_port: Some(port.host_port.map(|port| port.to_string()).unwrap_or_default()),
            };
            bindings.entry(port.container.clone()).or_default().get_or_insert_default().push(binding);
        }
        let binds = self.volume.iter().filter_map(|volume| match volume {
            Volume::Bind(bind) => Some(bind.clone()),
            Volume::Anonymous(_) => None,
        });
        let tmpfs = self.tmpfs.iter().map(|tmpfs| {
            let (target, options) = tmpfs.split_once(':').unwrap_or((tmpfs, ""));
            (target.to_owned(), options.to_owned())
        });
        let console = if self.tty && attached { super::terminal::size() } else { None };
        HostConfig {
            binds: some(binds.collect()),
            mounts: some(self.mount.clone()),
            tmpfs: (!self.tmpfs.is_empty()).then(|| tmpfs.collect()),
            port_bindings: (!bindings.is_empty()).then_some(bindings),
            publish_all_ports: self.publish_all.then_some(true),
            network_mode: self.network.clone(),
            extra_hosts: some(self.add_host.clone()),
            dns: some(self.dns.clone()),
            memory: self.memory,
            nano_cpus: self.cpus,
            pids_limit: self.pids_limit,
            restart_policy: Some(RestartPolicy::from(&self.restart)),
            auto_remove: Some(self.rm),
            privileged: self.privileged.then_some(true),
            cap_add: some(self.cap_add.clone()),
            cap_drop: some(self.cap_drop.clone()),
            security_opt: some(self.security_opt.clone()),
            readonly_rootfs: self.read_only.then_some(true),
            init: self.init.then_some(true),
            console_size: console.map(|(columns, rows)| vec![rows.into(), columns.into()]),
            ..HostConfig::default()
        }
    }
}

/// What was not given is not sent.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
