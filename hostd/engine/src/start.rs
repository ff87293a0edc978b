//! Starting a container: what it needs is made side by side, and taken down again when any of it fails.

use crate::container::{Container, Turn};
use crate::create::{parse_extra_host, target_container};
use crate::error::{EngineError, Result, io, joined};
use crate::lifecycle::Changed;
use crate::model::{ContainerRecord, Happening, MountType, RestartPolicy, Status};
use crate::whole::whole;
use crate::{Engine, detach, health, remap, security};
use futures_util::future::BoxFuture;
use hostd_image::Snapshot;
use hostd_network::{Endpoint, EndpointRequest, PortRequest};
use hostd_runtime::RuntimeError;
use hostd_runtime::spec::{ContainerSpec, IdMap, Log, NetNs};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;

/// What was built for one run.
struct Run {
    live: hostd_runtime::Container,
    endpoint: Option<Endpoint>,
}

/// The network namespace of a run.
enum Net {
    Host,
    /// Made for it; to be connected to a network or not.
    Own {
        netns: OwnedFd,
        connect: bool,
    },
    /// Another container's.
    Shared(OwnedFd),
}

impl Engine {
    /// Starts a container.
    pub async fn start(&self, name: &str) -> Result<Changed> {
        let (engine, container) = (self.clone(), self.container(name)?);
        whole(async move { engine.start_container(&container).await }).await
    }

    pub(crate) async fn start_container(&self, container: &Arc<Container>) -> Result<Changed> {
        let turn = container.turn().await;
        let status = container.record().state.status;
        match status {
            Status::Running | Status::Restarting => return Ok(Changed::Before),
            Status::Paused => {
                return Err(EngineError::conflict("cannot start a paused container, try unpause instead"));
            }
            Status::Removing | Status::Dead => {
                return Err(EngineError::conflict("container is marked for removal and cannot be started"));
            }
            Status::Created | Status::Exited => {}
        }
        container.change(&turn, |record| {
            record.restart_count = 0;
            record.state.last_pause = 0;
            record.state.stopped_by_user = false;
        });
        self.run(container, turn).await?;
        // Lets the event go out before the answer: who listens is next on this very thread.
        tokio::task::yield_now().await;
        Ok(Changed::Now)
    }

