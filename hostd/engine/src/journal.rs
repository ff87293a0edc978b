//! The journal of what became of containers, beside the shims' own files in `exec_root`.
//!
//! ```text
//! <exec-root>/engine/<id>.json    state, endpoint and restart count, as of the last transition
//! ```
//! Written at every transition, before anybody is told, by rename and without an fsync: a crash of the
//! daemon cannot lose it, and a crash of the machine, which empties `exec_root`, ends all runs anyway. It is never
//! older than the record in the database, which follows lazily, so at start-up it wins. Where `exec_root` is no tmpfs
//! and outlives the machine's crash, it is void all the same: nothing in there was synced.
//!
//! ```text
//! <exec-root>/boot-id            the boot of the machine that all of it is about
//! ```

use crate::error::{Result, io};
use crate::model::{ContainerRecord, State};
use hostd_network::Endpoint;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Journal {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    state: State,
    endpoint: Option<Endpoint>,
    restart_count: u32,
}

#[derive(Serialize)]
struct EntryRef<'a> {
    state: &'a State,
    endpoint: &'a Option<Endpoint>,
    restart_count: u32,
}

impl Journal {
    pub(crate) fn open(exec_root: &Path) -> Result<Self> {
        let dir = exec_root.join("engine");
        fs::create_dir_all(&dir).map_err(io(format!("cannot make {}", dir.display())))?;
        let journal = Self { dir };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        journal.belong_to(&boot, &exec_root.join("boot-id"))?;
        Ok(journal)
    }

    /// Forgets everything where the machine was started anew since.
    fn belong_to(&self, boot: &str, mark: &Path) -> Result<()> {
        let known = fs::read_to_string(mark).ok();
        if known.as_deref() == Some(boot) {
            return Ok(());
        }
        // None is of a daemon that left no mark.
        if known.is_some() {
            self.retain(|_| false);
        }
        fs::write(mark, boot).map_err(io(format!("cannot write {}", mark.display())))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Notes the changing half of `record`.
    pub(crate) fn note(&self, record: &ContainerRecord) -> Result<()> {
        let (path, temporary) = (self.path(&record.id), self.dir.join(format!("{}.new", record.id)));
        let entry = EntryRef {
            state: &record.state,
            endpoint: &record.endpoint,
            restart_count: record.restart_count,
        };
        serde_json::to_vec(&entry)
            .map_err(std::io::Error::from)
            .and_then(|json| fs::write(&temporary, json))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(io(format!("cannot write {}", path.display())))
    }

    /// Brings `record` up to date with what was noted last; `false` where nothing was.
    pub(crate) fn replay(&self, record: &mut ContainerRecord) -> bool {
        let Ok(json) = fs::read(self.path(&record.id)) else { return false };
        match serde_json::from_slice::<Entry>(&json) {
            Ok(entry) => {
                record.state = entry.state;
                record.endpoint = entry.endpoint;
                record.restart_count = entry.restart_count;
                true
            }
            Err(error) => {
                tracing::warn!(id = record.id, %error, "unreadable journal entry");
                false
            }
        }
    }

    pub(crate) fn forget(&self, id: &str) {
        let _ = fs::remove_file(self.path(id));
    }

    /// Forgets all but the ids that `keep` knows.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let known = name.to_str().and_then(|name| name.strip_suffix(".json")).is_some_and(&keep);
            if !known {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;
    use crate::model::Status;

    #[test]
    fn a_note_outlives_the_daemon_and_a_torn_one_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let mut noted = record("aa", "web");
        noted.state.status = Status::Running;
        noted.restart_count = 3;
        journal.note(&noted).unwrap();
        let mut stale = record("aa", "web");
        assert!(journal.replay(&mut stale));
        assert_eq!(stale, noted);
        let mark = dir.path().join("mark");
        journal.belong_to("first", &mark).unwrap();
        journal.belong_to("first", &mark).unwrap();
        assert!(journal.replay(&mut stale));
        journal.belong_to("second", &mark).unwrap();
        assert!(!journal.replay(&mut stale), "another boot");
        fs::write(journal.path("aa"), "{\"state\":").unwrap();
        assert!(!journal.replay(&mut stale));
        journal.retain(|_| false);
        assert_eq!(fs::read_dir(&journal.dir).unwrap().count(), 0);
    }
}
