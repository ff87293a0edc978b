//! Values of options, written as docker writes them.

use crate::error::CliError;
use bollard::models::{
    Mount, MountBindOptions, MountTmpfsOptions, MountType, RestartPolicy, RestartPolicyNameEnum,
};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A port of the container and where it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// Address of the machine; empty for all.
    pub(crate) host_ip: String,
    /// `None`: the engine chooses.
    pub(crate) host_port: Option<u16>,
    /// `80/tcp`.
    pub(crate) container: String,
}

impl Published {
    /// Whether it is a UDP port.
    pub(crate) fn is_udp(&self) -> bool {
        self.container.ends_with("/udp")
    }
}

/// `[[IP:]PORT:]CONTAINER-PORT[/PROTOCOL]`, without ranges.
pub(crate) fn publish(text: &str) -> Result<Published, String> {
    let (ports, protocol) = protocol(text)?;
    let (rest, container) = ports.rsplit_once(':').map_or((None, ports), |(rest, port)| (Some(rest), port));
    let container = format!("{}/{protocol}", port(container, text)?);
    let Some(rest) = rest else {
        return Ok(Published { host_ip: String::new(), host_port: None, container });
    };
    // An IPv6 address has colons of its own, and brackets around it.
    let (ip, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let host_ip = ip.trim_start_matches('[').trim_end_matches(']').to_owned();
    if !host_ip.is_empty() && host_ip.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {host_ip}"));
    }
    let host_port = if host.is_empty() { None } else { Some(port(host, text)?) };
    Ok(Published { host_ip, host_port, container })
}

/// `PORT[/PROTOCOL]`.
pub(crate) fn exposed(text: &str) -> Result<String, String> {
    let (number, protocol) = protocol(text)?;
    Ok(format!("{}/{protocol}", port(number, text)?))
}

fn protocol(text: &str) -> Result<(&str, &str), String> {
    match text.rsplit_once('/') {
        None => Ok((text, "tcp")),
        Some((ports, protocol @ ("tcp" | "udp" | "sctp"))) => Ok((ports, protocol)),
        Some((_, other)) => Err(format!("invalid proto: {other}")),
    }
}

fn port(number: &str, whole: &str) -> Result<u16, String> {
    if number.contains('-') {
        return Err(format!("ranges of ports are not supported: {whole}; publish each port by itself"));
    }
    match number.parse() {
        Ok(0) | Err(_) => Err(format!("invalid containerPort or hostPort: {number}")),
        Ok(port) => Ok(port),
    }
}

/// A volume in docker's short form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A name, a path of the machine or a folder of this computer, and where it goes: `data:/data:ro`.
    Bind(String),
    /// A new volume at this path.
    Anonymous(String),
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((source, rest)) = text.split_once(':') else {
            return if text.starts_with('/') {
                Ok(Self::Anonymous(text.to_owned()))
            } else {
                Err(format!("invalid volume specification: '{text}': the target must be an absolute path"))
            };
        };
        let target = rest.split(':').next().unwrap_or_default();
        if source.is_empty() || !target.starts_with('/') || rest.matches(':').count() > 1 {
            return Err(format!("invalid volume specification: '{text}'"));
        }
        Ok(Self::Bind(text.to_owned()))
    }
}

