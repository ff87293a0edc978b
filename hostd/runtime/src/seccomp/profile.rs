//! Seccomp profiles in Docker's JSON format, which is also how the default profile is written down here.

use super::SeccompError;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// How many rules a profile may have, those counted that one with several conditions on an argument stands for: a
/// program that is short enough for the kernel has fewer.
const MOST_RULES: usize = 4096;
/// How many names a rule may have: no architecture has as many calls.
const MOST_NAMES: usize = 1024;
/// How many conditions a rule may have.
const MOST_ARGS: usize = 1024;

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
    pub(super) own_names: Arc<[String]>,
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
    /// Architectures that programs may use besides the native one, as `SCMP_ARCH_X86`; `None`: all that it runs.
    pub(super) architectures: Option<Vec<String>>,
}

impl Profile {
    /// Whether programs may use the architecture `name`, which is not the native one.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.architectures.as_ref().is_none_or(|own| own.iter().any(|own| own == name))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireProfile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default, deserialize_with = "bounded::<_, _, MOST_RULES>")]
    syscalls: Option<Vec<WireRule>>,
    listener_path: Option<String>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<WireArchitecture>>,
    flags: Option<Vec<String>>,
}

/// An architecture, and those that its machines run too.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireArchitecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRule {
    name: Option<String>,
    #[serde(default, deserialize_with = "bounded::<_, _, MOST_NAMES>")]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default, deserialize_with = "bounded::<_, _, MOST_ARGS>")]
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

/// A list, or null, of no more than so many: what a client sends may not take more memory than its text many times over.
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    from: D,
) -> Result<Option<Vec<T>>, D::Error> {
    struct List<T, const MOST: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
        type Value = Option<Vec<T>>;
        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(out, "a list of at most {MOST}")
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == MOST {
                    return Err(Error::invalid_length(MOST + 1, &self));
                }
                list.push(item);
            }
            Ok(Some(list))
        }
    }
    from.deserialize_any(List::<T, MOST>(PhantomData))
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
        // All threads get the filter anyway: there is but one.
        let harmless = "SECCOMP_FILTER_FLAG_TSYNC";
        if let Some(flag) = wire.flags.unwrap_or_default().into_iter().find(|flag| flag != harmless) {
            return Err(SeccompError::Unsupported(format!("flag {flag}")));
        }
        let architectures = architectures(wire.architectures, wire.arch_map)?;
        let default = Action::parse(&wire.default_action, wire.default_errno_ret)?;
        let mut rules = Vec::new();
        for rule in wire.syscalls.unwrap_or_default() {
            rules.extend(Rule::from_wire(rule)?.by_condition());
            if rules.len() > MOST_RULES {
                return Err(SeccompError::Invalid(format!("it has more than {MOST_RULES} rules")));
            }
        }
        Ok(Self { default, rules, architectures: Some(architectures) })
    }
}

/// Those of either list, of which there may be one.
fn architectures(
    plain: Option<Vec<String>>,
    map: Option<Vec<WireArchitecture>>,
) -> Result<Vec<String>, SeccompError> {
    let (plain, map) = (plain.unwrap_or_default(), map.unwrap_or_default());
    if !plain.is_empty() && !map.is_empty() {
        let both = "both 'architectures' and 'archMap' are specified, use either";
        return Err(SeccompError::Invalid(both.to_owned()));
    }
    let native = map.into_iter().find(|own| own.architecture == super::NATIVE);
    Ok(native.map_or(plain, |native| native.sub_architectures.unwrap_or_default()))
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
            own_names: own_names.into(),
            action: Action::parse(&wire.action, wire.errno_ret)?,
            args,
            includes: wire.includes.unwrap_or_default().checked()?,
            excludes: wire.excludes.unwrap_or_default().checked()?,
        })
    }

    /// The rule itself; or one for each condition where two are about the same argument: then any of them is enough, as
    /// with runc.
    fn by_condition(self) -> Vec<Self> {
        let repeated = |at: usize| self.args[..at].iter().any(|other| other.index == self.args[at].index);
        if !(1..self.args.len()).any(repeated) {
            return vec![self];
        }
        self.args.iter().map(|arg| Self { args: vec![*arg], ..self.clone() }).collect()
    }
}
