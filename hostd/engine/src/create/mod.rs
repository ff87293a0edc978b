//! Creating a container: merge, refuse, make volumes, put on record.

pub(crate) mod limits;
pub(crate) mod merge;
mod mounts;
mod namespaces;
mod options;
mod security;
mod storage;

pub(crate) use namespaces::{in_userns, is_host, is_shareable, target_container};
pub(crate) use options::parse_extra_host;
pub use options::{check_ulimit, parse_size};
pub use security::{SeccompProfile, SecurityDefaults};
pub(crate) use security::{SecurityOptions, security_options};

use crate::container::Container;
use crate::error::{EngineError, ErrorKind, Result, io, joined};
use crate::model::{ContainerConfig, ContainerRecord, HostConfig, MountPoint, MountType, State};
use crate::{Engine, names};
use hostd_image::{Image, Platform};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// `None`: a random one.
    pub name: Option<String>,
    /// The portable half.
    pub config: ContainerConfig,
    /// The machine-bound half.
    pub host: HostConfig,
    /// The platform that the image must have.
    pub platform: Option<Platform>,
    /// A fixed MAC on the default network, when asked for.
    pub mac_address: Option<String>,
}

/// A container was created.
#[derive(Clone, Debug)]
pub struct Created {
    /// 64 hex digits.
    pub id: String,
    /// What the client ought to know.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Creates a container; it is on disk when this returns.
    pub async fn create(&self, request: CreateRequest) -> Result<Created> {
        let wanted_name =
            request.name.as_deref().filter(|name| !name.is_empty()).map(names::validate).transpose()?;
        let id = names::random_id()?;
        // In use from now on: until the container is on record, nothing else would keep the image.
        let (image, _lease) = self.0.images.lease(&request.config.image, &id)?;
        check_platform(&request.config.image, request.platform.as_ref(), &image)?;
        let mut host = request.host;
        self.0.config.log.fill_in(&mut host);
        let asks_ports = !request.config.exposed_ports.is_empty();
        let mut config = merge::merge(request.config, &image.config)?;
        let args = merge::args(&config)?;
        let warnings =
            options::check(&config, asks_ports, &mut host, &self.machine(), &self.0.config.defaults)?;
        options::check_runtime(&mut host, &self.0.runtimes())?;
        self.check_cgroup_parent(&host.cgroup_parent)?;
        storage::check(&host.storage_opt, || self.0.images.can_limit())?;
        self.check_targets(&mut host)?;
        self.take_hostname(&mut config, &host)?;
        options::check_mac(request.mac_address.as_deref(), &host)?;
        let links = self.resolve_links(&host)?;
        host.links.clear();
        let planned = mounts::plan(&config, &host, self.inherited_mounts(&host)?)?;

        let name = match wanted_name {
            Some(name) => self.0.index.reserve(name, &id).map(|()| name.to_owned())?,
            None => self.0.index.reserve_random(&id)?,
        };
        let mut undo = Undo {
            engine: self.clone(),
            id: id.clone(),
            name: name.clone(),
            volumes: Vec::new(),
            claims: Vec::new(),
            process_label: String::new(),
            armed: true,
        };
        let labels = self.labels_for(&host)?;
        undo.process_label.clone_from(&labels.process);
        let dir = self.container_dir(&id);
        fs::create_dir(&dir).map_err(io(format!("cannot make {}", dir.display())))?;
        let mounts = self.make_mounts(planned, &image, &dir, &mut undo).await?;
        let record = self.first_record(id, name, image.id, config, host, args);
        let record = ContainerRecord {
            mounts,
            links,
            mac_address: request.mac_address,
            process_label: labels.process,
            mount_label: labels.mount,
            ..record
        };
        // A record without its directory is one of a container that was removed: after a power cut, too. There is nothing in
        // the directory yet, so that its entry is all that has to last; beside the record's commit that costs nothing.
        let synced = tokio::task::spawn_blocking(move || sync_entry(&dir));
        let (stored, synced) = tokio::join!(self.0.db.store(&record), synced);
        stored.and(synced.map_err(joined)?)?;
        undo.armed = false;
        let container = Container::new(record);
        self.0.index.insert(&container);
        // On record now; this would only be read if there were no record.
        let _ = fs::remove_file(self.container_dir(&container.id).join(ANONYMOUS));
        self.tell(&container, "create", &[]);
        Ok(Created { id: container.id.clone(), warnings })
    }

