//! `berth start`, `stop`, `restart` and `kill` of machines.

use super::select::Machines;
use crate::connect::{self, Forwarder};
use crate::context::Context;
use crate::error::CliError;
use crate::provision;
use crate::store::{Machine, MachineName, Stage, StoreError};
use crate::ui::Progress;
use drivers::driver::Reporter as _;
use std::process::ExitCode;

/// Machines to act on.
#[derive(Debug, clap::Args)]
pub(crate) struct PowerArgs {
    #[command(flatten)]
    machines: Machines,
}

/// What to do with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    Start,
    Stop,
    Restart,
    Kill,
}

/// Runs it.
pub(crate) fn run(args: &PowerArgs, power: Power, context: &Context) -> Result<ExitCode, CliError> {
    let names = args.machines.names(context)?;
    context.block_on(super::each(&names, |name, progress| async move {
        act(&name, power, context, &progress).await
    }))
}

async fn forward(machine: &Machine) -> Result<(), CliError> {
    let engine =
        connect::engine(machine).await.map_err(|e| connect::failed("cannot speak to the engine", e))?;
    Forwarder::of(machine)?.sync(&engine).await
}

async fn act(
    name: &MachineName,
    power: Power,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    let store = &context.store;
    if !store.contains(name) {
        return Err(StoreError::NotFound(name.to_string()).into());
    }
    let _lock = store.lock(name)?;
    let mut machine = store.load(name)?;
    let mut driver = machine.driver()?;
    let doing = match power {
        Power::Start => "Starting",
        Power::Stop => "Stopping",
        Power::Restart => "Restarting",
        Power::Kill => "Killing",
    };
    progress.step(&format!("{doing} machine `{name}`"));
    let acted = match power {
        Power::Start => driver.start().await,
        Power::Stop => driver.stop().await,
        Power::Restart => driver.restart().await,
        Power::Kill => driver.kill().await,
    };
    // A port that was taken meanwhile is chosen anew, and that is to be known even where the rest failed.
    if machine.record.driver_config != driver.config() {
        machine.record.driver_config = driver.config();
        machine.save()?;
    }
    acted?;
    let comes_up = matches!(power, Power::Start | Power::Restart);
    if comes_up && machine.record.state == Stage::Ready && driver.features().provisions {
        progress.step("Waiting for the engine");
        if let Err(error) = provision::verify(&machine, driver.as_ref(), provision::BOOT).await {
            let error = CliError::new(format!("the engine of machine `{name}` does not answer"))
                .because(error)
                .hint(format!("`berth provision {name}` repairs it"));
            return Err(match provision::console(driver.as_ref()).await {
                Some(tail) => error.also_hint(tail),
                None => error,
            });
        }
    }
    if comes_up && driver.features().forwards_ports && machine.record.state == Stage::Ready {
        // Forwards end with the machine's run, and its containers may be up again already.
        if let Err(error) = forward(&machine).await {
            progress.warn(&format!("published ports do not reach the laptop: {}", error.one_line()));
        }
        connect::watch_ports(&machine);
    }
    if !comes_up {
        connect::watcher::ended(&machine.dir()).await;
    }
    progress.done(name.as_str());
    Ok(())
}
