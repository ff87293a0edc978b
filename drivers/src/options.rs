//! What all drivers need to read flags and stored configurations, and to look at a port.

use crate::driver::{DriverError, ErrorKind, Flag, FlagValues, MachineState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// How long a machine may take to accept a connection before it counts as not running.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A flag with a value and an environment variable, without default.
pub(crate) fn flag(
    name: &'static str,
    env: &'static str,
    value_name: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, env: Some(env), value_name, default: None, help, switch: false, secret: false }
}

/// The same with a default.
pub(crate) fn flag_or(
    name: &'static str,
    env: &'static str,
    value_name: &'static str,
    default: impl Display,
    help: &'static str,
) -> Flag {
    Flag { default: Some(default.to_string()), ..flag(name, env, value_name, help) }
}

/// The value of a flag: as given, else its default; an empty value counts as not given.
pub(crate) fn text(flags: &[Flag], values: &FlagValues, name: &str) -> Option<String> {
    let default = || flags.iter().find(|f| f.name == name).and_then(|f| f.default.clone());
    values.get(name).cloned().or_else(default).filter(|v| !v.is_empty())
}

/// The parsed value of a flag.
pub(crate) fn parsed<T>(flags: &[Flag], values: &FlagValues, name: &str) -> Result<Option<T>, DriverError>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let Some(value) = text(flags, values, name) else { return Ok(None) };
    let wrong = |e| DriverError::usage(format!("invalid value `{value}` for --{name}")).because(e);
    value.parse().map(Some).map_err(wrong)
}

/// A TCP port: never 0.
pub(crate) fn port(flags: &[Flag], values: &FlagValues, name: &str) -> Result<Option<u16>, DriverError> {
    match parsed(flags, values, name)? {
        Some(0) => Err(DriverError::usage(format!("invalid value `0` for --{name}: ports begin at 1"))),
        other => Ok(other),
    }
}

/// Refuses flags that are not the driver's own.
pub(crate) fn refuse_unknown(kind: &str, flags: &[Flag], values: &FlagValues) -> Result<(), DriverError> {
    match values.keys().find(|name| !flags.iter().any(|f| f.name == name.as_str())) {
        Some(name) => Err(DriverError::usage(format!("driver `{kind}` has no flag --{name}"))),
        None => Ok(()),
    }
}

/// A user name as Linux's `useradd` takes it.
pub(crate) fn user_name(name: &str, flag: &str) -> Result<(), DriverError> {
    let mut chars = name.chars();
    let fits = name.len() <= 32
        && chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c));
    if fits {
        Ok(())
    } else {
        Err(DriverError::usage(format!("invalid value `{name}` for --{flag}: not a user name")))
    }
}

/// A stored configuration, read. Keys of a newer version survive in the `other` table that each one flattens.
pub(crate) fn from_table<T: DeserializeOwned>(kind: &str, table: &toml::Table) -> Result<T, DriverError> {
    toml::Value::Table(table.clone()).try_into().map_err(|e| {
        DriverError::failed(format!("cannot read the stored configuration of driver `{kind}`")).because(e)
    })
}

/// A configuration as it is stored.
pub(crate) fn to_table(config: &impl Serialize) -> toml::Table {
    // Plain structs of strings, numbers and paths: there is no value among them that TOML lacks, save a path
    // that is not UTF-8, and `from_flags` takes paths from strings.
    toml::Table::try_from(config).unwrap_or_default()
}

/// `Running` where the port accepts a connection in time, `Stopped` where it refuses or stays silent, and the
/// error where the name does not resolve.
pub(crate) async fn state_by_connect(host: &str, port: u16) -> Result<MachineState, DriverError> {
    let lookup = tokio::time::timeout(CONNECT_LIMIT, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<_> = match lookup {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(e)) => return Err(DriverError::failed(format!("cannot resolve `{host}`")).because(e)),
        Err(_) => return Err(DriverError::failed(format!("cannot resolve `{host}`: no answer in time"))),
    };
    let connect = tokio::net::TcpStream::connect(addresses.as_slice());
    match tokio::time::timeout(CONNECT_LIMIT, connect).await {
        Ok(Ok(_)) => Ok(MachineState::Running),
        Ok(Err(_)) | Err(_) => Ok(MachineState::Stopped),
    }
}

/// What a driver without start and stop answers to them.
pub(crate) fn no_power(kind: &str, verb: &str) -> DriverError {
    DriverError::new(
        ErrorKind::Unsupported,
        format!("driver `{kind}` cannot {verb} machines: they are not its own"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_are_those_that_useradd_takes() {
        for (name, fits) in
            [("berth", true), ("_a-1.x", true), ("", false), ("1a", false), ("a b", false), ("a:b", false)]
        {
            assert_eq!(user_name(name, "x").is_ok(), fits, "{name:?}");
        }
    }

    #[test]
    fn a_flag_that_is_not_the_drivers_is_refused_by_name() {
        let values = FlagValues::from([("qemu-colour".into(), "red".into())]);
        let error = refuse_unknown("qemu", &[], &values).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.what.contains("--qemu-colour"), "{error}");
    }
}
