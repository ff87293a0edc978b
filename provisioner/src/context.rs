//! What every command gets besides its own arguments.

use crate::connect::Via;
use crate::error::CliError;
use crate::store::{Machine, MachineName, Store};
use std::future::Future;
use std::path::PathBuf;

/// The store, and which machine the user means.
///
/// A command is a struct of clap arguments and `fn run(args, &Context) -> Result<ExitCode, CliError>`; one that
/// talks to the network wraps its body in [`Context::block_on`].
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Machines on disk.
    pub(crate) store: Store,
    /// `--machine`, or else `$BERTH_MACHINE`.
    pub(crate) machine: Option<String>,
    /// `--via` on the command line: what `create` and `provision` write into the record. `$BERTH_VIA` is not meant for
    /// that.
    pub(crate) told_via: Option<Via>,
}

impl Context {
    /// The context of a command line.
    pub(crate) fn new(machine: Option<String>, via: Option<Via>) -> Result<Self, CliError> {
        let store = Store::at(home()?).via(via);
        Ok(Self { store, machine: machine.filter(|name| !name.is_empty()), told_via: None })
    }

    /// Runs async work to its end. The runtime is made here, since commands that only read the store need none.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| CliError::new("cannot start the async runtime").because(source))?;
        let result = runtime.block_on(work);
        // A blocking read of stdin can neither be cancelled nor waited for.
        runtime.shutdown_background();
        result
    }

    /// Name of the machine that commands go to: `--machine`, `$BERTH_MACHINE`, the active one.
    pub(crate) fn selected_name(&self) -> Result<MachineName, CliError> {
        if let Some(name) = &self.machine {
            return Ok(name.parse::<MachineName>()?);
        }
        self.store.active()?.ok_or_else(|| {
            CliError::new("no machine is selected")
                .hint("name one with `--machine NAME`, or make one active with `berth use NAME`")
        })
    }

    /// The machine that commands go to, loaded. `Machine::driver` opens its driver, `Machine::tls` its certificates.
    pub(crate) fn selected(&self) -> Result<Machine, CliError> {
        Ok(self.store.load(&self.selected_name()?)?)
    }

    /// The machine of that name, or the selected one.
    pub(crate) fn machine_or_selected(&self, name: Option<&MachineName>) -> Result<Machine, CliError> {
        match name {
            Some(name) => Ok(self.store.load(name)?),
            None => self.selected(),
        }
    }
}

/// `$BERTH_HOME`, or `.berth` in the home directory.
fn home() -> Result<PathBuf, CliError> {
    let given = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = given("BERTH_HOME") {
        return std::path::absolute(&home).map_err(|source| {
            CliError::new(format!("cannot use BERTH_HOME {}", home.display())).because(source)
        });
    }
    given("HOME")
        .map(|home| home.join(".berth"))
        .ok_or_else(|| CliError::new("cannot tell where machines are stored").hint("set BERTH_HOME"))
}