/// `type=bind,source=/srv,target=/data,readonly`.
pub(crate) fn mount(text: &str) -> Result<Mount, String> {
    let mut mount = Mount { typ: Some(MountType::VOLUME), ..Mount::default() };
    let mut tmpfs = MountTmpfsOptions::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let needed = || {
            value
                .map(str::to_owned)
                .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))
        };
        let switch = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("invalid value for {key}: {other}")),
        };
        match key {
            "type" => mount.typ = Some(mount_type(&needed()?)?),
            "source" | "src" => mount.source = Some(needed()?),
            "target" | "dst" | "destination" => mount.target = Some(needed()?),
            "readonly" | "ro" => mount.read_only = Some(switch()?),
            "bind-propagation" => {
                let name = serde_json::Value::String(needed()?);
                let propagation =
                    serde_json::from_value(name).map_err(|_| format!("invalid propagation: {field}"))?;
                mount.bind_options =
                    Some(MountBindOptions { propagation: Some(propagation), ..Default::default() });
            }
            "tmpfs-size" => tmpfs.size_bytes = Some(bytes(&needed()?)?),
            "tmpfs-mode" => {
                let mode =
                    i64::from_str_radix(&needed()?, 8).map_err(|_| format!("invalid value for {field}"))?;
                tmpfs.mode = Some(mode);
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if mount.target.is_none() {
        return Err("target is required".to_owned());
    }
    if tmpfs != MountTmpfsOptions::default() {
        if mount.typ != Some(MountType::TMPFS) {
            return Err("cannot mix tmpfs options with another type of mount".to_owned());
        }
        mount.tmpfs_options = Some(tmpfs);
    }
    Ok(mount)
}

fn mount_type(name: &str) -> Result<MountType, String> {
    match name {
        "bind" => Ok(MountType::BIND),
        "volume" => Ok(MountType::VOLUME),
        "tmpfs" => Ok(MountType::TMPFS),
        other => Err(format!("invalid type of mount: {other}")),
    }
}

/// When a container starts again by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Never.
    #[default]
    No,
    /// Whenever it ends.
    Always,
    /// Whenever it ends, until someone stops it.
    UnlessStopped,
    /// When it fails, at most so many times (0: any number).
    OnFailure(i64),
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => match text {
                "" | "no" => Ok(Self::No),
                "always" => Ok(Self::Always),
                "unless-stopped" => Ok(Self::UnlessStopped),
                "on-failure" => Ok(Self::OnFailure(0)),
                _ => Err(format!("invalid restart policy: unknown policy '{text}'")),
            },
            Some(("on-failure", count)) => {
                let count =
                    count.parse::<u32>().map_err(|_| "maximum retry count must be an integer".to_owned())?;
                Ok(Self::OnFailure(count.into()))
            }
            Some(_) => Err(format!("invalid restart policy: '{text}' takes no count")),
        }
    }
}

impl From<&Restart> for RestartPolicy {
    fn from(restart: &Restart) -> Self {
        let (name, count) = match restart {
            Restart::No => (RestartPolicyNameEnum::NO, 0),
            Restart::Always => (RestartPolicyNameEnum::ALWAYS, 0),
            Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, 0),
            Restart::OnFailure(count) => (RestartPolicyNameEnum::ON_FAILURE, *count),
        };
        Self { name: Some(name), maximum_retry_count: Some(count) }
    }
}

/// `512m`, `1.5g`, in bytes.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: i64 = match lower[number.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(format!("invalid size: '{text}'")),
    };
    let value: f64 = number.parse().map_err(|_| format!("invalid size: '{text}'"))?;
    let total = value * factor as f64;
    if !(0.0..9e18).contains(&total) {
        return Err(format!("invalid size: '{text}'"));
    }
    Ok(total as i64)
}

/// `1.5` CPUs, in billionths.
pub(crate) fn cpus(text: &str) -> Result<i64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.0..1e6).contains(&cpus) => Ok((cpus * 1e9).round() as i64),
        _ => Err(format!("failed to parse {text} as a rational number")),
    }
}

/// `key=value`; a label without a value is empty.
pub(crate) fn label(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// The variables of files, then those of `-e`; the later wins, in the engine.
pub(crate) fn environment(files: &[PathBuf], given: &[String]) -> Result<Vec<String>, CliError> {
    let mut environment = Vec::new();
    for file in files {
        let failed =
            || CliError::new(format!("cannot read the environment file {}", file.display())).code(125);
        let text = std::fs::read_to_string(file).map_err(|e| failed().because(e))?;
        for line in text.trim_start_matches('\u{feff}').lines().map(str::trim_start) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() || name.contains(char::is_whitespace) {
                let reason = format!("variable '{name}' contains whitespaces or has no name");
                return Err(failed().because(std::io::Error::other(reason)));
            }
            environment.extend(variable(line));
        }
    }
    for text in given {
        if text.is_empty() || text.starts_with('=') {
            return Err(CliError::usage(format!("invalid environment variable: {text}")).code(125));
        }
        environment.extend(variable(text));
    }
    Ok(environment)
}

/// A variable without a value has ours; where we have none, there is none.
fn variable(text: &str) -> Option<String> {
    if text.contains('=') {
        return Some(text.to_owned());
    }
    std::env::var(text).ok().map(|value| format!("{text}={value}"))
}

/// How many of the last lines: a number or `all`.
pub(crate) fn tail(text: &str) -> Result<String, String> {
    if text == "all" || text.parse::<u64>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is neither a number nor `all`"))
}

