//! Writing limits into the files of one cgroup; what was written can be taken back.

use super::files::write_limit;
use super::{CgroupError, Result};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Writes the limits of one cgroup.
pub(super) struct Writer<'a> {
    /// Where a controller's files are.
    dir: &'a dyn Fn(&str) -> Option<PathBuf>,
    /// What the files held before, oldest first; `None` where nothing will have to be taken back.
    before: Option<Vec<(PathBuf, String)>>,
}

impl<'a> Writer<'a> {
    /// For a new cgroup, which goes as a whole when a limit fails.
    pub(super) fn new(dir: &'a dyn Fn(&str) -> Option<PathBuf>) -> Self {
        Self { dir, before: None }
    }

    /// For one that is in use.
    pub(super) fn remembering(dir: &'a dyn Fn(&str) -> Option<PathBuf>) -> Self {
        Self { dir, before: Some(Vec::new()) }
    }

    /// Whether the kernel has this file.
    pub(super) fn has(&self, controller: &str, file: &str) -> bool {
        (self.dir)(controller).is_some_and(|dir| dir.join(file).exists())
    }

    /// Writes a limit, unless it is `None`; `what` is what to call it in an error.
    pub(super) fn set<T: Display>(
        &mut self,
        controller: &'static str,
        file: &str,
        value: Option<T>,
        what: &'static str,
    ) -> Result<()> {
        self.set_line(controller, file, value, what, str::to_owned)
    }

    /// As [`Writer::set`], of a file that holds more than is written to it: `before` picks out what brings
    /// back the present state.
    pub(super) fn set_line<T: Display>(
        &mut self,
        controller: &'static str,
        file: &str,
        value: Option<T>,
        what: &'static str,
        before: impl Fn(&str) -> String,
    ) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        let dir = (self.dir)(controller).ok_or(CgroupError::NoController { controller, limit: what })?;
        let path = dir.join(file);
        if let Some(log) = &mut self.before
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            log.push((path.clone(), before(text.trim())));
        }
        write_limit(&path, &value.to_string(), controller, what)
    }

    /// Takes back all that was written, the last first: each step back was a valid state on the way there.
    pub(super) fn undo(self) {
        for (path, text) in self.before.unwrap_or_default().into_iter().rev() {
            put_back(&path, &text);
        }
    }
}

/// Goes past failures: the limit that was refused is what the caller hears of.
fn put_back(path: &Path, text: &str) {
    if let Err(error) = super::files::write(path, &format!("{text}\n")) {
        tracing::warn!(error = crate::wire::chain(&error), "cannot take back a limit");
    }
}

/// Of a file with one line per device: that of this device, or what stands for none.
pub(super) fn line_of(text: &str, device: &str, none: &str) -> String {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(device));
    line.map_or_else(|| format!("{device} {none}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_taken_back() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().to_owned();
        for (file, text) in [("cpu.shares", "1024\n"), ("throttle", "8:0 5\n9:0 7\n")] {
            std::fs::write(root.join(file), text).unwrap();
        }
        let dir = |controller: &str| (controller != "memory").then(|| root.clone());
        let mut writer = Writer::remembering(&dir);
        writer.set("cpu", "cpu.shares", Some(512), "shares").unwrap();
        writer
            .set_line("blkio", "throttle", Some("8:0 6"), "a rate", |text| line_of(text, "8:0", "0"))
            .unwrap();
        writer.set("cpu", "cpu.shares", None::<u64>, "shares").unwrap();
        let missing = writer.set("cpu", "cpu.idle", Some(1), "idle").unwrap_err();
        assert!(matches!(missing, CgroupError::NoController { controller: "cpu", limit: "idle" }));
        assert!(writer.set("memory", "memory.max", Some(1), "memory").is_err());
        assert!(std::fs::read_to_string(root.join("cpu.shares")).unwrap().starts_with("512"));
        writer.undo();
        assert!(std::fs::read_to_string(root.join("cpu.shares")).unwrap().starts_with("1024"));
        assert!(std::fs::read_to_string(root.join("throttle")).unwrap().starts_with("8:0 5\n"));
    }

    #[test]
    fn a_device_without_a_line_has_no_limit() {
        assert_eq!(line_of("8:0 100\n8:16 200", "8:16", "0"), "8:16 200");
        assert_eq!(line_of("8:0 100", "9:0", "0"), "9:0 0");
        assert_eq!(line_of("", "9:0", "rbps=max"), "9:0 rbps=max");
    }
}
