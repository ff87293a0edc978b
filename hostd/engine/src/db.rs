//! The state database: one record per container, in one file.
//!
//! ```text
//! state.redb     table `containers`: id -> ContainerRecord as JSON
//!                table `meta`: `engine-id` -> this installation's id
//! ```
//! Nothing reads it but [`Db::load`] at start-up: the index in memory serves all else. One thread writes;
//! what has queued up while it was at one commit goes into the next (group commit).
//!
//! A commit costs an fsync, so a record says how urgent it is. [`Db::store`] returns once it is on disk: what
//! was asked for (create, rename, a start or stop that a restart policy must respect). [`Db::store_lazily`] may take
//! [`LAZY`]: what became of it (started, exited), of which the journal in `exec_root` has a copy that a crash
//! of the daemon does not touch, and that a crash of the machine makes void. A removal is lazy too: its truth
//! is that the container's directory is gone.

use crate::error::{EngineError, Result};
use crate::model::ContainerRecord;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// How long a lazy write may wait for company.
const LAZY: Duration = Duration::from_millis(500);
/// Page cache of the database: reads happen once, at start-up.
const CACHE_BYTES: usize = 1 << 20;

enum Job {
    Put { id: String, json: Option<Vec<u8>>, done: Option<oneshot::Sender<Result<(), String>>> },
    Close,
}

pub(crate) struct Db {
    jobs: mpsc::Sender<Job>,
    writer: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What [`Db::load`] found.
pub(crate) struct Loaded {
    pub(crate) engine_id: String,
    pub(crate) records: Vec<ContainerRecord>,
    /// Ids of records that this version cannot read.
    pub(crate) unreadable: Vec<String>,
}

impl Db {
    /// Opens or makes the database and reads all of it. Blocking.
    pub(crate) fn open(path: &Path, new_engine_id: &str) -> Result<(Self, Loaded)> {
        let cannot = |error: redb::Error| {
            EngineError::internal(format!("cannot open the state database {}", path.display()))
                .caused_by(error)
        };
        let file = path.to_owned();
        let open = move || {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            Ok::<_, redb::Error>(builder.create(&file)?)
        };
        let db = open().map_err(cannot)?;
        // Environments stand in it, and in those secrets.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(crate::error::io(format!("cannot restrict {}", path.display())))?;
        let loaded = load(&db, new_engine_id).map_err(cannot)?;
        let (jobs, queue) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("state-db".to_owned())
            .stack_size(1 << 20)
            .spawn(move || write_all(Store { db: Some(db), open }, &queue))
            .map_err(crate::error::io("cannot start the state database's thread"))?;
        Ok((Self { jobs, writer: std::sync::Mutex::new(Some(writer)) }, loaded))
    }

    /// Stores a record; returns once it is durable.
    pub(crate) async fn store(&self, record: &ContainerRecord) -> Result<()> {
        let (done, ack) = oneshot::channel();
        self.send(Job::Put { id: record.id.clone(), json: Some(encode(record)?), done: Some(done) })?;
        match ack.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(EngineError::internal("cannot write the state database").caused_by(cause)),
            Err(_) => Err(closed()),
        }
    }

    /// Stores a record some time soon.
    pub(crate) fn store_lazily(&self, record: &ContainerRecord) -> Result<()> {
        self.send(Job::Put { id: record.id.clone(), json: Some(encode(record)?), done: None })
    }

    /// Forgets a record some time soon.
    pub(crate) fn forget_lazily(&self, id: &str) -> Result<()> {
        self.send(Job::Put { id: id.to_owned(), json: None, done: None })
    }

    /// Writes what is queued and ends the thread. Blocking.
    pub(crate) fn close(&self) {
        let _ = self.jobs.send(Job::Close);
        let writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the state database's thread panicked");
        }
    }

    fn send(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| closed())
    }
}

fn closed() -> EngineError {
    EngineError::new(crate::ErrorKind::Unavailable, "the engine is shutting down")
}

fn encode(record: &ContainerRecord) -> Result<Vec<u8>> {
    serde_json::to_vec(record)
        .map_err(|e| EngineError::internal(format!("cannot encode container {}", record.id)).caused_by(e))
}

fn load(db: &Database, new_engine_id: &str) -> Result<Loaded, redb::Error> {
    let write = db.begin_write()?;
    let engine_id = {
        write.open_table(CONTAINERS)?;
        let mut meta = write.open_table(META)?;
        let known = meta.get("engine-id")?.map(|id| id.value().to_owned());
        match known {
            Some(id) => id,
            None => {
                meta.insert("engine-id", new_engine_id)?;
                new_engine_id.to_owned()
            }
        }
    };
    write.commit()?;
    let read = db.begin_read()?;
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for entry in read.open_table(CONTAINERS)?.iter()? {
        let (id, json) = entry?;
        match serde_json::from_slice(json.value()) {
            Ok(record) => records.push(record),
            // One bad record must not keep the others from running.
            Err(error) => {
                tracing::error!(id = id.value(), %error, "unreadable container record");
                unreadable.push(id.value().to_owned());
            }
        }
    }
    Ok(Loaded { engine_id, records, unreadable })
}

