//! What is to be done so that a fleet has exactly the machines that are declared.

use super::{Declared, Fleet};
use crate::commands::machine::create::open_flags;
use crate::error::CliError;
use crate::store::{Machine, MachineName, Stage, Step, Store, StoreError, labels};
use std::collections::BTreeMap;

/// What is done to one machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// There is none of the name.
    Create,
    /// A create of it was interrupted.
    Resume,
    /// What can be changed while it lives.
    Change {
        /// The labels are others.
        labels: bool,
        /// hostd is to be set up again.
        provision: bool,
    },
    /// It was made otherwise than is declared: only removing it and making it anew changes that.
    Replace,
    /// It is the fleet's, and not declared any more.
    Remove,
    /// It is as declared.
    Nothing,
}

/// An action, and why it is needed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned {
    /// What to do.
    pub(crate) action: Action,
    /// The differences, for people.
    pub(crate) why: Vec<String>,
}

/// What is to be done, by machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan(pub(crate) BTreeMap<MachineName, Planned>);

/// The machines of a fleet. One whose record is broken is nobody's.
pub(crate) fn of_fleet(store: &Store, fleet: &str) -> Result<Vec<Machine>, StoreError> {
    let loaded = store.list()?.into_iter().filter_map(|(_, loaded)| loaded.ok());
    Ok(loaded.filter(|machine| machine.record.fleet.as_deref() == Some(fleet)).collect())
}

/// Compares a fleet with the store.
pub(crate) fn plan(fleet: &Fleet, store: &Store) -> Result<Plan, CliError> {
    let mut plan = Plan::default();
    for (name, declared) in &fleet.machines {
        let planned = match store.load(name) {
            Err(StoreError::NotFound(_)) => {
                Planned { action: Action::Create, why: vec![format!("driver {}", declared.driver)] }
            }
            Err(error) => return Err(error.into()),
            Ok(machine) if machine.record.fleet.as_deref() == Some(fleet.name.as_str()) => {
                compare(declared, &machine)?
            }
            Ok(machine) => return Err(foreign(&machine, fleet)),
        };
        plan.0.insert(name.clone(), planned);
    }
    for machine in of_fleet(store, &fleet.name)? {
        let why = vec!["not declared any more".to_owned()];
        plan.0.entry(machine.name).or_insert(Planned { action: Action::Remove, why });
    }
    Ok(plan)
}

fn foreign(machine: &Machine, fleet: &Fleet) -> CliError {
    let owner = match &machine.record.fleet {
        Some(other) => format!("it belongs to fleet `{other}`"),
        None => "it belongs to no fleet".to_owned(),
    };
    CliError::new(format!("machine `{}` is not of fleet `{}`", machine.name, fleet.name))
        .because(owner)
        .hint("declare another name; nothing was changed")
}

fn compare(declared: &Declared, machine: &Machine) -> Result<Planned, CliError> {
    let record = &machine.record;
    let mut why = Vec::new();
    if record.driver != declared.driver {
        why.push(format!("driver {} → {}", record.driver, declared.driver));
    } else {
        why.extend(differences(&record.flags, &open_flags(&declared.driver, &declared.flags)));
    }
    if !why.is_empty() {
        return Ok(Planned { action: Action::Replace, why });
    }
    if record.state == Stage::Creating {
        return Ok(Planned { action: Action::Resume, why: vec!["its create was interrupted".to_owned()] });
    }
    let labels = record.labels != declared.labels;
    if labels {
        let shown =
            |of| Some(labels::line(of)).filter(|line| !line.is_empty()).unwrap_or_else(|| "none".to_owned());
        why.push(format!("labels {} → {}", shown(&record.labels), shown(&declared.labels)));
    }
    let provisions = machine.driver()?.features().provisions;
    let halfway = provisions && !machine.journal().is_done(Step::Provision)?;
    let other = record.hostd != declared.hostd;
    if other {
        let keys = record.hostd.keys().chain(declared.hostd.keys());
        let differ = keys.filter(|key| record.hostd.get(*key) != declared.hostd.get(*key));
        let mut differ: Vec<&str> = differ.map(String::as_str).collect();
        differ.sort_unstable();
        differ.dedup();
        why.push(format!("hostd's {}", differ.join(", ")));
    } else if halfway {
        why.push("hostd was not set up to the end".to_owned());
    }
    let action = match (labels, other || halfway) {
        (false, false) => Action::Nothing,
        (labels, provision) => Action::Change { labels, provision },
    };
    Ok(Planned { action, why })
}

fn differences(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Vec<String> {
    let mut keys: Vec<&String> = from.keys().chain(to.keys()).collect();
    keys.sort();
    keys.dedup();
    let shown = |value: Option<&String>| value.map_or("(default)".to_owned(), Clone::clone);
    let differ = keys.into_iter().filter(|key| from.get(*key) != to.get(*key));
    differ.map(|key| format!("{key} {} → {}", shown(from.get(key)), shown(to.get(key)))).collect()
}

impl Plan {
    /// Whether everything is as declared.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(|planned| planned.action == Action::Nothing)
    }

    /// The plan for people: a line for each machine that differs, and how many there are of each kind.
    pub(crate) fn text(&self, replace: bool) -> String {
        let mut lines = Vec::new();
        let (mut create, mut change, mut replaced, mut remove, mut same) = (0, 0, 0, 0, 0);
        for (name, Planned { action, why }) in &self.0 {
            let (mark, word, count) = match action {
                Action::Create => ("+", "create", &mut create),
                Action::Resume => ("+", "go on with create", &mut create),
                Action::Change { .. } => ("~", "change", &mut change),
                Action::Replace if replace => ("!", "replace", &mut replaced),
                Action::Replace => ("!", "replace (only with --replace)", &mut replaced),
                Action::Remove => ("-", "remove", &mut remove),
                Action::Nothing => {
                    same += 1;
                    continue;
                }
            };
            *count += 1;
            lines.push(format!("{mark} {name}: {word}: {}", why.join("; ")));
        }
        lines.push(format!(
            "{create} to create, {change} to change, {replaced} to replace, {remove} to remove, {same} as declared"
        ));
        lines.join("\n")
    }
}