    /// Systemd's cgroups are slices; others are paths.
    fn check_cgroup_parent(&self, parent: &str) -> Result<()> {
        if parent.is_empty() {
            return Ok(());
        }
        self.0.config.cgroup_driver.check_parent(parent).map_err(EngineError::invalid)
    }

    /// The record of a new container, without mounts.
    fn first_record(
        &self,
        id: String,
        name: String,
        image_id: String,
        config: ContainerConfig,
        host: HostConfig,
        args: Vec<String>,
    ) -> ContainerRecord {
        let dir = self.container_dir(&id);
        let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let logged = host.log_driver == "json-file";
        ContainerRecord {
            log_path: if logged { file(&format!("{id}-json.log")) } else { String::new() },
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            resolv_conf_path: file("resolv.conf"),
            name,
            created: OffsetDateTime::now_utc(),
            image_id,
            config: ContainerConfig { hostname: hostname(config.hostname, &host, &id), ..config },
            host,
            args,
            mounts: Vec::new(),
            endpoint: None,
            restart_count: 0,
            mac_address: None,
            links: Vec::new(),
            process_label: String::new(),
            mount_label: String::new(),
            state: State::new(),
            id,
        }
    }

    /// Resolves the containers whose namespaces are to be shared, so that a rename cannot change the meaning.
    fn check_targets(&self, host: &mut HostConfig) -> Result<()> {
        for mode in [&mut host.network_mode, &mut host.pid_mode, &mut host.ipc_mode] {
            if let Some(name) = target_container(mode) {
                // Not `NotFound`: of a create, clients take that for a missing image, and pull it.
                let target = self.container(name).map_err(|error| EngineError::invalid(error.message))?;
                *mode = format!("container:{}", target.id);
            }
        }
        Ok(())
    }

    /// A container in another's network goes by that one's name, as with Docker.
    fn take_hostname(&self, config: &mut ContainerConfig, host: &HostConfig) -> Result<()> {
        let Some(target) = target_container(&host.network_mode) else { return Ok(()) };
        if host.uts_mode != "host" {
            let target = self.container(target)?.record();
            config.hostname.clone_from(&target.config.hostname);
            config.domainname.clone_from(&target.config.domainname);
        }
        Ok(())
    }

    /// What the containers of `--volumes-from` have mounted.
    fn inherited_mounts(&self, host: &HostConfig) -> Result<Vec<mounts::Planned>> {
        let mut inherited = Vec::new();
        for text in &host.volumes_from {
            let (name, writable) = mounts::parse_volumes_from(text)?;
            // Not `NotFound`: of a create, clients take that for a missing image, and pull it.
            let from = self.container(name).map_err(|error| EngineError::invalid(error.message))?;
            inherited.extend(mounts::inherit(&from.record().mounts, writable));
        }
        Ok(inherited)
    }

    /// Makes what `planned` needs and settles where it comes from.
    async fn make_mounts(
        &self,
        mut planned: Vec<mounts::Planned>,
        image: &Image,
        dir: &Path,
        undo: &mut Undo,
    ) -> Result<Vec<MountPoint>> {
        name_anonymous(&mut planned, dir)?;
        let mut points = Vec::with_capacity(planned.len());
        for plan in planned {
            if plan.point.kind != MountType::Volume {
                points.push(plan.point);
                continue;
            }
            let volumes = self.0.volumes.clone();
            let lower = if plan.no_copy { Vec::new() } else { image.layers.clone() };
            let mounts::Planned { mut point, anonymous, inherited, driver, driver_options, labels, .. } =
                plan;
            let name = point.name.clone().unwrap_or_default();
            // Before it is looked for: it must not be removed from now on.
            self.0.claims.add(&name);
            undo.claims.push(name.clone());
            if anonymous {
                undo.volumes.push(name.clone());
            }
            let (volume, point, is_new) = tokio::task::spawn_blocking(move || -> Result<_> {
                let known = volumes.get(&name).is_ok();
                let volume = if inherited {
                    volumes.get(&name)?
                } else if anonymous {
                    volumes.create_anonymous(&name, &driver, &driver_options, &labels)?
                } else {
                    volumes.create(Some(&name), &driver, &driver_options, &labels)?
                };
                if !lower.is_empty() {
                    volumes.populate(&volume, &lower, &point.destination)?;
                }
                point.source = volume.mountpoint.to_string_lossy().into_owned();
                point.driver = Some(volume.driver.clone());
                Ok((volume, point, !known))
            })
            .await
            .map_err(joined)??;
            points.push(point);
            if is_new {
                self.tell_volume("create", &volume);
            }
        }
        Ok(points)
    }
}

