//! What stands in a container's directory on the host.
//!
//! ```text
//! <exec_root>/<id>/state.json   where its cgroup is: written before the shim starts
//! <exec_root>/<id>/shim.sock    the shim listens here
//! <exec_root>/<id>/shim.log     what the shim has to complain about
//! <exec_root>/<id>/exit.json    how the container ended: written before anyone is told
//! ```

use crate::cgroup::{Cgroup, Driver};
use crate::spec::OciRuntime;
use crate::wire::ExitRecord;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What must be known to clean up after a shim that died.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) cgroup_parent: String,
    /// Who built it, where it was not hostd's own runtime.
    #[serde(default)]
    pub(crate) runtime: Option<OciRuntime>,
    #[serde(default)]
    pub(crate) cgroup_driver: Driver,
}

impl State {
    /// The cgroup of container `id`.
    pub(crate) fn cgroup(&self, id: &str) -> Cgroup {
        Cgroup::open_by(self.cgroup_driver, &self.cgroup_parent, id)
    }
}

/// Writes the file whole or not at all. Not synced: a crash of the machine ends the container anyway, and
/// the engine keeps on its own record what must outlive that.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, serde_json::to_vec(value)?)?;
    fs::rename(fresh, path)
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn write_state(bundle: &Path, state: &State) -> io::Result<()> {
    write(&bundle.join("state.json"), state)
}

pub(crate) fn read_state(bundle: &Path) -> io::Result<Option<State>> {
    read(&bundle.join("state.json"))
}

pub(crate) fn write_exit(bundle: &Path, record: &ExitRecord) -> io::Result<()> {
    write(&bundle.join("exit.json"), record)
}

pub(crate) fn read_exit(bundle: &Path) -> io::Result<Option<ExitRecord>> {
    read(&bundle.join("exit.json"))
}
