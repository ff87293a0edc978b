//! The `qemu` driver's flags, and what is stored of a machine.

use crate::driver::{DriverError, Flag, FlagValues, Resize};
use crate::options::{self, flag, flag_or};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::str::FromStr;
use url::Url;

/// The driver's flags.
pub fn flags() -> Vec<Flag> {
    vec![
        flag_or("qemu-cpu-count", "QEMU_CPU_COUNT", "N", 2, "Number of CPUs"),
        flag_or("qemu-memory", "QEMU_MEMORY", "SIZE", 2048, "Memory in MiB, or with a suffix: 4G"),
        flag_or(
            "qemu-disk-size",
            "QEMU_DISK_SIZE",
            "SIZE",
            20480,
            "Size of the disk in MiB, or with a suffix: 40G",
        ),
        flag(
            "qemu-image",
            "QEMU_IMAGE",
            "PATH|URL",
            "Disk image with cloud-init: a file, or a URL that may end in #sha256:HEX",
        ),
        flag("qemu-image-checksum", "QEMU_IMAGE_CHECKSUM", "sha256:HEX", "Checksum of the image"),
        flag(
            "qemu-kernel",
            "QEMU_KERNEL",
            "FILE",
            "Kernel to boot directly (default: IMAGE.kernel where there is one)",
        ),
        flag(
            "qemu-initrd",
            "QEMU_INITRD",
            "FILE",
            "Initial RAM disk for the kernel (default: IMAGE.initrd where there is one)",
        ),
        flag(
            "qemu-append",
            "QEMU_APPEND",
            "ARGS",
            "Kernel command line, with a kernel alone (default: root=/dev/vda and the console)",
        ),
        flag_or("qemu-accel", "QEMU_ACCEL", "KIND", "auto", "Acceleration: auto, kvm, hvf or tcg"),
        flag(
            "qemu-ssh-port",
            "QEMU_SSH_PORT",
            "PORT",
            "Port of 127.0.0.1 that leads to the machine's SSH (default: a free one)",
        ),
        flag(
            "qemu-engine-port",
            "QEMU_ENGINE_PORT",
            "PORT",
            "Port of 127.0.0.1 that leads to the machine's engine (default: a free one)",
        ),
        flag_or(
            "qemu-ssh-user",
            "QEMU_SSH_USER",
            "USER",
            "berth",
            "User that is made in the machine, with sudo",
        ),
        flag_or(
            "qemu-stop-timeout",
            "QEMU_STOP_TIMEOUT",
            "SECONDS",
            60,
            "How long the guest may take to power off",
        ),
    ]
}

/// What accelerates a guest, as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The best that works here.
    Auto,
    /// Linux's hypervisor.
    Kvm,
    /// macOS's hypervisor.
    Hvf,
    /// None: every instruction is translated. Works everywhere, some ten times slower.
    Tcg,
}

impl Accel {
    /// QEMU's name for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Tcg => "tcg",
        }
    }
}

/// A port of 127.0.0.1 that leads into the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Port {
    /// 0: none was chosen yet.
    pub(super) number: u16,
    /// The user chose it, so that no other is taken in its place.
    pub(super) fixed: bool,
}

/// What is stored of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Config {
    pub(super) cpu_count: u32,
    pub(super) memory_mib: u64,
    pub(super) disk_mib: u64,
    /// `None`: the image in the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kernel: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) initrd: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) append: Option<String>,
    pub(super) accel: Accel,
    pub(super) ssh_user: String,
    pub(super) stop_timeout_s: u64,
    pub(super) ssh_port: Port,
    pub(super) engine_port: Port,
    /// Keys of a newer version, kept as they are.
    #[serde(flatten)]
    pub(super) other: toml::Table,
}

/// Where the base image comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    File(PathBuf),
    #[serde(rename_all = "kebab-case")]
    Url {
        url: Url,
        #[serde(skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
}

