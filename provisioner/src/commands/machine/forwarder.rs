//! `berth machine forwarder`: what runs beside a machine whose ports are forwarded. Nobody types it.

use crate::connect::watcher;
use crate::context::Context;
use crate::error::CliError;
use crate::store::MachineName;
use std::process::ExitCode;

/// Keep the ports that a machine's containers publish in step on this computer; berth starts it where it is needed
#[derive(Debug, clap::Args)]
pub(crate) struct ForwarderArgs {
    /// Machine
    #[arg(value_name = "MACHINE")]
    name: MachineName,
    /// Start it, and end
    #[arg(long)]
    detach: bool,
}

/// Runs it.
pub(crate) fn run(args: &ForwarderArgs, context: &Context) -> Result<ExitCode, CliError> {
    if args.detach {
        watcher::detach(&context.store.load(&args.name)?)?;
    } else {
        context.block_on(watcher::run(&args.name, &context.store))?;
    }
    Ok(ExitCode::SUCCESS)
}
