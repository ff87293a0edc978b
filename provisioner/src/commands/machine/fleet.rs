//! `berth fleet`: machines that a file declares.

use super::create::{self, Wanted};
use super::{provision, rm};
use crate::context::Context;
use crate::error::CliError;
use crate::fleet::{self, Action, Declared, Fleet, Plan};
use crate::store::{Event, MachineName, Step, StoreError};
use crate::ui::{self, Progress};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code of `fleet diff` where there are differences.
const DIFFERENT: u8 = 2;

/// Bring machines to what a file declares
#[derive(Debug, clap::Args)]
pub(crate) struct FleetArgs {
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Debug, clap::Subcommand)]
enum FleetCommand {
    Apply(ApplyArgs),
    Diff(DiffArgs),
    Destroy(DestroyArgs),
}

/// Create, change and remove machines so that the fleet is as declared
///
/// Shows what is to be done, and asks. Machines that this fleet did not make are left alone.
#[derive(Debug, clap::Args)]
struct ApplyArgs {
    /// The fleet's file
    #[arg(value_name = "FILE", default_value = "fleet.toml")]
    file: PathBuf,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Remove machines that were made otherwise than is declared, with all that is on them, and make them anew
    #[arg(long)]
    replace: bool,
    /// How many machines are worked on at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
}

/// Show what apply would do; exit code 2 where that is anything
#[derive(Debug, clap::Args)]
struct DiffArgs {
    /// The fleet's file
    #[arg(value_name = "FILE", default_value = "fleet.toml")]
    file: PathBuf,
}

