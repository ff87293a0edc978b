//! Small commands that tell one thing: `active`, `use`, `ip`, `url`, `status`, `inspect`.

use super::live;
use super::select::{MachineOrSome, Machines, Meant};
use crate::context::Context;
use crate::error::{CliError, FAILURE};
use crate::provision::engine;
use crate::store::{Machine, MachineName, Steps as _};
use crate::ui;
use drivers::driver::MachineState;
use futures_util::StreamExt as _;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

/// Machines to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    machines: MachineOrSome,
    /// Seconds after which a machine that does not answer is given up
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS")]
    timeout: u64,
}

/// Machines of which the store knows enough.
#[derive(Debug, clap::Args)]
pub(crate) struct UrlArgs {
    #[command(flatten)]
    machines: MachineOrSome,
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
    #[command(flatten)]
    machines: Machines,
    /// Seconds after which a machine that does not answer is shown as such
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    timeout: u64,
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

/// Asks machines at once. One that was named answers alone; those that were selected answer after their names.
fn ask<T>(
    machines: &MachineOrSome,
    context: &Context,
    act: impl AsyncFn(Machine) -> Result<(String, T), CliError>,
) -> Result<Vec<T>, CliError> {
    let (names, alone) = match machines.meant(context)? {
        Meant::One(name) => (vec![name], true),
        Meant::Some(names) => (names, false),
    };
    let mut answers = Vec::new();
    let mut failed: Option<CliError> = None;
    context.block_on(async {
        let asked = names.iter().map(|name| {
            let act = &act;
            async move { (name, async { act(context.store.load(name)?).await }.await) }
        });
        let mut asked = futures_util::stream::iter(asked).buffered(live::at_once());
        while let Some((name, answer)) = asked.next().await {
            match answer {
                Ok((text, answer)) => {
                    ui::stdout(&if alone { text } else { format!("{name}: {text}") });
                    answers.push(answer);
                }
                Err(error) => {
                    if let Some(before) = failed.replace(error) {
                        before.print();
                    }
                }
            }
        }
        Ok(())
    })?;
    failed.map_or(Ok(answers), Err)
}

/// Ends what is not done in time.
async fn in_time<T, E: Into<CliError>>(
    name: &MachineName,
    seconds: u64,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(Duration::from_secs(seconds), asked).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(CliError::new(format!("machine `{name}` did not answer within {seconds} seconds"))),
    }
}

/// `berth ip`.
pub(crate) fn ip(args: &AskArgs, context: &Context) -> Result<ExitCode, CliError> {
    ask(&args.machines, context, async |machine| {
        let driver = machine.driver()?;
        Ok((in_time(&machine.name, args.timeout, driver.address()).await?, ()))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `berth url`.
pub(crate) fn url(args: &UrlArgs, context: &Context) -> Result<ExitCode, CliError> {
    ask(&args.machines, context, async |machine| Ok((machine.driver()?.url()?, ())))?;
    Ok(ExitCode::SUCCESS)
}

/// `berth status`: exit code 0 where all run, 1 where one does not.
pub(crate) fn status(args: &AskArgs, context: &Context) -> Result<ExitCode, CliError> {
    let states = ask(&args.machines, context, async |machine| {
        let driver = machine.driver()?;
        let state = in_time(&machine.name, args.timeout, engine::state(&machine, driver.as_ref())).await?;
        Ok((super::state_word(state).to_owned(), state))
    })?;
    let all_run = states.iter().all(|state| *state == MachineState::Running);
    Ok(if all_run { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

/// `berth inspect` of machines: an array, as docker answers.
pub(crate) fn inspect(args: &InspectArgs, context: &Context) -> Result<ExitCode, CliError> {
    debug_assert_eq!(args.format, "json");
    let names = args.machines.names(context)?;
    let until = Duration::from_secs(args.timeout);
    let all = context.block_on(async {
        let until = Instant::now() + until;
        let asked = names.iter().map(|name| async move {
            let machine = context.store.load(name)?;
            let live = live::ask(&machine, until).await;
            known(&machine, &live)
        });
        let all: Vec<_> = futures_util::stream::iter(asked).buffered(live::at_once()).collect().await;
        all.into_iter().collect::<Result<Vec<_>, CliError>>()
    })?;
    ui::json(&all)?;
    Ok(ExitCode::SUCCESS)
}

fn known(machine: &Machine, live: &live::Live) -> Result<serde_json::Value, CliError> {
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
    Ok(serde_json::json!({
        "record": machine.record,
        "live": live,
        "url": driver.url().ok(),
        "server_name": machine.server_name(driver.as_ref()).ok(),
        "directory": machine.dir(),
        "tls": tls,
        "journal": steps,
    }))
}
