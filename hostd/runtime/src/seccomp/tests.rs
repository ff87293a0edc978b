//! The compiled programs, run by a small interpreter of the instructions that we emit.

use super::bpf::{AND, JA, JEQ, JGE, JGT, LD, RET};
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS_CODE: u32 = 0x0005_0026;

/// What the filter says to a call.
fn run(code: &[Insn], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        16.. => {
            let arg = args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
        _ => panic!("unexpected offset {offset}"),
    };
    let (mut at, mut acc) = (0, 0);
    loop {
        let insn = code[at];
        at += 1;
        let mut branch = |yes: bool| at += usize::from(if yes { insn.jt } else { insn.jf });
        match insn.code {
            LD => acc = word(insn.k),
            AND => acc &= insn.k,
            JA => at += insn.k as usize,
            JEQ => branch(acc == insn.k),
            JGT => branch(acc > insn.k),
            JGE => branch(acc >= insn.k),
            RET => return insn.k,
            other => panic!("unexpected instruction {other:#x}"),
        }
    }
}

fn default_code(add: &[&str]) -> Vec<Insn> {
    let add: Vec<_> = add.iter().map(|cap| (*cap).to_owned()).collect();
    compile(&default::profile(), CapSet::for_container(false, &add, &[]).unwrap()).unwrap()
}

fn x86_64(name: &str) -> u32 {
    syscalls::x86_64::Sysno::from_str(name).unwrap().id() as u32
}

fn call(code: &[Insn], name: &str, arg0: u64) -> u32 {
    run(code, X86_64, x86_64(name), [arg0, 0, 0, 0, 0, 0])
}

#[test]
fn every_call_gets_what_a_plain_reading_of_the_profile_gives() {
    let code = default_code(&[]);
    let profile = default::profile();
    let caps = CapSet::for_container(false, &[], &[]).unwrap();
    let named = |rule: &Rule| rule.names().filter_map(ARCHITECTURES[0].number).max();
    let last =
        profile.rules.iter().filter(|rule| applies(rule, caps, (6, 0))).filter_map(named).max().unwrap();
    for number in 0..600 {
        let Some(call) = syscalls::x86_64::Sysno::new(number) else {
            let expected = if number as u32 > last { ENOSYS_CODE } else { EPERM };
            assert_eq!(run(&code, X86_64, number as u32, [0; 6]), expected, "unassigned {number}");
            continue;
        };
        let allowed = profile.rules.iter().any(|rule| {
            rule.args.is_empty()
                && rule.action == Action::Allow
                && applies(rule, caps, (6, 0))
                && rule.names().any(|name| name == call.name())
        });
        if allowed {
            assert_eq!(run(&code, X86_64, number as u32, [u64::MAX; 6]), ALLOW, "{}", call.name());
        }
    }
    for denied in
        ["mount", "unshare", "setns", "bpf", "reboot", "init_module", "keyctl", "io_uring_setup", "swapon"]
    {
        assert_eq!(call(&code, denied, 0), EPERM, "{denied}");
    }
}

#[test]
fn arguments_are_compared_in_all_64_bits() {
    let code = default_code(&[]);
    for (family, expected) in
        [(2, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM), (41, ALLOW), (1 << 32 | 38, ALLOW), (37, ALLOW)]
    {
        assert_eq!(call(&code, "socket", family), expected, "socket({family:#x})");
    }
    for (persona, expected) in [(0, ALLOW), (8, ALLOW), (4, EPERM), (0xffff_ffff, ALLOW), (1 << 32, EPERM)] {
        assert_eq!(call(&code, "personality", persona), expected, "personality({persona:#x})");
    }
}

#[test]
fn clone_may_not_make_namespaces_without_sys_admin() {
    let code = default_code(&[]);
    assert_eq!(call(&code, "clone", 0x11), ALLOW);
    assert_eq!(call(&code, "clone", 0x1000_0000), EPERM, "CLONE_NEWUSER");
    assert_eq!(call(&code, "clone3", 0), ENOSYS_CODE, "so that libc falls back to clone");
    let admin = default_code(&["SYS_ADMIN"]);
    assert_eq!(call(&admin, "clone", 0x1000_0000), ALLOW);
    assert_eq!(call(&admin, "clone3", 0), ALLOW);
    assert_eq!(call(&admin, "mount", 0), ALLOW);
}

#[test]
fn other_architectures_are_not_a_way_around_the_filter() {
    let code = default_code(&[]);
    let i386 = |name: &str| syscalls::x86::Sysno::from_str(name).unwrap().id() as u32;
    assert_eq!(run(&code, I386, i386("read"), [0; 6]), ALLOW);
    assert_eq!(run(&code, I386, i386("mount"), [0; 6]), EPERM);
    assert_eq!(run(&code, X86_64, X32 | x86_64("read"), [0; 6]), ENOSYS_CODE);
    assert_eq!(run(&code, 0x4000_0028, 3, [0; 6]), 0x8000_0000, "arm on x86");
}

#[test]
fn a_profile_of_the_users_own_is_honoured() {
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
        {"name":"chmod","action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":511,"op":"SCMP_CMP_EQ"}]},
        {"names":["no_such_call"],"action":"SCMP_ACT_ERRNO"},
        {"names":["write"],"action":"SCMP_ACT_ERRNO","args":[{"index":2,"value":10,"op":"SCMP_CMP_LE"},
                                                           {"index":0,"value":2,"op":"SCMP_CMP_NE"}]}]}"#;
    let code = compile(&Profile::from_json(text).unwrap(), CapSet::EMPTY).unwrap();
    let go = |name, args| run(&code, X86_64, x86_64(name), args);
    assert_eq!(go("mkdir", [0; 6]), 0x0005_000d);
    assert_eq!(go("chmod", [0, 0o777, 0, 0, 0, 0]), 0x8000_0000);
    assert_eq!(go("chmod", [0, 0o755, 0, 0, 0, 0]), ALLOW);
    assert_eq!(go("write", [1, 0, 10, 0, 0, 0]), EPERM);
    assert_eq!(go("write", [2, 0, 10, 0, 0, 0]), ALLOW);
    assert_eq!(go("write", [1, 0, 11, 0, 0, 0]), ALLOW);
    assert_eq!(go("write", [1, 0, 1 << 40, 0, 0, 0]), ALLOW);
    assert_eq!(go("reboot", [0; 6]), ALLOW);
}

