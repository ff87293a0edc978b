//! `berth rm` of machines: what the journal lists, in reverse.

use super::select::Machines;
use crate::connect;
use crate::context::Context;
use crate::error::CliError;
use crate::store::{Event, MachineName, Step};
use crate::ui::{self, Progress};
use drivers::driver::Reporter as _;
use std::process::ExitCode;

/// Remove machines
///
/// Removes what `create` made, in reverse. On a host that was there before (driver generic), hostd stays.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    machines: Machines,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Do not ask, and forget the machine even where its driver fails
    #[arg(long, short)]
    force: bool,
}

/// Runs it.
pub(crate) fn run(args: &RmArgs, context: &Context) -> Result<ExitCode, CliError> {
    let names = args.machines.names(context)?;
    if !args.yes && !args.force && !confirmed(&names)? {
        return Err(CliError::new("nothing was removed"));
    }
    context.block_on(super::each(&names, |name, progress| async move {
        remove(&name, args.force, context, &progress).await
    }))
}

fn confirmed(machines: &[MachineName]) -> Result<bool, CliError> {
    let names: Vec<&str> = machines.iter().map(MachineName::as_str).collect();
    ui::confirmed(
        &format!("Remove {}?", names.join(", ")),
        &format!("refusing to remove {} unasked", names.join(", ")),
    )
}

pub(super) async fn remove(
    name: &MachineName,
    force: bool,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    let store = &context.store;
    if !store.contains(name) {
        return Err(crate::store::StoreError::NotFound(name.to_string()).into());
    }
    let _lock = store.lock(name)?;
    progress.step(&format!("Removing machine `{name}`"));
    match take_down(name, context).await {
        Ok(kept) => {
            if let Some(kept) = kept {
                progress.say(&kept);
            }
        }
        Err(error) if force => {
            progress.warn(&format!(
                "{}: the machine is forgotten all the same, something of it may remain",
                error.one_line()
            ));
        }
        Err(error) => {
            return Err(error.also_hint(format!("`berth machine rm --force {name}` forgets it all the same")));
        }
    }
    connect::watcher::ended(&store.dir(name)).await;
    store.forget(name)?;
    progress.done(name.as_str());
    Ok(())
}

/// Takes back the steps of `create`; answers what stays.
async fn take_down(name: &MachineName, context: &Context) -> Result<Option<String>, CliError> {
    let machine = context.store.load(name)?;
    let journal = machine.journal();
    let mut driver = machine.driver()?;
    let mut kept = None;
    for (step, event) in journal.steps()?.into_iter().rev().filter(|(_, event)| *event != Event::Undone) {
        match step {
            // A host that was there before keeps what was installed, since containers may run on it.
            Step::Provision if !driver.features().start_stop && event == Event::Done => {
                kept = Some(format!("hostd and its containers stay on {}", driver.address().await?));
            }
            Step::Driver => driver.remove().await?,
            // The rest lies in the machine's directory, or on what the driver removes.
            Step::Provision | Step::Certificates | Step::Keys => {}
        }
        journal.note(Event::Undone, step)?;
    }
    Ok(kept)
}
