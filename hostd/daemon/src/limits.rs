//! Settings about limits: who makes cgroups, and what containers get that ask for nothing.

use crate::Result;
use crate::failure::Failure;
use crate::settings::Settings;
use hostd_engine::CgroupDriver;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings about limits, checked.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) cgroup_driver: CgroupDriver,
    pub(crate) cgroup_parent: String,
    /// Runtime and period, 0 where not set.
    pub(crate) realtime: (i64, i64),
    /// (name, soft, hard).
    pub(crate) ulimits: Vec<(String, i64, i64)>,
    pub(crate) shm_size: Option<u64>,
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
}

impl Limits {
    pub(crate) fn check(settings: &Settings) -> Result<Self> {
        let cgroup_driver = driver(&settings.exec_opts)?;
        let cgroup_parent = match settings.cgroup_parent.as_deref().filter(|parent| !parent.is_empty()) {
            Some(parent) => {
                cgroup_driver.check_parent(parent).map_err(Failure::new)?;
                parent.to_owned()
            }
            None => cgroup_driver.default_parent().to_owned(),
        };
        let shm_size = settings.default_shm_size.as_deref().map(|text| {
            hostd_engine::parse_size(text).ok_or_else(|| Failure::new(format!("invalid size: '{text}'")))
        });
        Ok(Self {
            cgroup_driver,
            cgroup_parent,
            realtime: (settings.cpu_rt_runtime.unwrap_or(0), settings.cpu_rt_period.unwrap_or(0)),
            ulimits: settings.default_ulimits.iter().map(|text| ulimit(text)).collect::<Result<_>>()?,
            shm_size: shm_size.transpose()?,
            cdi_spec_dirs: cdi_spec_dirs(&settings.cdi_spec_dirs)?,
        })
    }
}

/// That of `native.cgroupdriver`, or what suits the host.
fn driver(options: &[String]) -> Result<CgroupDriver> {
    let mut chosen = None;
    for option in options {
        let invalid = || Failure::new(format!("invalid exec-opt {option}"));
        let (key, value) = option.split_once('=').ok_or_else(invalid)?;
        if !key.trim().eq_ignore_ascii_case("native.cgroupdriver") {
            return Err(invalid());
        }
        chosen = Some(match value.trim() {
            "cgroupfs" => CgroupDriver::Cgroupfs,
            "systemd" => CgroupDriver::Systemd,
            other => {
                return Err(Failure::new(format!("native.cgroupdriver option {other} not supported")));
            }
        });
    }
    Ok(chosen.unwrap_or_else(CgroupDriver::of_host))
}

/// `nofile=1024:2048`; one number is both.
fn ulimit(text: &str) -> Result<(String, i64, i64)> {
    let invalid = || Failure::new(format!("invalid ulimit argument: {text}"));
    let (name, values) = text.split_once('=').ok_or_else(invalid)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| invalid());
    let limit = (name.trim().to_owned(), number(soft)?, number(hard)?);
    hostd_engine::check_ulimit(&limit).map_err(|error| Failure::new(error.message))?;
    Ok(limit)
}

fn cdi_spec_dirs(dirs: &[String]) -> Result<Vec<PathBuf>> {
    if dirs.is_empty() {
        return Ok(["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into());
    }
    let dirs = dirs.iter().filter(|dir| !dir.is_empty()).map(|dir| match dir.starts_with('/') {
        true => Ok(PathBuf::from(dir)),
        false => Err(Failure::new(format!("cdi-spec-dir must be an absolute path, not {dir}"))),
    });
    dirs.collect()
}

/// Of the file, as dockerd has them: `{"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}}`.
pub(crate) fn ulimits<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase", deny_unknown_fields)]
    struct Ulimit {
        #[serde(default)]
        name: Option<String>,
        soft: i64,
        hard: i64,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Map(BTreeMap<String, Ulimit>),
        /// Of the flags.
        List(Vec<String>),
    }
    Ok(match Form::deserialize(from)? {
        Form::List(list) => list,
        Form::Map(map) => map
            .into_iter()
            .map(|(key, limit)| format!("{}={}:{}", limit.name.unwrap_or(key), limit.soft, limit.hard))
            .collect(),
    })
}

/// A number, or a number with a unit.
pub(crate) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(u64),
        Text(String),
    }
    Ok(Option::<Form>::deserialize(from)?.map(|form| match form {
        Form::Number(number) => number.to_string(),
        Form::Text(text) => text,
    }))
}