/// The database as the writer has it: opened anew after an error of the file system (such as a full disk), since redb
/// takes nothing more from then on.
struct Store<F> {
    db: Option<Database>,
    open: F,
}

impl<F: Fn() -> Result<Database, redb::Error>> Store<F> {
    fn commit(&mut self, pending: &HashMap<String, Option<Vec<u8>>>) -> Result<(), redb::Error> {
        let db = match self.db.take() {
            Some(db) => db,
            None => (self.open)()?,
        };
        commit(&db, pending)?;
        self.db = Some(db);
        Ok(())
    }
}

/// The writer: gathers until something is urgent or the oldest has waited long enough, commits, acknowledges.
fn write_all(mut store: Store<impl Fn() -> Result<Database, redb::Error>>, queue: &mpsc::Receiver<Job>) {
    let mut pending: HashMap<String, Option<Vec<u8>>> = HashMap::new();
    let mut acks = Vec::new();
    let mut oldest: Option<Instant> = None;
    let mut open = true;
    while open {
        let job = match oldest {
            None => queue.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(since) => queue.recv_timeout(LAZY.saturating_sub(since.elapsed())),
        };
        let mut next = match job {
            Ok(job) => Some(job),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(Job::Close),
        };
        let timed_out = next.is_none();
        while let Some(job) = next {
            match job {
                Job::Put { id, json, done } => {
                    pending.insert(id, json);
                    acks.extend(done);
                    oldest.get_or_insert_with(Instant::now);
                }
                Job::Close => open = false,
            }
            next = queue.try_recv().ok();
        }
        if !pending.is_empty() && (timed_out || !acks.is_empty() || !open) {
            let outcome = store.commit(&pending).map_err(|error| error.to_string());
            match &outcome {
                Ok(()) => pending.clear(),
                // Kept for the next attempt, such as after room was made on the disk.
                Err(error) => tracing::error!(%error, "cannot write the state database"),
            }
            oldest = (!pending.is_empty()).then(Instant::now);
            for ack in acks.drain(..) {
                let ack: oneshot::Sender<Result<(), String>> = ack;
                let _ = ack.send(outcome.clone());
            }
        }
    }
}

fn commit(db: &Database, pending: &HashMap<String, Option<Vec<u8>>>) -> Result<(), redb::Error> {
    let mut write = db.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    {
        let mut table = write.open_table(CONTAINERS)?;
        for (id, json) in pending {
            match json {
                Some(json) => drop(table.insert(id.as_str(), json.as_slice())?),
                None => drop(table.remove(id.as_str())?),
            }
        }
    }
    Ok(write.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;
    use redb::StorageBackend;
    use redb::backends::FileBackend;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A file on a disk that may be full.
    #[derive(Debug)]
    struct Disk {
        file: FileBackend,
        full: Arc<AtomicBool>,
    }

    impl Disk {
        fn room(&self) -> io::Result<()> {
            if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.room().and_then(|()| self.file.set_len(len))
        }
        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.room().and_then(|()| self.file.write(offset, data))
        }
    }

    #[test]
    fn what_did_not_fit_on_the_disk_is_written_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let (path, full) = (dir.path().join("state.redb"), Arc::new(AtomicBool::new(false)));
        let (on_disk, switch) = (path.clone(), Arc::clone(&full));
        let open = move || {
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&on_disk)?;
            let file = FileBackend::new(file)?;
            Ok(Database::builder().create_with_backend(Disk { file, full: Arc::clone(&switch) })?)
        };
        let mut store = Store { db: None, open };
        let put = |id: &str| HashMap::from([(id.to_owned(), Some(encode(&record(id, id)).unwrap()))]);
        store.commit(&put("aa")).unwrap();
        full.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            assert!(store.commit(&put("bb")).is_err());
        }
        full.store(false, Ordering::Relaxed);
        store.commit(&put("cc")).unwrap();
        drop(store);
        let (_db, loaded) = Db::open(&path, "id").unwrap();
        assert_eq!(loaded.records, [record("aa", "aa"), record("cc", "cc")]);
    }

    #[tokio::test]
    async fn what_was_stored_is_there_when_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let (db, loaded) = Db::open(&path, "first").unwrap();
        assert!(loaded.records.is_empty());
        let (a, b) = (record("aa", "web"), record("bb", "db"));
        db.store(&a).await.unwrap();
        db.store_lazily(&b).unwrap();
        db.forget_lazily("aa").unwrap();
        db.close();
        drop(db);
        let (_db, loaded) = Db::open(&path, "second").unwrap();
        assert_eq!(loaded.engine_id, "first");
        assert_eq!(loaded.records, [b]);
    }
}
