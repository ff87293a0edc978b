//! The files: `fleet.toml`, and `machine.toml` of `berth create --file`. What is not understood is an error, with the
//! nearest word that would be.
//!
//! ```toml
//! name = "shop"
//!
//! [defaults]                      # for machines that do not say otherwise
//! driver = "qemu"
//! labels = { stage = "test" }
//!
//! [machine."web-{1..3}"]
//! labels = { role = "web" }       # besides the defaults'
//! flags = { qemu-memory = 2048 }  # what `berth create --driver qemu` takes
//! hostd = { debug = true }        # keys of hostd's configuration
//! ```

use crate::error::{CliError, Doing as _};
use crate::provision::OWN_KEYS;
use crate::store::{Labels, MachineName, NamePattern, files, labels};
use drivers::driver::{FlagValues, MachineContext};
use drivers::registry;
use std::collections::BTreeMap;
use std::path::Path;
use toml::{Table, Value};
use uuid::Uuid;

/// What a file says that a machine is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Declared {
    /// Kind of driver.
    pub(crate) driver: String,
    /// Its flags, those that are given.
    pub(crate) flags: FlagValues,
    /// Labels.
    pub(crate) labels: Labels,
    /// Keys of hostd's configuration.
    pub(crate) hostd: Table,
}

/// A fleet's name and its machines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fleet {
    /// Stands in the records of its machines.
    pub(crate) name: String,
    /// By name.
    pub(crate) machines: BTreeMap<MachineName, Declared>,
}

const LARGEST: u64 = 1 << 20;
const OF_MACHINE: [&str; 4] = ["driver", "labels", "flags", "hostd"];

/// Reads a fleet.
pub(crate) fn read_fleet(path: &Path) -> Result<Fleet, CliError> {
    parse_fleet(&table(path)?).map_err(|why| refused(path, why))
}

/// Reads no more than a fleet's name, so that a fleet can be removed whatever else its file says.
pub(crate) fn read_fleet_name(path: &Path) -> Result<String, CliError> {
    name_of(&table(path)?).map_err(|why| refused(path, why))
}

/// Reads one machine: `name`, and the keys that a fleet's machine has.
pub(crate) fn read_machine(path: &Path) -> Result<(MachineName, Declared), CliError> {
    parse_machine_file(&table(path)?).map_err(|why| refused(path, why))
}

fn refused(path: &Path, why: String) -> CliError {
    CliError::new(format!("cannot use {}", path.display())).because(why)
}

fn table(path: &Path) -> Result<Table, CliError> {
    let text = files::read(path, LARGEST).doing(format!("cannot read {}", path.display()))?;
    text.parse::<Table>().doing(format!("cannot read {}", path.display()))
}

fn name_of(table: &Table) -> Result<String, String> {
    let name = table.get("name").ok_or("it has no `name`")?.as_str().ok_or("`name` is no text")?;
    name.parse::<MachineName>()
        .map_err(|_| format!("`{name}` is no name of a fleet: letters, digits, `-` and `.`"))?;
    Ok(name.to_owned())
}

fn parse_fleet(table: &Table) -> Result<Fleet, String> {
    known("", table, &["name", "defaults", "machine"])?;
    let name = name_of(table)?;
    let empty = Table::new();
    let part = |key: &str| match table.get(key) {
        None => Ok(&empty),
        Some(Value::Table(part)) => Ok(part),
        Some(_) => Err(format!("`{key}` is no table")),
    };
    let defaults = part("defaults")?;
    known("defaults: ", defaults, &OF_MACHINE)?;
    let mut machines = BTreeMap::new();
    for (word, of_machine) in part("machine")? {
        let names: NamePattern = word.parse().map_err(|error: CliError| error.one_line())?;
        let place = format!("machine `{word}`: ");
        let of_machine = of_machine.as_table().ok_or_else(|| format!("{place}it is no table"))?;
        let declared = declared(&place, of_machine, defaults)?;
        for name in names.0 {
            if machines.contains_key(&name) {
                return Err(format!("machine `{name}` is declared twice"));
            }
            machines.insert(name, declared.clone());
        }
    }
    Ok(Fleet { name, machines })
}

