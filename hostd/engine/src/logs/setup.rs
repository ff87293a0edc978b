//! From a container's log options to what its shim does, and to what can be read of it.

use super::options::{Address, Driver, Files, Options, Setup, SyslogOptions, TlsFiles};
use super::tag;
use crate::error::{EngineError, Result};
use crate::model::{ContainerRecord, HostConfig};
use crate::{Engine, names};
use hostd_runtime::spec::{Journald, Log, LogFile, LogFormat, LogService, Syslog, SyslogAddress, SyslogTls};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// How containers are logged that do not say how.
#[derive(Clone, Debug)]
pub struct LogDefaults {
    /// `--log-driver`.
    pub driver: String,
    /// `--log-opt`; they count for containers with that driver.
    pub options: Options,
}

impl Default for LogDefaults {
    fn default() -> Self {
        Self { driver: "json-file".to_owned(), options: Options::new() }
    }
}

impl LogDefaults {
    /// Refuses what a container would be refused for.
    pub(crate) fn check(&self) -> Result<()> {
        Setup::read(&self.driver, &self.options)
            .map(drop)
            .map_err(|error| EngineError::invalid(format!("failed to set log opts: {}", error.message)))
    }

    /// Fills in what a container does not say.
    pub(crate) fn fill_in(&self, host: &mut HostConfig) {
        if host.log_driver.is_empty() {
            host.log_driver.clone_from(&self.driver);
        }
        if host.log_driver == "none" {
            return;
        }
        let same = host.log_driver == self.driver;
        for (name, value) in &self.options {
            if same || name.starts_with("cache-") {
                host.log_options.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Where a log can be read, and how it is written; `None` where it cannot.
pub(super) fn readable(record: &ContainerRecord, dir: &Path) -> Result<Option<(PathBuf, super::Format)>> {
    let setup = Setup::read(&record.host.log_driver, &record.host.log_options)?;
    Ok(match setup.driver {
        Driver::None => None,
        Driver::JsonFile(_) => Some((PathBuf::from(&record.log_path), super::Format::Json)),
        Driver::Local(_) => Some((local_path(dir), super::Format::Local)),
        Driver::Syslog(_) | Driver::Journald => setup.cache.map(|_| (cache_path(dir), super::Format::Local)),
    })
}

fn local_path(dir: &Path) -> PathBuf {
    dir.join("local-logs/container.log")
}

fn cache_path(dir: &Path) -> PathBuf {
    dir.join("container-cached.log")
}

impl Engine {
    /// What the shim does with a container's output.
    pub(crate) async fn log_of(&self, record: &ContainerRecord) -> Result<Log> {
        let options = &record.host.log_options;
        let setup = Setup::read(&record.host.log_driver, options)?;
        let dir = self.container_dir(&record.id);
        let local = |files: Files, path: PathBuf| log_file(files, path, LogFormat::Local);
        let mut log = Log { buffer: setup.buffer, ..Log::default() };
        match setup.driver {
            Driver::None => return Ok(log),
            Driver::JsonFile(files) => {
                let format = LogFormat::Json { attrs: json_attributes(record, options)? };
                log.file = Some(log_file(files, PathBuf::from(&record.log_path), format));
            }
            Driver::Local(files) => log.file = Some(local(files, local_path(&dir))),
            Driver::Syslog(server) => {
                let tag = tag::tag(record, options, "{{.ID}}")?;
                log.service = Some(LogService::Syslog(syslog(server, tag).await?));
            }
            Driver::Journald => log.service = Some(LogService::Journald(journald(record, options)?)),
        }
        if let Some(files) = setup.cache {
            log.file = Some(local(files, cache_path(&dir)));
        }
        Ok(log)
    }
}

fn log_file(files: Files, path: PathBuf, format: LogFormat) -> LogFile {
    let Files { max_size, max_files, compress } = files;
    LogFile { path, format, max_size, max_files, compress }
}

/// As Docker writes them into each entry; empty for none.
fn json_attributes(record: &ContainerRecord, options: &Options) -> Result<String> {
    let mut attributes = tag::attributes(record, options, str::to_owned)?;
    let tag = tag::tag(record, options, "")?;
    if !tag.is_empty() {
        attributes.insert("tag".to_owned(), tag);
    }
    if attributes.is_empty() {
        return Ok(String::new());
    }
    let text = serde_json::to_string(&attributes)
        .map_err(|error| EngineError::invalid(format!("cannot write log attributes: {error}")))?;
    // As Go does.
    Ok(text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}

fn journald(record: &ContainerRecord, options: &Options) -> Result<Journald> {
    let tag = tag::tag(record, options, "{{.ID}}")?;
    let mut fields = vec![
        ("CONTAINER_ID".to_owned(), record.id.chars().take(12).collect()),
        ("CONTAINER_ID_FULL".to_owned(), record.id.clone()),
        ("CONTAINER_NAME".to_owned(), record.name.clone()),
        ("CONTAINER_TAG".to_owned(), tag.clone()),
        ("IMAGE_NAME".to_owned(), record.config.image.clone()),
        ("SYSLOG_IDENTIFIER".to_owned(), tag),
        ("CONTAINER_LOG_EPOCH".to_owned(), names::random_id()?),
    ];
    fields.extend(tag::attributes(record, options, tag::journal_name)?);
    fields.retain(|(name, _)| !name.is_empty());
    Ok(Journald { fields })
}

async fn syslog(server: SyslogOptions, tag: String) -> Result<Syslog> {
    let tls_name = match &server.address {
        Address::Tcp(host, _) => host.clone(),
        _ => String::new(),
    };
    let address = match server.address {
        Address::Local => SyslogAddress::Local,
        Address::Unix(path) => SyslogAddress::Unix(path),
        Address::Unixgram(path) => SyslogAddress::Unixgram(path),
        Address::Udp(host, port) => SyslogAddress::Udp(resolve(&host, port, "udp").await?),
        Address::Tcp(host, port) => SyslogAddress::Tcp(resolve(&host, port, "tcp").await?),
    };
    let tls = server.tls.map(|TlsFiles { ca, cert, key, verify }| SyslogTls {
        name: tls_name,
        ca,
        cert,
        key,
        verify,
    });
    Ok(Syslog { address, facility: server.facility, format: server.format, tag, tls })
}

/// The addresses of a host, as they are when the container starts: its shim asks no name server.
async fn resolve(host: &str, port: u16, network: &str) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |error: &dyn std::fmt::Display| {
        EngineError::invalid(format!(
            "failed to create task for container: failed to initialize logging driver: dial {network}: lookup {host}: \
             {error}"
        ))
    };
    let resolver = hickory_resolver::TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(|error| failed(&error))?;
    let found = resolver.lookup_ip(host).await.map_err(|error| failed(&error))?;
    Ok(found.iter().map(|address| SocketAddr::new(address, port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    #[test]
    fn a_container_gets_the_defaults_of_its_own_driver_only() {
        let options = [("max-size", "1m"), ("cache-disabled", "true")];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let defaults = LogDefaults { driver: "local".to_owned(), options };
        let fill_in = |driver: &str| {
            let mut host = HostConfig { log_driver: driver.to_owned(), ..HostConfig::default() };
            defaults.fill_in(&mut host);
            (host.log_driver, host.log_options.into_keys().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(fill_in(""), ("local".to_owned(), "cache-disabled max-size".to_owned()));
        assert_eq!(fill_in("syslog"), ("syslog".to_owned(), "cache-disabled".to_owned()));
        assert_eq!(fill_in("none").1, "");
        let wrong = LogDefaults { driver: "x".to_owned(), options: Options::new() };
        let words = "failed to set log opts: logger: no log driver named 'x' is registered";
        assert_eq!(wrong.check().unwrap_err().message, words);
    }

    #[test]
    fn attributes_are_go_s_json() {
        let mut record = record("aa", "web");
        record.config.labels.insert("l".to_owned(), "<\"&".to_owned());
        let options = [("labels", "l"), ("tag", "{{.Name}}")];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(json_attributes(&record, &options).unwrap(), r#"{"l":"\u003c\"\u0026","tag":"web"}"#);
        assert_eq!(json_attributes(&record, &Options::new()).unwrap(), "");
    }
}