/// A moment: a unix time, a date and time, or how long ago (`10m`, `1h30m`), as a unix time with a fraction.
pub(crate) fn moment(text: &str) -> Result<String, String> {
    use time::format_description::well_known::Rfc3339;
    let now = time::OffsetDateTime::now_utc();
    if text.parse::<f64>().is_ok_and(f64::is_finite) {
        return Ok(text.to_owned());
    }
    let stamp = |at: time::OffsetDateTime| format!("{}.{:09}", at.unix_timestamp(), at.nanosecond());
    if let Some(ago) = go_duration(text) {
        return Ok(stamp(now - ago));
    }
    // Missing parts are zero, and without an offset it is UTC.
    for tail in ["", "Z", ":00Z", "T00:00:00Z"] {
        if let Ok(at) = time::OffsetDateTime::parse(&format!("{text}{tail}"), &Rfc3339) {
            return Ok(stamp(at));
        }
    }
    Err(format!("'{text}' is neither a time nor a duration"))
}

/// `1h30m`, `300ms`.
fn go_duration(text: &str) -> Option<time::Duration> {
    let mut seconds = 0.0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    time::Duration::checked_seconds_f64(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(host_ip: &str, host_port: Option<u16>, container: &str) -> Published {
        Published { host_ip: host_ip.into(), host_port, container: container.into() }
    }

    #[test]
    fn ports_are_published_as_docker_writes_them() {
        for (text, expected) in [
            ("80", published("", None, "80/tcp")),
            ("8080:80", published("", Some(8080), "80/tcp")),
            ("53:53/udp", published("", Some(53), "53/udp")),
            ("127.0.0.1:8080:80", published("127.0.0.1", Some(8080), "80/tcp")),
            ("127.0.0.1::80", published("127.0.0.1", None, "80/tcp")),
            ("[::1]:8080:80/tcp", published("::1", Some(8080), "80/tcp")),
        ] {
            assert_eq!(publish(text), Ok(expected), "{text}");
        }
        for text in ["", "x", "0", "70000", "80/icmp", "a.b:1:2", "8000-8010:80"] {
            assert!(publish(text).is_err(), "{text}");
        }
    }

    #[test]
    fn volumes_are_told_apart() {
        assert_eq!("/data".parse(), Ok(Volume::Anonymous("/data".into())));
        assert_eq!("data:/data:ro".parse(), Ok(Volume::Bind("data:/data:ro".into())));
        assert_eq!("./here:/data".parse(), Ok(Volume::Bind("./here:/data".into())));
        for text in ["data", "data:relative", ":/data", "a:/b:ro:x"] {
            assert!(text.parse::<Volume>().is_err(), "{text}");
        }
    }

    #[test]
    fn mounts_are_read_and_unknown_keys_refused() {
        let read = mount("type=bind,src=/srv,dst=/data,readonly").unwrap();
        assert_eq!((read.typ, read.read_only), (Some(MountType::BIND), Some(true)));
        assert_eq!((read.source.as_deref(), read.target.as_deref()), (Some("/srv"), Some("/data")));
        assert_eq!(
            mount("type=tmpfs,dst=/t,tmpfs-size=1m").unwrap().tmpfs_options.unwrap().size_bytes,
            Some(1 << 20)
        );
        for text in
            ["type=bind,src=/srv", "type=nfs,dst=/x", "dst=/x,colour=red", "type=bind,dst=/x,tmpfs-size=1"]
        {
            assert!(mount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_policies_and_moments() {
        for (text, expected) in
            [("512", 512), ("512m", 512 << 20), ("1.5g", 3 << 29), ("2KB", 2048), ("1GiB", 1 << 30)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        assert!(bytes("lots").is_err() && bytes("-1").is_err());
        assert_eq!(cpus("1.5"), Ok(1_500_000_000));
        assert_eq!("on-failure:3".parse(), Ok(Restart::OnFailure(3)));
        assert!("always:3".parse::<Restart>().is_err());
        assert_eq!(moment("2026-01-02").unwrap(), "1767312000.000000000");
        assert_eq!(moment("1767312000.5").unwrap(), "1767312000.5");
        assert!(moment("1h30m").is_ok() && moment("soon").is_err() && moment("").is_err());
    }

    #[test]
    fn the_environment_comes_from_files_and_options_in_that_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "# comment\n\nA=1\nB=two words\nNOT_SET_ANYWHERE_HERE\n").unwrap();
        let read =
            environment(std::slice::from_ref(&file), &["C=3".to_owned(), "NOT_SET_ANYWHERE_HERE".to_owned()])
                .unwrap();
        assert_eq!(read, ["A=1", "B=two words", "C=3"]);
        std::fs::write(&file, "bad name=1\n").unwrap();
        assert!(environment(&[file], &[]).is_err());
    }
}
