//! `none`: an engine by its URL, and nothing else. berth talks to it and leaves its machine alone.

use crate::driver::{
    Driver, DriverError, Features, Flag, FlagValues, Keys, MachineState, Reporter, Save, SshEndpoint,
};
use crate::options::{self, flag};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use url::Url;

/// The driver's name.
pub const KIND: &str = "none";

/// The driver's flags.
pub fn flags() -> Vec<Flag> {
    vec![
        flag("none-url", "NONE_URL", "URL", "The engine: tcp://HOST:PORT"),
        flag(
            "none-tls-ca",
            "NONE_TLS_CA",
            "FILE",
            "Certificate authority to verify the engine with (ca.pem)",
        ),
        flag("none-tls-cert", "NONE_TLS_CERT", "FILE", "Client certificate to show to the engine (cert.pem)"),
        flag("none-tls-key", "NONE_TLS_KEY", "FILE", "Key of the client certificate (key.pem)"),
    ]
}

/// What is stored of it: paths of certificates, never their content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    url: Url,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<PathBuf>,
    #[serde(flatten)]
    other: toml::Table,
}

/// One engine. Its configuration's keys `tls-ca`, `tls-cert` and `tls-key` say which certificates berth connects with.
#[derive(Debug)]
pub struct NoDriver {
    config: Config,
}

impl NoDriver {
    /// From the flags of `berth create`.
    pub fn from_flags(values: &FlagValues) -> Result<Self, DriverError> {
        let flags = flags();
        options::refuse_unknown(KIND, &flags, values)?;
        let url = options::parsed(&flags, values, "none-url")?.ok_or_else(|| {
            DriverError::usage("driver `none` needs --none-url")
                .hint("for example --none-url tcp://192.0.2.7:2376")
        })?;
        let path = |name: &str| {
            let given = options::text(&flags, values, name);
            given
                .map(std::path::absolute)
                .transpose()
                .map_err(|e| DriverError::usage(format!("invalid value for --{name}")).because(e))
        };
        let (tls_ca, tls_cert, tls_key) =
            (path("none-tls-ca")?, path("none-tls-cert")?, path("none-tls-key")?);
        if tls_cert.is_some() != tls_key.is_some() {
            return Err(DriverError::usage("--none-tls-cert and --none-tls-key go together"));
        }
        checked(Config { url, tls_ca, tls_cert, tls_key, other: toml::Table::new() })
    }

    /// From the stored configuration.
    pub fn open(table: &toml::Table) -> Result<Self, DriverError> {
        checked(options::from_table(KIND, table)?)
    }

    fn host_and_port(&self) -> (String, u16) {
        // `checked` has seen both.
        let host = self.config.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        (host, self.config.url.port().unwrap_or(2376))
    }

    fn certificates(&self) -> impl Iterator<Item = &Path> {
        [&self.config.tls_ca, &self.config.tls_cert, &self.config.tls_key]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }
}

fn checked(config: Config) -> Result<NoDriver, DriverError> {
    let url = &config.url;
    let bare = url.username().is_empty()
        && url.password().is_none()
        && matches!(url.path(), "" | "/")
        && url.query().is_none();
    if url.scheme() != "tcp" || url.host_str().is_none_or(str::is_empty) || !bare {
        return Err(DriverError::usage(format!("invalid value `{url}` for --none-url"))
            .hint("it takes tcp://HOST or tcp://HOST:PORT; the port is 2376 where none is given"));
    }
    Ok(NoDriver { config })
}

#[async_trait::async_trait]
impl Driver for NoDriver {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn features(&self) -> Features {
        Features {
            start_stop: false,
            ssh: false,
            delivers_host_key: false,
            forwards_ports: false,
            provisions: false,
            places_files: false,
        }
    }
    fn config(&self) -> toml::Table {
        options::to_table(&self.config)
    }
    async fn check(&self, _: &dyn Reporter) -> Result<(), DriverError> {
        for path in self.certificates() {
            tokio::fs::File::open(path)
                .await
                .map_err(|e| DriverError::precheck(format!("cannot read {}", path.display())).because(e))?;
        }
        Ok(())
    }
    async fn create(&mut self, _: &Keys, _: &dyn Reporter, save: Save<'_>) -> Result<(), DriverError> {
        save(&self.config()).map_err(|e| DriverError::failed("cannot store the configuration").because(e))
    }
    async fn start(&mut self) -> Result<(), DriverError> {
        Err(options::no_power(KIND, "start"))
    }
    async fn stop(&mut self) -> Result<(), DriverError> {
        Err(options::no_power(KIND, "stop"))
    }
    async fn kill(&mut self) -> Result<(), DriverError> {
        Err(options::no_power(KIND, "kill"))
    }
    async fn restart(&mut self) -> Result<(), DriverError> {
        Err(options::no_power(KIND, "restart"))
    }
    async fn remove(&mut self) -> Result<(), DriverError> {
        Ok(())
    }
    async fn state(&self) -> Result<MachineState, DriverError> {
        let (host, port) = self.host_and_port();
        options::state_by_connect(&host, port).await
    }
    async fn address(&self) -> Result<String, DriverError> {
        Ok(self.host_and_port().0)
    }
    fn ssh(&self) -> Result<Option<SshEndpoint>, DriverError> {
        Ok(None)
    }
    fn url(&self) -> Result<String, DriverError> {
        let (host, port) = self.host_and_port();
        Ok(if host.contains(':') { format!("tcp://[{host}]:{port}") } else { format!("tcp://{host}:{port}") })
    }
}
