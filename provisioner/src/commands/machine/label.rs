//! `berth label`.

use super::select::ByLabel;
use crate::context::Context;
use crate::error::CliError;
use crate::store::{LabelChange, MachineName, StoreError, labels};
use crate::ui;
use std::process::ExitCode;

/// Set, remove or show labels of machines
///
/// `berth label web-1 role=web spot-` sets `role` and removes `spot`; without changes, the labels are shown.
#[derive(Debug, clap::Args)]
pub(crate) struct LabelArgs {
    /// Machines, and changes: KEY=VALUE sets a label, KEY- removes it
    #[arg(value_name = "MACHINE|KEY=VALUE|KEY-", required_unless_present = "selector")]
    words: Vec<String>,
    #[command(flatten)]
    by_label: ByLabel,
}

/// Runs it.
pub(crate) fn run(args: &LabelArgs, context: &Context) -> Result<ExitCode, CliError> {
    let (mut named, mut changes): (Vec<MachineName>, Vec<LabelChange>) = Default::default();
    for word in &args.words {
        match LabelChange::parse(word) {
            Some(change) => changes.push(change.map_err(CliError::usage)?),
            None => named.push(word.parse::<MachineName>()?),
        }
    }
    let names = args.by_label.resolve(&named, context)?;
    if names.is_empty() {
        return Err(CliError::usage("no machine is named").hint("name machines, or select them with `-l`"));
    }
    context.block_on(super::each(&names, |name, _| {
        let changes = &changes;
        async move {
            if changes.is_empty() {
                let of = context.store.load(&name)?.record.labels;
                ui::stdout(&format!("{name}: {}", labels::line(&of)));
                return Ok(());
            }
            change(&name, changes, context)
        }
    }))
}

fn change(name: &MachineName, changes: &[LabelChange], context: &Context) -> Result<(), CliError> {
    let store = &context.store;
    if !store.contains(name) {
        return Err(StoreError::NotFound(name.to_string()).into());
    }
    let _lock = store.lock(name)?;
    let mut machine = store.load(name)?;
    let before = machine.record.labels.clone();
    changes.iter().for_each(|change| change.apply(&mut machine.record.labels));
    if machine.record.labels != before {
        machine.save()?;
    }
    ui::stdout(name.as_str());
    Ok(())
}