#[test]
fn of_conditions_on_one_argument_any_is_enough() {
    let forbidden = |values: &[u64]| {
        let args: Vec<_> = values
            .iter()
            .map(|value| format!(r#"{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}}"#))
            .collect();
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{}]}}]}}"#,
            args.join(",")
        );
        compile(&Profile::from_json(&text).unwrap(), CapSet::EMPTY).unwrap()
    };
    let code = forbidden(&[16, 2]);
    assert_eq!([16, 2, 1].map(|family| call(&code, "socket", family)), [EPERM, EPERM, ALLOW]);
    // However many there are.
    let code = forbidden(&(0..100).collect::<Vec<_>>());
    assert_eq!([0, 50, 99, 100].map(|family| call(&code, "socket", family)), [EPERM, EPERM, EPERM, ALLOW]);
}

#[test]
fn a_profile_covers_the_architectures_that_it_names() {
    let code = |more: &str| {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW"}}]{more}}}"#
        );
        Profile::from_json(&text).and_then(|profile| compile(&profile, CapSet::EMPTY))
    };
    let reads = |more: &str| {
        let code = code(more).unwrap();
        (run(&code, X86_64, x86_64("read"), [0; 6]), run(&code, I386, 3, [0; 6]))
    };
    const KILL: u32 = 0x8000_0000;
    assert_eq!(reads(""), (ALLOW, KILL), "the native one alone");
    assert_eq!(reads(r#","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"]"#), (ALLOW, ALLOW));
    let map =
        |sub: &str| format!(r#","archMap":[{{"architecture":"SCMP_ARCH_X86_64","subArchitectures":{sub}}}]"#);
    assert_eq!(reads(&map(r#"["SCMP_ARCH_X86","SCMP_ARCH_X32"]"#)), (ALLOW, ALLOW));
    assert_eq!(reads(&map("null")), (ALLOW, KILL));
    let both = format!(r#","architectures":["SCMP_ARCH_X86"]{}"#, map("null"));
    assert!(code(&both).unwrap_err().to_string().contains("use either"));
}

#[test]
fn calls_younger_than_the_profile_are_said_not_to_exist() {
    let code = |default: &str| {
        let text = format!(
            r#"{{"defaultAction":"{default}","syscalls":[{{"names":["read","close_range"],"action":"SCMP_ACT_TRAP"}}]}}"#
        );
        compile(&Profile::from_json(&text).unwrap(), CapSet::EMPTY).unwrap()
    };
    let next = x86_64("close_range") + 1;
    let got = |default: &str| [next, next - 2].map(|number| run(&code(default), X86_64, number, [0; 6]));
    assert_eq!(got("SCMP_ACT_ERRNO"), [ENOSYS_CODE, EPERM]);
    assert_eq!(got("SCMP_ACT_ALLOW"), [ALLOW, ALLOW]);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let refused = |text: &str| match program(&Seccomp::Profile(text.to_owned()), CapSet::EMPTY) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("taken: {text}"),
    };
    assert!(refused(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).contains("SCMP_ACT_NOTIFY"));
    assert!(refused(r#"{"defaultAction":"SCMP_ACT_NOPE"}"#).contains("SCMP_ACT_NOPE"));
    assert!(refused(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#).contains("listenerPath"));
    let flags = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#;
    assert!(refused(flags).contains("flag SECCOMP_FILTER_FLAG_LOG"));
    assert!(refused("{").contains("cannot read"));
}

#[test]
fn programs_are_compiled_once() {
    let one = program(&Seccomp::Default, CapSet(3)).unwrap().unwrap();
    let two = program(&Seccomp::Default, CapSet(3)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&one, &two));
    assert!(one.len() / 8 < MAX_INSNS && one.len().is_multiple_of(8));
    assert!(program(&Seccomp::Unconfined, CapSet::EMPTY).unwrap().is_none());
}

#[test]
fn a_profile_is_no_larger_than_what_the_kernel_could_take() {
    let refusal = |rules: &str| {
        let text = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":{rules}}}"#);
        match program(&Seccomp::Profile(text), CapSet::EMPTY).unwrap_err() {
            SeccompError::Json(error) => error.to_string(),
            other => other.to_string(),
        }
    };
    let rule = |names: &str, args: &str| {
        format!(r#"{{"names":[{names}],"action":"SCMP_ACT_ERRNO","args":[{args}]}}"#)
    };
    let many = |one: &str, count: usize| vec![one; count].join(",");
    let condition = r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"}"#;
    let one = rule("\"read\"", "");
    assert!(refusal(&format!("[{}]", many(&one, 4097))).contains("at most 4096"));
    assert!(refusal(&format!("[{}]", rule(&many("\"read\"", 1025), ""))).contains("at most 1024"));
    assert!(refusal(&format!("[{}]", rule("\"read\"", &many(condition, 1025)))).contains("at most 1024"));
    let alternatives = rule("\"read\"", &many(condition, 1024));
    assert!(refusal(&format!("[{}]", many(&alternatives, 5))).contains("more than 4096 rules"));
}
