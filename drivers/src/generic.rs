//! `generic`: a host that is there already, reached over SSH.
//!
//! It belongs to somebody: it is never renamed, updated, started or stopped, a Docker that runs on it is never
//! touched, and `remove` does nothing to it.

use crate::driver::{
    Driver, DriverError, Features, Flag, FlagValues, Keys, MachineState, Reporter, Save, SshEndpoint,
};
use crate::options::{self, flag, flag_or};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The driver's name.
pub const KIND: &str = "generic";

/// The driver's flags.
pub fn flags() -> Vec<Flag> {
    vec![
        flag(
            "generic-ip-address",
            "GENERIC_IP_ADDRESS",
            "HOST",
            "Address or name of the host, also one of ~/.ssh/config",
        ),
        flag_or(
            "generic-ssh-user",
            "GENERIC_SSH_USER",
            "USER",
            "root",
            "User to log in as: root, or one with sudo",
        ),
        flag_or("generic-ssh-port", "GENERIC_SSH_PORT", "PORT", 22, "Port of its SSH server"),
        flag(
            "generic-ssh-key",
            "GENERIC_SSH_KEY",
            "FILE",
            "Private key to log in with (default: agent, ~/.ssh/config)",
        ),
        flag_or(
            "generic-engine-port",
            "GENERIC_ENGINE_PORT",
            "PORT",
            2376,
            "Port that the engine is to listen on",
        ),
    ]
}

/// What is stored of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    ip_address: String,
    ssh_user: String,
    ssh_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_key: Option<PathBuf>,
    engine_port: u16,
    #[serde(flatten)]
    other: toml::Table,
}

/// One existing host.
#[derive(Debug)]
pub struct Generic {
    config: Config,
}

impl Generic {
    /// From the flags of `berth create`.
    pub fn from_flags(values: &FlagValues) -> Result<Self, DriverError> {
        let flags = flags();
        options::refuse_unknown(KIND, &flags, values)?;
        let ip_address = options::text(&flags, values, "generic-ip-address").ok_or_else(|| {
            DriverError::usage("driver `generic` needs --generic-ip-address")
                .hint("it is the address or name of the host, as ssh takes it")
        })?;
        // A name that begins with a dash would be an option to any program that it is handed to.
        if ip_address.starts_with('-')
            || ip_address.contains(|c: char| c.is_whitespace() || c.is_control() || "/@".contains(c))
        {
            return Err(DriverError::usage(format!(
                "invalid value `{ip_address}` for --generic-ip-address: not a host"
            ))
            .hint("user and port have flags of their own: --generic-ssh-user, --generic-ssh-port"));
        }
        let key = options::text(&flags, values, "generic-ssh-key").map(PathBuf::from);
        let ssh_key = key
            .map(std::path::absolute)
            .transpose()
            .map_err(|e| DriverError::usage("invalid value for --generic-ssh-key").because(e))?;
        let config = Config {
            ip_address,
            ssh_user: options::text(&flags, values, "generic-ssh-user").unwrap_or_default(),
            ssh_port: options::port(&flags, values, "generic-ssh-port")?.unwrap_or(22),
            ssh_key,
            engine_port: options::port(&flags, values, "generic-engine-port")?.unwrap_or(2376),
            other: toml::Table::new(),
        };
        Ok(Self { config })
    }

    /// From the stored configuration.
    pub fn open(table: &toml::Table) -> Result<Self, DriverError> {
        Ok(Self { config: options::from_table(KIND, table)? })
    }
}

#[async_trait::async_trait]
impl Driver for Generic {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn features(&self) -> Features {
        Features {
            start_stop: false,
            ssh: true,
            delivers_host_key: false,
            forwards_ports: false,
            provisions: true,
            places_files: false,
        }
    }
    fn config(&self) -> toml::Table {
        options::to_table(&self.config)
    }
    /// The key file alone: the host may be behind a jump host, so that only SSH itself can tell whether it is there.
    async fn check(&self, _: &dyn Reporter) -> Result<(), DriverError> {
        let Some(key) = &self.config.ssh_key else { return Ok(()) };
        let unreadable = |e| {
            DriverError::precheck(format!("cannot read the key {}", key.display()))
                .because(e)
                .hint("--generic-ssh-key takes a private key in OpenSSH's or PEM format")
        };
        let head = read_head(key).await.map_err(unreadable)?;
        if !head.contains("PRIVATE KEY") {
            let kind = if head.starts_with("ssh-") || head.starts_with("ecdsa-") {
                "a public key"
            } else {
                "no private key"
            };
            return Err(DriverError::precheck(format!("{} is {kind}", key.display()))
                .hint("--generic-ssh-key takes the private half, the file without .pub"));
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
    /// By a connect to the SSH port. A name that only `~/.ssh/config` knows, or a host behind a jump host, cannot be
    /// seen that way and is an error here.
    async fn state(&self) -> Result<MachineState, DriverError> {
        options::state_by_connect(&self.config.ip_address, self.config.ssh_port).await
    }
    async fn address(&self) -> Result<String, DriverError> {
        Ok(self.config.ip_address.clone())
    }
    fn ssh(&self) -> Result<Option<SshEndpoint>, DriverError> {
        Ok(Some(SshEndpoint {
            host: self.config.ip_address.clone(),
            port: self.config.ssh_port,
            user: self.config.ssh_user.clone(),
            identity: self.config.ssh_key.clone(),
            host_key_delivered: false,
        }))
    }
    fn url(&self) -> Result<String, DriverError> {
        let host = &self.config.ip_address;
        let port = self.config.engine_port;
        Ok(if host.contains(':') { format!("tcp://[{host}]:{port}") } else { format!("tcp://{host}:{port}") })
    }
}

/// The first bytes of a file as text.
async fn read_head(path: &std::path::Path) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut head = Vec::new();
    tokio::fs::File::open(path).await?.take(256).read_to_end(&mut head).await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}
