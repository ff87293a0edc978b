//! Start-up: what was on record, what became of it while no daemon ran, and what a crash left over.

use crate::container::{Container, Index, Turn};
use crate::db::{Db, Loaded};
use crate::error::{Result, io, joined};
use crate::journal::Journal;
use crate::model::{ContainerRecord, Happening, Status};
use crate::revive::wants_to_run;
use crate::runtimes::Runtimes;
use crate::watch::restarts;
use crate::{Engine, EngineConfig, Inner, create, events, exec, names, security, volumes};
use hostd_image::ImageStore;
use hostd_network::Networks;
use hostd_runtime::selinux::Levels;
use hostd_runtime::spec::IdMap;
use hostd_runtime::{Exit, Found, Runtime, RuntimeConfig};
use hostd_volume::Volumes;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Exit code of a container whose end nobody saw, as with Docker.
const UNSEEN: i32 = 255;

pub(crate) async fn open(config: EngineConfig) -> Result<Engine> {
    let runtimes = Runtimes::of(&config.runtimes)?;
    config.log.check()?;
    make_dirs(&config)?;
    let journal = Journal::open(&config.exec_root)?;
    let (db, loaded) = open_db(&config.data_root).await?;
    let (images, runtime) = (
        ImageStore::open(&config.data_root.join("image"), config.images.clone()).await?,
        Runtime::open(RuntimeConfig {
            // Its own directory: everything in there is a bundle.
            exec_root: config.exec_root.join("shims"),
            shim_exe: config.shim_exe.clone(),
            cgroup_driver: config.cgroup_driver,
            cgroup_parent: config.cgroup_parent.clone(),
            realtime: config.realtime,
        })?,
    );
    let root = config.defaults.id_map.as_ref().and_then(IdMap::root);
    let volumes = Volumes::open(&config.data_root.join("volumes"))?.owned_by(root);

    let mut records = Vec::new();
    for mut record in loaded.records {
        if !config.data_root.join("containers").join(&record.id).is_dir() {
            // Removed before its record was.
            db.forget_lazily(&record.id)?;
            continue;
        }
        journal.replay(&mut record);
        // The journal may be of before a link was taken away.
        if let Some(endpoint) = &mut record.endpoint {
            endpoint.links.retain(|link| record.links.iter().any(|known| known.target == link.container_id));
        }
        records.push(record);
    }
    let found = find(&runtime, &records).await;
    let live = |record: &&ContainerRecord| matches!(found.get(&record.id), Some(Found::Running(_)));
    let endpoints: Vec<_> =
        records.iter().filter(live).filter_map(|record| record.endpoint.clone()).collect();
    let networks = Networks::open(config.network.clone(), &endpoints).await?;
    let selinux = security::selinux_policy(&config.defaults.security);
    let levels = Levels::default();
    records.iter().for_each(|record| levels.reserve_label(&record.process_label));
    let engine = Engine(Arc::new(Inner {
        config,
        id: loaded.engine_id,
        images,
        networks,
        volumes,
        runtime,
        runtimes: std::sync::RwLock::new(Arc::new(runtimes)),
        db,
        journal,
        index: Index::default(),
        execs: exec::Execs::default(),
        claims: volumes::Claims::default(),
        selinux,
        levels,
        bus: events::Bus::new(),
        closing: CancellationToken::new(),
        stopping: AtomicBool::new(false),
    }));
    engine.sweep(&records, &loaded.unreadable, &found).await;
    engine.take_up(records, found).await;
    Ok(engine)
}

/// Records hold environments, and with them secrets; layers hold setuid files: none of it is for other users. Root's own
/// sockets may stand in `exec_root`, so that one stays open for passing through.
fn make_dirs(config: &EngineConfig) -> Result<()> {
    // A runtime that is not ours walks to a container's directory as the container's root.
    let shims = if config.defaults.id_map.is_some() { 0o711 } else { 0o700 };
    let (data, exec) = (&config.data_root, &config.exec_root);
    for (dir, mode) in [
        (data.clone(), 0o710),
        (data.join("containers"), 0o710),
        (data.join("removing"), 0o700),
        (exec.clone(), 0o711),
        (exec.join("shims"), shims),
        (exec.join("engine"), 0o700),
    ] {
        fs::create_dir_all(&dir)
            .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)))
            .map_err(io(format!("cannot make {}", dir.display())))?;
    }
    Ok(())
}

async fn open_db(data_root: &Path) -> Result<(Db, Loaded)> {
    let path = data_root.join("state.redb");
    let id = names::random_id()?;
    // As Docker's: a UUID.
    let id = format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..32]);
    tokio::task::spawn_blocking(move || Db::open(&path, &id)).await.map_err(joined)?
}

/// Asks the runtime about those that ran when the daemon ended: all at a time, because one shim that is stuck
/// takes as long as the runtime has patience with it, and many of them are not to take many times that.
async fn find(runtime: &Runtime, records: &[ContainerRecord]) -> HashMap<String, Found> {
    let ran = records.iter().filter(|r| matches!(r.state.status, Status::Running | Status::Paused));
    let find = |record: &ContainerRecord| {
        let id = record.id.clone();
        async move {
            let state = runtime.reattach(&id).await.unwrap_or_else(|error| {
                tracing::error!(id, %error, "cannot find a container again");
                Found::Gone
            });
            (id, state)
        }
    };
    futures_util::future::join_all(ran.map(find)).await.into_iter().collect()
}

