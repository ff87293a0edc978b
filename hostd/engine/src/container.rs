//! One container in memory: its record, its shim while it runs, and who waits for it.
//!
//! Whoever holds a container's [`Turn`] may change its state; all others wait for theirs, and readers take the
//! record as it is, without waiting. A turn is never held while waiting for a program to end: the task that
//! watches the program needs it to record the end.

use crate::error::{EngineError, Result};
use crate::model::{ContainerRecord, Happening};
use crate::names;
use hostd_runtime::Streams;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::net::UnixStream;
use tokio::sync::{MutexGuard, Notify, watch};
use tokio_util::sync::CancellationToken;

/// The right to change a container's state.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

/// What those who wait for a container look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    /// How many runs have ended, in this daemon's life.
    pub(crate) count: u64,
    pub(crate) code: i32,
    pub(crate) removed: bool,
    /// Why the removal failed.
    pub(crate) removal_error: Option<String>,
}

/// The end of the run that goes on when it was made, to be waited for.
pub(crate) struct NextEnd {
    ends: watch::Receiver<Ends>,
    before: u64,
}

impl NextEnd {
    /// Returns once that run has ended, or the container is gone.
    pub(crate) async fn wait(&mut self) {
        let before = self.before;
        // Who waits holds the container, and with it the sender.
        let _ = self.ends.wait_for(|ends| ends.count > before || ends.removed).await;
    }
}

/// An attachment made before the start: our end of the client's stream.
pub(crate) struct Pending {
    pub(crate) stream: UnixStream,
    pub(crate) streams: Streams,
    /// Key sequence that detaches, where one applies.
    pub(crate) detach: Option<Vec<u8>>,
}

pub(crate) struct Container {
    pub(crate) id: String,
    record: RwLock<Arc<ContainerRecord>>,
    turn: tokio::sync::Mutex<()>,
    live: Mutex<Option<hostd_runtime::Container>>,
    pub(crate) ends: watch::Sender<Ends>,
    pub(crate) pending: Mutex<Vec<Pending>>,
    /// Ends the pause before a restart.
    pub(crate) hurry: Notify,
    /// How many users restart it just now: it is not to be removed for having ended.
    pub(crate) spared: AtomicUsize,
    /// Ends the task that runs health checks.
    prober: Mutex<Option<CancellationToken>>,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Arc<Self> {
        let ends = Ends { code: record.state.exit_code, ..Ends::default() };
        Arc::new(Self {
            id: record.id.clone(),
            record: RwLock::new(Arc::new(record)),
            turn: tokio::sync::Mutex::new(()),
            live: Mutex::new(None),
            ends: watch::Sender::new(ends),
            pending: Mutex::new(Vec::new()),
            hurry: Notify::new(),
            spared: AtomicUsize::new(0),
            prober: Mutex::new(None),
        })
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the right to change the state.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        self.turn.lock().await
    }

    /// Changes the record; the result is what readers see from now on.
    pub(crate) fn change(
        &self,
        _turn: &Turn<'_>,
        edit: impl FnOnce(&mut ContainerRecord),
    ) -> Arc<ContainerRecord> {
        let mut slot = self.record.write().unwrap_or_else(PoisonError::into_inner);
        edit(Arc::make_mut(&mut slot));
        Arc::clone(&slot)
    }

    /// Moves on to the next status, and changes the record with it.
    pub(crate) fn advance(
        &self,
        turn: &Turn<'_>,
        happening: Happening,
        edit: impl FnOnce(&mut ContainerRecord),
    ) -> Result<Arc<ContainerRecord>> {
        let status = self.record().state.status;
        let next = status.after(happening).ok_or_else(|| {
            let id = &self.id;
            EngineError::conflict(format!(
                "container {id} is {}: it cannot have {happening:?}",
                status.as_str()
            ))
        })?;
        Ok(self.change(turn, |record| {
            record.state.status = next;
            edit(record);
        }))
    }

    /// To wait for the end of the present run; made while the turn is held, it cannot miss it.
    pub(crate) fn next_end(&self) -> NextEnd {
        let mut ends = self.ends.subscribe();
        let before = ends.borrow_and_update().count;
        NextEnd { ends, before }
    }

    /// The running container, or Docker's error.
    pub(crate) fn live(&self) -> Result<hostd_runtime::Container> {
        self.live_now().ok_or_else(|| EngineError::conflict(format!("Container {} is not running", self.id)))
    }

    pub(crate) fn live_now(&self) -> Option<hostd_runtime::Container> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_live(&self, live: Option<hostd_runtime::Container>) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// Ends the task that runs health checks, and puts another in its place.
    pub(crate) fn set_prober(&self, next: Option<CancellationToken>) {
        let mut prober = self.prober.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = std::mem::replace(&mut *prober, next) {
            last.cancel();
        }
    }