impl Config {
    /// From the flags of `berth create`.
    pub(super) fn from_flags(values: &FlagValues) -> Result<Self, DriverError> {
        let flags = flags();
        options::refuse_unknown(super::KIND, &flags, values)?;
        let text = |name| options::text(&flags, values, name);
        let ssh_user = text("qemu-ssh-user").unwrap_or_default();
        options::user_name(&ssh_user, "qemu-ssh-user")?;
        let (kernel, initrd) =
            (absolute(text("qemu-kernel"), "qemu-kernel")?, absolute(text("qemu-initrd"), "qemu-initrd")?);
        let append = text("qemu-append");
        if kernel.is_none() && initrd.is_some() {
            return Err(DriverError::usage("--qemu-initrd needs --qemu-kernel"));
        }
        let config = Self {
            cpu_count: in_range(
                "qemu-cpu-count",
                options::parsed(&flags, values, "qemu-cpu-count")?.unwrap_or(2),
                1,
                255,
            )? as u32,
            memory_mib: in_range("qemu-memory", mib(&flags, values, "qemu-memory")?, 64, 16 << 20)?,
            disk_mib: in_range("qemu-disk-size", mib(&flags, values, "qemu-disk-size")?, 1, 64 << 20)?,
            image: source(text("qemu-image"), text("qemu-image-checksum"))?,
            kernel,
            initrd,
            append,
            accel: accel(&text("qemu-accel").unwrap_or_default())?,
            ssh_user,
            stop_timeout_s: in_range(
                "qemu-stop-timeout",
                options::parsed(&flags, values, "qemu-stop-timeout")?.unwrap_or(60),
                0,
                3600,
            )?,
            ssh_port: port(options::port(&flags, values, "qemu-ssh-port")?),
            engine_port: port(options::port(&flags, values, "qemu-engine-port")?),
            other: toml::Table::new(),
        };
        if config.ssh_port.fixed && config.ssh_port == config.engine_port {
            return Err(DriverError::usage("--qemu-ssh-port and --qemu-engine-port are the same port"));
        }
        Ok(config)
    }
}

impl Config {
    /// The same with what `berth resize` was given; whether the disk may have that size is not looked at.
    pub(super) fn resized(&self, wanted: &Resize) -> Result<Self, DriverError> {
        let mut config = self.clone();
        let wrong =
            |flag: &str, text: &str| DriverError::usage(format!("invalid value `{text}` for --{flag}"));
        if let Some(text) = &wanted.cpus {
            let cpus = text.parse().map_err(|_| wrong("cpus", text))?;
            config.cpu_count = in_range("cpus", cpus, 1, 255)? as u32;
        }
        if let Some(text) = &wanted.memory {
            let memory = parse_mib(text).ok_or_else(|| wrong("memory", text))?;
            config.memory_mib = in_range("memory", memory, 64, 16 << 20)?;
        }
        if let Some(text) = &wanted.disk {
            let disk = parse_mib(text).ok_or_else(|| wrong("disk", text))?;
            config.disk_mib = in_range("disk", disk, 1, 64 << 20)?;
        }
        Ok(config)
    }
}

fn port(given: Option<u16>) -> Port {
    Port { number: given.unwrap_or(0), fixed: given.is_some() }
}

fn absolute(path: Option<String>, flag: &str) -> Result<Option<PathBuf>, DriverError> {
    let wrong = |e| DriverError::usage(format!("invalid value for --{flag}")).because(e);
    path.map(std::path::absolute).transpose().map_err(wrong)
}

fn in_range(flag: &str, value: u64, min: u64, max: u64) -> Result<u64, DriverError> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(DriverError::usage(format!("invalid value `{value}` for --{flag}: it goes from {min} to {max}")))
}

fn accel(text: &str) -> Result<Accel, DriverError> {
    [Accel::Auto, Accel::Kvm, Accel::Hvf, Accel::Tcg].into_iter().find(|a| a.name() == text).ok_or_else(
        || {
            DriverError::usage(format!("invalid value `{text}` for --qemu-accel"))
                .hint("it takes auto, kvm, hvf or tcg")
        },
    )
}

fn mib(flags: &[Flag], values: &FlagValues, name: &str) -> Result<u64, DriverError> {
    let text = options::text(flags, values, name).unwrap_or_default();
    parse_mib(&text).ok_or_else(|| {
        DriverError::usage(format!("invalid value `{text}` for --{name}"))
            .hint("it takes MiB, or a number with M, G or T: 4G")
    })
}

