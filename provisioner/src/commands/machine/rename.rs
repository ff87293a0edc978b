//! `berth rename`.

use crate::connect::{watch_ports, watcher};
use crate::context::Context;
use crate::error::CliError;
use crate::store::{Machine, MachineName};
use crate::ui;
use drivers::driver::MachineState;
use std::process::ExitCode;

/// Give a machine another name
///
/// The machine stays what it is: its identity, its address, its certificates and its host name; one that runs runs on.
#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    /// Machine
    #[arg(value_name = "MACHINE")]
    old: MachineName,
    /// Its new name
    #[arg(value_name = "NAME")]
    new: MachineName,
}

/// Whether there are ports to be forwarded.
fn runs(machine: &Machine, context: &Context) -> bool {
    let Some(driver) = machine.driver().ok().filter(|driver| driver.features().forwards_ports) else {
        return false;
    };
    let state = context.block_on(async { Ok(driver.state().await?) });
    state.is_ok_and(|state| state == MachineState::Running)
}

/// Runs it.
pub(crate) fn run(args: &RenameArgs, context: &Context) -> Result<ExitCode, CliError> {
    let RenameArgs { old, new } = args;
    if old == new {
        return Err(CliError::usage(format!("machine `{old}` has that name already")));
    }
    context.store.rename(old, new)?;
    let machine = context.store.load(new)?;
    if let Some(fleet) = &machine.record.fleet {
        ui::stderr(&format!(
            "warning: it is of fleet `{fleet}`: the next `berth fleet apply` removes it, unless its file has the new name"
        ));
    }
    context.block_on(async {
        // It knows the machine by its old name.
        watcher::ended(&machine.dir()).await;
        Ok(())
    })?;
    if runs(&machine, context) {
        watch_ports(&machine);
    }
    if std::env::var("BERTH_MACHINE").is_ok_and(|named| named == old.as_str()) {
        ui::stderr(&format!("warning: in this shell BERTH_MACHINE={old} names no machine any more"));
    }
    ui::stdout(new.as_str());
    Ok(ExitCode::SUCCESS)
}
