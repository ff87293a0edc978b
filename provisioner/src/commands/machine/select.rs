//! Which machines a command means: by name, or by their labels.

use crate::context::Context;
use crate::error::CliError;
use crate::store::{Labels, MachineName, Selector};
use crate::ui;

/// Machines by name, or by labels.
#[derive(Debug, clap::Args)]
pub(crate) struct Machines {
    /// Machine (can be repeated)
    #[arg(value_name = "MACHINE", required_unless_present = "selector")]
    machines: Vec<MachineName>,
    #[command(flatten)]
    by_label: ByLabel,
}

/// A machine, the selected one where none is named, or those with certain labels.
#[derive(Debug, clap::Args)]
pub(crate) struct MachineOrSome {
    /// Machine, instead of the selected one
    #[arg(value_name = "MACHINE")]
    name: Option<MachineName>,
    #[command(flatten)]
    by_label: ByLabel,
}

/// `-l`.
#[derive(Debug, clap::Args)]
pub(crate) struct ByLabel {
    /// Machines with these labels: KEY=VALUE, KEY!=VALUE or KEY; where several are given, all must hold
    #[arg(short = 'l', long, value_name = "LABEL,…")]
    pub(crate) selector: Option<Selector>,
}

impl Machines {
    /// Their names, each once. Those that are named need not exist.
    pub(crate) fn names(&self, context: &Context) -> Result<Vec<MachineName>, CliError> {
        self.by_label.resolve(&self.machines, context)
    }
}

/// What is meant where one machine need not be named.
pub(crate) enum Meant {
    /// One, whose answer stands alone.
    One(MachineName),
    /// Some, whose answers are told apart by their names.
    Some(Vec<MachineName>),
}

impl MachineOrSome {
    /// Resolves it.
    pub(crate) fn meant(&self, context: &Context) -> Result<Meant, CliError> {
        if self.by_label.selector.is_some() {
            let named = self.name.iter().cloned().collect::<Vec<_>>();
            return self.by_label.resolve(&named, context).map(Meant::Some);
        }
        Ok(Meant::One(match &self.name {
            Some(name) => name.clone(),
            None => context.selected_name()?,
        }))
    }
}

impl ByLabel {
    /// The machines that are named, or else those that have the labels: at least one.
    pub(crate) fn resolve(
        &self,
        named: &[MachineName],
        context: &Context,
    ) -> Result<Vec<MachineName>, CliError> {
        let Some(selector) = &self.selector else {
            let mut names: Vec<MachineName> = Vec::new();
            for name in named.iter() {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            return Ok(names);
        };
        if let Some(name) = named.first() {
            return Err(CliError::usage(format!(
                "`{name}` is named, and machines are selected by labels too"
            ))
            .hint("either name machines, or select them with `-l`"));
        }
        let names = matching(selector, context)?;
        if names.is_empty() {
            return Err(CliError::new(format!("no machine has the labels {selector}"))
                .hint("`berth ls` shows labels; `berth label MACHINE KEY=VALUE` sets one"));
        }
        Ok(names)
    }
}

/// Names of the machines whose labels match. Of one whose record is broken nothing is known: it is told, and left out.
fn matching(selector: &Selector, context: &Context) -> Result<Vec<MachineName>, CliError> {
    let matches = |labels: &Labels| selector.matches(labels);
    let mut names = Vec::new();
    for (name, loaded) in context.store.list()? {
        match loaded {
            Ok(machine) if matches(&machine.record.labels) => names.push(name),
            Ok(_) => {}
            Err(error) => {
                let error = CliError::from(error).one_line();
                ui::stderr(&format!("warning: labels of machine `{name}` are not known: {error}"));
            }
        }
    }
    Ok(names)
}
