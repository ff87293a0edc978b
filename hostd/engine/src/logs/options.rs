//! Log drivers and their options, refused in Docker's words.
//!
//! Docker takes a container with a value that makes no sense and refuses to start it; here it is refused at create,
//! with the same text.

use crate::error::{EngineError, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// All drivers, as `info` lists them; `none` goes without saying.
pub const LOG_DRIVERS: [&str; 4] = ["journald", "json-file", "local", "syslog"];

pub(crate) type Options = BTreeMap<String, String>;

/// Options that every driver has.
const COMMON: [&str; 6] =
    ["mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
const MARKS: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];
/// What a container may have waiting for its log in non-blocking mode, unless set.
const BUFFER: u64 = 1_000_000;

/// How a container's output is logged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setup {
    pub(crate) driver: Driver,
    /// Bytes that may wait in non-blocking mode.
    pub(crate) buffer: Option<u64>,
    /// What is kept on this machine of a log that a service gets, so that it can be read.
    pub(crate) cache: Option<Files>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Driver {
    None,
    JsonFile(Files),
    Local(Files),
    Syslog(SyslogOptions),
    Journald,
}

/// How many files, and how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) max_size: Option<u64>,
    pub(crate) max_files: u32,
    pub(crate) compress: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SyslogOptions {
    pub(crate) address: Address,
    pub(crate) facility: u8,
    pub(crate) format: hostd_runtime::spec::SyslogFormat,
    pub(crate) tls: Option<TlsFiles>,
}

/// PEM files, and whether the server's certificate is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TlsFiles {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) verify: bool,
}

/// `syslog-address`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Address {
    Local,
    Unix(PathBuf),
    Unixgram(PathBuf),
    Udp(String, u16),
    Tcp(String, u16),
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(EngineError::invalid(message))
}

/// What Docker finds when it starts the container.
fn cannot_start<T>(message: impl std::fmt::Display) -> Result<T> {
    refuse(format!("failed to initialize logging driver: {message}"))
}

impl Setup {
    pub(crate) fn read(driver: &str, options: &Options) -> Result<Self> {
        if driver == "none" {
            // As with Docker, whatever the options say.
            return Ok(Self { driver: Driver::None, buffer: None, cache: None });
        }
        let buffer = buffer(options)?;
        let driver = match driver {
            "json-file" => {
                known(options, &["max-size", "max-file", "compress"], true, "for json-file log driver")?;
                Driver::JsonFile(json_files(options)?)
            }
            "local" => {
                known(options, &["max-size", "max-file", "compress"], false, "for log driver local")?;
                Driver::Local(local_files(options, "")?)
            }
            "syslog" => {
                let names = [
                    "syslog-address",
                    "syslog-facility",
                    "syslog-format",
                    "syslog-tls-ca-cert",
                    "syslog-tls-cert",
                    "syslog-tls-key",
                    "syslog-tls-skip-verify",
                ];
                known(options, &names, true, "for syslog log driver")?;
                Driver::Syslog(syslog(options)?)
            }
            "journald" => {
                known(options, &[], true, "for journald log driver")?;
                Driver::Journald
            }
            other => return refuse(format!("logger: no log driver named '{other}' is registered")),
        };
        super::tag::check(options)?;
        let service = matches!(driver, Driver::Syslog(_) | Driver::Journald);
        let cached = service && !flag(options, "cache-disabled")?.unwrap_or(false);
        let cache = if cached { Some(local_files(options, "cache-")?) } else { None };
        Ok(Self { driver, buffer, cache })
    }
}

fn known(options: &Options, own: &[&str], marks: bool, whose: &str) -> Result<()> {
    let stray = options.keys().find(|key| {
        let key = key.as_str();
        !(own.contains(&key) || COMMON.contains(&key) || marks && MARKS.contains(&key))
    });
    stray.map_or(Ok(()), |key| refuse(format!("unknown log opt '{key}' {whose}")))
}

