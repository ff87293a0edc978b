//! `berth upgrade`: another hostd on machines, with a way back.

use super::select::Machines;
use crate::context::Context;
use crate::error::CliError;
use crate::provision::{self, Upgraded, Wanted};
use crate::store::{MachineName, Step, StoreError};
use crate::ui::Progress;
use drivers::driver::MachineState;
use std::path::PathBuf;
use std::process::ExitCode;

/// Bring hostd on machines to this berth's version, or another
///
/// Containers run on. A new hostd that does not answer is replaced by the one before; that one stays on the machine as
/// /usr/local/bin/hostd.old. One that was interrupted is completed by running it again.
#[derive(Debug, clap::Args)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    machines: Machines,
    /// This version, which must lie beside berth or in ../libexec as hostd-VERSION-ARCH or hostd-VERSION
    #[arg(long = "version", value_name = "VERSION", conflicts_with = "hostd")]
    to: Option<String>,
    /// This file
    #[arg(long, value_name = "FILE")]
    hostd: Option<PathBuf>,
    /// Also to an older version
    #[arg(long, short)]
    force: bool,
}

/// Runs it.
pub(crate) fn run(args: &UpgradeArgs, context: &Context) -> Result<ExitCode, CliError> {
    let names = args.machines.names(context)?;
    context.block_on(super::each(&names, |name, progress| async move {
        upgrade(&name, args, context, &progress).await
    }))
}

async fn upgrade(
    name: &MachineName,
    args: &UpgradeArgs,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    let store = &context.store;
    if !store.contains(name) {
        return Err(StoreError::NotFound(name.to_string()).into());
    }
    let _lock = store.lock(name)?;
    let machine = store.load(name)?;
    let driver = machine.driver()?;
    let features = driver.features();
    if !features.provisions {
        return Err(CliError::new(format!("driver `{}` leaves the engine alone", machine.record.driver)));
    }
    if !machine.journal().is_done(Step::Certificates)? {
        return Err(StoreError::Interrupted(name.to_string()).into());
    }
    if features.start_stop && driver.state().await? != MachineState::Running {
        return Err(CliError::new(format!("machine `{name}` does not run"))
            .hint(format!("`berth start {name}` starts it")));
    }
    let wanted = Wanted { file: args.hostd.clone(), version: args.to.clone(), downgrade: args.force };
    let upgraded = provision::upgrade(&machine, driver.as_ref(), &wanted, progress).await;
    progress.finish_if(upgraded.is_ok());
    match upgraded? {
        Upgraded::Already(version) => progress.say(&format!("`{name}` has hostd {version} already")),
        Upgraded::Now { from, to } => progress.say(&format!("`{name}`: hostd {from} is now {to}")),
    }
    progress.done(name.as_str());
    Ok(())
}
