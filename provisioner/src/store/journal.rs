//! The journal of an operation: each step stands there before it is taken, so that who comes after an interruption knows
//! what may exist. `create` has one for as long as its machine lives, for `rm`; others end with their operation.
//!
//! One line per event, `2026-01-02T03:04:05Z planned driver`, appended and synced. A last line without its end was cut
//! off by a crash before anything was done about it, and is not read. Between them stands how far a step has come,
//! `… reached making the disk`: for people, who want to know where it was interrupted.

use super::StoreError;
use std::fs::File;
use std::io::Write as _;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The word before a place that a step has reached.
const REACHED: &str = "reached";

/// The steps of one kind of operation, whose order is that in which they are taken.
pub(crate) trait Steps: Copy + Ord + 'static {
    /// All of them, in order.
    const ALL: &'static [Self];
    /// Name of the journal's file in the machine's directory.
    const FILE: &'static str;
    /// The word in the journal.
    fn word(self) -> &'static str;
}

/// A step of `create`, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// SSH keys of the machine.
    Keys,
    /// What the driver makes.
    Driver,
    /// Certificates on the laptop.
    Certificates,
    /// hostd on the machine, verified.
    Provision,
}

impl Steps for Step {
    const ALL: &'static [Self] = &[Self::Keys, Self::Driver, Self::Certificates, Self::Provision];
    const FILE: &'static str = "journal";

    fn word(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Driver => "driver",
            Self::Certificates => "certificates",
            Self::Provision => "provision",
        }
    }
}

/// What happened to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// About to be taken: what it makes may exist.
    Planned,
    /// Taken: what it makes exists.
    Done,
    /// Taken back: nothing of it exists.
    Undone,
}

impl Event {
    /// The word in the journal.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Done => "done",
            Self::Undone => "undone",
        }
    }
}

/// The journal of one operation on one machine.
#[derive(Clone, Debug)]
pub(crate) struct Journal<S: Steps = Step> {
    path: PathBuf,
    steps: PhantomData<S>,
}

impl<S: Steps> Journal<S> {
    /// The journal in a machine's directory.
    pub(super) fn in_dir(dir: &Path) -> Self {
        Self { path: dir.join(S::FILE), steps: PhantomData }
    }

    /// Appends a line; on disk when this returns.
    pub(crate) fn note(&self, event: Event, step: S) -> Result<(), StoreError> {
        self.append(&format!("{} {}", event.word(), step.word()))
    }

    /// Notes how far a step has come, once for each place.
    pub(crate) fn reached(&self, place: &str) -> Result<(), StoreError> {
        let words = format!("{REACHED} {}", place.replace(char::is_control, " "));
        let known = |line: &str| line.split_once(' ').is_some_and(|(_, rest)| rest == words);
        if self.text()?.lines().any(known) { Ok(()) } else { self.append(&words) }
    }

    fn append(&self, words: &str) -> Result<(), StoreError> {
        let failed = |source| StoreError::Write { path: self.path.clone(), source };
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let at = now.format(&Rfc3339).unwrap_or_default();
        let mut line = format!("{at} {words}\n");
        if self.ends_within_a_line().map_err(failed)? {
            line.insert(0, '\n');
        }
        let mut file = File::options().append(true).create(true).open(&self.path).map_err(failed)?;
        file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        if let Some(dir) = self.path.parent() {
            super::files::sync_dir(dir).map_err(failed)?;
        }
        Ok(())
    }

    /// Notes that a step is about to be taken, unless that stands there already.
    pub(crate) fn plan(&self, step: S) -> Result<(), StoreError> {
        let known = |(other, event): &(S, Event)| *other == step && *event != Event::Undone;
        if self.steps()?.iter().any(known) { Ok(()) } else { self.note(Event::Planned, step) }
    }

    /// Notes that a step is taken, unless that stands there already.
    pub(crate) fn done(&self, step: S) -> Result<(), StoreError> {
        if self.is_done(step)? { Ok(()) } else { self.note(Event::Done, step) }
    }

    /// Ends the operation: its journal is gone. None is fine.
    pub(crate) fn end(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::Write { path: self.path.clone(), source };
        match std::fs::remove_file(&self.path) {
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        }
        match self.path.parent() {
            Some(dir) => super::files::sync_dir(dir).map_err(failed),
            None => Ok(()),
        }
    }

    /// The last event of each step that has one, in order of the steps.
    pub(crate) fn steps(&self) -> Result<Vec<(S, Event)>, StoreError> {
        Ok(parse(&self.text()?))
    }

    fn text(&self) -> Result<String, StoreError> {
        match super::files::read(&self.path, 1 << 20) {
            Ok(text) => Ok(text),
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(StoreError::Read { path: self.path.clone(), source }),
        }
    }

    /// Whether this step's last event is `Done`.
    pub(crate) fn is_done(&self, step: S) -> Result<bool, StoreError> {
        Ok(self.steps()?.contains(&(step, Event::Done)))
    }

    fn ends_within_a_line(&self) -> std::io::Result<bool> {
        match super::files::read(&self.path, 1 << 20) {
            Ok(text) => Ok(!text.is_empty() && !text.ends_with('\n')),
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(other) => Err(other),
        }
    }
}

fn parse<S: Steps>(text: &str) -> Vec<(S, Event)> {
    let mut last: Vec<(S, Event)> = Vec::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut words = line.split(' ').skip(1);
        let event = match words.next() {
            Some("planned") => Event::Planned,
            Some("done") => Event::Done,
            Some("undone") => Event::Undone,
            _ => continue,
        };
        let Some(word) = words.next() else { continue };
        let Some(step) = S::ALL.iter().copied().find(|step| step.word() == word) else { continue };
        last.retain(|(other, _)| *other != step);
        last.push((step, event));
    }
    last.sort_by_key(|(step, _)| *step);
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_last_line_is_not_read_and_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::<Step>::in_dir(dir.path());
        journal.note(Event::Planned, Step::Keys).unwrap();
        journal.note(Event::Done, Step::Keys).unwrap();
        let whole = std::fs::read_to_string(&journal.path).unwrap();
        std::fs::write(&journal.path, format!("{whole}2026-01-02T03:04:05Z planned dri")).unwrap();
        assert_eq!(journal.steps().unwrap(), [(Step::Keys, Event::Done)]);
        journal.note(Event::Planned, Step::Driver).unwrap();
        assert_eq!(journal.steps().unwrap(), [(Step::Keys, Event::Done), (Step::Driver, Event::Planned)]);
    }

    #[test]
    fn a_place_that_is_reached_again_is_noted_once_and_is_no_step() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::<Step>::in_dir(dir.path());
        for place in ["booting", "booting", "Found a\nplanned driver", "booting"] {
            journal.reached(place).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&journal.path).unwrap().lines().count(), 2);
        assert_eq!(journal.steps().unwrap(), []);
    }

    #[test]
    fn the_last_event_of_a_step_counts() {
        let text = "t planned keys\nt done keys\nt planned driver\nt undone keys\nt what ever\n\n";
        assert_eq!(parse::<Step>(text), [(Step::Keys, Event::Undone), (Step::Driver, Event::Planned)]);
    }
}