/// MiB from `2048`, `2048M`, `2G`, `2GiB`, `1T`.
fn parse_mib(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1 << 10,
        "t" | "tb" | "tib" => 1 << 20,
        _ => return None,
    };
    u64::from_str(number).ok()?.checked_mul(factor)
}

fn source(image: Option<String>, checksum: Option<String>) -> Result<Option<Source>, DriverError> {
    let checksum = checksum.map(|text| sha256(&text)).transpose()?;
    let Some(image) = image else {
        return match checksum {
            Some(_) => Err(DriverError::usage("--qemu-image-checksum needs --qemu-image")),
            None => Ok(None),
        };
    };
    if !image.contains("://") {
        if checksum.is_some() {
            return Err(DriverError::usage("--qemu-image-checksum goes with a URL: a file is used as it is"));
        }
        return Ok(absolute(Some(image), "qemu-image")?.map(Source::File));
    }
    let mut url = Url::parse(&image)
        .map_err(|e| DriverError::usage(format!("invalid value `{image}` for --qemu-image")).because(e))?;
    let sha256 = match url.fragment() {
        Some(fragment) => Some(sha256(fragment)?),
        None => checksum,
    };
    url.set_fragment(None);
    match url.scheme() {
        "https" => {}
        "http" if sha256.is_some() => {}
        "http" => {
            return Err(DriverError::usage(format!("will not trust {url}: plain http and no checksum"))
                .hint("add #sha256:<hex> to the URL, or use https"));
        }
        other => {
            return Err(DriverError::usage(format!(
                "invalid value `{image}` for --qemu-image: no `{other}` URLs, https only"
            )));
        }
    }
    Ok(Some(Source::Url { url, sha256 }))
}

/// The hex of `sha256:<hex>`.
fn sha256(text: &str) -> Result<String, DriverError> {
    let hex = text.strip_prefix("sha256:").unwrap_or_default().to_ascii_lowercase();
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(hex);
    }
    Err(DriverError::usage(format!("invalid checksum `{text}`"))
        .hint("it is sha256: and 64 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::ErrorKind;

    fn with(values: &[(&str, &str)]) -> Result<Config, DriverError> {
        Config::from_flags(&values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn sizes_are_mib_or_carry_a_suffix() {
        for (text, mib) in [
            ("2048", Some(2048)),
            ("2G", Some(2048)),
            ("1tib", Some(1 << 20)),
            ("", None),
            ("2K", None),
            ("-1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_mib(text), mib, "{text:?}");
        }
    }

    #[test]
    fn wrong_values_are_usage_errors_that_name_the_flag() {
        let hash = "0".repeat(64);
        for (flag, value) in [
            ("qemu-cpu-count", "0"),
            ("qemu-cpu-count", "x"),
            ("qemu-memory", "1"),
            ("qemu-disk-size", "big"),
            ("qemu-accel", "xen"),
            ("qemu-ssh-port", "0"),
            ("qemu-ssh-port", "65536"),
            ("qemu-ssh-user", "Bad User"),
            ("qemu-image", "ftp://x/y"),
        ] {
            let error = with(&[(flag, value)]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Usage, "{flag}={value}");
            assert!(error.what.contains(flag), "{flag}={value}: {error}");
        }
        assert!(with(&[("qemu-image", "http://x/y")]).unwrap_err().what.contains("plain http"));
        assert!(with(&[("qemu-image", &format!("http://x/y#sha256:{hash}"))]).is_ok());
        assert!(
            with(&[("qemu-image", "https://x/y#sha256:12")]).unwrap_err().what.contains("invalid checksum")
        );
    }

    #[test]
    fn the_configuration_survives_storage_with_keys_of_a_newer_version() {
        let url = format!("https://x/y.img#sha256:{}", "a".repeat(64));
        let mut config =
            with(&[("qemu-image", &url), ("qemu-ssh-port", "2200"), ("qemu-append", "quiet")]).unwrap();
        config.other.insert("from-the-future".into(), toml::Value::Integer(7));
        let text = options::to_table(&config).to_string();
        let again: Config = options::from_table("qemu", &text.parse().unwrap()).unwrap();
        assert_eq!(again, config);
    }
}