fn parse_machine_file(table: &Table) -> Result<(MachineName, Declared), String> {
    known("", table, &["name", "driver", "labels", "flags", "hostd"])?;
    let name = table.get("name").and_then(Value::as_str).ok_or("it has no `name`")?;
    let name = name.parse::<MachineName>().map_err(|error| error.to_string())?;
    let mut rest = table.clone();
    rest.remove("name");
    Ok((name, declared("", &rest, &Table::new())?))
}

/// A machine, with what it does not say taken from the defaults. Flags are those of one driver, so that defaults of
/// another driver do not apply.
fn declared(place: &str, own: &Table, defaults: &Table) -> Result<Declared, String> {
    known(place, own, &OF_MACHINE)?;
    let driver_of = |table: &Table| match table.get("driver") {
        None => Ok(None),
        Some(Value::String(kind)) => Ok(Some(kind.clone())),
        Some(_) => Err(format!("{place}`driver` is no text")),
    };
    let usual = driver_of(defaults)?.unwrap_or_else(|| registry::kinds()[0].to_owned());
    let driver = driver_of(own)?.unwrap_or_else(|| usual.clone());
    let merged = |key: &str, with_defaults: bool| {
        let mut all = Table::new();
        for table in [Some(defaults).filter(|_| with_defaults), Some(own)].into_iter().flatten() {
            match table.get(key) {
                None => {}
                Some(Value::Table(part)) => all.extend(part.clone()),
                Some(_) => return Err(format!("{place}`{key}` is no table")),
            }
        }
        Ok(all)
    };
    let flags = flags(place, &driver, &merged("flags", driver == usual)?)?;
    let labels = texts(place, "labels", &merged("labels", true)?)?;
    labels::check(&labels).map_err(|why| format!("{place}{why}"))?;
    let hostd = merged("hostd", true)?;
    if let Some(own) = hostd.keys().find(|key| OWN_KEYS.contains(&key.as_str())) {
        return Err(format!("{place}`{own}` of hostd is berth's own to set"));
    }
    let context = MachineContext {
        name: "x".to_owned(),
        id: Uuid::nil(),
        dir: "/nonexistent".into(),
        cache: "/nonexistent".into(),
    };
    let made = registry::from_flags(&driver, &flags, context);
    let made = made.map_err(|error| format!("{place}{}", CliError::from(error).one_line()))?;
    if !made.features().provisions && !hostd.is_empty() {
        return Err(format!("{place}driver `{driver}` leaves the engine alone, so that it takes no `hostd`"));
    }
    Ok(Declared { driver, flags, labels, hostd })
}

fn flags(place: &str, driver: &str, table: &Table) -> Result<FlagValues, String> {
    let Some(takes) = registry::flags(driver) else {
        let near = registry::nearest(driver, registry::kinds().iter().copied());
        return Err(format!("{place}unknown driver `{driver}`{}", suggestion(near, registry::kinds())));
    };
    let names: Vec<&str> = takes.iter().map(|flag| flag.name).collect();
    known(place, table, &names)?;
    let mut values = texts(place, "flags", table)?;
    // A switch that is off is one that is not given.
    values.retain(|name, value| {
        !(value == "false" && takes.iter().any(|flag| flag.name == name && flag.switch))
    });
    Ok(values)
}

/// Numbers and switches may be written as such.
fn texts(place: &str, key: &str, table: &Table) -> Result<BTreeMap<String, String>, String> {
    let text = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Boolean(switch) => switch.to_string(),
            _ => {
                return Err(format!(
                    "{place}`{name}` in `{key}` is neither text, a whole number nor true or false"
                ));
            }
        };
        Ok((name.clone(), text))
    };
    table.iter().map(text).collect()
}