    pub(crate) fn take_pending(&self) -> Vec<Pending> {
        std::mem::take(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What every event about this container tells.
    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        let record = self.record();
        let mut attributes = record.config.labels.clone();
        attributes.insert("image".to_owned(), record.config.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        attributes
    }
}

/// All containers, by id and by name.
#[derive(Default)]
pub(crate) struct Index {
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    by_id: BTreeMap<String, Arc<Container>>,
    /// To ids; also of containers that are being created.
    by_name: HashMap<String, String>,
}

impl Index {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// By id, name, or unambiguous prefix of an id.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Container>> {
        let tables = self.read();
        if let Some(container) = tables.by_id.get(name) {
            return Ok(Arc::clone(container));
        }
        let not_found = || EngineError::not_found(format!("No such container: {name}"));
        let bare = name.strip_prefix('/').unwrap_or(name);
        if let Some(id) = tables.by_name.get(bare) {
            return tables.by_id.get(id).cloned().ok_or_else(not_found);
        }
        if name.is_empty() {
            return Err(not_found());
        }
        let mut hits = tables.by_id.range(name.to_owned()..).take_while(|(id, _)| id.starts_with(name));
        match (hits.next(), hits.next()) {
            (None, _) => Err(not_found()),
            (Some((_, container)), None) => Ok(Arc::clone(container)),
            _ => Err(EngineError::invalid(format!("Multiple IDs found with provided prefix: {name}"))),
        }
    }

    /// All of them, in no particular order.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.read().by_id.values().cloned().collect()
    }

    /// Takes `name` for `id`; [`Index::release`] gives it back.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut tables = self.write();
        if let Some(holder) = tables.by_name.get(name) {
            return Err(EngineError::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            )));
        }
        tables.by_name.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Takes a free random name.
    pub(crate) fn reserve_random(&self, id: &str) -> Result<String> {
        for attempt in 0..64 {
            let name = names::random_name(attempt)?;
            if self.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
        let name = id[..12].to_owned();
        self.reserve(&name, id).map(|()| name)
    }

    pub(crate) fn release(&self, name: &str) {
        self.write().by_name.remove(name);
    }

    pub(crate) fn insert(&self, container: &Arc<Container>) {
        self.write().by_id.insert(container.id.clone(), Arc::clone(container));
    }

    pub(crate) fn remove(&self, id: &str, name: &str) {
        let mut tables = self.write();
        tables.by_id.remove(id);
        tables.by_name.remove(name);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{ContainerConfig, HostConfig, State};
    use time::OffsetDateTime;

    /// A minimal record for tests.
    pub(crate) fn record(id: &str, name: &str) -> ContainerRecord {
        ContainerRecord {
            id: id.to_owned(),
            name: name.to_owned(),
            created: OffsetDateTime::UNIX_EPOCH,
            image_id: "sha256:aa".to_owned(),
            config: ContainerConfig { image: "busybox".to_owned(), ..ContainerConfig::default() },
            host: HostConfig { network_mode: "bridge".to_owned(), ..HostConfig::default() },
            args: vec!["true".to_owned()],
            mounts: Vec::new(),
            endpoint: None,
            restart_count: 0,
            log_path: String::new(),
            hostname_path: String::new(),
            hosts_path: String::new(),
            resolv_conf_path: String::new(),
            mac_address: None,
            links: Vec::new(),
            process_label: String::new(),
            mount_label: String::new(),
            state: State::new(),
        }
    }

    fn index(containers: &[(&str, &str)]) -> Index {
        let index = Index::default();
        for (id, name) in containers {
            index.reserve(name, id).unwrap();
            index.insert(&Container::new(record(id, name)));
        }
        index
    }

    #[test]
    fn a_container_is_found_by_id_name_and_prefix() {
        let index = index(&[("abc1", "web"), ("abd2", "abd"), ("ffff", "ff")]);
        for (asked, id) in [
            ("abc1", "abc1"),
            ("web", "abc1"),
            ("/web", "abc1"),
            ("abc", "abc1"),
            ("abd", "abd2"),
            ("ff", "ffff"),
        ] {
            assert_eq!(index.get(asked).unwrap().id, id, "{asked}");
        }
        assert_eq!(index.get("ab").err().unwrap().message, "Multiple IDs found with provided prefix: ab");
        assert_eq!(index.get("nope").err().unwrap().message, "No such container: nope");
        assert_eq!(index.get("").err().unwrap().message, "No such container: ");
    }

    #[test]
    fn a_taken_name_is_refused_in_dockers_words() {
        let error = index(&[("abc1", "web")]).reserve("web", "x").unwrap_err();
        assert_eq!(
            error.message,
            "Conflict. The container name \"/web\" is already in use by container \"abc1\". You have to remove (or \
             rename) that container to be able to reuse that name."
        );
    }
}