fn buffer(options: &Options) -> Result<Option<u64>> {
    let wait = match options.get("mode").map_or("", String::as_str) {
        "" | "blocking" => true,
        "non-blocking" => false,
        other => return refuse(format!("logger: logging mode not supported: {other}")),
    };
    match options.get("max-buffer-size") {
        None => Ok((!wait).then_some(BUFFER)),
        Some(_) if wait => {
            refuse("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        }
        Some(size) => match parse_size(size, 1024) {
            Some(size) => Ok(Some(size)),
            None => refuse(format!("error parsing option max-buffer-size: invalid size: '{size}'")),
        },
    }
}

fn json_files(options: &Options) -> Result<Files> {
    let max_size = match options.get("max-size") {
        None => None,
        Some(text) => match parse_size(text, 1000) {
            Some(0) => return cannot_start("max-size must be a positive number"),
            Some(size) => Some(size),
            None => return cannot_start(format!("invalid size: '{text}'")),
        },
    };
    let max_files = match count(options, "max-file").or_else(cannot_start)? {
        Some(0) => return cannot_start("max-file cannot be less than 1"),
        count => count.unwrap_or(1),
    };
    let compress = flag(options, "compress")?.unwrap_or(false);
    if compress && (max_files == 1 || max_size.is_none()) {
        return cannot_start("compress cannot be true when max-file is less than 2 or max-size is not set");
    }
    Ok(Files { max_size, max_files, compress })
}

/// Of the `local` driver, or of a cache, whose options have a prefix.
fn local_files(options: &Options, prefix: &str) -> Result<Files> {
    let named = |name: &str| format!("{prefix}{name}");
    let max_size = match options.get(&named("max-size")) {
        None => 20 << 20,
        Some(text) => match parse_size(text, 1000) {
            Some(0) => return cannot_start("max size should be a positive number"),
            Some(size) => size,
            None => {
                let name = named("max-size");
                return cannot_start(format!("invalid value for {name}: {text}: invalid size: '{text}'"));
            }
        },
    };
    let max_files = count(options, &named("max-file")).or_else(|error| {
        let name = named("max-file");
        cannot_start(format!("invalid value for {name}: {}: {error}", options[&name]))
    })?;
    let max_files = max_files.unwrap_or(5);
    let compress = flag(options, &named("compress"))?.unwrap_or(true);
    if max_files == 0 {
        return cannot_start("max file count cannot be less than 0");
    }
    if compress && max_files == 1 {
        return cannot_start("compression cannot be enabled when max file count is 1");
    }
    Ok(Files { max_size: Some(max_size), max_files, compress })
}

/// A number of files; those below one read as zero.
fn count(options: &Options, name: &str) -> Result<Option<u32>, String> {
    let Some(text) = options.get(name) else { return Ok(None) };
    match text.parse::<i64>() {
        // A log of that many files has its own problems.
        Ok(count) => Ok(Some(u32::try_from(count.clamp(0, 100_000)).unwrap_or(0))),
        Err(_) => Err(format!("strconv.Atoi: parsing \"{text}\": invalid syntax")),
    }
}

fn flag(options: &Options, name: &str) -> Result<Option<bool>> {
    let Some(text) = options.get(name) else { return Ok(None) };
    match text.as_str() {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Some(false)),
        _ => cannot_start(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax")),
    }
}

fn syslog(options: &Options) -> Result<SyslogOptions> {
    use hostd_runtime::spec::SyslogFormat as F;
    let value = |name: &str| options.get(name).map_or("", String::as_str);
    let (address, secure) = address(value("syslog-address"))?;
    let format = match value("syslog-format") {
        "" => F::Unix,
        "rfc3164" => F::Rfc3164,
        "rfc5424" => F::Rfc5424,
        "rfc5424micro" => F::Rfc5424Micro,
        _ => return refuse("Invalid syslog format"),
    };
    let file = |name: &str| options.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    // As with Docker, to be there with any value is to be on.
    let verify = !options.contains_key("syslog-tls-skip-verify");
    let tls = secure.then(|| TlsFiles {
        ca: file("syslog-tls-ca-cert"),
        cert: file("syslog-tls-cert"),
        key: file("syslog-tls-key"),
        verify,
    });
    Ok(SyslogOptions { address, facility: facility(value("syslog-facility"))?, format, tls })
}

fn facility(text: &str) -> Result<u8> {
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
        "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ];
    let text = if text.is_empty() { "daemon" } else { text };
    let number = NAMES.iter().position(|name| *name == text).or_else(|| text.parse().ok());
    match number.filter(|number| *number <= 23) {
        Some(number) => Ok(number as u8),
        None => refuse("invalid syslog facility"),
    }
}

/// `unix:///path`, `udp://host[:port]` …; whether it is to be encrypted.
fn address(text: &str) -> Result<(Address, bool)> {
    if text.is_empty() {
        return Ok((Address::Local, false));
    }
    let wrong =
        || EngineError::invalid(format!("syslog-address should be in form proto://address, got {text}"));
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    if ["unix", "unixgram"].contains(&scheme) {
        let path = PathBuf::from(rest);
        if !path.exists() {
            return refuse(format!("stat {rest}: no such file or directory"));
        }
        let address = if scheme == "unix" { Address::Unix(path) } else { Address::Unixgram(path) };
        return Ok((address, false));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = host_and_port(authority).ok_or_else(wrong)?;
    match scheme {
        "udp" => Ok((Address::Udp(host, port), false)),
        "tcp" => Ok((Address::Tcp(host, port), false)),
        "tcp+tls" => Ok((Address::Tcp(host, port), true)),
        _ => Err(wrong()),
    }
}

/// `host`, `host:port`, `[v6]:port`; port 514 unless it is named.
fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Some(514), |port| port.parse().ok())?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// `10m`, `64k`, `1g`, `512`, with or without a `b` behind; a kilobyte has `thousand` bytes.
fn parse_size(text: &str, thousand: u64) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let unit = bare.chars().last().and_then(|unit| "kmgtp".find(unit));
    let (digits, power) = match unit {
        Some(at) => (&bare[..bare.len() - 1], at as u32 + 1),
        None => (bare, 0),
    };
    let digits = digits.trim_end();
    if !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let number: f64 = digits.parse().ok()?;
    let size = number * (thousand as f64).powi(power as i32);
    (size.is_finite() && size < u64::MAX as f64).then_some(size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(driver: &str, pairs: &[(&str, &str)]) -> Result<Setup, String> {
        let options = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Setup::read(driver, &options).map_err(|error| error.message)
    }

    #[test]
    fn options_of_files_are_read() {
        let files = |pairs| match read("json-file", pairs).unwrap().driver {
            Driver::JsonFile(files) => (files.max_size, files.max_files, files.compress),
            other => panic!("{other:?}"),
        };
        assert_eq!(files(&[]), (None, 1, false));
        assert_eq!(files(&[("max-size", "10m"), ("max-file", "3")]), (Some(10_000_000), 3, false));
        assert_eq!(
            files(&[("max-size", "1.5k"), ("max-file", "2"), ("compress", "T")]),
            (Some(1500), 2, true)
        );
        assert_eq!(files(&[("max-file", "2")]), (None, 2, false));
        let Driver::Local(local) = read("local", &[]).unwrap().driver else { panic!() };
        assert_eq!(local, Files { max_size: Some(20 << 20), max_files: 5, compress: true });
    }

    #[test]
    fn modes_and_caches_are_read() {
        assert_eq!(read("json-file", &[]).unwrap().buffer, None);
        assert_eq!(read("json-file", &[("mode", "non-blocking")]).unwrap().buffer, Some(1_000_000));
        let sized = [("mode", "non-blocking"), ("max-buffer-size", "4m")];
        assert_eq!(read("local", &sized).unwrap().buffer, Some(4 << 20));
        assert_eq!(read("json-file", &[]).unwrap().cache, None);
        assert_eq!(read("journald", &[]).unwrap().cache.unwrap().max_files, 5);
        assert_eq!(read("journald", &[("cache-disabled", "true")]).unwrap().cache, None);
        let cache = read("syslog", &[("cache-max-size", "1m"), ("cache-max-file", "2")]).unwrap().cache;
        assert_eq!(cache.unwrap().max_size, Some(1_000_000));
    }

    #[test]
    fn syslog_servers_are_read() {
        let server = |text| address(text).map_err(|error| error.message);
        assert_eq!(server("udp://1.2.3.4").unwrap(), (Address::Udp("1.2.3.4".to_owned(), 514), false));
        assert_eq!(server("tcp+tls://[::1]:99/x").unwrap(), (Address::Tcp("::1".to_owned(), 99), true));
        assert_eq!(server("unix:///").unwrap(), (Address::Unix("/".into()), false));
        assert_eq!(server("").unwrap(), (Address::Local, false));
        for bad in ["x", "http://x", "tcp://", "tcp://a:b", "udp://[::1"] {
            let error = server(bad).unwrap_err();
            assert_eq!(error, format!("syslog-address should be in form proto://address, got {bad}"));
        }
        assert_eq!(["", "local7", "5"].map(|text| facility(text).unwrap()), [3, 23, 5]);
        assert!(facility("24").is_err() && facility("x").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_dockers_words() {
        let start = "failed to initialize logging driver: ";
        for (driver, key, value, words) in [
            ("fluent", "x", "y", "logger: no log driver named 'fluent' is registered"),
            ("json-file", "x", "y", "unknown log opt 'x' for json-file log driver"),
            ("local", "x", "y", "unknown log opt 'x' for log driver local"),
            ("local", "tag", "y", "unknown log opt 'tag' for log driver local"),
            ("syslog", "x", "y", "unknown log opt 'x' for syslog log driver"),
            ("journald", "max-size", "1m", "unknown log opt 'max-size' for journald log driver"),
            ("json-file", "mode", "x", "logger: logging mode not supported: x"),
            (
                "json-file",
                "max-buffer-size",
                "1k",
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            ("json-file", "max-size", "big", &format!("{start}invalid size: 'big'")),
            ("json-file", "max-size", "0", &format!("{start}max-size must be a positive number")),
            ("json-file", "max-file", "0", &format!("{start}max-file cannot be less than 1")),
            ("json-file", "max-file", "x", &format!("{start}strconv.Atoi: parsing \"x\": invalid syntax")),
            (
                "json-file",
                "compress",
                "true",
                &format!(
                    "{start}compress cannot be true when max-file is less than 2 or max-size is not set"
                ),
            ),
            ("local", "max-size", "y", &format!("{start}invalid value for max-size: y: invalid size: 'y'")),
            (
                "local",
                "max-file",
                "1",
                &format!("{start}compression cannot be enabled when max file count is 1"),
            ),
            ("syslog", "syslog-format", "x", "Invalid syslog format"),
            ("syslog", "syslog-facility", "x", "invalid syslog facility"),
            ("syslog", "syslog-address", "unix:///nope", "stat /nope: no such file or directory"),
        ] {
            assert_eq!(read(driver, &[(key, value)]).unwrap_err(), words);
        }
        let size = [("mode", "non-blocking"), ("max-buffer-size", "zk")];
        let words = "error parsing option max-buffer-size: invalid size: 'zk'";
        assert_eq!(read("json-file", &size).unwrap_err(), words);
    }
}
