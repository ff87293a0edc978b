//! What the tests of drivers share.
// Each test program uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod tiny;

use drivers::driver::{MachineContext, Reporter};
use std::path::Path;
use std::sync::Mutex;
use uuid::Uuid;

/// A temporary directory. What still runs of its machine is killed when it goes, also where a test fails.
pub(crate) struct Place(tempfile::TempDir, Uuid);

impl Place {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in processes_of(self.1) {
            let _ = std::process::Command::new("kill").args(["-KILL", &pid]).status();
        }
    }
}

/// Pids of QEMUs that have the machine's UUID on their command line.
pub(crate) fn processes_of(id: Uuid) -> Vec<String> {
    let id = id.to_string();
    let is_ours = |dir: &Path| {
        let command_line = std::fs::read(dir.join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&command_line);
        text.contains("qemu-system-") && text.contains(&id)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|e| is_ours(&e.path())).map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// A temporary directory, and a machine in it.
pub(crate) fn temporary_machine(name: &str) -> (Place, MachineContext) {
    let dir = tempfile::tempdir().unwrap();
    let context = machine_in(dir.path(), name);
    (Place(dir, context.id), context)
}

/// A machine in a directory.
pub(crate) fn machine_in(dir: &Path, name: &str) -> MachineContext {
    MachineContext {
        name: name.into(),
        id: Uuid::new_v4(),
        dir: dir.join(name).join("driver"),
        cache: dir.join("cache"),
    }
}

/// Whether the host has these programs, and QEMU; says what a test is skipped for.
pub(crate) fn host_with(programs: &[&str]) -> bool {
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = programs
        .iter()
        .copied()
        .chain([qemu.as_str()])
        .find(|p| !std::env::split_paths(&path).any(|dir| dir.join(p).exists()));
    if let Some(program) = missing {
        eprintln!("skipped: {program} is not installed");
    }
    missing.is_none()
}

/// A reporter that remembers warnings.
#[derive(Default)]
pub(crate) struct Reported(pub(crate) Mutex<Vec<String>>);

impl Reporter for Reported {
    fn step(&self, _: &str) {}
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
    fn warn(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
}