/// In the directory of a container that is being created: names of the anonymous volumes that are made for it.
const ANONYMOUS: &str = "anonymous-volumes.json";

/// Names the anonymous volumes and notes the names, so that a crash before the record is stored leaves none behind.
fn name_anonymous(planned: &mut [mounts::Planned], dir: &Path) -> Result<()> {
    let mut names = Vec::new();
    for plan in planned.iter_mut().filter(|plan| plan.point.kind == MountType::Volume) {
        if plan.point.name.is_none() {
            let name = names::random_id()?;
            plan.anonymous = true;
            plan.point.name = Some(name.clone());
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let path = dir.join(ANONYMOUS);
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&path)?;
        file.write_all(&serde_json::to_vec(&names)?)?;
        file.sync_all()?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(io(format!("cannot write {}", path.display())))?;
    sync_entry(dir)
}

/// Has a new directory outlive a power cut, as empty as it was made.
fn sync_entry(dir: &Path) -> Result<()> {
    let sync = || dir.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all());
    sync().map_err(io(format!("cannot write {} to the disk", dir.display())))
}

/// The anonymous volumes of a create that a crash cut short, by the directory it left.
pub(crate) fn abandoned_volumes(dir: &Path) -> Vec<String> {
    let json = fs::read(dir.join(ANONYMOUS)).unwrap_or_default();
    // Torn, it was still being written, and no volume was made.
    serde_json::from_slice(&json).unwrap_or_default()
}

/// The name that the container knows itself by.
fn hostname(asked: String, host: &HostConfig, id: &str) -> String {
    if !asked.is_empty() {
        asked
    } else if host.network_mode == "host" || host.uts_mode == "host" {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        id[..12].to_owned()
    }
}

fn check_platform(name: &str, wanted: Option<&Platform>, image: &Image) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let same = wanted.os == image.os
        && wanted.architecture == image.architecture
        && (wanted.variant.is_none() || image.variant.is_none() || wanted.variant == image.variant);
    if same {
        return Ok(());
    }
    let show = |os: &str, architecture: &str, variant: Option<&str>| match variant {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    };
    Err(EngineError::new(
        ErrorKind::NotFound,
        format!(
            "image with reference {name} was found but its platform ({}) does not match the specified platform ({})",
            show(&image.os, &image.architecture, image.variant.as_deref()),
            show(&wanted.os, &wanted.architecture, wanted.variant.as_deref()),
        ),
    ))
}

/// Takes back what a failed create has made, and in any case its claims on volumes.
struct Undo {
    engine: Engine,
    id: String,
    name: String,
    /// Anonymous volumes that were made for it.
    volumes: Vec<String>,
    /// Volumes that are not to be removed while it is being created.
    claims: Vec<String>,
    /// SELinux label whose level it has taken.
    process_label: String,
    armed: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let inner = Arc::clone(&self.engine.0);
        for volume in &self.claims {
            inner.claims.release(volume);
        }
        if !self.armed {
            return;
        }
        inner.levels.release(&self.process_label);
        // A write that failed may still be queued; this takes its place.
        let _ = inner.db.forget_lazily(&self.id);
        for volume in &self.volumes {
            match inner.volumes.remove(volume) {
                Ok(()) | Err(hostd_volume::VolumeError::NotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(volume, %error, "cannot remove the volume of a container that was not created");
                }
            }
        }
        // A removal of the image by force may have made its layer.
        if let Err(error) = inner.images.remove_snapshot(&self.id) {
            tracing::warn!(id = self.id, %error, "cannot remove the layer of a container that was not created");
        }
        let _ = fs::remove_dir_all(self.engine.container_dir(&self.id));
        inner.index.release(&self.name);
    }
}