    /// Lets the program run, or records why it could not. Boxed, because restarts make it call itself.
    pub(crate) fn run<'a>(
        &'a self,
        container: &'a Arc<Container>,
        turn: Turn<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.try_run(container, &turn).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    self.failed_to_run(container, turn, &error).await;
                    Err(error)
                }
            }
        })
    }

    async fn try_run(&self, container: &Arc<Container>, turn: &Turn<'_>) -> Result<()> {
        let record = container.record();
        let run = self.build(&record).await?;
        let outcome = self.let_go(container, turn, &run).await;
        match outcome {
            Ok(()) => {
                self.watch(container, run.live);
                Ok(())
            }
            Err(error) => {
                container.set_live(None);
                self.tear_down(&record.id, run.endpoint.as_ref()).await;
                Err(error)
            }
        }
    }

    /// Namespace, layer, files, container and network, up to the exec of its program.
    async fn build(&self, record: &Arc<ContainerRecord>) -> Result<Run> {
        let log = self.log_of(record).await?;
        let ((net, user), snapshot) =
            tokio::try_join!(self.namespaces_for(record), self.snapshot_and_files(record))?;
        let (connection, fd) = match net {
            Net::Host => (None, NetNs::Host),
            Net::Shared(netns) => (None, NetNs::Fd(netns)),
            Net::Own { netns, connect } => {
                let copy = netns.try_clone().map_err(io("cannot duplicate a descriptor"))?;
                (connect.then_some(netns), NetNs::Fd(copy))
            }
        };
        let spec = self.spec_aside(record, fd, user, snapshot, log).await?;
        let connect = async {
            match &connection {
                None => Ok(None),
                Some(netns) => self.connect(record, netns).await.map(Some),
            }
        };
        // Each leaves nothing behind when it fails, so only the other is to be taken down.
        match tokio::join!(self.0.runtime.create(spec), connect) {
            (Ok(live), Ok(endpoint)) => Ok(Run { live, endpoint }),
            (Ok(_), Err(error)) => {
                self.tear_down(&record.id, None).await;
                Err(error)
            }
            (Err(error), connected) => {
                let endpoint = connected.ok().flatten();
                self.tear_down(&record.id, endpoint.as_ref()).await;
                Err(run_error(error))
            }
        }
    }

    /// What the runtime is to build; on a thread of its own where files have to be read for it.
    async fn spec_aside(
        &self,
        record: &Arc<ContainerRecord>,
        net: NetNs,
        user: Option<OwnedFd>,
        snapshot: Snapshot,
        log: Log,
    ) -> Result<ContainerSpec> {
        if record.host.device_requests.is_empty() && !security::reads_files() {
            return self.spec_of(record, net, user, snapshot, log);
        }
        let (engine, record) = (self.clone(), Arc::clone(record));
        tokio::task::spawn_blocking(move || engine.spec_of(&record, net, user, snapshot, log))
            .await
            .map_err(joined)?
    }

    /// Connects who attached before, lets the program run, and records it.
    async fn let_go(&self, container: &Arc<Container>, turn: &Turn<'_>, run: &Run) -> Result<()> {
        let record = container.record();
        if let Some(endpoint) = &run.endpoint {
            self.write_hosts(&record, Some(endpoint))?;
            self.tell_linked(&container.id, endpoint);
        }
        for pending in container.take_pending() {
            if pending.detach.is_none() {
                run.live.attach_to(pending.streams, pending.stream.as_fd()).await?;
                continue;
            }
            let stream = run.live.attach(pending.streams).await?;
            detach::bridge(pending.stream, stream, pending.detach, self.on_detach(container));
        }
        // Noted before the program runs: after a crash in between, the shim is found and asked.
        let pid = run.live.pid();
        let noted = container.advance(turn, Happening::Started, |record| {
            record.state.pid = pid;
            record.state.exit_code = 0;
            record.state.error.clear();
            record.state.oom_killed = false;
            record.state.started_at = Some(OffsetDateTime::now_utc());
            record.state.health = health::at_start(record);
            record.endpoint.clone_from(&run.endpoint);
        })?;
        let kept = match self.note(&noted) {
            // After a power cut the policy brings back what had been started: that must be on disk by the answer.
            Ok(()) if record.host.restart_policy != RestartPolicy::No => self.0.db.store(&noted).await,
            kept => kept,
        };
        let started = match kept {
            Ok(()) => run.live.start().await.map_err(run_error),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            container.change(turn, |now| {
                now.state = record.state.clone();
                now.endpoint = None;
            });
            return Err(error);
        }
        container.set_live(Some(run.live.clone()));
        self.watch_health(container, Vec::new());
        self.tell_taken(container, &record);
        self.tell(container, "start", &[]);
        Ok(())
    }

    /// Takes down what one run used; goes past failures, because what is left is found at the next start of hostd.
    pub(crate) async fn tear_down(&self, id: &str, endpoint: Option<&Endpoint>) {
        let disconnect = async {
            match endpoint {
                Some(endpoint) => self.0.networks.disconnect(endpoint).await,
                None => Ok(()),
            }
        };
        let (removed, disconnected) = tokio::join!(self.0.runtime.remove(id), disconnect);
        if let Err(error) = removed {
            tracing::warn!(id, %error, "cannot remove what a run left");
        }
        if let Err(error) = disconnected {
            tracing::warn!(id, %error, "cannot disconnect from the network");
        }
    }

    /// Records why the program could not run.
    async fn failed_to_run(&self, container: &Arc<Container>, turn: Turn<'_>, error: &EngineError) {
        // Their clients are told by the error of the start.
        drop(container.take_pending());
        let code = exit_code(error);
        let message = error.chain();
        let was_restarting = container.record().state.status == Status::Restarting;
        let edit = |record: &mut ContainerRecord| {
            record.state.exit_code = code;
            record.state.error = message;
            record.state.pid = 0;
            record.endpoint = None;
        };
        let record = if was_restarting {
            container.advance(&turn, Happening::Exited, edit)
        } else {
            Ok(container.change(&turn, edit))
        };
        if let Err(error) = record.and_then(|record| self.note(&record)) {
            tracing::error!(id = container.id, %error, "cannot record a failed start");
        }
        container.ends.send_modify(|ends| {
            ends.code = code;
            // One that is to run again has waiters of its run.
            ends.count += u64::from(was_restarting);
        });
        if container.record().host.auto_remove {
            drop(turn);
            self.remove_ended(container).await;
        }
    }

    /// The network namespace, and the user namespace where it is not the host's.
    async fn namespaces_for(&self, record: &Arc<ContainerRecord>) -> Result<(Net, Option<OwnedFd>)> {
        let mode = record.host.network_mode.as_str();
        let user = self.joined_userns(record)?;
        if mode == "host" {
            return Ok((Net::Host, user));
        }
        if let Some(target) = target_container(mode) {
            let live = self.network_target(&record.id, target)?;
            let netns =
                tokio::task::spawn_blocking(move || live.namespace("net")).await.map_err(joined)??;
            return Ok((Net::Shared(netns), user));
        }
        let map = self.id_map(&record.host).cloned();
        let (netns, user) =
            tokio::task::spawn_blocking(move || remap::new_netns(map, user)).await.map_err(joined)??;
        let connect = mode != "none" && !record.config.network_disabled;
        Ok((Net::Own { netns, connect }, user))
    }

    /// The container whose network namespace is to be joined, or Docker's refusals.
    fn network_target(&self, id: &str, target: &str) -> Result<hostd_runtime::Container> {
        let target = self.container(target).map_err(|error| EngineError {
            message: format!("joining network namespace of container: {}", error.message),
            ..error
        })?;
        if target.id == id {
            return Err(EngineError::invalid("cannot join own network namespace"));
        }
        let record = target.record();
        if record.state.status == Status::Restarting {
            return Err(EngineError::conflict(format!(
                "cannot join network namespace of container: Container {} is restarting, wait until the container is \
                 running",
                target.id
            )));
        }
        target.live().map_err(|_| {
            EngineError::conflict(format!(
                "cannot join network namespace of a non running container: container {} is {}",
                record.name,
                record.state.status.as_str()
            ))
        })
    }

    async fn connect(&self, record: &ContainerRecord, netns: &OwnedFd) -> Result<Endpoint> {
        let request = EndpointRequest {
            container_id: record.id.clone(),
            network: record.host.network_mode.clone(),
            netns: netns.as_fd(),
            ports: ports(record),
            ip: None,
            mac: record.mac_address.clone(),
            links: self.endpoint_links(record),
        };
        let label = |error: hostd_network::NetworkError| {
            let kind = EngineError::from(error);
            EngineError {
                message: format!(
                    "driver failed programming external connectivity on endpoint {}: {}",
                    record.name, kind.message
                ),
                ..kind
            }
        };
        self.0.networks.connect(request).await.map_err(label)
    }

    async fn snapshot_and_files(&self, record: &Arc<ContainerRecord>) -> Result<Snapshot> {
        let (engine, record) = (self.clone(), Arc::clone(record));
        tokio::task::spawn_blocking(move || {
            let root = engine.id_map(&record.host).and_then(IdMap::root);
            make_bind_sources(&record, root)?;
            engine.write_files(&record)?;
            for path in [&record.hostname_path, &record.hosts_path, &record.resolv_conf_path] {
                remap::give(Path::new(path), root)?;
            }
            security::label_files(&record)?;
            engine.snapshot_of(&record)
        })
        .await
        .map_err(joined)?
    }

    /// `hostname`, `hosts` and `resolv.conf`; bind-mounted, so they are written in place.
    fn write_files(&self, record: &ContainerRecord) -> Result<()> {
        let write =
            |path: &str, text: String| fs::write(path, text).map_err(io(format!("cannot write {path}")));
        write(&record.hostname_path, format!("{}\n", record.config.hostname))?;
        if let Some(target) = target_container(&record.host.network_mode) {
            let target = self.container(target)?.record();
            for (from, to) in [
                (&target.hosts_path, &record.hosts_path),
                (&target.resolv_conf_path, &record.resolv_conf_path),
            ] {
                fs::copy(from, to).map_err(io(format!("cannot copy {from}")))?;
            }
            return Ok(());
        }
        let on_host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let (host, defaults) = (&record.host, &self.0.config.defaults.dns);
        let servers = if host.dns.is_empty() { &defaults.servers } else { &host.dns };
        let search = if host.dns_search.is_empty() { &defaults.search } else { &host.dns_search };
        let options = if host.dns_options.is_empty() { &defaults.options } else { &host.dns_options };
        let keep =
            host.network_mode == "host" && servers.is_empty() && search.is_empty() && options.is_empty();
        let resolv_conf =
            if keep { on_host } else { hostd_network::resolv_conf(&on_host, servers, search, options) };
        write(&record.resolv_conf_path, resolv_conf)?;
        self.write_hosts(record, None)
    }

    pub(crate) fn write_hosts(&self, record: &ContainerRecord, endpoint: Option<&Endpoint>) -> Result<()> {
        let gateway = IpAddr::V4(self.0.networks.bridge_gateway());
        let mut extra = Vec::with_capacity(record.host.extra_hosts.len());
        for entry in &record.host.extra_hosts {
            let (name, address) = parse_extra_host(entry)?;
            extra.push((name.to_owned(), address.parse().unwrap_or(gateway)));
        }
        extra.extend(self.linked_hosts(record));
        let ip: Option<Ipv4Addr> = endpoint.map(|endpoint| endpoint.ip);
        let text = if record.host.network_mode == "host" {
            let mut text = fs::read_to_string("/etc/hosts").unwrap_or_default();
            for (name, address) in &extra {
                text.push_str(&format!("{address}\t{name}\n"));
            }
            text
        } else {
            hostd_network::hosts_file(&record.config.hostname, &record.config.domainname, ip, &extra)
        };
        fs::write(&record.hosts_path, text).map_err(io(format!("cannot write {}", record.hosts_path)))
    }
}