/// Remove all machines of a fleet
#[derive(Debug, clap::Args)]
struct DestroyArgs {
    /// The fleet's file, of which only the name is read
    #[arg(value_name = "FILE", default_value = "fleet.toml")]
    file: PathBuf,
    /// The fleet's name, instead of a file
    #[arg(long, conflicts_with = "file")]
    name: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl FleetArgs {
    /// Whether it leaves machines as they are.
    pub(super) fn reads(&self) -> bool {
        matches!(self.command, FleetCommand::Diff(_))
    }
}

/// Runs it.
pub(crate) fn run(args: &FleetArgs, context: &Context) -> Result<ExitCode, CliError> {
    match &args.command {
        FleetCommand::Apply(args) => apply(args, context),
        FleetCommand::Diff(args) => diff(args, context),
        FleetCommand::Destroy(args) => destroy(args, context),
    }
}

fn diff(args: &DiffArgs, context: &Context) -> Result<ExitCode, CliError> {
    let plan = fleet::plan(&fleet::read_fleet(&args.file)?, &context.store)?;
    ui::stdout(&plan.text(false));
    Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

fn apply(args: &ApplyArgs, context: &Context) -> Result<ExitCode, CliError> {
    let fleet = fleet::read_fleet(&args.file)?;
    let plan = fleet::plan(&fleet, &context.store)?;
    ui::stderr(&plan.text(args.replace));
    let left: Vec<&str> = replaced(&plan).filter(|_| !args.replace).map(MachineName::as_str).collect();
    let names: Vec<MachineName> = to_do(&plan, args.replace);
    if !names.is_empty() {
        let refusal = format!("refusing to change fleet `{}` unasked", fleet.name);
        if !args.yes && !ui::confirmed("Go ahead?", &refusal)? {
            return Err(CliError::new("nothing was changed"));
        }
        let (fleet, plan) = (&fleet, &plan);
        context.block_on(create::until_interrupted(&names, context, async {
            super::each_of(&names, args.parallel.into(), |name, progress| async move {
                act(&name, fleet, &plan.0[&name].action, context, &progress).await
            })
            .await
        }))?;
    }
    if left.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CliError::new(format!("not as declared: {}", left.join(", ")))
        .hint("`--replace` removes them, with all that is on them, and makes them anew"))
}

fn replaced(plan: &Plan) -> impl Iterator<Item = &MachineName> {
    plan.0.iter().filter(|(_, planned)| planned.action == Action::Replace).map(|(name, _)| name)
}

fn to_do(plan: &Plan, replace: bool) -> Vec<MachineName> {
    let done = |action: &Action| match action {
        Action::Nothing => false,
        Action::Replace => replace,
        Action::Create | Action::Resume | Action::Change { .. } | Action::Remove => true,
    };
    plan.0.iter().filter(|(_, planned)| done(&planned.action)).map(|(name, _)| name.clone()).collect()
}

async fn act(
    name: &MachineName,
    fleet: &Fleet,
    action: &Action,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    if *action == Action::Remove {
        return remove(name, &fleet.name, context, progress).await;
    }
    let declared = &fleet.machines[name];
    match action {
        Action::Remove | Action::Nothing => Ok(()),
        Action::Create => create(name, fleet, false, context, progress).await,
        Action::Resume => {
            // As it was begun; what was declared otherwise since is then a change like any other.
            create(name, fleet, true, context, progress).await?;
            let provision = context.store.load(name)?.record.hostd != declared.hostd;
            change(name, declared, provision, context, progress).await
        }
        Action::Replace => {
            remove(name, &fleet.name, context, progress).await?;
            create(name, fleet, false, context, progress).await
        }
        Action::Change { provision, .. } => change(name, declared, *provision, context, progress).await,
    }
}

async fn create(
    name: &MachineName,
    fleet: &Fleet,
    resume: bool,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    let wanted = Wanted::declared(&fleet.machines[name], Some(&fleet.name));
    create::create_or_resume(name, &wanted, resume, context, progress).await
}

async fn change(
    name: &MachineName,
    declared: &Declared,
    provision: bool,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    set(name, declared, provision, context)?;
    if provision { provision::again(name, false, context, progress).await } else { Ok(()) }
}

/// Writes into the record what can be changed.
fn set(name: &MachineName, declared: &Declared, provision: bool, context: &Context) -> Result<(), CliError> {
    let _lock = context.store.lock(name)?;
    let mut machine = context.store.load(name)?;
    if provision {
        // Before the record says that hostd is so: who comes after an interruption sees that it may not be yet.
        machine.journal().note(Event::Planned, Step::Provision)?;
    }
    machine.record.labels = declared.labels.clone();
    machine.record.hostd = declared.hostd.clone();
    Ok(machine.save()?)
}

async fn remove(
    name: &MachineName,
    fleet: &str,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    // Another may have made a machine of this name since the plan was shown.
    match context.store.load(name) {
        Err(StoreError::NotFound(_)) => return Ok(()),
        Ok(machine) if machine.record.fleet.as_deref() == Some(fleet) => {}
        Ok(_) => return Err(CliError::new(format!("machine `{name}` is not of fleet `{fleet}` any more"))),
        Err(error) => return Err(error.into()),
    }
    rm::remove(name, false, context, progress).await
}

fn destroy(args: &DestroyArgs, context: &Context) -> Result<ExitCode, CliError> {
    let fleet = match &args.name {
        Some(name) => name.clone(),
        None => fleet::read_fleet_name(&args.file)?,
    };
    let names: Vec<MachineName> =
        fleet::of_fleet(&context.store, &fleet)?.into_iter().map(|machine| machine.name).collect();
    if names.is_empty() {
        ui::stderr(&format!("fleet `{fleet}` has no machines"));
        return Ok(ExitCode::SUCCESS);
    }
    let shown: Vec<&str> = names.iter().map(MachineName::as_str).collect();
    let (question, shown) = (format!("Remove {}?", shown.join(", ")), shown.join(", "));
    if !args.yes && !ui::confirmed(&question, &format!("refusing to remove {shown} unasked"))? {
        return Err(CliError::new("nothing was removed"));
    }
    let fleet = &fleet;
    context.block_on(super::each(&names, |name, progress| async move {
        remove(&name, fleet, context, &progress).await
    }))
}
