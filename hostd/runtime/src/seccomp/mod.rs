//! System call filters: profiles in Docker's format, compiled to BPF once and cached.
//!
//! A profile depends on the container's capabilities, on the architecture and on the kernel. The program
//! covers the native architecture and, where the profile has it, its 32-bit sibling; x32 calls on x86-64 fail with ENOSYS
//! (Docker lets them through, but nothing that is built today uses them and they have been a way around filters), and
//! calls by any other architecture kill the process, as with libseccomp. Calls that are younger than all that a profile
//! names fail with ENOSYS, as with runc: libraries then do without.

mod bpf;
mod default;
mod oci;
mod profile;

use crate::capabilities::CapSet;
use crate::spec::Seccomp;
use bpf::{Insn, JEQ, JGE, LD, OFFSET_ARCH, OFFSET_NR, RET, plain};
pub(crate) use oci::oci;
use profile::{Action, Condition, Profile, Rule, kernel_version};
use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Not JSON, or not of a profile's shape.
    #[error("cannot read the seccomp profile")]
    Json(#[source] serde_json::Error),
    /// Of the right shape, but without sense.
    #[error("invalid seccomp profile: {0}")]
    Invalid(String),
    /// A feature of profiles that is not honoured.
    #[error("seccomp profile: {0} is not supported")]
    Unsupported(String),
}

/// Longest program that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSNS: usize = 4096;
/// How many compiled programs are remembered: a daemon sees few combinations of profile and capabilities.
const CACHED: usize = 64;
/// Longest text of a profile whose program is remembered.
const LONGEST_CACHED: usize = 128 << 10;

type Cache = HashMap<(Seccomp, CapSet), Arc<[u8]>>;
static CACHE: Mutex<Option<Cache>> = Mutex::new(None);

/// The compiled filter for a container with these capabilities, as an array of `struct sock_filter` in
/// native byte order; `None` for an unconfined one.
///
/// # Errors
/// The profile is malformed or asks for what is not supported.
pub fn program(seccomp: &Seccomp, caps: CapSet) -> Result<Option<Arc<[u8]>>, SeccompError> {
    if *seccomp == Seccomp::Unconfined {
        return Ok(None);
    }
    let key = (seccomp.clone(), caps);
    if let Some(known) =
        CACHE.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|c| c.get(&key))
    {
        return Ok(Some(Arc::clone(known)));
    }
    let profile = match seccomp {
        Seccomp::Default => default::profile(),
        Seccomp::Profile(text) => Profile::from_json(text)?,
        Seccomp::Unconfined => return Ok(None),
    };
    let program: Arc<[u8]> = bytes(&compile(&profile, caps)?).into();
    if matches!(seccomp, Seccomp::Profile(text) if text.len() > LONGEST_CACHED) {
        return Ok(Some(program));
    }
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let cache = cache.get_or_insert_default();
    if cache.len() >= CACHED {
        cache.clear();
    }
    cache.insert(key, Arc::clone(&program));
    Ok(Some(program))
}

/// One architecture that programs on this machine may use.
struct Architecture {
    /// `SCMP_ARCH_*`.
    name: &'static str,
    /// `AUDIT_ARCH_*` (linux/audit.h).
    audit: u32,
    /// The number of a system call; `None` where it does not exist.
    number: fn(&str) -> Option<u32>,
}

macro_rules! numbers {
    ($module:ident) => {
        |name| syscalls::$module::Sysno::from_str(name).ok().map(|call| call.id() as u32)
    };
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: NATIVE, audit: 0xc000_003e, number: numbers!(x86_64) },
    Architecture { name: "SCMP_ARCH_X86", audit: 0x4000_0003, number: numbers!(x86) },
];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: NATIVE, audit: 0xc000_00b7, number: numbers!(aarch64) },
    Architecture { name: "SCMP_ARCH_ARM", audit: 0x4000_0028, number: numbers!(arm) },
];
/// The architecture of this machine.
const NATIVE: &str = if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" };
/// How Docker's profiles call this architecture.
const DOCKER_ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
const ENOSYS: u16 = libc::ENOSYS as u16;
/// First number of the x32 calls.
const X32: u32 = 0x4000_0000;

/// Whether a rule is there for these capabilities, this architecture and this kernel.
fn applies(rule: &Rule, caps: CapSet, kernel: (u32, u32)) -> bool {
    let arch = |condition: &Condition| condition.arches.iter().any(|arch| arch == DOCKER_ARCHITECTURE);
    let (includes, excludes) = (&rule.includes, &rule.excludes);
    includes.caps.iter().all(|cap| caps.has(cap))
        && (includes.arches.is_empty() || arch(includes))
        && includes.min_kernel.is_none_or(|least| kernel >= least)
        && !excludes.caps.iter().any(|cap| caps.has(cap))
        && !arch(excludes)
        && excludes.min_kernel.is_none_or(|least| kernel < least)
}

fn compile(profile: &Profile, caps: CapSet) -> Result<Vec<Insn>, SeccompError> {
    let release = rustix::system::uname();
    let kernel = kernel_version(&release.release().to_string_lossy()).unwrap_or((4, 18));
    // A rule with the default's action changes nothing where no other rule is about the same call.
    let rules: Vec<_> = profile
        .rules
        .iter()
        .filter(|rule| rule.action != profile.default && applies(rule, caps, kernel))
        .collect();
    let mut code = vec![plain(LD, OFFSET_ARCH)];
    let covered = |own: &&Architecture| own.name == NATIVE || profile.covers(own.name);
    for architecture in ARCHITECTURES.iter().filter(covered) {
        let body = architecture_code(architecture, &rules, profile.default);
        code.push(Insn { code: JEQ, jt: 1, jf: 0, k: architecture.audit });
        code.push(plain(bpf::JA, body.len() as u32));
        code.extend(body);
    }
    code.push(plain(RET, Action::KillProcess.code()));
    if code.len() > MAX_INSNS {
        return Err(SeccompError::Invalid(format!("it needs {} instructions, over {MAX_INSNS}", code.len())));
    }
    Ok(code)
}

fn architecture_code(architecture: &Architecture, rules: &[&Rule], default: Action) -> Vec<Insn> {
    let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        // A name that this architecture or this table does not know cannot be called by it: skip it, as Docker does.
        for number in rule.names().filter_map(architecture.number) {
            by_number.entry(number).or_default().push(rule);
        }
    }
    let mut code = vec![plain(LD, OFFSET_NR)];
    if cfg!(target_arch = "x86_64") {
        code.push(Insn { code: JGE, jt: 0, jf: 1, k: X32 });
        code.push(plain(RET, Action::Errno(ENOSYS).code()));
    }
    let beyond = match default {
        Action::Allow | Action::Log | Action::Trace(_) => default,
        _ if by_number.is_empty() => default,
        _ => Action::Errno(ENOSYS),
    };
    code.extend(bpf::dispatch(&by_number, default, beyond));
    code
}

fn bytes(code: &[Insn]) -> Vec<u8> {
    let mut out = Vec::with_capacity(code.len() * 8);
    for insn in code {
        out.extend(insn.code.to_ne_bytes());
        out.extend([insn.jt, insn.jf]);
        out.extend(insn.k.to_ne_bytes());
    }
    out
}

#[cfg(test)]
mod tests;