/// Docker makes a missing directory for `-v /host:/container`, and none for `--mount`.
fn make_bind_sources(record: &ContainerRecord, root: Option<(u32, u32)>) -> Result<()> {
    for point in record.mounts.iter().filter(|point| point.kind == MountType::Bind) {
        if fs::symlink_metadata(&point.source).is_ok() {
            continue;
        }
        let asked_as_mount =
            record.host.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == point.destination);
        if asked_as_mount {
            return Err(EngineError::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                point.source
            )));
        }
        remap::make_dirs(Path::new(&point.source), root)
            .map_err(io(format!("error while creating mount source path '{}'", point.source)))?;
    }
    Ok(())
}

/// What is to be published.
fn ports(record: &ContainerRecord) -> Vec<PortRequest> {
    let mut ports = Vec::new();
    for (port, bindings) in &record.host.port_bindings {
        for binding in bindings {
            ports.push(PortRequest {
                container_port: port.number,
                protocol: port.protocol,
                host_ip: binding.host_ip,
                host_ports: binding.host_ports.map(|(first, last)| first..=last),
            });
        }
        // `-p 80` arrives as a port with no binding.
        if bindings.is_empty() {
            ports.push(any_port(*port));
        }
    }
    if record.host.publish_all_ports {
        let bound = &record.host.port_bindings;
        ports.extend(
            record.config.exposed_ports.iter().filter(|port| !bound.contains_key(port)).map(|p| any_port(*p)),
        );
    }
    ports
}

fn any_port(port: crate::model::Port) -> PortRequest {
    PortRequest { container_port: port.number, protocol: port.protocol, host_ip: None, host_ports: None }
}

fn run_error(error: RuntimeError) -> EngineError {
    match error {
        RuntimeError::Exec { code, message } => {
            EngineError { exit_code: Some(code), ..EngineError::invalid(message) }
        }
        other => other.into(),
    }
}

/// What the failed start leaves as exit code: the exec's, or Docker's 128.
fn exit_code(error: &EngineError) -> i32 {
    error.exit_code.unwrap_or(128)
}
