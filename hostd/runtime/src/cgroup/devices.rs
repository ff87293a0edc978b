//! Which devices a container may use: Docker's default rules, its own devices, and the user's rules.
//!
//! cgroup v1 takes rules as text; v2 takes a BPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`, which is
//! assembled here.

use super::{CgroupError, Result};
use crate::spec::Device;
use serde_json::{Value, json};
use std::fmt;

/// Kind of a device file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Char,
    Block,
}

/// Lets through what matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    kind: Kind,
    /// `None` is every one.
    major: Option<u32>,
    minor: Option<u32>,
    read: bool,
    write: bool,
    mknod: bool,
}

/// All rules of a container.
#[derive(Debug)]
pub(super) enum Rules {
    /// Every device: a privileged container.
    All,
    /// Nothing but these.
    Only(Vec<Rule>),
}

/// mknod of anything (it cannot be opened), and the devices that every container has: null, zero, full,
/// random, urandom, tty, console, ptmx and pseudo terminals.
const DEFAULT: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

impl Rules {
    /// The rules of a container with these devices and `--device-cgroup-rule`s.
    pub(super) fn of(privileged: bool, devices: &[Device], own: &[String]) -> Result<Self> {
        if privileged {
            return Ok(Self::All);
        }
        let mut rules = DEFAULT.iter().map(|text| Rule::parse(text)).collect::<Result<Vec<_>>>()?;
        rules.extend(devices.iter().filter_map(Rule::for_device));
        for text in own {
            rules.extend(Rule::parse(text)?.by_kind());
        }
        Ok(Self::Only(rules))
    }
}

/// The rules as systemd takes them: devices by number, or the names that the kernel has for whole drivers.
pub(super) fn for_systemd(rules: &[Rule], proc_devices: &str) -> Vec<(String, String)> {
    let mut allowed = Vec::new();
    for rule in rules {
        let access = rule.letters();
        let kinds: &[Kind] = if rule.kind == Kind::Any {
            &[Kind::Char, Kind::Block]
        } else {
            std::slice::from_ref(&rule.kind)
        };
        for kind in kinds {
            let name = if *kind == Kind::Block { "block" } else { "char" };
            match (rule.major, rule.minor) {
                (Some(major), Some(minor)) => {
                    allowed.push((format!("/dev/{name}/{major}:{minor}"), access.clone()));
                }
                (Some(major), None) => {
                    let drivers = drivers(proc_devices, *kind, major);
                    allowed.extend(drivers.map(|driver| (format!("{name}-{driver}"), access.clone())));
                }
                // A minor number of every driver cannot be said; the files of the cgroup still allow it.
                (None, _) => allowed.push((format!("{name}-*"), access.clone())),
            }
        }
    }
    allowed
}

/// Drivers of a major number, from `/proc/devices`: two sections of lines of a number and a name.
fn drivers(text: &str, kind: Kind, major: u32) -> impl Iterator<Item = &str> {
    let title = if kind == Kind::Block { "Block devices:" } else { "Character devices:" };
    let section = text.lines().skip_while(move |line| *line != title).skip(1);
    section.take_while(|line| !line.is_empty()).filter_map(move |line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then_some(name)
    })
}

impl Rule {
    /// `c 1:3 rwm`, as devices.allow has it.
    fn parse(text: &str) -> Result<Self> {
        Self::try_parse(text).ok_or_else(|| CgroupError::DeviceRule(text.to_owned()))
    }

    fn try_parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let kind = match parts.next()? {
            "a" => Kind::Any,
            "b" => Kind::Block,
            "c" => Kind::Char,
            _ => return None,
        };
        let (major, minor) = parts.next()?.split_once(':')?;
        let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
        let access = parts.next()?;
        if parts.next().is_some() || access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
            return None;
        }
        Some(Self { kind, major: number(major)?, minor: number(minor)?, ..Self::access(access) })
    }

    /// Of one for both kinds one for each: whatever else a rule of both says, v1 takes it for all devices.
    fn by_kind(self) -> Vec<Self> {
        match self.kind {
            Kind::Any => [Kind::Block, Kind::Char].map(|kind| Self { kind, ..self }).into(),
            _ => vec![self],
        }
    }

    fn access(text: &str) -> Self {
        let has = |c| text.contains(c);
        Self { kind: Kind::Any, major: None, minor: None, read: has('r'), write: has('w'), mknod: has('m') }
    }

    /// The rule for a device that was looked up.
    fn for_device(device: &Device) -> Option<Self> {
        let node = device.node?;
        let kind = if node.block { Kind::Block } else { Kind::Char };
        Some(Self {
            kind,
            major: Some(node.major),
            minor: Some(node.minor),
            ..Self::access(&device.permissions)
        })
    }
}

/// The rules as `linux.resources.devices` of the OCI runtime specification has them.
pub(crate) fn oci(privileged: bool, devices: &[Device], own: &[String]) -> Result<Vec<Value>> {
    Ok(match Rules::of(privileged, devices, own)? {
        Rules::All => vec![json!({ "allow": true, "access": "rwm" })],
        Rules::Only(rules) => {
            let nothing = json!({ "allow": false, "access": "rwm" });
            std::iter::once(nothing).chain(rules.iter().map(Rule::oci)).collect()
        }
    })
}

