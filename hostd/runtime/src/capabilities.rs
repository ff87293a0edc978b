//! Capability sets (capabilities(7)): Docker's default set, and what `--cap-add` and `--cap-drop` make of it.

use std::fs;

/// Capability names in the kernel's order: the index is the capability's number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets unless told otherwise (Docker Engine's default set).
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities: bit N stands for capability number N.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CapSet(pub u64);

impl CapSet {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// Every capability that both the running kernel and we know.
    pub fn all() -> Self {
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .unwrap_or(NAMES.len() as u32 - 1)
            .min(NAMES.len() as u32 - 1);
        Self((1 << (last + 1)) - 1)
    }

    /// The set of a container: Docker's default, or all of them when `privileged`, with `add` and `drop`.
    ///
    /// A name may lack its `CAP_` and be in any case; `ALL` stands for every one. A capability that is both
    /// added and dropped is there, as with Docker, unless what is added is only `ALL`.
    ///
    /// # Errors
    /// Names the capability that does not exist.
    pub fn for_container(privileged: bool, add: &[String], drop: &[String]) -> Result<Self, String> {
        let all = Self::all();
        let (added, add_all) = parse(add).map_err(|error| format!("invalid CapAdd: {error}"))?;
        let (dropped, drop_all) = parse(drop).map_err(|error| format!("invalid CapDrop: {error}"))?;
        if privileged {
            return Ok(all);
        }

        let base = if drop_all { Self::EMPTY } else { Self::of(&DEFAULT) };
        let set = if add_all { (all.0 & !dropped.0) | added.0 } else { (base.0 & !dropped.0) | added.0 };
        Ok(Self(set & all.0))
    }

    /// Whether capability `name` (with or without `CAP_`) is in the set.
    pub fn has(self, name: &str) -> bool {
        number(name).is_some_and(|bit| self.0 & (1 << bit) != 0)
    }

    /// Their names, `CAP_CHOWN` and so on.
    pub(crate) fn names(self) -> Vec<String> {
        let set = NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        set.map(|(_, name)| format!("CAP_{name}")).collect()
    }

    fn of(names: &[&str]) -> Self {
        Self(names.iter().filter_map(|name| number(name)).fold(0, |set, bit| set | 1 << bit))
    }
}

/// Number of the capability called `name`.
fn number(name: &str) -> Option<usize> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare)
}

/// A name as Docker spells it.
fn spelled(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// The capabilities named, and whether `ALL` was among the names.
fn parse(names: &[String]) -> Result<(CapSet, bool), String> {
    let (mut set, mut all) = (0, false);
    for name in names {
        if matches!(name.to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL") {
            all = true;
        } else {
            let bit = number(name).ok_or_else(|| format!("unknown capability: {:?}", spelled(name)))?;
            set |= 1 << bit;
        }
    }
    Ok((CapSet(set), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> CapSet {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        CapSet::for_container(false, &owned(add), &owned(drop)).unwrap()
    }

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(set(&[], &[]).0, 0xa804_25fb);
    }

    #[test]
    fn adding_and_dropping_follow_docker() {
        assert!(set(&["NET_ADMIN"], &[]).has("CAP_NET_ADMIN"));
        assert!(!set(&[], &["net_raw"]).has("NET_RAW"));
        assert_eq!(set(&["CAP_CHOWN"], &["ALL"]).0, 1);
        assert!(!set(&["ALL"], &["SYS_ADMIN"]).has("SYS_ADMIN"));
        assert!(set(&["ALL"], &["SYS_ADMIN"]).has("SYS_TIME"));
    }

    #[test]
    fn an_unknown_capability_is_named() {
        let odd = ["net_adnim".to_owned()];
        let error = CapSet::for_container(false, &odd, &[]).unwrap_err();
        assert_eq!(error, "invalid CapAdd: unknown capability: \"CAP_NET_ADNIM\"");
        let error = CapSet::for_container(true, &[], &odd).unwrap_err();
        assert_eq!(error, "invalid CapDrop: unknown capability: \"CAP_NET_ADNIM\"");
    }

    #[test]
    fn privileged_is_everything_the_kernel_has() {
        assert_eq!(CapSet::for_container(true, &[], &["ALL".to_owned()]).unwrap(), CapSet::all());
    }
}
