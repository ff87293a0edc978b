//! All drivers by name. The one module that knows them all.

use crate::driver::{Driver, DriverError, ErrorKind, Flag, FlagValues, MachineContext};
use crate::generic::Generic;
use crate::none::NoDriver;
use crate::qemu::Qemu;

/// Names of the drivers, the default first.
pub fn kinds() -> &'static [&'static str] {
    &[crate::qemu::KIND, crate::generic::KIND, crate::none::KIND]
}

/// The flags of a driver, each beginning with its name; `None` where there is no such driver.
pub fn flags(kind: &str) -> Option<Vec<Flag>> {
    match kind {
        crate::qemu::KIND => Some(crate::qemu::flags()),
        crate::generic::KIND => Some(crate::generic::flags()),
        crate::none::KIND => Some(crate::none::flags()),
        _ => None,
    }
}

/// A driver for a machine that is to be created. Checks the values alone; `check` looks at the host.
pub fn from_flags(
    kind: &str,
    flags: &FlagValues,
    context: MachineContext,
) -> Result<Box<dyn Driver>, DriverError> {
    Ok(match kind {
        crate::qemu::KIND => Box::new(Qemu::from_flags(flags, context)?),
        crate::generic::KIND => Box::new(Generic::from_flags(flags)?),
        crate::none::KIND => Box::new(NoDriver::from_flags(flags)?),
        _ => return Err(unknown(kind)),
    })
}

/// The driver of a machine from its stored configuration.
pub fn open(
    kind: &str,
    config: &toml::Table,
    context: MachineContext,
) -> Result<Box<dyn Driver>, DriverError> {
    Ok(match kind {
        crate::qemu::KIND => Box::new(Qemu::open(config, context)?),
        crate::generic::KIND => Box::new(Generic::open(config)?),
        crate::none::KIND => Box::new(NoDriver::open(config)?),
        _ => return Err(unknown(kind)),
    })
}

fn unknown(kind: &str) -> DriverError {
    let known = kinds().join(", ");
    let hint = match nearest(kind, kinds().iter().copied()) {
        Some(near) => format!("did you mean `{near}`? The drivers are: {known}"),
        None => format!("the drivers are: {known}"),
    };
    DriverError::new(ErrorKind::Usage, format!("unknown driver `{kind}`")).hint(hint)
}

/// The candidate that a mistyped word most likely stands for.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|known| (distance(word, known), known))
        .min()
        .filter(|(edits, _)| *edits <= 2)
        .map(|(_, known)| known)
}

/// Edits (insert, delete, replace) between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> MachineContext {
        MachineContext {
            name: "x".into(),
            id: uuid::Uuid::nil(),
            dir: "/nowhere".into(),
            cache: "/nowhere".into(),
        }
    }

    #[test]
    fn an_unknown_driver_is_refused_with_the_nearest_and_all_known() {
        let error = from_flags("qmeu", &FlagValues::new(), context()).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert_eq!(error.what, "unknown driver `qmeu`");
        assert_eq!(error.hint.unwrap(), "did you mean `qemu`? The drivers are: qemu, generic, none");
        let error = open("virtualbox", &toml::Table::new(), context()).err().unwrap();
        assert_eq!(error.hint.unwrap(), "the drivers are: qemu, generic, none");
    }

    #[test]
    fn every_flag_begins_with_its_drivers_name_and_has_an_environment_variable() {
        for kind in kinds() {
            for flag in flags(kind).unwrap() {
                assert!(flag.name.starts_with(&format!("{kind}-")), "{}", flag.name);
                assert!(flag.env.is_some() && !flag.help.is_empty(), "{}", flag.name);
            }
        }
    }
}
