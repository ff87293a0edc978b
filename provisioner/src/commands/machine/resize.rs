//! `berth resize`: other CPUs, memory, disk.

use crate::context::Context;
use crate::error::CliError;
use crate::store::{MachineName, Stage, StoreError};
use crate::ui;
use drivers::driver::Resize;
use std::process::ExitCode;

/// Give a machine more or fewer CPUs, more or less memory, or a larger disk
///
/// The machine must be stopped. A disk only grows; cloud-init's growpart gives the guest what was added at its next boot.
#[derive(Debug, clap::Args)]
pub(crate) struct ResizeArgs {
    /// Machine
    #[arg(value_name = "MACHINE")]
    name: MachineName,
    #[command(flatten)]
    wanted: Wanted,
}

/// What it is to have.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Wanted {
    /// Number of CPUs
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Memory in MiB, or with a suffix: 4G
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Size of the disk in MiB, or with a suffix: 40G
    #[arg(long, value_name = "SIZE")]
    disk: Option<String>,
}

/// Runs it.
pub(crate) fn run(args: &ResizeArgs, context: &Context) -> Result<ExitCode, CliError> {
    let (store, name) = (&context.store, &args.name);
    if !store.contains(name) {
        return Err(StoreError::NotFound(name.to_string()).into());
    }
    let _lock = store.lock(name)?;
    let mut machine = store.load(name)?;
    if machine.record.state == Stage::Creating {
        return Err(StoreError::Interrupted(name.to_string()).into());
    }
    let mut driver = machine.driver()?;
    let Wanted { cpus, memory, disk } = &args.wanted;
    let wanted = Resize { cpus: cpus.clone(), memory: memory.clone(), disk: disk.clone() };
    context.block_on(async { Ok(driver.resize(&wanted).await?) })?;
    // A disk that has grown before this could be written grows no further when it is asked for again.
    machine.record.driver_config = driver.config();
    machine.save()?;
    ui::stdout(name.as_str());
    Ok(ExitCode::SUCCESS)
}
