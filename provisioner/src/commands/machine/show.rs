//! Small commands that tell one thing: `active`, `use`, `ip`, `url`, `status`, `inspect`.

use crate::context::Context;
use crate::error::{CliError, FAILURE};
use crate::provision::engine;
use crate::store::{MachineName, Steps as _};
use crate::ui;
use drivers::driver::MachineState;
use std::process::ExitCode;

/// A machine, or the selected one.
#[derive(Debug, clap::Args)]
pub(crate) struct OneArgs {
    /// Machine, instead of the selected one
    #[arg(value_name = "MACHINE")]
    name: Option<MachineName>,
}

/// A machine that must be named.
#[derive(Debug, clap::Args)]
pub(crate) struct UseArgs {
    /// Machine
    #[arg(value_name = "MACHINE")]
    name: MachineName,
}

/// Machines to show.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Machine (can be repeated)
    #[arg(value_name = "MACHINE", required = true)]
    machines: Vec<MachineName>,
    /// How to write it: only JSON
    #[arg(long, value_parser = ["json"], default_value = "json")]
    format: String,
}

/// `berth active`.
pub(crate) fn active(context: &Context) -> Result<ExitCode, CliError> {
    ui::stdout(context.selected_name()?.as_str());
    Ok(ExitCode::SUCCESS)
}

/// `berth use`.
pub(crate) fn make_active(args: &UseArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.store.load(&args.name)?;
    context.store.set_active(&args.name)?;
    ui::stderr(&format!("machine `{}` is active", args.name));
    if let Ok(other) = std::env::var("BERTH_MACHINE")
        && !other.is_empty()
        && other != args.name.as_str()
    {
        ui::stderr(&format!("warning: in this shell BERTH_MACHINE={other} goes before it"));
    }
    Ok(ExitCode::SUCCESS)
}

/// `berth ip`.
pub(crate) fn ip(args: &OneArgs, context: &Context) -> Result<ExitCode, CliError> {
    let driver = context.machine_or_selected(args.name.as_ref())?.driver()?;
    let address = context.block_on(async { Ok(driver.address().await?) })?;
    ui::stdout(&address);
    Ok(ExitCode::SUCCESS)
}

/// `berth url`.
pub(crate) fn url(args: &OneArgs, context: &Context) -> Result<ExitCode, CliError> {
    ui::stdout(&context.machine_or_selected(args.name.as_ref())?.driver()?.url()?);
    Ok(ExitCode::SUCCESS)
}

/// `berth status`: exit code 0 where it runs, 1 where it does not.
pub(crate) fn status(args: &OneArgs, context: &Context) -> Result<ExitCode, CliError> {
    let machine = context.machine_or_selected(args.name.as_ref())?;
    let driver = machine.driver()?;
    let state = context.block_on(engine::state(&machine, driver.as_ref()))?;
    ui::stdout(super::state_word(state));
    Ok(if state == MachineState::Running { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

/// `berth inspect` of machines: an array, as docker answers.
pub(crate) fn inspect(args: &InspectArgs, context: &Context) -> Result<ExitCode, CliError> {
    debug_assert_eq!(args.format, "json");
    let mut all = Vec::new();
    for name in &args.machines {
        let machine = context.store.load(name)?;
        let steps: Vec<serde_json::Value> = machine
            .journal()
            .steps()?
            .iter()
            .map(|(step, event)| serde_json::json!({ "step": step.word(), "event": event.word() }))
            .collect();
        let tls = machine.tls();
        let tls =
            machine.has_tls().then(|| serde_json::json!({ "ca": tls.ca, "cert": tls.cert, "key": tls.key }));
        let driver = machine.driver()?;
        all.push(serde_json::json!({
            "record": machine.record,
            "url": driver.url().ok(),
            "server_name": machine.server_name(driver.as_ref()).ok(),
            "directory": machine.dir(),
            "tls": tls,
            "journal": steps,
        }));
    }
    ui::json(&all)?;
    Ok(ExitCode::SUCCESS)
}
