//! Seccomp profiles in Docker's JSON format, which is also how the default profile is written down here.

use super::SeccompError;
use serde::Deserialize;
use std::borrow::Cow;

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    Trace(u16),
    Log,
}

impl Action {
    /// The filter's return value (`SECCOMP_RET_*`, seccomp(2)).
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | errno as u32,
            Self::Trace(message) => 0x7ff0_0000 | message as u32,
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    fn parse(name: &str, errno: Option<u16>) -> Result<Self, SeccompError> {
        Ok(match name {
            "SCMP_ACT_ALLOW" => Self::Allow,
            // EPERM unless told otherwise, as with runc.
            "SCMP_ACT_ERRNO" => Self::Errno(errno.unwrap_or(1)),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::KillThread,
            "SCMP_ACT_KILL_PROCESS" => Self::KillProcess,
            "SCMP_ACT_TRAP" => Self::Trap,
            "SCMP_ACT_TRACE" => Self::Trace(errno.unwrap_or(1)),
            "SCMP_ACT_LOG" => Self::Log,
            "SCMP_ACT_NOTIFY" => return Err(SeccompError::Unsupported("action SCMP_ACT_NOTIFY".to_owned())),
            other => return Err(SeccompError::Invalid(format!("unknown action {other:?}"))),
        })
    }
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Op {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    /// `argument & value == value_two`.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

/// A condition on one argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Arg {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: Op,
}

/// When a rule applies (or does not).
#[derive(Clone, Debug, Default)]
pub(super) struct Condition {
    pub(super) caps: Vec<Cow<'static, str>>,
    pub(super) arches: Vec<Cow<'static, str>>,
    pub(super) min_kernel: Option<(u32, u32)>,
}

/// One rule: all its arguments must match.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) names: Cow<'static, [&'static str]>,
    /// Names of a profile that was read; empty for the built-in one.
    pub(super) own_names: Vec<String>,
    pub(super) action: Action,
    pub(super) args: Vec<Arg>,
    pub(super) includes: Condition,
    pub(super) excludes: Condition,
}

impl Rule {
    /// Names of the system calls it is about.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().copied().chain(self.own_names.iter().map(String::as_str))
    }
}

/// A whole profile.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) default: Action,
    pub(super) rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireProfile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Option<Vec<WireRule>>,
    listener_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Arg>>,
    includes: Option<WireCondition>,
    excludes: Option<WireCondition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireCondition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl WireCondition {
    fn checked(self) -> Result<Condition, SeccompError> {
        let owned =
            |list: Option<Vec<String>>| list.unwrap_or_default().into_iter().map(Cow::Owned).collect();
        let min_kernel = match self.min_kernel.filter(|text| !text.is_empty()) {
            Some(text) => Some(
                kernel_version(&text)
                    .ok_or_else(|| SeccompError::Invalid(format!("minKernel {text:?} is no version")))?,
            ),
            None => None,
        };
        Ok(Condition { caps: owned(self.caps), arches: owned(self.arches), min_kernel })
    }
}

/// Major and minor of `6.1.0-18-amd64`.
pub(super) fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Profile {
    /// Reads a profile as `docker run --security-opt seccomp=profile.json` sends it.
    pub(super) fn from_json(text: &str) -> Result<Self, SeccompError> {
        let wire: WireProfile = serde_json::from_str(text).map_err(SeccompError::Json)?;
        if wire.listener_path.is_some_and(|path| !path.is_empty()) {
            return Err(SeccompError::Unsupported("listenerPath".to_owned()));
        }
        let default = Action::parse(&wire.default_action, wire.default_errno_ret)?;
        let rules =
            wire.syscalls.unwrap_or_default().into_iter().map(Rule::from_wire).collect::<Result<_, _>>()?;
        Ok(Self { default, rules })
    }
}

impl Rule {
    fn from_wire(wire: WireRule) -> Result<Self, SeccompError> {
        let own_names: Vec<_> = wire.name.into_iter().chain(wire.names.unwrap_or_default()).collect();
        if own_names.is_empty() {
            return Err(SeccompError::Invalid("a rule names no system call".to_owned()));
        }
        let args = wire.args.unwrap_or_default();
        if let Some(arg) = args.iter().find(|arg| arg.index > 5) {
            return Err(SeccompError::Invalid(format!(
                "argument index {} of {own_names:?} is over 5",
                arg.index
            )));
        }
        Ok(Self {
            names: Cow::Borrowed(&[]),
            own_names,
            action: Action::parse(&wire.action, wire.errno_ret)?,
            args,
            includes: wire.includes.unwrap_or_default().checked()?,
            excludes: wire.excludes.unwrap_or_default().checked()?,
        })
    }
}
