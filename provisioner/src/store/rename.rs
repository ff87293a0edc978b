//! A machine gets another name: one rename of its directory, and what refers to the name follows.
//!
//! `machines/<name>/renamed-from` is written before the directory moves and removed once the active machine has
//! followed. Whoever is interrupted leaves the machine under its old name or its new one, and while the mark is there,
//! the old name in `active` is read as the new one.

use super::{MachineName, Record, Stage, Store, StoreError, files, save_record};
use std::io::{self, ErrorKind};
use std::path::Path;

/// The mark in the machine's directory: the name that it had.
const MARK: &str = "renamed-from";

impl Store {
    /// Renames a machine, or ends a rename to this name that was interrupted. Takes the locks of both names.
    pub(crate) fn rename(&self, old: &MachineName, new: &MachineName) -> Result<(), StoreError> {
        // Neither is made where it could not be used: a lock leaves a file.
        if !self.contains(old) && !self.was_renamed(old, new) {
            return Err(StoreError::NotFound(old.to_string()));
        }
        let _old = self.lock(old)?;
        let _new = self.lock(new)?;
        if !self.contains(old) && self.was_renamed(old, new) {
            return self.settle(old, new);
        }
        if self.contains(new) {
            return Err(StoreError::Exists(new.to_string()));
        }
        let machine = self.load(old)?;
        if machine.record.state == Stage::Creating {
            return Err(StoreError::Interrupted(old.to_string()));
        }
        let (from, to, machines) = (self.dir(old), self.dir(new), self.home.join("machines"));
        let failed = |path: &Path, source| StoreError::Write { path: path.to_owned(), source };
        let mark = from.join(MARK);
        files::write(&mark, format!("{old}\n").as_bytes(), 0o600).map_err(|source| failed(&mark, source))?;
        if let Err(source) = std::fs::rename(&from, &to) {
            // A mark that cannot be removed harms nothing: it names the machine that it lies in.
            let _ = std::fs::remove_file(&mark);
            return Err(failed(&to, source));
        }
        files::sync_dir(&machines).map_err(|source| failed(&machines, source))?;
        self.settle(old, new)
    }

    /// What is to be done once the directory has moved; may be done again.
    fn settle(&self, old: &MachineName, new: &MachineName) -> Result<(), StoreError> {
        let dir = self.dir(new);
        let record = Record { name: new.to_string(), ..self.load(new)?.record };
        save_record(&dir, &record)?;
        {
            let _held = self.wait_for_lock(".active")?;
            // As it stands there: `active` follows the mark already.
            if self.active_as_written()?.as_ref() == Some(old) {
                self.set_active(new)?;
            }
        }
        let mark = dir.join(MARK);
        let removed = match std::fs::remove_file(&mark) {
            Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| files::sync_dir(&dir)),
        };
        removed.map_err(|source: io::Error| StoreError::Write { path: mark, source })
    }

    /// Whether `new` is what became of `old`, by a rename that has not come to its end.
    fn was_renamed(&self, old: &MachineName, new: &MachineName) -> bool {
        files::read(&self.dir(new).join(MARK), 4096).is_ok_and(|text| text.trim() == old.as_str())
    }

    /// What a name that no machine has any more became, where its rename has not come to its end.
    pub(super) fn successor(&self, gone: &MachineName) -> Option<MachineName> {
        self.names().ok()?.into_iter().find(|name| self.was_renamed(gone, name))
    }
}