impl Rule {
    fn oci(&self) -> Value {
        let kind = match self.kind {
            Kind::Any => "a",
            Kind::Char => "c",
            Kind::Block => "b",
        };
        let mut rule = json!({ "allow": true, "type": kind, "access": self.letters() });
        // A number that is missing is every one.
        for (name, number) in [("major", self.major), ("minor", self.minor)] {
            if let Some(number) = number {
                rule[name] = json!(number);
            }
        }
        rule
    }

    /// `rwm`, as far as it goes.
    fn letters(&self) -> String {
        let all = [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')];
        all.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Any => 'a',
            Kind::Char => 'c',
            Kind::Block => 'b',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(out, "{kind} {}:{} {}", number(self.major), number(self.minor), self.letters())
    }
}

/// One eBPF instruction (`struct bpf_insn`, linux/bpf.h).
fn insn(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> [u8; 8] {
    let mut bytes = [code, src << 4 | dst, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&imm.to_ne_bytes());
    bytes
}

const LDX_W: u8 = 0x61;
const MOV_K: u8 = 0xb7;
const MOV_X: u8 = 0xbf;
const AND_K: u8 = 0x57;
const RSH_K: u8 = 0x77;
const JNE_K: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The filter: returns 1 where a rule allows all that is asked for, else 0.
///
/// Its context is `struct bpf_cgroup_dev_ctx`: access (mknod 1, read 2, write 4) and type (block 1, char 2) in
/// one word, then major, then minor.
pub(super) fn program(rules: &[Rule]) -> Vec<u8> {
    let mut code = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(MOV_X, 3, 2, 0, 0),
        insn(AND_K, 3, 0, 0, 0xffff), // r3: type
        insn(RSH_K, 2, 0, 0, 16),     // r2: access
        insn(LDX_W, 4, 1, 4, 0),      // r4: major
        insn(LDX_W, 5, 1, 8, 0),      // r5: minor
    ];
    for rule in rules {
        code.extend(rule_code(rule));
    }
    code.extend([insn(MOV_K, 0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)]);
    code.concat()
}

fn rule_code(rule: &Rule) -> Vec<[u8; 8]> {
    let allowed = i32::from(rule.mknod) | i32::from(rule.read) << 1 | i32::from(rule.write) << 2;
    // Each test names the register that must equal a number; the jump goes behind the rule.
    let mut tests = Vec::new();
    match rule.kind {
        Kind::Any => {}
        Kind::Block => tests.push((3, 1)),
        Kind::Char => tests.push((3, 2)),
    }
    tests.extend(rule.major.map(|major| (4, major as i32)));
    tests.extend(rule.minor.map(|minor| (5, minor as i32)));
    let mut code = vec![insn(MOV_X, 6, 2, 0, 0), insn(AND_K, 6, 0, 0, !allowed & 7)];
    tests.push((6, 0));
    for (at, (register, value)) in tests.iter().enumerate() {
        let behind = tests.len() - at - 1 + 2;
        code.push(insn(JNE_K, *register, 0, behind as i16, *value));
    }
    code.extend([insn(MOV_K, 0, 0, 0, 1), insn(EXIT, 0, 0, 0, 0)]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written_in_the_kernels_form() {
        for text in ["c 1:3 rwm", "b *:* m", "a *:* rw", "c 136:* r"] {
            assert_eq!(Rule::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "c", "x 1:3 r", "c 1 r", "c 1:3 q", "c 1:3 ", "c 1:3 r w", "c a:3 r"] {
            assert!(Rule::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_rule_for_both_kinds_is_not_one_for_all_devices() {
        let Rules::Only(rules) = Rules::of(false, &[], &["a 1:3 r".to_owned()]).unwrap() else { panic!() };
        let rules: Vec<_> = rules[DEFAULT.len()..].iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["b 1:3 r", "c 1:3 r"]);
    }

    #[test]
    fn systemd_is_told_of_drivers_by_name() {
        let proc = "Character devices:\n  5 /dev/tty\n  5 /dev/console\n136 pts\n\nBlock devices:\n  8 sd\n136 odd\n";
        let rules: Vec<_> = ["c *:* m", "c 1:3 rwm", "c 136:* rw", "b 8:* r", "a 5:* w"]
            .iter()
            .map(|t| Rule::parse(t).unwrap())
            .collect();
        let got = for_systemd(&rules, proc);
        let got: Vec<_> = got.iter().map(|(device, access)| format!("{device} {access}")).collect();
        let expected = [
            "char-* m",
            "/dev/char/1:3 rwm",
            "char-pts rw",
            "block-sd r",
            "char-/dev/tty w",
            "char-/dev/console w",
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn the_kernel_takes_the_filter() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let Rules::Only(rules) = Rules::of(false, &[], &["b 8:* rw".to_owned()]).unwrap() else { panic!() };
        match hostd_sys::bpf::load_device_filter(&program(&rules)) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(1) => {
                eprintln!("skipped: bpf(2) is not permitted here")
            }
            Err(error) => panic!("the verifier refuses it: {error}"),
        }
    }
}