fn known(place: &str, table: &Table, keys: &[&str]) -> Result<(), String> {
    match table.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let near = registry::nearest(key, keys.iter().copied());
            Err(format!("{place}unknown key `{key}`{}", suggestion(near, keys)))
        }
    }
}

fn suggestion(near: Option<&str>, all: &[&str]) -> String {
    match near {
        Some(near) => format!("; did you mean `{near}`?"),
        None => format!("; there are {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "flags = { none-url = \"tcp://h:1\" }";

    fn fleet(text: &str) -> Result<Fleet, String> {
        parse_fleet(&text.parse::<Table>().map_err(|error| error.to_string())?)
    }

    #[test]
    fn machines_take_from_the_defaults_what_they_do_not_say() {
        let text = "name = 'shop'
            [defaults]
            driver = 'none'
            labels = { stage = 'test', role = 'none' }
            flags = { none-url = 'tcp://h:1' }
            [machine.'web-{1..2}']
            labels = { role = 'web', shard = 3 }
            [machine.db]
            driver = 'generic'
            flags = { generic-ip-address = 'h', generic-ssh-port = 2222 }
            hostd = { debug = true }";
        let fleet = fleet(text).unwrap();
        let names: Vec<&str> = fleet.machines.keys().map(MachineName::as_str).collect();
        assert_eq!(names, ["db", "web-1", "web-2"]);
        let of = |name: &str| &fleet.machines[&name.parse::<MachineName>().unwrap()];
        assert_eq!(labels::line(&of("web-2").labels), "role=web,shard=3,stage=test");
        assert_eq!(of("web-1").flags["none-url"], "tcp://h:1");
        assert_eq!(of("db").flags.len(), 2, "the defaults' flags are those of another driver");
        assert_eq!(of("db").hostd["debug"].as_bool(), Some(true));
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_would_be() {
        for (text, why) in [
            ("", "it has no `name`"),
            ("name = 1", "`name` is no text"),
            ("name = 'a b'", "no name of a fleet"),
            ("name = 'x'\n[machines.a]", "unknown key `machines`; did you mean `machine`?"),
            (
                "name = 'x'\n[machine.a]\ndriver = 'none'\nlables = {}",
                "unknown key `lables`; did you mean `labels`?",
            ),
            ("name = 'x'\n[machine.a]\ndriver = 'none '", "unknown driver `none `; did you mean `none`?"),
            (
                "name = 'x'\n[machine.a]\ndriver = 'none'\nflags = { none-ulr = 'x' }",
                "did you mean `none-url`?",
            ),
            ("name = 'x'\n[machine.a]\ndriver = 'none'", "needs --none-url"),
            ("name = 'x'\n[machine.'a-{1..']\ndriver = 'none'", "lacks a `}`"),
            ("name = 'x'\n[machine.a_b]\ndriver = 'none'", "invalid machine name"),
        ] {
            let told = fleet(text).unwrap_err();
            assert!(told.contains(why), "{text}\n{told}");
        }
        for (more, why) in [
            ("labels = { 'a b' = 'c' }", "no key of a label"),
            ("labels = { a = [] }", "is neither text"),
            ("labels = 3", "`labels` is no table"),
            ("hostd = { debug = true }", "leaves the engine alone"),
            ("hostd = { hosts = [] }", "berth's own"),
        ] {
            let told =
                fleet(&format!("name = 'x'\n[machine.a]\ndriver = 'none'\n{URL}\n{more}")).unwrap_err();
            assert!(told.contains(why), "{more}\n{told}");
        }
        let twice = format!(
            "name = 'x'\n[machine.a]\ndriver = 'none'\n{URL}\n[machine.'{{a,b}}']\ndriver = 'none'\n{URL}"
        );
        assert!(fleet(&twice).unwrap_err().contains("`a` is declared twice"));
    }
}