impl Engine {
    /// Removes what belongs to nothing on record. Goes past failures: the next start tries again.
    /// What an unreadable record names stays: a newer hostd may have written it.
    async fn sweep(
        &self,
        records: &[ContainerRecord],
        unreadable: &[String],
        found: &HashMap<String, Found>,
    ) {
        let known = |id: &str| {
            records.iter().any(|record| record.id == id) || unreadable.iter().any(|unread| unread == id)
        };
        for id in self.0.runtime.ids().unwrap_or_default() {
            if found.contains_key(&id) || unreadable.contains(&id) {
                continue;
            }
            tracing::info!(id, "removing a run that belongs to no running container");
            if let Err(error) = self.0.runtime.remove(&id).await {
                tracing::warn!(id, %error, "cannot remove a left-over run");
            }
        }
        for id in self.0.images.snapshots().unwrap_or_default() {
            if !known(&id)
                && let Err(error) = self.0.images.remove_snapshot(&id)
            {
                tracing::warn!(id, %error, "cannot remove a left-over layer");
            }
        }
        for (dir, keep) in [("containers", true), ("removing", false)] {
            for entry in fs::read_dir(self.0.config.data_root.join(dir)).into_iter().flatten().flatten() {
                if keep && entry.file_name().to_str().is_some_and(known) {
                    continue;
                }
                if keep {
                    self.sweep_volumes(&entry.path());
                }
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove a left-over directory");
                }
            }
        }
        self.0.journal.retain(known);
    }

    /// Anonymous volumes of a create that a crash cut short.
    fn sweep_volumes(&self, dir: &Path) {
        for name in create::abandoned_volumes(dir) {
            match self.0.volumes.remove(&name) {
                Ok(()) | Err(hostd_volume::VolumeError::NotFound(_)) => {}
                Err(error) => tracing::warn!(volume = name, %error, "cannot remove a left-over volume"),
            }
        }
    }

    /// Puts the records to work: watches those that run, records the ends that nobody saw, applies policies.
    async fn take_up(&self, records: Vec<ContainerRecord>, mut found: HashMap<String, Found>) {
        let containers: Vec<_> = records.into_iter().map(Container::new).collect();
        // All names first: containers may refer to each other.
        for container in &containers {
            if let Err(error) = self.0.index.reserve(&container.record().name, &container.id) {
                tracing::error!(id = container.id, %error, "two containers with one name on record");
            }
            self.0.index.insert(container);
        }
        let mut to_start = Vec::new();
        for container in &containers {
            self.take_up_one(container, found.remove(&container.id)).await;
            if container.record().state.status == Status::Restarting {
                to_start.push(Arc::clone(container));
            }
        }
        self.revive(to_start);
    }

    async fn take_up_one(&self, container: &Arc<Container>, found: Option<Found>) {
        match found {
            Some(Found::Running(live)) => {
                let turn = container.turn().await;
                container.set_live(Some(live.clone()));
                let pid = live.pid();
                container.change(&turn, |record| record.state.pid = pid);
                let record = self.settle_pause(container, &turn, &live).await;
                drop(turn);
                let probes = self.take_up_execs(container, &live).await;
                if record.state.status == Status::Running {
                    self.watch_health(container, probes);
                } else {
                    // They end when they thaw.
                    for probe in &probes {
                        probe.kill(&live).await;
                    }
                }
                self.watch(container, live);
            }
            Some(Found::Exited(exit)) => self.catch_up(container, exit).await,
            Some(Found::Gone) => {
                let exit = Exit { code: UNSEEN, oom_killed: false, at: OffsetDateTime::now_utc() };
                self.catch_up(container, exit).await;
            }
            None => self.take_up_idle(container).await,
        }
    }

    /// A pause that a crash cut short is taken back, and so is one whose end it cut short: neither was acknowledged.
    async fn settle_pause(
        &self,
        container: &Arc<Container>,
        turn: &Turn<'_>,
        live: &hostd_runtime::Container,
    ) -> Arc<ContainerRecord> {
        let record = container.record();
        match (record.state.status, live.is_frozen()) {
            (Status::Running, true) => {
                if let Err(error) = live.unpause().await {
                    tracing::error!(id = container.id, %error, "cannot thaw a container that was half paused");
                }
                record
            }
            (Status::Paused, false) => {
                let thawed = container.advance(turn, Happening::Thawed, |_| {}).and_then(|record| {
                    self.note(&record)?;
                    Ok(record)
                });
                thawed.unwrap_or_else(|error| {
                    tracing::error!(id = container.id, %error, "cannot record the end of a pause");
                    container.record()
                })
            }
            _ => record,
        }
    }

    /// Records an end that came while no daemon ran.
    async fn catch_up(&self, container: &Arc<Container>, exit: Exit) {
        let turn = container.turn().await;
        let restart = restarts(&container.record(), exit.code);
        let record = self.record_end(container, &turn, exit, restart).await;
        drop(turn);
        if !restart && record.host.auto_remove {
            self.remove_ended(container).await;
        }
    }

    /// One that did not run: goes on being removed, or is to start because its policy says so.
    async fn take_up_idle(&self, container: &Arc<Container>) {
        let record = container.record();
        let ran = record.state.started_at.is_some();
        match record.state.status {
            Status::Removing => self.go_on_removing(container, record.state.remove_volumes).await,
            // It ended, and the crash came before it was removed for that.
            Status::Exited if record.host.auto_remove => self.remove_ended(container).await,
            Status::Exited if ran && wants_to_run(&record) => {
                let turn = container.turn().await;
                container.change(&turn, |record| record.state.status = Status::Restarting);
            }
            _ => {}
        }
    }
}
